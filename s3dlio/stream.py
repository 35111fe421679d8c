"""A stream: reading ahead of a consumer, within a budget of bytes.

Floor 3. Knows what is held and what may still be taken; must not know stores' schemes, samples or who
consumes. It belongs to the process that began it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from s3dlio.buffers import MIB, BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.errors import ForkError, S3dlioError
from s3dlio.jobs import Batch, Job, Read
from s3dlio.pace import Pace
from s3dlio.stores.base import Plan, Store
from s3dlio.uri import Uri

#: Assumed size of an object whose size is not known, until the first ones have arrived.
_GUESS_BYTES = MIB
#: A stream looks again at the latency after this many objects.
_ADAPT_EVERY = 16


class Budget(NamedTuple):
    """What a stream may hold.

    Attributes:
        size: Bytes in flight or waiting to be taken.
        max_in_flight: Requests at once.
        start: Readers to begin with.
        width: How many readers an object's store can keep busy.
    """

    size: int
    max_in_flight: int
    start: int
    width: Callable[[Uri], int]


class Stream(Batch):
    """A batch whose jobs come as room comes free, and whose results are taken one by one.

    Args:
        store: Where the objects are.
        reads: What to read, taken from one thread at a time.
        budget: Most bytes and most requests in flight, and how many of these the store can use.
        parent: Stops the stream.
    """

    def __init__(self, store: Store, reads: Iterator[Read], budget: Budget, parent: CancellationToken) -> None:
        super().__init__(store, (), budget.max_in_flight, parent)
        self._source = reads
        self._budget = budget
        self._most = 2 * budget.max_in_flight
        self._arrivals: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._came: deque[Job] = deque()  # of these, what the consumer has not looked at
        self._room = threading.Lock()
        self._held_bytes = 0
        self._held = 0  # jobs taken and not yet consumed
        self._taken = 0
        self._parked = False  # some reader has left for lack of room
        self._exhausted = False
        self._mean = _GUESS_BYTES
        self._wanted = budget.start  # readers, until the latency is known
        self._window = 1  # requests that each has under way
        self._unseen = 0  # jobs that have come since the last look at the pace
        self._pace: Pace | None = None
        self._left = False  # the consumer has gone
        self._flight = budget.max_in_flight  # requests that all may have under way
        self._read_bytes = 0  # since the last look at the pace
        self._hungry = True  # there was room to read into, since then
        self._pid = os.getpid()

    # -- the readers' side ------------------------------------------------------------------------

    def work(self) -> None:
        """See :meth:`s3dlio.crew.Gang.work`: one request at a time, until it is known how late the store is."""
        super().work()
        if self._window > 1:
            self.work_ahead()

    @property
    def window(self) -> int:
        """See :attr:`s3dlio.jobs.Batch.window`."""
        return self._window

    def next_lane_job(self) -> Job | None:
        """See :meth:`s3dlio.jobs.Batch.next_lane_job`."""
        if self._window > 1:
            return None
        jobs = self._take(1)
        return jobs[0] if jobs else None

    def next_jobs(self, count: int) -> Sequence[Job]:
        """See :meth:`s3dlio.jobs.Batch.next_jobs`: for a reader with several requests under way."""
        return self._take(count) if self._window > 1 else ()

    def _take(self, count: int) -> Sequence[Job]:
        """Take the next jobs; none also while there is no room, or for a reader too many."""
        jobs: list[Job] = []
        with self._room:
            if self._pace is not None and self._pace.cap < self._flight:  # the server has just said so
                self._window, self._wanted = 1, self._pace.cap
            while len(jobs) < count and not self._exhausted:
                # One job is always admitted, however large: else nothing would ever move.
                full = self._held_bytes >= self._budget.size or self._held >= self._most
                if (full and self._held) or self.readers > self._wanted:
                    self._parked = self._parked or full
                    self._hungry = self._hungry and not full
                    break
                try:
                    read = next(self._source)
                except StopIteration:
                    self._exhausted = True
                    break
                charge = read.size if read.size >= 0 else self._mean
                jobs.append(Job(self._taken, read, charge))
                self._taken += 1
                self._held += 1
                self._held_bytes += charge
        return jobs

    def deliver(self, job: Job) -> None:
        """See :meth:`s3dlio.jobs.Batch.deliver`."""
        self.deliver_all([job])

    def deliver_all(self, jobs: list[Job]) -> None:
        """See :meth:`s3dlio.jobs.Batch.deliver_all`."""
        with self._room:
            for job in jobs:
                actual = len(job.memory)
                self._held_bytes += actual - job.charge
                job.charge = actual
                self._mean += (actual - self._mean) // 8
                self._read_bytes += actual
            is_first = not self._unseen and self._pace is None
            self._unseen += len(jobs)
            looks = self._unseen >= _ADAPT_EVERY or is_first
        uri = jobs[0].read.uri
        self._arrivals.put(jobs)
        if looks:
            self._adapt(uri)
            self._go()

    def _adapt(self, uri: Uri) -> None:
        """Follow the store's pace: so many requests under way, by as few threads as that takes."""
        pace = self._note_progress(uri)
        width = self._budget.width(uri)
        # A busy server is asked by single readers, of which some can be told to end.
        braked = pace is not None and pace.is_braked
        plan = Plan(width, 1) if braked else self.store.flow_plan(uri, width, self._mean)
        with self._room:
            self._wanted, self._window = plan
            self._flight = plan.threads * plan.window

    def _note_progress(self, uri: Uri) -> Pace | None:
        """Tell the store's pace what was read since the last time, and return it."""
        pace, now = self._pace or self.store.pace(uri), time.monotonic()
        with self._room:
            reads, self._unseen = self._unseen, 0
            length, self._read_bytes = self._read_bytes, 0
            hungry, self._hungry = self._hungry, True
            if pace is None:
                return None
            joins = self._pace is None
            self._pace = pace
        if joins:
            pace.join(self)
            if self._left:  # meanwhile
                pace.leave(self)
        else:
            pace.note_progress(now, reads, length, hungry=hungry)
        return pace

    def fail(self, error: BaseException) -> None:
        """See :meth:`s3dlio.crew.Gang.fail`: once the consumer has gone, nobody wants to know."""
        if self._left:
            self.token.cancel()
        else:
            super().fail(error)

    def finished(self) -> None:
        """See :meth:`s3dlio.crew.Gang.finished`."""
        # Wakes a consumer that waits for what will not come: the end, a failure, or room it has made.
        self._arrivals.put(None)

    # -- the consumer's side ----------------------------------------------------------------------

    def consume(self, *, ordered: bool) -> Iterator[tuple[Read, BytesView | S3dlioError]]:
        """Yield the results; stop the readers when the consumer stops."""
        try:
            self._go()
            early: dict[int, Job] = {}
            taken = 0
            while True:
                self._check_process()
                job = early.pop(taken, None) if ordered else None
                job = job or self._arrival(taken)
                if job is None:
                    return
                if ordered and job.index != taken:
                    early[job.index] = job
                    continue
                taken += 1
                result = job.read, job.error or job.view()
                self._release(job)
                del job  # the consumer alone keeps the bytes alive from here on
                yield result
                del result
        finally:
            self.token.cancel()
            self.token.detach()
            self._left = True
            if self._pace is not None:
                self._pace.leave(self)
            self.error = None  # its traceback holds the readers' frames, and these hold this and all that was read

    def _arrival(self, taken: int) -> Job | None:
        """Wait for the next job to arrive; ``None`` when all have been consumed."""
        while True:
            if self.error is not None:
                raise self.error
            if self._came:
                return self._came.popleft()
            with self._room:
                if self._exhausted and taken == self._taken:
                    return None
            came = self._arrivals.get()
            if came is not None:
                self._came.extend(came)
                continue
            if self.error is None:
                self._go()
                self.token.check()  # behind it: a cancelled stream hires nobody who would wake us

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            msg = "this iterator was begun in another process; begin a new one after the fork"
            raise ForkError(msg)

    def _release(self, job: Job) -> None:
        with self._room:
            self._held -= 1
            self._held_bytes -= job.charge
            # Some room, not the first byte of it: readers then come back in groups.
            roomy = self._held_bytes <= self._budget.size * 3 // 4 and self._held <= self._most * 3 // 4
            call = self._parked and roomy
            if call:
                self._parked = False
        if call:
            self._go()

    def _go(self) -> None:
        """Call in as many readers as the store can keep busy."""
        if not self._exhausted:
            self.hire(self._wanted - self.readers)
