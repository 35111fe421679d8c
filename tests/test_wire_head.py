"""Room card: is the head of an answer read rightly, and can no bytes at all lead the reader astray?

Generated heads are held against `http.client`'s reading of them, generated junk against the promise: the right
bytes or an error.  No server here: connections are ends of socket pairs whose other end has already spoken.
"""

from __future__ import annotations

import http.client
import io
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from s3dlio.cancel import CancellationToken
from s3dlio.errors import ObjectChangedError, RangeError, StoreError
from s3dlio.retry import RetryPolicy
from s3dlio.wire.channel import Origin, Timeouts
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import MAX_HEAD_BYTES, ContentRange, Head, ProtocolError, find_end, parse_content_range
from s3dlio.wire.lane import Lane
from s3dlio.wire.transport import Call, Fault, Landing, Transport, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

unhurried = settings(deadline=None, max_examples=150)

# -- heads --------------------------------------------------------------------------------------------

_TOKEN = st.text(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=20
)
_VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(str.strip)
_BLANKS = st.text(" \t", max_size=3)
_OWN = ("content-length", "content-range", "etag", "transfer-encoding", "connection", "keep-alive")


@st.composite
def _cased(draw: st.DrawFn, name: str) -> str:
    return "".join(char.upper() if draw(st.booleans()) else char.lower() for char in name)


@st.composite
def _line(draw: st.DrawFn, name: str, value: str, behind: str) -> str:
    return f"{draw(_cased(name))}:{draw(_BLANKS)}{value}{draw(st.text(behind, max_size=3))}"


#: Fields that mean nothing to the library.
_OTHER_FIELDS = st.lists(st.tuples(_TOKEN.filter(lambda name: name.lower() not in _OWN), _VALUE), max_size=6)


@st.composite
def _head(draw: st.DrawFn, known: dict[str, list[str]], start: str, behind: str = "") -> bytes:
    """Draws a well-formed head with these fields of meaning, among others, in any order, case and spacing."""
    pairs = draw(_OTHER_FIELDS) + [(name, value) for name, values in known.items() for value in values]
    lines = [draw(_line(name, value, behind)) for name, value in draw(st.permutations(pairs))]
    reason = draw(st.sampled_from(["", " ", " Partial Content", " \xe9t\xe9"]))
    return "\r\n".join([start + reason, *lines, "", ""]).encode("latin-1")


@unhurried
@given(st.data())
def test_a_well_formed_head_is_read_rightly(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 10**15))
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    total = data.draw(st.sampled_from([str(size), "*"]))
    length = str(stop - start)
    etag = data.draw(st.sampled_from(['"0123abc"', 'W/"weak"', '""', '"a b"']))
    known = {
        "content-length": [length] * data.draw(st.integers(1, 3)),
        "content-range": [f"bytes {start}-{stop - 1}/{total}"],
        "etag": [etag],
    }
    status = data.draw(st.integers(100, 999))
    head = Head(data.draw(_head(known, f"HTTP/1.1 {status}", " \t")))
    assert (head.status, head.length, head.etag) == (status, stop - start, etag)
    assert head.content_range == ContentRange(start, stop, None if total == "*" else size)
    assert (head.chunked, head.keep_alive) == (False, True)
    assert head.field("ETag") == etag


@unhurried
@given(
    st.sampled_from(["", "close", "Close", "keep-alive", "Keep-Alive", "foo, close", "upgrade"]),
    st.sampled_from(["", "chunked", "Chunked", "identity", "gzip, chunked"]),
    st.sampled_from([0, 1]),
    st.data(),
)
def test_http_client_reads_the_same(connection: str, coding: str, minor: int, data: st.DataObject) -> None:
    known = {name: [value] for name, value in (("connection", connection), ("transfer-encoding", coding)) if value}
    if data.draw(st.booleans()):
        known["content-length"] = [str(data.draw(st.integers(0, 10**18)))]
    status = data.draw(st.sampled_from([200, 206, 301, 403, 404, 416, 500, 503]))
    raw = data.draw(_head(known, f"HTTP/1.{minor} {status}"))  # (blanks behind a value are not taken off there)
    head, theirs = Head(raw), _by_http_client(raw)
    assert head.status == theirs.status
    assert head.keep_alive != theirs.will_close or (theirs.length is None and not theirs.chunked)
    if coding in ("", "chunked", "Chunked"):
        assert head.chunked == bool(theirs.chunked)
        assert head.chunked or head.length == theirs.length
    names = {name.lower() for name, _ in theirs.getheaders()}
    assert head.fields() == {name: theirs.getheader(name) for name in names}


