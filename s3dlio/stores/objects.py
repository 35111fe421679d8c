"""What is said of objects: a line of a listing, what a HEAD tells, how one is to be written, and what is remembered.

Floor 2. Values alone; must not know any store.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from s3dlio.uri import Uri
from s3dlio.wire.places import Version


class Entry(NamedTuple):
    """One line of a listing.

    Attributes:
        key: The object's key, or a common prefix (ending in ``/``).
        size: Bytes; -1 for a common prefix.
        etag: Entity tag without quotes, or an empty string.
        last_modified: With time zone, or ``None``.
    """

    key: str
    size: int
    etag: str = ""
    last_modified: datetime | None = None

    @property
    def is_prefix(self) -> bool:
        """Whether this stands for all keys below it."""
        return self.size < 0

    @property
    def is_marker(self) -> bool:
        """Whether this is an empty object that stands for a directory, as consoles and mkdir make."""
        return self.size == 0 and self.key.endswith("/")


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without its bytes.

    Attributes:
        size: Bytes.
        last_modified: With time zone, or ``None`` where the backend does not say.
        etag: Entity tag without quotes, or an empty string.
        content_type: Media type, or an empty string.
        metadata: The user's own keys (lower case) and values.
        version_id: Version or generation, or an empty string.
        storage_class: The provider's name of it, or an empty string.
    """

    size: int
    last_modified: datetime | None = None
    etag: str = ""
    content_type: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version_id: str = ""
    storage_class: str = ""

    def as_mapping(self) -> dict[str, object]:
        """Return it as users see it: name -> value."""
        return {
            "size": self.size,
            "last_modified": self.last_modified,
            "etag": self.etag,
            "content_type": self.content_type,
            "metadata": dict(self.metadata),
            "version_id": self.version_id,
            "storage_class": self.storage_class,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class PutOptions:
    """How an object is written.

    Attributes:
        content_type: Media type; empty leaves it to the backend.
        metadata: The user's own keys and values.
        overwrite: ``False`` refuses, atomically where the backend can, to replace an object.
        durable: ``False`` leaves it to the system when a file reaches the disk.
        bulk: Nobody reads it soon: a file in parts need not pass through the page cache.
        storage_class: By the backend's own name (Azure: access tier); empty is the bucket's default. Files have none.
    """

    content_type: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overwrite: bool = True
    durable: bool = True
    bulk: bool = False
    storage_class: str = ""


def bare(etag: str) -> str:
    """Return an entity tag without its quotes; a weak one (``W/"..."``) stays as it is, to be told apart."""
    return etag if etag.startswith("W/") else etag.strip('"')


def quoted(etag: str) -> str:
    """Return an entity tag as it stands in a header and in :class:`Version`: what :func:`bare` undoes."""
    return etag if not etag or etag.startswith("W/") else f'"{etag}"'


class SizeCache:
    """Versions of objects seen lately. Thread-safe; bounded; entries grow old."""

    #: A stale entry costs a failed condition and a second read, never a wrong byte.
    TTL_S = 300.0
    MOST = 200_000

    def __init__(self) -> None:
        self._seen: dict[Uri, tuple[float, Version]] = {}

    def remember(self, uri: Uri, info: ObjectInfo) -> None:
        """Keep what a HEAD or a listing has said."""
        if len(self._seen) >= self.MOST:
            self._seen.clear()
        self._seen[uri] = (time.monotonic() + self.TTL_S, Version(info.size, quoted(info.etag)))

    def get(self, uri: Uri) -> Version | None:
        """Return the version of an object, or ``None`` when it is not known (any more)."""
        if not self._seen:
            return None
        until, version = self._seen.get(uri, (0.0, None))
        return version if until > time.monotonic() else None

    def forget(self, uri: Uri) -> None:
        """Drop what is known of an object."""
        self._seen.pop(uri, None)

    def clear(self) -> None:
        """Drop what is known of all objects."""
        self._seen.clear()
