"""Requests with tries: an answer whole, or a range of an object in the caller's memory.

Floor 2. Knows status codes, ranges, entity tags, retry and resume; must not know S3, XML or how a
request is signed. Whatever happens on the way, the caller gets the right bytes or an error that names
URI and operation and keeps its cause: never a short or mixed result.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar

from s3dlio import recorder
from s3dlio.cancel import CancellationToken
from s3dlio.errors import (
    CancelledError,
    ObjectChangedError,
    RangeError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from s3dlio.recorder import SENDING, Line, now, op_name
from s3dlio.retry import RetryPolicy
from s3dlio.uri import Uri
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.head import Head, ProtocolError
from s3dlio.wire.places import Place, Version
from s3dlio.wire.refusals import Fault, Refused, asks_for_fewer, to_error

_log = logging.getLogger("s3dlio")

T = TypeVar("T")

Headers = Mapping[str, str]

_MAX_ERROR_BYTES = 64 * 1024
#: A listing page of 1,000 keys of 1,024 characters, each escaped to its longest, is below 8 MB.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: A name that does not resolve or a port nobody listens on is rarely cured by waiting long, unless there has been a
#: connection before: then the server is being started again, which takes seconds.
_UNREACHABLE_TRIES = 3


class Answer(NamedTuple):
    """A whole response."""

    head: Head
    body: bytes


def _one(_body: bytes) -> int:
    return 1


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One operation on one object, as often as it is tried.

    Attributes:
        operation: The verb, for errors.
        uri: The object, printed in errors.
        sign: Method and headers in, the whole head of the request out; called anew for each try.
        renew: Fetch fresh credentials; called once, after the first refusal.
        explain: Body of an error response in, what it says out.
        moved: Told the refusal of a redirect; returns where ``sign`` now aims at, or ``None``.
        name: What the operation log calls it; empty for what follows from the verb.
        objects: The answer's body in, how many objects it was about out, for the operation log.
    """

    operation: str
    uri: Uri
    sign: Callable[[str, Headers], bytes]
    renew: Callable[[], object]
    explain: Callable[[Head, bytes], Fault]
    moved: Callable[[Refused, CancellationToken], Transport | None]
    name: str = ""
    objects: Callable[[bytes], int] = _one


