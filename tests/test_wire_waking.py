"""Room card: a thread that reads a large body is woken seldom, and all bodies come all the same.

What the kernel was told is asked of the kernel.  Knows sockets; no times here, but for a server that stops sending.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from s3dlio.wire import channel
from s3dlio.wire.channel import Timeouts
from s3dlio.wire.connection import Connection
from tests.patience import PROGRAM_S
from tests.reading import random_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUEST = b"GET /bucket/key HTTP/1.1\r\nhost: x\r\n\r\n"
LEAST = channel._LARGE_BYTES
SOME = channel._WAKE_BYTES
SIZES = [LEAST - 1, LEAST, LEAST + 1, LEAST + SOME, 3 * LEAST + 77]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told when to wake a thread")
Ends = tuple[Connection, socket.socket]


@contextlib.contextmanager
def _connected(read_s: float = PROGRAM_S) -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection(socket.socket(), Timeouts(PROGRAM_S, read_s, PROGRAM_S))
        connection.connect(listening.getsockname())
        far, _ = listening.accept()
        with far:
            yield connection, far
        connection.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A connection, and the server's end of it."""
    with _connected() as both:
        yield both


def _wakes_for(connection: Connection) -> int:
    with socket.socket(fileno=socket.dup(connection.fileno())) as same:
        return same.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@contextlib.contextmanager
def _serving(serve: Callable[[], None]) -> Iterator[None]:
    server = threading.Thread(target=serve)
    server.start()
    try:
        yield
    finally:
        server.join()


def _part(body: bytes) -> bytes:
    last = len(body) - 1
    return b"HTTP/1.1 206 OK\r\ncontent-range: bytes 0-%d/%d\r\ncontent-length: %d\r\n\r\n" % (
        last,
        len(body),
        len(body),
    )


def _chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _by_lane(connection: Connection, size: int) -> bytes:
    memory = bytearray(size)
    assert connection.exchange_part(REQUEST, 0, size) == (size, size)
    assert connection.fill(memoryview(memory), size)
    return bytes(memory)


def _plainly(connection: Connection, size: int) -> bytes:
    memory = bytearray(size)
    connection.send(REQUEST)
    connection.read_head()
    connection.read_into(memoryview(memory))
    connection.read_end()
    return bytes(memory)


WAYS = {
    "lane": (_by_lane, lambda body: _part(body) + body),
    "plain": (_plainly, lambda body: _part(body) + body),
    "chunked": (_plainly, _chunked),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1 << 30, 100_003])
def test_large_bodies_and_small_ones_come_by_turns(ends: Ends, way: str, size: int, step: int) -> None:
    connection, far = ends
    read, answer = WAYS[way]
    for length in (size, 10, size):  # what is left over of the first would hold up the second
        body = random_bytes(length)
        whole = answer(body)

        def serve(whole: bytes = whole) -> None:
            for start in range(0, len(whole), step):
                far.sendall(whole[start : start + step])

        with _serving(serve):
            assert read(connection, length) == body
        assert _wakes_for(connection) == 1


def test_a_reader_of_a_large_body_sleeps_until_there_is_much(ends: Ends) -> None:
    connection, far = ends
    body = random_bytes(3 * LEAST)
    seen: list[int] = []

    def serve() -> None:
        far.sendall(_part(body) + body[:LEAST])
        deadline = time.monotonic() + PROGRAM_S
        while _wakes_for(connection) == 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(_wakes_for(connection))
        far.sendall(body[LEAST:])

    with _serving(serve):
        assert _by_lane(connection, len(body)) == body
    assert seen == [SOME]


@pytest.mark.parametrize("come", [10, SOME - 1, LEAST + 5, 3 * LEAST - 1])
def test_what_came_before_a_server_fell_silent_counts(come: int) -> None:
    body = random_bytes(3 * LEAST)
    with _connected(read_s=0.3) as (connection, far), _serving(lambda: far.sendall(_part(body) + body[:come])):
        memory = bytearray(len(body))
        connection.send(REQUEST)
        connection.read_head()
        with pytest.raises(TimeoutError):
            connection.read_into(memoryview(memory))
        assert connection.received == come
        assert memory[:come] == body[:come]
        assert _wakes_for(connection) == 1


@pytest.mark.parametrize("come", [10, SOME - 1, LEAST + 5, 3 * LEAST - 1])
def test_what_came_before_a_server_closed_counts(ends: Ends, come: int) -> None:
    connection, far = ends
    body = random_bytes(3 * LEAST)

    def serve() -> None:
        far.sendall(_part(body) + body[:come])
        far.shutdown(socket.SHUT_WR)

    with _serving(serve):
        memory = bytearray(len(body))
        connection.send(REQUEST)
        connection.read_head()
        with pytest.raises(ConnectionResetError):
            connection.read_into(memoryview(memory))
    assert connection.received == come
    assert memory[:come] == body[:come]


def test_a_reader_of_a_large_body_can_be_stopped(ends: Ends) -> None:
    connection, far = ends
    body = random_bytes(3 * LEAST)

    def serve() -> None:
        far.sendall(_part(body) + body[:1000])
        deadline = time.monotonic() + PROGRAM_S
        while _wakes_for(connection) == 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        connection.abort()

    with _serving(serve):
        connection.send(REQUEST)
        connection.read_head()
        with pytest.raises(ConnectionResetError):
            connection.read_into(memoryview(bytearray(len(body))))
