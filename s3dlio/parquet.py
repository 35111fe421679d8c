"""Parquet files by row groups: where each lies, and its bytes or its table, with one request.

Floor 5. Knows footers, through pyarrow; must not know datasets, loaders or whose names they have.

A footer is read once, from the end of the file; every read of a row group insists on the version that it was read
from.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from s3dlio.buffers import MIB, POOL, BytesView, bytes_of, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.errors import FormatError, ObjectChangedError, OptionError, suggest
from s3dlio.ranges import Span
from s3dlio.remote import fill
from s3dlio.stores.base import Store, Version, quoted
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What is read from the end of a file at first. Footers of wide tables are this large; of most, a hundredth of it.
DEFAULT_FOOTER_BYTES = 4 * MIB
_MAGIC = b"PAR1"
#: Behind the metadata: its length and the magic.
_TRAILER_BYTES = 8
#: Footers are read into memory whole: a length beyond this is damage, or hostile.
_MOST_FOOTER_BYTES = 1 << 30


def arrow(name: str) -> Any:
    """Return one of pyarrow's modules.

    Raises:
        OptionError: pyarrow is not installed.
    """
    import importlib  # noqa: PLC0415 - few need it

    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = "Parquet files need pyarrow: pip install 's3dlio[parquet]'"
        raise OptionError(msg) from error


class Footer:
    """What the end of a Parquet file says of it. Thread-safe.

    Args:
        uri: The file.
        version: Its size and entity tag.
        metadata: As pyarrow reads it.

    Attributes:
        names: Of the columns, nested ones with dots, in order.
        first_rows: int64, one more than there are row groups: the number of each one's first row, then of all rows.
    """

    def __init__(self, uri: Uri, version: Version, metadata: Any) -> None:
        self.uri = uri
        self.version = version
        self.metadata = metadata
        self.names: list[str] = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self.first_rows = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])

    def __len__(self) -> int:
        """Return the number of row groups."""
        return int(self.metadata.num_row_groups)

    def span(self, group: int, columns: Sequence[int] | None = None) -> Span:
        """Return where a row group lies, or the part of it from the first to the last of some columns.

        Raises:
            OptionError: There is no such row group or column.
            FormatError: The footer names bytes that the file does not have.
        """
        if not 0 <= group < len(self):
            msg = f"there is no row group {group}; the file has {len(self)}"
            raise OptionError(msg, uri=str(self.uri))
        described = self.metadata.row_group(group)
        chunks = [described.column(number) for number in (range(len(self.names)) if columns is None else columns)]
        starts = [_first_byte(chunk) for chunk in chunks]
        stops = [start + chunk.total_compressed_size for start, chunk in zip(starts, chunks, strict=True)]
        span = Span(min(starts, default=0), max(stops, default=0))
        if not 0 <= span.start <= span.stop <= self.version.size:
            msg = f"row group {group} should lie at {span.start} to {span.stop}, of {self.version.size} bytes"
            raise FormatError(msg, uri=str(self.uri))
        return span

    def numbers(self, columns: Iterable[int | str] | None) -> list[int] | None:
        """Return the numbers of columns that are named, or numbered; a name takes all that is nested in it.

        Raises:
            OptionError: There is no such column.
        """
        if columns is None:
            return None
        found: list[int] = []
        for column in columns:
            if isinstance(column, str):
                below = [n for n, name in enumerate(self.names) if name == column or name.startswith(column + ".")]
            else:
                below = [column] if 0 <= column < len(self.names) else []
            if not below:
                msg = f"there is no column {column!r}{suggest(str(column), self.names)}"
                raise OptionError(msg, uri=str(self.uri))
            found += below
        return found


def _first_byte(chunk: Any) -> int:
    places = [chunk.data_page_offset]
    if chunk.dictionary_page_offset is not None:
        places.append(chunk.dictionary_page_offset)
    return int(min(places))


def read_footer(store: Store, uri: Uri, token: CancellationToken, footer_bytes: int = DEFAULT_FOOTER_BYTES) -> Footer:
    """Read a file's footer: a HEAD and a request, or one more when the footer is longer than was thought.

    Args:
        store: Where it is.
        uri: The file.
        token: Stops the read.
        footer_bytes: What to read from the end at first.

    Raises:
        FormatError: It is not a Parquet file, or damaged.
        StoreError: It cannot be read.
    """
    info = store.head(uri, token)
    version = Version(info.size, quoted(info.etag))
    tail = _tail(store, uri, version, max(_TRAILER_BYTES, footer_bytes), token)
    length = int.from_bytes(tail[-_TRAILER_BYTES:-4], "little") + _TRAILER_BYTES
    if tail[-4:] != _MAGIC or not _TRAILER_BYTES < length <= min(info.size, _MOST_FOOTER_BYTES):
        msg = "it is not a Parquet file, or its end is damaged"
        raise FormatError(msg, uri=str(uri), operation="read_footer")
    if length > len(tail):
        tail = _tail(store, uri, version, length, token)
    try:
        metadata = arrow("pyarrow.parquet").read_metadata(arrow("pyarrow").BufferReader(tail[-length:]))
    except (arrow("pyarrow").ArrowException, OSError) as error:
        msg = f"its footer is damaged: {error}"
        raise FormatError(msg, uri=str(uri), operation="read_footer") from error
    return Footer(uri, version, metadata)


def _tail(store: Store, uri: Uri, version: Version, length: int, token: CancellationToken) -> memoryview:
    return _read(store, uri, version, Span(max(0, version.size - length), version.size), token).memoryview()


def _read(store: Store, uri: Uri, version: Version, span: Span, token: CancellationToken) -> BytesView:
    lease = POOL.take(span.length)
    if span.length:
        fill(store, uri, span.start, bytes_of(lease), version, token)
    return view_of(lease)


def read_row_group(
    store: Store, footer: Footer, group: int, columns: Sequence[int] | None, token: CancellationToken
) -> BytesView:
    """Return the bytes of :meth:`Footer.span`, as they lie in the file.

    Raises:
        ObjectChangedError: The file is not the one that the footer was read from.
        StoreError: It cannot be read.
    """
    return _read(store, footer.uri, footer.version, footer.span(group, columns), token)


def arrow_stream(footer: Footer, group: int, columns: Sequence[int] | None, data: BytesView) -> BytesView:
    """Decode a row group that has been read into an Arrow IPC stream, as ``pyarrow.ipc.open_stream`` takes it.

    Args:
        footer: The file's.
        group: Which row group.
        columns: Numbers of the columns that were read.
        data: What :func:`read_row_group` returned for the same.

    Raises:
        FormatError: The row group is damaged.
    """
    pyarrow, parquet = arrow("pyarrow"), arrow("pyarrow.parquet")
    span = footer.span(group, columns)
    names = None if columns is None else [footer.names[number] for number in columns]
    sink = pyarrow.BufferOutputStream()
    try:
        file = parquet.ParquetFile(_Held(span.start, footer.version.size, data), metadata=footer.metadata)
        table = file.read_row_group(group, columns=names)
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, ObjectChangedError):
            raise
        msg = f"row group {group} cannot be decoded: {error}"
        raise FormatError(msg, uri=str(footer.uri), operation="decode") from error
    return BytesView.from_bytes(sink.getvalue())


class _Held(io.RawIOBase):
    """A file of which only one range can be read: it is in memory."""

    def __init__(self, start: int, size: int, data: BytesView) -> None:
        super().__init__()
        self._start = start
        self._size = size
        self._memory = bytes_of(data)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        first = self._place - self._start
        if first < 0:
            msg = f"byte {self._place} lies before the row group"
            raise OSError(msg)
        found = self._memory[first : first + len(target)]
        target[: len(found)] = found
        self._place += len(found)
        return len(found)
