"""The order of an epoch: which sample stands at which position.

Floor 0. Pure arithmetic; must not know who reads which positions (that is :mod:`s3dlio.shards`), nor
objects or I/O. An order depends on the number of samples, the kind of shuffle, the seed and the epoch,
and on nothing else. It is computed where it is asked for, never stored: a hundred million samples take
no memory, and any position can be asked for first.

A permutation is a keyed bijection: a Feistel network on the cells of a table that is a little larger
than the domain, walked until a cell of the domain comes up (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002). Its arithmetic is that of unsigned 64-bit integers, so that it is the same on
every machine and under every release of NumPy, whose own generators promise no such thing.
"""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np

from s3dlio.bounds import whole
from s3dlio.errors import OptionError, suggest

Array = np.ndarray[Any, np.dtype[np.int64]]
_Words = np.ndarray[Any, np.dtype[np.uint64]]

#: Samples that a block shuffle mixes with each other, by default: 100 MiB of samples of 100 KiB.
DEFAULT_SHUFFLE_BUFFER = 1024
#: Blocks that lie side by side in a window. A multiple of the usual numbers of readers: those then
#: read whole blocks, and not parts of all of them.
LANES = 64
_SHUFFLES = ("none", "global", "block")
#: Rounds of the network. Small domains need many until all of their permutations are equally likely
#: (measured on six samples, by chi-squared over its degrees of freedom: 2.3 with 12, 1.1 with 16).
_ROUNDS_SMALL = 16
_ROUNDS_LARGE = 8
_SMALL = 1 << 16
_MASK = (1 << 64) - 1


def _mix(words: _Words) -> _Words:
    """Scatter 64-bit words (the finalizer of SplitMix64, Steele and others, 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _key(*parts: int) -> int:
    """Make one 64-bit key out of several whole numbers."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = _mix(key + np.uint64((part + 0x9E3779B97F4A7C15) & _MASK))
    return int(key[0])


def permute(positions: Array, count: int, key: _Words | int) -> Array:
    """Permute whole numbers below ``count``: the same key always gives the same permutation.

    Args:
        positions: int64, any shape, each at least 0 and below ``count``.
        count: Size of the domain, at most 2**62.
        key: One 64-bit key, or one for each position.

    Returns:
        int64, of the same shape.
    """
    if count <= 1:
        return positions.copy()
    keys = np.broadcast_to(np.asarray(key, np.uint64), positions.shape)
    found = _shuffled(positions.astype(np.uint64), count, keys)
    outside = found >= count
    while outside.any():  # few: the table has at most sqrt(count) cells too many
        found[outside] = _shuffled(found[outside], count, keys[outside])
        outside = found >= count
    return found.astype(np.int64)