class Transport:
    """Carries out calls on one origin. Thread-safe.

    Args:
        client: The connections.
        policy: How often and how patiently to try.
    """

    def __init__(self, client: Client, policy: RetryPolicy) -> None:
        self.client = client
        self.policy = policy

    def ask(
        self,
        call: Call,
        method: str,
        headers: Headers,
        token: CancellationToken,
        body: Sequence[memoryview] = (),
    ) -> Answer:
        """Send a request and return its whole answer.

        Raises:
            StoreError: The server refused, or the tries are used up; the exact class says why.
            CancelledError: ``token`` was cancelled.
        """

        def attempt(at: Transport) -> Answer:
            if recorder.active is not None:
                return at.noted(call, method, lambda: at.once(call, method, headers, token, body), body)
            return at.once(call, method, headers, token, body)

        return self.tries(call, token, attempt)

    def read(self, landing: Landing, token: CancellationToken) -> Version:
        """Read the range that ``landing`` describes into its memory.

        Raises:
            ObjectChangedError: The object is no longer the one that the read began with.
            RangeError: The range starts behind the end of the object.
            StoreError: As :meth:`ask`.
            CancelledError: ``token`` was cancelled.
        """
        return self.tries(landing.call, token, lambda at: at.land(landing, token, recorder.active))

    # -- one try ----------------------------------------------------------------------------------

    def once(
        self, call: Call, method: str, headers: Headers, token: CancellationToken, body: Sequence[memoryview]
    ) -> Answer:
        """Send a request and return its answer, if that is a good one."""
        connection = self.client.open(call.sign(method, headers), token, body=body, method=method)
        return self.whole(call, connection, token, (200, 201, 202, 204, 206))

    def noted(self, call: Call, method: str, attempt: Callable[[], Answer], body: Sequence[memoryview]) -> Answer:
        """Make an attempt, and a line of the operation log."""
        start, answer, error = now(), None, ""
        try:
            answer = attempt()
        except BaseException as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            if recorder.active is not None:
                op = call.name or op_name(call.operation, method)
                sent = sum(len(piece) for piece in body) if answer and op in SENDING else 0
                objects = call.objects(answer.body) if answer else 1
                line = Line(op, self.client.label, call.uri, start, 0, now(), sent, error, objects)
                recorder.active.add(line)
        return answer

    def whole(self, call: Call, connection: Connection, token: CancellationToken, good: tuple[int, ...]) -> Answer:
        """Read the rest of an answer, give the connection back, and tell good answers from bad."""
        fine = connection.head.status in good
        try:
            body = connection.read_all(MAX_ANSWER_BYTES if fine else _MAX_ERROR_BYTES, cut=not fine)
        except BaseException:
            self.client.drop(connection, token)
            raise
        self.client.done(connection, token)
        if not fine:
            fault = call.explain(connection.head, body)
            if asks_for_fewer(connection.head, fault):
                self.client.note_busy()
            raise Refused(connection.head, fault)  # under no name: the frame would hold it, and it the frame
        return Answer(connection.head, body)

    def land(self, landing: Landing, token: CancellationToken, log: recorder.Recorder | None = None) -> Version:
        """Try once to bring the rest of a range into its memory."""
        if landing.finished:
            return landing.version()
        if log is not None:
            return self._land_noted(landing, token, log)
        connection = self.client.open(landing.call.sign("GET", landing.headers()), token)
        if connection.head.status not in (200, 206):
            return self._land_nothing(landing, connection, token)
        try:
            landing.receive(connection)
        except BaseException:
            self.client.drop(connection, token)
            raise
        self.client.done(connection, token)
        return landing.version()

    def _land_noted(self, landing: Landing, token: CancellationToken, log: recorder.Recorder) -> Version:
        start, before, error = now(), landing.filled, ""
        landing.first_at = 0
        try:
            return self.land(landing, token)
        except BaseException as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            came = landing.filled - before
            log.add(Line("GET", self.client.label, landing.call.uri, start, landing.first_at, now(), came, error))

    def _land_nothing(self, landing: Landing, connection: Connection, token: CancellationToken) -> Version:
        """Deal with an answer that carries no bytes of the object."""
        try:
            self.whole(landing.call, connection, token, ())
        except Refused as refused:
            if refused.head.status == 416:
                return landing.nothing_there(refused.head)
            if refused.head.status == 412:
                landing.changed("its entity tag is another one now", refused)
            raise
        msg = "unreachable: no status is good here"
        raise AssertionError(msg)

    # -- many tries -------------------------------------------------------------------------------

    def tries(self, call: Call, token: CancellationToken, attempt: Callable[[Transport], T]) -> T:
        """Run ``attempt`` until it succeeds, fails for good, or the policy's tries are used up.

        It is handed the transport to use: this one, or the one that a redirect has led to.
        """
        at = self
        number = 0
        renewed = False
        redirects = 0
        while True:
            token.check()
            number += 1
            try:
                return attempt(at)
            except Refused as refused:
                if refused.may_have_moved and redirects < 5:
                    redirects += 1
                    elsewhere = call.moved(refused, token)
                    if elsewhere is not None:
                        at = elsewhere
                        continue
                if refused.is_denial and not renewed:
                    renewed = True
                    call.renew()
                    continue
                self._pause_or_raise(call, token, number, refused)
            except (StoreError, OSError) as error:
                self._wait_or_raise(call, token, number, error)

    def _pause_or_raise(self, call: Call, token: CancellationToken, number: int, refused: Refused) -> None:
        if not refused.is_passing or number >= self.policy.max_attempts:
            raise to_error(call.operation, call.uri, refused, number) from refused
        _log.debug("%s %s: %s; try %d failed", call.operation, call.uri, refused, number)
        token.sleep(self.policy.pause_s(number, refused.head.field("retry-after")))

    def _wait_or_raise(self, call: Call, token: CancellationToken, number: int, error: StoreError | OSError) -> None:
        if token.is_cancelled and not isinstance(error, CancelledError):
            token.check()
        if isinstance(error, StoreError) and not isinstance(error, ProtocolError):
            error.concern(call.uri, call.operation)  # the search for credentials does not know what they are for
            raise error
        limit = self.policy.max_attempts
        if not self.client.has_connected and _is_unreachable(error):
            limit = min(_UNREACHABLE_TRIES, limit)
        if number >= limit or _is_mistrust(error) or self._speaks_plainly(error):
            raise self._broken(call, number, error) from error
        _log.debug("%s %s: %s; try %d failed", call.operation, call.uri, error, number)
        token.sleep(self.policy.pause_s(number))

    def _broken(self, call: Call, number: int, error: OSError) -> StoreError:
        tried = f" (tried {number} times)" if number > 1 else ""
        server = f"{self.client.origin.scheme}://{self.client.origin.authority}"
        kind: type[StoreError] = StoreUnavailableError
        message = f"{server}: {error}{tried}"
        if _is_mistrust(error):
            kind = StoreError
            why = getattr(error, "verify_message", error)
            message = f"{server}: the certificate cannot be verified ({why}); set ca_bundle"
        elif self._speaks_plainly(error):
            kind = StoreError
            message = f"{server}: the server does not speak TLS on this port: write http://, or name the port that does"
        elif isinstance(error, TimeoutError):
            kind = StoreTimeoutError
        elif _is_unreachable(error):
            proxy = self.client.origin.proxy_place
            by = f" through the proxy {proxy}" if proxy else ""
            message = f"cannot reach {server}{by}: {error}{tried}; check the endpoint and the network"
        return kind(message, uri=str(call.uri), operation=call.operation)

    def _speaks_plainly(self, error: BaseException) -> bool:
        """Tell whether the server has never spoken TLS here, and answers the first words of it with something else."""
        return not self.client.has_connected and _is_plain(error)