def _by_http_client(raw: bytes) -> http.client.HTTPResponse:
    class Sock:
        def makefile(self, _mode: str) -> io.BytesIO:
            return io.BytesIO(raw)

    response = http.client.HTTPResponse(Sock())  # type: ignore[arg-type]
    response.begin()
    return response


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5_0"],
        ["Content-Length: 5.0"],
        ["Content-Length: five"],
        ["Content-Length: \xb2"],
        [f"Content-Length: {10**19}"],
        ["Content-Range: bytes 0-1"],
        ["Content-Range: bytes 5-3/10"],
        ["Content-Range: bytes 0-10/10"],
        ["Content-Range: bytes 0-1/10, bytes 2-3/10"],
        ["Content-Range: items 0-1/10"],
        ["Content-Range: bytes -1-1/10"],
        [f"Content-Range: bytes 0-{'9' * 30}/*"],
    ],
    ids=", ".join,
)
def test_a_head_that_contradicts_itself_is_refused(lines: list[str]) -> None:
    with pytest.raises(ProtocolError):
        Head("\r\n".join(["HTTP/1.1 206 Partial Content", *lines, "", ""]).encode("latin-1"))


_PIECES = st.sampled_from(
    [b"HTTP/1.1 206 ", b"HTTP/1.1 ", b"200", b"\r\n", b"\r", b"\n", b":", b" ", b"\t", b"\0", b"\xff", b"content-length:",
     b"Content-Range: bytes ", b"0-9/10", b"*", b"/", b"-", b"etag", b"transfer-encoding: chunked", b"connection:", b"9" * 50,
     b"bytes"]
)  # fmt: skip
_JUNK = st.one_of(st.binary(max_size=200), st.lists(_PIECES, max_size=30).map(b"".join))


@unhurried
@given(_JUNK, st.booleans())
@example(b"HTTP/1.1 206 \r\nContent-Length: \xb2\r\n\r\n", False)
def test_junk_is_a_head_or_a_protocol_error(junk: bytes, begins_well: bool) -> None:
    raw = b"HTTP/1.1 206 OK\r\n" + junk if begins_well else junk
    try:
        head = Head(raw)
    except ProtocolError:
        return
    assert 100 <= head.status <= 999
    assert head.length is None or 0 <= head.length < 10**19
    assert all(name == name.lower() for name in head.fields())


@unhurried
@given(st.one_of(_JUNK, st.from_regex(rb"bytes [0-9]{1,3}-[0-9]{1,3}/[0-9]{1,3}", fullmatch=True)))
def test_junk_is_a_content_range_or_a_protocol_error(junk: bytes) -> None:
    try:
        part = parse_content_range(junk)
    except ProtocolError:
        return
    if part.start >= 0:
        assert part.start <= part.stop
        assert part.total is None or part.stop <= part.total


@unhurried
@given(st.lists(_PIECES, max_size=30).map(b"".join), st.data())
def test_the_end_of_a_head_is_found_however_it_comes(data: bytes, drawn: st.DataObject) -> None:
    cuts = sorted(drawn.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    buffer = data + b"\r\n\r\n"  # behind what is filled: old bytes that do not count
    searched = 0
    for filled in [*cuts, len(data)]:
        end = find_end(buffer, filled, searched)
        whole = data[:filled].find(b"\r\n\r\n")
        assert end == (whole + 4 if whole >= 0 else -1)
        if end >= 0:
            return
        searched = filled


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "filler", [b" ", b"\t", b"a", b":", b"\r", b"\n", b": ", b" :", b"a:", b"9", b"\r\n", b"a:b\r\n", b","]
)
def test_a_hostile_head_takes_no_time(filler: bytes) -> None:
    long = (filler * MAX_HEAD_BYTES)[:MAX_HEAD_BYTES]
    for lead in (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 ", b"HTTP/1.1 206 OK\r\n", b"HTTP/1.1 206 OK\r\nX:", b"HTTP/1.1 206 OK\r\nETag:",
                 b"HTTP/1.1 206 OK\r\nContent-Length:", b"HTTP/1.1 206 OK\r\nContent-Range: bytes "):  # fmt: skip
        for end in (b"", b"\n\r\n\r\n", b"x\r\n\r\n"):
            try:
                Head(lead + long + end).fields()
            except ProtocolError:
                continue


# -- answers ------------------------------------------------------------------------------------------

