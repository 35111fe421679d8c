"""A stream: reading ahead of a consumer, within a budget of bytes.

Floor 3. Knows what is held and what may still be taken; must not know stores' schemes, samples or who
consumes. It belongs to the process that began it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from s3dlio.buffers import MIB, BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.errors import ForkError, S3dlioError
from s3dlio.jobs import Batch, Job, Read
from s3dlio.pace import Pace
from s3dlio.stores.base import Store
from s3dlio.uri import Uri

#: Assumed size of an object whose size is not known, until the first ones have arrived.
_GUESS_BYTES = MIB
#: A stream looks again at the latency after this many objects.
_ADAPT_EVERY = 16
#: Threads that read from a store without latency: one copies while another one runs Python.
_FEW_THREADS = 2


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
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._room = threading.Lock()
        self._held_bytes = 0
        self._held = 0  # jobs taken and not yet consumed
        self._taken = 0
        self._parked = False  # some reader has left for lack of room
        self._exhausted = False
        self._mean = _GUESS_BYTES
        self._wanted = budget.start  # readers, until the latency is known
        self._window = 1  # requests that each has under way
        self._pace: Pace | None = None
        self._left = False  # the consumer has gone
        self._flight = budget.max_in_flight  # requests that all may have under way
        self._read_bytes = 0  # since the last look at the pace
        self._hungry = True  # there was room to read into, since then
        self._pid = os.getpid()

    # -- the readers' side ------------------------------------------------------------------------

    def work(self) -> None:
        """See :meth:`s3dlio.crew.Gang.work`: one request at a time, until it is known how late the store is."""
        if self._window == 1:
            super().work()
        if self._window > 1:
            self.work_ahead(self._window)

    def next_lane_job(self) -> Job | None:
        """See :meth:`s3dlio.jobs.Batch.next_lane_job`."""
        return self._take() if self._window == 1 else None

    def next_job(self) -> Job | None:
        """See :meth:`s3dlio.jobs.Batch.next_job`: for a reader with several requests under way."""
        return self._take() if self._window > 1 else None

    def _take(self) -> Job | None:
        """Take the next job; ``None`` also while there is no room, or for a reader too many."""
        with self._room:
            if self._pace is not None and self._pace.cap < self._flight:  # the server has just said so
                self._window, self._wanted = 1, self._pace.cap
            # One job is always admitted, however large: else nothing would ever move.
            full = self._held_bytes >= self._budget.size or self._held >= self._most
            if self._exhausted:
                return None
            if (full and self._held) or self.members > self._wanted:
                self._parked = self._parked or full
                self._hungry = self._hungry and not full
                return None
            try:
                read = next(self._source)
            except StopIteration:
                self._exhausted = True
                return None
            charge = read.size if read.size >= 0 else self._mean
            job = Job(self._taken, read, charge)
            self._taken += 1
            self._held += 1
            self._held_bytes += charge
            return job

    def deliver(self, job: Job) -> None:
        """See :meth:`s3dlio.jobs.Batch.deliver`."""
        with self._room:
            actual = len(job.memory)
            self._held_bytes += actual - job.charge
            job.charge = actual
            self._mean += (actual - self._mean) // 8
            self._read_bytes += actual
        self._arrivals.put(job)
        if job.index % _ADAPT_EVERY == 0:
            self._adapt(job.read.uri)
            self._go()

    def _adapt(self, uri: Uri) -> None:
        """Follow the store's pace: so many requests under way, by as few threads as that takes."""
        pace = self._note_progress(uri)
        width = self._budget.width(uri)
        # A busy server is asked by single readers, of which some can be told to end.
        window = 1 if pace is not None and pace.is_braked else self.store.flow_window(uri, width)
        with self._room:
            self._wanted = width if window == 1 else max(_FEW_THREADS, -(-width // window))
            self._window = window
            self._flight = self._wanted * window

    def _note_progress(self, uri: Uri) -> Pace | None:
        """Tell the store's pace what was read since the last time, and return it."""
        pace, now = self._pace or self.store.pace(uri), time.monotonic()
        with self._room:
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
            pace.note_progress(now, _ADAPT_EVERY, length, hungry=hungry)
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
            with self._room:
                if self._exhausted and taken == self._taken:
                    return None
            job = self._arrivals.get()
            if job is not None:
                return job
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
            self.hire(self._wanted - self.members)
