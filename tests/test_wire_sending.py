"""Room card: does a request leave whole, in order, with as few calls as can be?

No server here: connections are ends of socket pairs, whose other end reads as it likes.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.wire.channel import Timeouts
from s3dlio.wire.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"PUT /bucket/key HTTP/1.1\r\nhost: x\r\n\r\n"


def _received(send: Callable[[Connection], None]) -> bytes:
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    came: list[bytes] = []

    def read() -> None:
        while data := far.recv(10_000):
            came.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with near, far:
        connection = Connection(near, Timeouts(60.0, 60.0, 60.0))
        connection.set_timeouts()
        try:
            send(connection)
        finally:
            near.shutdown(socket.SHUT_WR)
            reader.join()
    return b"".join(came)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=40) | st.integers(1, 90_000).map(bytes), max_size=200))
def test_head_and_pieces_arrive_in_order(pieces: list[bytes]) -> None:
    views = [memoryview(piece) for piece in pieces]
    assert _received(lambda connection: connection.send(HEAD, views)) == HEAD + b"".join(pieces)


def test_a_head_travels_with_its_body() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near, Timeouts(60.0, 60.0, 60.0))
        connection.set_timeouts()
        connection.send(HEAD, [memoryview(b"spam"), memoryview(b"eggs")])
        assert far.recv(1000) == HEAD + b"spameggs"  # a second call's bytes would come by a second receive


@pytest.mark.parametrize("body", [(), (memoryview(bytes(1 << 22)),)])
def test_a_server_that_takes_nothing_is_a_timeout(body: tuple[memoryview, ...]) -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(near, Timeouts(60.0, 0.05, 60.0))
        connection.set_timeouts()
        with pytest.raises(TimeoutError, match=r"took no data for 0\.05 s"):
            connection.send(HEAD if body else bytes(1 << 22), body)


def test_a_connection_that_was_closed_meanwhile_is_told() -> None:
    near, far = socket.socketpair()
    with near:
        far.close()
        connection = Connection(near, Timeouts(60.0, 60.0, 60.0))
        connection.set_timeouts()
        with pytest.raises(ConnectionError):
            connection.send(HEAD, [memoryview(b"spam")])
