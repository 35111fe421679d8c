"""The dataset that is read from beginning to end, shared among ranks and workers, and resumed.

Floor 6. Knows torch's ranks and workers, and what of an epoch this process reads; reading is below.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from s3dlio.bounds import mapping, settle
from s3dlio.dataset import Ahead, Where
from s3dlio.errors import OptionError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES
from s3dlio.gather import Group
from s3dlio.options import StoreOptions
from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER, epoch_order, shuffle_kind
from s3dlio.resume import Bookmark, Run, State
from s3dlio.shards import Shard, Share, Walk, walk
from s3dlio.torch import world
from s3dlio.torch.collating import collated
from s3dlio.torch.dataset import TorchDataset
from s3dlio.torch.packing import Packing
from s3dlio.torch.unequal import Watch

#: The options that are whole numbers, and the smallest that will do.
_NUMBERS = {
    "seed": None, "shuffle_buffer": 1, "batch_size": 1, "num_workers": 0, "prefetch": 0, "read_ahead_bytes": 0,
}  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """The options of an iterable dataset that its ``loader_opts`` may name as well."""

    shuffle: bool | str = False
    seed: int = 0
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER
    batch_size: int | None = None
    drop_last: bool = False
    packed: bool = False
    num_workers: int | None = None
    prefetch: int | None = None
    enable_sharding: bool = True
    uneven: str | None = None
    read_ahead_bytes: int = DEFAULT_BUDGET_BYTES

    def check(self) -> None:
        """Refuse what is wrong by itself, or does not go together."""
        shuffle_kind(self.shuffle)
        if self.uneven is not None:
            Share(0, Shard(), self.uneven)  # which refuses what is no policy
        settle(self, _NUMBERS, ("drop_last", "packed", "enable_sharding"))
        if self.packed and self.batch_size is None:
            msg = "packed=True yields whole batches: give batch_size= here, and batch_size=None to the DataLoader"
            raise OptionError(msg)
        if self.drop_last and self.batch_size is None:
            msg = "drop_last=True needs batch_size="
            raise OptionError(msg)


def _loop(loader_opts: Mapping[str, Any] | None, given: dict[str, Any]) -> _Loop:
    """Fold ``loader_opts`` and keywords together; a keyword that was given wins."""
    known = [field.name for field in dataclasses.fields(_Loop)]
    options = mapping("loader_opts", loader_opts)
    for name in (*options, *given):
        if name not in known:
            msg = f"S3IterableDataset has no option {name!r}{suggest(name, known)}"
            raise OptionError(msg)
    loop = _Loop(**{**options, **given})
    loop.check()
    return loop


class S3IterableDataset(TorchDataset, IterableDataset[Any]):
    """Samples one after the other, read ahead, shared among ranks and DataLoader workers.

    Every sample comes exactly once per epoch over all ranks and workers, with fork, forkserver and spawn.
    The order depends on the seed and the epoch only; what a DataLoader yields does not depend on the number
    of its workers if it is told here in which batches they take turns (``batch_size``). An error is raised,
    never taken for the end.

    It can be resumed in the midst of an epoch (:meth:`state_dict`), by itself or under torchdata's
    ``StatefulDataLoader``; with other numbers of ranks and workers too, see :func:`s3dlio.torch.merge_states`.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw`` (``uint8`` tensor), ``npz`` (dict of tensors), ``npy``,
            ``tfrecord`` (each record a ``uint8`` tensor) or ``example`` (each record a dict of tensors).
        key: One array of each sample that has many, instead of all.
        return_type: ``tensor``, ``view`` (BytesView and NumPy arrays) or ``bytes``.
        on_error: ``raise`` or ``skip``, see :class:`s3dlio.ObjectDataset`.
        index_progress: Called with (files done, files in all) while files of records are indexed.
        loader_opts: The options below as a mapping; keywords win.
        options: How to reach the store.
        **loop: ``shuffle`` (``False``; ``True`` or ``"global"``: all samples; ``"block"``: runs of neighbours,
            mixed, for records in large files); ``seed`` (int, 0); ``shuffle_buffer`` (samples that a block
            shuffle mixes, 1024); ``batch_size`` (of the DataLoader: its workers then take turns batch by
            batch); ``drop_last`` (leave out the last batch of a rank if it is short); ``packed`` (yield
            batches, each one tensor that was read in place; give the DataLoader ``batch_size=None``);
            ``num_workers`` (requests in flight in each DataLoader worker, default 128, fewer where they
            are of no use); ``prefetch`` (samples read ahead, default twice that); ``enable_sharding``
            (``True``; ``False`` gives every rank and worker everything); ``uneven`` (``pad``, ``drop`` or
            ``uneven`` when samples do not divide evenly among ranks; default ``pad`` with several ranks);
            ``read_ahead_bytes`` (256 MiB, shared among the DataLoader's workers).

    Raises:
        NotFoundError: Nothing matches.
        OptionError: An option is wrong or misspelt.
    """

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        uri: Where,
        *,
        pattern: str | re.Pattern[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: str = "auto",  # noqa: A002 - the contract's name
        key: str | None = None,
        return_type: str = "tensor",
        on_error: str = "raise",
        index_progress: Callable[[int, int], object] | None = None,
        loader_opts: Mapping[str, Any] | None = None,
        options: StoreOptions | None = None,
        **loop: Any,
    ) -> None:
        self._loop = _loop(loader_opts, loop)
        super().__init__(
            uri,
            return_type,
            pattern=pattern,
            transform=transform,
            format=format,
            key=key,
            on_error=on_error,
            index_progress=index_progress,
            options=options,
        )
        if self._loop.packed:
            self._check_packable()
        self._bookmark = Bookmark(self._identity)
        self._rank: Shard | None = None

    def _identity(self) -> dict[str, Any]:
        loop = self._loop
        kind = shuffle_kind(loop.shuffle)
        buffer = {"shuffle_buffer": loop.shuffle_buffer} if kind == "block" else {}
        identity = {"seed": loop.seed, "shuffle": kind, **buffer, "samples": len(self.samples)}
        return {**identity, "fingerprint": self.samples.fingerprint()}

    # -- where it stands --------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order; call it before each ``iter(loader)``.

        It reaches workers that live on (``persistent_workers=True``) too.
        """
        self._bookmark.set_epoch(epoch)
        self._shared.epoch = epoch

    def state_dict(self) -> State:
        """Return where the epoch stands: a small dict of constant size.

        It tells how many samples all ranks together have consumed if each is as far as this one. In a
        DataLoader worker it tells how far that worker is; ``StatefulDataLoader`` collects these.
        """
        self._catch_up()
        return self._bookmark.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says: call it before ``iter``.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._bookmark.load(state)
        self._shared.epoch = self._bookmark.epoch
        self._shared.note_load()

    def _catch_up(self) -> None:
        """Follow what another process of the loader has done to the epoch."""
        self._bookmark.set_epoch(self._shared.epoch)

    # -- who reads what ---------------------------------------------------------------------------

    def _ranks(self) -> Shard:
        return (self._rank or world.rank()) if self._loop.enable_sharding else Shard()

    def _share(self, start: int = 0) -> Share:
        rank = self._ranks()
        policy = self._loop.uneven or ("pad" if rank.count > 1 else "uneven")
        return Share(len(self.samples), rank, policy, start)

    def __len__(self) -> int:
        """Return the number of samples (or, packed, of batches) that this rank yields per epoch."""
        size = self._loop.batch_size or 1
        turns = len(self._share())
        if self._loop.packed:
            return turns // size if self._loop.drop_last else -(-turns // size)
        return turns // size * size if self._loop.drop_last else turns

    def _walk_from(self, start: int) -> Walk:
        loop = self._loop
        order = epoch_order(
            len(self.samples),
            shuffle=loop.shuffle,
            seed=loop.seed,
            epoch=self._bookmark.epoch,
            buffer=loop.shuffle_buffer,
        )
        worker = world.worker() if loop.enable_sharding else Shard()
        return walk(order, self._share(start), worker, loop.batch_size or 1, drop_last=loop.drop_last)

    # -- reading ----------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Iterate over this worker's part of the epoch, or of what a loaded state has left of it."""
        self._catch_up()
        if self._bookmark.is_loaded and self._shared.is_used():
            self._bookmark.rewind()  # in an earlier worker process, an epoch ago
        run = self._bookmark.begin(self._walk_from)
        ahead = Ahead(self._width(), max(1, self._loop.read_ahead_bytes // world.worker().count))
        watch = Watch.of_loader(self._title)
        if not self._loop.packed:
            return self._one_by_one(run, ahead, watch)
        if watch is not None:
            msg = "packed=True yields whole batches, and the DataLoader makes batches of these: give it batch_size=None"
            raise OptionError(msg)
        return self._batches(run, ahead)

    def _one_by_one(self, run: Run, ahead: Ahead, watch: Watch | None) -> Iterator[Any]:
        for sample in self.stream(run.walk, ahead, first=run.steps):
            self._advance(run, 1)
            for finished in (self.finish(sample),) if self._on_error == "raise" else self.finish_all([sample]):
                if watch is not None:
                    watch.see(finished, sample.number)
                yield finished
        self._end(run)

    def _batches(self, run: Run, ahead: Ahead) -> Iterator[Any]:
        begun: deque[Packing] = deque()

        def allocate(length: int) -> memoryview:
            begun.append(Packing())
            return begun[-1].allocate(length)

        size = self._loop.batch_size or 1
        where = allocate if self.is_plain() else None
        for group in self.stream_batches(run.walk, size, ahead, first=run.steps, allocate=where):
            if isinstance(group, Group) and group.memory is not None:
                batch = self._packed_batch(begun.popleft(), group)
            else:
                batch = collated(self.finish_all(self.taken(group)))
            self._advance(run, len(group.sizes))
            yield batch
        self._end(run)

    def _advance(self, run: Run, steps: int) -> None:
        if self._bookmark.advance(run, steps):
            self._shared.note_use()

    def _end(self, run: Run) -> None:
        if self._bookmark.end(run):
            self._shared.note_use()

    def _width(self) -> int:
        width = self._loop.num_workers or Ahead().max_in_flight
        return width if self._loop.prefetch is None else max(1, min(width, self._loop.prefetch))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle with this process's rank: a spawned worker cannot ask torch.distributed."""
        return {**self.__dict__, "_rank": self._rank or world.rank()}
