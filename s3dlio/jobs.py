"""Jobs and batches: what readers work on.

Floor 3. A *job* is one wanted range of one object. The thread that takes it sends one request, learns
the size from the answer, takes memory for all of it, and reads the first part in place. What is left
becomes *parts*, which this and other readers take before any new job. So a small object costs one
request and no hand-over, a large one is read by many, and nobody ever waits for anybody. Must not know
how many readers are wise, or who asked.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from s3dlio.buffers import POOL, BytesView, Lease, bytes_of, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, Gang
from s3dlio.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    OptionError,
    RangeError,
    S3dlioError,
)
from s3dlio.ranges import Span, clamp, split
from s3dlio.stores.base import Place, Plan, Reader, Store, Stretch, Version, Wanted
from s3dlio.uri import Uri

_UNKNOWN = Version(-1, "")
#: Readers that only read anew what has failed.
_MOST_HELPERS = 8
#: Connections that are made at once, and seconds until others are tried when that has failed.
_FEW_OPENERS = 8
_MOST_OPENERS = 32
_OPEN_AGAIN_S = 1.0
#: What can be wrong with one object while the others are fine. A store that is down or refuses the
#: credentials is not among it: skipping would make an empty epoch of that.
SKIPPABLE = (NotFoundError, ObjectChangedError, RangeError, IntegrityError, FormatError)


class Read(NamedTuple):
    """A wanted range of an object.

    Attributes:
        uri: The object.
        start: First byte.
        stop: Behind the last byte, or ``None`` for the end.
        into: Writable memory to read into, or ``None`` for memory of the library's own.
        size: Bytes this will take, if known (from a listing): counts against budgets; if it turns out
            to be another number, the object has changed and is not read.
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

    __slots__ = ("charge", "error", "index", "lease", "limit", "memory", "missing", "read", "version")

    def __init__(self, index: int, read: Read, charge: int = 0) -> None:
        self.index = index
        self.read = read
        self.charge = charge
        self.limit = 0
        self.lease: Lease | None = None
        self.memory = memoryview(b"")
        self.missing = 0
        self.version = _UNKNOWN
        self.error: S3dlioError | None = None

    def place(self, size: int) -> memoryview:
        """Take memory for the whole range, now that the size of the object is known.

        Returns:
            The memory of the first part.
        """
        read = self.read
        start, stop = read.start, read.stop
        length = stop - start if stop is not None and start < stop <= size else clamp(start, stop, size).length
        if 0 <= read.size != length:
            msg = f"{read.size} bytes were expected and {length} are there: the object has changed; list anew"
            raise ObjectChangedError(msg, uri=str(read.uri), operation="get")
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
        start = self.read.start
        limit = self._set_limit(store)
        if limit <= 0:
            self._begin_empty(store, token)
            return ()
        known = self.read.known
        if known is not None and known.size - start > limit:
            self.version = known
            self.place(known.size)
            return list(split(0, len(self.memory), store.options.chunk_size))
        self.version = read_first(self.read.uri, start, limit, self.place)
        return self.rest(store)

    def _set_limit(self, store: Store) -> int:
        start, stop = self.read.start, self.read.stop
        self.limit = store.first_bytes if stop is None else min(store.first_bytes, stop - start)
        return self.limit

    def can_flow(self, store: Store) -> bool:
        """Tell whether this begins with a plain request for its first part."""
        return self._set_limit(store) > 0 and self.read.known is None

    def rest(self, store: Store) -> Sequence[Span]:
        """Return the spans (within the memory) of what is left behind the first part."""
        if len(self.memory) <= self.limit:
            return ()
        return list(split(self.limit, len(self.memory), store.options.chunk_size))

    def _begin_empty(self, store: Store, token: CancellationToken) -> None:
        """Read nothing, of an object that must exist and reach that far all the same."""
        size = store.head(self.read.uri, token).size
        if self.read.start > size:
            msg = f"offset {self.read.start} lies behind the end of the object ({size} bytes)"
            raise RangeError(msg, uri=str(self.read.uri), operation="get_range")
        self.place(size)

    def view(self) -> BytesView:
        """Return the bytes read.

        Raises:
            S3dlioError: They could not be, and the batch is one that goes on all the same.
        """
        if self.error is not None:
            raise self.error
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
        #: Errors that concern one object only do not stop the others; they come instead of its bytes.
        self.lenient = False
        self.parts: deque[_Part] = deque()
        #: Jobs of readers ahead whose answer was not the usual one: read anew, which may take long, by others.
        self._strays: deque[Job] = deque()
        self._helpers = 0  # members that were hired for strays
        self._helpers_due = 0  # ... and have not begun
        self._openers = 0  # threads that make connections
        self._open_after = 0.0  # no sooner are more made
        self.views: list[BytesView | S3dlioError | None] = [None] * len(reads)
        self._reads = enumerate(list(reads))  # over a list, next() is atomic

    def work(self) -> None:
        """See :meth:`s3dlio.crew.Gang.work`."""
        self._help()
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
                job = self.next_lane_job()
                if job is None:
                    return
                self._begin(job, read_first)

    def _begin(self, job: Job, read_first: Reader) -> None:
        try:
            rest = job.begin(self.store, read_first, self.token)
        except SKIPPABLE as error:
            if not self.lenient:
                raise
            job.error, rest = error, ()
        self._began(job, rest)

    def _began(self, job: Job, rest: Sequence[Span]) -> None:
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
        return min(len(rest), self.store.range_width(job.read.uri)) - 1

    def _continue(self, part: _Part) -> None:
        job, span = part
        target = job.memory[span.start : span.stop]
        try:
            self.store.read_into(job.read.uri, job.read.start + span.start, target, job.version, self.token)
        except SKIPPABLE as error:
            if not self.lenient:
                raise
            job.error = error
        self._arrived(job)

    def _arrived(self, job: Job) -> None:
        with self.lock:
            job.missing -= 1
            if job.missing:
                return
        self.deliver(job)

    def work_ahead(self) -> None:
        """Work as a reader that has several requests under way at once, where the store can do that."""
        stretch = self.store.flow(self.token)
        if stretch is None:
            return
        with stretch as flow:
            while not self.token.is_cancelled:
                if self.parts:
                    self._try_part()
                    continue
                self._send_ahead(flow)
                if flow.pending:
                    self._receive(flow)
                elif self._strays:
                    self._try_stray()
                elif not self.parts:  # some jobs begin with parts
                    return

    def _send_ahead(self, flow: Stretch) -> None:
        """Ask for as many jobs as the window has room for."""
        wanted = []
        room = self.window - flow.pending
        for job in self.next_jobs(room) if room > 0 else ():
            if job.can_flow(self.store):
                read, limit = job.read, job.limit
                is_all = read.stop is not None and read.stop - read.start <= limit
                wanted.append(Wanted(job, read.uri, read.start, limit, is_all))
            else:
                self._begin(job, self._read_slowly)
        flow.ask(wanted)
        if flow.waiting:
            self._open_more(flow)

    def _receive(self, flow: Stretch) -> None:
        """Take answers to requests that were sent ahead; what is unusual is read anew, by others if there are any."""
        done: list[Job] = []
        for job, outcome in flow.receive():
            if outcome is None:
                self._leave_to_others(job)
            elif isinstance(outcome, S3dlioError):
                if not (self.lenient and isinstance(outcome, SKIPPABLE)):
                    raise outcome
                job.error = outcome
                done.append(job)
            elif len(job.memory) <= job.limit:
                done.append(job)
            else:
                job.version = Version(*outcome)
                self._began(job, job.rest(self.store))
        if done:
            self.deliver_all(done)

    def _try_part(self) -> None:
        with contextlib.suppress(IndexError):  # another reader was faster
            self._continue(self.parts.popleft())

    def _leave_to_others(self, job: Job) -> None:
        """Have a job read anew by another reader: its retries may take long, and others' answers wait."""
        self._strays.append(job)
        with self.lock:
            hires = self._helpers < _MOST_HELPERS and self.members < self.width
            if hires:
                self._helpers += 1
                self._helpers_due += 1
        if hires:
            self.hire(1)

    def _help(self) -> None:
        """Read strays, if that is what this member was hired for."""
        with self.lock:
            if not self._helpers_due:
                return
            self._helpers_due -= 1
        try:
            while self._strays and not self.token.is_cancelled:
                self._try_stray()
        finally:
            with self.lock:
                self._helpers -= 1

    def _try_stray(self) -> None:
        with contextlib.suppress(IndexError):  # another reader was faster
            self._begin(self._strays.popleft(), self._read_slowly)

    @property
    def readers(self) -> int:
        """How many members take jobs."""
        return self.members - self._helpers

    def _open_more(self, flow: Stretch) -> None:
        """Have connections made, half as many again as there are: each takes round trips, and answers wait."""
        if time.monotonic() < self._open_after:
            return
        with self.lock:
            if self._openers:
                return
            some = max(_FEW_OPENERS, (flow.pending - flow.waiting) // 2)
            # They are kept as idle ones until the flow takes them: no more than may be.
            count = self._openers = min(flow.waiting, some, _MOST_OPENERS, self.store.options.max_connections)
        crew = CREW.get()
        for _ in range(count):
            crew.start(functools.partial(self._open, flow.lacks))

    def _open(self, uri: Uri) -> None:
        try:
            self.store.make_ready(uri, self.token)
        except (OSError, S3dlioError):  # who needs one more than that makes it himself, and finds out why
            self._open_after = time.monotonic() + _OPEN_AGAIN_S
        finally:
            with self.lock:
                self._openers -= 1

    def _read_slowly(self, uri: Uri, start: int, limit: int, place: Place) -> Version:
        return self.store.read_first(uri, start, limit, place, self.token)

    # -- what others do otherwise -----------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Return a job that nobody has begun, or ``None``."""
        item = next(self._reads, None)
        return Job(*item) if item else None

    def next_jobs(self, count: int) -> Sequence[Job]:
        """Return up to ``count`` jobs that nobody has begun."""
        return [job for job in (self.next_job() for _ in range(count)) if job is not None]

    def next_lane_job(self) -> Job | None:
        """Return a job for a reader that has one request under way at a time."""
        return self.next_job()

    @property
    def window(self) -> int:
        """How many requests a reader ahead should have under way."""
        return 1

    def deliver(self, job: Job) -> None:
        """Deal with a job whose bytes are all there."""
        if self.views:
            self.views[job.index] = job.error or job.view()

    def deliver_all(self, jobs: list[Job]) -> None:
        """Deal with jobs whose bytes are all there."""
        for job in jobs:
            self.deliver(job)


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
