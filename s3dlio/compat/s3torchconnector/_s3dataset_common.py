"""What the datasets of s3torchconnector share: addresses, objects, and how they become samples.

Floor 6. Knows clients and readers; must not know torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from s3dlio import listing
from s3dlio.buffers import BytesView
from s3dlio.catalog import Catalog
from s3dlio.compat.s3torchconnector._s3client import S3Client, S3ClientConfig
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.compat.s3torchconnector.s3reader.constructor import S3ReaderConstructor, is_whole
from s3dlio.compat.s3torchconnector.s3reader.s3reader import S3Reader, S3ReaderConstructorProtocol
from s3dlio.context import current_token
from s3dlio.errors import OptionError, S3dlioError
from s3dlio.fetch import Fetcher
from s3dlio.jobs import Read
from s3dlio.stores import open_store
from s3dlio.uri import Uri, from_path_or_uri, parse, parse_object

Transform = Callable[[S3Reader], Any]
#: Finds the objects, by a client.
Finder = Callable[[S3Client], Catalog | Iterable["BucketAndKey"]]


class BucketAndKey(Protocol):
    """What users' own functions name an object by."""

    @property
    def bucket(self) -> str:
        """The bucket."""

    @property
    def key(self) -> str:
        """The key in the bucket."""


def identity(reader: S3Reader) -> S3Reader:
    """Return the reader itself: what a dataset does without a transform."""
    return reader


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an address, which may be a prefix; of files, nothing and the path.

    Raises:
        UriError: It is none.
    """
    where = parse(from_path_or_uri(uri))
    return where.container, where.key


class Objects:
    """What both datasets share: objects, which are found when they are first needed, and how they become samples.

    Args:
        region: S3 region; default: the environment's.
        get_dataset_objects: Finds the objects, by a client: each has a ``bucket`` and a ``key``.
        endpoint: Of an S3-compatible server.
        transform: Called with each object's reader.
        s3client_config: How to reach them.
        reader_constructor: How to read them.

    Raises:
        OptionError: ``reader_constructor`` cannot be called.
    """

    _sort = ""

    def __init__(
        self,
        region: str | None,
        get_dataset_objects: Finder,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        given: object = reader_constructor
        if given is not None and not callable(given):
            msg = "reader_constructor must come from S3ReaderConstructor, or make readers as it does"
            raise OptionError(msg)
        self.region = region
        self.endpoint = endpoint
        self._get_dataset_objects = get_dataset_objects
        self._transform = transform
        self._s3client_config = s3client_config
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()
        self._client: S3Client | None = None
        self._catalog: Catalog | None = None

    def _get_client(self) -> S3Client:
        if self._client is None:
            way = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
            self._client = S3Client(
                self.region,
                endpoint=self.endpoint,
                user_agent=UserAgent([f"md/dataset#{self._sort} md/reader_type#{way}"]),
                s3client_config=self._s3client_config,
            )
        return self._client

    def _objects(self) -> Catalog:
        if self._catalog is None:
            client = self._get_client()
            found = self._get_dataset_objects(client)
            self._catalog = found if isinstance(found, Catalog) else _catalog_of(found, client)
        return self._catalog

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what was found, so that spawned workers need not list."""
        self._objects()
        return dict(vars(self))

    def _sample(self, where: Uri, data: BytesView | None = None) -> Any:
        client = self._get_client().of_scheme(where.scheme)
        reader = client.get_object(where.container, where.key, reader_constructor=self._reader_constructor)
        return self._transform(reader if data is None else reader.hold(data))

    def _fetcher(self) -> Fetcher:
        store = open_store(Uri(self._objects().scheme, "", ""), self._get_client().options)
        return Fetcher(store, token=current_token())

    def _samples(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield samples in order; what readers would read whole is read ahead of them."""
        objects = self._objects()
        if not is_whole(self._reader_constructor):
            yield from (self._sample(objects.uri(number)) for number in numbers)
            return
        for read, data in self._fetcher().stream(Read(objects.uri(number)) for number in numbers):
            if isinstance(data, S3dlioError):
                raise data
            yield self._sample(read.uri, data)

    def _batch(self, numbers: Sequence[int]) -> list[Any]:
        """Return samples in order; what readers would read whole is read at once."""
        places = [self._objects().uri(number) for number in numbers]
        if not is_whole(self._reader_constructor):
            return [self._sample(where) for where in places]
        views = self._fetcher().read_whole(places)
        return [self._sample(where, view) for where, view in zip(places, views, strict=True)]


def _catalog_of(found: Iterable[BucketAndKey], client: S3Client) -> Catalog:
    names = [(each.bucket, each.key) for each in found]
    return Catalog.of_names(client.scheme, names, [-1] * len(names))


def named(object_uris: str | Iterable[str]) -> Finder:
    """Return what takes the objects that are named."""
    uris = [object_uris] if isinstance(object_uris, str) else list(object_uris)
    return functools.partial(_take, [parse_object(from_path_or_uri(uri), "dataset") for uri in uris])


def listed(s3_uri: str) -> Finder:
    """Return what lists the objects whose URI begins with ``s3_uri``."""
    return functools.partial(_list, parse(from_path_or_uri(s3_uri)))


def _take(places: Sequence[Uri], client: S3Client) -> Catalog:
    if not places:
        return Catalog.of_names(client.scheme, [], [])
    return Catalog.of_uris([str(Uri(client.of_scheme(where.scheme).scheme, *where[1:])) for where in places])


def _list(prefix: Uri, client: S3Client) -> Catalog:
    client = client.of_scheme(prefix.scheme)
    where = Uri(client.scheme, *prefix[1:])
    found = listing.find(str(where), None, current_token(), store=open_store(where, client.options))
    names = [item.uri[1:] for item in found]
    return Catalog.of_names(where.scheme, names, [item.size for item in found], [item.etag for item in found])
