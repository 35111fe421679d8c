"""s3torchconnector's names: ``from s3dlio.compat.s3torchconnector import S3MapDataset``, and the code runs as it is.

Floor 6. Knows s3torchconnector's datasets and checkpoints and translates them; must not do any work of its own.

What is better here needs no change of code: whole batches and what comes next are read at once, the listing is
made once and travels to workers, every URI of this library works (``gs://``, ``az://``, ``file://``, ...), and the
region may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

from torch.utils.data import Dataset, IterableDataset

from s3dlio import listing
from s3dlio.api import current_token
from s3dlio.buffers import BytesView
from s3dlio.catalog import Catalog
from s3dlio.compat.connector import S3Client, S3ClientConfig
from s3dlio.compat.connector_files import ReaderKind, S3Reader, S3ReaderConstructor, S3Writer, kind_of
from s3dlio.errors import S3dlioError
from s3dlio.fetch import Fetcher
from s3dlio.jobs import Read
from s3dlio.options import StoreOptions
from s3dlio.range_file import RangeFile, Whole
from s3dlio.stores import open_store
from s3dlio.torch.world import rank, worker
from s3dlio.uri import Uri, from_path_or_uri, parse, parse_object
from s3dlio.version import VERSION as __version__  # noqa: N811 - the name that s3torchconnector has

__all__ = [
    "S3Checkpoint",
    "S3Client",
    "S3ClientConfig",
    "S3Exception",
    "S3IterableDataset",
    "S3MapDataset",
    "S3Reader",
    "S3ReaderConstructor",
    "S3Writer",
    "_BytesViewIO",
    "__version__",
]

#: What s3torchconnector raises; here the root of all errors.
S3Exception = S3dlioError

Transform = Callable[[S3Reader], Any]


def identity(reader: S3Reader) -> S3Reader:
    """Return the reader itself: what a dataset does without a transform."""
    return reader


class _Objects:
    """What both datasets share: the objects, and how they become samples.

    Args:
        catalog: The objects.
        region: S3 region; default: the environment's.
        endpoint: Of an S3-compatible server.
        transform: Called with each object's reader.
        s3client_config: How to reach them.
        reader_constructor: How to read them.
    """

    def __init__(
        self,
        catalog: Catalog,
        region: str | None = None,
        endpoint: str | None = None,
        *,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderKind | None = None,
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._catalog = catalog
        self._transform = transform
        self._options = (s3client_config or S3ClientConfig()).options(region, endpoint)
        self._kind = kind_of(reader_constructor)

    def _reader(self, number: int, data: BytesView | None = None) -> S3Reader:
        return S3Reader(self._catalog.uri(number), self._options, self._kind, data)

    def _fetcher(self) -> Fetcher:
        return Fetcher(open_store(Uri(self._catalog.scheme, "", ""), self._options), token=current_token())

    def _samples(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield samples in order; what readers would read whole is read ahead of them."""
        if not self._kind.is_whole:
            yield from (self._transform(self._reader(number)) for number in numbers)
            return
        for read, data in self._fetcher().stream(Read(self._catalog.uri(number)) for number in numbers):
            if isinstance(data, S3dlioError):
                raise data
            yield self._transform(S3Reader(read.uri, self._options, self._kind, data))


