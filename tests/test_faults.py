"""Room card: does the misbehaving origin behave, and misbehave, as each fault says?

Looks at its bytes through plain sockets, and where HTTP is right through http.client.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.patience import SOON_S, eventually
from tests.servers.faults import (
    ChangeContent,
    ChangeEtag,
    Chunked,
    CloseIdle,
    ContentEncodingGzip,
    ExtraBytes,
    Fault,
    FaultOrigin,
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
    Trickle,
    WholeBodyOn206Asked,
    WrongContentRange,
    redirect,
    s3_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATH = "/bucket/digits"
_DIGITS = b"0123456789"
_RANGE = {"Range": "bytes=2-5"}


@pytest.fixture
def digits(origin: FaultOrigin) -> FaultOrigin:
    """An origin with one object."""
    origin.objects[_PATH] = _DIGITS
    return origin


@contextlib.contextmanager
def _connect(origin: FaultOrigin) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", origin.port, timeout=5)) as connection:
        yield connection


def _ask(
    origin: FaultOrigin, method: str = "GET", path: str = _PATH, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    with _connect(origin) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def _raw(origin: FaultOrigin, extra: str = "", timeout_s: float = 5.0) -> tuple[bytes, str]:
    """Sends a GET and returns all the bytes of the answer, and how it ended: fin, reset or silence."""
    got = b""
    with socket.create_connection(("127.0.0.1", origin.port), timeout=timeout_s) as sock:
        sock.sendall(f"GET {_PATH} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
        try:
            while data := sock.recv(65536):
                got += data
        except ConnectionResetError:
            return got, "reset"
        except TimeoutError:
            return got, "silence"
    return got, "fin"


def _raw_faulty(origin: FaultOrigin, fault: Fault, extra: str = "") -> tuple[bytes, bytes, str]:
    """Plans a fault for one request; returns the head and the body of the answer, and how it ended."""
    origin.plan(_PATH, fault)
    got, end = _raw(origin, extra)
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body, end


def test_right_answers(digits: FaultOrigin) -> None:
    status, headers, body = _ask(digits)
    assert (status, body, headers["Content-Length"]) == (200, _DIGITS, "10")
    etag = headers["ETag"]
    assert _ask(digits, "HEAD")[::2] == (200, b"")
    for asked, told, part in [
        ("2-5", "2-5", b"2345"),
        ("7-", "7-9", b"789"),
        ("-3", "7-9", b"789"),
        ("8-99", "8-9", b"89"),
    ]:
        status, headers, body = _ask(digits, headers={"Range": f"bytes={asked}", "If-Match": etag})
        assert (status, headers["Content-Range"], body) == (206, f"bytes {told}/10", part)
    status, headers, _ = _ask(digits, headers={"Range": "bytes=10-"})
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    assert _ask(digits, headers={"If-Match": '"other"'})[0] == 412
    status, _, body = _ask(digits, path="/bucket/missing")
    assert (status, b"NoSuchKey" in body) == (404, True)
    assert b"NoSuchBucket" in _ask(digits, path="/nowhere/missing")[2]
    digits.etags[_PATH] = '"mine"'
    assert _ask(digits)[1]["ETag"] == '"mine"'
    digits.forbidden.add(_PATH)
    assert _ask(digits)[0] == 403


def test_range_of_an_empty_object(origin: FaultOrigin) -> None:
    origin.objects[_PATH] = b""
    assert _ask(origin)[0::2] == (200, b"")
    assert _ask(origin, headers={"Range": "bytes=0-"})[0] == 416


def test_connections_are_kept_and_counted(digits: FaultOrigin) -> None:
    with _connect(digits) as connection:
        for _ in range(3):
            connection.request("GET", _PATH)
            connection.getresponse().read()
        assert (digits.connections, digits.open_connections) == (1, 1)
    methods = [(request.method, request.target, request.headers["host"]) for request in digits.requests]
    assert methods == [("GET", _PATH, f"127.0.0.1:{digits.port}")] * 3
    assert digits.requests[0].time_s <= digits.requests[2].time_s <= time.monotonic()
    eventually(lambda: digits.open_connections == 0)


def test_plans_are_used_up_in_order(digits: FaultOrigin) -> None:
    digits.plan(_PATH, s3_error(503, "SlowDown", Retry_After="7"), None, redirect("http://elsewhere/"))
    digits.plan_all(s3_error(500, "InternalError"))
    status, headers, body = _ask(digits)
    assert (status, headers["Retry-After"], b"<Code>SlowDown</Code>" in body) == (503, "7", True)
    assert _ask(digits, path="/bucket/other")[0] == 500
    assert _ask(digits)[0] == 200
    status, headers, _ = _ask(digits)
    assert (status, headers["Location"]) == (307, "http://elsewhere/")
    assert _ask(digits)[0] == 200


def test_a_plan_for_one_method_spares_the_others(digits: FaultOrigin) -> None:
    digits.plan(_PATH, s3_error(403, "ExpiredToken"), method="GET")
    assert [_ask(digits, method)[0] for method in ("HEAD", "GET", "GET")] == [200, 403, 200]


def test_reset_in_head(digits: FaultOrigin) -> None:
    digits.plan(_PATH, ResetInHead(12), ResetInHead())
    assert _raw(digits) == (b"HTTP/1.1 200", "reset")
    assert _raw(digits) == (b"", "reset")


def test_reset_in_body_sends_all_before_it(digits: FaultOrigin) -> None:
    digits.objects[_PATH] = bytes(1 << 20)
    _, body, end = _raw_faulty(digits, ResetInBody(1_000_000))
    assert (len(body), end) == (1_000_000, "reset")


def test_short_body(digits: FaultOrigin) -> None:
    head, body, end = _raw_faulty(digits, ShortBody(3))
    assert b"Content-Length: 10" in head
    assert (body, end) == (b"0123456", "fin")


@pytest.mark.parametrize(
    ("fault", "before"), [(Stall(4, 0.2), b"0123"), (StallHead(0.2), b"HTTP/1.1 "), (Latency(0.2), b"")]
)
def test_stalls_go_on_after_a_while(digits: FaultOrigin, fault: Fault, before: bytes) -> None:
    digits.plan(_PATH, fault, fault)
    got, end = _raw(digits, timeout_s=0.1)
    assert (got[-len(before) :] if before else got, end) == (before, "silence")
    started_s = time.monotonic()
    assert _ask(digits)[2] == _DIGITS
    assert time.monotonic() - started_s >= 0.2


def test_a_stalled_connection_does_not_outlive_its_client(digits: FaultOrigin) -> None:
    digits.plan(_PATH, Stall(0, 60.0))
    assert _raw(digits, timeout_s=0.1)[1] == "silence"
    eventually(lambda: digits.open_connections == 0)


def test_close_does_not_wait_for_a_stall() -> None:
    with FaultOrigin({_PATH: _DIGITS}) as origin, _connect(origin) as connection:
        origin.plan(_PATH, Stall(1, 60.0))
        connection.request("GET", _PATH)
        response = connection.getresponse()
        assert response.read(1) == b"0"
        started_s = time.monotonic()
        origin.close()
        assert time.monotonic() - started_s < SOON_S


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (WrongContentRange(shift=1), "bytes 3-6/10"),
        (WrongContentRange(total=99), "bytes 2-5/99"),
        (WrongContentRange(missing=True), None),
    ],
)
def test_wrong_content_range(digits: FaultOrigin, fault: Fault, told: str | None) -> None:
    digits.plan(_PATH, fault)
    status, headers, body = _ask(digits, headers=_RANGE)
    assert (status, headers.get("Content-Range"), body) == (206, told, b"2345")


def test_changes_last(digits: FaultOrigin) -> None:
    etag = _ask(digits)[1]["ETag"]
    digits.plan(_PATH, ChangeEtag('"second"'), None, ChangeContent(b"new"))
    assert _ask(digits, headers={"If-Match": etag})[0] == 412
    assert _ask(digits)[1]["ETag"] == '"second"'
    status, headers, body = _ask(digits)
    assert (status, body, headers["ETag"] == '"second"') == (200, b"new", False)
    assert _ask(digits)[2] == b"new"


def test_close_idle(digits: FaultOrigin) -> None:
    head, body, end = _raw_faulty(digits, CloseIdle())
    assert (b"close" in head, body, end) == (False, _DIGITS, "fin")


def test_chunked(digits: FaultOrigin) -> None:
    digits.plan(_PATH, Chunked(4), Chunked(4), Chunked(4))
    status, headers, body = _ask(digits)
    assert (status, "Content-Length" in headers, body) == (200, False, _DIGITS)
    assert _ask(digits, "HEAD")[2] == b""
    got, _ = _raw(digits, "Connection: close\r\n")
    assert got.endswith(b"\r\n\r\n4\r\n0123\r\n4\r\n4567\r\n2\r\n89\r\n0\r\n\r\n")


def test_no_content_length(digits: FaultOrigin) -> None:
    head, body, end = _raw_faulty(digits, NoContentLength())
    assert (head[:8], b"Content-Length" in head, body, end) == (b"HTTP/1.0", False, _DIGITS, "fin")


def test_garbage_and_huge_heads(digits: FaultOrigin) -> None:
    digits.plan(_PATH, GarbageHead(b"what?"), HugeHead(100_000))
    assert _raw(digits) == (b"what?", "fin")
    got, end = _raw(digits)
    assert (len(got), got[:8], b"\r\n\r\n" in got, end) == (100_000, b"HTTP/1.1", False, "fin")


def test_range_ignored_and_part_under_a_wrong_status(digits: FaultOrigin) -> None:
    digits.plan(_PATH, WholeBodyOn206Asked(), PartAs200())
    status, headers, body = _ask(digits, headers=_RANGE)
    assert (status, headers["Content-Length"], "Content-Range" in headers, body) == (
        200,
        "10",
        False,
        _DIGITS,
    )
    status, headers, body = _ask(digits, headers=_RANGE)
    assert (status, headers["Content-Range"], body) == (200, "bytes 2-5/10", b"2345")


def test_extra_bytes(digits: FaultOrigin) -> None:
    head, body, _ = _raw_faulty(digits, ExtraBytes(3), "Connection: close\r\n")
    assert (b"Content-Length: 10" in head, body) == (True, _DIGITS + b"!!!")


def test_trickle(digits: FaultOrigin) -> None:
    started_s = time.monotonic()
    assert _raw_faulty(digits, Trickle(50), "Connection: close\r\n")[1] == _DIGITS
    assert time.monotonic() - started_s >= 0.2


@pytest.mark.parametrize("code", [100, 103])
def test_interim_response(digits: FaultOrigin, code: int) -> None:
    digits.plan(_PATH, InterimResponse(code))
    got, _ = _raw(digits, "Connection: close\r\n")
    interim, _, rest = got.partition(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 %d " % code)
    assert (rest[:12], rest[-10:]) == (b"HTTP/1.1 200", _DIGITS)


def test_lower_case_headers(digits: FaultOrigin) -> None:
    head, body, _ = _raw_faulty(digits, LowerCaseHeaders(), "Connection: close\r\n")
    assert (b"\r\ncontent-length:10" in head, body) == (True, _DIGITS)


def test_content_encoding_gzip(digits: FaultOrigin) -> None:
    digits.plan(_PATH, ContentEncodingGzip())
    status, headers, body = _ask(digits)
    assert (status, headers["Content-Encoding"], gzip.decompress(body)) == (200, "gzip", _DIGITS)


def test_a_reset_by_the_client_is_no_trouble(digits: FaultOrigin) -> None:
    digits.objects[_PATH] = bytes(10 << 20)
    with socket.create_connection(("127.0.0.1", digits.port)) as sock:
        sock.sendall(f"GET {_PATH} HTTP/1.1\r\n\r\n".encode())
        sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: digits.open_connections == 0)
