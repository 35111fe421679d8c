"""The operations of stores without a wire, in the operation log: a line for each call.

Floor 2. Knows the seam's verbs, what each of them moves, and when; must not know any store. (Of requests to servers
the wire keeps account: :mod:`s3dlio.wire.watched`, :mod:`s3dlio.wire.transport`.) Without a log each call costs one
look at ``recorder.active``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

from s3dlio import recorder
from s3dlio.cancel import CancellationToken
from s3dlio.recorder import Line, now, op_name
from s3dlio.stores.base import Entry, ObjectInfo, Place, PutOptions, Store, Version
from s3dlio.stores.upload import Part, Upload
from s3dlio.uri import Uri

S = TypeVar("S", bound=type[Store])
U = TypeVar("U", bound=type[Upload])
T = TypeVar("T")

#: Verbs of which there is nothing to say but that they were done.
_PLAIN = ("head", "create_container", "delete_container", "list_containers", "mkdir")
_NAMES = {
    "head": "STAT",
    "create_container": op_name("create_bucket"),
    "delete_container": op_name("delete_bucket"),
}


class _Note:
    """A line in the making."""

    __slots__ = ("count", "first", "objects", "op", "start", "uri")

    def __init__(self, op: str, uri: Uri) -> None:
        self.op = op
        self.uri = uri
        self.first = self.count = 0
        self.objects = 1
        self.start = now()

    def of(self, work: Callable[[], T]) -> T:
        """Do the work, and write the line."""
        try:
            done = work()
        except BaseException as error:
            self.count = 0
            self.write(str(error) or type(error).__name__)
            raise
        self.write("")
        return done

    def write(self, error: str) -> None:
        """Write the line."""
        log = recorder.active
        if log is not None:
            scheme = f"{self.uri.scheme}://"
            log.add(Line(self.op, scheme, self.uri, self.start, self.first, now(), self.count, error, self.objects))

    def placing(self, place: Place) -> Place:
        """Return what gives the memory, which is asked for when the bytes are there to be taken."""

        def placed(size: int) -> memoryview:
            self.first = now()
            target = place(size)
            self.count = len(target)
            return target

        return placed


def noted(store: S) -> S:
    """Make the verbs of a store write lines; those that it has from another store do already."""
    makers: dict[str, Callable[[Any], Any]] = {
        "read_first": _read_first, "read_into": _read_into, "put": _put, "delete": _delete, "entries": _entries,
        "copy": _copy,
    }  # fmt: skip
    for name in _PLAIN:
        makers[name] = _plain(_NAMES.get(name, op_name(name)))
    _replace(store, makers)
    return store


def noted_upload(upload: U) -> U:
    """Make the steps of an upload (which has ``_uri``) write lines."""
    _replace(upload, {"send": _send, "complete": _step("COMPLETEUPLOAD"), "abort": _step("ABORTUPLOAD")})
    return upload


def _replace(owner: type, makers: dict[str, Callable[[Any], Any]]) -> None:
    for name, maker in makers.items():
        if name in vars(owner):
            plain = vars(owner)[name]
            setattr(owner, name, wraps(plain)(maker(plain)))


def _read_first(plain: Callable[..., Version]) -> Callable[..., Version]:
    def read_first(self: Store, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        if recorder.active is None:
            return plain(self, uri, start, limit, place, token)
        note = _Note("GET", uri)
        return note.of(lambda: plain(self, uri, start, limit, note.placing(place), token))

    return read_first


def _read_into(plain: Callable[..., None]) -> Callable[..., None]:
    def read_into(
        self: Store, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken
    ) -> None:
        if recorder.active is None:
            return plain(self, uri, start, target, version, token)
        note = _Note("GET", uri)
        note.count = len(target)
        return note.of(lambda: plain(self, uri, start, target, version, token))

    return read_into


def _put(plain: Callable[..., ObjectInfo]) -> Callable[..., ObjectInfo]:
    def put(self: Store, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        if recorder.active is None:
            return plain(self, uri, data, options, token)
        note = _Note("PUT", uri)
        note.count = data.nbytes
        return note.of(lambda: plain(self, uri, data, options, token))

    return put


def _copy(plain: Callable[..., bool]) -> Callable[..., bool]:
    def copy(self: Store, source: Uri, target: Uri, version: Version, token: CancellationToken) -> bool:
        if recorder.active is None:
            return plain(self, source, target, version, token)
        note = _Note(op_name("copy"), target)
        note.count = max(0, version.size)
        return note.of(lambda: plain(self, source, target, version, token))

    return copy


def _delete(plain: Callable[..., None]) -> Callable[..., None]:
    def delete(self: Store, uris: Sequence[Uri], token: CancellationToken) -> None:
        if recorder.active is None:
            plain(self, uris, token)
            return
        for uri in uris:
            _Note("DELETE", uri).of(lambda one=uri: plain(self, [one], token))  # type: ignore[misc]

    return delete


def _entries(plain: Callable[..., Iterator[Entry]]) -> Callable[..., Iterator[Entry]]:
    def entries(self: Store, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        found = plain(self, prefix, token, recursive=recursive)
        return found if recorder.active is None else _counted(_Note("LIST", prefix), found)

    return entries


def _counted(note: _Note, found: Iterator[Entry]) -> Iterator[Entry]:
    note.objects = 0
    error = ""
    try:
        for entry in found:
            note.objects += not entry.is_prefix
            yield entry
    except Exception as failure:
        error = str(failure) or type(failure).__name__
        raise
    finally:
        note.write(error)


def _plain(op: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    def maker(plain: Callable[..., T]) -> Callable[..., T]:
        def verb(self: Store, uri: Uri, token: CancellationToken) -> T:
            if recorder.active is None:
                return plain(self, uri, token)
            return _Note(op, uri).of(lambda: plain(self, uri, token))

        return verb

    return maker


def _send(plain: Callable[..., None]) -> Callable[..., None]:
    def send(self: Any, part: Part, token: CancellationToken) -> None:
        if recorder.active is None:
            return plain(self, part, token)
        note = _Note("PUTPART", self._uri)
        note.count = part.length
        return note.of(lambda: plain(self, part, token))

    return send


def _step(op: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    def maker(plain: Callable[..., T]) -> Callable[..., T]:
        def step(self: Any, *args: Any) -> T:
            if recorder.active is None:
                return plain(self, *args)
            return _Note(op, self._uri).of(lambda: plain(self, *args))

        return step

    return maker
