"""A client of objects by bucket and key, as s3torchconnector has it, and its settings.

Floor 6. Knows s3torchconnector's names and signatures and translates them; must not do any work of its own, nor
know torch. Users import all this from :mod:`s3dlio.compat.s3torchconnector`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

from s3dlio.buffers import KIB, MIB
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.compat.s3torchconnector.s3reader.constructor import S3ReaderConstructor
from s3dlio.compat.s3torchconnector.s3reader.s3reader import Place, S3Reader, S3ReaderConstructorProtocol
from s3dlio.compat.s3torchconnector.s3writer import S3Writer, Upload
from s3dlio.context import current_token
from s3dlio.errors import OptionError
from s3dlio.object_store import ObjectStore
from s3dlio.options import StoreOptions
from s3dlio.sender import DEFAULT_PART_BYTES, DEFAULT_PARTS_IN_FLIGHT
from s3dlio.stores import open_store
from s3dlio.stores.base import Entry, ObjectInfo
from s3dlio.texts import LEAST_PART_BYTES
from s3dlio.transfer.carry import Carrier
from s3dlio.transfer.plan import Move
from s3dlio.uri import PATH_SCHEMES, Uri, parse_object
from s3dlio.writer_options import WriterOptions

_PAGE = 1000
#: s3torchconnector's.
_PART = 8 * MIB
#: Parts of one object that are copied at once.
_COPIES_AT_ONCE = 8
#: One part is sent while the next is filled.
_LEAST_IN_FLIGHT = 2
#: The least that this library reads at once; s3torchconnector takes any number.
_LEAST_PART_BYTES = 64 * KIB


@dataclasses.dataclass(frozen=True)
class S3ClientConfig:
    """How to reach S3.

    Attributes:
        throughput_target_gbps: Taken, and without effect: how much is in flight follows what the server shows.
        part_size: Bytes of the parts in which large objects are read, at least 64 KiB, and written, at least 5 MiB: less
            is taken as that. Left at 8 MiB, what is written goes in larger parts (16 MiB).
        unsigned: Send unsigned requests (public buckets).
        force_path_style: Name the bucket in the path, not in the host's name.
        max_attempts: Tries per request.
        profile: Name of an AWS profile.
        requester_pays: Pay for the requests to buckets whose owners do not.

    Raises:
        OptionError: Requests are to be unsigned, and to be paid for.
    """

    throughput_target_gbps: float = 10.0
    part_size: int = _PART
    unsigned: bool = False
    force_path_style: bool = False
    max_attempts: int = 10
    profile: str | None = None
    requester_pays: bool = False

    def __post_init__(self) -> None:
        if self.requester_pays and self.unsigned:
            msg = "unsigned=True cannot be combined with requester_pays=True: somebody must sign, and pay"
            raise OptionError(msg)

    def options(self, region: str | None, endpoint: str | None) -> StoreOptions:
        """Return the same by this library's names."""
        part_bytes = max(self.part_size, _LEAST_PART_BYTES)
        put_bytes, put_in_flight = self._written_in()
        return StoreOptions(
            region=region,
            endpoint_url=endpoint,
            chunk_size=part_bytes,
            min_split_size=part_bytes,
            put_part_size=put_bytes,
            put_in_flight=put_in_flight,
            anonymous=self.unsigned,
            requester_pays=self.requester_pays,
            addressing_style="path" if self.force_path_style else "auto",
            max_attempts=self.max_attempts,
            profile=self.profile,
        )

    def _written_in(self) -> tuple[int | None, int | None]:
        """Return the bytes of written parts, and how many are under way at once: fewer, where they are large."""
        if self.part_size == _PART:
            return None, None
        part_bytes = max(self.part_size, LEAST_PART_BYTES)
        fit = DEFAULT_PARTS_IN_FLIGHT * DEFAULT_PART_BYTES // part_bytes
        return part_bytes, min(DEFAULT_PARTS_IN_FLIGHT, max(_LEAST_IN_FLIGHT, fit))


class S3ObjectInfo(NamedTuple):
    """One object of a listing: sizes in bytes, times in seconds since 1970 (0 where the backend does not say)."""

    key: str
    etag: str
    size: int
    last_modified: int
    storage_class: str | None = None
    restore_status: None = None


class HeadObjectResult(NamedTuple):
    """What is known of an object: see :class:`S3ObjectInfo`."""

    etag: str
    size: int
    last_modified: int
    storage_class: str | None = None
    restore_status: None = None


class ListObjectResult(NamedTuple):
    """A page of a listing."""

    object_info: list[S3ObjectInfo]
    common_prefixes: list[str]


