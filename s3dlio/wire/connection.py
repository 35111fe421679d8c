"""One connection: a request out, a head and a body in, the body straight into the caller's memory.

Floor 2. Knows how HTTP/1.1 is put on a socket; must not know retry, pools or what a request means.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence

from s3dlio.cancel import Deadline
from s3dlio.wire.channel import Channel, Habits, Timeouts
from s3dlio.wire.head import MAX_HEAD_BYTES, Head, ProtocolError, find_end

#: The first receive asks for this much: any head, and little enough body that copying it is free.
SCRATCH_BYTES = 4096
_DISCARD_BYTES = 64 * 1024
_MAX_CHUNK_LINE = 1024
_CHUNK_LENGTH = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
#: Digits of a size that fits into 64 bits.
_MOST_DIGITS = 19
_PART_STATUS = (b"HTTP/1.1 206", b"HTTP/1.1 200")
#: Status codes that mean "fewer requests, please".
BUSY_STATUS = (b"503", b"429")
#: Size of an object, and the two header lines that bring a whole object of that size.
_NOTHING_USUAL = (-1, b"\0", b"\0")
_WAITALL = getattr(socket, "MSG_WAITALL", 0)
#: Linux delays acknowledgements by 40 ms at least.
_HESITATION_S = 0.03
#: Pieces of a body that one call sends; the kernel takes 1,024.
_PIECES_TOGETHER = 64


class Connection(Channel):
    """A socket and the state of the exchange on it. Used by one thread at a time.

    Args:
        sock: Connected, or to be connected by :meth:`connect`.
        timeouts: How long to wait for what.
        habits: What is known of the server.

    Attributes:
        head: The head of the current response.
        answered: At least one byte of the current response has arrived.
        received: Bytes of the current body that have arrived.
        closing: After :meth:`exchange_part`: the server will close the connection after this answer.
    """

    __slots__ = (
        "_begin", "_chunk_left", "_deadline", "_end", "_habits", "_has_acknowledged", "_head_end", "_is_in_body", "_left",
        "_scratch", "_usual", "_view", "answered", "closing", "head", "received",
    )  # fmt: skip

    head: Head

    def __init__(self, sock: socket.socket, timeouts: Timeouts, habits: Habits | None = None) -> None:
        super().__init__(sock, timeouts)
        self._habits = habits or Habits()
        self._deadline = Deadline(timeouts.exchange_s)
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._head_end = 0
        self._usual = _NOTHING_USUAL
        self._begin = self._end = 0  # what of the scratch buffer is received and not yet used
        self._left = 0  # bytes of the current body still to be read; -1 while chunks are to come
        self._chunk_left = 0
        self._has_acknowledged = False  # a head that came alone
        self._is_in_body = False  # part of the current body was received behind what came with its head
        self.answered = False
        self.closing = False
        self.received = 0

    # -- an exchange ------------------------------------------------------------------------------

    def send(self, head: bytes, body: Sequence[memoryview] = ()) -> None:
        """Send a request. The pieces of ``body`` are sent from the caller's memory without a copy.

        Raises:
            OSError: The connection is broken, or the server takes nothing for too long.
        """
        self.answered = self._is_in_body = False
        self.received = 0
        self._left = self._begin = self._end = 0
        try:
            left = self._send_together(head, body) if self._plain and body else self._send_head(head, body)
            self._send_body(left)
        except BlockingIOError as error:
            msg = f"the server took no data for {self.timeouts.read_s:g} s"
            raise TimeoutError(msg) from error
        # From here on: that a body of any size leaves is seen to by the send's own timeout.
        self._deadline = Deadline(self.timeouts.exchange_s)

    def _send_head(self, head: bytes, body: Sequence[memoryview]) -> Sequence[memoryview]:
        self._socket.sendall(head)
        return body

    def _send_together(self, head: bytes, body: Sequence[memoryview]) -> Sequence[memoryview]:
        """Send the head and the body's first pieces by one call, which wakes the server once; return what is left."""
        pieces = [memoryview(head), *body[:_PIECES_TOGETHER]]
        sent = self._socket.sendmsg(pieces)
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if pieces:
            pieces[0] = pieces[0][sent:]
        return [*pieces, *body[_PIECES_TOGETHER:]]

    def _send_body(self, body: Sequence[memoryview]) -> None:
        try:
            for piece in body:
                self._socket.sendall(piece)
        except ConnectionError:
            # A server may refuse, and close, before it has taken all: its answer says why.
            return

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
        self._chunk_left = 0
        self._left = self._body_length(head, method)
        return head

    def _body_length(self, head: Head, method: str) -> int:
        if method == "HEAD" or head.status in (204, 304) or (method == "CONNECT" and head.status < 300):
            return 0
        if head.chunked:
            return -1
        if head.length is not None:
            return head.length
        if head.status < 300:
            msg = f"response {head.status} tells neither its length nor chunks; a cut could not be seen"
            raise ProtocolError(msg)
        # A refusal: the status says enough. What came along is read, what may follow is not waited for.
        head.keep_alive = False
        return self._end - self._begin

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
            self._check_deadline()
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
        """Send a ranged GET and receive the head of its answer: :meth:`ask` and :meth:`answer_part`."""
        self._socket.sendall(request)
        return self.answer_part(start, limit)

    def answer_part(self, start: int, limit: int) -> tuple[int, int] | None:
        """Receive the head of an answer; if it is a plain 206, return the object's size and the part's length.

        Returns:
            ``None`` for any other answer; the connection is then in an unknown state. Else exactly
            the part's length is to be read by :meth:`fill`.
        """
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
        if at < 0 or not total.isdigit() or len(total) > _MOST_DIGITS or b"transfer-encoding" in folded:
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
        deadline = None
        self._is_in_body = False
        while done < length:
            count = self._receive_body(target[done:] if done else target, _WAITALL, done)
            if not count:
                return False
            done += count
            if done < length:
                deadline = deadline or Deadline(self.timeouts.exchange_s)
                if deadline.passed:
                    return False
        return True

    def _receive_body(self, target: memoryview, flags: int, before: int) -> int:
        """Receive bytes of a body of which ``before`` have come.

        A server that sends the head of an answer by itself may hold a small body back until the head is acknowledged
        (Nagle's algorithm; Ceph's does), and the kernel here takes 40 ms over that, hoping for something to send along.
        A connection's first head that comes alone is therefore acknowledged at once; further ones only where one was
        seen to be waited for: it costs a call and a packet, a tenth of a small read.
        """
        if self._is_in_body:
            return self._recv(target, flags)
        self._is_in_body = True
        if self._habits.hesitates or not (before or self._has_acknowledged):
            self._has_acknowledged = True
            self.acknowledge()
        elif not before:
            began = time.perf_counter()
            count = self._recv(target, flags)
            if time.perf_counter() - began > _HESITATION_S:
                self._habits.hesitates = True
            return count
        return self._recv(target, flags)

    def ask(self, request: bytes) -> None:
        """Send a GET whose answer :meth:`answer_whole` or :meth:`answer_part` will receive."""
        self._socket.sendall(request)

    def answer_whole(self, limit: int) -> int:
        """Receive the head of an answer; return the object's size if a plain answer brings all of it.

        Returns:
            -1 for any other answer, and for an object of more than ``limit`` bytes; the connection is
            then in an unknown state. Else exactly the object is to be read by :meth:`fill`.
        """
        self._begin = self._end = self._recv(self._view, 0)
        head_end = self._scratch.find(b"\r\n\r\n", 0, self._end)
        if head_end < 0 or not self._scratch.startswith(_PART_STATUS):
            return -1
        self._begin = self._head_end = head_end + 4
        folded = self._scratch[: head_end + 2].lower()
        size, span, length = self._usual  # objects of one size have two lines in common
        if span not in folded or length not in folded:
            size, span, length = self._usual = _usual_lines(folded)
        self.closing = b"\nconnection: close" in folded
        plain = span in folded and length in folded and b"transfer-encoding" not in folded
        return size if plain and size <= limit and folded.count(b"\ncontent-length:") == 1 else -1

    @property
    def is_busy_signal(self) -> bool:
        """Whether what was received last begins an answer by which a server says that it is too busy."""
        return self._end >= 12 and self._scratch[9:12] in BUSY_STATUS

    def raw_head(self) -> bytes:
        """Return the head that :meth:`exchange_part` has read."""
        return bytes(self._view[: self._head_end])

    # -- the body ---------------------------------------------------------------------------------

    @property
    def body_left(self) -> int:
        """Bytes of the body still to be read; -1 while it is chunked and not at its end."""
        return self._left

    def read_into(self, target: memoryview) -> None:
        """Fill ``target`` from the body. ``received`` tells how far it came, also after an error.

        Raises:
            ConnectionError: The server closed early.
            TimeoutError: It sent nothing for too long, or the exchange takes too long in all.
            ProtocolError: The body is shorter than ``target``.
        """
        wanted = len(target)
        if 0 <= self._left < wanted:
            msg = f"the body is {wanted - self._left} bytes shorter than what was asked for"
            raise ProtocolError(msg)
        done = 0
        while done < wanted:
            done += self._read_some(target[done:] if done else target)

    def read_end(self) -> None:
        """Read the end that a chunked body has behind its bytes; only then has it been told what they were.

        Raises:
            OSError: As :meth:`read_into`.
            ProtocolError: There is more.
        """
        if self._left < 0 and self._next_chunk():
            msg = "the chunked body is longer than what was asked for"
            raise ProtocolError(msg)

    def _read_some(self, target: memoryview) -> int:
        """Read at least one byte of the body into ``target``, as many as come."""
        limit = len(target)
        if self._left < 0:
            limit = min(limit, self._next_chunk())
            if not limit:
                msg = "the chunked body ended early"
                raise ProtocolError(msg)
        count = self._from_scratch(target, limit) or self._from_socket(target, limit)
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

    def _from_socket(self, target: memoryview, limit: int) -> int:
        self._check_deadline()
        count = self._receive_body(target if limit == len(target) else target[:limit], _WAITALL, self.received)
        if not count:
            msg = f"the server closed the connection after {self.received} bytes of the body"
            raise ConnectionResetError(msg)
        return count

    def _check_deadline(self) -> None:
        if self._deadline.passed:
            msg = f"not done after {self.timeouts.exchange_s:g} s"
            raise TimeoutError(msg)

    def _next_chunk(self) -> int:
        """Return the bytes left in the current chunk, reading the next chunk's line when it is used up."""
        if self._chunk_left:
            return self._chunk_left
        if self.received and self._line():
            msg = "a chunk of the body is longer than announced"
            raise ProtocolError(msg)
        text = self._line()
        match = _CHUNK_LENGTH.fullmatch(text)
        if match is None:
            msg = f"bad chunk length {text[:20]!r}"
            raise ProtocolError(msg)
        self._chunk_left = int(match[1], 16)
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
        self._check_deadline()
        self._begin = 0
        self._end = self._receive_body(self._view, 0, self.received)
        if not self._end:
            msg = "the server closed the connection inside a chunked body"
            raise ConnectionResetError(msg)

    def read_all(self, limit: int, *, cut: bool = False) -> bytes:
        """Return the rest of the body, or with ``cut`` what comes of it, and not much more than ``limit`` bytes.

        For answers whose length is not known beforehand: listings, errors (``cut``), chunked bodies.

        Raises:
            ProtocolError: It is longer than ``limit`` and must not be cut.
            ConnectionError: It ends early, and must not be cut.
        """
        pieces = bytearray()
        try:
            self._collect(pieces, limit)
        except ConnectionError:
            if not cut:
                raise
        if len(pieces) > limit and not cut:
            msg = f"the answer is longer than {limit} bytes"
            raise ProtocolError(msg)
        return bytes(pieces)

    def _collect(self, pieces: bytearray, limit: int) -> None:
        """Add the rest of the body, or more than ``limit`` bytes of it."""
        piece = memoryview(bytearray(min(limit + 1, _DISCARD_BYTES)))
        while self._left and len(pieces) <= limit:
            if self._left < 0 and not self._next_chunk():
                return
            span = piece if self._left < 0 else piece[: self._left]
            pieces += span[: self._read_some(span)]

    def skip(self, count: int) -> None:
        """Read and forget ``count`` bytes of the body."""
        waste = memoryview(bytearray(min(count, _DISCARD_BYTES) or 1))
        while count > 0:
            count -= self._read_some(waste[:count])

    # -- the end ----------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: all is read, nothing surplus came, nobody said close."""
        return self._left == 0 and self._begin == self._end and self.head.keep_alive


def _usual_lines(folded: bytearray) -> tuple[int, bytes, bytes]:
    """Return the size that a head in lower case tells, and the two lines that a whole object comes with."""
    at = folded.find(b"\ncontent-range: bytes 0-")
    total = folded[folded.find(b"/", at) + 1 : folded.find(b"\r", at + 1)]
    if at < 0 or not total.isdigit() or len(total) > _MOST_DIGITS or not int(total):
        return _NOTHING_USUAL
    size = int(total)
    return size, b"\ncontent-range: bytes 0-%d/%d\r" % (size - 1, size), b"\ncontent-length: %d\r" % size
