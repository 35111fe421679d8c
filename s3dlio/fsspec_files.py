"""The files that fsspec users hold: open for reading, open for writing, and layers of text and compression on them.

Floor 6. Knows what fsspec and its users expect of an open file; must not know paths or directories.

What is being written appears when its file is closed, and never when the ``with`` block of any layer raises, or
when the file is let go: half an object is worse than none.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Self

from fsspec.caching import caches

from s3dlio.binary_file import BinaryFile
from s3dlio.buffers import KIB
from s3dlio.errors import ClosedError, ObjectChangedError, OptionError, suggest
from s3dlio.object_writer import ObjectWriter
from s3dlio.range_file import BLOCK_BYTES, DEFAULT_READAHEAD_BYTES, RangeFile
from s3dlio.remote import RemoteObject

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

#: Names of fsspec's for what files here do anyway.
_OWN_CACHES = (None, "default", "readahead")
#: What fsspec's own caches fetch at least, by default.
_FOREIGN_BLOCK_BYTES = 5 * 1024 * KIB


class ReadFile(RangeFile):
    """An object that is open for reading, as fsspec's users know files. It pickles, as its address and its place.

    Args:
        fs: The file system.
        path: The object in it.
        source: The object.
        block_size: Most bytes that one request reads ahead, see :class:`s3dlio.range_file.RangeFile`; default 8 MiB.
        cache_type: ``"readahead"`` is this library's own; every other name is one of fsspec's caches.
        cache_options: For one of fsspec's caches.

    Raises:
        OptionError: There is no such cache.
    """

    mode = "rb"

    def __init__(
        self,
        fs: Any,
        path: str,
        source: RemoteObject,
        *,
        block_size: int | None = None,
        cache_type: str | None = None,
        cache_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(source, readahead_bytes=max(BLOCK_BYTES, block_size or DEFAULT_READAHEAD_BYTES))
        self.fs = fs
        self.path = path
        self.name = path
        self.blocksize = block_size or DEFAULT_READAHEAD_BYTES
        self._version = source.version
        self._how = {"block_size": block_size, "cache_type": cache_type, "cache_options": cache_options}
        self.cache: Any = None
        if cache_type not in _OWN_CACHES:
            if cache_type not in caches:
                msg = f"there is no cache {cache_type!r}{suggest(str(cache_type), [str(name) for name in caches])}"
                raise OptionError(msg, uri=self.uri, operation="open")
            fetch = self._fetch_range
            self.cache = caches[cache_type](
                block_size or _FOREIGN_BLOCK_BYTES, fetch, self.size, **(cache_options or {})
            )

    @property
    def details(self) -> dict[str, Any]:
        """What the file system says of the object."""
        return self.info()

    @property
    def full_name(self) -> str:
        """The object's address, with its protocol."""
        return str(self.fs.unstrip_protocol(self.path))

    def info(self) -> dict[str, Any]:
        """Return what the file system says of the object."""
        info: dict[str, Any] = self.fs.info(self.path)
        return info

    def peek(self, size: int = 1, /) -> bytes:
        """See :meth:`s3dlio.range_file.RangeFile.peek`."""
        if self.cache is None:
            return super().peek(size)
        place = self.tell()
        return bytes(self.cache._fetch(place, min(place + max(size, 4 * KIB), self.size)))  # noqa: SLF001

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Read up to and with the next ``char``, or to the end; ``blocks`` are the bytes to look through at a time."""
        found = bytearray()
        while piece := self.read(blocks or self.blocksize):
            seen = max(0, len(found) - len(char) + 1)  # it may lie across two pieces
            found += piece
            place = found.find(char, seen)
            if place >= 0:
                end = place + len(char)
                self.seek(end - len(found), os.SEEK_CUR)
                return bytes(found[:end])
        return bytes(found)

    def close(self) -> None:
        """Let go of what is kept."""
        self.cache = None
        super().close()

    @property
    def closed(self) -> bool:
        """Whether it is closed. fsspec's block cache sets it, as on its own files; that closes this one too."""
        return super().closed

    @closed.setter
    def closed(self, value: bool) -> None:
        if value != self.closed:
            self.close()  # nobody opens a file by saying so: it stays closed

    def _fetch_range(self, start: int, stop: int) -> bytes:
        return bytes(self._source.read(start, min(stop, self.size)))

    def _fill(self, start: int, target: memoryview) -> None:
        if self.cache is None:
            super()._fill(start, target)
        else:  # fsspec's caches have no public verb for it: its own files call this one
            target[:] = self.cache._fetch(start, start + len(target))  # noqa: SLF001

    def __reduce__(self) -> tuple[Callable[..., ReadFile], tuple[Any, ...]]:
        """Pickle as the address, the place and the version."""
        return _reopen, (self.fs, self.path, self._how, tuple(self._version), self.tell())


