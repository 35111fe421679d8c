"""Writes TFRecord files.

Floor 5. Knows where records go, and that a file appears whole or not at all; must not know what is in them.
"""

from __future__ import annotations

from array import array
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from s3dlio.buffers import KIB, flat_bytes
from s3dlio.crew import CREW
from s3dlio.errors import ClosedError, OptionError
from s3dlio.formats.deflate import check_compression, deflater
from s3dlio.formats.tfrecord import FOOT, HEAD, frame_foot, frame_head
from s3dlio.formats.tfrecord_index import Index
from s3dlio.options import StoreOptions
from s3dlio.outflow import Outflow
from s3dlio.sender import DEFAULT_PART_BYTES
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import Uri, from_path_or_uri, parse_object

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

_VERB = "TFRecordWriter"
#: A record shorter than this is put together with its frame first: one call costs more than the copy.
_SMALL_BYTES = 16 * KIB
_PARTS_IN_FLIGHT = 4


class TFRecordWriter:
    """Writes records into a new TFRecord file, which TensorFlow and everybody else can read.

    The file appears under its name when the writer is closed, whole, in place of what was there. It is
    sent part by part while records come (local files: under a hidden name), in bounded memory.

    Use it as a context manager: leaving the block closes it, an exception in it aborts it. It belongs to one
    thread of the process that made it.

    Args:
        target: The file, as a URI or a local path. Missing directories are made.
        compression: ``""``, ``"GZIP"`` or ``"ZLIB"``, as TensorFlow's ``TFRecordOptions``.
        index: Write the file's index too, when it is closed: ``True`` beside it (``.idx`` appended), or to a
            URI or local path. A compressed file can have none.
        options: How to reach the stores.

    Raises:
        OptionError: There is no such compression, the name promises one that is not asked for, or an index of a compressed file is asked for.
        StoreError: The file cannot be made.

    Example:
        >>> from s3dlio.tfrecords import TFRecordWriter, read_tfrecord_index
        >>> with TFRecordWriter("memory://demo/c.tfrecord", index=True) as writer:
        ...     writer.write(b"spam")
        >>> read_tfrecord_index("memory://demo/c.tfrecord.idx") == [(0, 20)]
        True
    """

    def __init__(
        self,
        target: str | PurePath,
        *,
        compression: str = "",
        index: bool | str | PurePath = False,
        options: StoreOptions | None = None,
    ) -> None:
        self._uri = parse_object(from_path_or_uri(target), _VERB)
        self._options = options
        check_compression(compression)
        if not compression and self._uri.key.endswith((".gz", ".zst", ".lz4")):
            msg = "by its name readers take the file for a compressed one: give compression='GZIP', or another name"
            raise OptionError(msg, uri=str(self._uri), operation=_VERB)
        if index and compression:
            msg = f"a {compression} file can have no index: its records are not where they seem"
            raise OptionError(msg, uri=str(self._uri), operation=_VERB)
        beside = f"{self._uri}.idx" if index is True else index
        self._index_uri = parse_object(from_path_or_uri(beside), _VERB) if beside else None
        self._sizes = array("q")
        self._packer: Any = deflater(compression) if compression else None
        store = open_store(self._uri, options)
        self._outflow: Outflow | None = Outflow(
            store, self._uri, PutOptions(),
            part_bytes=DEFAULT_PART_BYTES, width=_PARTS_IN_FLIGHT, parent=CREW.get().token,
        )  # fmt: skip

    def write(self, record: Buffer) -> None:
        """Append a record.

        Args:
            record: Its data: any contiguous bytes-like object, which may be used again afterwards.

        Raises:
            ClosedError: The writer is closed, or was aborted.
            StoreError: The data cannot be written; the writer is aborted.
        """
        outflow = self._open_outflow()
        data = flat_bytes(record)
        frame: tuple[Buffer, ...] = (frame_head(data), data, frame_foot(data))
        if len(data) < _SMALL_BYTES:
            frame = (b"".join(frame),)
        try:
            for piece in frame:
                packed = piece if self._packer is None else self._packer.compress(piece)
                outflow.write(memoryview(packed))
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
        if self._outflow is None:
            return
        outflow = self._open_outflow()
        try:
            if self._packer is not None:
                outflow.write(memoryview(self._packer.flush()))
            outflow.close()
        except BaseException:
            self.abort()
            raise
        self._outflow = None
        if self._index_uri is not None:
            _put(open_store(self._index_uri, self._options), self._index_uri, memoryview(self._index().to_text()))

    def _index(self) -> Index:
        sizes = np.array(self._sizes, np.int64)
        return Index(np.cumsum(sizes) - sizes, sizes)

    def abort(self) -> None:
        """Drop what was written: nothing becomes visible, and the writer is closed. Aborting again does nothing."""
        outflow, self._outflow = self._outflow, None
        if outflow is not None:
            outflow.abort()

    def _open_outflow(self) -> Outflow:
        if self._outflow is None:
            msg = "the writer is closed"
            raise ClosedError(msg, uri=str(self._uri), operation=_VERB)
        self._outflow.check_open()
        return self._outflow

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


def _put(store: Store, uri: Uri, data: memoryview) -> None:
    store.sizes.forget(uri)
    store.put(uri, data, PutOptions(), CREW.get().token)