#: No two stretches of it are alike, so that a byte at a wrong place is seen.
DATA = b"".join(n.to_bytes(2, "big") for n in range(5000))
TIMEOUTS = Timeouts(connect_s=1.0, read_s=1.0, exchange_s=1.0)


class _Slow(Connection):
    """A connection that receives at most so many bytes at once."""

    def __init__(self, sock: socket.socket, at_once: Iterator[int]) -> None:
        super().__init__(sock, TIMEOUTS)
        self.at_once = at_once
        self.set_timeouts()

    def _recv(self, target: memoryview, flags: int) -> int:
        return super()._recv(target[: next(self.at_once)], flags)


class _Scripted(Client):
    """A client whose every connection has its answer waiting, and then ends."""

    def __init__(self, answers: list[bytes], at_once: list[int]) -> None:
        super().__init__(Origin("http", "nowhere.invalid", 80), TIMEOUTS)
        self.answers = iter(answers)
        self.at_once = at_once
        self.far_ends: list[socket.socket] = []

    def _connect(self, token: CancellationToken) -> Connection:
        near, far = socket.socketpair()
        far.sendall(next(self.answers))
        far.shutdown(socket.SHUT_WR)
        self.far_ends.append(far)
        sizes = self.at_once
        connection = _Slow(near, (sizes[n % len(sizes)] for n in range(1 << 30)))
        token.watch(connection)
        return connection

    def close(self) -> None:
        super().close()
        for far in self.far_ends:
            far.close()


def _answer(start: int, stop: int, *, status: int = 206, data: bytes = DATA, chunk: int = 0) -> bytes:
    body = data[start:stop]
    framing = f"Content-Length: {len(body)}"
    if chunk:
        framing = "Transfer-Encoding: chunked"
        chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(it), it) for it in chunks) + b"0\r\n\r\n"
    head = (
        f'HTTP/1.1 {status} OK\r\nContent-Range: bytes {start}-{stop - 1}/{len(data)}\r\nETag: "e"\r\n{framing}\r\n\r\n'
    )
    return head.encode() + body


def _read(answers: list[bytes], start: int, limit: int, at_once: list[int]) -> tuple[Version, bytes]:
    """Reads as a store does: by the lane, and if that steps aside by the transport."""
    memory = bytearray(b"\xaa" * limit)
    placed = [0]

    def place(size: int) -> memoryview:
        placed[0] = max(0, min(limit, size - start))
        return memoryview(memory)[: placed[0]]

    client = _Scripted(answers, at_once)
    token = CancellationToken()
    call = Call(
        "get",
        "x://y/z",
        lambda _m, _h: b"GET / HTTP/1.1\r\n\r\n",
        lambda: None,
        lambda _h, _b: Fault("", ""),
        lambda _h: False,
    )
    try:
        with Lane(client, token) as lane:
            done = lane.read(b"GET / HTTP/1.1\r\n\r\n", start, limit, place)
            if done is None:
                transport = Transport(client, RetryPolicy(len(answers) - 1, 0.0, 0.0))
                done = transport.read(Landing(call, start, limit, place), token)
        return Version(*done), bytes(memory[: placed[0]])
    finally:
        client.close()


@st.composite
def _mangled(draw: st.DrawFn, right: bytes) -> bytes:
    """Draws a right answer whose head, or chunk lengths, have suffered."""
    where = right.find(b"\r\n\r\n") + 4
    if b"chunked" in right:
        where = right.find(b"\r\n", where) + 2
    head = bytearray(right[:where])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(head) - 1)))
        kind = draw(st.sampled_from(["flip", "insert", "delete", "digit"]))
        if kind == "insert":
            head[at:at] = draw(st.one_of(_PIECES, st.binary(max_size=5)))
        elif kind == "delete":
            del head[at : at + draw(st.integers(1, 20))]
        else:
            head[at : at + 1] = [draw(st.integers(0, 255) if kind == "flip" else st.sampled_from(b"0123456789"))]
    return bytes(head) + right[where:]


