"""A socket to a server: reached, secured, timed out, broken and closed.

Floor 2. Knows sockets and TLS; must not know HTTP.

``recv_into(view, n, MSG_WAITALL)`` on a blocking socket is one system call without the GIL for a whole
body. Python's own socket timeouts would turn it into a poll and a short read per segment, so plain
sockets get the kernel's timeouts (``SO_RCVTIMEO``) instead; TLS sockets, whose reads come by record
anyway, keep Python's.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl

#: Linux alone knows how to acknowledge at once; elsewhere it is left to the kernel.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Origin(NamedTuple):
    """Where to connect: scheme, host and port of a server, and of a proxy before it, if any."""

    scheme: str
    host: str
    port: int
    proxy: str = ""

    @property
    def authority(self) -> str:
        """The value of the ``Host`` field: the port is left out when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def proxy_place(self) -> str:
        """The proxy's host and port, without the password that may stand before them."""
        return self.proxy.rpartition("@")[2].rpartition("://")[2].rstrip("/")


class Timeouts(NamedTuple):
    """Seconds to connect, seconds without a byte, seconds for one exchange."""

    connect_s: float
    read_s: float
    exchange_s: float


class Habits:
    """What a server was found to do, by any of its connections.

    Attributes:
        hesitates: It waits for the acknowledgement of a head before it sends a small body.
    """

    __slots__ = ("hesitates",)

    def __init__(self) -> None:
        self.hesitates = False


class Channel:
    """A socket. Used by one thread at a time; :meth:`abort` may be called from any."""

    __slots__ = ("_aborted", "_is_tcp", "_plain", "_socket", "timeouts")

    def __init__(self, sock: socket.socket, timeouts: Timeouts) -> None:
        self._socket = sock
        self._plain = type(sock) is socket.socket
        self._aborted = False
        self._is_tcp = False
        self.timeouts = timeouts

    def connect(self, address: tuple[Any, ...]) -> None:
        """Connect to an address of the socket's family.

        Raises:
            OSError: It cannot be reached, or not in time.
        """
        self._wait_at_most(self.timeouts.connect_s)
        try:
            self._socket.connect(address)
        except TimeoutError as error:
            msg = f"no connection within {self.timeouts.connect_s:g} s"
            raise TimeoutError(msg) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_tcp = True
        self.set_timeouts()

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on.

        Raises:
            OSError: It cannot be agreed on, or the certificate is not to be trusted.
        """
        # In two steps, so that abort() finds the socket that the handshake waits for.
        self._socket = secured = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._plain = False
        self._wait_at_most(self.timeouts.connect_s)
        try:
            secured.do_handshake()
        except TimeoutError as error:
            msg = f"no TLS handshake within {self.timeouts.connect_s:g} s"
            raise TimeoutError(msg) from error
        self.set_timeouts()

    def _wait_at_most(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        if self._aborted:
            msg = "the connection was given up before it was made"
            raise ConnectionAbortedError(msg)

    def set_timeouts(self) -> None:
        """Make calls on the socket block, but no longer than the timeouts allow without progress."""
        set_timeouts(self._socket, min(self.timeouts.read_s, self.timeouts.exchange_s))

    def _recv(self, target: memoryview, flags: int) -> int:
        try:
            if self._plain:
                return self._socket.recv_into(target, len(target), flags)
            return self._socket.recv_into(target, len(target))
        except (BlockingIOError, TimeoutError) as error:
            msg = f"the server sent nothing for {self.timeouts.read_s:g} s"
            raise TimeoutError(msg) from error

    def acknowledge(self) -> None:
        """Have what has come acknowledged now, and what comes before the next send as soon as it is read."""
        if self._is_tcp and _QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def fileno(self) -> int:
        """Return the socket's descriptor, for selectors."""
        return self._socket.fileno()

    def is_stale(self) -> bool:
        """Whether the server has closed, or sent something unasked, since the last exchange."""
        try:
            self._look()
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _look(self) -> None:
        """Return if something has come, even the end; else raise as a non-blocking receive does."""
        if self._plain:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return
        # TLS has messages of its own (session tickets), which only reading tells from an answer.
        self._socket.settimeout(0.0)
        from s3dlio.wire.secured import is_nothing_yet  # noqa: PLC0415 - loaded with TLS, of which this is the case

        try:
            self._socket.recv(1)
        except OSError as error:
            if not is_nothing_yet(error):
                raise
            raise BlockingIOError from error
        finally:
            self.set_timeouts()

    def abort(self) -> None:
        """Break a receive or send that another thread is blocked in."""
        self._aborted = True
        try:
            # Not SSLSocket.shutdown, which takes the TLS state away from under the other thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return  # not connected: nobody can be blocked in it

    def close(self) -> None:
        """Close the socket. Never raises, never waits."""
        self._socket.close()


def set_timeouts(sock: socket.socket, seconds: float) -> None:
    """Make blocking calls on ``sock`` fail after ``seconds`` without progress."""
    if type(sock) is not socket.socket or sys.platform == "win32":
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    packed = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)
