"""Room card: one connection of the hand-written origin: reads requests, carries out the steps of the answers.

Knows sockets and the grammar of HTTP/1.1 requests.  Must not know what is answered, nor the library.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING

from tests.servers.reply import End, Midway, Pause, Step
from tests.servers.rules import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CLOSE_TIMEOUT_S = 5.0
_DRAIN_TIMEOUT_S = 5.0
_POLL_S = 0.02
_RECV_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 20


class Connection:
    """One accepted connection and the thread that serves it.

    Args:
        steps_for: Says how to answer a request.
        sock: The accepted socket.
        ssl_context: Makes the connection speak TLS.
        midway: Says, from method and target, what is to happen while a request's body arrives.

    Attributes:
        done: Whether the connection is closed on our side.
        trouble: What failed in this program, as opposed to the client or the network.
    """

    def __init__(
        self,
        steps_for: Callable[[Request], list[Step]],
        sock: socket.socket,
        ssl_context: ssl.SSLContext | None,
        midway: Callable[[str, str], Midway | None] = lambda _method, _target: None,
    ) -> None:
        self.done = False
        self.trouble: Exception | None = None
        self._steps_for = steps_for
        self._midway = midway
        self._closing = threading.Event()
        self._sock = sock
        self._ssl_context = ssl_context
        self._buffer = b""
        self._thread = threading.Thread(target=self._run, name="origin-connection", daemon=True)

    def start(self) -> None:
        """Starts to serve."""
        self._thread.start()

    def close(self) -> None:
        """Ends the connection and its thread."""
        self._closing.set()
        shut(self._sock)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                self._sock = self._ssl_context.wrap_socket(self._sock, server_side=True)
            while self._serve_one():
                pass
        except OSError:
            pass  # the client went away, or did not like our certificate: its right
        except Exception as error:  # noqa: BLE001 - the origin tells it to the test
            self.trouble = error
        finally:
            self._sock.close()
            self.done = True

    def _serve_one(self) -> bool:
        """Serves one request; tells whether the connection lives on."""
        request = self._read_request()
        if request is None:
            return False
        for step in self._steps_for(request):
            if isinstance(step, bytes):
                self._sock.sendall(step)
            elif isinstance(step, Pause):
                if not self._pause(step.seconds):
                    return False
            else:
                self._end(step)
                return False
        return True

    def _end(self, how: End) -> None:
        if how is End.RESET:
            self._drain()
            # A linger time of zero makes close() send RST instead of FIN.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if isinstance(self._sock, ssl.SSLSocket):
            # Say goodbye in TLS as well, but do not wait for the client's.
            self._sock.settimeout(0.0)
            with contextlib.suppress(OSError):
                self._sock.unwrap()
        # Closing alone would not send FIN while a forked copy of the test process holds the socket, too.
        shut(self._sock)

    def _drain(self) -> None:
        """Waits until the client has what was sent; a reset would throw away the rest."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        poller = select.poll()
        poller.register(self._sock, 0)  # nothing but errors: a client that has gone takes no more
        while time.monotonic() < deadline and not poller.poll(0):
            queued = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            if struct.unpack("i", queued)[0] == 0:
                return
            time.sleep(0.001)

    def _pause(self, seconds: float) -> bool:
        """Waits; tells whether client and origin are both still there."""
        deadline = time.monotonic() + seconds
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            # The client has nothing to say now: readable means that it is gone.
            gone = poller.poll(min(_POLL_S, left) * 1000)
            if gone or self._closing.is_set():
                return False
        return True

    def _read_request(self) -> Request | None:
        head = self._read_until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [line.partition(":") for line in lines if line]
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        trouble = self._midway(method, target)
        if trouble is not None and not self._interrupt(trouble):
            return None
        body = self._read_body(headers)
        return None if body is None else Request(method, target, headers, body)

    def _interrupt(self, trouble: Midway) -> bool:
        """Does to a body that is on its way what was planned; tells whether it may go on."""
        if self._take(trouble.after_bytes):
            # Not _pause: the client does have something to say.
            self._closing.wait(trouble.seconds)
            if not trouble.resets:
                return True
            # With bytes of it unread, closing sends RESET.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _take(self, count: int) -> bool:
        """Waits until so many bytes of the body have come; they stay in the buffer."""
        while len(self._buffer) < count:
            if not self._fill():
                return False
        return True

    def _read_body(self, headers: Mapping[str, str]) -> bytes | None:
        if headers.get("transfer-encoding") != "chunked":
            return self._read_exactly(int(headers.get("content-length", "0")))
        body = b""
        while (line := self._read_until(b"\r\n")) is not None:
            size = int(line.split(b";")[0], 16)
            chunk = self._read_exactly(size + 2)
            if chunk is None or size == 0:
                return None if chunk is None else body
            body += chunk[:size]
        return None

    def _read_until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if len(self._buffer) > _MAX_HEAD_BYTES or not self._fill():
                return None
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _read_exactly(self, count: int) -> bytes | None:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < count:
            self._buffer = b""
            if not self._fill():
                return None
            parts.append(self._buffer)
            have += len(self._buffer)
        data = b"".join(parts)
        self._buffer = data[count:]
        return data[:count]

    def _fill(self) -> bool:
        data = self._sock.recv(_RECV_BYTES)
        self._buffer += data
        return bool(data)


def shut(sock: socket.socket) -> None:
    """Wakes a thread that waits in a call on the socket."""
    with contextlib.suppress(OSError):  # not connected any more
        sock.shutdown(socket.SHUT_RDWR)
