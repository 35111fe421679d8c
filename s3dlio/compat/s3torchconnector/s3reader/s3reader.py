"""Objects that are open for reading, as s3torchconnector's users hold them.

Floor 6. Knows what s3torchconnector promises of readers; must not know clients or datasets.

A reader is made from four things, so that users can write their own kinds: bucket, key, a function that tells the
size, and one that gives a range's bytes. Where that one is a :class:`Place`, ours read straight into memory instead.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from s3dlio.binary_file import BinaryFile
from s3dlio.buffers import BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.context import current_token
from s3dlio.errors import ClosedError, OptionError
from s3dlio.object_store import ObjectStore
from s3dlio.options import StoreOptions
from s3dlio.range_file import BLOCK_BYTES, DEFAULT_READAHEAD_BYTES, RangeFile, Source, Whole
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from typing_extensions import Buffer


class GetStreamCallable(Protocol):
    """What gives an object's bytes: ``get_stream(start, end)``, both of them optional."""

    def __call__(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes ``start <= position < end``."""


@runtime_checkable
class S3ReaderConstructorProtocol(Protocol):
    """What makes readers: :class:`S3ReaderConstructor` has some, and any function of these four will do."""

    def __call__(
        self, bucket: str, key: str, get_object_info: Callable[[], Any], get_stream: GetStreamCallable
    ) -> S3Reader:
        """Return a reader."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where an object is: what clients of ours give as ``get_stream``.

    Attributes:
        where: The object.
        options: How to reach it.
    """

    where: Uri
    options: StoreOptions

    def open(self) -> RemoteObject:
        """Ask for the object's size and beginning."""
        return RemoteObject(open_store(self.where, self.options), self.where, token=current_token())

    def __call__(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes ``start <= position < end`` in pieces, read ahead."""
        return (bytes(piece) for piece in self.open().chunks(start or 0, end))


class _Streamed:
    """An object whose bytes somebody else's function gives."""

    is_late = False

    def __init__(self, uri: Uri, get_object_info: Callable[[], Any], get_stream: GetStreamCallable) -> None:
        self.uri = uri
        self._get_stream = get_stream
        self.size: int = get_object_info().size

    def read(self, start: int, stop: int) -> memoryview:
        return memoryview(b"".join(self._get_stream(start, stop)))[: stop - start]

    def read_into(self, start: int, target: memoryview) -> None:
        target[:] = self.read(start, start + len(target))

    def read_later(self, _start: int, _stop: int, _token: CancellationToken) -> None:
        """Return ``None``: nobody knows whether the function may be called from another thread."""


class S3Reader(BinaryFile):
    """An object that is open for reading. Nothing is asked for before the first read; no HEAD is sent.

    Pickles as its address and its place. It belongs to one thread at a time.

    Args:
        bucket: Its bucket; empty for files.
        key: Its key in the bucket; the path of a file.
        get_object_info: Returns something that has the ``size``, in bytes.
        get_stream: Gives the bytes.

    Raises:
        OptionError: The bucket is empty.
    """

    _readahead_bytes = DEFAULT_READAHEAD_BYTES

    def __init__(
        self, bucket: str, key: str, get_object_info: Callable[[], Any], get_stream: GetStreamCallable
    ) -> None:
        super().__init__()
        if not bucket and not isinstance(get_stream, Place):
            msg = "Bucket should be specified"
            raise OptionError(msg)
        self._bucket = bucket
        self._key = key
        self._get_object_info = get_object_info
        self._get_stream = get_stream
        self._data: BytesView | None = None
        self._opened: RangeFile | None = None
        self._left_at = 0

    @property
    def bucket(self) -> str:
        """The bucket; empty for files."""
        return self._bucket

    @property
    def key(self) -> str:
        """The key in the bucket; the path of a file."""
        return self._key

    @property
    def uri(self) -> str:
        """The object's URI."""
        return str(self._where)

    @property
    def _where(self) -> Uri:
        place = self._get_stream
        return place.where if isinstance(place, Place) else Uri("s3", self._bucket, self._key)

    def hold(self, data: BytesView) -> Self:
        """Take the object's bytes, which have been read, and return this; they are shared."""
        self._data = data
        return self

    def _source(self) -> Source:
        if self._data is not None:
            return Whole(self._where, self._data)
        if isinstance(self._get_stream, Place):
            return self._get_stream.open()
        return _Streamed(self._where, self._get_object_info, self._get_stream)

    def _check_open(self) -> None:
        if self.closed:
            msg = "the reader is closed"
            raise ClosedError(msg, uri=self.uri, operation="read")

    def _file(self) -> RangeFile:
        self._check_open()
        if self._opened is None:
            self._opened = RangeFile(self._source(), readahead_bytes=max(BLOCK_BYTES, self._readahead_bytes))
        return self._opened

    def prefetch(self) -> None:
        """Ask for the object's beginning now, rather than with the first read."""
        self._file()

    def read_bytes(self) -> BytesView:
        """Return the whole object, wherever the next read stands; it shares memory with this reader's others."""
        self._check_open()
        place = self._get_stream
        if self._data is None and isinstance(place, Place):
            self._data = ObjectStore(place.options).get(self.uri)
        if self._data is None:
            self._data = BytesView.from_bytes(b"".join(place()))
        return self._data

    def readall(self) -> bytes:
        """Return a copy of all bytes, wherever one has read to."""
        return bytes(self.read_bytes())

    read_all = readall

    def __len__(self) -> int:
        """Return the object's size in bytes."""
        return self._file().size

    def __bool__(self) -> bool:
        """Be true, also when the object is empty: it is an open file."""
        return True

    def read(self, size: int | None = None, /) -> bytes:
        """Read bytes; ``None`` and what is negative read to the end.

        Raises:
            OptionError: ``size`` is no integer.
        """
        check_integers(self.uri, "read", 0 if size is None else size)
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
            OptionError: The place lies before the beginning, or is no number.
        """
        check_integers(self.uri, "seek", offset, whence)
        if whence not in {os.SEEK_SET, os.SEEK_CUR, os.SEEK_END}:
            msg = f"whence must be SEEK_SET, SEEK_CUR or SEEK_END, not {whence}"
            raise OptionError(msg, uri=self.uri, operation="seek")
        file = self._file()
        return file.seek(min(file.seek(offset, whence), file.size))

    def tell(self) -> int:
        """Return the place of the next read; of a closed reader, where it was."""
        return self._opened.tell() if self._opened and not self.closed else self._left_at

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def writable(self) -> bool:
        """Tell that it cannot be written."""
        return False

    def close(self) -> None:
        """Let go of what was read."""
        self._data = None
        self._left_at = self.tell()
        if self._opened is not None:
            self._opened.close()
        super().close()

    def _arguments(self) -> tuple[Any, ...]:
        return self._bucket, self._key, self._get_object_info, self._get_stream

    def __reduce__(self) -> tuple[Callable[..., S3Reader], tuple[Any, ...]]:
        """Pickle without the bytes: whoever unpickles it reads them."""
        return _reopened, (type(self), self._arguments(), self.tell())

    def __repr__(self) -> str:
        """Show the address."""
        return f"{type(self).__name__}({self.uri!r})"


def check_integers(uri: str, operation: str, *given: object) -> None:
    """Check what a caller gave, before anything is asked for.

    Raises:
        OptionError: It is no integer.
    """
    for number in given:
        if not isinstance(number, int):
            msg = f"expected an integer, not {number!r}"
            raise OptionError(msg, uri=uri, operation=operation)


def _reopened(kind: type[S3Reader], arguments: tuple[Any, ...], place: int) -> S3Reader:
    reader = kind(*arguments)
    if place:
        reader.seek(place)
    return reader


class SequentialS3Reader(S3Reader):
    """For objects that are read from the beginning to the end: datasets read them ahead. See :class:`S3Reader`."""

    def _source(self) -> Source:
        if self._data is None and not isinstance(self._get_stream, Place):
            return Whole(self._where, self.read_bytes())
        return super()._source()


class RangedS3Reader(S3Reader):
    """For parts of large objects: what is asked for is read, and a little more. See :class:`S3Reader`.

    Args:
        bucket: As there.
        key: As there.
        get_object_info: As there.
        get_stream: As there.
        buffer_size: Most bytes that small reads in a row bring at once; default 8 MiB.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        get_object_info: Callable[[], Any],
        get_stream: GetStreamCallable,
        buffer_size: int | None = None,
    ) -> None:
        super().__init__(bucket, key, get_object_info, get_stream)
        self._buffer_size = self._readahead_bytes if buffer_size is None else buffer_size
        self._readahead_bytes = self._buffer_size

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self._buffer_size