def _shuffled(cells: _Words, count: int, keys: _Words) -> _Words:
    width = math.isqrt(count - 1) + 1
    height = -(-count // width)
    left, right = cells // np.uint64(height), cells % np.uint64(height)
    for turn in range(0, _ROUNDS_SMALL if count < _SMALL else _ROUNDS_LARGE, 2):
        left = (left + _scaled(right, keys, turn, width)) % np.uint64(width)
        right = (right + _scaled(left, keys, turn + 1, height)) % np.uint64(height)
    return left * np.uint64(height) + right


def _scaled(words: _Words, keys: _Words, turn: int, below: int) -> _Words:
    """Return pseudo-random numbers below ``below`` (at most 2**32), one for each word."""
    mixed = _mix(words + keys + np.uint64(turn * 0x9E3779B97F4A7C15 & _MASK))
    return ((mixed >> np.uint64(32)) * np.uint64(below)) >> np.uint64(32)


class Order(abc.ABC):
    """An epoch's order of so many samples. Immutable, picklable, safe to share among threads.

    Attributes:
        length: Samples.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.length

    @abc.abstractmethod
    def at(self, positions: Array) -> Array:
        """Return the samples (int64) that stand at some positions."""

    def windows(self, positions: Array) -> Array | None:
        """Return in which window each position lies, if windows are to be read whole; else ``None``."""
        return None


class Sequential(Order):
    """As the samples are numbered."""

    def at(self, positions: Array) -> Array:
        """See :meth:`Order.at`."""
        return positions


class Permuted(Order):
    """All samples permuted."""

    def __init__(self, count: int, key: int) -> None:
        super().__init__(count)
        self._key = key

    def at(self, positions: Array) -> Array:
        """See :meth:`Order.at`."""
        return permute(positions, self.length, self._key)


class Blocks(Order):
    """Blocks of neighbouring samples, permuted, and mixed a window at a time: shards are read in runs.

    A window lays :data:`LANES` blocks side by side, each permuted in itself, and takes one sample of each
    in turn. The samples that fill no whole block stand together at the end of some window.

    Args:
        count: Samples.
        key: Of all its permutations.
        window: Samples in a window; rounded up to whole lanes.
    """

    def __init__(self, count: int, key: int, window: int) -> None:
        super().__init__(count)
        self._key = key
        self._block = -(-window // LANES)
        self._full, self._rest = divmod(count, self._block)
        self._window = self._block * LANES
        rounds = self._full // LANES
        self._rest_at = key % (rounds + 1) * self._window

    def at(self, positions: Array) -> Array:
        """See :meth:`Order.at`."""
        rest = self._in_rest(positions)
        place = np.where(positions >= self._rest_at, positions - self._rest, positions)
        place[rest] = 0
        found = self._of_blocks(place) if self._full else np.zeros_like(positions)
        offset = permute(positions[rest] - self._rest_at, self._rest, _key(self._key, self._full))
        found[rest] = self._full * self._block + offset
        return found

    def _in_rest(self, positions: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return (positions >= self._rest_at) & (positions < self._rest_at + self._rest)

    def _of_blocks(self, place: Array) -> Array:
        turn, inside = np.divmod(place, self._window)
        # The last window may have fewer blocks.
        lanes = np.minimum(self._full - turn * LANES, LANES)
        step, lane = np.divmod(inside, lanes)
        block = permute(turn * LANES + lane, self._full, self._key)
        keys = _mix(block.astype(np.uint64) + np.uint64(self._key))
        return block * self._block + permute(step, self._block, keys)

    def windows(self, positions: Array) -> Array:
        """See :meth:`Order.windows`."""
        behind = positions >= self._rest_at + self._rest
        place = np.where(behind, positions - self._rest, positions)
        numbers = place // self._window
        # The samples of no whole block are a window of their own.
        numbers[self._in_rest(positions)] = -1
        return numbers


def epoch_order(
    count: int, *, shuffle: bool | str = False, seed: int = 0, epoch: int = 0, buffer: int = DEFAULT_SHUFFLE_BUFFER
) -> Order:
    """Return the order of ``count`` samples in an epoch.

    Args:
        count: Samples.
        shuffle: ``none`` (or ``False``); ``global`` (or ``True``): a permutation of all samples; ``block``:
            blocks of neighbours permuted and mixed, for samples that lie in large files.
        seed: Each seed has its own orders.
        epoch: Each epoch has its own order.
        buffer: Samples that a block shuffle mixes with each other.

    Raises:
        OptionError: There is no such shuffle, or a number is out of its bounds.
    """
    kind = shuffle_kind(shuffle)
    seed, epoch, buffer = whole("seed", seed), whole("epoch", epoch, 0), whole("shuffle_buffer", buffer, 1)
    if kind == "global":
        return Permuted(count, _key(seed, epoch))
    if kind == "block":
        return Blocks(count, _key(seed, epoch), buffer)
    return Sequential(count)


def shuffle_kind(shuffle: bool | str) -> str:  # noqa: FBT001 - the value of an option
    """Return which shuffle is meant.

    Raises:
        OptionError: There is no such one.
    """
    if isinstance(shuffle, bool):
        return "global" if shuffle else "none"
    if shuffle not in _SHUFFLES:
        hint = suggest(str(shuffle), _SHUFFLES)
        msg = f"shuffle must be True, False or one of {', '.join(_SHUFFLES)}, not {shuffle!r}{hint}"
        raise OptionError(msg)
    return shuffle
