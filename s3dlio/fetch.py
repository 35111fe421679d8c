"""The fetcher: many reads at once, each into its own memory, large ones in parallel parts.

Floor 3. Knows stores, ranges, buffers and threads; must not know URIs' schemes, samples or formats.

How a read runs. A *job* is one wanted range of one object. The thread that takes it sends one request,
learns the size from the answer, takes memory for all of it, and reads the first part in place. What
is left becomes *parts*, which this and other readers take before any new job. So a small object costs
one request and no hand-over, a large one is read by many, and nobody ever waits for anybody.

A ``get`` runs in the caller's thread; other readers join when there is more than one thing to do. How
many is bounded by the caller's ``max_in_flight`` and by what the store's latency can use: readers
beyond that only fight for the interpreter.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from s3dlio.buffers import MIB, POOL, BytesView, Lease, bytes_of, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, Gang
from s3dlio.errors import ForkError, OptionError, RangeError
from s3dlio.options import DEFAULT_IN_FLIGHT
from s3dlio.ranges import Span, clamp, split
from s3dlio.stores.base import Reader, Store, Version
from s3dlio.uri import Uri

#: What one read costs the interpreter, in seconds (measured: 40-60 us): a reader that waits longer
#: than this for its first byte leaves room for another.
_COST_S = 50e-6
#: Readers that a store without latency can use (measured on loopback: 4 and 8 alike, 32 a third less).
_FEW = 6
#: Threads that sweep a store without latency: one copies while another one runs Python.
_FEW_THREADS = 2
#: Assumed size of an object whose size is not known, until the first ones have arrived.
_GUESS_BYTES = MIB
#: Bytes in flight and waiting, by default, of a stream: seconds of work for a GPU, little of a host.
DEFAULT_BUDGET_BYTES = 256 * MIB
#: A stream looks again at the latency after this many objects.
_ADAPT_EVERY = 16
_UNKNOWN = Version(-1, "")


class Read(NamedTuple):
    """A wanted range of an object.

    Attributes:
        uri: The object.
        start: First byte.
        stop: Behind the last byte, or ``None`` for the end.
        into: Writable memory to read into, or ``None`` for memory of the library's own.
        size: Bytes this will take, if known (from a listing): counts against budgets, no more.
        known: Size and entity tag of the object, if known: its parts then begin at once.
    """

    uri: Uri
    start: int = 0
    stop: int | None = None
    into: memoryview | None = None
    size: int = -1
    known: Version | None = None


class _Job:
    """One read under way."""

    __slots__ = ("charge", "index", "lease", "limit", "memory", "missing", "read", "version")

    def __init__(self, index: int, read: Read, charge: int = 0) -> None:
        self.index = index
        self.read = read
        self.charge = charge
        self.limit = 0
        self.lease: Lease | None = None
        self.memory = memoryview(b"")
        self.missing = 0
        self.version = _UNKNOWN

    def place(self, size: int) -> memoryview:
        """Take memory for the whole range, now that the size of the object is known.

        Returns:
            The memory of the first part.
        """
        read = self.read
        length = clamp(read.start, read.stop, size).length if read.start or read.stop is not None else size
        if read.into is None:
            self.lease = POOL.take(length)
            self.memory = bytes_of(self.lease)
        elif length > len(read.into):
            msg = f"the buffer has {len(read.into)} bytes, the object (or range) {length}"
            raise OptionError(msg, uri=str(read.uri), operation="get_into")
        else:
            self.memory = read.into[:length]
        return self.memory if length <= self.limit else self.memory[: self.limit]

    def begin(self, store: Store, read_first: Reader, token: CancellationToken) -> Sequence[Span]:
        """Read the first part; return the spans (within the memory) of what is left."""
        start, stop = self.read.start, self.read.stop
        limit = store.first_bytes
        if stop is not None:
            limit = min(limit, stop - start)
        self.limit = limit
        if limit <= 0:
            self._begin_empty(store, token)
            return ()
        known = self.read.known
        if known is not None and known.size - start > limit:
            self.version = known
            self.place(known.size)
            return list(split(0, len(self.memory), store.options.chunk_size))
        self.version = read_first(self.read.uri, start, limit, self.place)
        if len(self.memory) <= limit:
            return ()
        return list(split(limit, len(self.memory), store.options.chunk_size))

    def _begin_empty(self, store: Store, token: CancellationToken) -> None:
        """Read nothing, of an object that must exist and reach that far all the same."""
        size = store.head(self.read.uri, token).size
        if self.read.start > size:
            msg = f"offset {self.read.start} lies behind the end of the object ({size} bytes)"
            raise RangeError(msg, uri=str(self.read.uri), operation="get_range")
        self.place(size)

    def view(self) -> BytesView:
        """Return the bytes read."""
        if self.lease is None:
            return BytesView.from_bytes(self.memory)
        return view_of(self.lease)


class _Part(NamedTuple):
    job: _Job
    span: Span


class _Batch(Gang):
    """Jobs, and the readers at work on them: parts first, then jobs.

    A reader that makes parts is itself still there to read them, so work is never left behind.
    """

    def __init__(self, store: Store, reads: Sequence[Read], width: int, parent: CancellationToken) -> None:
        super().__init__(width, parent)
        self.store = store
        self.parts: deque[_Part] = deque()
        self.views: list[BytesView | None] = [None] * len(reads)
        self._reads = enumerate(list(reads))  # over a list, next() is atomic

    def work(self) -> None:
        parts, token = self.parts, self.token
        with self.store.lane(token) as read_first:
            while not token.is_cancelled:
                try:
                    part = parts.popleft() if parts else None
                except IndexError:  # another reader was faster
                    continue
                if part is not None:
                    self._continue(part)
                    continue
                job = self.next_job()
                if job is None:
                    return
                self._begin(job, read_first)

    def _begin(self, job: _Job, read_first: Reader) -> None:
        rest = job.begin(self.store, read_first, self.token)
        if rest:
            job.missing = 1  # itself, so that its parts cannot complete it while they are being added
            self.hire(self.add_parts(job, rest))
            self._arrived(job)
        else:
            self.deliver(job)

    def add_parts(self, job: _Job, rest: Sequence[Span]) -> int:
        """Queue the rest of a job; return how many more readers it can use."""
        with self.lock:
            job.missing += len(rest)
        self.parts.extend(_Part(job, span) for span in rest)
        return min(len(rest), self.store.options.max_concurrent_ranges) - 1

    def _continue(self, part: _Part) -> None:
        job, span = part
        target = job.memory[span.start : span.stop]
        self.store.read_into(job.read.uri, job.read.start + span.start, target, job.version, self.token)
        self._arrived(job)

    def _arrived(self, job: _Job) -> None:
        with self.lock:
            job.missing -= 1
            if job.missing:
                return
        self.deliver(job)

    # -- what a stream does otherwise -------------------------------------------------------------

    def next_job(self) -> _Job | None:
        """Return a job that nobody has begun, or ``None``."""
        item = next(self._reads, None)
        return _Job(*item) if item else None

    def deliver(self, job: _Job) -> None:
        """Deal with a job whose bytes are all there."""
        if self.views:
            self.views[job.index] = job.view()


class _WholeBatch(_Batch):
    """Whole objects, each in memory of its own: swept as far as that goes, the rest read as any batch."""

    def __init__(self, store: Store, uris: Sequence[Uri], plan: _Plan, parent: CancellationToken) -> None:
        super().__init__(store, (), plan.threads, parent)
        self._uris = uris
        self._window = plan.window
        self._wanted = enumerate(list(uris))  # over a list, next() is atomic
        self._left: deque[int] = deque()
        self.results: list[BytesView | Lease | None] = [None] * len(uris)

    def work(self) -> None:
        if not self.token.is_cancelled:
            self._left.extend(self.store.sweep(self._wanted, self._window, self._land, self.token))
        super().work()

    def _land(self, number: int, lease: Lease) -> None:
        self.results[number] = lease

    def next_job(self) -> _Job | None:
        try:
            number = self._left.popleft()
        except IndexError:
            number, _ = next(self._wanted, (-1, None))
        return _Job(number, Read(self._uris[number])) if number >= 0 else None

    def deliver(self, job: _Job) -> None:
        self.results[job.index] = job.view()


class _Plan(NamedTuple):
    """How many threads read, and how many requests each has under way."""

    threads: int
    window: int


class Fetcher:
    """Reads from one store.

    Thread-safe; works in forked children.

    Args:
        store: Where the objects are.
        max_in_flight: Most requests at once, at least 1.
        token: Stops everything this fetcher does.
    """

    def __init__(
        self, store: Store, *, max_in_flight: int = DEFAULT_IN_FLIGHT, token: CancellationToken | None = None
    ) -> None:
        if max_in_flight < 1:
            msg = f"max_in_flight must be at least 1, not {max_in_flight}"
            raise OptionError(msg)
        self.store = store
        self.max_in_flight = max_in_flight
        self._token = token

    def read(self, read: Read) -> BytesView:
        """Read one range; large ones in parts, in parallel.

        Raises:
            StoreError: The object is not there, changed, or cannot be read.
            RangeError: The range starts behind the end of the object.
        """
        job = _Job(0, read)
        token = self._parent()
        rest = job.begin(self.store, self._first_reader(token), token)
        if rest:
            width = self.store.options.max_concurrent_ranges
            batch = _Batch(self.store, (), width, token)
            batch.join(batch.add_parts(job, rest))
        return job.view()

    def read_all(self, reads: Sequence[Read]) -> list[BytesView]:
        """Read many ranges at once and return their bytes in the order of ``reads``.

        The first failure stops the rest and is raised.
        """
        if len(reads) <= 1:
            return [self.read(read) for read in reads]
        batch = _Batch(self.store, reads, self.max_in_flight, self._parent())
        batch.join(min(len(reads), self.useful_width(reads[0].uri)) - 1)
        return batch.views  # type: ignore[return-value]  # join() has seen to it that all are there

    def read_whole(self, uris: Sequence[Uri]) -> list[BytesView]:
        """Read many whole objects at once and return their bytes in the order of ``uris``.

        The first failure stops the rest and is raised.
        """
        if len(uris) <= 1:
            return [self.read(Read(uri)) for uri in uris]
        plan = self._plan(uris)
        batch = _WholeBatch(self.store, uris, plan, self._parent())
        batch.join(plan.threads - 1)
        # All at the end: in the midst of reading the same lines take three times as long.
        return [view_of(found) if type(found) is Lease else found for found in batch.results]  # type: ignore[misc]

    def _plan(self, uris: Sequence[Uri]) -> _Plan:
        flight = min(len(uris), self.useful_width(uris[0]))
        window = self.store.window(uris[0], flight)
        if window == 1:
            return _Plan(flight, 1)
        flight = min(len(uris), self.max_in_flight, max(flight, _FEW_THREADS * window))
        threads = min(flight, max(_FEW_THREADS, -(-flight // window)))
        return _Plan(threads, -(-flight // threads))

    def stream(
        self, reads: Iterable[Read], *, budget_bytes: int = DEFAULT_BUDGET_BYTES, ordered: bool = True
    ) -> Iterator[tuple[Read, BytesView]]:
        """Read ahead of the consumer.

        Args:
            reads: What to read, taken from one thread at a time as room comes free.
            budget_bytes: Most bytes in flight or waiting to be taken. One object larger than this is
                read alone.
            ordered: Yield in the order of ``reads``; else as they arrive.

        Yields:
            The read and its bytes.

        Raises:
            ForkError: The stream was begun in another process.
        """
        yield from _Stream(self, iter(reads), budget_bytes).consume(ordered=ordered)

    def useful_width(self, uri: Uri) -> int:
        """Return how many readers the store can keep busy, by its latency."""
        latency = self.store.latency_s(uri)
        if latency is None:
            return self.max_in_flight
        return min(self.max_in_flight, max(_FEW, math.ceil(latency / _COST_S)))

    def _first_reader(self, token: CancellationToken) -> Reader:
        return lambda uri, start, limit, place: self.store.read_first(uri, start, limit, place, token)

    def _parent(self) -> CancellationToken:
        return self._token or CREW.get().token


class _Stream(_Batch):
    """A batch whose jobs come as room comes free, and whose results are taken one by one."""

    def __init__(self, fetcher: Fetcher, reads: Iterator[Read], budget_bytes: int) -> None:
        super().__init__(fetcher.store, (), fetcher.max_in_flight, fetcher._parent())  # noqa: SLF001
        self._fetcher = fetcher
        self._source = reads
        self._budget = budget_bytes
        self._most = 2 * fetcher.max_in_flight
        self._arrivals: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = threading.Lock()
        self._held_bytes = 0
        self._held = 0  # jobs taken and not yet consumed
        self._taken = 0
        self._parked = False  # some reader has left for lack of room
        self._exhausted = False
        self._mean = _GUESS_BYTES
        self._wanted = _FEW  # readers, until the latency is known
        self._pid = os.getpid()

    # -- the readers' side ------------------------------------------------------------------------

    def next_job(self) -> _Job | None:
        with self._room:
            # One job is always admitted, however large: else nothing would ever move.
            full = self._held_bytes >= self._budget or self._held >= self._most
            if self._exhausted:
                return None
            if (full and self._held) or self.members > self._wanted:
                self._parked = self._parked or full
                return None
            try:
                read = next(self._source)
            except StopIteration:
                self._exhausted = True
                return None
            charge = read.size if read.size >= 0 else self._mean
            job = _Job(self._taken, read, charge)
            self._taken += 1
            self._held += 1
            self._held_bytes += charge
            return job

    def deliver(self, job: _Job) -> None:
        with self._room:
            actual = len(job.memory)
            self._held_bytes += actual - job.charge
            job.charge = actual
            self._mean += (actual - self._mean) // 8
        self._arrivals.put(job)
        if job.index % _ADAPT_EVERY == 0:
            self._wanted = self._fetcher.useful_width(job.read.uri)
            self._go()

    def finished(self) -> None:
        # Wakes a consumer that waits for what will not come: the end, a failure, or room it has made.
        self._arrivals.put(None)

    # -- the consumer's side ----------------------------------------------------------------------

    def consume(self, *, ordered: bool) -> Iterator[tuple[Read, BytesView]]:
        """Yield the results; stop the readers when the consumer stops."""
        try:
            self._go()
            early: dict[int, _Job] = {}
            taken = 0
            while True:
                job = early.pop(taken, None) if ordered else None
                job = job or self._arrival(taken)
                if job is None:
                    return
                if ordered and job.index != taken:
                    early[job.index] = job
                    continue
                taken += 1
                result = job.read, job.view()
                self._release(job)
                del job  # the consumer alone keeps the bytes alive from here on
                yield result
                del result
        finally:
            self.token.cancel()
            self.token.detach()

    def _arrival(self, taken: int) -> _Job | None:
        """Wait for the next job to arrive; ``None`` when all have been consumed."""
        while True:
            self._check_process()
            if self.error is not None:
                raise self.error
            with self._room:
                if self._exhausted and taken == self._taken:
                    return None
            job = self._arrivals.get()
            if job is not None:
                return job
            if self.error is None:
                self.token.check()
                self._go()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            msg = "this iterator was begun in another process; begin a new one after the fork"
            raise ForkError(msg)

    def _release(self, job: _Job) -> None:
        with self._room:
            self._held -= 1
            self._held_bytes -= job.charge
            # Some room, not the first byte of it: readers then come back in groups.
            roomy = self._held_bytes <= self._budget * 3 // 4 and self._held <= self._most * 3 // 4
            call = self._parked and roomy
            if call:
                self._parked = False
        if call:
            self._go()

    def _go(self) -> None:
        """Call in as many readers as the store can keep busy."""
        if not self._exhausted:
            self.hire(self._wanted - self.members)
