"""The original's names for making Parquet files up.

Floor 6. Knows the original's signatures; the format is pyarrow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from s3dlio.api import put
from s3dlio.buffers import BytesView
from s3dlio.errors import OptionError
from s3dlio.object_writer import create_writer
from s3dlio.parquet import arrow
from s3dlio.spellings import also_spelt
from s3dlio.writer_options import WriterOptions


@also_spelt(row_group_size="rows_per_rg", num_rg="num_row_groups")
def generate_and_write_parquet_schema_streaming(
    uri: str, columns: Sequence[tuple[str, int]], rows_per_rg: int, num_row_groups: int
) -> int:
    """Write a Parquet file of random bytes, a row group at a time: memory stays near one of them.

    Args:
        uri: The file.
        columns: Of each its name and its bytes per row.
        rows_per_rg: Rows per row group. Also: ``row_group_size``.
        num_row_groups: Row groups. Also: ``num_rg``.

    Returns:
        Bytes of the file.

    Raises:
        OptionError: A number is less than 1, or there is no column.
        StoreError: It cannot be written; nothing of it is left.
    """
    with create_writer(uri, WriterOptions(compression="none")) as writer:
        _write(_Sink(writer.write), columns, rows_per_rg, num_row_groups)
    return writer.bytes_written()


@also_spelt(row_group_size="rows_per_rg", num_rg="num_row_groups")
def generate_and_write_parquet_schema(
    uri: str, columns: Sequence[tuple[str, int]], rows_per_rg: int, num_row_groups: int
) -> int:
    """Do as :func:`generate_and_write_parquet_schema_streaming` does, in memory and with one put."""
    data = generate_parquet_bytes_schema(columns, rows_per_rg, num_row_groups)
    put(uri, data.memoryview())
    return len(data)


def generate_parquet_bytes_schema(
    columns: Sequence[tuple[str, int]], rows_per_rg: int, num_row_groups: int
) -> BytesView:
    """Return a Parquet file of random bytes, as :func:`generate_and_write_parquet_schema_streaming` writes one."""
    return _made(lambda sink: _write(sink, columns, rows_per_rg, num_row_groups))


def generate_parquet_bytes(num_cols: int, rows_per_rg: int, num_row_groups: int) -> BytesView:
    """Return a Parquet file of random numbers (float32, in [0, 1)); its columns are ``col0``, ``col1``, ...

    Args:
        num_cols: Columns.
        rows_per_rg: Rows per row group.
        num_row_groups: Row groups.

    Raises:
        OptionError: A number is less than 1.
    """
    _check_numbers(num_cols, rows_per_rg, num_row_groups)
    pyarrow = arrow("pyarrow")
    schema = pyarrow.schema([(f"col{number}", pyarrow.float32()) for number in range(num_cols)])
    return _made(lambda sink: _write_tables(sink, schema, _numbers(schema, rows_per_rg, num_row_groups)))


def generate_and_write_parquet(uri: str, num_cols: int, rows_per_rg: int, num_row_groups: int) -> int:
    """Write what :func:`generate_parquet_bytes` returns; return how many bytes these are."""
    data = generate_parquet_bytes(num_cols, rows_per_rg, num_row_groups)
    put(uri, data.memoryview())
    return len(data)


def _made(write: Callable[[Any], None]) -> BytesView:
    sink = arrow("pyarrow").BufferOutputStream()
    write(sink)
    return BytesView.from_bytes(sink.getvalue())


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


def _check_numbers(*numbers: int) -> None:
    if min(numbers, default=0) < 1:
        msg = "a Parquet file needs columns, rows and row groups: each number must be at least 1"
        raise OptionError(msg, operation="generate")


def _write(sink: Any, columns: Sequence[tuple[str, int]], rows: int, groups: int) -> None:
    sizes = [size for _, size in columns]
    _check_numbers(len(sizes), rows, groups, *sizes)
    pyarrow = arrow("pyarrow")
    schema = pyarrow.schema([(name, pyarrow.binary(size)) for name, size in columns])
    _write_tables(sink, schema, _tables(schema, sizes, rows, groups))


def _write_tables(sink: Any, schema: Any, tables: Iterable[Any]) -> None:
    """Write each table as a row group."""
    parquet = arrow("pyarrow.parquet")
    with parquet.ParquetWriter(sink, schema, compression="none", use_dictionary=False) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows)


def _numbers(schema: Any, rows: int, groups: int) -> Iterator[Any]:
    pyarrow = arrow("pyarrow")
    random = np.random.default_rng()
    for _ in range(groups):
        yield pyarrow.Table.from_arrays([random.random(rows, np.float32) for _ in schema], schema=schema)


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
