"""Reading the next batches of a map dataset while the current one is in use.

Floor 5. Knows which numbers were asked for and which were announced; must not know formats or frameworks.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from s3dlio.dataset import Ahead, ObjectDataset
from s3dlio.gather import Sample
from s3dlio.orders import Array
from s3dlio.samples import Ints

#: A run of batches is taken for a pattern after so many of them.
_PATTERN_AFTER = 2
#: Samples of an announced order that are read together where they are records.
_GROUP = 64


class Coming(Protocol):
    """Samples in the order in which they will be asked for."""

    def __len__(self) -> int: ...
    def samples(self, first: int, stop: int) -> Array:
        """Return the samples of the steps ``first <= step < stop``."""


class Foresight:
    """Reads ahead along an order that was told, or found.

    Told an order (:meth:`announce`), or finding that batches follow each other at an even distance, it
    has the samples to come read in the background, and hands them out as long as they are asked for in
    that order. A batch that is not the expected one ends that; nothing is ever wrong, only early.
    Thread-safe; belongs to one process.

    Args:
        dataset: Whose samples.
        ahead: How far.
    """

    def __init__(self, dataset: ObjectDataset, ahead: Ahead) -> None:
        self._dataset = dataset
        self._ahead = ahead
        self._lock = threading.Lock()
        self._coming: Iterator[Sample] | None = None
        self._order: Coming | None = None
        self._at = 0
        self._last: tuple[int, int] = (-1, 0)  # first number and length of the batch before
        self._stride = 0
        self._repeats = 0

    def announce(self, order: Coming, first: int = 0) -> None:
        """Say which samples will be asked for next: those of ``order`` from a step on."""
        with self._lock:
            self._begin(order, first)

    def take(self, numbers: Sequence[int]) -> list[Sample] | None:
        """Return the batch if it is the expected one; else note what it says about the pattern."""
        with self._lock:
            if self._coming is not None and self._order is not None:
                stop = self._at + len(numbers)
                if self._order.samples(self._at, stop).tolist() == list(numbers):
                    self._at = stop
                    return self._next(self._coming, len(numbers))
                self._begin(None)
            self._observe(numbers)
            return None

    def _next(self, coming: Iterator[Sample], count: int) -> list[Sample]:
        try:
            batch = list(itertools.islice(coming, count))
        except BaseException:
            self._begin(None)
            raise
        if self._order is not None and self._at >= len(self._order):
            self._begin(None)
        return batch

    def _begin(self, order: Coming | None, first: int = 0) -> None:
        self._order, self._at, self._coming = order, first, None
        if order is not None and len(order) > first:
            groups = _groups(order, first)
            self._coming = self._dataset.stream_groups(groups, self._ahead)

    def _observe(self, numbers: Sequence[int]) -> None:
        """Look whether batches of consecutive numbers follow each other at an even distance."""
        first, length = numbers[0], len(numbers)
        before, length_before = self._last
        self._last = (first, length)
        even = list(numbers) == list(range(first, first + length))
        stride = first - before
        if not even or before < 0 or length != length_before or stride < length:
            self._repeats = 0
            return
        self._repeats = self._repeats + 1 if stride == self._stride else 1
        self._stride = stride
        if self._repeats >= _PATTERN_AFTER - 1:
            self._begin(Strided(first + stride, len(self._dataset), (length, stride)))


def _groups(order: Coming, first: int) -> Iterator[Ints]:
    return (order.samples(at, at + _GROUP) for at in range(first, len(order), _GROUP))


class Strided:
    """The numbers of batches at an even distance: ``length`` numbers, then a jump."""

    def __init__(self, first: int, stop: int, step: tuple[int, int]) -> None:
        self._first = first
        self._length, self._stride = step
        whole, rest = divmod(max(0, stop - first), self._stride)
        self._count = whole * self._length + min(rest, self._length)

    def __len__(self) -> int:
        return self._count

    def samples(self, first: int, stop: int) -> Array:
        """See :class:`Coming`."""
        steps = np.arange(first, min(stop, self._count), dtype=np.int64)
        batch, offset = np.divmod(steps, self._length)
        found: Array = self._first + batch * self._stride + offset
        return found
