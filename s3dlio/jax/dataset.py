"""What is iterated over: batches, on the devices before they are asked for.

Floor 6. Knows what of an epoch this process reads, and who takes batches ahead; they are made below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.dataset import ObjectDataset, Where
from s3dlio.jax.convert import to_jax
from s3dlio.jax.loop import OF_DATASET, Loop
from s3dlio.jax.relay import Relay
from s3dlio.loader import BatchLoader
from s3dlio.options import StoreOptions
from s3dlio.resume import Run, State
from s3dlio.shards import Shard
from s3dlio.uri import several


class S3JaxIterable:
    """Batches of samples as ``jax.Array``, read ahead, shared among JAX's processes, and resumed.

    A batch is a dict of arrays where a sample is one (NPZ, ``tf.train.Example``), else one array: of NPY files,
    of ``key=``, of raw objects and TFRecords as uint8 of shape ``(batch, bytes)``. While one is in use the next
    ones are read and put together in a thread of the library, and their transfers to the devices begun. On CPU
    devices nothing is copied after that, but for TFRecords' frames: arrays keep the memory of the batch.

    JAX's own types hold: 64-bit numbers become 32-bit ones (whole numbers lose their upper half) unless
    ``jax_enable_x64`` is on. Text and whatever else JAX has no dtype for stays a NumPy array (with a ``sharding``:
    of this process's samples).

    With several processes each reads its own part of the samples, by ``jax.process_index()`` or, with a
    ``sharding`` over all of them, the rows that its devices hold. JAX is asked for these when the iteration
    begins: call ``jax.distributed.initialize()`` before that. By default all processes have equally many
    batches, all of one shape: some samples come twice to fill the last round, and a short last batch is
    left out. Nothing is ever forked.

    Iterate as often as you like: each time yields the epoch that :meth:`set_epoch` chose, in an order that
    depends on the seed and the epoch only. One iteration at a time is followed by :meth:`state_dict`.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample (NumPy arrays, or a view), last, in a thread of the library.
        format: ``auto`` (by extension), ``raw``, ``npz``, ``npy``, ``tfrecord`` or ``example``.
        key: One array of each sample that has many, instead of all.
        on_error: ``raise``, or ``skip``: batches may then be shorter, and a ``sharding`` is refused.
        index_progress: Called with (files done, files in all) while files of records are indexed.
        loader_opts: The options below as a mapping; keywords win.
        options: How to reach the store.
        **loop: ``batch_size`` (samples in a batch *of this process*, 32); ``global_batch_size`` (instead: of all
            processes together); ``shuffle`` (``False``; ``True`` or ``"global"``: all samples; ``"block"``:
            runs of neighbours, mixed, for records in large files); ``seed`` (0); ``shuffle_buffer`` (samples
            that a block shuffle mixes, 1024); ``drop_last`` (leave out a short last batch; default ``True``
            with a sharding or several processes, else ``False``); ``uneven`` (``pad``, ``drop`` or
            ``uneven`` when samples do not divide evenly among processes; default ``pad`` with several);
            ``ragged`` (samples of unequal shapes: ``raise``, ``pad`` with zeros, or ``list`` the arrays);
            ``sharding`` (a ``jax.sharding.Sharding``: batches become arrays over its devices, of all
            processes); ``prefetch_to_device`` (batches that are ready while one is in use, 2, beside one in
            the making; 0 makes each when it is asked for, in the caller's thread); ``return_type``
            (``jax``, or ``numpy``: arrays on the host, writable); ``num_workers`` (requests in flight,
            default 128, fewer where they are of no use); ``prefetch`` (at most so many of them);
            ``read_ahead_bytes`` (256 MiB, beside those batches); ``process_index`` and ``process_count``
            (instead of JAX's).

    Attributes:
        dataset: The samples.

    Raises:
        NotFoundError: Nothing matches.
        OptionError: An option is wrong or misspelt, or batches do not divide by the sharding.

    Example:
        >>> batches = S3JaxIterable("s3://bucket/train/", pattern="*.npz", batch_size=256)  # doctest: +SKIP
        >>> for batch in batches:                                                           # doctest: +SKIP
        ...     state = step(state, batch["image"], batch["label"])
    """

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        uri: Where,
        *,
        pattern: str | re.Pattern[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: str = "auto",  # noqa: A002 - the contract's name
        key: str | None = None,
        on_error: str = "raise",
        index_progress: Callable[[int, int], object] | None = None,
        loader_opts: Mapping[str, Any] | None = None,
        options: StoreOptions | None = None,
        **loop: Any,
    ) -> None:
        checked = Loop.of(loader_opts, loop)
        checked.check(on_error)  # before anything is listed
        dataset = ObjectDataset(
            uri,
            pattern=pattern,
            transform=transform,
            format=format,
            key=key,
            on_error=on_error,
            index_progress=index_progress,
            options=options,
        )
        self._begin(dataset, checked)

    def _begin(self, dataset: ObjectDataset, loop: Loop) -> None:
        self.dataset = dataset
        self._loop = loop
        self._rank: Shard | None = None
        self._batches = BatchLoader(dataset, loop.plan(Shard()))
        if loop.sharding is not None:
            self._settle()  # that it has devices shows that JAX is initialised, and so errors come early

    @classmethod
    def from_prefix(cls, uri: str, **options: Any) -> Self:
        """Return the iterable over all objects below a prefix; options as of the class."""
        return cls(uri, **options)

    @classmethod
    def from_uris(cls, uris: Iterable[str], **options: Any) -> Self:
        """Return the iterable over the given objects; nothing is listed."""
        return cls(several(uris, "from_uris"), **options)

    @classmethod
    def from_manifest(cls, uri: str, *, verify: bool = False, **options: Any) -> Self:
        """Return the iterable over the samples of a saved manifest; nothing is listed or indexed.

        Args:
            uri: The manifest.
            verify: List all the same, and compare.
            **options: As of the class; ``format`` is the one that was saved with.

        Raises:
            ObjectChangedError: The objects are not those of the manifest any more.
            FormatError: It is not a manifest.
        """
        mine = {name: options.pop(name) for name in OF_DATASET if name in options}
        loop = Loop.of(options.pop("loader_opts", None), options)
        loop.check(mine.get("on_error", "raise"))
        iterable = cls.__new__(cls)
        iterable._begin(ObjectDataset.from_manifest(uri, verify=verify, **mine), loop)  # noqa: SLF001 - one of us
        return iterable

    def save_manifest(self, uri: str) -> None:
        """Save the listing and the index of records as one file, for :meth:`from_manifest`."""
        self.dataset.save_manifest(uri)

    @property
    def skipped(self) -> int:
        """How many samples were left out so far, with ``on_error="skip"``; of those ready, too."""
        return self.dataset.skipped

    # -- where it stands --------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order. The one that a loaded state stands in keeps its place."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> State:
        """Return where the epoch stands: a small dict of constant size.

        It counts the batches that were handed out, not those that are ready, and is the same in all
        processes that have taken as many. A finished epoch is the beginning of the next one.
        """
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says, maybe saved with another number of processes: call it before ``iter``.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._batches.load_state_dict(state)

    # -- reading ----------------------------------------------------------------------------------

    def _settle(self) -> Shard:
        """Find this process's rank, once."""
        if self._rank is None:
            rank = self._loop.rank()
            self._loop.check_divides(rank)
            self._batches.plan = self._loop.plan(rank)
            self._rank = rank
        return self._rank

    def __len__(self) -> int:
        """Return the number of batches that this process yields in a whole epoch."""
        self._settle()
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches of the epoch, or of what a loaded state has left of it.

        Raises:
            OptionError: Samples are of unequal shapes, or a batch does not divide by the sharding; the
                message names the option that helps.
            StoreError: A sample cannot be read.
            FormatError: A sample is not of its format.
        """
        self._settle()
        run = self._batches.begin()
        for steps, batch in self._taken_ahead(run):
            self._batches.note(run, steps)
            if batch is not None:
                yield batch
            del batch  # or it would be kept until the next one is there
        self._batches.end(run)

    def _taken_ahead(self, run: Run) -> Iterator[tuple[int, Any]]:
        depth = self._loop.prefetch_to_device
        if not depth:
            return map(self._place, self._batches.read(run))
        token = CancellationToken(CREW.get().token)
        return iter(Relay(self._batches.read(run, token), self._place, depth, token))

    def _place(self, made: tuple[int, Any]) -> tuple[int, Any]:
        """Begin the transfer of a batch to the devices."""
        steps, batch = made
        loop = self._loop
        if batch is None or loop.return_type == "numpy":
            return made
        parts = loop.parts(self._settle())
        return steps, to_jax(batch, loop.sharding, parts=parts, shared=loop.ragged == "list")

    def __repr__(self) -> str:
        """Show what it holds."""
        return f"{type(self).__name__}({self.dataset!r})"