class S3MapDataset(_Objects, Dataset[Any]):
    """Objects by number. Make it by :meth:`from_prefix` or :meth:`from_objects`.

    Thread-safe; works in workers of every start method.
    """

    @classmethod
    def from_objects(
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderKind | None = None,
    ) -> Self:
        """Return the dataset of the objects that are named, in that order.

        Args:
            object_uris: One URI or many.
            region: S3 region; default: the environment's.
            endpoint: Of an S3-compatible server.
            transform: Called with each object's :class:`S3Reader`; what it returns is the sample.
            s3client_config: How to reach them.
            reader_constructor: How to read them: see :class:`S3ReaderConstructor`.
        """
        return cls(
            _named(object_uris), region, endpoint,
            transform=transform, s3client_config=s3client_config, reader_constructor=reader_constructor,
        )  # fmt: skip

    @classmethod
    def from_prefix(
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderKind | None = None,
    ) -> Self:
        """Return the dataset of the objects whose URI begins with ``s3_uri``; they are listed now.

        See :meth:`from_objects`.

        Raises:
            StoreError: They cannot be listed.
        """
        options = (s3client_config or S3ClientConfig()).options(region, endpoint)
        return cls(
            _listed(s3_uri, options), region, endpoint,
            transform=transform, s3client_config=s3client_config, reader_constructor=reader_constructor,
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self._catalog)

    def _position(self, number: int) -> int:
        position = number + len(self) if number < 0 else number
        if not 0 <= position < len(self):
            msg = f"object {number} of {len(self)}"
            raise IndexError(msg)
        return position

    def __getitem__(self, number: int) -> Any:
        """Return one sample; its object is read when the transform, or the caller, reads it."""
        return self._transform(self._reader(self._position(number)))

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return a batch of samples, in order; their objects are read at once."""
        positions = [self._position(number) for number in numbers]
        if not self._kind.is_whole:
            return [self._transform(self._reader(position)) for position in positions]
        views = self._fetcher().read_whole([self._catalog.uri(position) for position in positions])
        return [self._transform(self._reader(position, view)) for position, view in zip(positions, views, strict=True)]


class S3IterableDataset(_Objects, IterableDataset[Any]):
    """Objects one after the other, read ahead. Make it by :meth:`from_prefix` or :meth:`from_objects`.

    Without ``enable_sharding`` each rank and each DataLoader worker yields all of them, as s3torchconnector does.
    """

    def __init__(self, catalog: Catalog, *settings: Any, enable_sharding: bool = False, **more: Any) -> None:
        super().__init__(catalog, *settings, **more)
        self._enable_sharding = enable_sharding
        self._rank = rank()

    @classmethod
    def from_objects(  # noqa: PLR0913 - s3torchconnector's
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderKind | None = None,
    ) -> Self:
        """Return the dataset of the objects that are named, in that order.

        Args:
            object_uris: One URI or many.
            region: S3 region; default: the environment's.
            endpoint: Of an S3-compatible server.
            transform: Called with each object's :class:`S3Reader`; what it returns is the sample.
            s3client_config: How to reach them.
            enable_sharding: Ranks, and the workers of each, take objects in turn.
            reader_constructor: How to read them: see :class:`S3ReaderConstructor`.
        """
        return cls(
            _named(object_uris), region, endpoint, transform=transform, s3client_config=s3client_config,
            reader_constructor=reader_constructor, enable_sharding=enable_sharding,
        )  # fmt: skip

    @classmethod
    def from_prefix(  # noqa: PLR0913 - s3torchconnector's
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderKind | None = None,
    ) -> Self:
        """Return the dataset of the objects whose URI begins with ``s3_uri``; they are listed now.

        See :meth:`from_objects`.

        Raises:
            StoreError: They cannot be listed.
        """
        options = (s3client_config or S3ClientConfig()).options(region, endpoint)
        return cls(
            _listed(s3_uri, options), region, endpoint, transform=transform, s3client_config=s3client_config,
            reader_constructor=reader_constructor, enable_sharding=enable_sharding,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's samples."""
        numbers: range = range(len(self._catalog))
        if self._enable_sharding:
            hand = worker()
            numbers = numbers[self._rank.index :: self._rank.count][hand.index :: hand.count]
        return self._samples(numbers)


class S3Checkpoint:
    """Readers and writers for ``torch.load`` and ``torch.save``.

    Args:
        region: S3 region; default: the environment's.
        endpoint: Of an S3-compatible server.
        s3client_config: How to reach it.
    """

    def __init__(
        self, region: str | None = None, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._config = s3client_config

    def _client(self, where: Uri) -> S3Client:
        return S3Client(self.region, endpoint=self.endpoint, s3client_config=self._config, scheme=where.scheme)

    def reader(self, s3_uri: str) -> S3Reader:
        """Return an object's reader; what is missing raises at the first read."""
        where = parse_object(from_path_or_uri(s3_uri), "reader")
        return self._client(where).get_object(where.container, where.key)

    def writer(self, s3_uri: str) -> S3Writer:
        """Return a writer; the object appears when it is closed, and not when its ``with`` block raises."""
        where = parse_object(from_path_or_uri(s3_uri), "writer")
        return self._client(where).put_object(where.container, where.key)


class _BytesViewIO(RangeFile):
    """Bytes in memory as a file that is open for reading; they are shared, not copied.

    Args:
        data: The bytes.
    """

    def __init__(self, data: BytesView) -> None:
        super().__init__(Whole(Uri("memory", "", ""), data))


def _named(object_uris: str | Iterable[str]) -> Catalog:
    return Catalog.of_uris([object_uris] if isinstance(object_uris, str) else list(object_uris))


def _listed(s3_uri: str, options: StoreOptions) -> Catalog:
    where = parse(from_path_or_uri(s3_uri))
    found = listing.find(str(where), None, current_token(), store=open_store(where, options))
    names = [item.uri[1:] for item in found]
    return Catalog.of_names(where.scheme, names, [item.size for item in found], [item.etag for item in found])
