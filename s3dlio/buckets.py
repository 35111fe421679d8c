"""The verbs on listings, directories and buckets.

Floor 6. As :mod:`s3dlio.api`, of which this is the part that names no single object.
"""

from __future__ import annotations

import re

from s3dlio import listing
from s3dlio.api import current_token, store_of
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
    store = store_of(parse(uri))
    return [str(found.uri) for found in listing.find(uri, pattern, current_token(), recursive=recursive, store=store)]


def mkdir(uri: str) -> None:
    """Make a directory and its parents; on object stores an empty object whose key ends in ``/``."""
    where = parse_object(uri, "mkdir")
    store_of(where).mkdir(where, current_token())


def create_bucket(name: str) -> None:
    """Create a bucket.

    Args:
        name: A URI, or the bare name of an S3 bucket.

    Raises:
        AlreadyExistsError: It exists.
        StoreError: It cannot be created.
    """
    where = _container(name)
    store_of(where).create_container(where, current_token())


def delete_bucket(name: str) -> None:
    """Delete an empty bucket.

    Args:
        name: A URI, or the bare name of an S3 bucket.

    Raises:
        NotFoundError: It does not exist.
        StoreError: It is not empty, or cannot be deleted.
    """
    where = _container(name)
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
    scheme, _, rest = uri.partition("://")
    where = Uri(scheme.lower(), rest.strip("/"), "") if scheme.lower() in CONTAINER_SCHEMES else parse(uri)
    names = store_of(where).list_containers(where, current_token())
    if where.scheme not in CONTAINER_SCHEMES:
        return [f"{where.scheme}://{where.key.rstrip('/')}/{name}" for name in names]
    lead = f"{where.container}/" if where.scheme == "az" and where.container else ""
    return [f"{where.scheme}://{lead}{name}" for name in names]


def _container(name: str) -> Uri:
    return parse(name) if "://" in name else parse(f"s3://{name}")
