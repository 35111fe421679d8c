"""A flow: one thread, many connections, ranges as their answers come, each into memory of its own.

Floor 2. What :mod:`s3dlio.wire.sweep` is for whole objects in memory of the library's, this is for any range
in any memory: requests go out on a window of connections, and whichever answer has come is read next, so that
one thread keeps a late server busy and no late answer keeps others waiting (measured, 20 ms to the first byte,
records of 100 KiB: 9,000 a second by one thread, 4,500 by eight, which fight for the interpreter). It decides
nothing: an answer that is not the usual one is left to :mod:`s3dlio.wire.transport`. Must not know retry or what is
being read.

Requests are sent, heads parsed and bodies copied some at a time, each step for all of them before the next: Python
that has just run runs three times as fast as between two copies of 100 KiB.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.errors import S3dlioError
from s3dlio.memory import MIB
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import Head, ProtocolError

#: An answer that was waited for less than this had come before it was looked for: it tells no latency.
_HAD_COME_S = 50e-6
#: Answers that are dealt with together, at most, and bytes that are asked for by them.
_AT_ONCE = 64
_BYTES_AT_ONCE = 8 * MIB
#: Size and entity tag of an object (empty when that is not needed); or the error that its owner raised; or
#: ``None`` when the answer was not the usual one or did not arrive whole.
Outcome = tuple[int, str] | S3dlioError | None


class Owner(Protocol):
    """Who asked for a range."""

    def place(self, size: int) -> memoryview:
        """Return memory for what comes, of an object of this size.

        May be called again by whoever reads the range after the flow has given up.
        """


T = TypeVar("T", bound=Owner)


class Request(NamedTuple, Generic[T]):
    """A request to be sent.

    Attributes:
        owner: Given back with the outcome.
        client: Where connections come from and go back to.
        head: The whole head of a GET with a ``Range``.
        start: First byte asked for.
        limit: Bytes asked for.
        tagged: Whether the entity tag will be needed, for what lies behind them.
    """

    owner: T
    client: Client
    head: bytes
    start: int
    limit: int
    tagged: bool = True


class _Sent(NamedTuple, Generic[T]):
    """A request under way, and when it was sent, in seconds of ``time.perf_counter``."""

    request: Request[T]
    connection: Connection
    at: float


class Flow(Generic[T]):
    """A window of requests. Not thread-safe: one thread, one flow.

    Args:
        token: Breaks a blocked read.
    """

    __slots__ = ("_came", "_failed", "_free", "_selector", "_token", "_under_way", "_waiting")

    def __init__(self, token: CancellationToken) -> None:
        self._token = token
        self._selector = selectors.DefaultSelector()
        self._waiting: deque[Request[T]] = deque()  # for a connection
        self._under_way: dict[Connection, _Sent[T]] = {}  # the oldest first
        self._came: deque[_Sent[T]] = deque()  # of these, whose answers have begun to come
        self._failed: list[T] = []  # no answer will come
        self._free: dict[Client, list[Connection]] = {}

    @property
    def pending(self) -> int:
        """How many outcomes are still to be received."""
        return len(self._waiting) + len(self._under_way) + len(self._failed)

    @property
    def waiting(self) -> int:
        """How many requests wait for connections to be ready: somebody else should make some."""
        return len(self._waiting)

    def send(self, requests: Iterable[Request[T]]) -> None:
        """Send requests, as many as there are connections ready, the others as these become so."""
        self._waiting.extend(requests)
        self._send_waiting()

    def _send_waiting(self) -> None:
        now = time.perf_counter()
        while self._waiting:
            connection, request = None, self._waiting[0]
            try:
                connection = self._connection(request.client)
                if connection is None:
                    return
                self._put_on(connection, request)
            except OSError:  # whoever reads it anew finds out why
                if connection is not None:
                    self._drop(request.client, connection)
                self._failed.append(request.owner)
            else:
                self._under_way[connection] = _Sent(request, connection, now)
            self._waiting.popleft()

    def _put_on(self, connection: Connection, request: Request[T]) -> None:
        connection.ask(request.head)

    def _connection(self, client: Client) -> Connection | None:
        """Return a connection that is ready; one is made only where nothing is under way."""
        free = self._free.setdefault(client, [])
        if free:
            return free.pop()
        connection = client.take(self._token)[0] if not self._under_way else client.take_idle(self._token)
        if connection is not None:
            self._selector.register(connection, selectors.EVENT_READ, connection)
        return connection

    def receive(self) -> list[tuple[T, Outcome]]:
        """Wait until answers come, or will not come any more, and read some of them into memory."""
        if self._waiting:
            self._send_waiting()
        outcomes: list[tuple[T, Outcome]] = [(owner, None) for owner in self._failed]
        self._failed.clear()
        if not outcomes and not self._came:
            outcomes += self._wait()
        some: list[_Sent[T]] = []
        left = _BYTES_AT_ONCE
        while self._came and left > 0 and len(some) < _AT_ONCE:
            some.append(self._came.popleft())
            left -= some[-1].request.limit
        # Until all are dealt with they are under way: what is under way at the end is closed.
        heads = [self._head(sent) for sent in some]
        places = [self._place(sent, part) for sent, part in zip(some, heads, strict=True)]
        for sent, part, place in zip(some, heads, places, strict=True):
            outcome = self._body(sent, part, place)
            del self._under_way[sent.connection]
            outcomes.append((sent.request.owner, outcome))
        return outcomes

    @staticmethod
    def _head(sent: _Sent[T]) -> tuple[int, int] | None:
        try:
            return sent.connection.answer_part(sent.request.start, sent.request.limit)
        except (OSError, ProtocolError):
            return None  # the transport will meet the same, and knows what to call it

    @staticmethod
    def _place(sent: _Sent[T], part: tuple[int, int] | None) -> memoryview | S3dlioError | None:
        try:
            return None if part is None else sent.request.owner.place(part[0])
        except S3dlioError as error:
            return error
        except OSError:  # memory for the size that a broken answer tells
            return None

    def _body(self, sent: _Sent[T], part: tuple[int, int] | None, place: memoryview | S3dlioError | None) -> Outcome:
        request, connection, _ = sent
        client = request.client
        outcome: Outcome = place if isinstance(place, S3dlioError) else None
        try:
            if part is not None and isinstance(place, memoryview) and connection.fill(place, part[1]):
                size, length = part
                client.usual = whole = request.start + length >= size
                outcome = size, Head(connection.raw_head()).etag if request.tagged and not whole else ""
        except (OSError, ProtocolError):
            pass  # as above
        if isinstance(outcome, tuple) and not connection.closing:
            self._free[client].append(connection)
        else:
            self._drop(client, connection)
        return outcome

    def _wait(self) -> list[tuple[T, Outcome]]:
        """Wait for answers; return what is given up since none has come for too long."""
        while self._under_way:
            oldest = next(iter(self._under_way.values()))
            client = oldest.request.client
            began = time.perf_counter()
            left_s = oldest.at + min(client.timeouts.read_s, client.timeouts.exchange_s) - began
            for key, _ in self._selector.select(max(0.0, left_s)):
                sent = self._under_way.get(key.data)
                if sent is None:
                    self._forget(key.data)
                else:
                    self._came.append(sent)
            now = time.perf_counter()
            if self._came and now - began > _HAD_COME_S:
                client.note_latency(now - self._came[0].at)
            if left_s <= 0 and oldest not in self._came:
                del self._under_way[oldest.connection]
                self._drop(client, oldest.connection)
                return [(oldest.request.owner, None)]
            if self._came:
                break
        return []

    def _forget(self, connection: Connection) -> None:
        """Drop a connection that was free: the server has closed it, or says what nobody has asked."""
        for client, free in self._free.items():
            if connection in free:
                free.remove(connection)
                self._drop(client, connection)

    def _drop(self, client: Client, connection: Connection) -> None:
        self._selector.unregister(connection)
        client.drop(connection, self._token)

    def __enter__(self) -> Self:
        """Begin; connections are taken as requests are sent."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is clean; what still has an answer to come is closed."""
        self._selector.close()
        for connection, sent in self._under_way.items():
            sent.request.client.drop(connection, self._token)
        self._under_way.clear()
        self._came.clear()
        for client, connections in self._free.items():
            for connection in connections:
                client.keep(connection, self._token)
        self._free.clear()
