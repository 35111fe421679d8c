"""Jobs and batches: what readers work on.

Floor 3. A *job* is one wanted range of one object. The thread that takes it sends one request, learns
the size from the answer, takes memory for all of it, and reads the first part in place. What is left
becomes *parts*, which this and other readers take before any new job. So a small object costs one
request and no hand-over, a large one is read by many, and nobody ever waits for anybody. Must not know
how many readers are wise, or who asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from s3dlio.buffers import POOL, BytesView, Lease, bytes_of, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import Gang
from s3dlio.errors import OptionError, RangeError
from s3dlio.ranges import Span, clamp, split
from s3dlio.stores.base import Reader, Store, Version
from s3dlio.uri import Uri

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


class Job:
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
    job: Job
    span: Span


class Batch(Gang):
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
        """See :meth:`s3dlio.crew.Gang.work`."""
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

    def _begin(self, job: Job, read_first: Reader) -> None:
        rest = job.begin(self.store, read_first, self.token)
        if rest:
            job.missing = 1  # itself, so that its parts cannot complete it while they are being added
            self.hire(self.add_parts(job, rest))
            self._arrived(job)
        else:
            self.deliver(job)

    def add_parts(self, job: Job, rest: Sequence[Span]) -> int:
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

    def _arrived(self, job: Job) -> None:
        with self.lock:
            job.missing -= 1
            if job.missing:
                return
        self.deliver(job)

    # -- what others do otherwise -----------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Return a job that nobody has begun, or ``None``."""
        item = next(self._reads, None)
        return Job(*item) if item else None

    def deliver(self, job: Job) -> None:
        """Deal with a job whose bytes are all there."""
        if self.views:
            self.views[job.index] = job.view()


class Plan(NamedTuple):
    """How many threads read, and how many requests each has under way."""

    threads: int
    window: int


class WholeBatch(Batch):
    """Whole objects, each in memory of its own: swept as far as that goes, the rest read as any batch."""

    def __init__(self, store: Store, uris: Sequence[Uri], plan: Plan, parent: CancellationToken) -> None:
        super().__init__(store, (), plan.threads, parent)
        self._uris = uris
        self._window = plan.window
        self._wanted = enumerate(list(uris))  # over a list, next() is atomic
        self._left: deque[int] = deque()
        self.results: list[BytesView | Lease | None] = [None] * len(uris)

    def work(self) -> None:
        """See :meth:`s3dlio.crew.Gang.work`."""
        if not self.token.is_cancelled:
            self._left.extend(self.store.sweep(self._wanted, self._window, self._land, self.token))
        super().work()

    def _land(self, number: int, lease: Lease) -> None:
        self.results[number] = lease

    def next_job(self) -> Job | None:
        """See :meth:`Batch.next_job`."""
        try:
            number = self._left.popleft()
        except IndexError:
            number, _ = next(self._wanted, (-1, None))
        return Job(number, Read(self._uris[number])) if number >= 0 else None

    def deliver(self, job: Job) -> None:
        """See :meth:`Batch.deliver`."""
        self.results[job.index] = job.view()