class S3Client:
    """Objects by bucket and key.

    Thread-safe; works in forked children; pickles as its settings.

    Args:
        region: S3 region; default: the environment's.
        endpoint: ``http(s)://host[:port]`` of an S3-compatible server.
        user_agent: What this client calls itself; it is not sent.
        s3client_config: The rest.
        scheme: Of the URIs that buckets and keys stand for.

    Example:
        >>> client = S3Client(scheme="memory")
        >>> with client.put_object("demo", "a") as writer:
        ...     _ = writer.write(b"spam")
        >>> client.get_object("demo", "a").read()
        b'spam'
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        endpoint: str | None = None,
        user_agent: UserAgent | None = None,
        s3client_config: S3ClientConfig | None = None,
        scheme: str = "s3",
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self.s3client_config = s3client_config or S3ClientConfig()
        self.options = self.s3client_config.options(region, endpoint)
        self.scheme = scheme
        self.user_agent_prefix = (user_agent or UserAgent()).prefix
        self._verbs = ObjectStore(self.options)

    def of_scheme(self, scheme: str) -> S3Client:
        """Return the client of another scheme's objects; buckets on S3 are this one's."""
        if scheme in ("s3", self.scheme):
            return self
        return S3Client(self.region, endpoint=self.endpoint, s3client_config=self.s3client_config, scheme=scheme)

    def _uri(self, bucket: str, key: str) -> Uri:
        if not bucket and self.scheme not in PATH_SCHEMES:
            msg = "the bucket's name must not be empty"
            raise OptionError(msg)
        return Uri(self.scheme, bucket, key)

    def get_object(
        self,
        bucket: str,
        key: str,
        *,
        object_info: S3ObjectInfo | HeadObjectResult | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> S3Reader:
        """Return an object's reader. Nothing is asked for yet; what is missing raises at the first read.

        Args:
            bucket: The bucket.
            key: The key in it.
            object_info: What is known of it; ours need it not, since the first answer tells the size.
            reader_constructor: How to read it: see :class:`S3ReaderConstructor`, or a function of your own.
        """
        info = functools.partial(self.head_object, bucket, key)
        make = reader_constructor or S3ReaderConstructor.default()
        return make(
            bucket=bucket,
            key=key,
            get_object_info=info if object_info is None else functools.partial(_itself, object_info),
            get_stream=Place(self._uri(bucket, key), self.options),
        )

    def put_object(self, bucket: str, key: str, storage_class: str | None = None) -> S3Writer:
        """Return a writer of an object.

        Args:
            bucket: The bucket.
            key: The key in it.
            storage_class: Such as ``STANDARD_IA``; default: the bucket's.

        Raises:
            OptionError: ``storage_class`` cannot be a name.
        """
        how = WriterOptions(compression="none", storage_class=storage_class or "")
        where = parse_object(str(self._uri(bucket, key)), "put_object")
        return S3Writer(Upload(self._verbs.create_writer(str(where), how)))

    def list_objects(
        self, bucket: str, prefix: str = "", delimiter: str = "", max_keys: int = _PAGE
    ) -> Iterator[ListObjectResult]:
        """Yield pages of the objects whose key begins with ``prefix``; with ``"/"`` also common prefixes."""
        if delimiter not in ("", "/"):
            msg = f"delimiter must be '/' or empty, not {delimiter!r}"
            raise OptionError(msg)
        where = self._uri(bucket, prefix)
        store = open_store(where, self.options)
        page: list[Entry] = []
        for entry in store.entries(where, current_token(), recursive=not delimiter):
            page.append(entry)
            if len(page) == max_keys:
                yield _page(page)
                page = []
        yield _page(page)

    def head_object(self, bucket: str, key: str) -> HeadObjectResult:
        """Return what is known of an object.

        Raises:
            NotFoundError: There is no such object.
        """
        where = self._uri(bucket, key)
        info: ObjectInfo = open_store(where, self.options).head(where, current_token())
        when = int(info.last_modified.timestamp()) if info.last_modified else 0
        return HeadObjectResult(info.etag, info.size, when, info.storage_class or None)

    def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        self._verbs.delete(str(self._uri(bucket, key)))

    def copy_object(self, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str) -> None:
        """Copy an object with its media type and metadata; where the server can, no byte of it comes here.

        Raises:
            NotFoundError: There is no such object.
            StoreError: It cannot be copied; what was at the destination is still there.
        """
        source, target = self._uri(src_bucket, src_key), self._uri(dst_bucket, dst_key)
        store, token = open_store(source, self.options), current_token()
        info = store.head(source, token)
        move = Move(source, target, info.size, info.etag.strip('"'))
        with store.lane(token) as read:
            Carrier(lambda _where: store, _COPIES_AT_ONCE, _count_nothing).carry(move, read, token)


def _count_nothing(_length: int) -> None:
    pass


def _itself(info: S3ObjectInfo | HeadObjectResult) -> S3ObjectInfo | HeadObjectResult:
    return info


def _page(entries: list[Entry]) -> ListObjectResult:
    infos = [
        S3ObjectInfo(
            entry.key, entry.etag, entry.size, int(entry.last_modified.timestamp()) if entry.last_modified else 0
        )
        for entry in entries
        if not entry.is_prefix
    ]
    return ListObjectResult(infos, [entry.key for entry in entries if entry.is_prefix])
