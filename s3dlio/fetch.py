"""The fetcher: many reads at once, each into its own memory, large ones in parallel parts.

Floor 3. Decides how many readers a piece of work gets; must not know URIs' schemes, samples or formats.
How they work is in :mod:`s3dlio.jobs` and :mod:`s3dlio.stream`.

A ``get`` runs in the caller's thread; other readers join when there is more than one thing to do. How
many is bounded by the caller's ``max_in_flight`` and by the store's pace (:mod:`s3dlio.pace`): readers
beyond what its latency can use only fight for the interpreter, and a busy server refuses them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from s3dlio.bounds import whole
from s3dlio.buffers import MIB, BytesView, Lease, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import S3dlioError
from s3dlio.jobs import Batch, Job, Read, WholeBatch
from s3dlio.options import DEFAULT_IN_FLIGHT
from s3dlio.pace import FEW, Pace, depth_for
from s3dlio.stores.base import Plan, Reader, Store
from s3dlio.stream import Budget, Stream
from s3dlio.uri import Uri

__all__ = ["DEFAULT_BUDGET_BYTES", "Fetcher", "Read"]

#: Threads that sweep a store without latency: one copies while another one runs Python.
_FEW_THREADS = 2
#: Bytes in flight and waiting, by default, of a stream: seconds of work for a GPU, little of a host.
DEFAULT_BUDGET_BYTES = 256 * MIB


#: A batch looks after so many objects whether a server that was busy takes more again.
_LOOK_EVERY = 16


class _Braked(Batch):
    """A batch whose readers end early while the server says that they are too many.

    The one whose call this is stays, so that no work is left behind.
    """

    pace: Pace | None = None

    def join(self, helpers: int = 0) -> None:
        """See :meth:`s3dlio.crew.Gang.join`."""
        self._caller = threading.get_ident()
        self._readers = helpers + 1
        super().join(helpers)

    def next_job(self) -> Job | None:
        """See :meth:`s3dlio.jobs.Batch.next_job`: ``None`` also for a reader too many."""
        pace = self.pace
        if pace is not None and self.members > pace.cap and threading.get_ident() != self._caller:
            return None
        return super().next_job()

    def deliver(self, job: Job) -> None:
        """See :meth:`s3dlio.jobs.Batch.deliver`."""
        super().deliver(job)
        pace = self.pace
        if pace is not None and pace.is_braked and job.index % _LOOK_EVERY == 0:
            self.hire(pace.width(self._readers, time.monotonic()) - self.members)


class _Reads(_Braked):
    """See :class:`s3dlio.jobs.Batch`."""


class _Wholes(_Braked, WholeBatch):
    """See :class:`s3dlio.jobs.WholeBatch`."""


class Fetcher:
    """Reads from one store.

    Thread-safe; works in forked children.

    Args:
        store: Where the objects are.
        max_in_flight: Most requests at once, at least 1.
        token: Stops everything this fetcher does.
        lenient: In :meth:`read_all` and :meth:`stream`, an error that concerns one object only (it is not
            there, has changed) comes in place of its bytes, and the others are read all the same.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        token: CancellationToken | None = None,
        lenient: bool = False,
    ) -> None:
        self.store = store
        self.max_in_flight = whole("max_in_flight", max_in_flight, 1)
        self._token = token
        self._lenient = lenient

    def read(self, read: Read) -> BytesView:
        """Read one range; large ones in parts, in parallel.

        Raises:
            StoreError: The object is not there, changed, or cannot be read.
            RangeError: The range starts behind the end of the object.
        """
        job = Job(0, read)
        token = self._parent()
        rest = job.begin(self.store, self._first_reader(token), token)
        if rest:
            width = self.store.range_width(read.uri)
            batch = Batch(self.store, (), width, token)
            batch.join(batch.add_parts(job, rest))
        return job.view()

    def read_all(self, reads: Sequence[Read]) -> list[BytesView | S3dlioError]:
        """Read many ranges at once and return their bytes in the order of ``reads``.

        The first failure stops the rest and is raised, unless the fetcher is lenient about it.
        """
        if len(reads) == 1 and not self._lenient:
            return [self.read(reads[0])]
        if not reads:
            return []
        batch = _Reads(self.store, reads, self.max_in_flight, self._parent())
        batch.lenient = self._lenient
        with self._company(batch, reads[0].uri):
            batch.join(min(len(reads), self.useful_width(reads[0].uri)) - 1)
        return batch.views  # type: ignore[return-value]  # join() has seen to it that all are there

    def read_whole(self, uris: Sequence[Uri]) -> list[BytesView]:
        """Read many whole objects at once and return their bytes in the order of ``uris``.

        The first failure stops the rest and is raised.
        """
        if len(uris) <= 1:
            return [self.read(Read(uri)) for uri in uris]
        plan = self._plan(uris)
        batch = _Wholes(self.store, uris, plan, self._parent())
        with self._company(batch, uris[0]):
            batch.join(plan.threads - 1)
        # All at the end: in the midst of reading the same lines take three times as long.
        return [view_of(found) if type(found) is Lease else found for found in batch.results]  # type: ignore[misc]

    def _plan(self, uris: Sequence[Uri]) -> Plan:
        flight = min(len(uris), self.useful_width(uris[0]))
        window = self.store.window(uris[0], flight)
        if window == 1:
            return Plan(flight, 1)
        flight = min(len(uris), self.max_in_flight, max(flight, _FEW_THREADS * window))
        threads = min(flight, max(_FEW_THREADS, -(-flight // window)))
        return Plan(threads, -(-flight // threads))

    def stream(
        self, reads: Iterable[Read], *, budget_bytes: int = DEFAULT_BUDGET_BYTES, ordered: bool = True
    ) -> Iterator[tuple[Read, BytesView | S3dlioError]]:
        """Read ahead of the consumer.

        Args:
            reads: What to read, taken from one thread at a time as room comes free.
            budget_bytes: Most bytes in flight or waiting to be taken. One object larger than this is
                read alone.
            ordered: Yield in the order of ``reads``; else as they arrive.

        Yields:
            The read and its bytes (of a lenient fetcher also the error that came instead).

        Raises:
            ForkError: The stream was begun in another process.
        """
        budget = Budget(budget_bytes, self.max_in_flight, FEW, self.useful_width)
        stream = Stream(self.store, iter(reads), budget, self._parent())
        stream.lenient = self._lenient
        yield from stream.consume(ordered=ordered)

    def useful_width(self, uri: Uri) -> int:
        """Return how many readers the store can keep busy now."""
        pace = self.store.pace(uri)
        if pace is not None:
            return pace.width(self.max_in_flight, time.monotonic())
        latency = self.store.latency_s(uri) if self.store.options.adaptive else None
        return self.max_in_flight if latency is None else depth_for(latency, self.max_in_flight)

    @contextlib.contextmanager
    def _company(self, batch: _Braked, uri: Uri) -> Iterator[None]:
        """Have a batch share the store's pace with whoever else reads there."""
        pace = batch.pace = self.store.pace(uri)
        if pace is None:
            yield
            return
        pace.join(batch)
        try:
            yield
        finally:
            pace.leave(batch)

    def _first_reader(self, token: CancellationToken) -> Reader:
        return lambda uri, start, limit, place: self.store.read_first(uri, start, limit, place, token)

    def _parent(self) -> CancellationToken:
        return self._token or CREW.get().token
