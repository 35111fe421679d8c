"""Samples in object storage, for any framework.

Floor 5. Knows listings, formats, orders and the fetcher; must not know any framework. The rooms
(``torch/``, later ``jax/`` and ``tf/``) add who reads which part, and what a sample is turned into.

A dataset lists once, in the process that makes it. What travels to workers is the index; a worker
never lists.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from s3dlio import listing
from s3dlio.buffers import BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import NotFoundError, OptionError, UriError
from s3dlio.fetch import DEFAULT_BUDGET_BYTES, Fetcher, Read
from s3dlio.formats.samples import Codec, make_codec
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store
from s3dlio.stores.base import Store
from s3dlio.uri import Uri, from_path_or_uri, parse_object

#: Requests in flight while reading ahead: at 20 ms to the first byte this is 6,000 objects a second.
DEFAULT_READ_AHEAD = 128
#: A run of batches is taken for a pattern after so many of them.
_PATTERN_AFTER = 2

Where = str | Iterable[str]


class ObjectIndex:
    """The objects of a dataset, in order: their keys and sizes, and what they share.

    Args:
        scheme: Of all of them.
        names: ``(container, key)``; the container is stored once per run of equal ones.
        sizes: Bytes, -1 where not known.
    """

    __slots__ = ("_containers", "_keys", "scheme", "sizes")

    def __init__(self, scheme: str, names: Sequence[tuple[str, str]], sizes: Sequence[int]) -> None:
        self.scheme = scheme
        interned: dict[str, str] = {}
        self._containers = [interned.setdefault(container, container) for container, _ in names]
        self._keys = [key for _, key in names]
        self.sizes = np.asarray(sizes, np.int64)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self._keys)

    def uri(self, position: int) -> Uri:
        """Return the address of one object."""
        return Uri(self.scheme, self._containers[position], self._keys[position])

    def read(self, position: int) -> Read:
        """Return the read of one whole object."""
        return Read(self.uri(position), size=int(self.sizes[position]))

    @classmethod
    def of_prefix(cls, uri: str, pattern: str | re.Pattern[str] | None, store: Store) -> ObjectIndex:
        """List the objects below a prefix.

        Raises:
            NotFoundError: There are none.
        """
        found = listing.find(uri, pattern, CREW.get().token, store=store)
        if not found:
            msg = f"no objects match{f' {pattern!r}' if pattern else ''}; see s3dlio.list({uri!r})"
            raise NotFoundError(msg, uri=uri, operation="list")
        scheme = found[0].uri.scheme
        return cls(scheme, [item.uri[1:] for item in found], [item.size for item in found])

    @classmethod
    def of_uris(cls, uris: Sequence[str]) -> ObjectIndex:
        """Take the given objects, in the given order, without listing.

        Raises:
            UriError: The schemes are mixed, or there is none.
        """
        parsed = [parse_object(from_path_or_uri(uri), "dataset") for uri in uris]
        schemes = {uri.scheme for uri in parsed}
        if len(schemes) != 1:
            msg = f"all objects of a dataset must have one scheme, not {sorted(schemes) or 'none'}"
            raise UriError(msg, operation="dataset")
        return cls(schemes.pop(), [uri[1:] for uri in parsed], [-1] * len(parsed))


class Ahead(NamedTuple):
    """How far to read ahead.

    Attributes:
        max_in_flight: Requests at once.
        budget_bytes: Bytes in flight or waiting to be taken.
    """

    max_in_flight: int = DEFAULT_READ_AHEAD
    budget_bytes: int = DEFAULT_BUDGET_BYTES


class ObjectDataset:
    """Objects as samples: by number, by batch, or one after the other with read-ahead.

    Thread-safe. Pickles as index and settings: connections are made anew where it is unpickled.

    Args:
        uri: A prefix (or local directory), or the objects themselves as a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw``, ``npz`` or ``npy``.
        key: One array of each NPZ file instead of all.
        options: How to reach the store.

    Raises:
        NotFoundError: Nothing matches.
    """

    def __init__(
        self,
        uri: Where,
        *,
        pattern: str | re.Pattern[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: str = "auto",  # noqa: A002 - the contract's name
        key: str | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        self._codec: Codec = make_codec(format, key)
        self._options = options
        self.transform = transform
        if isinstance(uri, str):
            where = from_path_or_uri(uri)
            self.index = ObjectIndex.of_prefix(where, pattern, open_store(where, options))
        elif pattern is not None:
            msg = "pattern selects from a listing; it does not go with a list of URIs"
            raise OptionError(msg, operation="dataset")
        else:
            self.index = ObjectIndex.of_uris(list(uri))

    # -- what there is ----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.index)

    def get_uris(self) -> list[str]:
        """Return the URIs of all objects, in the order of their numbers."""
        return [str(self.index.uri(position)) for position in range(len(self.index))]

    def keys(self) -> list[str]:
        """Return the keys of all objects (for files: their paths)."""
        return [self.index.uri(position).key for position in range(len(self.index))]

    def _position(self, number: int) -> int:
        count = len(self.index)
        position = number + count if number < 0 else number
        if not 0 <= position < count:
            msg = f"sample {number} of {count}"
            raise IndexError(msg)
        return position

    # -- reading ----------------------------------------------------------------------------------

    def __getitem__(self, number: int) -> Any:
        """Read one sample; negative numbers count from the end.

        Raises:
            IndexError: There is no such sample.
            StoreError: Its object cannot be read.
            FormatError: Its object is not of its format.
        """
        read = self.index.read(self._position(int(number)))
        return self.finish(read.uri, self._fetcher().read(read))

    def get_item(self, number: int) -> Any:
        """Read one sample: ``dataset[number]`` by the original's name."""
        return self[number]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Read a batch at once, in the given order. Data loaders call this with a sampler's batch."""
        return [self.finish(uri, view) for uri, view in self.read_batch([self._position(int(n)) for n in numbers])]

    def read_batch(
        self, positions: Sequence[int], max_in_flight: int = DEFAULT_READ_AHEAD
    ) -> list[tuple[Uri, BytesView]]:
        """Read the objects at some positions at once; return their addresses and bytes, in the given order."""
        uris = [self.index.uri(position) for position in positions]
        return list(zip(uris, self._fetcher(max_in_flight).read_whole(uris), strict=True))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over all samples in order, reading ahead."""
        return self.iterate(range(len(self)))

    def iterate(self, positions: Iterable[int], ahead: Ahead = Ahead()) -> Iterator[Any]:  # noqa: B008 - frozen
        """Iterate over samples in the given order, reading ahead."""
        for read, view in self.stream(positions, ahead):
            yield self.finish(read.uri, view)

    def stream(
        self, positions: Iterable[int], ahead: Ahead, token: CancellationToken | None = None
    ) -> Iterator[tuple[Read, BytesView]]:
        """Iterate over the objects' bytes in the given order, reading ahead."""
        reads = (self.index.read(int(position)) for position in positions)
        fetcher = self._fetcher(ahead.max_in_flight, token)
        return fetcher.stream(reads, budget_bytes=ahead.budget_bytes)

    def finish(self, uri: Uri, view: BytesView) -> Any:
        """Turn an object's bytes into the sample that the user sees."""
        sample = self.convert(self._codec.decode(uri, view))
        if self.transform is None:
            return sample
        try:
            return self.transform(sample)
        except Exception as error:
            error.add_note(f"raised by the transform of {uri}")
            raise

    def convert(self, sample: Any) -> Any:
        """Turn a decoded sample into the framework's own kind. Rooms override this."""
        return sample

    def _fetcher(self, max_in_flight: int = DEFAULT_READ_AHEAD, token: CancellationToken | None = None) -> Fetcher:
        return Fetcher(self._store(), max_in_flight=max_in_flight, token=token)

    def _store(self) -> Store:
        return open_store(Uri(self.index.scheme, "", ""), self._options)

    def __repr__(self) -> str:
        """Show what it holds."""
        first = f", first {self.index.uri(0)}" if len(self) else ""
        return f"{type(self).__name__}({len(self)} samples{first})"


