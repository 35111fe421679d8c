"""Batches of arrays from a dataset: read ahead, shared among ranks, resumed.

Floor 5. Knows datasets, orders and how samples are stacked; must not know any framework. The JAX and TF
rooms and the generic loader stand on it; torch has loaders of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np

from s3dlio.bounds import whole
from s3dlio.buffers import POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.dataset import Ahead, ObjectDataset
from s3dlio.formats.tfrecord import FOOT, HEAD
from s3dlio.gather import Allocate, Group, Handful
from s3dlio.options import checked
from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER, epoch_order, shuffle_kind
from s3dlio.resume import Bookmark, Run, State
from s3dlio.shards import Shard, Share, Walk, walk
from s3dlio.stacking import check_ragged, stack


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which batches an epoch has, and which of them this process reads.

    Attributes:
        batch_size: Samples in a batch, of this rank.
        drop_last: Leave out the rank's last batch if it is short.
        shuffle: ``False`` or ``none``; ``True`` or ``global``; ``block``: see :func:`s3dlio.orders.epoch_order`.
        seed: Of the shuffle.
        shuffle_buffer: Samples that a block shuffle mixes.
        rank: Which of how many processes this is.
        uneven: ``pad``, ``drop`` or ``uneven`` when samples do not divide evenly among ranks; ``None``:
            ``pad`` with several ranks, else ``uneven``.
        ragged: What to do with samples of unequal shapes: ``raise``, ``pad`` or ``list``.
        ahead: How far to read ahead.
    """

    batch_size: int = 32
    drop_last: bool = False
    shuffle: bool | str = False
    seed: int = 0
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER
    rank: Shard = Shard()  # noqa: RUF009 - frozen
    uneven: str | None = None
    ragged: str = "raise"
    ahead: Ahead = Ahead()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        """Check bounds and choices.

        Raises:
            OptionError: A value is wrong.
        """
        whole("batch_size", self.batch_size, 1)
        shuffle_kind(self.shuffle)
        check_ragged(self.ragged)
        self.share(0)

    def share(self, count: int, start: int = 0) -> Share:
        """Return what this rank reads of ``count`` samples."""
        policy = self.uneven or ("pad" if self.rank.count > 1 else "uneven")
        return Share(count, self.rank, policy, start)

    def walk(self, count: int, epoch: int, start: int) -> Walk:
        """Return this rank's way through an epoch, behind the ``start`` samples that all ranks have consumed."""
        order = epoch_order(count, shuffle=self.shuffle, seed=self.seed, epoch=epoch, buffer=self.shuffle_buffer)
        return walk(order, self.share(count, start), batch=self.batch_size, drop_last=self.drop_last)


