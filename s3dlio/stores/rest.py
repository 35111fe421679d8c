"""What the three clouds have in common: objects behind HTTP verbs.

Floor 2. Knows GET, HEAD, PUT, DELETE and paged listings; must not know how one provider addresses or
signs them: that is its subclass (s3.py, gcs.py, azure.py), its *dialect*.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, TypeVar

from s3dlio import recorder
from s3dlio.bounds import is_a
from s3dlio.cancel import CancellationToken
from s3dlio.checksums import crc32c
from s3dlio.errors import AccessDeniedError, NotFoundError, OptionError, RangeError, StoreError
from s3dlio.options import StoreOptions
from s3dlio.pace import Pace
from s3dlio.ranges import Span
from s3dlio.recorder import op_name
from s3dlio.retry import RetryPolicy
from s3dlio.stores.base import Entry, ObjectInfo, Place, Plan, PutOptions, Reader, Store, Version, bare, quoted
from s3dlio.stores.window import Quick, WatchedWindow, Window, made
from s3dlio.stores.xml import Page, listed, parse_time
from s3dlio.uri import Uri
from s3dlio.wire.channel import Timeouts
from s3dlio.wire.client import Client, origin_of
from s3dlio.wire.head import Head
from s3dlio.wire.lane import Lane
from s3dlio.wire.places import Landed
from s3dlio.wire.relay import Relay
from s3dlio.wire.sweep import Sweep
from s3dlio.wire.transport import Answer, Call, Landing, Transport, Unsized
from s3dlio.wire.watched import Watch, WatchedRelay, WatchedSweep

T = TypeVar("T")

_NO_HEADERS: Mapping[str, str] = {}
NO_QUERY: Mapping[str, str] = {}
_DELETES_AT_ONCE = 16
#: Connections that one thread uses at once (measured: 4 to 16 alike, 8 best by a hair) ...
_WINDOW = 8
#: ... and where many must be under way (measured at 20 ms, 256 of them: 32 each reach 10,000 objects/s with
#: 60 us of CPU an object, 8 each reach 9,000 with 100).
_WIDEST_WINDOW = 32
_LATE_THREADS = 8
#: One thread reads answers as they come, unless they are so large that the copies take longer than all else.
_LARGE_BYTES = 1 << 20
_LARGE_TLS_BYTES = 1 << 18
_COPYING_THREADS = 2
#: A server this near (seconds to the first byte) keeps few connections busy. Each record of TLS (16 KiB) is a
#: call that takes the interpreter lock again: 16 threads at it reached 0.9 GiB/s, 4 reached 1.2.
_NEAR_S = 0.002
_NEAR_TLS_RANGES = 4
#: A page of 1,000 keys is read in 2 ms: a server this far off keeps several waiting.
_FAR_S = 0.01


class RestStore(Store):
    """A store behind a REST interface.

    Args:
        options: As for every store.
    """

    #: Beginning of the header fields that carry the user's metadata.
    metadata_prefix: ClassVar[str]
    #: Header field of the version, and of the storage class.
    version_field: ClassVar[str]
    class_field: ClassVar[str]
    #: Behind the ``x-`` of the header fields that speak of copies.
    copy_letters: ClassVar[str] = ""

    # -- the dialect ------------------------------------------------------------------------------

    @abc.abstractmethod
    def _call(self, operation: str, uri: Uri, query: Mapping[str, str] = NO_QUERY) -> tuple[Transport, Call]:
        """Return how to ask for ``uri``; an empty key addresses the container."""

    @abc.abstractmethod
    def _page(self, prefix: Uri, token: CancellationToken, cursor: str, *, recursive: bool) -> Page:
        """Fetch one page of a listing; an empty cursor begins it."""

    def put_headers(self, options: PutOptions) -> dict[str, str]:
        """Return the header fields of a put."""
        headers = {"content-type": options.content_type or "application/octet-stream"}
        for name, value in options.metadata.items():
            headers[f"{self.metadata_prefix}{name.lower()}"] = value
        if options.storage_class:
            headers[self.class_field] = options.storage_class
        if not options.overwrite:
            headers["if-none-match"] = "*"
        return headers

    # -- reads ------------------------------------------------------------------------------------

    def read_first(self, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        """See :meth:`s3dlio.stores.base.Store.read_first`."""
        transport, call = self._call("get", uri)
        try:
            return transport.read(Landing(call, start, limit, place), token)
        except Unsized:
            return self._read_at_end(uri, start, place, token)

    @contextlib.contextmanager
    def lane(self, token: CancellationToken) -> Iterator[Reader]:
        """See :meth:`s3dlio.stores.base.Store.lane`: a connection kept from read to read."""
        with contextlib.ExitStack() as stack:
            ways: dict[str, tuple[Lane, Quick]] = {}

            def read(uri: Uri, start: int, limit: int, place: Place) -> Version:
                way = ways.get(uri.container)
                if way is None:
                    client, quick = self.quick(uri)
                    way = ways[uri.container] = stack.enter_context(Lane(client, token)), quick
                lane, quick = way
                request = made(quick, uri, f"bytes={start}-{start + limit - 1}")
                if recorder.active is None or lane.is_closed:
                    done = lane.read(request, start, limit, place)
                else:
                    done = _read_watched(lane, request, (uri, start, limit), place)
                return Version(*done) if done else self.read_first(uri, start, limit, place, token)

            yield read

    def window(self, uri: Uri, flight: int) -> int:
        """See :meth:`s3dlio.stores.base.Store.window`: several where connections are ready.

        Connections that are still to be made are made by a thread each, since each costs round trips.
        """
        client = self._call("get", uri)[0].client
        ready = client.usual and client.idle_count() >= flight
        # A busy server is asked by single readers, of which some can be told to end.
        if not ready or (self.options.adaptive and client.pace.is_braked):
            return 1
        return max(_WINDOW, min(_WIDEST_WINDOW, flight // _LATE_THREADS))

    def flow_plan(self, uri: Uri, flight: int, mean_bytes: int) -> Plan:
        """See :meth:`s3dlio.stores.base.Store.flow_plan`: few threads, more where copies take the time."""
        secure = self._call("get", uri)[0].client.origin.scheme == "https"
        threads = 1 if mean_bytes < (_LARGE_TLS_BYTES if secure else _LARGE_BYTES) else _COPYING_THREADS
        return Plan(min(threads, flight), max(1, -(-flight // threads)))

    def make_ready(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.make_ready`."""
        self._call("get", uri)[0].client.make_ready(token)

    def flow(self, token: CancellationToken) -> Window:
        """See :meth:`s3dlio.stores.base.Store.flow`."""
        return Window(self.quick, token) if recorder.active is None else WatchedWindow(self.quick, token)

    def sweep(
        self, wanted: Iterator[tuple[int, Uri]], window: int, landed: Landed, token: CancellationToken
    ) -> list[int]:
        """See :meth:`s3dlio.stores.base.Store.sweep`: for the objects of one container."""
        # Taken and signed a window at a time: the same code again and again runs three times as fast.
        pending = list(itertools.islice(wanted, window))
        if not pending:
            return []
        container = pending[0][1].container
        client, quick = self.quick(pending[0][1])
        span = f"bytes=0-{self.first_bytes - 1}"
        strangers: list[int] = []
        stopped = False
        uris: dict[int, Uri] | None = None if recorder.active is None else {}

        def asked() -> Iterator[tuple[int, bytes]]:
            nonlocal pending
            while pending and client.usual and not stopped:
                strangers.extend(number for number, uri in pending if uri.container != container)
                requests = [(number, made(quick, uri, span)) for number, uri in pending if uri.container == container]
                if uris is not None:
                    uris.update(pending)
                pending = []
                yield from requests
                pending = [] if strangers or stopped else list(itertools.islice(wanted, window))

        ready = asked()
        sweep = Sweep(client, token, window) if uris is None else WatchedSweep(client, token, window, uris)
        left = sweep.run(ready, self.first_bytes, landed)
        stopped = True  # what is signed and was not sent comes out of it now, and no more is taken
        unsent = [number for number, _ in ready]
        return [*left, *unsent, *strangers, *(number for number, _ in pending)]

    def quick(self, uri: Uri) -> tuple[Client, Quick]:
        """Return the client for a container's objects, and what makes the request for a range of one."""

        def request(key: str, span: str, etag: str = "") -> bytes:
            condition = {"if-match": etag} if etag else {}
            return self._call("get", uri.with_key(key))[1].sign("GET", {"range": span} | condition)

        return self._call("get", uri)[0].client, request

    def relay(self, uri: Uri, version: Version, token: CancellationToken) -> Relay | None:
        """See :meth:`s3dlio.stores.base.Store.relay`: near a server that speaks plainly."""
        client, quick = self.quick(uri)
        latency = client.latency_s()
        if client.origin.scheme == "https" or latency is None or latency >= _NEAR_S or client.pace.is_braked:
            return None
        # A weak tag never satisfies If-Match; the relay sees by itself that it is the same.
        etag = "" if version.etag.startswith("W/") else version.etag

        def request(span: Span) -> bytes:
            return made(quick, uri, f"bytes={span.start}-{span.stop - 1}", etag)

        most = self.options.max_concurrent_ranges
        if recorder.active is None:
            return Relay(client, request, version, most, token)
        return WatchedRelay(uri, client, request, version, most, token)

    def _read_at_end(self, uri: Uri, start: int, place: Place, token: CancellationToken) -> Version:
        """Settle a range that the server refused without saying how large the object is."""
        info = self.head(uri, token)
        if start != info.size:
            msg = f"offset {start} lies behind the end of the object ({info.size} bytes)"
            raise RangeError(msg, uri=str(uri), operation="get")
        place(info.size)
        return Version(info.size, quoted(info.etag))

    def read_into(self, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.read_into`."""
        transport, call = self._call("get", uri)
        landing = Landing(call, start, len(target), lambda _size: target, version.etag)
        if version.size >= 0:
            landing.size, landing.target = version.size, target
        transport.read(landing, token)

    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.head`."""
        transport, call = self._call("stat", uri)
        head = transport.ask(call, "HEAD", _NO_HEADERS, token).head
        if head.length is None:
            msg = "the server does not tell the object's size"
            raise StoreError(msg, uri=str(uri), operation="stat")
        return self._info(head)

    def _info(self, head: Head) -> ObjectInfo:
        fields = head.fields()
        prefix = self.metadata_prefix
        return ObjectInfo(
            size=head.length or 0,
            last_modified=parse_time(fields.get("last-modified", "")),
            etag=bare(head.etag),
            content_type=fields.get("content-type", ""),
            metadata={name[len(prefix) :]: text for name, text in fields.items() if name.startswith(prefix)},
            version_id=fields.get(self.version_field, ""),
            storage_class=fields.get(self.class_field, ""),
        )

    def range_width(self, uri: Uri) -> int:
        """See :meth:`s3dlio.stores.base.Store.range_width`: few where TLS alone is what takes the time."""
        client = self._call("get", uri)[0].client
        latency = client.latency_s()
        most = self.options.max_concurrent_ranges
        if self.options.adaptive:
            most = min(most, client.pace.cap)
        near = latency is not None and latency < _NEAR_S and client.origin.scheme == "https"
        return min(most, _NEAR_TLS_RANGES) if near else most

    def pace(self, uri: Uri) -> Pace | None:
        """See :meth:`s3dlio.stores.base.Store.pace`."""
        return self._call("get", uri)[0].client.pace if self.options.adaptive else None

    def latency_s(self, uri: Uri) -> float | None:
        """See :meth:`s3dlio.stores.base.Store.latency_s`."""
        return self._call("get", uri)[0].client.latency_s()

    # -- writes -----------------------------------------------------------------------------------

    def put(self, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.put`."""
        transport, call = self._call("put", uri)
        headers = self.put_headers(options) | self.body_headers([data], crc32c(data))
        check_headers(headers)
        answer = transport.ask(call, "PUT", headers, token, [data])
        return ObjectInfo(data.nbytes, etag=bare(answer.head.etag), content_type=options.content_type)

    def ask(  # noqa: PLR0913 - what a request is made of
        self,
        method: str,
        uri: Uri,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        token: CancellationToken,
        body: Sequence[memoryview] = (),
        *,
        operation: str = "put",
    ) -> Answer:
        """Send one of the requests that an upload or a copy is made of, and return its answer."""
        check_headers(headers)
        transport, call = self._call(operation, uri, query)
        if recorder.active is not None:
            name = op_name(operation) if operation == "copy" else _step_name(method, query)
            call = dataclasses.replace(call, name=name)
        return transport.ask(call, method, headers, token, body)

    def body_headers(self, body: Sequence[memoryview], _crc32c: int) -> dict[str, str]:
        """Return the header fields that say what a body is: its length, and a sum where the server checks one."""
        return {"content-length": str(sum(len(piece) for piece in body))}

    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete`. One request per object, several at once."""
        if len(uris) == 1:
            self._delete_one(uris[0], token)
            return
        # Here, since this module cannot be imported any more while the interpreter ends, and reads can.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        with ThreadPoolExecutor(_DELETES_AT_ONCE, "s3dlio-delete") as threads:
            for _ in threads.map(lambda uri: self._delete_one(uri, token), uris):
                pass

    def _delete_one(self, uri: Uri, token: CancellationToken) -> None:
        transport, call = self._call("delete", uri)
        try:
            transport.ask(call, "DELETE", _NO_HEADERS, token)
        except NotFoundError:
            # A missing object is fine to delete, a missing bucket is not.
            if not self._has_container(uri, token):
                raise

    def _has_container(self, uri: Uri, token: CancellationToken) -> bool:
        try:
            self._find_container(uri, token)
        except NotFoundError:
            return False
        except AccessDeniedError:  # one may be allowed to delete and not to look
            return True
        return True

    def _find_container(self, uri: Uri, token: CancellationToken) -> None:
        """Ask for the container of ``uri``; raise ``NotFoundError`` if there is none."""
        self._page(uri.with_key("\x7f"), token, "", recursive=False)

    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.entries`."""
        for entries in following(prefix, lambda cursor: self._page(prefix, token, cursor, recursive=recursive)):
            yield from entries

    def lists_at_once(self, prefix: Uri) -> bool:
        """See :meth:`s3dlio.stores.base.Store.lists_at_once`: where a page takes longer to come than to read."""
        latency = self._listing_client(prefix).latency_s()
        return latency is not None and latency >= _FAR_S

    def _listing_client(self, prefix: Uri) -> Client:
        return self._call("list", prefix)[0].client


def following(prefix: Uri, page: Callable[[str], tuple[list[T], str]]) -> Iterator[list[T]]:
    """Yield what stands on each page of a listing; a page tells the cursor of the next."""
    cursor = ""
    while True:
        found, after = page(cursor)
        yield found
        if not after:
            return
        if after == cursor:
            msg = "the listing does not go on: the server names the same page again"
            raise StoreError(msg, uri=str(prefix), operation="list")
        cursor = after


def _read_watched(lane: Lane, request: bytes, wanted: tuple[Uri, int, int], place: Place) -> tuple[int, str] | None:
    uri, start, limit = wanted
    watch = Watch(uri, lane.client)
    done = None
    try:
        done = lane.read(request, start, limit, watch.placing(place))
    finally:
        watch.over(good=done is not None)
    return done


def listing(call: Call, prefix: Uri) -> Call:
    """Return a call whose errors and line in the operation log name the prefix; the line counts the objects, too."""
    return dataclasses.replace(call, uri=prefix, objects=call.objects if recorder.active is None else listed)


def _step_name(method: str, query: Mapping[str, str]) -> str:
    """Return what the operation log calls a request that is a step of an upload."""
    if method == "GET":
        return "LISTUPLOADS" if "uploads" in query else "LISTPARTS"
    if "partNumber" in query or query.get("comp") == "block":
        return "PUTPART"
    if "uploads" in query:
        return "BEGINUPLOAD"
    return "ABORTUPLOAD" if method == "DELETE" else "COMPLETEUPLOAD"


def make_transport(options: StoreOptions, url: str) -> Transport:
    """Return the transport to the origin of ``url``."""
    timeouts = Timeouts(options.connect_timeout_s, options.read_timeout_s, options.range_timeout_s)
    client = Client(origin_of(url), timeouts, max_idle=options.max_connections, ca_bundle=options.ca_bundle)
    return Transport(client, RetryPolicy(options.max_attempts, options.retry_base_s, options.retry_max_s))


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse what cannot stand in a header field: line ends would let a value forge further fields.

    Raises:
        OptionError: A name or value is not printable ASCII.
    """
    for name, value in headers.items():
        if not (is_a(name, str) and is_a(value, str)):
            msg = f"metadata and types of content are text, not {name!r}: {value!r:.80}"
            raise OptionError(msg)
        if not (name.isascii() and name.isprintable() and " " not in name and ":" not in name):
            msg = f"metadata name {name!r} cannot be sent; use letters, digits and '-'"
            raise OptionError(msg)
        if not (value.isascii() and value.isprintable()):
            msg = f"the value of {name} cannot be sent: only printable ASCII; encode it, for example base64"
            raise OptionError(msg)
