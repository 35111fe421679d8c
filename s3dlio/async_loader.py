"""A loader for any program: batches of bytes, in a ``for`` or an ``async for`` loop.

Floor 6. Knows datasets, options and batches as buffers; must not know any framework. Which samples are in
which batch is :mod:`s3dlio.loader`'s to say, how they are read :mod:`s3dlio.gather`'s, and how a loop gets
them :mod:`s3dlio.loops`'.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from s3dlio.buffers import POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.dataset import DEFAULT_READ_AHEAD, Ahead, ObjectDataset, Where
from s3dlio.dataset_options import DATASET_OPTIONS
from s3dlio.errors import OptionError, suggest
from s3dlio.gather import Group, Handful
from s3dlio.loader import BatchLoader, BatchPlan
from s3dlio.loader_options import PyLoaderOptions, loader_options, option_names
from s3dlio.loops import AsyncLoop, Loop, Reading
from s3dlio.options import StoreOptions, require
from s3dlio.orders import Array, Order, epoch_order
from s3dlio.packed import PackedBatch
from s3dlio.perprocess import PerProcess
from s3dlio.resume import Run, State
from s3dlio.shards import Shard, Walk, walk
from s3dlio.spellings import also_spelt

__all__ = ["PackedBatch", "PackedLoader", "create_async_loader"]

#: Options of the dataset that `create_async_loader` takes beside those of the loader.
#: Samples are drawn from a permutation of so many numbers: far more than there ever are, and so evenly.
_MANY = 1 << 40


class _Drawn(Order):
    """Each sample drawn from all of them, whatever was drawn before."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        super().__init__(count)
        self._numbers = epoch_order(_MANY, shuffle=True, seed=seed, epoch=epoch)

    def at(self, positions: Array) -> Array:
        """See :meth:`s3dlio.orders.Order.at`."""
        drawn: Array = self._numbers.at(positions) % self.length
        return drawn


class _DrawingPlan(BatchPlan):
    """A plan whose epochs are drawn with replacement."""

    def walk(self, count: int, epoch: int, start: int) -> Walk:
        """See :meth:`s3dlio.loader.BatchPlan.walk`."""
        order = _Drawn(count, self.seed, epoch)
        return walk(order, self.share(count, start), batch=self.batch_size, drop_last=self.drop_last)


class _DrawingLoader(BatchLoader):
    """A loader that follows such a plan; its states are its own."""

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "shuffle": "drawn"}