class BatchLoader:
    """Yields the batches of one rank, epoch by epoch.

    Iterate over it as often as you like: each time yields the epoch that :meth:`set_epoch` chose, or what a
    loaded state has left of it. One iteration at a time is followed by :meth:`state_dict`. Iterators belong
    to the process that began them; dropping one stops its reads.

    Args:
        dataset: The samples.
        plan: Which of them, in which batches.
        finish: Turns each batch of arrays into what is yielded.
        token: Stops all iterations.
    """

    def __init__(
        self,
        dataset: ObjectDataset,
        plan: BatchPlan = BatchPlan(),
        *,
        finish: Callable[[Any], Any] | None = None,
        token: CancellationToken | None = None,
    ) -> None:
        self.dataset = dataset
        self.plan = plan
        self._finish = finish
        self._token = token
        self._bookmark = Bookmark(self._identity)

    def _identity(self) -> dict[str, Any]:
        plan, samples = self.plan, self.dataset.samples
        kind = shuffle_kind(plan.shuffle)
        buffer = {"shuffle_buffer": plan.shuffle_buffer} if kind == "block" else {}
        return {
            "seed": plan.seed, "shuffle": kind, **buffer, "samples": len(samples), "fingerprint": samples.fingerprint(),
        }  # fmt: skip

    def __len__(self) -> int:
        """Return the number of batches that this rank yields in a whole epoch."""
        turns, size = len(self.plan.share(len(self.dataset))), self.plan.batch_size
        return turns // size if self.plan.drop_last else -(-turns // size)

    # -- where it stands --------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order. The one that a loaded state stands in keeps its place."""
        self._bookmark.set_epoch(epoch)

    def state_dict(self, batches: int | None = None) -> State:
        """Return where the epoch stands: a small dict of constant size.

        Args:
            batches: How many batches of the last iteration were really used, if not all that were yielded:
                for those who take batches ahead of their use.
        """
        return self._bookmark.state(None if batches is None else batches * self.plan.batch_size)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says, maybe saved with another number of ranks: call it before ``iter``.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._bookmark.load(state)

    # -- reading ----------------------------------------------------------------------------------

    def begin(self) -> Run:
        """Begin an iteration: where a loaded state says, else at the beginning of the epoch."""
        return self._bookmark.begin(self._walk_from)

    def note(self, run: Run, steps: int) -> None:
        """Note that a batch of an iteration, of so many steps, is handed out."""
        self._bookmark.advance(run, steps)

    def end(self, run: Run) -> None:
        """Note that an iteration has come to its end."""
        self._bookmark.end(run)

    def read(self, run: Run, token: CancellationToken | None = None) -> Generator[tuple[int, Any], None, None]:
        """Yield the batches of an iteration, each behind the number of its steps, and note nothing.

        For those who take batches ahead of their use, in another thread maybe: they call :meth:`note`
        when they hand one out, and :meth:`end` behind the last.

        Args:
            run: What :meth:`begin` has returned.
            token: Stops this iteration, instead of the loader's own.

        Yields:
            Steps and the batch; ``None`` for one all of whose samples were skipped.
        """
        allocate = _take if self._is_packable() else None
        for group in self._groups(run, allocate, token or self._token):
            packed = group.memory is not None
            steps, made = len(group.sizes), [self._packed(group) if packed else self._stacked(group)]
            del group  # the samples' own bytes, and then the batch too, are not kept while this one waits
            yield steps, made.pop()

    def groups(self, allocate: Allocate | None = None) -> Iterator[Group | Handful]:
        """Yield the samples of each batch as they came, and note that the batch was handed out.

        Args:
            allocate: Takes memory in which all samples of one batch lie back to back; its ``memory`` is
                ``None`` where that was of no use, see :meth:`s3dlio.dataset.ObjectDataset.stream_batches`.
        """
        run = self.begin()
        for group in self._groups(run, allocate, self._token):
            self.note(run, len(group.sizes))
            yield group
        self.end(run)

    def _groups(
        self, run: Run, allocate: Allocate | None, token: CancellationToken | None
    ) -> Iterator[Group | Handful]:
        plan = self.plan
        return self.dataset.stream_batches(
            run.walk, plan.batch_size, plan.ahead, first=run.first, allocate=allocate, token=token
        )

    def _walk_from(self, start: int) -> Walk:
        return self.plan.walk(len(self.dataset), self._bookmark.epoch, start)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over batches.

        Raises:
            OptionError: Samples are of unequal shapes; the message names the option that helps.
            StoreError: A sample cannot be read.
            FormatError: A sample is not of its format.
        """
        run = self.begin()
        for steps, batch in self.read(run):
            self.note(run, steps)
            if batch is not None:
                yield batch
        self.end(run)

    def _is_packable(self) -> bool:
        """Whether samples can be read where they belong in a batch: bytes as they are, of equal and known sizes."""
        dataset = self.dataset
        return self.plan.ragged == "raise" and dataset.samples.are_equal() and dataset.is_plain()

    def _packed(self, group: Group | Handful) -> Any:
        for sample in self.dataset.taken(group):
            sample.bytes()
        assert group.memory is not None  # noqa: S101 - for type checkers: the caller has looked
        rows = np.frombuffer(group.memory, np.uint8).reshape(len(group.sizes), group.sizes[0])
        return self._done(rows[:, HEAD:-FOOT] if self.dataset.samples.records is not None else rows)

    def _stacked(self, group: Group | Handful) -> Any:
        samples = self.dataset.finish_all(self.dataset.taken(group))
        return self._done(stack(samples, self.plan.ragged)) if samples else None

    def _done(self, batch: Any) -> Any:
        return batch if self._finish is None else self._finish(batch)


def _take(length: int) -> memoryview:
    return bytes_of(POOL.take(length))
