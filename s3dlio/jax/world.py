"""Which part of the samples this process reads: its place in JAX's world, or in a sharding.

Floor 6. Reads JAX's placement and nothing else; the arithmetic is :mod:`s3dlio.shards`. Never initialises
``jax.distributed``. Asking JAX for its processes initialises its backends, behind which
``jax.distributed.initialize`` is refused: so nothing here is called before it has to be.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, Sharding

from s3dlio.errors import OptionError
from s3dlio.shards import Shard


class Rows(NamedTuple):
    """Which rows of a global batch are this process's.

    Attributes:
        shard: Which one of how many parts that processes read.
        slices: Into how many equal parts the devices divide the global batch.
    """

    shard: Shard
    slices: int


def rank() -> Shard:
    """Return this process's rank: ``jax.process_index()`` of ``jax.process_count()``."""
    return Shard(jax.process_index(), jax.process_count())


def rows(sharding: Sharding) -> Rows:
    """Return which rows of a global batch the devices of this process hold.

    Processes whose devices hold the same rows (replicas, or parts of one model) are given the same part.
    If all devices are this process's own, every process has its own batches, and takes part by its rank.

    Raises:
        OptionError: Processes hold unequal or overlapping parts, or this one has none of the devices.
    """
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    size = len(sharding.device_set)  # a length that every combination of a mesh's axes divides
    held: dict[int, set[int]] = {}
    device: Any
    for device, index in sharding.devices_indices_map((size,) * max(1, len(spec))).items():
        held.setdefault(device.process_index, set()).add(index[0].start or 0)
    slices = len(set.union(*held.values()))
    if sharding.is_fully_addressable:
        return Rows(rank(), slices)
    return Rows(_part(held, sharding), slices)


def _part(held: dict[int, set[int]], sharding: Sharding) -> Shard:
    """Return this process's part, where processes hold these first rows each."""
    groups = sorted({tuple(sorted(starts)) for starts in held.values()})
    whole = {start for group in groups for start in group}
    if len({len(group) for group in groups}) > 1 or len(whole) < sum(map(len, groups)):
        msg = f"sharding= gives processes unequal or overlapping rows of the batch: {sharding}"
        raise OptionError(msg)
    mine = held.get(jax.process_index())
    if mine is None:
        msg = f"sharding= has no device of this process ({jax.process_index()} of {jax.process_count()}): {sharding}"
        raise OptionError(msg)
    return Shard(groups.index(tuple(sorted(mine))), len(groups))