def _plan(options: PyLoaderOptions) -> BatchPlan:
    """Return which batches the options ask for."""
    random = options.sampler_type in ("random", "distributed_random")
    shuffle = options.shuffle_value
    flight = options.num_workers_value or DEFAULT_READ_AHEAD
    if options.prefetch_value:
        # A stream holds at most twice as many samples as may be in flight.
        flight = min(flight, max(1, options.prefetch_value * options.batch_size // 2))
    kind = _DrawingPlan if options.sampler_replacement else BatchPlan
    return kind(
        batch_size=options.batch_size,
        drop_last=options.drop_last_value,
        shuffle=True if random and shuffle in (False, "none") else shuffle,
        seed=options.seed if options.generator_seed is None else options.generator_seed,
        shuffle_buffer=options.shuffle_buffer,
        rank=Shard(options.shard_rank, options.shard_world_size),
        uneven=options.uneven,
        ahead=Ahead(flight, options.read_ahead_bytes),
    )


class _Batches:
    """Where the batches of a loader come from: see :class:`s3dlio.loops.Source`.

    Args:
        make: Finds out what samples there are; called once, when that is first needed.
        options: Which batches.
        whole: Samples are whole objects as they are, and none of them may be left out.
    """

    def __init__(self, make: Callable[[], ObjectDataset], options: PyLoaderOptions, *, whole: bool) -> None:
        self._make = make
        self._kind = _DrawingLoader if options.sampler_replacement else BatchLoader
        self._plan = _plan(options)
        self._whole = whole
        self._epoch = 0
        self._making = PerProcess(threading.Lock)
        self._made: BatchLoader | None = None

    @property
    def loader(self) -> BatchLoader:
        """What knows the samples, and where the epoch stands."""
        if self._made is None:
            with self._making.get():
                self._make_once()
        assert self._made is not None  # noqa: S101 - for type checkers
        return self._made

    def _make_once(self) -> None:
        if self._made is None:
            loader = self._kind(self._make(), self._plan)
            loader.set_epoch(self._epoch)
            self._made = loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whether or not the samples are known yet."""
        require(epoch >= 0, f"the epoch must be at least 0, not {epoch}")
        self._epoch = epoch
        if self._made is not None:
            self._made.set_epoch(epoch)

    def begin(self) -> Run:
        """See :meth:`s3dlio.loops.Source.begin`."""
        return self.loader.begin()

    def read(self, run: Run, token: CancellationToken) -> Iterator[tuple[int, PackedBatch]]:
        """See :meth:`s3dlio.loops.Source.read`."""
        dataset, plan = self.loader.dataset, self._plan
        known = self._whole and int(dataset.samples.catalog.sizes.min(initial=0)) >= 0
        groups = dataset.stream_batches(
            run.walk, plan.batch_size, plan.ahead, first=run.first, allocate=_take if known else None, token=token
        )
        steps = 0
        for group in groups:
            steps += len(group.sizes)
            made = _packed(dataset, group)
            del group  # nor is the batch kept here while this waits
            if made:
                yield steps, made.pop()
                steps = 0

    def note(self, run: Run, steps: int) -> None:
        """See :meth:`s3dlio.loops.Source.note`."""
        self.loader.note(run, steps)

    def end(self, run: Run) -> None:
        """See :meth:`s3dlio.loops.Source.end`."""
        self.loader.end(run)

    def __repr__(self) -> str:
        return repr(self._made.dataset) if self._made is not None else "not listed yet"


def _packed(dataset: ObjectDataset, group: Group | Handful) -> list[PackedBatch]:
    """Return the batch of a group, or nothing if all of its samples were skipped."""
    if group.memory is not None:
        return [PackedBatch.of_memory(group.memory.obj, group.sizes, [sample.uri for sample in group.samples()])]
    pairs = [(sample.uri, view) for sample in group.samples() for view in dataset.finish_all([sample])]
    return [PackedBatch.of_views([view for _, view in pairs], [uri for uri, _ in pairs])] if pairs else []


def _take(length: int) -> memoryview:
    return bytes_of(POOL.take(length))


class PackedLoader:
    """Batches of bytes, epoch by epoch, for ``for`` and ``async for``. See :func:`create_async_loader`.

    Each loop reads the epoch that :meth:`set_epoch` chose, or what a loaded state has left of it; loops are
    independent of each other, and :meth:`state_dict` follows the one that was last handed a batch. Reading
    goes on ahead in threads of the library; leaving a loop, by whichever way, stops it. An error is raised,
    never taken for the end; who goes on all the same gets a :class:`~s3dlio.errors.ClosedError`.

    A loop belongs to the process that began it, and to one thread or task at a time.

    Attributes:
        options: Which batches, and how far ahead.
    """

    def __init__(self, batches: _Batches, options: PyLoaderOptions, token: CancellationToken | None) -> None:
        self.options = options
        self._batches = batches
        self._own = CancellationToken()
        self._tokens = (self._own,) if token is None else (self._own, token)

    @property
    def dataset(self) -> ObjectDataset:
        """The samples. Where the loader was made in a coroutine, this lists them if nothing else has."""
        return self._batches.loader.dataset

    def __len__(self) -> int:
        """Return the number of batches that this rank yields in a whole epoch; lists as :attr:`dataset` does."""
        return len(self._batches.loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order. The one that a loaded state stands in keeps its place."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> State:
        """Return where the epoch stands: a small dict of constant size."""
        return self._batches.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says, maybe saved with another number of ranks: call it before the loop.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._batches.loader.load_state_dict(state)

    def cancel(self) -> None:
        """Stop all loops, now and for good: they raise :class:`~s3dlio.errors.CancelledError`. From any thread."""
        self._own.cancel()

    def __iter__(self) -> Loop[PackedBatch]:
        """Iterate over batches.

        Raises:
            StoreTimeoutError: There was none for ``timeout_seconds``.
            CancelledError: A token was cancelled.
            StoreError: A sample cannot be read.
            FormatError: A sample is not of its format.
        """
        return Loop(self._reading())

    def __aiter__(self) -> AsyncLoop[PackedBatch]:
        """Iterate over batches without blocking the event loop; cancelling the task stops the reading.

        Raises:
            Exception: As in a ``for`` loop.
        """
        return AsyncLoop(self._reading())

    def _reading(self) -> Reading[PackedBatch]:
        return Reading(self._batches, CancellationToken(*self._tokens), self.options.timeout_seconds)

    def __repr__(self) -> str:
        """Show what it reads."""
        return f"{type(self).__name__}({self._batches!r}, {self.options!r})"


@also_spelt(opts="options")
def create_async_loader(
    uri: Where,
    options: PyLoaderOptions | Mapping[str, Any] | None = None,
    *,
    token: CancellationToken | None = None,
    store_options: StoreOptions | None = None,
    **keywords: Any,
) -> PackedLoader:
    """Return a loader of batches of bytes, for ``for`` and ``async for`` loops.

    An item is a :class:`PackedBatch`: a sequence of views that lie back to back in one buffer, and itself
    bytes-like. Objects whose sizes the listing tells are read in their places in it. What a list of URIs
    names, records, and samples of which some may be skipped, is read first and put together with one copy:
    that is cheaper than asking for each size.

    Called in a coroutine it does not list at once, which would hold up the event loop: then the first batch
    does, in a thread. Elsewhere it lists now.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        options: Batch size, order, ranks, how far ahead: see :class:`PyLoaderOptions`.
        token: Stops all loops, as :meth:`PackedLoader.cancel` does.
        store_options: How to reach the store.
        **keywords: Options by name, which win over ``options``; and of the dataset ``pattern``, ``format``
            (``raw``: an object is a sample; ``tfrecord``: a record is), ``on_error`` (``raise`` or ``skip``),
            ``transform`` (bytes to bytes), ``key``, ``index_progress``: see :class:`s3dlio.ObjectDataset`.

    Raises:
        OptionError: An option is misspelt or wrong.
        NotFoundError: Nothing matches.

    Example:
        >>> loader = create_async_loader("s3://bucket/train/", batch_size=64, shuffle=True)  # doctest: +SKIP
        >>> for batch in loader:                                                             # doctest: +SKIP
        ...     array = np.frombuffer(batch, np.uint8)
    """
    of_dataset: dict[str, Any] = {}
    given = options
    if isinstance(options, Mapping):
        of_dataset, given = _parted(options)
    more, changes = _parted(keywords)
    of_dataset |= more
    chosen = loader_options(given, **changes)
    store = _store_options(chosen, store_options)

    def make() -> ObjectDataset:
        return ObjectDataset(uri, options=store, **{"format": "raw", **of_dataset})

    loader = PackedLoader(_Batches(make, chosen, whole=_is_whole(of_dataset)), chosen, token)
    if not _is_in_coroutine():
        _ = loader.dataset
    return loader


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the dataset's options and the loader's.

    Raises:
        OptionError: A name is of neither.
    """
    known = (*option_names(), *DATASET_OPTIONS)
    for name in given:
        if name not in known:
            msg = f"create_async_loader has no option {name!r}{suggest(name, known)}"
            raise OptionError(msg)
    ours = {name: value for name, value in given.items() if name in DATASET_OPTIONS}
    return ours, {name: value for name, value in given.items() if name not in ours}


def _is_whole(of_dataset: Mapping[str, Any]) -> bool:
    """Tell whether samples are whole objects as they are, and none of them may be left out."""
    plain = {"format": "raw", "on_error": "raise", "transform": None}
    return all(of_dataset.get(name, value) == value for name, value in plain.items())


def _store_options(options: PyLoaderOptions, given: StoreOptions | None) -> StoreOptions | None:
    """Return how to reach the store, with what the loader's options say about it."""
    plain = StoreOptions()
    wanted: dict[str, Any] = {"adaptive": options.adaptive, "page_cache_mode": options.page_cache_mode}
    changes = {name: value for name, value in wanted.items() if value != getattr(plain, name)}
    return (given or plain).replace(**changes) if changes else given


def _is_in_coroutine() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
