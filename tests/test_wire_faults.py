"""Room card: does every read bring exactly the right bytes, or the right error, whatever the server does?

Reads by the public verbs from an origin that misbehaves.  `get`, `get_range` and `get_into` take the transport,
`get_many` the lane and then the transport.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import context
from s3dlio.errors import (
    AccessDeniedError,
    NotFoundError,
    ObjectChangedError,
    OptionError,
    RangeError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from s3dlio.options import StoreOptions
from s3dlio.retry import RetryPolicy
from s3dlio.stores.credentials import AwsIdentity
from s3dlio.stores.rest import make_transport
from s3dlio.stores.s3 import S3Store, Site
from s3dlio.uri import parse
from s3dlio.wire.connection import Connection
from tests.patience import SOON_S, eventually
from tests.reading import (
    CHUNK,
    KIB,
    OTHER,
    OTHER_PATH,
    OTHER_URI,
    PATH,
    SPARE,
    URI,
    WAYS,
    impatient,
    random_bytes,
    requests_for,
    verbs_with,
)
from tests.servers.fault_kinds import (
    ChangeContent,
    Chunked,
    CloseIdle,
    ExtraBytes,
    Fault,
    GarbageHead,
    HugeHead,
    InterimResponse,
    Latency,
    LowerCaseHeaders,
    NoContentLength,
    PartAs200,
    ResetInBody,
    ResetInHead,
    ShortBody,
    Stall,
    StallHead,
    Status,
    Trickle,
    WholeBodyOn206Asked,
    WrongContentRange,
    redirect,
    s3_error,
)
from tests.servers.faults import FaultOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3dlio.testing import S3Server
    from tests.servers.reply import Step
    from tests.servers.rules import Request

BODY = random_bytes(200 * KIB + 7)
#: Enough of one fault for all tries of any way.
FOR_GOOD = 40

every_way = pytest.mark.parametrize("way", WAYS)
#: The other two take the same path through the wire as ``get``.
every_path = pytest.mark.parametrize("way", ["get", "get_many", "sweep", "flow"])


@pytest.fixture
def store(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreOptions]:
    """The verbs read from the origin, impatiently; there are two objects."""
    origin.objects |= {PATH: BODY, OTHER_PATH: OTHER}
    with verbs_with(monkeypatch, impatient(origin.endpoint_url)) as options:
        yield options


@pytest.fixture
def open_with(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that makes the verbs read with other options."""
    origin.objects |= {PATH: BODY, OTHER_PATH: OTHER}
    with contextlib.ExitStack() as stack:

        def open_with(**changes: object) -> None:
            stack.enter_context(verbs_with(monkeypatch, impatient(origin.endpoint_url, **changes)))

        yield open_with


def failure_of(way: str, expected: type[Exception], *uris: str) -> StoreError:
    """Returns the error of a read that must fail, after checking what every error must tell."""
    with pytest.raises(expected) as caught:
        WAYS[way](URI)
    error = caught.value
    assert type(error) is expected
    assert isinstance(error, StoreError)
    assert error.uri in (uris or (URI,))
    assert error.operation == "get"
    assert str(error).startswith(f"get {error.uri}: ")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (expected, str(error))
    return error


# -- faults that pass ---------------------------------------------------------------------------------

