"""One connection: a request out, a head and a body in, the body straight into the caller's memory.

Floor 2. Knows sockets and TLS; must not know retry, pools or what a request means.

``recv_into(view, n, MSG_WAITALL)`` on a blocking socket is one system call without the GIL for a whole
body. Python's own socket timeouts would turn it into a poll and a short read per segment, so plain
sockets get the kernel's timeouts (``SO_RCVTIMEO``) instead; TLS sockets, whose reads come by record
anyway, keep Python's.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from typing import NamedTuple

from s3dlio.cancel import Deadline
from s3dlio.wire.head import MAX_HEAD_BYTES, Head, ProtocolError, find_end

#: The first receive asks for this much: any head, and little enough body that copying it is free.
SCRATCH_BYTES = 4096
_DISCARD_BYTES = 64 * 1024
_MAX_CHUNK_LINE = 1024
_PART_STATUS = (b"HTTP/1.1 206", b"HTTP/1.1 200")
_WAITALL = getattr(socket, "MSG_WAITALL", 0)


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


class Timeouts(NamedTuple):
    """Seconds to connect, seconds without a byte, seconds for one exchange."""

    connect_s: float
    read_s: float
    exchange_s: float


class Connection:
    """A connected socket and the state of the exchange on it. Used by one thread at a time.

    Attributes:
        head: The head of the current response.
        answered: At least one byte of the current response has arrived.
        received: Bytes of the current body that have arrived.
        closing: After :meth:`exchange_part`: the server will close the connection after this answer.
    """

    __slots__ = (
        "_begin", "_chunk_left", "_end", "_head_end", "_left", "_plain", "_scratch", "_socket", "_view", "answered",
        "closing", "head", "idle_since", "received", "timeouts",
    )  # fmt: skip

    head: Head

    def __init__(self, sock: socket.socket, timeouts: Timeouts) -> None:
        self._socket = sock
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self.timeouts = timeouts
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._head_end = 0
        self._begin = self._end = 0  # what of the scratch buffer is received and not yet used
        self._left = 0  # bytes of the current body still to be read; -1 while chunks are to come
        self._chunk_left = 0
        self.answered = False
        self.closing = False
        self.received = 0
        self.idle_since = 0.0

    # -- an exchange ------------------------------------------------------------------------------

    def send(self, head: bytes, body: memoryview | None = None) -> None:
        """Send a request. ``body`` is sent from the caller's memory without a copy."""
        self.answered = False
        self.received = 0
        self._left = self._begin = self._end = 0
        try:
            self._socket.sendall(head)
            if body is not None:
                self._socket.sendall(body)
        except BlockingIOError as error:
            msg = f"the server took no data for {self.timeouts.read_s:g} s"
            raise TimeoutError(msg) from error

    def read_head(self, method: str = "GET") -> Head:
        """Receive the head of the response; interim (1xx) heads are passed over.

        Raises:
            ProtocolError: What comes is not HTTP.
            ConnectionError: The server closed before a whole head had come.
            TimeoutError: It sent nothing for too long.
        """
        head = Head(self._receive_head())
        while head.status < 200 and head.status != 101:
            head = Head(self._receive_head())
        self.head = head
        if head.chunked:
            self._left = -1
            self._chunk_left = 0
        elif head.length is not None:
            self._left = head.length
        elif method != "HEAD" and head.status not in (204, 304):
            msg = f"response {head.status} tells neither its length nor chunks; a cut could not be seen"
            raise ProtocolError(msg)
        if method == "HEAD" or head.status in (204, 304):
            self._left = 0
        return head

    def _receive_head(self) -> bytes:
        searched = self._begin
        while True:
            end = find_end(self._scratch, self._end, searched) if self._end else -1
            if end >= 0:
                raw = bytes(self._view[self._begin : end])
                self._begin = end
                return raw
            searched = self._end
            if self._end == len(self._scratch):
                searched -= self._make_scratch_room()
            count = self._recv(self._view[self._end :] if self._end else self._view, 0)
            if not count:
                msg = "the server closed the connection before it had answered"
                raise ConnectionResetError(msg)
            self.answered = True
            self._end += count

    def _make_scratch_room(self) -> int:
        """Make room behind a head that does not fit; return how far its bytes have moved down."""
        moved = self._begin
        rest = bytes(self._view[self._begin : self._end])
        if len(rest) >= MAX_HEAD_BYTES:
            msg = f"the head of the response is longer than {MAX_HEAD_BYTES} bytes"
            raise ProtocolError(msg)
        self._scratch = bytearray(min(2 * len(self._scratch), MAX_HEAD_BYTES + SCRATCH_BYTES))
        self._view = memoryview(self._scratch)
        self._view[: len(rest)] = rest
        self._begin, self._end = 0, len(rest)
        return moved

    # -- the usual case, with as little as possible in its way (see lane.py) ------------------------

    def exchange_part(self, request: bytes, start: int, limit: int) -> tuple[int, int] | None:
        """Send a ranged GET; if a plain 206 answers it, return the object's size and the part's length.

        Returns:
            ``None`` for any other answer; the connection is then in an unknown state. Else exactly
            the part's length is to be read by :meth:`fill`.
        """
        self._socket.sendall(request)
        self._begin = self._end = self._recv(self._view, 0)
        # A head that does not come in one piece is unusual as well. (200: see Landing.accept.)
        head_end = self._scratch.find(b"\r\n\r\n", 0, self._end)
        if head_end < 0 or not self._scratch.startswith(_PART_STATUS):
            return None
        self._begin = self._head_end = head_end + 4
        folded = self._scratch[:head_end].lower()
        at = folded.find(b"\ncontent-range: bytes ")
        stop = folded.find(b"\r", at) if at > 0 else -1
        text = folded[at + 22 : stop if stop > 0 else head_end]
        total = text[text.rfind(b"/") + 1 :]
        if at < 0 or not total.isdigit() or b"transfer-encoding" in folded:
            return None
        self.closing = b"\nconnection: close" in folded
        size = int(total)
        length = min(limit, size - start)
        expected = b"\ncontent-length: %d\r" % length
        folded += b"\r"
        if text != b"%d-%d/%d" % (start, start + length - 1, size) or expected not in folded:
            return None
        return (size, length) if folded.count(b"\ncontent-length:") == 1 else None

    def fill(self, target: memoryview, length: int) -> bool:
        """Read the body that :meth:`exchange_part` has announced; tell whether it came whole."""
        done = self._end - self._begin
        if len(target) != length or done > length:
            return False
        if done:
            target[:done] = self._view[self._begin : self._end]
        while done < length:
            count = self._recv(target[done:] if done else target, _WAITALL)
            if not count:
                return False
            done += count
        return True

    def raw_head(self) -> bytes:
        """Return the head that :meth:`exchange_part` has read."""
        return bytes(self._view[: self._head_end])

    # -- the body ---------------------------------------------------------------------------------

    @property
    def body_left(self) -> int:
        """Bytes of the body still to be read; -1 while it is chunked and not at its end."""
        return self._left

    def read_into(self, target: memoryview, deadline: Deadline | None = None) -> None:
        """Fill ``target`` from the body. ``received`` tells how far it came, also after an error.

        Raises:
            ConnectionError: The server closed early.
            TimeoutError: It sent nothing for too long, or the deadline has passed.
            ProtocolError: The body is shorter than ``target``.
        """
        wanted = len(target)
        if 0 <= self._left < wanted:
            msg = f"the body is {wanted - self._left} bytes shorter than what was asked for"
            raise ProtocolError(msg)
        done = 0
        while done < wanted:
            done += self._read_some(target[done:] if done else target, deadline)

    def _read_some(self, target: memoryview, deadline: Deadline | None) -> int:
        """Read at least one byte of the body into ``target``, as many as come."""
        limit = len(target)
        if self._left < 0:
            limit = min(limit, self._next_chunk())
            if not limit:
                msg = "the chunked body ended early"
                raise ProtocolError(msg)
        count = self._from_scratch(target, limit) or self._from_socket(target, limit, deadline)
        self.received += count
        if self._left < 0:
            self._chunk_left -= count
        else:
            self._left -= count
        return count

    def _from_scratch(self, target: memoryview, limit: int) -> int:
        count = min(self._end - self._begin, limit)
        if count:
            target[:count] = self._view[self._begin : self._begin + count]
            self._begin += count
        return count

    def _from_socket(self, target: memoryview, limit: int, deadline: Deadline | None) -> int:
        if deadline is not None and deadline.passed:
            msg = f"not done after {self.timeouts.exchange_s:g} s"
            raise TimeoutError(msg)
        count = self._recv(target if limit == len(target) else target[:limit], _WAITALL)
        if not count:
            msg = f"the server closed the connection after {self.received} bytes of the body"
            raise ConnectionResetError(msg)
        return count

    def _recv(self, target: memoryview, flags: int) -> int:
        try:
            if self._plain:
                return self._socket.recv_into(target, len(target), flags)
            return self._socket.recv_into(target, len(target))
        except (BlockingIOError, TimeoutError) as error:
            msg = f"the server sent nothing for {self.timeouts.read_s:g} s"
            raise TimeoutError(msg) from error

    def _next_chunk(self) -> int:
        """Return the bytes left in the current chunk, reading the next chunk's line when it is used up."""
        if self._chunk_left:
            return self._chunk_left
        if self.received:
            self._line()  # the empty line behind the data of the chunk before
        text = self._line().partition(b";")[0].strip()
        try:
            self._chunk_left = int(text, 16)
        except ValueError:
            msg = f"bad chunk length {text[:20]!r}"
            raise ProtocolError(msg) from None
        if not self._chunk_left:
            while self._line():  # trailer fields, then an empty line
                pass
            self._left = 0
        return self._chunk_left

    def _line(self) -> bytes:
        line = bytearray()
        byte = memoryview(bytearray(1))
        while not line.endswith(b"\r\n"):
            if len(line) > _MAX_CHUNK_LINE:
                msg = "a line of the chunked body is too long"
                raise ProtocolError(msg)
            if not self._from_scratch(byte, 1):
                self._refill()
                continue
            line += byte
        return bytes(line[:-2])

    def _refill(self) -> None:
        self._begin = 0
        self._end = self._recv(self._view, 0)
        if not self._end:
            msg = "the server closed the connection inside a chunked body"
            raise ConnectionResetError(msg)

    def read_all(self, limit: int, deadline: Deadline | None = None) -> bytes:
        """Return the rest of the body, refusing one longer than ``limit`` bytes.

        For answers whose length is not known beforehand: listings, errors, chunked bodies.
        """
        pieces = bytearray()
        piece = memoryview(bytearray(min(limit + 1, _DISCARD_BYTES)))
        while self._left:
            if self._left < 0 and not self._next_chunk():
                break
            span = piece if self._left < 0 else piece[: self._left]
            pieces += span[: self._read_some(span, deadline)]
            if len(pieces) > limit:
                msg = f"the answer is longer than {limit} bytes"
                raise ProtocolError(msg)
        return bytes(pieces)

    def skip(self, count: int, deadline: Deadline | None = None) -> None:
        """Read and forget ``count`` bytes of the body."""
        waste = memoryview(bytearray(min(count, _DISCARD_BYTES) or 1))
        while count > 0:
            count -= self._read_some(waste[:count], deadline)

    # -- the end ----------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: all is read, nothing surplus came, nobody said close."""
        return self._left == 0 and self._begin == self._end and self.head.keep_alive

    def is_stale(self) -> bool:
        """Whether the server has closed (or sent something unasked) while the connection was idle."""
        try:
            self._socket.setblocking(False)
            return self._socket.recv(1) is not None
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            self._set_timeouts()

    def _set_timeouts(self) -> None:
        try:
            set_timeouts(self._socket, self.timeouts.read_s)
        except OSError:  # closed already: is_stale has just said so
            self._left = -1

    def abort(self) -> None:
        """Break a receive or send that another thread is blocked in."""
        try:
            # Not SSLSocket.shutdown, which takes the TLS state away from under the other thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more: nobody can be blocked in it

    def close(self) -> None:
        """Close the socket. Never raises, never waits."""
        self._socket.close()


def set_timeouts(sock: socket.socket, seconds: float) -> None:
    """Make blocking calls on ``sock`` fail after ``seconds`` without progress."""
    if isinstance(sock, ssl.SSLSocket) or sys.platform == "win32":
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    packed = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)
