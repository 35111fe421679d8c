"""Bytes that are made up: random, and exactly as repetitive and as compressible as was asked for.

Floor 4. Knows how the bytes come about; must not know formats (:mod:`s3dlio.synthetic_files`) nor stores.

Duplicates: the bytes have a period of ``size / dedup_factor``, a multiple of the largest block (1 MiB at most)
that it can be without changing the factor by more than a twentieth. So whoever looks for equal blocks of any size
from 4 KiB up to that finds the factor, wherever in a file the bytes begin.
Compression: of each page of 4 KiB the first 1/``compress_factor`` is random, the rest is zeros.

Random bytes are NumPy's SFC64 as it comes (its stream is fixed, that of NumPy's distributions is not), seeded anew
for each MiB, so that any of them can be made without the ones before. Measured: 3.3 GB/s a core; PCG64 2.7.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from s3dlio.bounds import whole
from s3dlio.buffers import KIB, MIB, POOL, BytesView, bytes_of, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import map_all
from s3dlio.errors import OptionError

_PAGE = 4 * KIB
_STRETCH = MIB
#: A period of at most so many stretches is kept, of others the last stretch: the next read may want the rest of it.
_MOST_KEPT = 8
#: Random bytes of a page at least: pages are to differ from each other for certain.
_LEAST_RANDOM = 16
MOST_COMPRESS_FACTOR = _PAGE // _LEAST_RANDOM
#: How much the dedup factor may be missed for the sake of larger equal blocks.
_SLACK = 1.05

Array = np.ndarray[Any, np.dtype[np.uint8]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What bytes to make up.

    Attributes:
        size: How many.
        dedup_factor: Bytes per different byte: 1 for no duplicates, 4 if a quarter is different.
        compress_factor: Bytes per random byte: 1 for incompressible, up to 256.
        seed: The same seed (and number) makes the same bytes. ``None`` chooses one.
        number: Which of many objects with one seed.

    Raises:
        OptionError: A number is out of its range.
    """

    size: int
    dedup_factor: float = 1
    compress_factor: float = 1
    seed: int | None = None
    number: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        object.__setattr__(self, "size", whole("size", self.size))
        _require(self.size >= 0, f"size must be bytes, 0 or more, not {self.size!r}")
        _require(self.dedup_factor >= 1, f"dedup_factor must be at least 1, not {self.dedup_factor!r}")
        fits = 1 <= self.compress_factor <= MOST_COMPRESS_FACTOR
        _require(fits, f"compress_factor must be 1 to {MOST_COMPRESS_FACTOR}, not {self.compress_factor!r}")
        _require(self.seed is None or self.seed >= 0, f"seed must not be negative: {self.seed!r}")
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbits(64))


def _require(condition: object, message: str) -> None:
    if not condition:
        raise OptionError(message, operation="generate")


class Pattern:
    """The bytes of a recipe, any stretch of them. Thread-safe.

    Args:
        recipe: What they are.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.size = recipe.size
        self.period = _period(recipe.size, recipe.dedup_factor)
        self._recipe = recipe
        self._random = min(_PAGE, max(_LEAST_RANDOM, round(_PAGE / recipe.compress_factor / 8) * 8))
        self._kept: dict[int, Array] = {}

    def _stretch(self, number: int) -> Array:
        """Return one MiB, or what is left of it, of the different bytes."""
        kept = self._kept.get(number)
        if kept is None:
            kept = self._make(number)
            if self.period > _MOST_KEPT * _STRETCH:
                self._kept = {}
            self._kept[number] = kept
        return kept

    def _make(self, number: int) -> Array:
        length = min(_STRETCH, self.period - number * _STRETCH)
        seeds = np.random.SeedSequence(self._recipe.seed, spawn_key=(self._recipe.number, number))
        source = np.random.SFC64(seeds)
        if self._random == _PAGE:
            return _raw(source, length)[:length]
        pages = -(-length // _PAGE)
        made = np.zeros((pages, _PAGE), np.uint8)
        made[:, : self._random] = _raw(source, pages * self._random).reshape(pages, self._random)
        return made.reshape(-1)[:length]

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes from ``start`` to ``stop``, in order, in read-only pieces of at most 1 MiB."""
        end = self.size if stop is None else stop
        while start < end:
            number, skip = divmod(start % self.period, _STRETCH)
            piece = bytes_of(self._stretch(number)).toreadonly()[skip : skip + end - start]
            yield piece
            start += len(piece)

    def fill(self, target: memoryview, start: int) -> None:
        """Fill memory with the bytes from ``start`` on."""
        array = np.frombuffer(target, np.uint8)
        done = 0
        for piece in self.pieces(start, start + len(target)):
            array[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes from ``start`` to ``stop`` in one piece."""
        pieces = list(self.pieces(start, stop))
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _raw(source: np.random.SFC64, length: int) -> Array:
    words: np.ndarray[Any, np.dtype[np.uint64]] = np.asarray(source.random_raw(-(-length // 8)))
    return words.astype("<u8", copy=False).view(np.uint8)  # the same bytes on any machine


def _period(size: int, factor: float) -> int:
    """Return after how many bytes they repeat."""
    if factor == 1 or size <= _PAGE:
        return max(size, 1)
    unit = _STRETCH
    while True:
        period = max(1, round(size / factor / unit)) * unit
        fits = size / _SLACK <= period * factor <= size * _SLACK
        if fits or unit == _PAGE:
            return min(size, period)
        unit //= 2


def make(recipe: Recipe, threads: int, token: CancellationToken) -> BytesView:
    """Return the bytes of a recipe, made by several threads.

    Raises:
        CancelledError: ``token`` was cancelled.
    """
    lease = POOL.take(recipe.size)
    make_into(bytes_of(lease), recipe, threads, token)
    return view_of(lease)


def make_into(target: memoryview, recipe: Recipe, threads: int, token: CancellationToken) -> None:
    """Fill memory of a recipe's size with its bytes, by several threads.

    Raises:
        CancelledError: ``token`` was cancelled.
    """
    pattern = Pattern(recipe)
    # Eight shares to a thread, of whole stretches: who is done early takes another.
    step = -(-recipe.size // (8 * max(1, threads) * _STRETCH)) * _STRETCH or _STRETCH

    def fill(start: int, token: CancellationToken) -> None:
        for begin in range(start, min(start + step, recipe.size), _STRETCH):
            token.check()
            pattern.fill(target[begin : min(begin + _STRETCH, start + step, recipe.size)], begin)

    map_all(fill, range(0, recipe.size, step), threads, token)
