"""An object that is being written, as s3torchconnector's users hold it.

Floor 6. Knows what s3torchconnector promises of writers; must not know clients or datasets.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from s3dlio.binary_file import BinaryFile
from s3dlio.errors import ClosedError
from s3dlio.object_writer import ObjectWriter

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer


class PutStream(Protocol):
    """Where a writer's bytes go."""

    def write(self, data: Buffer, /) -> object:
        """Take bytes; the caller may reuse their memory when this returns."""

    def close(self) -> object:
        """Make the object."""


class Upload:
    """An object on its way, which appears when this is closed.

    Args:
        writer: Sends it.
    """

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self.write = writer.write
        self.close = writer.finalize
        self.cancel = writer.cancel

    def __repr__(self) -> str:
        """Show the address."""
        return f"Upload({self._writer.uri!r})"


class S3Writer(BinaryFile):
    """An object that is being written. It appears when this is closed, and not when a ``with`` block raises.

    It belongs to one thread at a time; closing it from many closes it once.

    Args:
        stream: Where the bytes go.
    """

    def __init__(self, stream: PutStream) -> None:
        super().__init__()
        self.stream = stream
        self._position = 0
        self._closing = threading.Lock()

    def write(self, data: Buffer, /) -> int:
        """Write bytes; the caller may reuse their memory when this returns.

        Raises:
            ClosedError: The writer is closed.
            StoreError: An earlier part could not be sent; nothing of the object is left.
        """
        if self.closed:
            msg = f"the writer is closed: {self.stream!r}"
            raise ClosedError(msg, operation="write")
        self.stream.write(data)
        length = memoryview(data).nbytes
        self._position += length
        return length

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._position

    def flush(self) -> None:
        """Do nothing: parts are sent when they are full, and the rest at the end."""

    def writable(self) -> bool:
        """Tell whether it can be written."""
        return not self.closed

    def close(self) -> None:
        """Make the object.

        Raises:
            StoreError: It could not be written; nothing of it is left.
        """
        with self._closing:
            if not self.closed:
                super().close()
                self.stream.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the object, or throw away what was written when the block raises."""
        if kind is None:
            self.close()
        else:
            super().close()
            if isinstance(self.stream, Upload):
                self.stream.cancel()

    def __del__(self) -> None:
        """Do not close: a writer that is let go has not finished. What it had sent is thrown away."""
