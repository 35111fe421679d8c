"""The original's names for Parquet files: an index of row groups, reading one, and generating files.

Floor 6. Knows the original's signatures and translates them; reading is :mod:`s3dlio.parquet`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from s3dlio.api import put
from s3dlio.buffers import BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.context import current_token, store_of
from s3dlio.crew import map_all
from s3dlio.errors import ObjectChangedError, OptionError
from s3dlio.object_writer import create_writer
from s3dlio.parquet import DEFAULT_FOOTER_BYTES, Footer, arrow, arrow_stream, read_footer, read_row_group
from s3dlio.perprocess import PerProcess
from s3dlio.uri import parse_object
from s3dlio.writer_options import WriterOptions

#: Files whose footers are read at once, by default: the original's.
_FOOTERS_AT_ONCE = 16
#: Footers that :func:`parquet_get_rg` remembers. They are some 10 KB each, for tables of many columns 1 MB.
_FOOTERS_KEPT = 256


class PyParquetIndex:
    """Where the row groups of Parquet files lie. Thread-safe; it pickles without its lock.

    Args:
        col_indices: Numbers of the columns that :meth:`rg_range` shall span; default: all.
        footer_cap: Bytes to read from a file's end at first.

    Example:
        >>> index = PyParquetIndex()                                  # doctest: +SKIP
        >>> index.ensure_indexed(["s3://bucket/a.parquet"])           # doctest: +SKIP
        >>> offset, length = index.rg_range("s3://bucket/a.parquet", 0)  # doctest: +SKIP
    """

    def __init__(self, col_indices: Sequence[int] | None = None, footer_cap: int = DEFAULT_FOOTER_BYTES) -> None:
        self.col_indices = None if col_indices is None else list(col_indices)
        self.footer_cap = footer_cap
        self._epoch: int | None = None
        self._footers: dict[str, Footer] = {}

    def ensure_indexed(self, uris: Iterable[str], epoch: int | None = None, batch_size: int = _FOOTERS_AT_ONCE) -> None:
        """Read the footers of those files whose footers were not read yet.

        Args:
            uris: The files.
            epoch: Another one than last time has all footers read anew.
            batch_size: Files whose footers are read at once.

        Raises:
            FormatError: One is not a Parquet file.
            StoreError: One cannot be read.
        """
        if epoch is not None and epoch != self._epoch:
            self._epoch, self._footers = epoch, {}
        missing = [uri for uri in dict.fromkeys(uris) if uri not in self._footers]

        def read(uri: str, token: CancellationToken) -> Footer:
            where = parse_object(uri, "ensure_indexed")
            return read_footer(store_of(where), where, token, self.footer_cap)

        self._footers.update(zip(missing, map_all(read, missing, batch_size, current_token()), strict=True))

    def _footer(self, uri: str) -> Footer:
        if uri not in self._footers:
            self.ensure_indexed([uri])
        return self._footers[uri]

    def file_rg_count(self, uri: str) -> int:
        """Return how many row groups a file has."""
        return len(self._footer(uri))

    def rg_range(self, uri: str, rg: int) -> tuple[int, int]:
        """Return the first byte and the length, in bytes, of a row group, or of its chosen columns.

        Raises:
            OptionError: There is no such row group or column.
        """
        footer = self._footer(uri)
        span = footer.span(rg, footer.numbers(self.col_indices))
        return span.start, span.length

    def rg_lookup(self, uri: str, sample: int) -> tuple[int, int]:
        """Return the row group that a row of the file lies in, and the row's number in it.

        Raises:
            OptionError: There is no such row.
        """
        first_rows = self._footer(uri).first_rows
        if not 0 <= sample < first_rows[-1]:
            msg = f"there is no row {sample}; the file has {first_rows[-1]}"
            raise OptionError(msg, uri=uri)
        group = int(np.searchsorted(first_rows, sample, side="right")) - 1
        return group, int(sample - first_rows[group])

    def __len__(self) -> int:
        """Return how many files are indexed."""
        return len(self._footers)


class _Kept:
    """The footers read last in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._footers: OrderedDict[tuple[str, int], Footer] = OrderedDict()

    def get(self, uri: str, footer_cap: int) -> tuple[Footer, bool]:
        """Return a footer, and whether it was remembered."""
        with self._lock:
            known = self._footers.get((uri, footer_cap))
            if known is not None:
                self._footers.move_to_end((uri, footer_cap))
                return known, True
        where = parse_object(uri, "parquet_get_rg")
        footer = read_footer(store_of(where), where, current_token(), footer_cap)
        with self._lock:
            self._footers[uri, footer_cap] = footer
            while len(self._footers) > _FOOTERS_KEPT:
                self._footers.popitem(last=False)
        return footer, False

    def forget(self, uri: str, footer_cap: int) -> None:
        """Drop a footer."""
        with self._lock:
            self._footers.pop((uri, footer_cap), None)


