"""The verbs on listings, directories and buckets.

Floor 6. As :mod:`s3dlio.api`, of which this is the part that names no single object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from s3dlio import listing
from s3dlio.bounds import is_a
from s3dlio.context import current_token, store_of
from s3dlio.errors import UriError
from s3dlio.prefixes import wide_keys
from s3dlio.spellings import also_spelt
from s3dlio.stores.base import Entry
from s3dlio.uri import CONTAINER_SCHEMES, Uri, parse, parse_object


def list_uris(
    uri: str,
    recursive: bool = True,  # noqa: FBT001, FBT002 - the contract's order
    pattern: str | re.Pattern[str] | None = None,
) -> list[str]:
    r"""List the objects whose URI begins with ``uri``.

    Args:
        uri: A prefix. For ``file://`` and ``direct://`` a directory lists what is in it.
        recursive: ``False`` gives what lies deeper than the next ``/`` as one prefix ending in ``/``.
        pattern: Keep what matches, tried on the part behind the prefix's last ``/``: a compiled
            regex (searched); ``"glob:..."`` or ``"regex:..."``; else a regex if it contains one of
            ``\ ^ $ + ( ) { } |`` or ``.*`` ``.+`` ``.?``, and a glob if not. A glob without ``/``
            is tried on the last segment.

    Returns:
        Full URIs, sorted, in the caller's scheme. Empty objects whose key ends in ``/`` (directory
        markers) are left out.

    Raises:
        NotFoundError: The bucket does not exist.
        StoreError: It cannot be listed.
    """
    prefix = parse(uri)
    lead = str(prefix.with_key(""))
    if recursive and pattern is None:
        groups = wide_keys(store_of(prefix), prefix, current_token())
        found = [lead + key for keys in groups for key in keys]
    else:
        found = [lead + entry.key for entry in _entries(prefix, recursive, pattern)]
    found.sort()
    return found


class ObjectEntry(NamedTuple):
    """One object of a listing.

    Attributes:
        uri: Its full address, in the caller's scheme.
        size: Bytes; -1 for what stands for all below it (``recursive=False``; ends in ``/``).
        etag: Entity tag without quotes, or an empty string.
        last_modified: With time zone, or ``None``.
    """

    uri: str
    size: int
    etag: str = ""
    last_modified: datetime | None = None

    @property
    def is_prefix(self) -> bool:
        """Whether this stands for all objects below it."""
        return self.size < 0


def iter_objects(
    uri: str,
    recursive: bool = True,  # noqa: FBT001, FBT002 - as list
    pattern: str | re.Pattern[str] | None = None,
) -> Iterator[ObjectEntry]:
    """Iterate over the objects whose URI begins with ``uri``, from the first page of the listing on.

    As :func:`list`, and with what a listing tells of each object; memory does not grow with their number. Where the
    server is far away and the keys have a few first segments, these are listed at once, some pages ahead.

    Args:
        uri: As for :func:`list`.
        recursive: As for :func:`list`.
        pattern: As for :func:`list`.

    Returns:
        An iterator for one thread, in the backend's order: by key where that is a cloud. It asks nothing before its
        first ``next``.

    Raises:
        NotFoundError: The bucket does not exist.
        StoreError: It cannot be listed; what came before is not all there is.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://listed/a", b"spam")
        >>> [(entry.uri, entry.size) for entry in s3dlio.iter_objects("memory://listed/")]
        [('memory://listed/a', 4)]
    """
    prefix = parse(uri)
    lead = str(prefix.with_key(""))
    for key, size, etag, last_modified in _entries(prefix, recursive, pattern):
        yield ObjectEntry(lead + key, size, etag, last_modified)


def _entries(prefix: Uri, recursive: bool, pattern: listing.Pattern) -> Iterator[Entry]:  # noqa: FBT001 - handed on
    found = listing.scan(store_of(prefix), prefix, pattern, current_token(), recursive=recursive)
    return listing.without_markers(found)


def mkdir(uri: str) -> None:
    """Make a directory and its parents; on object stores an empty object whose key ends in ``/``."""
    where = parse_object(uri, "mkdir")
    store_of(where).mkdir(where, current_token())


@also_spelt(bucket_name="name")
def create_bucket(name: str) -> None:
    """Create a bucket.

    Args:
        name: A URI, or the bare name of an S3 bucket.

    Raises:
        AlreadyExistsError: It exists. (S3 is content with one that is yours in ``us-east-1``.)
        UriError: A key stands behind its name.
        StoreError: It cannot be created.
    """
    where = _container(name, "create_bucket")
    store_of(where).create_container(where, current_token())


@also_spelt(bucket_name="name")
def delete_bucket(name: str) -> None:
    """Delete an empty bucket.

    Args:
        name: A URI, or the bare name of an S3 bucket.

    Raises:
        NotFoundError: It does not exist.
        UriError: A key stands behind its name.
        StoreError: It is not empty, or cannot be deleted.
    """
    where = _container(name, "delete_bucket")
    store_of(where).delete_container(where, current_token())


def list_containers(uri: str = "s3://") -> list[str]:
    """List buckets or containers.

    Args:
        uri: A scheme such as ``"s3://"``, ``"az://account"``, or a directory.

    Returns:
        Their URIs, sorted.

    Raises:
        StoreError: They cannot be listed.
    """
    if not is_a(uri, str):
        parse(uri)  # refuses it
    scheme, _, rest = uri.partition("://")
    where = Uri(scheme.lower(), rest.strip("/"), "") if scheme.lower() in CONTAINER_SCHEMES else parse(uri)
    names = store_of(where).list_containers(where, current_token())
    if where.scheme not in CONTAINER_SCHEMES:
        return [f"{where.scheme}://{where.key.rstrip('/')}/{name}" for name in names]
    lead = f"{where.container}/" if where.scheme == "az" and where.container else ""
    return [f"{where.scheme}://{lead}{name}" for name in names]


def _container(name: str, operation: str) -> Uri:
    where = parse(f"s3://{name}" if is_a(name, str) and "://" not in name else name)
    if where.key and where.scheme in CONTAINER_SCHEMES - {"az"}:  # there the account may stand before the container
        msg = f"this names something in a bucket; the bucket is {where.with_key('')}"
        raise UriError(msg, uri=name, operation=operation)
    return where