@dataclasses.dataclass(slots=True)
class Landing:
    """A range of an object on its way into memory, across as many tries as it takes.

    Attributes:
        call: What is being done, for signing and errors.
        start: First byte wanted.
        limit: At most so many bytes.
        place: Gives the memory once the size of the object is known; called once.
        etag: The entity tag that the object must have; empty when not known yet.
        filled: Bytes that have arrived, over all tries.
        skip: Bytes before the wanted ones in the current answer (a server that ignores ranges).
        first_at: When the current answer began, for the operation log.
    """

    call: Call
    start: int
    limit: int
    place: Place
    etag: str = ""
    size: int = -1
    filled: int = 0
    skip: int = 0
    first_at: int = 0
    target: memoryview = dataclasses.field(default_factory=lambda: memoryview(b""))

    def headers(self) -> dict[str, str]:
        """Return the request's range and its condition: what is still missing, of the same object."""
        first = self.start + self.filled
        last = self.start + (self.limit if self.size < 0 else len(self.target)) - 1
        wanted = {"Range": f"bytes={first}-{last}"}
        # A weak tag never satisfies If-Match; accept() compares it instead.
        if self.etag and not self.etag.startswith("W/"):
            wanted["If-Match"] = self.etag
        return wanted

    @property
    def finished(self) -> bool:
        """Whether all bytes have arrived (a connection can break behind the last one)."""
        return self.size >= 0 and self.filled == len(self.target)

    def version(self) -> Version:
        """Return which content was read."""
        return Version(self.size, self.etag)

    def receive(self, connection: Connection) -> None:
        """Take what a good answer brings."""
        self.first_at = now()
        target = self.accept(connection.head)
        if self.skip:
            connection.skip(self.skip)
        before = connection.received
        try:
            connection.read_into(target)
            connection.read_end()
        finally:
            # Of a broken answer what came is kept, but not if it was cut into chunks: had the chunks'
            # own lengths been wrong, these would not be the bytes at these places.
            if connection.body_left >= 0:
                self.filled += connection.received - before

    def accept(self, head: Head) -> memoryview:
        """Check a good answer against what is known, and return the memory for its bytes."""
        first = self.start + self.filled
        # rclone's server answers 200 to a range, with the right Content-Range: that is a part as well.
        if head.status == 200 and head.content_range is None:
            size = carried = self._size_of_whole(head)
            self.skip = first
        else:
            size, carried = self._size_of_part(head, first)
            self.skip = 0
        self._same_object(head.etag, size)
        # Before the size is believed and memory taken for it: one wrong answer must not bind the next.
        due = min(self.start + self.limit, size) - first
        if carried - self.skip < due:
            msg = f"the answer carries {carried - self.skip} bytes where {due} were due"
            raise ProtocolError(msg)
        if self.size < 0:
            self._begin(head.etag, size)
        return self.target[self.filled :]

    def _size_of_whole(self, head: Head) -> int:
        if head.length is None:
            msg = "the server sends the whole object without telling its size"
            raise ProtocolError(msg)
        if head.length < self.start:
            self._behind_the_end(head.length)
        return head.length

    def _size_of_part(self, head: Head, first: int) -> tuple[int, int]:
        """Return the size of the object and the length of the part."""
        part = head.content_range
        if part is None or part.start != first or part.total is None:
            msg = f"asked for bytes from {first} on, got Content-Range {part}"
            raise ProtocolError(msg)
        length = part.stop - part.start
        if head.length is not None and head.length != length:
            msg = f"Content-Length {head.length} contradicts {part}"
            raise ProtocolError(msg)
        return part.total, length

    def _same_object(self, etag: str, size: int) -> None:
        """Insist on the object that the read has begun with."""
        if self.etag and etag and etag != self.etag:
            self.changed(f"its entity tag was {self.etag} and is {etag}")
        if 0 <= self.size != size:
            self.changed(f"it had {self.size} bytes and has {size}")

    def _begin(self, etag: str, size: int) -> None:
        """Take the memory, now that the size is known."""
        target = self.place(size)
        if len(target) != min(self.limit, size - self.start):
            self.changed(f"it has {size} bytes, which do not fit the {len(target)} expected")
        self.size, self.target, self.etag = size, target, etag or self.etag

    def nothing_there(self, head: Head) -> Version:
        """Deal with 416: fine when the range begins just at the end, as for an empty object."""
        size = head.content_range.total if head.content_range else None
        if self.size >= 0 or (size is not None and size > self.start):
            self.changed("it is shorter than it was")
        if size is None:
            raise Unsized
        if self.start > size:
            self._behind_the_end(size)
        self._begin("", size)
        return self.version()

    def changed(self, how: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error of an object that is not what it was."""
        msg = f"the object changed while it was being read: {how}"
        raise ObjectChangedError(msg, uri=str(self.call.uri), operation=self.call.operation) from cause

    def _behind_the_end(self, size: int) -> NoReturn:
        msg = f"offset {self.start} lies behind the end of the object ({size} bytes)"
        raise RangeError(msg, uri=str(self.call.uri), operation=self.call.operation)


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, (ConnectionRefusedError, socket.gaierror))


def _is_plain(error: BaseException) -> bool:
    from s3dlio.wire.secured import is_plain  # noqa: PLC0415 - as below

    return is_plain(error)


def _is_mistrust(error: BaseException) -> bool:
    from s3dlio.wire.secured import is_mistrust  # noqa: PLC0415 - 20 ms that only https:// and errors need

    return is_mistrust(error)


class Unsized(Exception):  # noqa: N818 - a signal to the store, which then asks for the size
    """The server refused a range without telling how large the object is."""
