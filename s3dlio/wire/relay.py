"""A relay: one thread, some connections that take turns, ranges of one object in the order in which they are wanted.

Floor 2. For whoever reads an object from its beginning to its end near a server: while one range is looked at, the
kernel takes in the next ones, so a receive finds its bytes and sleeps for none. It decides nothing: an answer that is
not the usual one is left to :mod:`s3dlio.wire.transport`. Must not know retry or what is being read.

Measured on loopback, client and server on two cores, 1 GiB of TFRecords that are verified (by turns; seconds, and
seconds of the client's CPU): twelve threads with pieces of 8 MiB 0.64 and 0.66, this 0.47 and 0.43. Nobody wakes
anybody, and bytes are in the processor's cache when they are looked at.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from s3dlio.cancel import CancellationToken
from s3dlio.ranges import Span
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import Head, ProtocolError
from s3dlio.wire.places import Version

#: Ranges that are asked for together, and of which the heads are parsed together: Python that has just run runs three
#: times as fast as between two copies of a body.
_GROUP = 5
#: Groups under way: with ranges of 1 MiB enough to keep a consumer in work while the server hesitates. (Two groups are a
#: tenth slower and less even, since a group's last head is waited for.)
_GROUPS = 3


class Answer(NamedTuple):
    """A range under way; without a connection it could not be asked for, or its answer is not the usual one."""

    connection: Connection | None
    start: int
    limit: int


class Relay:
    """Ranges of one version of an object, received in the order in which they are asked for.

    Not thread-safe: one thread, one relay. A forked child may let go of its parent's, and nothing else.

    Args:
        client: Where connections come from and go back to.
        request: A range in, the whole head of a GET out, which insists on the version where it can.
        version: What all ranges must be of.
        most: Ranges under way at once, at most.
        token: Breaks a blocked read.
    """

    __slots__ = (
        "_asked",
        "_begun",
        "_client",
        "_free",
        "_home",
        "_most",
        "_request",
        "_tag_line",
        "_token",
        "_version",
    )

    def __init__(
        self, client: Client, request: Callable[[Span], bytes], version: Version, most: int, token: CancellationToken
    ) -> None:
        self._client = client
        self._request = request
        self._most = min(most, _GROUPS * _GROUP)
        self._version = version
        self._token = token
        self._home = os.getpid()
        self._free: list[Connection] = []
        self._asked: deque[Answer] = deque()
        self._begun: deque[Answer] = deque()  # whose heads have been received; they come before all that are asked for
        self._tag_line = b"\0"  # the line that tells the entity tag, as the server writes it

    @property
    def wanted(self) -> int:
        """How many more ranges should be asked for before the next is taken."""
        if self._begun:
            return 0
        return max(0, max(1, min(self._most, self._client.pace.cap)) - len(self._asked))

    def ask(self, spans: Sequence[Span]) -> None:
        """Ask for ranges. If there is no way to, :meth:`take` will tell."""
        requests = [self._request(span) for span in spans]
        for span, request in zip(spans, requests, strict=True):
            self._asked.append(Answer(self._send(request), span.start, span.length))

    def _send(self, request: bytes) -> Connection | None:
        connection = None
        try:
            connection = self._free.pop() if self._free else self._client.take(self._token)[0]
            connection.ask(request)
        except OSError:
            self._drop(connection)
            return None
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def take(self, target: memoryview) -> bool:
        """Receive the range whose turn it is, into memory of its length.

        Returns:
            ``False`` when the answer was not the usual one, of another version, or did not arrive whole: read it otherwise.
        """
        if not self._begun:
            for _ in range(min(_GROUP, len(self._asked))):
                self._begun.append(self._begin(self._asked.popleft()))
        return self._finish(self._begun.popleft(), target)

    def _begin(self, answer: Answer) -> Answer:
        """Receive the head of an answer."""
        connection, start, limit = answer
        try:
            if connection is None or (
                connection.answer_part(start, limit) == (self._version.size, limit) and self._is_same(connection)
            ):
                return answer
        except (OSError, ProtocolError):
            pass  # the transport will meet the same, and knows what to call it
        except BaseException:
            self._drop(connection)
            raise
        self._drop(connection)
        return Answer(None, start, limit)

    def _is_same(self, connection: Connection) -> bool:
        """Tell whether the answer that begins is of the right version."""
        head = connection.raw_head()
        if self._tag_line in head:
            return True
        tag = Head(head).etag
        if tag and self._version.etag and tag != self._version.etag:
            return False
        found = next((line for line in head.splitlines(keepends=True) if line[:5].lower() == b"etag:"), None)
        self._tag_line = self._tag_line if found is None else b"\n" + found
        return True

    def _finish(self, answer: Answer, target: memoryview) -> bool:
        """Receive the body of an answer."""
        connection = answer.connection
        if connection is None:
            return False
        is_good = False
        try:
            is_good = connection.fill(target, answer.limit)
        except OSError:
            pass  # as above
        finally:
            if is_good and not connection.closing:
                self._free.append(connection)
            else:
                self._drop(connection)
        return is_good

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            self._client.drop(connection, self._token)

    def __enter__(self) -> Self:
        """Begin; connections are taken as ranges are asked for."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is clean; what still has an answer to come, or was a parent process's, is closed."""
        for answers in (self._begun, self._asked):
            for answer in answers:
                self._drop(answer.connection)
            answers.clear()
        for connection in self._free:
            if os.getpid() == self._home:
                self._client.keep(connection, self._token)
            else:
                self._drop(connection)
        self._free.clear()
