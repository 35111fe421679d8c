"""Writes TFRecord files.

Floor 5. Knows where records go, and that a file appears whole or not at all; must not know what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from array import array
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from s3dlio.buffers import MIB, flat_bytes
from s3dlio.crew import CREW
from s3dlio.errors import ClosedError, ForkError, OptionError, UriError
from s3dlio.formats.deflate import check_compression, deflater
from s3dlio.formats.tfrecord import FOOT, HEAD, frame_foot, frame_head
from s3dlio.formats.tfrecord_index import Index
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions, Store
from s3dlio.stores.local import TEMPORARY, mapped
from s3dlio.uri import Uri, from_path_or_uri, parse_object

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

_VERB = "TFRecordWriter"
#: Records shorter than this are gathered before they are handed to the system.
_BUFFER_BYTES = MIB
#: One write moves at most this much, so that an interrupt is not kept waiting long.
_STEP_BYTES = 64 * MIB


class TFRecordWriter:
    """Writes records into a new TFRecord file, which TensorFlow and everybody else can read.

    The file appears under its name when the writer is closed, whole, in place of what was there. Local
    files (a path or ``file://``) are written as records come, under a hidden name beside their own. For all
    other URIs the whole file is kept in memory until it is put in one piece at the end.

    Use it as a context manager: leaving the block closes it, an exception in it aborts it. It belongs to one
    thread of the process that made it.

    Args:
        target: The file, as a URI or a local path. Missing directories are made.
        compression: ``""``, ``"GZIP"`` or ``"ZLIB"``, as TensorFlow's ``TFRecordOptions``.
        index: Write the file's index too, when it is closed: ``True`` beside it (``.idx`` appended), or to a
            URI or local path. A compressed file can have none.
        options: How to reach the stores.

    Raises:
        OptionError: There is no such compression, or an index of a compressed file is asked for.
        StoreError: The file cannot be made.

    Example:
        >>> from s3dlio.tfrecords import TFRecordWriter, read_tfrecord_index
        >>> with TFRecordWriter("memory://demo/c.tfrecord", index=True) as writer:
        ...     writer.write(b"spam")
        >>> read_tfrecord_index("memory://demo/c.tfrecord.idx") == [(0, 20)]
        True
    """

    _sink: _Sink | None = None  # where __init__ fails, __del__ finds this

    def __init__(
        self,
        target: str | PurePath,
        *,
        compression: str = "",
        index: bool | str | PurePath = False,
        options: StoreOptions | None = None,
    ) -> None:
        self._home = os.getpid()
        self._uri = parse_object(from_path_or_uri(target), _VERB)
        self._options = options
        check_compression(compression)
        if index and compression:
            msg = f"a {compression} file can have no index: its records are not where they seem"
            raise OptionError(msg, uri=str(self._uri), operation=_VERB)
        beside = f"{self._uri}.idx" if index is True else index
        self._index_uri = parse_object(from_path_or_uri(beside), _VERB) if beside else None
        self._sizes = array("q")
        self._packer: Any = deflater(compression) if compression else None
        self._sink = _sink_of(self._uri, options)

    def write(self, record: Buffer) -> None:
        """Append a record.

        Args:
            record: Its data: any contiguous bytes-like object, which may be used again afterwards.

        Raises:
            ClosedError: The writer is closed, or was aborted.
            StoreError: The data cannot be written; the writer is aborted.
        """
        sink = self._open_sink()
        data = flat_bytes(record)
        pieces = (frame_head(data), data, frame_foot(data))
        try:
            for piece in pieces:
                sink.write(piece if self._packer is None else self._packer.compress(piece))
        except BaseException:
            self.abort()
            raise
        if self._index_uri is not None:
            self._sizes.append(len(data) + HEAD + FOOT)

    def close(self) -> None:
        """Make the file visible, whole, then write its index. Closing again does nothing.

        Raises:
            StoreError: It cannot be written: nothing has become visible. (If only the index cannot be
                written, the file itself is there.)
            ForkError: The writer was made in another process.
        """
        if self._sink is None:
            return
        sink = self._open_sink()
        try:
            if self._packer is not None:
                sink.write(self._packer.flush())
            sink.publish()
        except BaseException:
            self.abort()
            raise
        self._sink = None
        if self._index_uri is not None:
            _put(open_store(self._index_uri, self._options), self._index_uri, memoryview(self._index().to_text()))

    def _index(self) -> Index:
        sizes = np.array(self._sizes, np.int64)
        return Index(np.cumsum(sizes) - sizes, sizes)

    def abort(self) -> None:
        """Drop what was written: nothing becomes visible, and the writer is closed. Aborting again does nothing."""
        sink, self._sink = self._sink, None
        if sink is not None and os.getpid() == self._home:
            sink.discard()

    def _open_sink(self) -> _Sink:
        if self._sink is None:
            msg = "the writer is closed"
            raise ClosedError(msg, uri=str(self._uri), operation=_VERB)
        if os.getpid() != self._home:
            msg = "this writer was made in another process; make a new one after the fork"
            raise ForkError(msg, uri=str(self._uri), operation=_VERB)
        return self._sink

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, or after an exception abort it."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        """Leave nothing behind when it was forgotten."""
        self.abort()


class _Sink(Protocol):
    """Where a file's bytes go until it is published or discarded."""

    def write(self, data: Buffer) -> object: ...

    def publish(self) -> None: ...

    def discard(self) -> None: ...


def _sink_of(uri: Uri, options: StoreOptions | None) -> _Sink:
    store = open_store(uri, options)
    return _FileSink(uri, store) if uri.scheme == "file" else _ObjectSink(uri, store)


class _FileSink:
    """A file under a hidden name beside its own.

    Bytes are gathered here, and not by Python's own writer: a forked child, letting go of that, would write
    what it inherited into its parent's file.
    """

    def __init__(self, uri: Uri, store: Store) -> None:
        folder, name = os.path.split(uri.key)
        if not name:
            msg = "a file name cannot end in '/'"
            raise UriError(msg, uri=str(uri), operation=_VERB)
        self._uri = uri
        self._store = store
        self._folder = folder
        # Of the name 50 characters are shown, four bytes each: the whole stays within the usual 255.
        self._path = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(8)}{TEMPORARY}")
        self._gathered = bytearray()
        with mapped(uri, _VERB):
            _make_folder(folder)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        if len(self._gathered) + len(view) > _BUFFER_BYTES:
            self._flush()
        if len(view) > _BUFFER_BYTES:
            self._write_all(view)
        else:
            self._gathered += view

    def _flush(self) -> None:
        with memoryview(self._gathered) as view:
            self._write_all(view)
        self._gathered.clear()

    def _write_all(self, view: memoryview) -> None:
        with mapped(self._uri, _VERB):
            done = 0
            while done < len(view):
                done += os.write(self._descriptor, view[done : done + _STEP_BYTES])

    def publish(self) -> None:
        self._flush()
        self._store.sizes.forget(self._uri)
        with mapped(self._uri, _VERB):
            os.fsync(self._descriptor)
            self._close()
            os.replace(self._path, self._uri.key)
            _sync_folder(self._folder)

    def discard(self) -> None:
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _ObjectSink:
    """Memory, until it is all there and can be put."""

    def __init__(self, uri: Uri, store: Store) -> None:
        self._uri = uri
        self._store = store
        self._memory = bytearray()

    def write(self, data: Buffer) -> None:
        self._memory += data

    def publish(self) -> None:
        _put(self._store, self._uri, memoryview(self._memory))
        self.discard()

    def discard(self) -> None:
        self._memory = bytearray()


def _put(store: Store, uri: Uri, data: memoryview) -> None:
    store.sizes.forget(uri)
    store.put(uri, data, PutOptions(), CREW.get().token)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        msg = "a file stands where a directory is needed"
        raise OSError(errno.EINVAL, msg) from error


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or "/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
