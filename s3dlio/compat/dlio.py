"""The original's names that DLIO and MLPerf Storage call, beside those that are spelt the same here.

Floor 6. Knows the original's signatures and translates them; must not do any work of its own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from s3dlio import api, buckets
from s3dlio.awaitable import awaitable
from s3dlio.buffers import BytesView
from s3dlio.context import current_token, store_of
from s3dlio.dataset import ObjectDataset
from s3dlio.dataset_options import dataset_options
from s3dlio.errors import OptionError, S3dlioError, suggest
from s3dlio.fetch import Fetcher
from s3dlio.jobs import Read
from s3dlio.loader_options import option_names
from s3dlio.spellings import also_spelt
from s3dlio.uri import parse_object

_log = logging.getLogger("s3dlio")

_LOADER_OPTIONS = ("prefetch", "skip_head", "batch_size", "num_workers")
#: Objects in flight when the loader is not told: the original's.
_PREFETCH = 64


def get_bytes(uri: str) -> BytesView:
    """Read a whole object: :func:`s3dlio.get`."""
    return api.get(uri)


def list_full_uris(uri: str, recursive: bool = True, pattern: str | None = None) -> list[str]:  # noqa: FBT001, FBT002 - the original's
    """List objects by their full URIs: :func:`s3dlio.list`."""
    return buckets.list_uris(uri, recursive, pattern)


def configure_tokio_threads(n: int | None = None) -> None:
    """Take the original's number of threads; it is checked, and nothing more: threads follow the work here.

    Args:
        n: How many; 0 and ``None`` leave it to the library.

    Raises:
        OptionError: It is negative.
    """
    _take("n", n or None)


def configure_for_concurrency(concurrency: int | None = None) -> None:
    """Take the original's number of requests at once; it is checked, and nothing more.

    Each call's ``max_in_flight`` is the limit here, and within it the store's answers say how many are of use.

    Raises:
        OptionError: It is less than 1.
    """
    _take("concurrency", concurrency)


def _take(name: str, value: int | None) -> None:
    check_count(name, value)
    _log.debug("%s=%s: taken; this library needs no such number", name, value)


def check_count(name: str, value: object) -> None:
    """Refuse what is no number of at least 1, if it is given at all."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        msg = f"{name} must be a whole number of at least 1, not {value!r}"
        raise OptionError(msg)


