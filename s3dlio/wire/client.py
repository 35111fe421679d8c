"""The connections to one origin: made, kept while idle, handed out, dropped; and how busy it is.

Floor 2. Knows DNS, TLS and proxies; must not know what is asked over a connection. Connections belong
to the process that made them: a forked child starts with none.
"""

from __future__ import annotations

import base64
import socket
import time
import urllib.parse
from collections import deque
from collections.abc import Sequence
from typing import Any

from s3dlio.cancel import CancellationToken
from s3dlio.errors import OptionError
from s3dlio.options import may_have_proxy
from s3dlio.pace import Pace
from s3dlio.perprocess import PerProcess
from s3dlio.wire.channel import Habits, Origin, Timeouts
from s3dlio.wire.connection import Connection


class _Idle:
    """What one process has: idle connections, the last used on top, and what it knows of the origin's pace."""

    def __init__(self) -> None:
        self.connections: deque[Connection] = deque()
        self.pace = Pace()
        self.closed = False

    def close(self) -> None:
        self.closed = True
        while self.connections:
            self.connections.pop().close()

    def __del__(self) -> None:
        """Close what is left when the client is let go."""
        self.close()


class Client:
    """Sends requests to one origin and gives out connections on which the answer has begun.

    Thread-safe; works in forked children.

    Args:
        origin: The server.
        timeouts: For every connection.
        max_idle: Idle connections kept; more are closed.
        ca_bundle: File of certificate authorities instead of the system's.
    """

    def __init__(self, origin: Origin, timeouts: Timeouts, *, max_idle: int = 64, ca_bundle: str | None = None) -> None:
        self.origin = origin
        #: The server, for people: in the operation log.
        self.label = f"{origin.scheme}://{origin.authority}"
        self.timeouts = timeouts
        self._max_idle = max_idle
        self.ca_bundle = ca_bundle
        self._habits = Habits()
        self._idle = PerProcess(_Idle, _Idle.close)
        #: The last whole object was small and came plainly: a sweep is worth trying.
        self.usual = True
        #: There has been a connection: where nobody listens any more, somebody soon will again.
        self.has_connected = False

    def open(
        self, request: bytes, token: CancellationToken, *, body: Sequence[memoryview] = (), method: str = "GET"
    ) -> Connection:
        """Send a request and receive the head of its answer (``connection.head``).

        A connection that the server closed while it was idle is replaced without counting as a
        failure: nothing of an answer had come, and all our requests may be repeated. The caller reads
        the body and hands the connection to :meth:`done`.

        Raises:
            OSError: No connection, or it broke, or it timed out.
            ProtocolError: The answer is not HTTP.
            CancelledError: ``token`` was cancelled before the request was sent.
        """
        while True:
            connection, reused = self.take(token)
            try:
                sent_at = time.perf_counter()
                connection.send(request, body)
                connection.read_head(method)
                self.note_latency(time.perf_counter() - sent_at)
            except BaseException as error:
                self.drop(connection, token)
                closed_while_idle = not connection.answered and _is_end(error)
                if not (reused and closed_while_idle) or token.is_cancelled:
                    raise
            else:
                return connection

    def done(self, connection: Connection, token: CancellationToken) -> None:
        """Take back a connection whose answer was dealt with; it is kept if it can be used again."""
        if connection.reusable:
            self.keep(connection, token)
        else:
            self.drop(connection, token)

    def keep(self, connection: Connection, token: CancellationToken) -> None:
        """Take back a connection that is clean, for the next exchange."""
        token.release(connection)
        idle = self._idle.get()
        if len(idle.connections) < self._max_idle and not token.is_cancelled and not idle.closed:
            idle.connections.append(connection)
        else:
            connection.close()

    def idle_count(self) -> int:
        """Return how many connections are ready to be used."""
        return len(self._idle.get().connections)

    def note_latency(self, seconds: float) -> None:
        """Remember a time from request to first byte."""
        self._idle.get().pace.note_latency(seconds)

    def note_busy(self) -> None:
        """Note that the server has said it is busy: all readers of this origin and process hear of it."""
        self._idle.get().pace.note_busy(time.monotonic())

    def drop(self, connection: Connection, token: CancellationToken) -> None:
        """Close a connection that is in an unknown state."""
        token.release(connection)
        busy = connection.is_busy_signal  # lanes and sweeps do not look why an answer is not the usual one
        connection.close()
        if busy:
            self.note_busy()

    @property
    def pace(self) -> Pace:
        """What this process knows of how many requests the origin should have in flight."""
        return self._idle.get().pace

    def latency_s(self) -> float | None:
        """Return the shortest recent time from request to first byte, in seconds, or ``None``."""
        return self._idle.get().pace.latency_s()

    def close(self) -> None:
        """Close this process's idle connections."""
        idle = self._idle.peek()
        if idle is not None:
            idle.close()

    def take(self, token: CancellationToken) -> tuple[Connection, bool]:
        """Return a connection, and whether it has been used before. ``token`` breaks it, also while it is made.

        Raises:
            OSError: There is none and none can be made.
            CancelledError: ``token`` was cancelled.
        """
        connection = self.take_idle(token)
        return (self._connect(token), False) if connection is None else (connection, True)

    def take_idle(self, token: CancellationToken) -> Connection | None:
        """Return a connection that has been used before, if there is one; else as :meth:`take`."""
        idle = self._idle.get()
        idle.closed = False  # a client that was closed may be used again
        while True:
            try:
                connection = idle.connections.pop()
            except IndexError:
                return None
            if connection.is_stale():
                connection.close()
                continue
            self._watch(connection, token)
            return connection

    def make_ready(self, token: CancellationToken) -> None:
        """Make a connection and keep it for whoever needs one next; errors as of :meth:`take`."""
        self.keep(self._connect(token), token)

    def _watch(self, connection: Connection, token: CancellationToken) -> None:
        try:
            token.watch(connection)
        except BaseException:
            connection.close()
            raise

    def _connect(self, token: CancellationToken) -> Connection:
        given = self.origin.proxy
        proxy = urllib.parse.urlsplit(given if "://" in given or not given else f"http://{given}")  # as curl reads it
        if self.origin.proxy and (proxy.scheme != "http" or not proxy.hostname):
            msg = f"proxy {proxy.scheme}://{self.origin.proxy_place}: only http:// proxies are spoken to"
            raise OptionError(msg)
        if not proxy.hostname:
            connection = self._reach(self.origin.host, self.origin.port, token)
        else:
            try:
                port = proxy.port or 80
            except ValueError as error:
                msg = f"proxy {self.origin.proxy_place}: must be http://host[:port]"
                raise OptionError(msg) from error
            connection = self._reach(proxy.hostname, port, token)
        try:
            if proxy.hostname:
                self._tunnel(connection, proxy)
            if self.origin.scheme == "https":
                from s3dlio.wire.secured import tls_context  # noqa: PLC0415 - 20 ms that only https:// needs

                connection.secure(tls_context(self.ca_bundle), self.origin.host)
        except BaseException:
            self.drop(connection, token)
            raise
        self.has_connected = True
        return connection

    def _reach(self, host: str, port: int, token: CancellationToken) -> Connection:
        """Connect to the first of a host's addresses that answers."""
        trouble: OSError = socket.gaierror(socket.EAI_NONAME, f"{host!r} has no address")
        for family, kind, protocol, _, address in _addresses(host, port):
            connection = Connection(socket.socket(family, kind, protocol), self.timeouts, self._habits)
            self._watch(connection, token)
            try:
                connection.connect(address)
            except BaseException as error:
                self.drop(connection, token)
                if not isinstance(error, OSError) or token.is_cancelled:
                    raise
                trouble = error
            else:
                return connection
        raise trouble

    def _tunnel(self, connection: Connection, proxy: urllib.parse.SplitResult) -> None:
        """Have the proxy connect us through: for http:// too, so that nothing above has to know of it."""
        place = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        place = f"{place}:{self.origin.port}"
        request = f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n"
        if proxy.username:
            pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
            request += f"proxy-authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
        connection.send(f"{request}\r\n".encode("latin-1"))
        status = connection.read_head("CONNECT").status
        if status >= 300:
            msg = f"the proxy {proxy.hostname} answers HTTP {status}"
            raise ConnectionRefusedError(msg)

    def __repr__(self) -> str:
        """Show where it connects."""
        return f"Client({self.origin.scheme}://{self.origin.authority})"


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    try:
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:  # a label that is empty or too long, as of a bucket that cannot exist
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name: {error}") from error


def origin_of(url: str) -> Origin:
    """Return the origin that a URL names, and the proxy that the environment sets for it.

    Raises:
        OptionError: The URL has no host, or a scheme other than http and https.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        msg = f"not an http(s) URL with a host: {parts.scheme}://{parts.hostname or ''}"
        raise OptionError(msg)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = _proxy(parts.scheme, f"{parts.hostname}:{port}") if may_have_proxy() else ""
    return Origin(parts.scheme, parts.hostname, port, proxy)


def _proxy(scheme: str, place: str) -> str:
    import urllib.request  # noqa: PLC0415 - 30 ms that few need

    proxy = urllib.request.getproxies().get(scheme, "")
    return "" if proxy and urllib.request.proxy_bypass(place) else proxy


def _is_end(error: BaseException) -> bool:
    """Tell whether an error may mean that the server has closed an idle connection; a send over TLS has ways of its own."""
    if isinstance(error, ConnectionError) or not isinstance(error, OSError):
        return isinstance(error, ConnectionError)
    from s3dlio.wire.secured import is_end  # noqa: PLC0415 - as above

    return is_end(error)
