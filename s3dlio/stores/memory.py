"""``memory://space/key``: objects in this process, for tests and examples.

Floor 2. Knows dicts. All stores of a process see the same spaces; a space comes into being with its
first object, and another process (a forked child too, from the fork on) has its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.errors import (
    AlreadyExistsError,
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    RangeError,
    StoreError,
)
from s3dlio.stores.base import Entry, ObjectInfo, Place, PutOptions, Store, Version, quoted
from s3dlio.stores.noted import noted, noted_upload
from s3dlio.stores.upload import Part, Upload
from s3dlio.uri import Uri


class _Object(NamedTuple):
    data: bytes
    info: ObjectInfo


_SPACES: dict[str, dict[str, _Object]] = {}


@noted
class MemoryStore(Store):
    """Objects in dicts, whose single operations are atomic."""

    def _space(self, uri: Uri, operation: str) -> dict[str, _Object]:
        try:
            return _SPACES[uri.container]
        except KeyError:
            msg = f"there is no memory space {uri.container!r}"
            raise NotFoundError(msg, uri=str(uri), operation=operation) from None

    def _find(self, uri: Uri, operation: str) -> _Object:
        try:
            return self._space(uri, operation)[uri.key]
        except KeyError:
            msg = "no such object"
            raise NotFoundError(msg, uri=str(uri), operation=operation) from None

    def read_first(self, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        """See :meth:`s3dlio.stores.base.Store.read_first`."""
        token.check()
        found = self._find(uri, "get")
        size = len(found.data)
        if start > size:
            msg = f"offset {start} lies behind the end of the object ({size} bytes)"
            raise RangeError(msg, uri=str(uri), operation="get")
        target = place(size)
        target[:] = found.data[start : start + len(target)]
        return Version(size, quoted(found.info.etag))

    def read_into(self, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.read_into`."""
        token.check()
        found = self._find(uri, "get")
        known = version.size >= 0 and version != Version(len(found.data), quoted(found.info.etag))
        if known or start + len(target) > len(found.data):
            msg = "the object changed while it was being read"
            raise ObjectChangedError(msg, uri=str(uri), operation="get")
        target[:] = memoryview(found.data)[start : start + len(target)]

    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.head`."""
        token.check()
        return self._find(uri, "stat").info

    def latency_s(self, _uri: Uri) -> float | None:
        """See :meth:`s3dlio.stores.base.Store.latency_s`."""
        return 0.0

    def put(self, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.put`."""
        token.check()
        return self.keep(uri, bytes(data), options)

    def keep(self, uri: Uri, copy: bytes, options: PutOptions) -> ObjectInfo:
        """Keep these bytes as an object.

        Raises:
            AlreadyExistsError: It exists and ``options.overwrite`` is ``False``.
        """
        tag = hashlib.md5(copy, usedforsecurity=False).hexdigest()
        names = {name.lower(): value for name, value in options.metadata.items()}
        info = ObjectInfo(len(copy), datetime.now(UTC), tag, options.content_type, names)
        fresh = _Object(copy, info)
        space = _SPACES.setdefault(uri.container, {})
        if options.overwrite:
            space[uri.key] = fresh
        elif space.setdefault(uri.key, fresh) is not fresh:
            msg = "the object exists"
            raise AlreadyExistsError(msg, uri=str(uri), operation="put")
        return info

    def upload(self, uri: Uri, options: PutOptions, _token: CancellationToken) -> _MemoryUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`."""
        return _MemoryUpload(self, uri, options)

    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete`."""
        for uri in uris:
            token.check()
            self._space(uri, "delete").pop(uri.key, None)

    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.entries`."""
        token.check()
        space = self._space(prefix, "list").copy()
        seen = ""
        for key in sorted(key for key in space if key.startswith(prefix.key)):
            deeper = -1 if recursive else key.find("/", len(prefix.key))
            if deeper < 0:
                info = space[key].info
                yield Entry(key, info.size, info.etag, info.last_modified)
            elif seen != key[: deeper + 1]:
                seen = key[: deeper + 1]
                yield Entry(seen, -1)

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`."""
        token.check()
        fresh: dict[str, _Object] = {}
        if _SPACES.setdefault(uri.container, fresh) is not fresh:
            msg = "the memory space exists"
            raise AlreadyExistsError(msg, uri=str(uri), operation="create_bucket")

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`."""
        token.check()
        if self._space(uri, "delete_bucket"):
            msg = "the memory space is not empty; delete its objects first"
            raise StoreError(msg, uri=str(uri), operation="delete_bucket")
        _SPACES.pop(uri.container, None)

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`."""
        token.check()
        return sorted(_SPACES)


@noted_upload
class _MemoryUpload(Upload):
    """Copies of the parts, until they are joined."""

    def __init__(self, store: MemoryStore, uri: Uri, options: PutOptions) -> None:
        self._store = store
        self._uri = uri
        self._options = options
        self._parts: dict[int, bytes] = {}

    def send(self, part: Part, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.send`."""
        token.check()
        self._parts[part.number] = b"".join(part.pieces)

    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.upload.Upload.complete`."""
        whole = b"".join(self._parts.pop(number, b"") for number in range(parts))
        if len(whole) != length:
            msg = f"{len(whole)} bytes arrived, {length} were sent in {parts} parts"
            raise IntegrityError(msg, uri=str(self._uri), operation="put")
        token.check()
        return self._store.keep(self._uri, whole, self._options)

    def abort(self) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.abort`."""
        self._parts.clear()