class Foresight:
    """Reads the next batches of a map dataset while the current one is in use.

    Told an order (:meth:`announce`), or finding that batches follow each other at an even distance, it
    has the objects to come read in the background, and hands them out as long as they are asked for in
    that order. A batch that is not the expected one ends that; nothing is ever wrong, only early.

    Args:
        dataset: Whose objects.
        ahead: How far.
    """

    def __init__(self, dataset: ObjectDataset, ahead: Ahead) -> None:
        self._dataset = dataset
        self._ahead = ahead
        self._lock = threading.Lock()
        self._coming: Iterator[tuple[Read, BytesView]] | None = None
        self._order: Sequence[int] = ()
        self._at = 0
        self._last: tuple[int, int] = (-1, 0)  # first number and length of the batch before
        self._stride = 0
        self._repeats = 0

    def announce(self, order: Sequence[int]) -> None:
        """Say which samples will be asked for next, in which order."""
        with self._lock:
            self._begin(order)

    def take(self, numbers: Sequence[int]) -> list[tuple[Uri, BytesView]] | None:
        """Return the batch if it is the expected one; else note what it says about the pattern."""
        with self._lock:
            if self._coming is not None:
                stop = self._at + len(numbers)
                if [int(number) for number in self._order[self._at : stop]] == list(numbers):
                    self._at = stop
                    return self._next(self._coming, len(numbers))
                self._begin(())
            self._observe(numbers)
            return None

    def _next(self, coming: Iterator[tuple[Read, BytesView]], count: int) -> list[tuple[Uri, BytesView]]:
        try:
            batch = [(read.uri, view) for read, view in itertools.islice(coming, count)]
        except BaseException:
            self._begin(())
            raise
        if self._at >= len(self._order):
            self._begin(())
        return batch

    def _begin(self, order: Sequence[int]) -> None:
        self._order, self._at = order, 0
        self._coming = self._dataset.stream(order, self._ahead) if len(order) else None

    def _observe(self, numbers: Sequence[int]) -> None:
        """Look whether batches of consecutive numbers follow each other at an even distance."""
        first, length = numbers[0], len(numbers)
        before, length_before = self._last
        self._last = (first, length)
        even = list(numbers) == list(range(first, first + length))
        stride = first - before
        if not even or before < 0 or length != length_before or stride < length:
            self._repeats = 0
            return
        self._repeats = self._repeats + 1 if stride == self._stride else 1
        self._stride = stride
        if self._repeats >= _PATTERN_AFTER - 1:
            self._begin(_Strided(first + stride, len(self._dataset), (length, stride)))


class _Strided(Sequence[int]):
    """The numbers of batches at an even distance: ``length`` numbers, then a jump."""

    def __init__(self, first: int, stop: int, step: tuple[int, int]) -> None:
        self._first = first
        self._length, self._stride = step
        whole, rest = divmod(max(0, stop - first), self._stride)
        self._count = whole * self._length + min(rest, self._length)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        batch, offset = divmod(index, self._length)
        return self._first + batch * self._stride + offset


def create_dataset(uri: Where, **options: Any) -> ObjectDataset:
    """Return a dataset over a prefix, a local directory or a list of objects.

    Args:
        uri: Where the objects are.
        **options: As of :class:`ObjectDataset`.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://data/a.bin", b"spam")
        >>> s3dlio.create_dataset("memory://data/")[0]
        b'spam'
    """
    return ObjectDataset(uri, **options)