class PyDataset(ObjectDataset):
    """Objects by number, as they are: see :class:`s3dlio.ObjectDataset`.

    Args:
        uri: A prefix, or a list of URIs.
        opts: As of :func:`s3dlio.create_dataset`.
        **options: As of :class:`s3dlio.ObjectDataset`; objects are not decoded unless a ``format`` says so.
    """

    def __init__(self, uri: str | Iterable[str], opts: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(uri, **{"format": "raw", **dataset_options(opts), **options})

    @classmethod
    def from_uris(cls, uris: Iterable[str], opts: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return the dataset of the objects that are named, in that order; nothing is listed."""
        return cls([uris] if isinstance(uris, str) else list(uris), opts, **options)

    def uris(self) -> list[str]:
        """Return the URIs of the samples, in their order."""
        return self.get_uris()


class LoadedItem:
    """An object that has been read.

    Attributes:
        uri: The object, as the dataset names it.
        data: Its bytes.
    """

    __slots__ = ("data", "uri")

    def __init__(self, uri: str, data: BytesView) -> None:
        self.uri = uri
        self.data = data

    @property
    def byte_count(self) -> int:
        """The number of bytes."""
        return len(self.data)

    def __len__(self) -> int:
        """Return the number of bytes."""
        return len(self.data)

    def __bytes__(self) -> bytes:
        """Return a copy of the bytes."""
        return bytes(self.data)

    def __buffer__(self, _flags: int) -> memoryview:
        """Offer the bytes (Python 3.12 on; before that take :attr:`data`)."""
        return self.data.memoryview()

    def memoryview(self) -> memoryview:
        """Return the bytes, without a copy."""
        return self.data.memoryview()

    def __repr__(self) -> str:
        """Show what it is."""
        return f"LoadedItem({self.uri!r}, {len(self)} bytes)"


class ItemStream:
    """Objects in the order in which they arrive. It belongs to one thread.

    Args:
        items: What arrives.
    """

    def __init__(self, items: Iterator[LoadedItem]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[LoadedItem]:
        """Iterate over what is left."""
        return self

    def __next__(self) -> LoadedItem:
        """Return what arrives next.

        Raises:
            StoreError: An object cannot be read.
        """
        return next(self._items)

    def collect_batch(self, count: int) -> list[LoadedItem]:
        """Return the next ``count`` objects that arrive, fewer at the end, and then none: an empty list.

        Raises:
            OptionError: ``count`` is less than 1.
            StoreError: An object cannot be read.
        """
        check_count("count", count)
        found: list[LoadedItem] = []
        for item in self._items:
            found.append(item)
            if len(found) == count:
                break
        return found


class PyBytesAsyncDataLoader:
    """Reads the objects of a dataset, many at once.

    Args:
        dataset: The objects.
        options: ``prefetch``: most objects in flight (64); ``num_workers``: another name of it; ``skip_head``: taken,
            since no HEAD is ever sent; ``batch_size``: what :meth:`__iter__` yields at once (1: objects). Other
            options of :class:`s3dlio.PyLoaderOptions` are taken and have no effect: objects come as they arrive.

    Raises:
        OptionError: An option is unknown or wrong.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://demo/a", b"spam")
        >>> loader = PyBytesAsyncDataLoader(PyDataset.from_uris(["memory://demo/a"]), {"prefetch": 4})
        >>> [(item.uri, len(item)) for item in loader.items().collect_batch(8)]
        [('memory://demo/a', 4)]
    """

    @also_spelt(opts="options")
    def __init__(self, dataset: ObjectDataset, options: Mapping[str, Any] | None = None) -> None:
        chosen = dict(options or {})
        known = (*_LOADER_OPTIONS, *option_names())
        for name in chosen:
            if name not in known:
                msg = f"PyBytesAsyncDataLoader has no option {name!r}{suggest(name, known)}"
                raise OptionError(msg)
        self.dataset = dataset
        self.prefetch = chosen.get("prefetch") or chosen.get("num_workers") or _PREFETCH
        self.batch_size = chosen.get("batch_size", 1)
        check_count("prefetch", self.prefetch)
        check_count("batch_size", self.batch_size)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.dataset.get_uris())

    def items(self) -> ItemStream:
        """Begin to read all objects; they come in the order in which they arrive."""
        return ItemStream(self._items())

    def _items(self) -> Iterator[LoadedItem]:
        uris: Sequence[str] = self.dataset.get_uris()
        if not uris:
            return
        store = store_of(parse_object(uris[0], "get"))
        fetcher = Fetcher(store, max_in_flight=self.prefetch, token=current_token())
        for read, data in fetcher.stream((Read(parse_object(uri, "get")) for uri in uris), ordered=False):
            if isinstance(data, S3dlioError):
                raise data
            yield LoadedItem(str(read.uri), data)

    async def __aiter__(self) -> AsyncIterator[list[BytesView]]:
        """Yield lists of ``batch_size`` objects' bytes, in the order in which they arrive."""
        stream = self.items()
        collect = awaitable(stream.collect_batch)
        while batch := await collect(self.batch_size):
            yield [item.data for item in batch]

    def __iter__(self) -> Iterator[Any]:
        """Yield the objects' bytes, or lists of ``batch_size`` of them, in the order in which they arrive."""
        stream = self.items()
        if self.batch_size == 1:
            yield from (item.data for item in stream)
            return
        while batch := stream.collect_batch(self.batch_size):
            yield [item.data for item in batch]
