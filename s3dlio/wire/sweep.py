"""A sweep: one thread, several connections, small objects one after the other.

Floor 2. Like :mod:`s3dlio.wire.lane`, for whole objects that one answer carries. Requests go out on a
window of connections before the first answer is read, so that the server works while bodies are copied,
and a thread seldom sleeps: measured on two cores, eight connections in one thread cost 30 us of CPU an
object where eight threads with one each cost 45. It decides nothing: an object whose answer is not the
usual one is left to others, and ends the sweep. Must not know retry, errors or what is being read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from s3dlio.cancel import CancellationToken
from s3dlio.memory import POOL, bytes_of
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import ProtocolError
from s3dlio.wire.places import Landed

if TYPE_CHECKING:
    from s3dlio.leases import Lease

#: Number and ready-made request of an object.
Asked = tuple[int, bytes]


class Sweep:
    """Reads small objects through a window of connections. Not thread-safe: one thread, one sweep.

    Args:
        client: Where the connections come from and go back to.
        token: Breaks a blocked read.
        window: Most requests under way.
    """

    #: What is asked for the time at which a request is sent. Nobody wants to know it here.
    _clock: Callable[[], int] = int

    def __init__(self, client: Client, token: CancellationToken, window: int) -> None:
        self._client = client
        self._token = token
        self._window = window
        #: Number of the object, where the answer comes, and when it was asked for.
        self._live: deque[tuple[int, Connection, int]] = deque()
        self._left: list[int] = []

    def run(self, asked: Iterator[Asked], limit: int, landed: Landed) -> list[int]:
        """Read objects until there are no more, or one is unusual.

        Args:
            asked: Requests for the first ``limit`` bytes of objects, taken as they can be sent.
            limit: Larger objects are unusual.
            landed: Called with each object read, in this thread.

        Returns:
            The numbers of objects that were taken from ``asked`` and not read.
        """
        going = True
        # Before the sends: by the end of them the first answer may be waiting, and would look like no latency.
        began = time.perf_counter()
        try:
            while going and len(self._live) < self._window:
                going = self._send(asked, None)
            while self._live:
                number, connection, start = self._live.popleft()
                lease = self._receive(number, connection, start, limit)
                if began:
                    self._client.note_latency(time.perf_counter() - began)
                    began = 0.0
                if lease is None:
                    self._left.append(number)
                    going = self._client.usual = False
                    continue
                landed(number, lease)
                going = going and self._send(asked, connection)
                if not going:
                    self._give_back(connection)
        finally:
            while self._live:
                self._give_up(*self._live.popleft())
        return self._left

    def _send(self, asked: Iterator[Asked], connection: Connection | None) -> bool:
        """Send the next request, on a connection that has just become free if there is one."""
        if self._token.is_cancelled:
            return False
        item = next(asked, None)
        if item is None:
            return False
        number, request = item
        start = self._clock()
        try:
            if connection is not None and connection.closing:
                self._client.drop(connection, self._token)
                connection = None
            if connection is None:
                connection, _reused = self._client.take(self._token)
            self._live.append((number, connection, start))
            connection.ask(request)
        except OSError:
            if not self._live or self._live[-1][0] != number:
                self._left.append(number)  # not even a connection: the transport will say why
                return False
        return True  # a request that could not be sent is found out when its answer does not come

    def _receive(self, _number: int, connection: Connection, _start: int, limit: int) -> Lease | None:
        try:
            size = connection.answer_whole(limit)
            if size >= 0:
                lease = POOL.take(size)
                if connection.fill(bytes_of(lease), size):
                    return lease
        except (OSError, ProtocolError):
            pass  # the transport will meet the same, and knows what to call it
        except BaseException:
            self._client.drop(connection, self._token)
            raise
        self._client.drop(connection, self._token)
        return None

    def _give_up(self, number: int, connection: Connection, _start: int) -> None:
        self._left.append(number)
        self._client.drop(connection, self._token)

    def _give_back(self, connection: Connection) -> None:
        if connection.closing:
            self._client.drop(connection, self._token)
        else:
            self._client.keep(connection, self._token)