def _reopen(fs: Any, path: str, how: Mapping[str, Any], version: tuple[int, str], place: int) -> ReadFile:
    file: ReadFile = fs.open(path, "rb", **how)
    if tuple(file._version) != version:  # noqa: SLF001 - of its own module
        msg = "the object was replaced since the file was pickled; open it anew"
        raise ObjectChangedError(msg, uri=file.uri, operation="open")
    file.seek(place)
    return file


class WriteFile(BinaryFile):
    """An object that is being written; it appears, whole, when the file is closed.

    Args:
        fs: The file system.
        path: The object in it.
        mode: How it was opened.
        writer: Where the bytes go.
        autocommit: ``False`` leaves the object to :meth:`commit`, which the file system's transaction calls.
    """

    def __init__(self, fs: Any, path: str, mode: str, writer: ObjectWriter, *, autocommit: bool = True) -> None:
        super().__init__()
        self.fs = fs
        self.path = path
        self.name = path
        self.mode = mode
        self.autocommit = autocommit
        self._writer = writer
        self._doomed = False
        self._over = False
        self._discarded = False

    def writable(self) -> bool:
        """Tell that it can be written."""
        return not self.closed

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._writer.bytes_written()

    def write(self, data: Buffer, /) -> int:
        """Write bytes; the caller may reuse their memory when this returns.

        Raises:
            ClosedError: The file is closed.
            StoreError: An earlier part could not be sent; nothing of the object is left.
        """
        if self.closed:
            msg = "the file is closed"
            raise ClosedError(msg, uri=self._writer.uri, operation="write")
        return self._writer.write(data)

    def flush(self) -> None:
        """Wait until all whole parts have arrived. What does not fill a part yet stays here until the end."""
        if not self.closed and not self._over:
            self._writer.flush()

    def doom(self) -> None:
        """Have :meth:`close` throw away what was written."""
        self._doomed = True

    def close(self) -> None:
        """Make the object.

        Raises:
            AlreadyExistsError: The object exists, and the mode was ``x``.
            StoreError: It could not be written; nothing of it is left.
        """
        if self.closed:
            return
        try:
            if self._doomed:
                self.discard()
            elif self.autocommit and not self._over:
                self.commit()
        finally:
            super_over, self._over = self._over, True  # what is closed is not flushed any more
            super().close()
            self._over = super_over

    def commit(self) -> None:
        """Make the object now: at the end of a transaction, or when the file is closed.

        Raises:
            ClosedError: It was thrown away.
        """
        if self._discarded:
            msg = "what was written has been thrown away; write it again"
            raise ClosedError(msg, uri=self._writer.uri, operation="commit")
        if not self._over:
            self._over = True
            self._writer.finalize()

    def discard(self) -> None:
        """Throw away what was written."""
        self._over = self._discarded = True
        self._writer.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; throw it away when the block raises."""
        if kind is not None:
            self.doom()
        self.close()

    def __del__(self) -> None:
        """Do not close: a file that is let go is not finished. Its writer throws it away."""


class Packed(BinaryFile):
    """A compressed stream on an object's file; closing it closes both, in order.

    Args:
        stream: What compresses or expands.
        file: What it reads or writes.
    """

    def __init__(self, stream: IO[bytes], file: ReadFile | WriteFile) -> None:
        super().__init__()
        self._stream = stream
        self._file = file
        self.mode = file.mode

    def readable(self) -> bool:
        """Tell whether it can be read."""
        return not self.closed and isinstance(self._file, ReadFile)

    def writable(self) -> bool:
        """Tell whether it can be written."""
        return not self.closed and isinstance(self._file, WriteFile)

    def seekable(self) -> bool:
        """Tell whether any place can be gone to."""
        return self.readable() and self._stream.seekable()

    def tell(self) -> int:
        """Return the place in what is not compressed, in bytes."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; going back expands everything again."""
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read expanded bytes."""
        return self._stream.read(-1 if size is None else size)

    def read1(self, size: int = -1, /) -> bytes:
        """Read some expanded bytes."""
        return self._stream.read(io.DEFAULT_BUFFER_SIZE if size < 0 else size)

    def write(self, data: Buffer, /) -> int:
        """Compress bytes."""
        return self._stream.write(data)

    def doom(self) -> None:
        """Have :meth:`close` throw away what was written."""
        if isinstance(self._file, WriteFile):
            self._file.doom()

    def close(self) -> None:
        """Write what is left, and close the object's file."""
        if self.closed:
            return
        try:
            self._stream.close()
        except BaseException:
            self.doom()
            raise
        finally:
            super().close()
            self._file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both; throw away what was written when the block raises."""
        if kind is not None:
            self.doom()
        self.close()

    def __del__(self) -> None:
        """Do not close: see :class:`WriteFile`."""


class Text(io.TextIOWrapper):
    """Text in an object; nothing of it is left when the ``with`` block raises, or when it is let go."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; throw away what was written when the block raises."""
        if kind is not None and isinstance(self.buffer, (WriteFile, Packed)):
            self.buffer.doom()
        self.close()

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __del__(self) -> None:
        """Do not close: see :class:`WriteFile`."""
