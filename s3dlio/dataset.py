"""Samples in object storage, for any framework.

Floor 5. Knows catalogs, formats, orders and the fetcher; must not know any framework. The rooms
(``torch/``, ``jax/``, ``tf/``) add who reads which part, and what a sample is turned into.

A dataset lists once, in the process that makes it, or not at all if it comes from a manifest. What
travels to workers is the index; a worker never lists.
"""

from __future__ import annotations

import itertools
import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, Self, SupportsIndex, cast

import numpy as np

from s3dlio.bounds import is_a
from s3dlio.buffers import flat_bytes
from s3dlio.cancel import CancellationToken
from s3dlio.catalog import Catalog, Changes
from s3dlio.crew import CREW
from s3dlio.dataset_options import dataset_options
from s3dlio.errors import ObjectChangedError, OptionError, S3dlioError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES, Fetcher, Read
from s3dlio.formats.samples import Codec, make_codec
from s3dlio.gather import Allocate, Group, Handful, Sample, stream_groups, stream_objects
from s3dlio.indexing import Progress, index_samples, only_samples
from s3dlio.jobs import SKIPPABLE
from s3dlio.listing import Pattern
from s3dlio.manifest import Manifest, Source, free_place, pack, unpack
from s3dlio.options import StoreOptions
from s3dlio.orders import Sequential
from s3dlio.samples import Ints
from s3dlio.shards import Share, Walk, walk
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import Uri, from_path_or_uri, parse_object, several

_log = logging.getLogger("s3dlio")

#: Requests in flight while reading ahead: at 20 ms to the first byte this is 6,000 objects a second.
DEFAULT_READ_AHEAD = 128
#: Records that are read together unless the order says otherwise: as many as this many bytes hold ...
_GROUP_BYTES = 8 << 20
#: ... but no more than this: the first of them waits for the last.
_GROUP_MOST = 1024
_ON_ERROR = ("raise", "skip")

Where = str | PurePath | Iterable[str | PurePath]


class Ahead(NamedTuple):
    """How far to read ahead.

    Attributes:
        max_in_flight: Requests at once.
        budget_bytes: Bytes in flight or waiting to be taken.
    """

    max_in_flight: int = DEFAULT_READ_AHEAD
    budget_bytes: int = DEFAULT_BUDGET_BYTES


