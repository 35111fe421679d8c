"""Requests as the operation log sees them: the ways of the wire, with a line for each request.

Floor 2. Knows when a request is sent, answered and over; must not know how the lines look. Used while there is a
log, instead of the plain ways. Of requests that are under way at once the times are those at which this process
looked: a first byte may have waited a little while another body was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from s3dlio import recorder
from s3dlio.cancel import CancellationToken
from s3dlio.memory import POOL, bytes_of
from s3dlio.ranges import Span
from s3dlio.recorder import Gets, Line, now
from s3dlio.uri import Uri
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import ProtocolError
from s3dlio.wire.places import Landed, Place, Version
from s3dlio.wire.relay import Answer, Relay
from s3dlio.wire.sweep import Asked, Sweep

if TYPE_CHECKING:
    from s3dlio.leases import Lease

#: What the log says of an answer that a fast way leaves to the transport, which asks again.
UNUSUAL = "not the usual answer: asked for again"
GIVEN_UP = "given up"
#: Lines that a sweep keeps until it tells them.
_TOLD_TOGETHER = 128


class Watch:
    """One GET on its way.

    Args:
        uri: The object.
        client: Where to.
    """

    __slots__ = ("_count", "_endpoint", "_first", "_start", "_uri")

    def __init__(self, uri: Uri, client: Client) -> None:
        self._uri = uri
        self._endpoint = client.label
        self._first = self._count = 0
        self._start = now()

    def placing(self, place: Place) -> Place:
        """Return what gives the memory, which is asked for when the first byte has come."""

        def placed(size: int) -> memoryview:
            self._first = now()
            target = place(size)
            self._count = len(target)
            return target

        return placed

    def begun(self, count: int) -> None:
        """Note the first byte of an answer of ``count`` bytes."""
        self._first, self._count = now(), count

    def over(self, *, good: bool, error: str = UNUSUAL) -> None:
        """Write the line."""
        log = recorder.active
        if log is not None:
            count, told = (self._count, "") if good else (0, error)
            log.add(Line("GET", self._endpoint, self._uri, self._start, self._first, now(), count, told))


class WatchedSweep(Sweep):
    """A sweep with a line for each object.

    Args:
        client: See :class:`s3dlio.wire.sweep.Sweep`.
        token: See there.
        window: See there.
        uris: The objects, by number, all of one container; there before they are asked for.
    """

    _clock = staticmethod(now)

    def __init__(self, client: Client, token: CancellationToken, window: int, uris: Mapping[int, Uri]) -> None:
        super().__init__(client, token, window)
        self._uris = uris
        self._gets = Gets(client.label, uris)

    def run(self, asked: Iterator[Asked], limit: int, landed: Landed) -> list[int]:
        """See :meth:`s3dlio.wire.sweep.Sweep.run`."""
        try:
            return super().run(asked, limit, landed)
        finally:
            self._tell()

    def _receive(self, number: int, connection: Connection, start: int, limit: int) -> Lease | None:
        first = 0
        try:
            size = connection.answer_whole(limit)
            first = now()
            if size >= 0:
                lease = POOL.take(size)
                if connection.fill(bytes_of(lease), size):
                    if self._gets.note(number, start, first, size) >= _TOLD_TOGETHER:
                        self._tell()
                    return lease
        except (OSError, ProtocolError):
            pass  # as in the plain one
        except BaseException:
            self._client.drop(connection, self._token)
            raise
        self._note_failure(number, start, first, UNUSUAL)
        self._client.drop(connection, self._token)
        return None

    def _give_up(self, number: int, connection: Connection, start: int) -> None:
        super()._give_up(number, connection, start)
        self._note_failure(number, start, 0, GIVEN_UP)

    def _note_failure(self, number: int, start: int, first: int, error: str) -> None:
        log = recorder.active
        if log is not None:
            log.add(Line("GET", self._client.label, self._uris[number], start, first, now(), 0, error))

    def _tell(self) -> None:
        """Hand on what is over: together, since the log writes many such lines with less work than one by one."""
        gets, self._gets = self._gets, Gets(self._client.label, self._uris)
        log = recorder.active
        if log is not None and gets.noted:
            log.add_gets(gets)


class WatchedRelay(Relay):
    """A relay with a line for each range.

    Args:
        uri: The object.
        client: See :class:`s3dlio.wire.relay.Relay`.
        request: See there.
        version: See there.
        most: See there.
        token: See there.
    """

    __slots__ = ("_uri", "_watches")

    def __init__(
        self,
        uri: Uri,
        client: Client,
        request: Callable[[Span], bytes],
        version: Version,
        most: int,
        token: CancellationToken,
    ) -> None:
        super().__init__(client, request, version, most, token)
        self._uri = uri
        self._watches: dict[int, Watch] = {}  # by the ranges' beginnings

    def ask(self, spans: Sequence[Span]) -> None:
        """See :meth:`s3dlio.wire.relay.Relay.ask`."""
        self._watches |= {span.start: Watch(self._uri, self._client) for span in spans}
        super().ask(spans)

    def _begin(self, answer: Answer) -> Answer:
        begun = super()._begin(answer)
        if begun.connection is not None:
            self._watches[answer.start].begun(answer.limit)
        return begun

    def _finish(self, answer: Answer, target: memoryview) -> bool:
        is_good = False
        try:
            is_good = super()._finish(answer, target)
        finally:
            self._watches.pop(answer.start).over(good=is_good)
        return is_good

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was asked for and not taken is told to the log, too."""
        super().__exit__(kind, error, trace)
        for watch in self._watches.values():
            watch.over(good=False, error=GIVEN_UP)
        self._watches.clear()
