"""The dataset: a ``tf.data.Dataset`` of batches that are read ahead, shared among workers, and resumed.

Floor 6. Knows tf.data and TensorFlow's workers; batches are made below, and become tensors in
:mod:`s3dlio.tf.convert`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import tensorflow as tf

from s3dlio.bounds import mapping, settle
from s3dlio.cancel import CancellationToken
from s3dlio.dataset import Ahead, ObjectDataset, Where
from s3dlio.errors import FormatError, OptionError, S3dlioError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES
from s3dlio.gather import Sample
from s3dlio.loader import BatchLoader, BatchPlan
from s3dlio.options import StoreOptions
from s3dlio.orders import DEFAULT_SHUFFLE_BUFFER
from s3dlio.resume import State
from s3dlio.shards import Shard
from s3dlio.tf import world
from s3dlio.tf.convert import Layout, nothing_like
from s3dlio.tf.place import Place
from s3dlio.tf.tap import Tap
from s3dlio.uri import several

#: Samples in a batch unless told otherwise, as in the other rooms.
_BATCH_SIZE = 32
#: Single samples are drawn so many at a time: drawing once costs 150 us.
_DRAWN_TOGETHER = 32
#: Elements that are ready while one is in use. More would be memory that nobody has asked for.
_READY = 1
#: With ``on_error="skip"``, so many damaged samples may stand before the first that tells what samples are.
_TRIES = 100
#: Of the options, those that the samples take.
_OF_SAMPLES = ("pattern", "transform", "format", "key", "on_error", "index_progress", "options")

#: The options that are whole numbers, and the smallest that will do.
_NUMBERS = {
    "batch_size": 1, "seed": None, "shuffle_buffer": 1, "num_workers": 0, "prefetch": 0, "read_ahead_bytes": 0,
    "rank": 0, "world_size": 1,
}  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """The options that ``loader_opts`` may name as well."""

    batch_size: int | None = _BATCH_SIZE
    drop_last: bool = False
    shuffle: bool | str = False
    seed: int = 0
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER
    uneven: str | None = None
    ragged: str = "raise"
    as_string: bool | None = None
    num_workers: int | None = None
    prefetch: int | None = None
    read_ahead_bytes: int = DEFAULT_BUDGET_BYTES
    rank: int | None = None
    world_size: int | None = None

    @classmethod
    def of(cls, loader_opts: Mapping[str, Any] | None, given: dict[str, Any]) -> _Loop:
        """Fold ``loader_opts`` and keywords together; a keyword that was given wins."""
        known = [field.name for field in dataclasses.fields(cls)]
        options = mapping("loader_opts", loader_opts) | given
        if "drop_remainder" in options:  # tf.data's own name
            options["drop_last"] = options.pop("drop_remainder")
        for name in options:
            if name not in known:
                hint = suggest(name, (*known, *_OF_SAMPLES, "drop_remainder"))
                msg = f"make_tf_dataset has no option {name!r}{hint}"
                raise OptionError(msg)
        return cls(**options)

    def plan(self) -> BatchPlan:
        """Check the options, find the rank, and return which batches it reads."""
        single = {"batch_size"} if self.batch_size is None else set()
        settle(
            self, {name: least for name, least in _NUMBERS.items() if name not in single}, ("drop_last", "as_string")
        )
        if self.batch_size is None and self.drop_last:
            msg = "drop_last=True goes with batches, not with batch_size=None"
            raise OptionError(msg)
        if (self.rank is None) != (self.world_size is None):
            msg = "rank and world_size go together"
            raise OptionError(msg)
        width = self.num_workers or Ahead().max_in_flight
        width = width if self.prefetch is None else max(1, min(width, self.prefetch))
        return BatchPlan(
            batch_size=_DRAWN_TOGETHER if self.batch_size is None else self.batch_size,
            drop_last=self.drop_last,
            shuffle=self.shuffle,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer,
            rank=world.rank() if self.rank is None else Shard(self.rank, self.world_size or 1),
            uneven=self.uneven,
            ragged=self.ragged,
            ahead=Ahead(width, self.read_ahead_bytes),
        )

    def layout(self, samples: _Samples) -> Layout:
        """Return what elements are to be, as far as options and listing tell."""
        text = self.as_string
        if text is None:
            text = samples.samples.records is not None or not samples.samples.are_equal()
        is_single = self.batch_size is None and not (self.ragged == "raise" and samples.is_strict())
        batch = self.batch_size if self.drop_last and samples.is_strict() else None
        return Layout(batch, self.ragged, single=is_single, text=text and samples.are_bytes())


class _Samples(ObjectDataset):
    """Samples as arrays that TensorFlow has dtypes for, all of one form."""

    layout: Layout

    def finish(self, sample: Sample) -> Any:
        """See :meth:`s3dlio.dataset.ObjectDataset.finish`."""
        finished = super().finish(sample)
        try:
            return self.layout.arrays(finished)
        except S3dlioError as error:
            error.concern(sample.uri, "make_tf_dataset")
            raise

    def is_plain(self) -> bool:
        """See :meth:`s3dlio.dataset.ObjectDataset.is_plain`: text is not."""
        return super().is_plain() and not self.layout.text

    def are_bytes(self) -> bool:
        """Whether samples, before a transform, are objects or records as they are."""
        return not len(self) or self._codec.format_of(self.samples.catalog.uri(0)) in ("raw", "tfrecord")

    def is_strict(self) -> bool:
        """Whether errors are raised, and so batches whole."""
        return self._on_error == "raise"

    def learn(self) -> None:
        """Read the first sample, and take its form for that of all."""
        if self.layout.form is not None and self.transform is None:
            return
        self.layout.form = None
        counted = self._skipped
        for number in range(min(len(self), 1 if self.is_strict() else _TRIES)):
            for first in self.finish_all(self.read_batch([number])):
                self._learn_from(first, number)
                self._skipped = counted  # the iteration will come past them, and count them
                return
        msg = "there is no sample that can be read, to tell what the dataset's elements are"
        raise FormatError(msg, uri=self.get_uris()[0], operation="make_tf_dataset")

    def _learn_from(self, first: Any, number: int) -> None:
        try:
            self.layout.learn(first)
        except S3dlioError as error:
            error.concern(self.uri_of(number), "make_tf_dataset")
            raise


class S3TFDataset:
    """What :func:`make_tf_dataset` makes its dataset of, and can be told epochs and states.

    A ``tf.data.Dataset`` keeps no place that could be saved, and tf.data draws batches ahead of their use.
    This object keeps the place of the dataset that :meth:`dataset` returns.

    Each iteration yields one epoch, and the next one the next: with a shuffle, in another order. An
    iteration that was broken off counts too, unless it drew no more than 16 batches: those were a look,
    and the next iteration begins at the same place. (Keras and tf.distribute take such looks.) So the orders
    are the same in every run of a program; they depend on the seed and the epoch only. For an order of your
    choice call :meth:`set_epoch` before each iteration. What one iteration has yielded never depends on
    others that run at the same time.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample (NumPy arrays, or for bytes a :class:`s3dlio.BytesView`), last, in
            Python: what TensorFlow can do is faster in ``.map``. It may return arrays, numbers, ``bytes``,
            ``str`` and tensors, by themselves or in dicts and tuples: ``(x, y)`` is what ``fit`` wants.
        format: ``auto`` (by extension), ``raw``, ``npz`` (dict of arrays), ``npy``, ``tfrecord`` (each record a
            string, as ``tf.data.TFRecordDataset`` has it) or ``example`` (each record a ``tf.train.Example``, decoded
            to a dict of arrays of one axis).
        key: One array of each sample that has many, instead of all.
        on_error: ``raise``, or ``skip``: samples that are missing, damaged or refused by the transform are left out.
        index_progress: Called with (files done, files in all) while files of records are indexed.
        loader_opts: The options below as a mapping; keywords win.
        options: How to reach the store.
        **loop: ``batch_size`` (samples, 32; ``None``: elements are single samples, which is slower);
            ``drop_last`` or ``drop_remainder`` (leave out a short last batch: shapes are then known in
            full); ``shuffle`` (``False``; ``True`` or ``"global"``: all samples; ``"block"``: runs of neighbours, mixed,
            for records in large files); ``seed`` (0); ``shuffle_buffer`` (samples that a block shuffle mixes, 1024);
            ``ragged`` (samples of unequal shapes: ``raise``; ``pad`` with zeros to the longest in the batch; or ``list``:
            whatever has axes becomes a ``tf.RaggedTensor``, ragged in the first; of single samples, lengths are
            left open); ``as_string`` (objects or records as they are become strings, else uint8 of shape
            ``(batch, bytes)``; default: records do, and objects unless the listing shows them all of one
            size); ``num_workers`` (requests in flight, 128, fewer where they are of no use); ``prefetch`` (fewer
            still: samples requested ahead); ``read_ahead_bytes`` (256 MiB); ``rank`` and ``world_size`` (instead of
            those found, see :func:`make_tf_dataset`); ``uneven`` (``pad``, ``drop`` or ``uneven`` when samples
            do not divide evenly among ranks; default ``pad`` with several ranks).

    Attributes:
        samples: The :class:`s3dlio.ObjectDataset` below.

    Raises:
        NotFoundError: Nothing matches.
        OptionError: An option is wrong or misspelt.
        FormatError: The first sample is damaged, or TensorFlow has no dtype for it.

    Example:
        >>> source = S3TFDataset("s3://bucket/train/", pattern="*.npz", shuffle=True)     # doctest: +SKIP
        >>> source.load_state_dict(saved)                                                 # doctest: +SKIP
        >>> for number, batch in enumerate(source.dataset().prefetch(2), 1):              # doctest: +SKIP
        ...     step(batch)
        ...     saved = source.state_dict(batches=number)
    """

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        uri: Where | _Samples,
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
        self._loop = _Loop.of(loader_opts, loop)
        plan = self._loop.plan()
        samples = uri if isinstance(uri, _Samples) else _Samples(
            uri, pattern=pattern, transform=transform, format=format, key=key, on_error=on_error,
            index_progress=index_progress, options=options,
        )  # fmt: skip
        samples.layout = self._layout = self._loop.layout(samples)
        samples.learn()
        self.samples: ObjectDataset = samples
        self._loader = BatchLoader(samples, plan)
        self._place = Place(self._loader, self._loop.batch_size or 1)
        self._dataset: tf.data.Dataset | None = None

    @classmethod
    def from_prefix(cls, uri: str, **options: Any) -> Self:
        """Return the dataset of all objects below a prefix; options as of the class."""
        return cls(uri, **options)

    @classmethod
    def from_uris(cls, uris: Iterable[str], **options: Any) -> Self:
        """Return the dataset of the given objects; nothing is listed."""
        return cls(several(uris, "from_uris"), **options)

    @classmethod
    def from_manifest(cls, uri: str, *, verify: bool = False, **options: Any) -> Self:
        """Return the dataset of a saved manifest's samples; nothing is listed or indexed.

        Args:
            uri: The manifest, see :meth:`s3dlio.ObjectDataset.save_manifest`.
            verify: List all the same, and compare.
            **options: As of the class.
        """
        mine = {name: options.pop(name) for name in _OF_SAMPLES if name in options}
        return cls(_Samples.from_manifest(uri, verify=verify, **mine), **options)

    # -- where it stands --------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of elements in a whole epoch of this rank."""
        return len(self._loader) if self._loop.batch_size else len(self._loader.plan.share(len(self.samples)))

    @property
    def element_spec(self) -> Any:
        """What :meth:`dataset` yields: TensorSpecs, learned from the first sample; every other one is held to it."""
        return self.dataset().element_spec

    @property
    def skipped(self) -> int:
        """How many samples were left out so far, with ``on_error="skip"``."""
        return self.samples.skipped

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. The one that a loaded state stands in keeps its place."""
        self._place.set_epoch(epoch)

    def state_dict(self, batches: int | None = None) -> State:
        """Return a place in an epoch: a small dict of constant size; the end of one is the beginning of the next.

        Args:
            batches: How many batches (single samples with ``batch_size=None``) were used since the last
                ``set_epoch`` or ``load_state_dict``, or since the beginning, over all epochs. ``None``: all that
                the last iteration has handed out, among them those that tf.data holds ready.
        """
        return self._place.state(batches)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on where a state says, maybe saved with another number of ranks.

        That iteration is shorter than the dataset's cardinality says. Where equal ones are wanted, as by
        ``fit`` with several epochs, iterate over ``dataset().repeat()`` with ``steps_per_epoch=len(self)``.

        Raises:
            OptionError: The state is one of other samples, another seed or another shuffle.
        """
        self._place.load(state)

    # -- reading ----------------------------------------------------------------------------------

    def dataset(self) -> tf.data.Dataset:
        """Return the ``tf.data.Dataset``, each time the same; see :func:`make_tf_dataset` for what it yields."""
        if self._dataset is None:
            self._dataset = self._build()
        return self._dataset

    def _build(self) -> tf.data.Dataset:
        layout = self._layout
        draw = self._draw_single if layout.single else self._draw
        drawn = tf.data.Dataset.from_generator(lambda: Tap(draw), output_signature=layout.spec)
        if not layout.single and self._loop.batch_size is None:
            drawn = drawn.unbatch()
        # Nothing, repeated for ever, makes the number of elements known that take() allows. (To assert it
        # instead would make errors of the rest of an epoch, and never end under ignore_errors().)
        whole = drawn.concatenate(nothing_like(drawn.element_spec).repeat()).take(len(self)).prefetch(_READY)
        return whole.with_options(self._tf_options())

    def _tf_options(self) -> tf.data.Options:
        options = tf.data.Options()
        options.deterministic = True
        options.experimental_optimization.inject_prefetch = False  # what is ready is prefetched here
        if self._loader.plan.rank.count > 1:  # tf.distribute must not divide once more what is divided here
            options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return options

    def __iter__(self) -> Iterator[Any]:
        """Iterate over ``dataset()``."""
        return iter(self.dataset())

    def _draw(self, token: CancellationToken) -> Iterator[Any]:
        """Yield the batches of one iteration. Runs in TensorFlow's threads; closed when its iterator dies."""
        done = self._place.begin()
        for steps, batch in self._loader.read(done.run, token):
            made = [] if batch is None else [self._layout.tensors(batch)]
            self._place.note(done, steps, lost=batch is None)
            del batch
            while made:
                yield made.pop()  # TensorFlow alone keeps it alive
        self._place.end(done)

    def _draw_single(self, token: CancellationToken) -> Iterator[Any]:
        done = self._place.begin()
        for sample in self.samples.stream(done.run.walk, self._loader.plan.ahead, token=token):
            made = [self._layout.tensors(finished) for finished in self.samples.finish_all([sample])]
            self._place.note(done, 1, lost=not made)
            yield from made
        self._place.end(done)

    def __repr__(self) -> str:
        """Show what it holds."""
        return f"{type(self).__name__}({self.samples!r})"


