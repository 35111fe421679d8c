"""The options of the iterable: which there are, what goes together, and what they come to for a rank.

Floor 6. Knows JAX's shardings; must not know how batches are read or moved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Sharding

from s3dlio.bounds import mapping, settle
from s3dlio.dataset import Ahead
from s3dlio.errors import OptionError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES
from s3dlio.jax import world
from s3dlio.loader import BatchPlan
from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER
from s3dlio.shards import Shard

#: The options that a dataset takes.
OF_DATASET = ("pattern", "transform", "format", "key", "on_error", "index_progress", "options")
_RETURN_TYPES = ("jax", "numpy")
#: Samples in a batch unless told otherwise, as of the original.
_BATCH_SIZE = 32
#: One that is ready while one is in use, and one more against uneven steps.
_PREFETCH = 2

#: The options that are whole numbers, and the smallest that will do.
_NUMBERS = {
    "batch_size": 1, "global_batch_size": 1, "seed": None, "shuffle_buffer": 1, "prefetch_to_device": 0,
    "num_workers": 0, "prefetch": 0, "read_ahead_bytes": 0, "process_index": 0, "process_count": 1,
}  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Loop:
    """How samples become batches, and where batches go; see :class:`s3dlio.jax.S3JaxIterable`."""

    batch_size: int | None = None
    global_batch_size: int | None = None
    shuffle: bool | str = False
    seed: int = 0
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER
    drop_last: bool | None = None
    uneven: str | None = None
    ragged: str = "raise"
    sharding: Sharding | None = None
    prefetch_to_device: int = _PREFETCH
    return_type: str = "jax"
    num_workers: int | None = None
    prefetch: int | None = None
    read_ahead_bytes: int = DEFAULT_BUDGET_BYTES
    process_index: int | None = None
    process_count: int | None = None

    @classmethod
    def of(cls, loader_opts: Mapping[str, Any] | None, given: Mapping[str, Any]) -> Loop:
        """Fold ``loader_opts`` and keywords together; a keyword that was given wins.

        Raises:
            OptionError: There is no such option; the message names the nearest.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        options = mapping("loader_opts", loader_opts)
        for name in (*options, *given):
            if name not in known:
                msg = f"S3JaxIterable has no option {name!r}{suggest(name, (*known, *OF_DATASET))}"
                raise OptionError(msg)
        return cls(**{**options, **given})

    # -- what is refused --------------------------------------------------------------------------

    def check(self, on_error: str) -> None:
        """Refuse what is wrong by itself, or does not go together.

        Raises:
            OptionError: Something is.
        """
        if self.return_type not in _RETURN_TYPES:
            hint = suggest(self.return_type, _RETURN_TYPES)
            msg = f"return_type must be one of {', '.join(_RETURN_TYPES)}, not {self.return_type!r}{hint}"
            raise OptionError(msg)
        settle(self, _NUMBERS, ("drop_last",))
        if self.batch_size is not None and self.global_batch_size is not None:
            msg = "batch_size is of one process and global_batch_size of all together: give one of them"
            raise OptionError(msg)
        if (self.process_index is None) != (self.process_count is None):
            msg = "process_index and process_count go together"
            raise OptionError(msg)
        if self.sharding is not None:
            self._check_sharding(self.sharding, on_error)
        self.plan(Shard())

    def _check_sharding(self, sharding: Any, on_error: str) -> None:
        if not isinstance(sharding, Sharding):
            msg = f"sharding must be a jax.sharding.Sharding such as NamedSharding(mesh, P('data')), not {sharding!r}"
            raise OptionError(msg)
        _refuse("sharding= makes whole jax.Arrays of equal batches", {
            f"return_type={self.return_type!r}": self.return_type != "jax",
            "ragged='list'": self.ragged == "list",
            f"on_error={on_error!r}": on_error != "raise",
        })  # fmt: skip
        if self._spans_processes:
            _refuse("processes that share a sharding= wait for one another's batches, all of one shape", {
                "uneven='uneven'": self.uneven == "uneven",
                "ragged='pad'": self.ragged == "pad",
                "process_index=": self.process_index is not None,
            })  # fmt: skip

    # -- what it comes to -------------------------------------------------------------------------

    @property
    def _spans_processes(self) -> bool:
        return self.sharding is not None and not self.sharding.is_fully_addressable

    def rank(self) -> Shard:
        """Return which part of the samples this process reads; asks JAX, and so initialises its backends.

        Raises:
            OptionError: The sharding gives processes parts that do not fit.
        """
        if self.sharding is not None and self._spans_processes:
            return world.rows(self.sharding).shard
        if self.process_index is not None and self.process_count is not None:
            return Shard(self.process_index, self.process_count)
        return world.rank()

    def parts(self, rank: Shard) -> int:
        """Return how many processes' rows make up one array."""
        return rank.count if self._spans_processes else 1

    def plan(self, rank: Shard) -> BatchPlan:
        """Return which batches there are for a rank.

        Raises:
            OptionError: A value is wrong, or batches do not divide among processes or devices.
        """
        is_even = self.sharding is not None or rank.count > 1
        return BatchPlan(
            batch_size=self._batch_size(rank),
            drop_last=is_even if self.drop_last is None else self.drop_last,
            shuffle=self.shuffle,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer,
            rank=rank,
            uneven=self.uneven,
            ragged=self.ragged,
            ahead=Ahead(self._width(), max(1, self.read_ahead_bytes)),
        )

    def _batch_size(self, rank: Shard) -> int:
        if self.global_batch_size is None:
            return _BATCH_SIZE if self.batch_size is None else self.batch_size
        size, rest = divmod(self.global_batch_size, rank.count)
        if rest:
            msg = f"global_batch_size={self.global_batch_size} does not divide among {rank.count} processes"
            raise OptionError(msg)
        return size

    def check_divides(self, rank: Shard) -> None:
        """Refuse batches that do not divide by the sharding.

        Raises:
            OptionError: They do not.
        """
        if self.sharding is None:
            return
        size, slices = self._batch_size(rank) * self.parts(rank), world.rows(self.sharding).slices
        if size % slices:
            msg = f"batches of {size} do not divide by sharding=, into {slices} equal parts: choose another batch_size"
            raise OptionError(msg)

    def _width(self) -> int:
        width = self.num_workers or Ahead().max_in_flight
        return width if self.prefetch is None else max(1, min(width, self.prefetch))


def _refuse(reason: str, faults: Mapping[str, bool]) -> None:
    for option, is_given in faults.items():
        if is_given:
            msg = f"{reason}; that does not go with {option}"
            raise OptionError(msg)