class ObjectDataset:
    """Samples by number, by batch, or one after the other with read-ahead.

    Most samples are objects; of a TFRecord file each record is one. Thread-safe. Pickles as index and
    settings: connections are made anew where it is unpickled.

    Args:
        uri: A prefix (or local directory), or the objects themselves as a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw``, ``npz``, ``npy``, ``tfrecord`` (each record a sample) or
            ``example`` (each record a ``tf.train.Example``, decoded to a dict of arrays).
        key: One array of each sample that has many, instead of all.
        on_error: ``raise``, or ``skip``: samples that are missing, damaged or refused by the transform are
            left out, told to the log ``s3dlio`` and counted in :attr:`skipped`.
        index_progress: Called with (files done, files in all) while files of records are indexed.
        options: How to reach the store.

    Raises:
        NotFoundError: Nothing matches.
        TFRecordError: A file of records is damaged or compressed.
    """

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        uri: Where,
        *,
        pattern: Pattern = None,
        transform: Callable[[Any], Any] | None = None,
        format: str = "auto",  # noqa: A002 - the contract's name
        key: str | None = None,
        on_error: str = "raise",
        index_progress: Progress | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        self._codec: Codec = make_codec(format, key)
        if on_error not in _ON_ERROR:
            msg = f"on_error must be one of {', '.join(_ON_ERROR)}, not {on_error!r}{suggest(on_error, _ON_ERROR)}"
            raise OptionError(msg)
        if not is_a(transform, Callable, type(None)):  # type: ignore[arg-type]  # an ABC
            msg = f"transform must be a function of a sample, not {transform!r:.80}"
            raise OptionError(msg)
        self._on_error = on_error
        self._options = options
        self.transform = transform
        self._skipped = 0
        self._as_stored: bool | None = None
        manifest = self._survey(uri, pattern, index_progress)
        self._source, self._kept_in = manifest.source, manifest.kept_in
        self.samples = manifest.samples

    def _survey(self, uri: Where | Manifest, pattern: Pattern, progress: Progress | None) -> Manifest:
        """Find out what samples there are."""
        if isinstance(uri, (str, os.PathLike)):
            source = Source.of(from_path_or_uri(uri), pattern)
            catalog = self._list(source.uri, pattern)
        elif pattern is not None:
            msg = "pattern selects from a listing; it does not go with a list of URIs or a manifest"
            raise OptionError(msg, operation="dataset")
        elif isinstance(uri, Manifest):
            return uri
        else:
            catalog, source = Catalog.of_uris(several(uri, "dataset")), Source()
        store = open_store(Uri(catalog.scheme, "", ""), self._options)
        return Manifest(index_samples(catalog, self._codec, store, progress), source, self._codec.format)

    def _list(self, uri: str, pattern: Pattern) -> Catalog:
        return Catalog.of_prefix(uri, pattern, open_store(uri, self._options), CREW.get().token)

    # -- manifests --------------------------------------------------------------------------------

    @classmethod
    def from_manifest(cls, uri: str, *, verify: bool = False, **options: Any) -> Self:
        """Return the dataset that :meth:`save_manifest` has saved; nothing is listed or indexed.

        Args:
            uri: The manifest.
            verify: List all the same, and compare.
            **options: As of the class; ``format`` is the one that was saved with.

        Raises:
            ObjectChangedError: The objects are not those of the manifest any more; the message says how.
            FormatError: It is not a manifest.
        """
        where = parse_object(from_path_or_uri(uri), "from_manifest")
        try:
            data = Fetcher(open_store(where, options.get("options"))).read(Read(where))
            manifest = unpack(data.memoryview())._replace(kept_in=str(where))
        except S3dlioError as error:
            error.concern(where, "from_manifest")
            raise
        options.setdefault("format", manifest.format)
        dataset = cls(manifest, **options)  # type: ignore[arg-type]
        if verify:
            changes = dataset.changes()
            if changes:
                msg = f"the objects are not those of the manifest any more: {changes}; make and save it anew"
                raise ObjectChangedError(msg, uri=uri, operation="from_manifest")
        return dataset

    def save_manifest(self, uri: str) -> None:
        """Save the listing and the index of records as one file that is none of the dataset's, for :meth:`from_manifest`.

        Raises:
            UriError: It is an object of the dataset, or a prefix. Also: StoreError.
        """
        where = free_place(parse_object(from_path_or_uri(uri), "save_manifest"), self.samples.catalog)
        data = pack(Manifest(self.samples, self._source, self._codec.format))
        open_store(where, self._options).put(where, flat_bytes(data), PutOptions(), CREW.get().token)

    def changes(self) -> Changes:
        """List again, and return what has changed since: falsy for nothing.

        Raises:
            OptionError: The dataset is one of a list of URIs: there is nothing to list.
        """
        if not self._source.uri:
            raise OptionError("the dataset was made of a list of URIs; there is no prefix to list", operation="changes")
        now = self._list(self._source.uri, self._source.pattern or None)
        return self.samples.catalog.changes(only_samples(now, self._codec, self._kept_in))

    # -- what there is ----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def get_uris(self) -> list[str]:
        """Return the URIs of all objects, in order. Objects of records hold many samples each."""
        catalog = self.samples.catalog
        return [str(catalog.uri(number)) for number in range(len(catalog))]

    def keys(self) -> list[str]:
        """Return the keys of all objects (for files: their paths)."""
        catalog = self.samples.catalog
        return [catalog.key(number) for number in range(len(catalog))]

    def uri_of(self, number: int) -> str:
        """Return the URI of the object that a sample lies in."""
        return str(self.samples.catalog.uri(self.samples.object_of(self._position(number))))

    @property
    def skipped(self) -> int:
        """How many samples were left out so far, with ``on_error="skip"``."""
        return self._skipped

    def _position(self, number: int) -> int:
        count = len(self.samples)
        position = number + count if number < 0 else number
        if not 0 <= position < count:
            msg = f"sample {number} of {count}"
            raise IndexError(msg)
        return position

    # -- reading ----------------------------------------------------------------------------------

    def __getitem__(self, number: SupportsIndex | slice | Sequence[int]) -> Any:
        """Read one sample, or for a slice or several numbers a list of them, at once; negative ones count from the end.

        Raises:
            IndexError: There is no such sample.
            StoreError: Its object cannot be read.
            FormatError: Its object is not of its format.
        """
        if isinstance(number, slice):
            return self._several(range(len(self))[number])
        if not isinstance(number, SupportsIndex) or getattr(number, "ndim", 0) > 0:  # arrays support it, to look at
            if not is_a(number, Iterable) or is_a(number, str, bytes):
                msg = f"samples are read by number, or several numbers, not by {number!r:.80}"
                raise OptionError(msg)
            return self._several(cast("Sequence[int]", number))
        group = Group(self.samples, np.array([self._position(operator.index(number))]))
        group.put(self._fetcher().read(group.reads[0]))
        return self.finish(group.samples()[0])

    def get_item(self, number: int) -> Any:
        """Read one sample: ``dataset[number]`` by the original's name."""
        return self[number]

    def _several(self, numbers: Iterable[int]) -> list[Any]:
        return self.__getitems__([int(number) for number in numbers])

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Read a batch at once, in the given order. Data loaders call this with a sampler's batch."""
        return self.finish_all(self.read_batch([self._position(int(number)) for number in numbers]))

    def read_batch(self, positions: Sequence[int], max_in_flight: int = DEFAULT_READ_AHEAD) -> list[Sample]:
        """Read the samples at some positions at once; return their bytes, in the given order."""
        group = Group(self.samples, np.asarray(positions, np.int64))
        fetcher = self._fetcher(max_in_flight)
        if self.samples.records is None and self._on_error == "raise":
            self._fill_whole(group, fetcher)
        else:
            for view in fetcher.read_all(group.reads):
                group.put(view)
        return self.taken(group)

    @staticmethod
    def _fill_whole(group: Group, fetcher: Fetcher) -> None:
        """Read whole objects the fastest way, which does not look at the sizes that were listed."""
        for read, view in zip(group.reads, fetcher.read_whole([read.uri for read in group.reads]), strict=True):
            if 0 <= read.size != len(view):
                msg = f"the object had {read.size} bytes when it was listed and has {len(view)}: list anew"
                raise ObjectChangedError(msg, uri=str(read.uri), operation="get")
            group.put(view)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over all samples in order, reading ahead."""
        return self.iterate(walk(Sequential(len(self)), Share(len(self))))

    def iterate(self, way: Walk, ahead: Ahead = Ahead()) -> Iterator[Any]:  # noqa: B008 - frozen
        """Iterate over the samples of a walk, reading ahead."""
        for sample in self.stream(way, ahead):
            yield from self.finish_all([sample])

    def stream(
        self, way: Walk, ahead: Ahead, *, first: int = 0, token: CancellationToken | None = None
    ) -> Iterator[Sample]:
        """Iterate over the samples of a walk as they came, one for each step, reading ahead.

        Args:
            way: Which samples, in which order.
            ahead: How far to read ahead.
            first: The step to begin with.
            token: Stops the reading.
        """
        groups = way.groups(first, self._group_size())
        if self.samples.records is not None and way.has_windows():
            # A window's memory is held until its last sample is let go: half is for what is handed out. (What is more
            # than the pool keeps is fresh memory in each epoch: 9,000 to 12,500 records/s, where this gives 12,000 to 15,000.)
            ahead = ahead._replace(budget_bytes=max(1, ahead.budget_bytes // 2))
        return self.stream_groups(groups, ahead, token)

    def stream_groups(
        self, groups: Iterable[Ints], ahead: Ahead, token: CancellationToken | None = None
    ) -> Iterator[Sample]:
        """Iterate over samples as they came, given in groups that are best read together."""
        fetcher = self._fetcher(ahead.max_in_flight, token)
        if self.samples.records is None:
            numbers = (number for group in groups for number in group.tolist())
            yield from stream_objects(fetcher, self.samples, numbers, ahead.budget_bytes)
            return
        for done in stream_groups(fetcher, self.samples, groups, ahead.budget_bytes):
            yield from self.taken(done)

    def taken(self, group: Group | Handful) -> list[Sample]:
        """Return the samples of a group; where the sums of a record are wrong, the error in place of its bytes.

        All are verified before anything else is done with any: the same few lines again and again run three times
        as fast as in turns with others.
        """
        samples = group.samples()
        return samples if self.samples.records is None else [self._verified(sample) for sample in samples]

    def _verified(self, sample: Sample) -> Sample:
        number, uri, start, view, is_verified = sample
        if is_verified or isinstance(view, S3dlioError):
            return sample
        return Sample(number, uri, start, self._codec.fault(uri, view, start) or view, is_verified=True)

    def stream_batches(
        self,
        way: Walk,
        size: int,
        ahead: Ahead,
        *,
        first: int = 0,
        allocate: Allocate | None = None,
        token: CancellationToken | None = None,
    ) -> Iterator[Group | Handful]:
        """Iterate over the samples of a walk as they came, in batches, reading ahead.

        Args:
            way: Which samples, in which order.
            size: Samples in a batch; the last one may be shorter.
            ahead: How far to read ahead.
            first: The step to begin with.
            allocate: Takes memory in which all samples of a batch lie back to back. Not used where more
                than a batch is read together: records in an order of windows.
            token: Stops the reading.
        """
        if self.samples.records is not None and way.has_windows():
            samples = self.stream(way, ahead, first=first, token=token)
            while taken := list(itertools.islice(samples, size)):
                yield Handful(taken)
            return
        fetcher = self._fetcher(ahead.max_in_flight, token)
        yield from stream_groups(fetcher, self.samples, way.batches(first, size), ahead.budget_bytes, allocate)

    def _group_size(self) -> int:
        mean = self.samples.mean_bytes()
        return max(1, min(_GROUP_MOST, _GROUP_BYTES // mean)) if mean > 0 else 1

    # -- finishing --------------------------------------------------------------------------------

    def is_plain(self) -> bool:
        """Whether a sample's bytes are the sample, so that it can be read where it belongs in a batch."""
        untouched = self.transform is None and self._on_error == "raise"
        if untouched and self._as_stored is None:  # it takes a look at every key
            self._as_stored = self._codec.are_as_stored(map(self.samples.catalog.key, range(len(self.samples.catalog))))
        return untouched and bool(self._as_stored)

    def finish_all(self, samples: Iterable[Sample]) -> list[Any]:
        """Return what the user sees of some samples, without those to be skipped."""
        if self._on_error == "raise":
            return [self.finish(sample) for sample in samples]
        finished = []
        for sample in samples:
            try:
                finished.append(self.finish(sample))
            except Exception as error:
                if isinstance(error, S3dlioError) and not isinstance(error, SKIPPABLE):
                    raise
                self._count_skipped()
                _log.warning("skipped sample %d of %s: %s", sample.number, sample.uri, error)
        return finished

    def _count_skipped(self) -> None:
        self._skipped += 1

    def finish(self, sample: Sample) -> Any:
        """Turn a sample's bytes into what the user sees."""
        _, uri, start, _, is_verified = sample
        decoded = self.convert(self._codec.decode(uri, sample.bytes(), start, is_verified=is_verified))
        if self.transform is None:
            return decoded
        try:
            return self.transform(decoded)
        except Exception as error:
            error.add_note(f"raised by the transform of sample {sample.number}, {sample.uri}")
            raise

    def convert(self, sample: Any) -> Any:
        """Turn a decoded sample into the framework's own kind. Rooms override this."""
        return sample

    def _fetcher(self, max_in_flight: int = DEFAULT_READ_AHEAD, token: CancellationToken | None = None) -> Fetcher:
        lenient = self._on_error == "skip"
        return Fetcher(self._store(), max_in_flight=max_in_flight, token=token, lenient=lenient)

    def _store(self) -> Store:
        return open_store(Uri(self.samples.catalog.scheme, "", ""), self._options)

    def __repr__(self) -> str:
        """Show what it holds."""
        first = f", first in {self.uri_of(0)}" if len(self) else ""
        return f"{type(self).__name__}({len(self)} samples{first})"


def create_dataset(uri: Where, opts: Mapping[str, Any] | None = None, **options: Any) -> ObjectDataset:
    """Return a dataset over a prefix, a local directory or a list of objects.

    Args:
        uri: Where the objects are.
        opts: More options as a mapping. Those of a loader are taken too, and mean nothing to a dataset.
        **options: As of :class:`ObjectDataset`; they win.

    Raises:
        OptionError: An option is misspelt or wrong.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://data/a.bin", b"spam")
        >>> s3dlio.create_dataset("memory://data/")[0]
        b'spam'
    """
    return ObjectDataset(uri, **{**dataset_options(opts), **options})
