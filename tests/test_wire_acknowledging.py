"""Room card: is the head of an answer acknowledged at once when its body is still to come?

A server with Nagle's algorithm that sends head and body apart, as Ceph's does, holds a small body back until then.
What the kernel will do is asked of the kernel: no times here.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from s3dlio.wire import connection as wire
from s3dlio.wire.channel import Habits, Timeouts
from s3dlio.wire.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = b"0123456789"
PART = b"HTTP/1.1 206 OK\r\ncontent-range: bytes 0-9/10\r\ncontent-length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
IN_CHUNKS = b"a\r\n" + BODY + b"\r\n0\r\n\r\n"
REQUEST = b"GET /bucket/key HTTP/1.1\r\nhost: x\r\n\r\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told when to acknowledge")


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection(socket.socket(), Timeouts(60.0, 60.0, 60.0))
        connection.connect(listening.getsockname())
        far, _ = listening.accept()
        with far:
            yield connection, far
        connection.close()


def _acknowledges_at_once(connection: Connection) -> bool:
    with socket.socket(fileno=socket.dup(connection.fileno())) as same:
        return bool(same.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))


def _delay(connection: Connection) -> None:
    """Puts the connection into the state that an exchange of small messages brings about."""
    with socket.socket(fileno=socket.dup(connection.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def _count_acknowledged(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    hurried: list[Connection] = []

    def note(connection: Connection) -> None:
        hurried.append(connection)

    monkeypatch.setattr(Connection, "acknowledge", note)
    return hurried


def _by_lane(connection: Connection, going_on: Callable[[], None]) -> bytes:
    memory = bytearray(len(BODY))
    assert connection.exchange_part(REQUEST, 0, 100) == (10, 10)
    going_on()
    assert connection.fill(memoryview(memory), len(BODY))
    return bytes(memory)


def _by_sweep(connection: Connection, going_on: Callable[[], None]) -> bytes:
    memory = bytearray(len(BODY))
    connection.ask(REQUEST)
    assert connection.answer_whole(100) == 10
    going_on()
    assert connection.fill(memoryview(memory), len(BODY))
    return bytes(memory)


def _plainly(connection: Connection, going_on: Callable[[], None]) -> bytes:
    connection.send(REQUEST)
    connection.read_head()
    going_on()
    return connection.read_all(100)


@pytest.mark.parametrize(
    ("way", "head", "body"),
    [(_by_lane, PART, BODY), (_by_sweep, PART, BODY), (_plainly, PART, BODY), (_plainly, CHUNKED, IN_CHUNKS)],
)
def test_a_head_alone_is_acknowledged_before_its_body_is_waited_for(
    ends: tuple[Connection, socket.socket], way: Callable[..., bytes], head: bytes, body: bytes
) -> None:
    connection, far = ends
    read_on = threading.Event()

    def serve() -> None:
        far.sendall(head)
        assert read_on.wait(60)
        far.sendall(body)

    server = threading.Thread(target=serve)
    server.start()
    try:
        _delay(connection)
        assert way(connection, read_on.set) == BODY
    finally:
        read_on.set()
        server.join()
    assert _acknowledges_at_once(connection)


def _answered_in_two(connection: Connection, far: socket.socket, first: bytes, rest: bytes) -> None:
    """Sends ``rest`` when ``first`` has been received."""
    _delay(connection)
    far.sendall(first)
    assert connection.exchange_part(REQUEST, 0, 100) == (10, 10)
    far.sendall(rest)
    assert connection.fill(memoryview(bytearray(10)), 10)


def test_further_heads_are_acknowledged_where_one_was_waited_for(
    ends: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, far = ends
    hurried = _count_acknowledged(monkeypatch)
    monkeypatch.setattr(wire, "_HESITATION_S", 60.0)
    for _ in range(3):
        _answered_in_two(connection, far, PART, BODY)
    assert len(hurried) == 1  # the first
    monkeypatch.setattr(wire, "_HESITATION_S", -1.0)  # any wait is one
    for _ in range(3):
        _answered_in_two(connection, far, PART, BODY)
    assert len(hurried) == 3
    # Such a server may also be waiting when the reader was late, and found part of the body.
    _answered_in_two(connection, far, PART + BODY[:4], BODY[4:])
    assert len(hurried) == 4


def test_what_one_connection_finds_out_all_of_the_server_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_HESITATION_S", -1.0)
    habits = Habits()
    hurried = _count_acknowledged(monkeypatch)
    for acknowledged in (1, 3, 5):  # a first head; from its second on that the server waits is known: all
        near, far = socket.socketpair()
        with near, far:
            connection = Connection(near, Timeouts(60.0, 60.0, 60.0), habits)
            connection.set_timeouts()
            for _ in range(2):
                far.sendall(PART)
                assert connection.exchange_part(REQUEST, 0, 100) == (10, 10)
                far.sendall(BODY)
                assert connection.fill(memoryview(bytearray(10)), 10)
        assert len(hurried) == acknowledged


def test_nothing_is_hurried_where_heads_come_with_their_bodies(
    ends: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, far = ends
    hurried = _count_acknowledged(monkeypatch)
    for cut in (4, 10, 9):
        _answered_in_two(connection, far, PART + BODY[:cut], BODY[cut:])
    assert hurried == []


def test_a_connection_that_is_no_tcp_is_left_alone() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near, Timeouts(60.0, 60.0, 60.0))
        connection.set_timeouts()
        far.sendall(PART)
        assert connection.exchange_part(REQUEST, 0, 100) == (10, 10)
        far.sendall(BODY)
        assert connection.fill(memoryview(bytearray(10)), 10)
