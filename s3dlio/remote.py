"""One object of one version, read by ranges.

Floor 4. Decides which bytes a read still has to fetch and how they are cut into requests; must not know
formats, schemes or who asks. What reads a file's directory first and its contents later stands on this.

The first request tells the size and the entity tag and brings the beginning, which is kept: no HEAD, and
a small object costs one request in all. Every later request insists on the same version.
"""

from __future__ import annotations

import copy
import ctypes
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, map_all
from s3dlio.errors import ForkError, OptionError, RangeError
from s3dlio.memory import KIB, MIB, POOL, POOLED_FROM_BYTES, bytes_of
from s3dlio.ranges import Span, split
from s3dlio.stores.base import Store, Succession, Version
from s3dlio.uri import Uri

__all__ = ["Kept", "Piece", "RemoteObject", "errand", "fill"]

T = TypeVar("T")

#: Beginning of an object that comes with its size. At 1 GB/s it costs a quarter of a millisecond, less
#: than a round trip in a data centre; directories and headers of most files fit in.
DEFAULT_FIRST_BYTES = 256 * KIB
#: Where vector instructions, and frameworks that borrow memory instead of copying it, want data to begin.
ALIGNMENT = 64
#: Bytes of a range that one thread reads in turn with others, see :meth:`Store.relay`: longer ones do not fit into the
#: sockets' buffers, so that server and reader wait for each other; of shorter ones there are too many (0.5 to 2 MiB tried).
_IN_TURN_BYTES = MIB
#: Pieces that are read so are no longer: memory that is soon used again is still in the processor's cache.
_IN_TURN_PIECE_BYTES = 4 * MIB
#: Seconds to the first byte, see :attr:`RemoteObject.is_late`: on loopback it takes 0.2 ms.
_LATE_S = 0.0005
#: After so many ranges in a row that a relay could not read it is left: each has cost a request for nothing.
_STRIKES = 3


class Piece(NamedTuple):
    """What has come of a piece of an object.

    Attributes:
        memory: Its bytes so far, from its beginning on. The same memory, and longer, until the piece is whole.
        is_whole: Whether no more will come: the next piece lies in other memory.
    """

    memory: memoryview
    is_whole: bool


