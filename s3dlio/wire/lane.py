"""The fast lane: one reader, one connection, one small range after the other.

Floor 2. Knows the one answer that nearly always comes (206, with a length, kept alive) and reads it with
as little Python as there can be: at 128 KiB an object, the interpreter and not the kernel is what a
batch waits for (measured: 40 us a read through ``transport``, 13 us here). It decides nothing. Whatever
is not that answer makes it step aside, and the read is done again from the start by ``transport``, which
knows what to do. Must not know retry, errors or what is being read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from s3dlio.cancel import CancellationToken
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import Head, ProtocolError

#: Every so many reads the time to the first byte is taken.
_SAMPLE_EVERY = 8
#: After so many unusual answers in a row the lane is closed: each of them has cost a request for nothing.
_STRIKES = 2


class Lane:
    """A connection held by one reader for as long as it has work. Not thread-safe: one thread, one lane.

    Args:
        client: Where the connection comes from and goes back to.
        token: Breaks a blocked read.
    """

    __slots__ = ("_client", "_connection", "_count", "_strikes", "_token")

    def __init__(self, client: Client, token: CancellationToken) -> None:
        self._client = client
        self._token = token
        self._connection: Connection | None = None
        self._count = 0
        self._strikes = 0  # unusual answers in a row

    def read(
        self, request: bytes, start: int, limit: int, place: Callable[[int], memoryview]
    ) -> tuple[int, str] | None:
        """Send a request for ``limit`` bytes from ``start`` on and read the answer into memory.

        Args:
            request: The whole head of a GET with a ``Range``.
            start: First byte asked for.
            limit: Bytes asked for.
            place: Called with the object's size, returns memory for what comes. May be called again
                by whoever reads the range after this lane has stepped aside.

        Returns:
            Size and entity tag (empty when all of the object has been read), or ``None`` when the
            answer was not the usual one or did not arrive whole.
        """
        if self._strikes > _STRIKES:
            return None
        try:
            connection = self._connection or self._take()
            part = self._exchange(connection, request, start, limit)
            if part is not None:
                size, length = part
                if connection.fill(place(size), length):
                    self._strikes = 0
                    self._client.usual = whole = start + length >= size
                    tag = "" if whole else Head(connection.raw_head()).etag
                    if connection.closing:
                        self._drop()
                    return size, tag
            self._strikes += 1
        except (OSError, ProtocolError):
            pass  # the transport will meet the same, and knows what to call it
        except BaseException:
            self._drop()
            raise
        self._drop()
        return None

    def _exchange(self, connection: Connection, request: bytes, start: int, limit: int) -> tuple[int, int] | None:
        self._count += 1
        if self._count % _SAMPLE_EVERY:
            return connection.exchange_part(request, start, limit)
        sent_at = time.perf_counter()
        part = connection.exchange_part(request, start, limit)
        self._client.note_latency(time.perf_counter() - sent_at)
        return part

    @property
    def is_closed(self) -> bool:
        """Whether it sends no requests any more."""
        return self._strikes > _STRIKES

    @property
    def client(self) -> Client:
        """Where the connection comes from."""
        return self._client

    def _take(self) -> Connection:
        self._connection, _reused = self._client.take(self._token)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.drop(connection, self._token)

    def __enter__(self) -> Self:
        """Begin; the connection is taken with the first read."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the connection back: after every read that did not drop it, it is clean."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.keep(connection, self._token)
