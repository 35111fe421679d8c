"""Who reads what, in which order.

Floor 0. Pure arithmetic on sample numbers; must not know ranks' or workers' frameworks, objects or I/O.
An order depends on the number of samples, the seed and the epoch, and on nothing else: not on how many
ranks and workers there are, which only decide who reads which part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from s3dlio.errors import OptionError, suggest

#: What happens when samples do not divide evenly among ranks: ``pad`` repeats some from the beginning so
#: that all have the same count, ``drop`` leaves the last few out, ``uneven`` gives some ranks one more.
Uneven = Literal["pad", "drop", "uneven"]
_POLICIES = ("pad", "drop", "uneven")


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


def epoch_order(count: int, *, shuffle: bool, seed: int = 0, epoch: int = 0) -> Sequence[int]:
    """Return the order of ``count`` samples in an epoch.

    Args:
        count: Samples.
        shuffle: Permute them all.
        seed: Of the permutation.
        epoch: Each epoch has its own permutation.

    Returns:
        A ``range`` or an integer array.
    """
    if not shuffle:
        return range(count)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    permutation: Sequence[int] = generator.permutation(count)  # type: ignore[assignment]
    return permutation


def share(count: int, shard: Shard, policy: str = "uneven") -> Sequence[int]:
    """Return the positions (in the epoch's order) that a shard reads, in rising order but for padding.

    Args:
        count: Samples in all.
        shard: Whose part.
        policy: ``pad``, ``drop`` or ``uneven``.

    Raises:
        OptionError: There is no such policy.
    """
    if policy not in _POLICIES:
        msg = f"policy must be one of {', '.join(_POLICIES)}, not {policy!r}{suggest(policy, _POLICIES)}"
        raise OptionError(msg)
    if policy == "drop":
        return range(shard.index, count // shard.count * shard.count, shard.count)
    plain = range(shard.index, count, shard.count)
    each = -(-count // shard.count)
    if policy == "uneven" or len(plain) == each or not count:
        return plain
    # One short: the list goes round, as torch's DistributedSampler does.
    return [*plain, *[(shard.index + turn * shard.count) % count for turn in range(len(plain), each)]]


def nest(positions: Sequence[int], inner: Shard) -> Sequence[int]:
    """Return what one worker reads of its rank's positions. Workers are never padded."""
    return positions[inner.index :: inner.count]
