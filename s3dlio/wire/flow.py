"""A flow: one thread, several connections, ranges one after the other, each into memory of its own.

Floor 2. What :mod:`s3dlio.wire.sweep` is for whole objects in memory of the library's, this is for any range
in any memory: requests go out on a window of connections before the first answer is read, so that a few
threads keep a late server busy (measured, 20 ms to the first byte and 128 requests under way: 8 threads
cost 60 us of CPU a read where 128 threads cost 200). It decides nothing: an answer that is not the usual one
is left to :mod:`s3dlio.wire.transport`. Must not know retry, errors or what is being read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from s3dlio.cancel import CancellationToken
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import Head, ProtocolError

#: Every so many reads the time to the first byte is taken.
_SAMPLE_EVERY = 16
#: An answer that was waited for less than this had come before it was looked at: it tells no latency.
_HAD_COME_S = 50e-6


class _Sent(NamedTuple):
    """A request under way; without a connection, one that could not be sent."""

    client: Client
    connection: Connection | None
    start: int
    limit: int
    at: float


class Flow:
    """A window of requests. Not thread-safe: one thread, one flow.

    Args:
        token: Breaks a blocked read.
    """

    __slots__ = ("_count", "_free", "_sent", "_token")

    def __init__(self, token: CancellationToken) -> None:
        self._token = token
        self._sent: deque[_Sent] = deque()
        self._free: dict[Client, list[Connection]] = {}
        self._count = 0

    def send(self, client: Client, request: bytes, start: int, limit: int) -> None:
        """Send a request for ``limit`` bytes from ``start`` on.

        Args:
            client: Where connections come from and go back to.
            request: The whole head of a GET with a ``Range``.
            start: First byte asked for.
            limit: Bytes asked for.
        """
        self._count += 1
        connection = None
        try:
            free = self._free.get(client)
            connection = free.pop() if free else client.take(self._token)[0]
            connection.ask(request)
        except OSError:  # receive() reports it as unusual, and whoever reads it anew finds out why
            if connection is not None:
                client.drop(connection, self._token)
                connection = None
        at = 0.0 if self._count % _SAMPLE_EVERY else time.perf_counter()
        self._sent.append(_Sent(client, connection, start, limit, at))

    def receive(self, place: Callable[[int], memoryview]) -> tuple[int, str] | None:
        """Read the answer to the oldest request into memory.

        Args:
            place: Called with the object's size, returns memory for what comes. May be called again
                by whoever reads the range after this has given up.

        Returns:
            Size and entity tag (empty when all of the object has been read), or ``None`` when the
            answer was not the usual one or did not arrive whole.
        """
        client, connection, start, limit, at = self._sent.popleft()
        if connection is None:
            return None
        try:
            part = connection.answer_part(start, limit) if not at else self._timed(client, connection, start, limit, at)
            if part is not None and connection.fill(place(part[0]), part[1]):
                size, length = part
                client.usual = whole = start + length >= size
                tag = "" if whole else Head(connection.raw_head()).etag
                if connection.closing:
                    client.drop(connection, self._token)
                else:
                    self._free.setdefault(client, []).append(connection)
                return size, tag
        except (OSError, ProtocolError):
            pass  # the transport will meet the same, and knows what to call it
        except BaseException:
            client.drop(connection, self._token)
            raise
        client.drop(connection, self._token)
        return None

    @staticmethod
    def _timed(client: Client, connection: Connection, start: int, limit: int, at: float) -> tuple[int, int] | None:
        looked = time.perf_counter()
        part = connection.answer_part(start, limit)
        came = time.perf_counter()
        if came - looked > _HAD_COME_S:
            client.note_latency(came - at)
        return part

    def __enter__(self) -> Self:
        """Begin; connections are taken as requests are sent."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is clean; what still has an answer to come is closed."""
        while self._sent:
            sent = self._sent.popleft()
            if sent.connection is not None:
                sent.client.drop(sent.connection, self._token)
        for client, connections in self._free.items():
            for connection in connections:
                client.keep(connection, self._token)
        self._free.clear()
