"""Objects that are open for reading or writing, as s3torchconnector's users hold them.

Floor 6. Knows what s3torchconnector promises of readers and writers; must not know clients or datasets.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from s3dlio.api import current_token
from s3dlio.buffers import MIB, BytesView
from s3dlio.errors import ClosedError, OptionError
from s3dlio.object_store import ObjectStore
from s3dlio.object_writer import ObjectWriter
from s3dlio.options import StoreOptions
from s3dlio.range_file import BLOCK_BYTES, DEFAULT_READAHEAD_BYTES, RangeFile, Source, Whole
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderKind:
    """How objects are read: what :class:`S3ReaderConstructor` makes.

    Attributes:
        name: ``sequential``, ``range_based`` or ``dcp_optimized``.
        buffer_size: Most bytes that small reads bring at once.
    """

    name: str = "sequential"
    buffer_size: int = DEFAULT_READAHEAD_BYTES

    @property
    def is_whole(self) -> bool:
        """Whether datasets should read the whole object before its reader is handed out."""
        return self.name == "sequential"


class S3ReaderConstructor:
    """Ways to read objects. All readers can do the same; they differ in what they fetch before they are asked."""

    @staticmethod
    def sequential() -> ReaderKind:
        """Return the way for objects that are read from the beginning to the end: datasets read them ahead."""
        return ReaderKind()

    @staticmethod
    def range_based(buffer_size: int | None = None) -> ReaderKind:
        """Return the way for parts of large objects: nothing is read but what is asked for, and a little more.

        Args:
            buffer_size: Most bytes that small reads in a row bring at once; default 8 MiB.
        """
        return ReaderKind("range_based", DEFAULT_READAHEAD_BYTES if buffer_size is None else buffer_size)

    @staticmethod
    def dcp_optimized(max_gap_size: float = 32 * MIB) -> ReaderKind:
        """Return the way for checkpoints. ``max_gap_size`` is taken, and without effect: gaps are never read."""
        if max_gap_size < 0:
            msg = f"max_gap_size must not be negative, not {max_gap_size}"
            raise OptionError(msg)
        return ReaderKind("dcp_optimized")

    @staticmethod
    def default() -> ReaderKind:
        """Return :meth:`sequential`."""
        return ReaderKind()

    @staticmethod
    def get_reader_type_string(constructor: ReaderKind | None) -> str:
        """Return the name of a way to read."""
        return (constructor or ReaderKind()).name


def kind_of(constructor: object) -> ReaderKind:
    """Return the way to read that a ``reader_constructor`` means.

    Raises:
        OptionError: It does not come from :class:`S3ReaderConstructor`.
    """
    if constructor is None:
        return ReaderKind()
    if not isinstance(constructor, ReaderKind):
        msg = "reader_constructor must come from S3ReaderConstructor, as S3ReaderConstructor.range_based() does"
        raise OptionError(msg)
    return constructor


class S3Reader(io.BufferedIOBase):
    """An object that is open for reading. Nothing is asked for before the first read; no HEAD is sent.

    Pickles as its address and its place. It belongs to one thread at a time.

    Args:
        where: The object.
        options: How to reach it.
        kind: How to read it.
        data: The object's bytes, if they have been read; they are shared.

    Attributes:
        uri: The object's URI.
    """

    def __init__(
        self, where: Uri, options: StoreOptions, kind: ReaderKind | None = None, data: BytesView | None = None
    ) -> None:
        super().__init__()
        self._where = where
        self.uri = str(where)
        self._options = options
        self._kind = kind or ReaderKind()
        self._data = data
        self._opened: RangeFile | None = None

    @property
    def bucket(self) -> str:
        """The bucket; empty for files."""
        return self._where.container

    @property
    def key(self) -> str:
        """The key in the bucket; the path of a file."""
        return self._where.key

    def _file(self) -> RangeFile:
        if self.closed:
            msg = "the reader is closed"
            raise ClosedError(msg, uri=self.uri, operation="read")
        if self._opened is None:
            source: Source
            if self._data is not None:
                source = Whole(self._where, self._data)
            else:
                store = open_store(self._where, self._options)
                source = RemoteObject(store, self._where, token=current_token())
            self._opened = RangeFile(source, readahead_bytes=max(BLOCK_BYTES, self._kind.buffer_size))
        return self._opened

    def prefetch(self) -> None:
        """Ask for the object's beginning now, rather than with the first read."""
        self._file()

    def read_bytes(self) -> BytesView:
        """Return the whole object, wherever the next read stands; it shares memory with this reader's others."""
        if self.closed:
            msg = "the reader is closed"
            raise ClosedError(msg, uri=self.uri, operation="read")
        if self._data is None:
            self._data = ObjectStore(self._options).get(self.uri)
        return self._data

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; ``-1`` or ``None`` reads to the end."""
        return self._file().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Read some bytes."""
        return self._file().read1(size)

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into existing memory, without a copy when it is large; return the bytes read."""
        return self._file().readinto(buffer)

    def peek(self, size: int = 1, /) -> bytes:
        """Return bytes from here on without moving."""
        return self._file().peek(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, at most the end; return it.

        Raises:
            OptionError: The place lies before the beginning.
        """
        file = self._file()
        return file.seek(min(file.seek(offset, whence), file.size))

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._opened.tell() if self._opened and not self.closed else 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def close(self) -> None:
        """Let go of what was read."""
        self._data = None
        if self._opened is not None:
            self._opened.close()
        super().close()

    def __reduce__(self) -> tuple[Callable[..., S3Reader], tuple[Any, ...]]:
        """Pickle without the bytes: whoever unpickles it reads them."""
        return _reopened, (self._where, self._options, self._kind, self.tell())

    def __repr__(self) -> str:
        """Show the address."""
        return f"S3Reader({self.uri!r})"


def _reopened(where: Uri, options: StoreOptions, kind: ReaderKind, place: int) -> S3Reader:
    reader = S3Reader(where, options, kind)
    if place:
        reader.seek(place)
    return reader


class S3Writer(io.BufferedIOBase):
    """An object that is being written. It appears when this is closed, and not when a ``with`` block raises.

    Args:
        stream: Where the bytes go.
    """

    def __init__(self, stream: ObjectWriter) -> None:
        super().__init__()
        self.stream = stream

    def write(self, data: Buffer, /) -> int:
        """Write bytes; the caller may reuse their memory when this returns.

        Raises:
            ClosedError: The writer is closed.
            StoreError: An earlier part could not be sent; nothing of the object is left.
        """
        if self.closed:
            msg = "the writer is closed"
            raise ClosedError(msg, uri=self.stream.uri, operation="write")
        return self.stream.write(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.stream.bytes_written()

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
        if not self.closed:
            super().close()
            self.stream.finalize()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the object, or throw away what was written when the block raises."""
        if kind is None:
            self.close()
        else:
            super().close()
            self.stream.cancel()

    def __del__(self) -> None:
        """Do not close: a writer that is let go has not finished. What it had sent is thrown away."""
