"""The original's names for Parquet files: an index of row groups, and reading one of them.

Floor 6. Knows the original's signatures and translates them; reading is :mod:`s3dlio.parquet`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from s3dlio.buffers import BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.context import current_token, store_of
from s3dlio.crew import map_all
from s3dlio.errors import ObjectChangedError, OptionError
from s3dlio.parquet import DEFAULT_FOOTER_BYTES, Footer, arrow_stream, read_footer, read_row_group
from s3dlio.perprocess import PerProcess
from s3dlio.spellings import also_spelt
from s3dlio.uri import parse_object

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
        self._footers: dict[str, Footer] = {}
        self._fetched: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Return all but the lock."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take it up, with a lock of its own."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def ensure_indexed(self, uris: Iterable[str], epoch: int | None = None, batch_size: int = _FOOTERS_AT_ONCE) -> None:
        """Read the footers of those files whose footers were not read yet.

        Args:
            uris: The files.
            epoch: Taken; footers are read once, in whatever epoch. :meth:`invalidate_uri` has one read anew.
            batch_size: Files whose footers are read at once.

        Raises:
            FormatError: One is not a Parquet file.
            StoreError: One cannot be read.
        """
        del epoch
        missing = [uri for uri in dict.fromkeys(uris) if uri not in self._footers]

        def read(uri: str, token: CancellationToken) -> Footer:
            where = parse_object(uri, "ensure_indexed")
            return read_footer(store_of(where), where, token, self.footer_cap)

        self._footers.update(zip(missing, map_all(read, missing, batch_size, current_token()), strict=True))

    def _footer(self, uri: str) -> Footer:
        if uri not in self._footers:
            self.ensure_indexed([uri])
        return self._footers[uri]

    # -- what is known ----------------------------------------------------------------------------------

    def is_indexed(self, uri: str) -> bool:
        """Tell whether a file's footer was read."""
        return uri in self._footers

    def file_count(self) -> int:
        """Return how many files are indexed."""
        return len(self._footers)

    def __len__(self) -> int:
        """Return how many row groups the indexed files have together."""
        return sum(len(footer) for footer in self._footers.values())

    def invalidate_uri(self, uri: str) -> None:
        """Forget a file, for instance because it was written anew."""
        self._footers.pop(uri, None)
        self._fetched = {place: epoch for place, epoch in self._fetched.items() if place[0] != uri}

    def clear(self) -> None:
        """Forget all files."""
        self._footers, self._fetched = {}, {}

    # -- where row groups lie ---------------------------------------------------------------------------

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

    def rg_for_sample(self, uri: str, sample: int) -> int:
        """Return the row group that a row of the file lies in; for rows behind the end the last one.

        Raises:
            OptionError: The number is negative, or the file has no row group.
        """
        first_rows = self._footer(uri).first_rows
        if sample < 0 or len(first_rows) < 2:  # noqa: PLR2004 - the first row of one group, and the end
            msg = f"there is no row {sample}; the file has {first_rows[-1]}"
            raise OptionError(msg, uri=uri)
        return int(np.searchsorted(first_rows[:-1], sample, side="right")) - 1

    def rg_lookup(self, uri: str, sample: int) -> tuple[int, int, int]:
        """Return the row group that a row lies in (:meth:`rg_for_sample`), its first byte and its length in bytes."""
        group = self.rg_for_sample(uri, sample)
        return group, *self.rg_range(uri, group)

    # -- what was read in which epoch -------------------------------------------------------------------

    def was_fetched(self, uri: str, rg: int, epoch: int) -> bool:
        """Tell whether a row group was marked in this epoch or a later one."""
        return self._fetched.get((uri, rg), -1) >= epoch

    def mark_fetched(self, uri: str, rg: int, epoch: int) -> None:
        """Mark a row group as read in an epoch."""
        self._fetched[uri, rg] = epoch

    def check_and_mark(self, uri: str, rg: int, epoch: int) -> bool:
        """Do as :meth:`was_fetched` does and, if it was not, mark it; one thread of several gets ``False``."""
        with self._lock:
            is_known = self.was_fetched(uri, rg, epoch)
            if not is_known:
                self.mark_fetched(uri, rg, epoch)
            return is_known


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

    def forget(self, uri: str | None = None) -> None:
        """Drop what is known of a file, or of all."""
        with self._lock:
            gone = [place for place in self._footers if uri in (None, place[0])]
            for place in gone:
                del self._footers[place]

    def __len__(self) -> int:
        """Return how many files are known."""
        with self._lock:
            return len({uri for uri, _ in self._footers})


_KEPT = PerProcess(_Kept)


@also_spelt(col_indices="columns")
def parquet_get_rg(
    uri: str,
    rg_idx: int,
    columns: Sequence[int | str] | None = None,
    footer_cap: int = DEFAULT_FOOTER_BYTES,
    decode: str = "arrow",
) -> BytesView:
    """Read one row group of a Parquet file, with one request once its footer is known.

    Args:
        uri: The file. Its footer is remembered; when the file is replaced it is read anew.
        rg_idx: Which row group.
        columns: Names or numbers; default: all. What lies between them in the file is read as well. Also:
            ``col_indices``.
        footer_cap: Bytes to read from the file's end at first.
        decode: ``arrow``: an Arrow IPC stream of the rows. ``raw``: the bytes as they lie in the file.

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
        _KEPT.get().forget(uri)
        if not is_old:
            raise
    footer, _ = _KEPT.get().get(uri, footer_cap)
    return _row_group(footer, rg_idx, columns, decode)


def _row_group(footer: Footer, group: int, columns: Sequence[int | str] | None, decode: str) -> BytesView:
    numbers = footer.numbers(columns)
    data = read_row_group(store_of(footer.uri), footer, group, numbers, current_token())
    return data if decode == "raw" else arrow_stream(footer, group, numbers, data)


def parquet_rg_row_offsets(uri: str) -> list[int]:
    """Return the first row of each row group of a Parquet file, and at the end how many rows it has.

    Its footer is remembered, as by :func:`parquet_get_rg`.
    """
    footer, _ = _KEPT.get().get(uri, DEFAULT_FOOTER_BYTES)
    return [int(row) for row in footer.first_rows]


def parquet_cache_len() -> int:
    """Return of how many files the footers are remembered in this process (256 at most)."""
    return len(_KEPT.get())


def parquet_cache_invalidate(uri: str) -> None:
    """Forget a file's footer, for instance because the file was written anew."""
    _KEPT.get().forget(uri)


def parquet_cache_clear() -> None:
    """Forget all footers."""
    _KEPT.get().forget()
