"""The fetcher: many reads at once, each into its own memory, large ones in parallel parts.

Floor 3. Decides how many readers a piece of work gets; must not know URIs' schemes, samples or formats.
How they work is in :mod:`s3dlio.jobs` and :mod:`s3dlio.stream`.

A ``get`` runs in the caller's thread; other readers join when there is more than one thing to do. How
many is bounded by the caller's ``max_in_flight`` and by what the store's latency can use: readers
beyond that only fight for the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from s3dlio.buffers import MIB, BytesView, Lease, view_of
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import OptionError
from s3dlio.jobs import Batch, Job, Plan, Read, WholeBatch
from s3dlio.options import DEFAULT_IN_FLIGHT
from s3dlio.stores.base import Reader, Store
from s3dlio.stream import Budget, Stream
from s3dlio.uri import Uri

__all__ = ["DEFAULT_BUDGET_BYTES", "Fetcher", "Read"]

#: What one read costs the interpreter, in seconds (measured: 40-60 us): a reader that waits longer
#: than this for its first byte leaves room for another.
_COST_S = 50e-6
#: Readers that a store without latency can use (measured on loopback: 4 and 8 alike, 32 a third less).
_FEW = 6
#: Threads that sweep a store without latency: one copies while another one runs Python.
_FEW_THREADS = 2
#: Bytes in flight and waiting, by default, of a stream: seconds of work for a GPU, little of a host.
DEFAULT_BUDGET_BYTES = 256 * MIB


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
        job = Job(0, read)
        token = self._parent()
        rest = job.begin(self.store, self._first_reader(token), token)
        if rest:
            width = self.store.options.max_concurrent_ranges
            batch = Batch(self.store, (), width, token)
            batch.join(batch.add_parts(job, rest))
        return job.view()

    def read_all(self, reads: Sequence[Read]) -> list[BytesView]:
        """Read many ranges at once and return their bytes in the order of ``reads``.

        The first failure stops the rest and is raised.
        """
        if len(reads) <= 1:
            return [self.read(read) for read in reads]
        batch = Batch(self.store, reads, self.max_in_flight, self._parent())
        batch.join(min(len(reads), self.useful_width(reads[0].uri)) - 1)
        return batch.views  # type: ignore[return-value]  # join() has seen to it that all are there

    def read_whole(self, uris: Sequence[Uri]) -> list[BytesView]:
        """Read many whole objects at once and return their bytes in the order of ``uris``.

        The first failure stops the rest and is raised.
        """
        if len(uris) <= 1:
            return [self.read(Read(uri)) for uri in uris]
        plan = self._plan(uris)
        batch = WholeBatch(self.store, uris, plan, self._parent())
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
        budget = Budget(budget_bytes, self.max_in_flight, _FEW, self.useful_width)
        yield from Stream(self.store, iter(reads), budget, self._parent()).consume(ordered=ordered)

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