#: Answers that are right, told in an unusual way: no further request is needed.
HARMLESS: dict[str, Fault] = {
    "chunked": Chunked(1000),
    "chunked-finely": Chunked(61),
    "extra-bytes": ExtraBytes(10),
    "idle-closed": CloseIdle(),
    "interim-100": InterimResponse(100),
    "interim-102": InterimResponse(102),
    "interim-103": InterimResponse(103),
    "late": Latency(0.05),
    "lower-case": LowerCaseHeaders(),
    "part-as-200": PartAs200(),
    "whole-instead-of-part": WholeBodyOn206Asked(),
}
#: Answers that cost a try.
PASSING: dict[str, Fault] = {
    "400-timeout": s3_error(400, "RequestTimeout"),
    "408": s3_error(408, "RequestTimeout"),
    "429": s3_error(429, "TooManyRequests"),
    "500": s3_error(500, "InternalError"),
    "500-html": Status(500, {"Content-Type": "text/html"}, b"<html><body>" + b"oops " * 40_000),
    "502": Status(502),
    "503": s3_error(503, "SlowDown"),
    "503-retry-after": s3_error(503, "SlowDown", Retry_After="1"),
    "503-retry-at": s3_error(503, "SlowDown", Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
    "504": Status(504),
    "garbage": GarbageHead(),
    "garbage-without-end": GarbageHead(b"what?"),
    "huge-head": HugeHead(),
    "no-length": NoContentLength(),
    "range-for-more": WrongContentRange(total=len(BODY) + 1),
    "range-for-much-more": WrongContentRange(total=1 << 62),
    "range-for-less": WrongContentRange(total=1000),
    "range-missing": WrongContentRange(missing=True),
    "range-shifted": WrongContentRange(shift=1),
    "reset-at-once": ResetInHead(),
    "reset-at-the-body": ResetInBody(),
    "reset-in-body": ResetInBody(100_000),
    "reset-in-head": ResetInHead(40),
    "short-by-all": ShortBody(len(BODY)),
    "short-by-one": ShortBody(1),
}


#: An empty object has no bytes to have another range of.
FOR_EMPTY = {name: fault for name, fault in (HARMLESS | PASSING).items() if not name.startswith("range-")}


@every_path
@pytest.mark.parametrize("fault", HARMLESS.values(), ids=HARMLESS)
def test_an_unusual_answer_is_as_good_as_the_usual_one(
    origin: FaultOrigin, open_with: Callable[..., None], way: str, fault: Fault
) -> None:
    open_with(max_attempts=1)
    origin.plan(PATH, *[fault] * FOR_GOOD)
    for _ in range(2):
        assert WAYS[way](URI) == BODY
    assert len(requests_for(origin)) <= 2 * (1 + SPARE[way])


@every_path
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_costs_a_try_and_no_more(
    origin: FaultOrigin, store: StoreOptions, way: str, fault: Fault
) -> None:
    # The fast ways step aside: the last is the transport's.
    origin.plan(PATH, *[fault] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    assert len(requests_for(origin)) == 2 + SPARE[way]


@every_path
@pytest.mark.parametrize("fault", [Stall(0, 60.0), Stall(100_000, 60.0), StallHead(60.0), Latency(60.0)], ids=repr)
def test_a_stall_costs_a_try_and_no_more(
    origin: FaultOrigin, open_with: Callable[..., None], way: str, fault: Fault
) -> None:
    open_with(read_timeout_s=0.25)
    origin.plan(PATH, *[fault] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    assert len(requests_for(origin)) == 2 + SPARE[way]


@every_path
def test_one_fault_of_each_kind_in_a_row(origin: FaultOrigin, open_with: Callable[..., None], way: str) -> None:
    open_with(max_attempts=len(PASSING) + 1)
    origin.plan(PATH, *PASSING.values())
    assert WAYS[way](URI) == BODY


@every_path
@pytest.mark.parametrize("fault", [*HARMLESS.values(), *PASSING.values()], ids=[*HARMLESS, *PASSING])
def test_every_part_of_a_split_read_survives_a_fault(
    origin: FaultOrigin, open_with: Callable[..., None], way: str, fault: Fault
) -> None:
    open_with(chunk_size=CHUNK, min_split_size=CHUNK)
    origin.plan(PATH, *[fault] * 4)
    if isinstance(fault, WrongContentRange) and fault.total is not None:
        # The first part cannot know better: that the others tell another size looks like a change.
        with contextlib.suppress(ObjectChangedError):
            assert WAYS[way](URI) == BODY
    assert WAYS[way](URI) == BODY


@pytest.mark.parametrize("fault", [*HARMLESS.values(), *PASSING.values()], ids=[*HARMLESS, *PASSING])
def test_a_range_from_the_middle_survives_a_fault(origin: FaultOrigin, store: StoreOptions, fault: Fault) -> None:
    origin.plan(PATH, fault)
    assert s3dlio.get_range(URI, 1000, 50_000) == BODY[1000:51_000]


@pytest.mark.parametrize("fault", FOR_EMPTY.values(), ids=FOR_EMPTY)
def test_an_empty_object_survives_a_fault(origin: FaultOrigin, store: StoreOptions, fault: Fault) -> None:
    origin.objects[PATH] = b""
    origin.plan(PATH, fault)
    assert s3dlio.get(URI) == b""
    origin.plan(PATH, fault, fault)
    assert s3dlio.get_many([URI, OTHER_URI])[0][1] == b""


# -- faults that stay ---------------------------------------------------------------------------------

STAYING: dict[str, tuple[Fault, type[StoreError], int]] = {
    "500": (s3_error(500, "InternalError"), StoreUnavailableError, 3),
    "503": (s3_error(503, "SlowDown"), StoreUnavailableError, 3),
    "400-timeout": (s3_error(400, "RequestTimeout"), StoreUnavailableError, 3),
    "408": (s3_error(408, "RequestTimeout"), StoreTimeoutError, 3),
    "garbage": (GarbageHead(), StoreUnavailableError, 3),
    "huge-head": (HugeHead(), StoreUnavailableError, 3),
    "no-length": (NoContentLength(), StoreUnavailableError, 3),
    "range-shifted": (WrongContentRange(shift=1), StoreUnavailableError, 3),
    "range-missing": (WrongContentRange(missing=True), StoreUnavailableError, 3),
    "range-for-more": (WrongContentRange(total=len(BODY) + 1), StoreUnavailableError, 3),
    "reset-in-head": (ResetInHead(40), StoreUnavailableError, 3),
    "reset-in-body": (ResetInBody(1000), StoreUnavailableError, 3),
    "short-body": (ShortBody(1000), StoreUnavailableError, 3),
    "stalled-body": (Stall(0, 60.0), StoreTimeoutError, 3),
    "stalled-head": (StallHead(60.0), StoreTimeoutError, 3),
    "400": (s3_error(400, "InvalidArgument"), StoreError, 1),
    "403": (s3_error(403, "AccessDenied"), AccessDeniedError, 2),
    "403-empty": (Status(403), AccessDeniedError, 2),
    "401": (Status(401), AccessDeniedError, 2),
    "400-expired": (s3_error(400, "ExpiredToken"), AccessDeniedError, 2),
    "404": (s3_error(404, "NoSuchKey"), NotFoundError, 1),
    "404-bucket": (s3_error(404, "NoSuchBucket"), NotFoundError, 1),
    "404-long": (Status(404, {}, b"<html>" + b"gone " * 50_000), NotFoundError, 1),
    "410": (Status(410), NotFoundError, 1),
    "412": (s3_error(412, "PreconditionFailed"), ObjectChangedError, 1),
    "501": (s3_error(501, "NotImplemented"), StoreError, 1),
    "redirect": (redirect("http://elsewhere.invalid/bucket/key"), StoreError, 1),
}


@every_path
@pytest.mark.parametrize(("fault", "expected", "tries"), STAYING.values(), ids=STAYING)
def test_a_staying_fault_is_the_right_error(
    origin: FaultOrigin,
    open_with: Callable[..., None],
    way: str,
    fault: Fault,
    expected: type[StoreError],
    tries: int,
) -> None:
    open_with(max_attempts=3, read_timeout_s=0.05)
    origin.plan(PATH, *[fault] * FOR_GOOD)
    error = failure_of(way, expected)
    # What resumes gets further with each try: short bodies and resets end before the tries do.
    assert len(requests_for(origin)) == tries + SPARE[way]
    assert error.__cause__ is not None
    assert ("tried" in str(error)) == (tries > 2 or expected is AccessDeniedError)
    # Nothing of it stays: the same store reads the next object as if nothing had been.
    assert s3dlio.get(OTHER_URI) == OTHER


@every_path
def test_a_refusal_without_length_is_a_refusal_all_the_same(origin: FaultOrigin, store: StoreOptions, way: str) -> None:
    old = GarbageHead(b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno such thing")
    origin.plan(PATH, *[old] * FOR_GOOD)
    failure_of(way, NotFoundError)
    assert len(requests_for(origin)) == 1 + SPARE[way]


@every_path
@pytest.mark.parametrize(("status", "expected"), [(403, AccessDeniedError), (404, NotFoundError)])
def test_a_refusal_that_is_cut_is_a_refusal_all_the_same(
    origin: FaultOrigin, store: StoreOptions, way: str, status: int, expected: type[StoreError]
) -> None:
    cut = GarbageHead(b"HTTP/1.1 %d No\r\nContent-Length: 160\r\n\r\n<Error><Code>Some" % status)
    origin.plan(PATH, *[cut] * FOR_GOOD)
    failure_of(way, expected)
    assert len(requests_for(origin)) <= 2 + SPARE[way]  # a denial is tried once more, with credentials looked up anew


def test_a_port_that_nobody_listens_on_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with verbs_with(monkeypatch, impatient(url)):
        for way in WAYS:
            error = failure_of(way, StoreUnavailableError, URI, OTHER_URI)
            assert "cannot reach http://127.0.0.1:" in str(error)
            assert "tried 3 times" in str(error)
            assert isinstance(error.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize("form", ["http://user:OPENSESAME@127.0.0.1:{}", "127.0.0.1:{}"])
def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("http_proxy", form.format(port))
    monkeypatch.setenv("no_proxy", "")
    server = s3dlio.ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True, max_attempts=1))
    with pytest.raises(StoreUnavailableError, match=f"through the proxy 127.0.0.1:{port}: ") as caught:
        server.get("s3://bucket/a")
    assert "OPENSESAME" not in str(caught.value)
    assert not origin.requests


def test_a_proxy_that_cannot_be_is_an_error_of_ours(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:port")
    monkeypatch.setenv("no_proxy", "")
    server = s3dlio.ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True))
    with pytest.raises(OptionError, match=r"proxy 127.0.0.1:port: must be http://host\[:port\]"):
        server.get("s3://bucket/a")


def test_a_server_without_tls_is_told_as_such_at_once(rclone: S3Server) -> None:
    url = rclone.endpoint_url.replace("http://", "https://")
    server = s3dlio.ObjectStore(StoreOptions(endpoint_url=url, anonymous=True))
    with pytest.raises(StoreError, match="does not speak TLS on this port: write http://") as caught:
        server.get("s3://bucket/a")
    assert not caught.value.retryable


def test_a_host_name_that_cannot_be_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with verbs_with(monkeypatch, impatient(f"http://{'a' * 64}.invalid")):
        for way in WAYS:
            failure_of(way, StoreUnavailableError, URI, OTHER_URI)


def test_a_server_that_does_not_accept_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with _deaf_server() as url, verbs_with(monkeypatch, impatient(url, connect_timeout_s=0.1, max_attempts=2)):
        for way in WAYS:
            error = failure_of(way, StoreTimeoutError, URI, OTHER_URI)
            assert "no connection within 0.1 s" in str(error)


class _deaf_server:  # noqa: N801 - used as a function
    """Listens, and has no room for another connection."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address = self._listener.getsockname()
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        return f"http://127.0.0.1:{address[1]}"

    def __exit__(self, *exc_info: object) -> None:
        for sock in (self._listener, *self._fillers):
            sock.close()


def test_cancelling_does_not_wait_for_a_connection_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    token = s3dlio.CancellationToken()
    with _deaf_server() as url:
        from s3dlio.fetch import Fetcher, Read
        from s3dlio.stores import open_store

        fetcher = Fetcher(open_store(URI, impatient(url, connect_timeout_s=60.0)), token=token)
        timer = threading.Timer(0.1, token.cancel)
        timer.start()
        started_s = time.monotonic()
        with pytest.raises(s3dlio.CancelledError):
            fetcher.read_all([Read(parse(URI)), Read(parse(OTHER_URI))])
        assert time.monotonic() - started_s < SOON_S
        timer.join()


# -- resuming -----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("fault", [ResetInBody(100_000), ShortBody(len(BODY) - 100_000)], ids=repr)
def test_a_resumed_read_asks_only_for_what_is_missing_of_the_same_object(
    origin: FaultOrigin, store: StoreOptions, way: str, fault: Fault
) -> None:
    origin.plan(PATH, *[fault] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    first, last = requests_for(origin)[-2:]
    assert first.headers["range"].startswith("bytes=0-")
    assert "if-match" not in first.headers
    assert last.headers["range"] == f"bytes=100000-{len(BODY) - 1}"
    assert last.headers["if-match"] == origin.stored(PATH).etag


def test_a_read_that_is_cut_again_and_again_keeps_what_it_has(origin: FaultOrigin, store: StoreOptions) -> None:
    cuts = [1000, 0, 50_000, 1, 100_000]
    origin.plan(PATH, *[ResetInBody(cut) for cut in cuts])
    assert s3dlio.get(URI) == BODY
    firsts = [int(it.headers["range"].removeprefix("bytes=").split("-")[0]) for it in requests_for(origin)]
    assert firsts == [sum(cuts[:n]) for n in range(len(cuts) + 1)]


def test_nothing_is_asked_for_when_a_connection_breaks_behind_the_last_byte(
    origin: FaultOrigin, store: StoreOptions
) -> None:
    # All bytes have come, but not the end that the chunks have.
    origin.plan(PATH, Chunked(1 << 20), ResetInBody(len(BODY)))
    for _ in range(3):
        assert s3dlio.get(URI) == BODY
    assert len(requests_for(origin)) == 3


def test_a_read_resumes_from_a_server_that_ignores_ranges(origin: FaultOrigin, store: StoreOptions) -> None:
    origin.plan(PATH, ResetInBody(1000), WholeBodyOn206Asked())
    assert s3dlio.get(URI) == BODY
    origin.plan(PATH, ResetInBody(1000), WholeBodyOn206Asked())
    assert s3dlio.get_range(URI, 500, 5000) == BODY[500:5500]


def test_a_weak_entity_tag_is_no_condition_but_is_compared(origin: FaultOrigin, store: StoreOptions) -> None:
    origin.etags[PATH] = 'W/"weak"'
    origin.plan(PATH, ResetInBody(1000))
    assert s3dlio.get(URI) == BODY
    assert "if-match" not in requests_for(origin)[-1].headers
    origin.plan(PATH, ResetInBody(1000), _part_of(b"x" * len(BODY), 1000, ETag='W/"other"'))
    failure_of("get", ObjectChangedError)


# -- objects that change ------------------------------------------------------------------------------

CHANGED = random_bytes(len(BODY))


def _part_of(body: bytes, start: int, **headers: str) -> Status:
    """Returns the answer of a server that knows no conditions."""
    told = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}", **headers}
    return Status(206, told, body[start:])


@every_path
@pytest.mark.parametrize(
    "then", [CHANGED, CHANGED[:-1], CHANGED + b"!", b""], ids=["other", "shorter", "longer", "empty"]
)
def test_a_change_before_the_rest_is_read_is_an_error(
    origin: FaultOrigin, store: StoreOptions, way: str, then: bytes
) -> None:
    origin.plan(PATH, *[ResetInBody(1000)] * (1 + SPARE[way]), ChangeContent(then))
    error = failure_of(way, ObjectChangedError)
    assert error.retryable
    assert WAYS[way](URI) == then


@pytest.mark.parametrize(
    "answer",
    [
        _part_of(CHANGED, 1000, ETag='"other"'),
        _part_of(CHANGED + b"!", 1000),
        Status(200, {"ETag": '"other"'}, CHANGED),
        Status(200, {}, CHANGED + b"!"),
        Status(416, {"Content-Range": "bytes */10"}),
        Status(416),
    ],
    ids=["tag", "size", "whole-tag", "whole-size", "unsatisfied", "unsatisfied-without-size"],
)
def test_a_change_is_seen_though_the_server_ignores_the_condition(
    origin: FaultOrigin, store: StoreOptions, answer: Fault
) -> None:
    origin.plan(PATH, ResetInBody(1000), answer)
    failure_of("get", ObjectChangedError)


@every_way
@pytest.mark.parametrize("after", [1, 2, 3])
def test_parts_of_two_contents_are_never_mixed(
    origin: FaultOrigin, open_with: Callable[..., None], way: str, after: int
) -> None:
    open_with(chunk_size=CHUNK, min_split_size=CHUNK)
    # A sweep's first request is for nothing: the object is too large for it.
    origin.plan(PATH, *[None] * (after + (way == "sweep")), ChangeContent(CHANGED))
    failure_of(way, ObjectChangedError)


def test_an_old_memory_of_the_size_does_not_spoil_a_read(origin: FaultOrigin, open_with: Callable[..., None]) -> None:
    open_with(chunk_size=CHUNK, min_split_size=CHUNK)
    assert s3dlio.get_many_stats([URI]).total_bytes == len(BODY)
    origin.objects[PATH] = CHANGED + BODY
    assert s3dlio.get(URI) == CHANGED + BODY


def test_a_deletion_between_two_parts_is_not_found(origin: FaultOrigin, open_with: Callable[..., None]) -> None:
    open_with(chunk_size=CHUNK, min_split_size=CHUNK)
    origin.plan(PATH, None, s3_error(404, "NoSuchKey"))
    failure_of("get", NotFoundError)


# -- connections --------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize("seen", [True, False])
def test_connections_that_were_closed_while_idle_are_no_failure(
    origin: FaultOrigin, open_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: str, *, seen: bool
) -> None:
    open_with(max_attempts=1)
    count = 12
    origin.objects |= {f"/bucket/{n}": BODY for n in range(count)}
    origin.plan_all(*[CloseIdle(0.1)] * count)
    idle = [threading.Thread(target=s3dlio.get, args=(f"s3://bucket/{n}",)) for n in range(count)]
    for thread in idle:
        thread.start()
    for thread in idle:
        thread.join()
    assert origin.connections > 1
    eventually(lambda: origin.open_connections == 0)
    if not seen:  # the server closes in the moment between the look and the request
        monkeypatch.setattr(Connection, "is_stale", lambda _self: False)
    assert WAYS[way](URI) == BODY
    assert len(requests_for(origin)) == 1


@every_way
def test_a_connection_with_bytes_behind_the_body_is_not_used_again(
    origin: FaultOrigin, open_with: Callable[..., None], way: str
) -> None:
    open_with(max_attempts=1)
    origin.objects[OTHER_PATH] = OTHER
    origin.plan(PATH, ExtraBytes(10), ExtraBytes(10))
    assert WAYS[way](URI) == BODY
    eventually(lambda: len(requests_for(origin)) >= 1)
    time.sleep(0.05)  # the surplus may come a moment after the body
    answered = [s3dlio.get(URI) for _ in range(3)]
    assert answered == [BODY] * 3


def test_an_answer_sent_twice_is_not_taken_for_the_next_one(
    origin: FaultOrigin, open_with: Callable[..., None]
) -> None:
    open_with(max_attempts=1)
    origin.objects["/bucket/alike"] = CHANGED

    class Twice(Fault):
        def steps(self, reply):  # type: ignore[no-untyped-def]
            return [(reply.head + reply.payload) * 2]

    origin.plan(PATH, Twice())
    assert s3dlio.get(URI) == BODY
    time.sleep(0.05)
    assert s3dlio.get("s3://bucket/alike") == CHANGED


def test_connections_are_kept_and_shared(origin: FaultOrigin, store: StoreOptions) -> None:
    for _ in range(5):
        assert s3dlio.get(URI) == BODY
    assert origin.connections == 1


@every_path
def test_a_server_that_says_close_is_taken_at_its_word(
    origin: FaultOrigin, open_with: Callable[..., None], way: str
) -> None:
    open_with(max_attempts=1)

    class SayClose(CloseIdle):
        def bend(self, reply):  # type: ignore[no-untyped-def]
            return reply.with_headers(Connection="close")

    origin.plan(PATH, *[SayClose()] * 3)
    for _ in range(3):
        assert WAYS[way](URI) == BODY
    assert len(requests_for(origin)) == 3


# -- slowness -----------------------------------------------------------------------------------------


@every_path
def test_a_body_that_trickles_for_ever_is_a_timeout(
    origin: FaultOrigin, open_with: Callable[..., None], way: str
) -> None:
    open_with(range_timeout_s=0.15, max_attempts=2)
    origin.plan(PATH, *[Trickle(1000)] * FOR_GOOD)
    error = failure_of(way, StoreTimeoutError)
    assert isinstance(error.__cause__, TimeoutError)
    assert len(requests_for(origin)) == 2 + SPARE[way]


def test_a_body_that_trickles_for_a_while_is_resumed(origin: FaultOrigin, open_with: Callable[..., None]) -> None:
    open_with(range_timeout_s=0.5)
    origin.plan(PATH, Trickle(10_000), Trickle(10_000))
    assert s3dlio.get(URI) == BODY
    firsts = [it.headers["range"] for it in requests_for(origin)]
    assert len(set(firsts)) >= 3  # each goes on where the one before has stopped


@pytest.mark.parametrize(
    ("asked", "attempt", "least", "most"),
    [("", 1, 0.05, 0.15), ("", 3, 0.2, 0.6), ("3", 1, 3.0, 3.0), ("99", 1, 5.0, 5.0), ("", 99, 2.5, 5.0),
     ("0", 1, 0.05, 0.15), ("-1", 1, 0.05, 0.15), ("9" * 400, 1, 5.0, 5.0), ("²", 1, 0.05, 0.15),
     ("Fri, 31 Dec 1999 23:59:59 GMT", 1, 0.05, 0.15)],
)  # fmt: skip
def test_the_pause_follows_the_server_within_bounds(asked: str, attempt: int, least: float, most: float) -> None:
    policy = RetryPolicy(max_attempts=8, base_s=0.1, max_s=5.0)
    for _ in range(20):
        assert least <= policy.pause_s(attempt, asked) <= most


# -- redirects ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_told_and_not_followed(
    origin: FaultOrigin, store: StoreOptions, way: str, code: int
) -> None:
    with FaultOrigin({PATH: b"elsewhere"}) as elsewhere:
        location = f"{elsewhere.endpoint_url}{PATH}?X-Amz-Signature=secret"
        origin.plan(PATH, *[redirect(location, code)] * FOR_GOOD)
        error = failure_of(way, StoreError)
        assert elsewhere.endpoint_url in str(error)
        assert "secret" not in str(error)
        # Credentials are for the server they were meant for.
        assert elsewhere.connections == 0


@every_path
@pytest.mark.parametrize("code", [301, 307, 400])
def test_a_bucket_of_another_region_is_asked_there(
    origin: FaultOrigin, store: StoreOptions, way: str, code: int
) -> None:
    moved = s3_error(code, "PermanentRedirect", x_amz_bucket_region="eu-north-1")
    origin.plan(PATH, *[moved] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    regions = [_region(request.headers["authorization"]) for request in requests_for(origin)]
    assert regions[-2:] == ["us-east-1", "eu-north-1"]
    assert s3dlio.get(URI) == BODY
    assert _region(requests_for(origin)[-1].headers["authorization"]) == "eu-north-1"


def _region(authorization: str) -> str:
    return authorization.split("/")[2]


class _Regional(FaultOrigin):
    """Serves one region, and sends who signs for another one there."""

    def steps_for(self, request: Request) -> list[Step]:
        if _region(request.headers["authorization"]) != "eu-north-1":
            self.plan(request.path, s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-north-1"))
        return super().steps_for(request)


@pytest.mark.parametrize("round_", range(3))
def test_a_batch_from_another_region_is_redirected_as_one(monkeypatch: pytest.MonkeyPatch, round_: int) -> None:
    objects = {f"/bucket/{n}": b"x" * n for n in range(60)}
    with _Regional(objects) as origin, verbs_with(monkeypatch, impatient(origin.endpoint_url)):
        got = s3dlio.get_many([f"s3:/{path}" for path in objects])
        assert [view for _, view in got] == list(objects.values())


@every_path
def test_a_bucket_of_another_region_is_asked_at_another_host(
    origin: FaultOrigin, store: StoreOptions, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    plain = S3Store._open
    with FaultOrigin({PATH: CHANGED, OTHER_PATH: OTHER}) as elsewhere:

        def open_(self: S3Store, bucket: str, region: str) -> Site:
            if region != "eu-north-1":
                return plain(self, bucket, region)
            return Site(make_transport(self.options, elsewhere.endpoint_url), "/bucket", region)

        monkeypatch.setattr(S3Store, "_open", open_)
        origin.plan(PATH, *[s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-north-1")] * FOR_GOOD)
        assert WAYS[way](URI) == CHANGED
        assert requests_for(elsewhere)[0].headers["host"] == elsewhere.endpoint_url.removeprefix("http://")


def test_a_retry_is_sent_to_where_it_is_signed_for(
    origin: FaultOrigin, store: StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultOrigin({PATH: CHANGED}) as elsewhere:
        s3_store = context.shared_store(parse(URI))
        assert isinstance(s3_store, S3Store)
        there = Site(make_transport(store, elsewhere.endpoint_url), "/bucket", "eu-north-1")
        plain = origin.steps_for

        def steps_for(request: Request) -> list[Step]:
            # Between two tries of one reader another one learns where the bucket is.
            s3_store._sites["bucket"] = there
            return plain(request)

        monkeypatch.setattr(origin, "steps_for", steps_for)
        origin.plan(PATH, s3_error(503, "SlowDown"))
        origin.plan(PATH, *[s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-north-1")] * FOR_GOOD)
        assert s3dlio.get(URI) == CHANGED
        assert {_region(it.headers["authorization"]) for it in requests_for(origin)} == {"us-east-1"}


def test_a_server_that_names_region_after_region_is_given_up(origin: FaultOrigin, store: StoreOptions) -> None:
    regions = [s3_error(301, "PermanentRedirect", x_amz_bucket_region=f"x-{n}") for n in range(FOR_GOOD)]
    origin.plan(PATH, *regions)
    failure_of("get", StoreError)
    assert len(requests_for(origin)) <= 6


# -- denials ------------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize("denial", [s3_error(403, "AccessDenied"), s3_error(400, "ExpiredToken"), Status(401)])
def test_after_a_denial_credentials_are_looked_up_once_and_the_request_signed_anew(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, open_with: Callable[..., None], way: str, denial: Fault
) -> None:
    chain = _Chain(monkeypatch)
    open_with(access_key_id=None, secret_access_key=None)
    origin.plan(PATH, *[denial] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    used = [request.headers["authorization"].split("Credential=")[1][:4] for request in requests_for(origin)]
    assert used[-2:] == ["KEY1", "KEY2"]
    assert chain.asked == 2


@every_way
def test_a_denial_for_good_is_an_error_after_one_new_look(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, open_with: Callable[..., None], way: str
) -> None:
    chain = _Chain(monkeypatch)
    open_with(access_key_id=None, secret_access_key=None)
    origin.forbidden.add(PATH)
    assert "AccessDenied" in str(failure_of(way, AccessDeniedError))
    assert chain.asked == 2


class _Chain:
    """Credentials that are others with every look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore.credentials import Credentials

        self.asked = 0

        def find(_identity: AwsIdentity) -> Credentials:
            self.asked += 1
            return Credentials(f"KEY{self.asked}", "secret")

        monkeypatch.setattr(AwsIdentity, "_search", find)


@every_way
def test_missing_credentials_are_told_with_what_they_were_wanted_for(
    origin: FaultOrigin, open_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def find(_identity: AwsIdentity) -> None:
        msg = "no AWS credentials found"
        raise AccessDeniedError(msg)

    monkeypatch.setattr(AwsIdentity, "_search", find)
    open_with(access_key_id=None, secret_access_key=None)
    with pytest.raises(AccessDeniedError, match="no AWS credentials found") as caught:
        WAYS[way](URI)
    assert caught.value.uri in (URI, OTHER_URI)
    assert caught.value.operation == "get"
    assert not origin.requests


@pytest.mark.parametrize("encoding", ["foo", "utf-7", "idna"])
def test_a_refusal_in_an_odd_encoding_is_a_refusal(origin: FaultOrigin, store: StoreOptions, encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><Error><Code>NoSuchKey</Code></Error>'.encode()
    origin.plan(PATH, Status(404, {"Content-Type": "application/xml"}, body))
    failure_of("get", NotFoundError)


# -- ranges and ends ----------------------------------------------------------------------------------


def test_an_empty_object_of_a_server_that_does_not_tell_its_size(origin: FaultOrigin, store: StoreOptions) -> None:
    origin.objects[PATH] = b""
    silent = Status(416)
    origin.plan(PATH, *[silent] * FOR_GOOD, method="GET")
    for way in WAYS:
        assert WAYS[way](URI) == b""


@pytest.mark.parametrize("answer", [None, Status(416), Status(200, {}, BODY)], ids=["416", "416-silent", "200"])
def test_a_range_behind_the_end_is_a_range_error(
    origin: FaultOrigin, store: StoreOptions, answer: Fault | None
) -> None:
    origin.plan(PATH, answer)
    with pytest.raises(RangeError, match="lies behind the end") as caught:
        s3dlio.get_range(URI, len(BODY) + 1)
    assert caught.value.uri == URI
    assert caught.value.operation


@pytest.mark.parametrize("answer", [None, Status(416), Status(200, {}, BODY)], ids=["416", "416-silent", "200"])
def test_a_range_from_the_end_on_is_empty(origin: FaultOrigin, store: StoreOptions, answer: Fault | None) -> None:
    origin.plan(PATH, answer)
    assert s3dlio.get_range(URI, len(BODY)) == b""


def test_a_range_ends_with_the_object(origin: FaultOrigin, store: StoreOptions) -> None:
    assert s3dlio.get_range(URI, len(BODY) - 5, 100) == BODY[-5:]


def test_a_buffer_that_is_too_small_is_told_at_once(origin: FaultOrigin, store: StoreOptions) -> None:
    with pytest.raises(OptionError, match=f"100 bytes.*{len(BODY)}") as caught:
        s3dlio.get_into(URI, bytearray(100))
    assert caught.value.uri == URI
    assert len(requests_for(origin)) == 1


def test_the_first_failure_of_a_batch_stops_the_rest(origin: FaultOrigin, store: StoreOptions) -> None:
    origin.objects |= {f"/bucket/{n}": BODY for n in range(300)}
    origin.plan("/bucket/3", *[s3_error(404, "NoSuchKey")] * FOR_GOOD)
    with pytest.raises(NotFoundError) as caught:
        s3dlio.get_many([f"s3://bucket/{n}" for n in range(300)], max_in_flight=4)
    assert caught.value.uri == "s3://bucket/3"
    time.sleep(0.1)  # what was sent before the failure was known
    before = len(origin.requests)
    assert before < 300
    time.sleep(0.1)
    assert len(origin.requests) == before


def test_an_upload_that_is_refused_before_it_has_left_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        _refusing_server() as url,
        verbs_with(monkeypatch, impatient(url, max_attempts=1)),
        pytest.raises(AccessDeniedError, match="HTTP 403 AccessDenied"),
    ):
        s3dlio.put(URI, bytes(32 << 20))


class _refusing_server:  # noqa: N801 - used as a function
    """Answers 403 to the head of a request, and closes without having read the body."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                time.sleep(0.05)

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
