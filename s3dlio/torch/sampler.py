"""A sampler that shares samples among ranks, can be resumed, and tells the dataset what comes next.

Floor 6. A DataLoader hands a map dataset one batch of numbers at a time; with torch's own shuffling
samplers each batch costs a round trip that nothing can hide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

from torch.utils.data import Sampler

from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER, epoch_order, shuffle_kind
from s3dlio.resume import Bookmark, State
from s3dlio.shards import Shard, Share, Walk, walk
from s3dlio.torch import world
from s3dlio.torch.dataset import S3MapDataset

#: Numbers computed at once.
_STEPS = 1024


class ResumableDistributedSampler(Sampler[int]):
    """Yields this rank's samples of each epoch, and has the dataset read them ahead.

    Stands in for torch's ``DistributedSampler`` (same arguments; alone it is one rank of one), and adds
    :meth:`state_dict` and :meth:`load_state_dict`: an epoch goes on where it stood, with another number of
    ranks too. Under torchdata's ``StatefulDataLoader`` this works with any number of workers. A plain
    DataLoader with workers takes numbers before their batches are used: then tell :meth:`state_dict` how
    many batches the loop has used.

    With an :class:`~s3dlio.torch.S3MapDataset` in a loader without workers the samples to come are read
    ahead; with workers their own prefetching does that.

    Args:
        dataset: Whose samples; anything with a length.
        num_replicas: Ranks; found from torch.distributed or torchrun if not given.
        rank: Which one.
        shuffle: ``True`` or ``"global"``, ``"block"``, or ``False``, see :class:`~s3dlio.torch.S3IterableDataset`.
        seed: The order depends on the seed and the epoch only.
        drop_last: Leave a remainder out that does not divide evenly among the ranks, instead of
            repeating some samples.
        shuffle_buffer: Samples that a block shuffle mixes.

    Example:
        >>> sampler = ResumableDistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> list(sampler), sampler.state_dict()["epoch"]
        ([1, 3, 0], 1)
    """

    def __init__(  # noqa: PLR0913 - torch's own, and one more
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool | str = True,  # noqa: FBT001, FBT002 - torch's own order
        seed: int = 0,
        drop_last: bool = False,  # noqa: FBT001, FBT002
        *,
        shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER,
    ) -> None:
        found = world.rank()
        self._dataset = dataset
        self._rank = Shard(found.index if rank is None else rank, num_replicas or found.count)
        self._policy = "drop" if drop_last else "pad" if self._rank.count > 1 else "uneven"
        self._kind = shuffle_kind(shuffle)
        self._seed = seed
        self._buffer = shuffle_buffer
        self._bookmark = Bookmark(self._identity)

    @property
    def dataset(self) -> Sized:
        """Whose samples; like all below by the name that torch's sampler has for it, to be read only."""
        return self._dataset

    @property
    def num_replicas(self) -> int:
        """Ranks."""
        return self._rank.count

    @property
    def rank(self) -> int:
        """Which one this is."""
        return self._rank.index

    @property
    def shuffle(self) -> bool:
        """Whether the order is another one in each epoch."""
        return self._kind != "none"

    @property
    def seed(self) -> int:
        """What the order depends on, besides the epoch."""
        return self._seed

    @property
    def drop_last(self) -> bool:
        """Whether a remainder is left out."""
        return self._policy == "drop"

    @property
    def epoch(self) -> int:
        """The epoch that is read, or that the next iteration reads."""
        return self._bookmark.epoch

    @property
    def num_samples(self) -> int:
        """Samples of this rank in a whole epoch."""
        return len(self)

    @property
    def total_size(self) -> int:
        """Samples of all ranks in a whole epoch, each as many as this one."""
        return len(self) * self.num_replicas

    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"seed": self._seed, "shuffle": self._kind, "samples": len(self._dataset)}
        if self._kind == "block":
            identity["shuffle_buffer"] = self._buffer
        if isinstance(self._dataset, S3MapDataset):
            identity["fingerprint"] = self._dataset.samples.fingerprint()
        return identity

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next. The one that a loaded state stands in keeps its place."""
        self._bookmark.set_epoch(epoch)

    def state_dict(self, consumed: int | None = None) -> State:
        """Return where the epoch stands: a small dict of constant size.

        Args:
            consumed: Samples that this rank has really used of the epoch, or since the state that was
                loaded; for loaders that take numbers ahead of their use.
        """
        return self._bookmark.state(consumed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says: call it before ``iter``.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._bookmark.load(state)

    def _walk_from(self, start: int) -> Walk:
        count = len(self._dataset)
        order = epoch_order(count, shuffle=self._kind, seed=self._seed, epoch=self._bookmark.epoch, buffer=self._buffer)
        return walk(order, Share(count, self._rank, self._policy, start))

    def __iter__(self) -> Iterator[int]:
        """Yield what is left of the epoch for this rank."""
        run = self._bookmark.begin(self._walk_from)
        if isinstance(self._dataset, S3MapDataset):
            self._dataset.announce(run.walk, run.steps)
        for begin in range(run.steps, len(run.walk), _STEPS):
            for number in run.walk.samples(begin, begin + _STEPS).tolist():
                self._bookmark.advance(run, 1)
                yield number
        self._bookmark.end(run)

    def __len__(self) -> int:
        """Return how many samples this rank yields in a whole epoch."""
        return len(Share(len(self._dataset), self._rank, self._policy))