def make_tf_dataset(uri: Where, *, state: Mapping[str, Any] | None = None, **options: Any) -> tf.data.Dataset:
    """Return a ``tf.data.Dataset`` of batches from object storage, read ahead.

    Elements are batches: of TFRecords strings of shape ``(batch,)``, equal to
    ``TFRecordDataset(...).batch(n)`` and ready for ``tf.io.parse_example``; of NPZ a dict of tensors; of objects
    as they are strings, or uint8 of shape ``(batch, bytes)`` if the listing shows them all of one size (see
    ``as_string``). The first axis is known if ``drop_last`` is set. What samples are is learned from the first
    one, which is read here, and every sample is held to it. Batches are put together in the memory that the
    tensors then have; dtypes are kept.

    It is as any other: ``.map``, ``.prefetch``, ``.repeat``, ``.take``, ``model.fit``. One batch is ready while
    the model computes on another; ``.prefetch(n)`` behind a ``.map`` has more of them ready, mapped. Its
    cardinality is the number of batches in an epoch.
    Each iteration is one epoch, and with a shuffle the next has another order: :class:`S3TFDataset` says how
    epochs are counted and chosen. An error ends the iteration, as a ``tf.errors`` error whose text has the
    cause and its URI: to go on without damaged samples use ``on_error="skip"``, not ``ignore_errors()``, which
    would make a short epoch of it.

    With several workers each reads its part. Ranks are those of the strategy in scope or of ``TF_CONFIG``;
    ``rank`` and ``world_size`` override them. ``batch_size`` is of one rank, so under ``MultiWorkerMirroredStrategy``
    make the dataset in ``strategy.distribute_datasets_from_function``; ``experimental_distribute_dataset``
    would cut each worker's batch once more by the number of replicas, and ``fit`` does that too. With one worker
    (``MirroredStrategy``) that is right: ``batch_size`` is then of all replicas together.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        state: Where the first iteration begins, from :meth:`S3TFDataset.state_dict`.
        **options: As of :class:`S3TFDataset`.

    Raises:
        NotFoundError: Nothing matches.
        OptionError: An option is wrong or misspelt, or the state is of other samples.
        FormatError: The first sample is damaged, or TensorFlow has no dtype for it.

    Example:
        >>> ds = make_tf_dataset("s3://bucket/train/", pattern="*.tfrecord", batch_size=32)  # doctest: +SKIP
        >>> features = {"label": tf.io.FixedLenFeature([], tf.int64)}                        # doctest: +SKIP
        >>> ds = ds.map(lambda records: tf.io.parse_example(records, features))              # doctest: +SKIP
    """
    source = S3TFDataset(uri, **options)
    if state is not None:
        source.load_state_dict(state)
    return source.dataset()