@st.composite
def _script(draw: st.DrawFn, start: int, limit: int) -> list[bytes]:
    """Draws what up to five connections say: whatever, but never false bytes in a true frame."""
    stop = min(start + limit, len(DATA))
    right = _answer(start, stop)
    coded = _answer(start, stop, chunk=draw(st.integers(1, 3000)))
    other_start = draw(st.integers(0, len(DATA) - 1))
    other_stop = draw(st.integers(other_start + 1, len(DATA)))
    other = _answer(other_start, other_stop, status=draw(st.sampled_from([200, 206, 416, 404, 503, 100, 204])))
    usual = st.sampled_from([right, coded, other])
    kinds = [
        _JUNK,
        st.sampled_from([other, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 9, b"HTTP/1.1 103 Early\r\n\r\n" + right]),
        st.tuples(usual, st.integers(0, 20_000)).map(lambda it: it[0][: it[1]]),
        st.tuples(usual, _JUNK).map(b"".join),
        _mangled(right),
        _mangled(coded),
        st.just(right.lower()[: right.find(b"\r\n\r\n")] + right[right.find(b"\r\n\r\n") :]),
    ]
    return draw(st.lists(st.one_of(kinds), max_size=5))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_whatever_comes_the_bytes_are_right_or_there_is_an_error(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([0, 0, 0, 1, 700, len(DATA) - 1]))
    limit = data.draw(st.sampled_from([1, 50, 4096, len(DATA), 1 << 20]))
    at_once = data.draw(st.lists(st.integers(1, 9000), min_size=1, max_size=4).filter(lambda sizes: max(sizes) > 30))
    script = data.draw(_script(start, limit))
    # An empty line more behind a whole head is, by its form, the beginning of another body.
    assume(not any(b"\r\n\r\n\r\n" in answer for answer in script))
    right = _answer(start, min(start + limit, len(DATA)))
    answers = [*script, *[right] * 3]
    try:
        version, got = _read(answers, start, min(limit, 2 * len(DATA)), at_once)
    except (StoreError, RangeError) as error:
        assert error.uri == "x://y/z"  # noqa: PT017 - an error is as good
        assert script
        return
    assert got == DATA[start : start + len(got)]
    if start + limit >= len(DATA) and version.size == len(DATA):
        assert len(got) == len(DATA) - start


def test_a_usual_answer_is_the_lane_s_own() -> None:
    version, got = _read([_answer(0, len(DATA))], 0, 1 << 14, [1 << 20])
    assert (version, got) == (Version(len(DATA), ""), DATA)


def test_a_chunk_length_that_swallows_the_next_is_no_answer() -> None:
    # Both chunks in one by a false length: as many bytes as were due, and not the right ones.
    coded = _answer(0, 20, data=DATA[:20], chunk=10).replace(b"\r\n\r\na\r\n", b"\r\n\r\n14\r\n")
    right = _answer(0, 20, data=DATA[:20])
    _, got = _read([b"", coded, right], 0, 100, [1 << 20])
    assert got == DATA[:20]


@pytest.mark.parametrize("length", [b"-5", b"+5", b"0x5", b"5_0", b"", b" ", b"z", b"f" * 99, b"\xb2", b"1" * 2000])
def test_a_bad_chunk_length_is_no_answer(length: bytes) -> None:
    coded = _answer(0, 20, data=DATA[:20], chunk=10).replace(b"\r\n\r\na\r\n", b"\r\n\r\n" + length + b"\r\n")
    right = _answer(0, 20, data=DATA[:20])
    _, got = _read([b"", coded, right], 0, 100, [1 << 20])
    assert got == DATA[:20]
    with pytest.raises(StoreError):
        _read([b"", coded, coded], 0, 100, [1 << 20])


def test_a_total_of_any_number_of_digits_is_no_answer() -> None:
    head = b'HTTP/1.1 206 OK\r\nContent-Range: bytes 0-19/%b\r\nETag: "e"\r\nContent-Length: 20\r\n\r\n' % (b"9" * 5000)
    right = _answer(0, 20, data=DATA[:20])
    # The first connection grows its buffer on a long head; the lane then meets one more on it.
    _, got = _read([head + DATA[:20]] * 2 + [right], 0, 100, [1 << 20])
    assert got == DATA[:20]


def test_an_endless_head_ends_with_the_exchange() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near, Timeouts(1.0, 1.0, 0.1))
        connection.set_timeouts()
        interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 1000
        far.setblocking(False)

        class Endless(Connection):
            def _recv(self, target: memoryview, flags: int) -> int:
                count = min(len(target), len(interim))
                target[:count] = interim[:count]
                return count

        endless = Endless(near, Timeouts(1.0, 1.0, 0.1))
        endless.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((TimeoutError, ProtocolError)):
            endless.read_head()


def test_a_part_of_another_size_than_before_is_a_change() -> None:
    cut = _answer(0, len(DATA))[:-7000]
    rest = _answer(3000, len(DATA) + 2, data=DATA + b"!!")
    with pytest.raises(ObjectChangedError):
        _read([b"", cut, rest], 0, 1 << 14, [1 << 20])