class RemoteObject:
    """One version of one object, from which any range can be read at any time.

    The object is asked for once when this is made; nothing is open in between, so there is nothing to
    close. Thread-safe; works in forked children. It cannot be pickled: make another one from the URI.

    Args:
        store: Where the object is.
        uri: The object.
        token: Stops every read of this object.
        first_bytes: Bytes from the beginning that the first request brings, at least 1. They are kept
            in memory as long as this lives, and later reads of them ask nobody.

    Attributes:
        uri: The object.
        version: Its size in bytes and its entity tag, as the first answer told them.

    Raises:
        NotFoundError: There is no such object.
        StoreError: It cannot be read.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://demo/remote", b"spam")
        >>> where = s3dlio.uri.parse("memory://demo/remote")
        >>> bytes(RemoteObject(s3dlio.stores.open_store(where), where).read(1, 3))
        b'pa'
    """

    def __init__(
        self,
        store: Store,
        uri: Uri,
        *,
        token: CancellationToken | None = None,
        first_bytes: int = DEFAULT_FIRST_BYTES,
    ) -> None:
        if first_bytes < 1:
            msg = f"first_bytes must be at least 1, not {first_bytes}"
            raise OptionError(msg, uri=str(uri))
        self.uri = uri
        self._store = store
        self._token = token
        head: list[memoryview] = []

        def place(size: int) -> memoryview:
            head.append(POOL.take_bytes(min(first_bytes, size)))
            return head[0]

        self.version: Version = store.read_first(uri, 0, first_bytes, place, self._parent())
        self._head = head[0].toreadonly()

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self.version.size

    @property
    def token(self) -> CancellationToken:
        """What stops its reads."""
        return self._parent()

    def under(self, token: CancellationToken) -> RemoteObject:
        """Return the same object, whose reads ``token`` stops; its beginning is shared."""
        other = copy.copy(self)
        other._token = token  # noqa: SLF001 - another of its own kind
        return other

    def read(self, start: int, stop: int, *, align_at: int | None = None) -> memoryview:
        """Read exactly the bytes ``start <= position < stop``.

        Long ranges are read in parallel parts (``chunk_size`` and ``max_concurrent_ranges`` of the
        store's options).

        Args:
            start: First byte.
            stop: Behind the last byte.
            align_at: A byte of the object that shall lie at a multiple of 64 bytes in memory, so that
                numbers which begin there are aligned. ``None``: ``start``.

        Returns:
            ``stop - start`` bytes, writable, in memory that nothing else uses.

        Raises:
            RangeError: The range does not lie within the object.
            ObjectChangedError: The object is not the one that the first request met.
            StoreError: It cannot be read.
        """
        span = self._within(start, stop)
        return self._read(span, start if align_at is None else align_at, self._parent())

    def read_into(self, start: int, target: memoryview) -> None:
        """Read the bytes from ``start`` on into memory of the caller's, as many as it holds.

        Args:
            start: First byte.
            target: Writable bytes.

        Raises:
            StoreError: As :meth:`read`.
        """
        self._land(self._within(start, start + len(target)), target, self._parent())

    @property
    def is_late(self) -> bool:
        """Whether the first byte of an answer is waited for longer than a few hundred thousand bytes take to come."""
        return (self._store.latency_s(self.uri) or 0.0) >= _LATE_S

    def read_later(self, start: int, stop: int, token: CancellationToken) -> Future[memoryview] | None:
        """Begin to read as :meth:`read` does, in another thread.

        Args:
            start: First byte.
            stop: Behind the last byte.
            token: Stops it, besides what stops all reads of this object.

        Returns:
            What the bytes will be in; or ``None`` where no server is waited for, and another thread only costs.

        Raises:
            RangeError: The range does not lie within the object.
        """
        span = self._within(start, stop)
        if not self._store.latency_s(self.uri):
            return None
        both = CancellationToken(token, self._parent(), CREW.get().token)

        def read() -> memoryview:
            try:
                return self._read(span, span.start, both)
            finally:
                both.detach()

        return errand(read)

    def chunks(
        self, start: int = 0, stop: int | None = None, *, chunk_bytes: int = 8 * MIB, ahead: int = 4
    ) -> Iterator[memoryview]:
        """Read a range piece by piece, in order, ahead of the consumer.

        Args:
            start: First byte.
            stop: Behind the last byte; ``None`` is the end of the object.
            chunk_bytes: Bytes per piece, at least 1; the last one may be shorter.
            ahead: Pieces that are being read or wait to be taken, at least 1: memory stays below
                ``(ahead + 1) * chunk_bytes`` beside what the consumer keeps.

        Yields:
            The bytes, writable, each piece in memory of its own. Dropping the iterator stops the
            reads. It belongs to one thread of the process that made it.

        Raises:
            RangeError: The range does not lie within the object.
            OptionError: A number is less than 1.
            ObjectChangedError: The object was replaced; what came before is of the right version.
            StoreError: A piece cannot be read: raised in its place, behind those before it.
            ForkError: The iterator was begun in another process.
        """
        if chunk_bytes < 1 or ahead < 1:
            msg = f"chunk_bytes and ahead must be at least 1, not {chunk_bytes} and {ahead}"
            raise OptionError(msg, uri=str(self.uri), operation="get_range")
        span = self._within(start, self.size if stop is None else stop)
        return self._ahead(split(span.start, span.stop, chunk_bytes), ahead)

    def growing(self, *, chunk_bytes: int = 8 * MIB, ahead: int = 4) -> Iterator[Piece]:
        """Read the whole object piece by piece, in order, ahead of the consumer, who looks at bytes as they come.

        Near a plain server this thread receives what the kernel has read ahead, 15 MiB at most, in pieces of 4 MiB at
        most: bytes are looked at while they are in the processor's cache. Elsewhere it is :meth:`chunks`, and each
        piece comes as a whole.

        Args:
            chunk_bytes: As of :meth:`chunks`.
            ahead: As of :meth:`chunks`, where other threads read.

        Yields:
            What has come of a piece, writable; see :class:`Piece`. Dropping the iterator stops the reads. It belongs to
            one thread of the process that made it.

        Raises:
            StoreError: As of :meth:`chunks`.
            ForkError: The iterator was begun in another process.
        """
        begun = 0
        relay = self._store.relay(self.uri, self.version, self._parent()) if len(self._head) < self.size else None
        if relay is not None:
            with relay as turns:
                begun = yield from self._in_turn(turns, min(chunk_bytes, _IN_TURN_PIECE_BYTES))
        for chunk in self.chunks(begun, chunk_bytes=chunk_bytes, ahead=ahead):
            yield Piece(chunk, is_whole=True)

    def _in_turn(self, turns: Succession, chunk_bytes: int) -> Generator[Piece, None, int]:
        """Yield pieces until the object ends, or ranges have to be read otherwise; return where the next piece begins."""
        home, strikes = os.getpid(), 0
        asked: deque[Span] = deque()
        coming = self._missing(chunk_bytes)
        for span in split(0, self.size, chunk_bytes):
            if strikes >= _STRIKES:
                return span.start
            memory = _aligned(span.length, 0)
            done = self._copy_kept(span, memory)
            if done:
                yield Piece(memory[:done], is_whole=done == span.length)
            while done < span.length:
                _insist_on(home, self.uri)
                if wanted := turns.wanted:
                    parts = list(itertools.islice(coming, wanted))
                    turns.ask(parts)
                    asked.extend(parts)
                part = asked.popleft()
                target = memory[done : done + part.length]
                strikes = 0 if turns.take(target) else strikes + 1
                if strikes:
                    self._store.read_into(self.uri, part.start, target, self.version, self._parent())
                done += part.length
                yield Piece(memory[:done], is_whole=done == span.length)
        return self.size

    def _missing(self, chunk_bytes: int) -> Iterator[Span]:
        """Yield the ranges to ask for, piece by piece: what is kept of the beginning is not."""
        for span in split(0, self.size, chunk_bytes):
            yield from split(max(span.start, min(len(self._head), span.stop)), span.stop, _IN_TURN_BYTES)

    def _ahead(self, spans: Iterator[Span], ahead: int) -> Iterator[memoryview]:
        home = os.getpid()
        token = CancellationToken(self._parent(), CREW.get().token)
        waiting: deque[Future[memoryview]] = deque()
        try:
            while True:
                waiting.extend(self._send(span, token) for span in itertools.islice(spans, ahead - len(waiting)))
                if not waiting:
                    return
                _insist_on(home, self.uri)
                piece = waiting.popleft().result()
                waiting.extend(self._send(span, token) for span in itertools.islice(spans, 1))
                yield piece
                del piece  # the consumer alone keeps the bytes alive from here on
        finally:
            token.cancel()
            token.detach()

    def _send(self, span: Span, token: CancellationToken) -> Future[memoryview]:
        return errand(lambda: self._read(span, span.start, token))

    def _within(self, start: int, stop: int) -> Span:
        if not 0 <= start <= stop <= self.size:
            msg = f"bytes {start} to {stop} do not lie within the object ({self.size} bytes)"
            raise RangeError(msg, uri=str(self.uri), operation="get_range")
        return Span(start, stop)

    def _read(self, span: Span, align_at: int, token: CancellationToken) -> memoryview:
        memory = _aligned(span.length, align_at - span.start)
        self._land(span, memory, token)
        return memory

    def _land(self, span: Span, memory: memoryview, token: CancellationToken) -> None:
        token.check()
        kept = self._copy_kept(span, memory)
        if kept < span.length:
            self._fill(span.start + kept, memory[kept:], token)

    def _copy_kept(self, span: Span, memory: memoryview) -> int:
        """Copy what is kept of a range into its memory; return how many bytes that was."""
        kept = self._head[span.start : span.stop]
        memory[: len(kept)] = kept
        return len(kept)

    def _fill(self, start: int, target: memoryview, token: CancellationToken) -> None:
        fill(self._store, self.uri, start, target, self.version, token)

    def _parent(self) -> CancellationToken:
        return self._token or CREW.get().token


