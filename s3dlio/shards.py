"""Who reads what: ranks, the workers of a rank, and where an epoch is resumed.

Floor 0. Pure arithmetic on positions in an epoch; must not know ranks' or workers' frameworks, objects
or I/O. What stands at a position is :mod:`s3dlio.orders`.

Ranks take positions in turn, so that after equal steps of all of them a beginning of the epoch has been
consumed, and one number says which: where to resume, with however many ranks. The workers of a rank take
its samples in turn as well, a batch at a time, so that a loader that takes batches from its workers in
turn yields the same samples in the same order however many workers there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from s3dlio.errors import OptionError, suggest
from s3dlio.orders import Array, Order

#: What happens when samples do not divide evenly among ranks: ``pad`` repeats some from the beginning so
#: that all have the same count, ``drop`` leaves the last few out, ``uneven`` gives some ranks one more.
Uneven = Literal["pad", "drop", "uneven"]
_POLICIES = ("pad", "drop", "uneven")
#: Steps whose samples are computed at once: windows may be cut at their ends, so there are many.
_STEPS_AT_ONCE = 1 << 14
#: ... and of batches: 0.5 us a step, where 32 at once take 5.
_STEPS_OF_BATCHES = 1 << 11


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` readers that share the samples.

    Attributes:
        index: Which one, from 0.
        count: How many there are, at least 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            OptionError: ``index`` is not within ``count``.
        """
        if not 0 <= self.index < self.count:
            msg = f"shard index {self.index} is not within 0 <= index < {self.count}"
            raise OptionError(msg)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """The positions of an epoch that one rank reads, in the order in which it reads them.

    Attributes:
        count: Samples in the epoch.
        rank: Whose part.
        policy: What to do with a remainder: ``pad``, ``drop`` or ``uneven``.
        start: Positions below this one have been consumed, by all ranks together.
    """

    count: int
    rank: Shard = Shard()
    policy: str = "uneven"
    start: int = 0

    def __post_init__(self) -> None:
        """Check the policy.

        Raises:
            OptionError: There is no such one.
        """
        if self.policy not in _POLICIES:
            hint = suggest(self.policy, _POLICIES)
            msg = f"uneven must be one of {', '.join(_POLICIES)}, not {self.policy!r}{hint}"
            raise OptionError(msg)

    def __len__(self) -> int:
        """Return how many positions this rank reads."""
        left, ranks = max(0, self.count - self.start), self.rank.count
        each = {"drop": left, "pad": left + ranks - 1, "uneven": left + ranks - 1 - self.rank.index}
        return each[self.policy] // ranks

    def at(self, turns: Array) -> Array:
        """Return the positions (int64) that this rank reads at some of its turns."""
        ahead = self.rank.index + turns * self.rank.count
        left = self.count - self.start
        # Behind the end the list goes round, as in torch's DistributedSampler.
        return self.start + (ahead if self.policy != "pad" or left < 1 else ahead % left)

    def consumed(self, turns: int) -> int:
        """Return how many positions all ranks have consumed once each has read ``turns`` of its own."""
        return min(self.start + turns * self.rank.count, self.count)


@dataclasses.dataclass(frozen=True, slots=True)
class Hand:
    """The turns of a rank that one of its workers takes: batch after batch, each worker one in turn.

    Attributes:
        turns: Of the rank.
        worker: Which of its workers.
        batch: Samples in a batch.
    """

    turns: int
    worker: Shard = Shard()
    batch: int = 1

    def __len__(self) -> int:
        """Return how many turns this worker takes."""
        return self._before(self.worker.index + 1) - self._before(self.worker.index)

    def _before(self, workers: int) -> int:
        """Return how many turns the first so many workers take together."""
        rounds, rest = divmod(self.turns, self.batch * self.worker.count)
        return rounds * self.batch * workers + min(rest, self.batch * workers)

    def at(self, steps: Array) -> Array:
        """Return which turns of the rank (int64) are this worker's steps."""
        number, inside = np.divmod(steps, self.batch)
        return (number * self.worker.count + self.worker.index) * self.batch + inside


@dataclasses.dataclass(frozen=True, slots=True)
class Walk:
    """All that one reader reads of an epoch: samples by the steps it takes.

    Attributes:
        order: Of the epoch.
        share: What its rank reads.
        hand: What of this it reads itself.
    """

    order: Order
    share: Share
    hand: Hand

    def __len__(self) -> int:
        """Return how many steps there are."""
        return len(self.hand)

    def positions(self, first: int, stop: int) -> Array:
        """Return the positions in the epoch of the steps ``first <= step < stop``."""
        return self.share.at(self.hand.at(np.arange(first, min(stop, len(self)), dtype=np.int64)))

    def samples(self, first: int, stop: int) -> Array:
        """Return the samples of the steps ``first <= step < stop``, as int64."""
        return self.order.at(self.positions(first, stop))

    def batches(self, first: int, size: int) -> Iterator[Array]:
        """Yield the samples from a step on, ``size`` at a time."""
        stride = max(1, _STEPS_OF_BATCHES // size) * size
        for begin in range(first, len(self), stride):
            numbers = self.samples(begin, begin + stride)
            yield from (numbers[at : at + size] for at in range(0, len(numbers), size))

    def has_windows(self) -> bool:
        """Whether the order has windows that are best read whole."""
        return self.order.windows(np.zeros(0, np.int64)) is not None

    def groups(self, first: int, most: int) -> Iterator[Array]:
        """Yield the samples from a step on, in groups that are best read together.

        Args:
            first: The first step.
            most: Samples in a group, unless the order has windows to be read whole.
        """
        for begin in range(first, len(self), _STEPS_AT_ONCE):
            positions = self.positions(begin, begin + _STEPS_AT_ONCE)
            numbers, windows = self.order.at(positions), self.order.windows(positions)
            if windows is None:
                yield from (numbers[at : at + most] for at in range(0, len(numbers), most))
            else:
                yield from np.split(numbers, np.flatnonzero(np.diff(windows)) + 1)


def walk(order: Order, share: Share, worker: Shard = Shard(), batch: int = 1, *, drop_last: bool = False) -> Walk:
    """Return what one worker of a rank reads.

    Args:
        order: Of the epoch.
        share: What the rank reads.
        worker: Which of its workers.
        batch: Samples in a batch.
        drop_last: Leave out the rank's last batch if it is short.
    """
    turns = len(share) // batch * batch if drop_last else len(share)
    return Walk(order, share, Hand(turns, worker, batch))


def merged_steps(steps: list[int], batch: int) -> int | None:
    """Return how many turns a rank has taken, whose workers have taken so many steps each.

    Args:
        steps: Of each worker, in their order.
        batch: Samples in a batch.

    Returns:
        The number of turns, or ``None`` if they are not the first ones: a worker is ahead of its turn.
    """
    turns = sum(steps)
    due = [len(Hand(turns, Shard(index, len(steps)), batch)) for index in range(len(steps))]
    return turns if steps == due else None