_KEPT = PerProcess(_Kept)


def parquet_get_rg(
    uri: str,
    rg_idx: int,
    columns: Sequence[int | str] | None = None,
    footer_cap: int = DEFAULT_FOOTER_BYTES,
    decode: str = "raw",
) -> BytesView:
    """Read one row group of a Parquet file, with one request once its footer is known.

    Args:
        uri: The file. Its footer is remembered; when the file is replaced it is read anew.
        rg_idx: Which row group.
        columns: Names or numbers; default: all. What lies between them in the file is read as well.
        footer_cap: Bytes to read from the file's end at first.
        decode: ``raw``: the bytes as they lie in the file. ``arrow``: an Arrow IPC stream of the rows.

    Raises:
        OptionError: There is no such row group, column or way to decode.
        FormatError: It is not a Parquet file, or damaged.
        StoreError: It cannot be read.
    """
    if decode not in ("raw", "arrow"):
        msg = f"decode must be raw or arrow, not {decode!r}"
        raise OptionError(msg, uri=uri, operation="parquet_get_rg")
    footer, is_old = _KEPT.get().get(uri, footer_cap)
    try:
        return _row_group(footer, rg_idx, columns, decode)
    except ObjectChangedError:
        _KEPT.get().forget(uri, footer_cap)
        if not is_old:
            raise
    footer, _ = _KEPT.get().get(uri, footer_cap)
    return _row_group(footer, rg_idx, columns, decode)


def _row_group(footer: Footer, group: int, columns: Sequence[int | str] | None, decode: str) -> BytesView:
    numbers = footer.numbers(columns)
    data = read_row_group(store_of(footer.uri), footer, group, numbers, current_token())
    return data if decode == "raw" else arrow_stream(footer, group, numbers, data)


def generate_and_write_parquet_schema_streaming(
    uri: str, columns: Sequence[tuple[str, int]], row_group_size: int, num_rg: int
) -> int:
    """Write a Parquet file of random bytes, a row group at a time: memory stays near one of them.

    Args:
        uri: The file.
        columns: Of each its name and its bytes per row.
        row_group_size: Rows per row group.
        num_rg: Row groups.

    Returns:
        Bytes of the file.

    Raises:
        OptionError: A number is less than 1, or there is no column.
        StoreError: It cannot be written; nothing of it is left.
    """
    with create_writer(uri, WriterOptions(compression="none")) as writer:
        _write(_Sink(writer.write), columns, row_group_size, num_rg)
    return writer.bytes_written()


def generate_and_write_parquet_schema(
    uri: str, columns: Sequence[tuple[str, int]], row_group_size: int, num_rg: int
) -> int:
    """Do as :func:`generate_and_write_parquet_schema_streaming` does, in memory and with one put."""
    sink = arrow("pyarrow").BufferOutputStream()
    _write(sink, columns, row_group_size, num_rg)
    data = sink.getvalue()
    put(uri, data)
    return int(data.size)


class _Sink:
    """What pyarrow wants of a file to write to."""

    closed = False

    def __init__(self, write: Any) -> None:
        self._write = write

    def write(self, data: Any) -> int:
        """Write bytes."""
        return int(self._write(data))

    def flush(self) -> None:
        """Do nothing: the writer sends what is whole by itself."""

    def close(self) -> None:
        """Do nothing: whoever made the writer ends it."""


def _write(sink: Any, columns: Sequence[tuple[str, int]], rows: int, groups: int) -> None:
    if not columns or rows < 1 or groups < 1 or any(size < 1 for _, size in columns):
        msg = "a Parquet file needs columns, rows and row groups: each number must be at least 1"
        raise OptionError(msg, operation="generate_and_write_parquet_schema")
    pyarrow, parquet = arrow("pyarrow"), arrow("pyarrow.parquet")
    schema = pyarrow.schema([(name, pyarrow.binary(size)) for name, size in columns])
    with parquet.ParquetWriter(sink, schema, compression="none", use_dictionary=False) as writer:
        for table in _tables(schema, [size for _, size in columns], rows, groups):
            writer.write_table(table, row_group_size=rows)


def _tables(schema: Any, sizes: Sequence[int], rows: int, groups: int) -> Iterator[Any]:
    pyarrow = arrow("pyarrow")
    random = np.random.default_rng()
    for _ in range(groups):
        buffers = [pyarrow.py_buffer(random.bytes(size * rows)) for size in sizes]
        arrays = [
            pyarrow.FixedSizeBinaryArray.from_buffers(field.type, rows, [None, buffer])
            for field, buffer in zip(schema, buffers, strict=True)
        ]
        yield pyarrow.Table.from_arrays(arrays, schema=schema)
