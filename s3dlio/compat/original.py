"""Names of the original s3dlio that are spelt otherwise here.

Floor 6. Knows the original's signatures and translates them; must not do any work of its own.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, Self

from s3dlio import api, buckets
from s3dlio.buffers import BytesView
from s3dlio.errors import NotFoundError, UriError
from s3dlio.object_store import ObjectStore
from s3dlio.options import DEFAULT_CHUNK_BYTES, DEFAULT_CONCURRENT_RANGES, StoreOptions, checked
from s3dlio.uri import parse
from s3dlio.writer_options import WriterOptions

#: What the original raises where there is no such object.
ObjectNotFoundError = NotFoundError

# -- deprecated verbs: one URI, or bucket and key -------------------------------------------------------


def _address(first: str, key: str, old: str, new: str) -> str:
    warnings.warn(f"{old}() is deprecated; use s3dlio.{new}(uri)", DeprecationWarning, stacklevel=3)
    return first if "://" in first else f"s3://{first}/{key}"


def get_object(uri: str, key: str = "", offset: int | None = None, length: int | None = None) -> BytesView:
    """Read an object or a range of it (deprecated: use ``get`` and ``get_range``).

    Args:
        uri: The object's URI, or the bucket when ``key`` is given.
        key: The key in the bucket.
        offset: First byte; ``None`` reads the whole object.
        length: Bytes; ``None`` reads to the end.
    """
    where = _address(uri, key, "get_object", "get")
    if offset is None and length is None:
        return api.get(where)
    return api.get_range(where, offset or 0, length)


def stat_object(uri: str, key: str = "") -> dict[str, Any]:
    """Return what is known of an object (deprecated: use ``stat``)."""
    return api.stat(_address(uri, key, "stat_object", "stat"))


def list_objects(uri: str, prefix: str = "", recursive: bool = True) -> list[str]:  # noqa: FBT001, FBT002 - the original's
    """List keys, without scheme and bucket (deprecated: use ``list``)."""
    where = _address(uri, prefix, "list_objects", "list")
    return [parse(found).key for found in buckets.list_uris(where, recursive)]


def get_by_key(bucket: str, key: str) -> BytesView:
    """Read an ``s3://`` object (deprecated: use ``get``)."""
    return api.get(_address(bucket, key, "get_by_key", "get"))


def stat_key(bucket: str, key: str) -> dict[str, Any]:
    """Return what is known of an ``s3://`` object (deprecated: use ``stat``)."""
    return api.stat(_address(bucket, key, "stat_key", "stat"))


def list_keys(uri: str) -> list[str]:
    """List what follows a prefix, as :func:`s3dlio.list` finds it: ``uri + key`` is an object's URI.

    Args:
        uri: A prefix or directory; a ``/`` at its end is not needed, nor part of what is returned.
    """
    base = uri.removesuffix("/")
    return [found.removeprefix(base).removeprefix("/") for found in buckets.list_uris(f"{base}/")]


def parse_s3_uri_full(uri: str) -> dict[str, str | None]:
    """Return ``bucket``, ``key`` and ``endpoint`` of an ``s3://`` URI.

    ``s3://host:port/bucket/key`` names a server of its own, ``host:port``; else ``endpoint`` is ``None``. The verbs
    do not read URIs so: they take the server from their settings.

    Raises:
        UriError: It is no ``s3://`` URI.
    """
    where = parse(uri)
    if where.scheme != "s3":
        msg = f"{uri} is no s3:// URI"
        raise UriError(msg, uri=uri, operation="parse_s3_uri_full")
    if ":" not in where.container:
        return {"endpoint": None, "bucket": where.container, "key": where.key}
    bucket, _, key = where.key.partition("/")
    return {"endpoint": where.container, "bucket": bucket, "key": key}


# -- settings of one store ------------------------------------------------------------------------------


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeEngineConfig:
    """How large objects are read.

    Attributes:
        chunk_size: Bytes per range.
        max_concurrent_ranges: Ranges of one object in flight.
        min_split_size: Objects of at most this many bytes are read in one request.
        range_timeout: Seconds for one range.
    """

    chunk_size: int = DEFAULT_CHUNK_BYTES
    max_concurrent_ranges: int = DEFAULT_CONCURRENT_RANGES
    min_split_size: int = DEFAULT_CHUNK_BYTES
    range_timeout: float = 300.0


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class S3Config:
    """Settings of a store, by the original's names.

    Attributes:
        enable_range_engine: Read large objects in several ranges at once.
        range_engine: How.
    """

    enable_range_engine: bool = True
    range_engine: RangeEngineConfig = RangeEngineConfig()

    def options(self) -> StoreOptions:
        """Return the same settings by this library's names."""
        ranges = self.range_engine
        return StoreOptions(
            split=self.enable_range_engine,
            chunk_size=ranges.chunk_size,
            max_concurrent_ranges=ranges.max_concurrent_ranges,
            min_split_size=ranges.min_split_size,
            range_timeout_s=ranges.range_timeout,
        )


AzureConfig = GcsConfig = FileSystemConfig = DirectIOConfig = S3Config


class PyWriterOptions(WriterOptions):
    """:class:`s3dlio.WriterOptions`, whose builders change it, as the original's do; they also return it.

    Example:
        >>> options = PyWriterOptions()
        >>> _ = options.with_compression("zstd", 3)
        >>> options.compression
        'zstd'
    """

    def _with(self, **changes: Any) -> Self:
        self.__dict__.update(super()._with(**changes).__dict__)
        return self


class S3ObjectStore(ObjectStore):
    """``s3://`` by the original's name. Its verbs take the URIs of all schemes."""

    @classmethod
    def with_config(cls, config: S3Config) -> Self:
        """Return a store with the given settings."""
        return cls(config.options())


class AzureObjectStore(S3ObjectStore):
    """``az://`` by the original's name."""


class GcsObjectStore(S3ObjectStore):
    """``gs://`` by the original's name."""


class FileSystemObjectStore(S3ObjectStore):
    """``file://`` by the original's name."""


class DirectIOObjectStore(S3ObjectStore):
    """``direct://`` by the original's name."""