def _insist_on(home: int, uri: Uri) -> None:
    """Refuse to go on in another process than the one in which an iterator was begun: its connections are shared."""
    if os.getpid() != home:
        msg = "this iterator was begun in another process; begin a new one after the fork"
        raise ForkError(msg, uri=str(uri), operation="get_range")


def fill(store: Store, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
    """Read the bytes from ``start`` on, of one version of an object, into memory, in parallel parts when it is long.

    Raises:
        ObjectChangedError: The object is not of that version.
        StoreError: It cannot be read.
    """
    if len(target) <= store.first_bytes:
        store.read_into(uri, start, target, version, token)
        return

    def fetch(part: Span, token: CancellationToken) -> None:
        store.read_into(uri, start + part.start, target[part.start : part.stop], version, token)

    # As many parts as it takes, of one size: a last one that is short leaves its connection idle.
    count = -(-len(target) // store.options.chunk_size)
    parts = split(0, len(target), -(-len(target) // count))
    map_all(fetch, parts, store.options.max_concurrent_ranges, token)


class Kept:
    """A range of an object that is read now and kept: reads within it are copies and ask nobody.

    Thread-safe.

    Args:
        source: The object.
        start: First byte.
        stop: Behind the last byte.

    Raises:
        StoreError: It cannot be read.
    """

    def __init__(self, source: RemoteObject, start: int, stop: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._memory = source.read(start, stop)

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self._source.size

    def has(self, start: int, stop: int) -> bool:
        """Tell whether a range lies within what is kept."""
        return self._start <= start and stop <= self._stop

    def read(self, start: int, stop: int, *, align_at: int | None = None) -> memoryview:
        """See :meth:`RemoteObject.read`."""
        if not self.has(start, stop):
            return self._source.read(start, stop, align_at=align_at)
        memory = _aligned(stop - start, (start if align_at is None else align_at) - start)
        memory[:] = self._memory[start - self._start : stop - self._start]
        return memory


def errand(work: Callable[[], T]) -> Future[T]:
    """Do ``work`` in a thread of the crew; its result, or what it raises, is in the future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: result() raises it again
            future.set_exception(error)
        else:
            future.set_result(result)

    CREW.get().start(run)
    return future


def _aligned(length: int, at: int) -> memoryview:
    """Return ``length`` writable bytes of which the one at ``at`` lies at a multiple of the alignment."""
    shift = -at % ALIGNMENT
    if length + shift >= POOLED_FROM_BYTES:  # the pool's blocks are whole pages
        return bytes_of(POOL.take(length + shift))[shift:]
    memory = memoryview(bytearray(length + ALIGNMENT))
    shift = -(ctypes.addressof(ctypes.c_byte.from_buffer(memory)) + at) % ALIGNMENT
    return memory[shift : shift + length]
