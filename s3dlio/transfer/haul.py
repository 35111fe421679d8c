"""Many objects, carried: by threads here, or by batches elsewhere.

Floor 5. Decides how many are under way, what becomes of failures, and when to give up; must not know how one object is
carried (:mod:`s3dlio.transfer.carry`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from s3dlio.batches import cut, run_batches
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, Gang
from s3dlio.errors import CancelledError, S3dlioError
from s3dlio.memory import MIB
from s3dlio.options import StoreOptions
from s3dlio.progress import Count
from s3dlio.stores import open_store
from s3dlio.stores.base import Reader, Store
from s3dlio.transfer.carry import WHOLE_BYTES, Carrier
from s3dlio.transfer.plan import Failure, Move
from s3dlio.uri import PATH_SCHEMES, Uri

#: So many failures in a row, without one success between them, are not about single objects.
_GIVE_UP_AFTER = 100
#: Large objects under way at once: each has parts under way itself.
_LARGE_AT_ONCE = 4
_MOST_PARTS = 8
#: Small files go to files with so many threads at first. Where the kernel has all of it in memory, more of them only take the
#: interpreter from one another: 2,000 files of 64 KiB went at 15,000 a second with two threads, at 5,000 with 32.
_NEAR_AT_ONCE = 2
#: A file is waited for (a disk, a network) when carrying it takes so many times as long as this thread computes ...
_WAITING = 8.0
#: ... and when so many more of them are than are not, there are twice as many threads.
_SLOW_FILES = 8
#: A batch for an executor: what a worker does in seconds, so that little is lost with it.
_BATCH_OBJECTS = 256
_BATCH_BYTES = 256 * MIB


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of some moves.

    Attributes:
        transferred: Objects.
        total_bytes: Their sizes together.
        failures: What failed, and why.
        untried: Objects that were given up before their turn.
    """

    transferred: int = 0
    total_bytes: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)
    untried: int = 0

    def add(self, other: Tally) -> None:
        """Add what became of others."""
        self.transferred += other.transferred
        self.total_bytes += other.total_bytes
        self.failures += other.failures
        self.untried += other.untried


def haul(
    moves: Sequence[Move], open_one: Callable[[Uri], Store], width: int, count: Count, token: CancellationToken
) -> Tally:
    """Carry objects, up to ``width`` requests at once: the small ones first, then the large ones, in parts.

    Failures of single objects are tallied, the others are carried all the same; after a hundred in a row the rest
    is given up.

    Raises:
        CancelledError: The token was cancelled.
    """
    tally = Tally()
    small = [move for move in moves if move.size <= WHOLE_BYTES]
    large = [move for move in moves if move.size > WHOLE_BYTES]
    few = min(len(large), _LARGE_AT_ONCE, width) or 1
    for some, at_once in ((small, width), (large, few)):
        if some and not tally.untried:
            carrier = Carrier(open_one, max(1, min(_MOST_PARTS, width // at_once)), count.add)
            gang = _Haul(some, carrier, count, (min(at_once, len(some)), token))
            gang.join((min(gang.width, _NEAR_AT_ONCE) if gang.is_brief else gang.width) - 1)
            tally.add(gang.tally)
        elif some:
            tally.untried += len(some)
    return tally


class _Haul(Gang):
    def __init__(
        self, moves: Sequence[Move], carrier: Carrier, count: Count, company: tuple[int, CancellationToken]
    ) -> None:
        super().__init__(*company)
        self._todo = iter(list(moves))
        self._carrier = carrier
        self._count = count
        self._in_a_row = 0
        self._slow = 0
        self._lock = threading.Lock()
        self.is_brief = all(_is_brief(move) for move in moves)
        self.tally = Tally(untried=len(moves))

    def work(self) -> None:
        """See :meth:`s3dlio.crew.Gang.work`."""
        with contextlib.ExitStack() as lanes:
            readers: dict[str, Reader] = {}
            for move in self._todo:  # one iterator for all members: a list's own is atomic
                if self.token.is_cancelled or self._in_a_row >= _GIVE_UP_AFTER:
                    return
                read = readers.get(move.source.scheme)
                if read is None:
                    lane = self._carrier.store(move.source).lane(self.token)
                    read = readers[move.source.scheme] = lanes.enter_context(lane)
                if self.is_brief:
                    self._timed(move, read)
                else:
                    self._one(move, read)

    def _timed(self, move: Move, read: Reader) -> None:
        """Carry an object; if those before it were mostly waited for, too, put more threads to work."""
        began, computed = time.perf_counter(), time.thread_time()
        self._one(move, read)
        waits = time.perf_counter() - began > _WAITING * (time.thread_time() - computed)
        self._slow = self._slow + 1 if waits else max(0, self._slow - 1)  # about: threads may lose one another's
        if self._slow >= _SLOW_FILES:
            self._slow = 0
            self.hire(self.members)

    def _one(self, move: Move, read: Reader) -> None:
        try:
            size = self._carrier.carry(move, read, self.token)
        except CancelledError:
            raise
        except (S3dlioError, OSError) as error:
            with self._lock:
                self.tally.untried -= 1
                self._in_a_row += 1
                self.tally.failures.append(failure(move, error))
        else:
            with self._lock:
                self.tally.untried -= 1
                self._in_a_row = 0
                self.tally.transferred += 1
                self.tally.total_bytes += size
        self._count.add(0, 1)


def _is_brief(move: Move) -> bool:
    """Tell whether it may take less time to carry than the interpreter needs for it; large files are the kernel's."""
    return move.size <= WHOLE_BYTES and {move.source.scheme, move.target.scheme} <= PATH_SCHEMES


def failure(move: Move, error: Exception) -> Failure:
    """Return what is told of a move that failed. The traceback is let go of: it holds what was read."""
    return Failure(str(move.source), str(move.target), error.with_traceback(None))


# -- elsewhere ----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What one worker of an executor does: plain values.

    Attributes:
        moves: Source, target, size and entity tag of each.
        options: The stores' settings that the caller gave.
        width: Most requests at once.
    """

    moves: list[tuple[Uri, Uri, int, str]]
    options: StoreOptions | None
    width: int


def carry_batch(batch: Batch) -> Tally:
    """Carry a batch, in whichever process. Done twice it leaves the same."""
    moves = [Move(*one) for one in batch.moves]
    opener = functools.partial(open_store, options=batch.options)
    total = sum(max(0, move.size) for move in moves)
    return haul(moves, opener, batch.width, Count(total, lambda _done, _total: None), CREW.get().token)


def haul_elsewhere(
    moves: Sequence[Move],
    executor: Executor,
    how: tuple[StoreOptions | None, int],
    count: Count,
    token: CancellationToken,
) -> Tally:
    """Do as :func:`haul` does, by the workers of an executor; ``width`` is for each of them.

    Raises:
        CancelledError: The token was cancelled.
    """
    tally = Tally()
    for batch, result in run_batches(executor, carry_batch, _batches(moves, how), token):
        if isinstance(result, Tally):
            tally.add(result)
            count.add(result.total_bytes, len(batch.moves))
        elif isinstance(result, Exception):
            tally.failures += [failure(Move(*one), result) for one in batch.moves]
            count.add(0, len(batch.moves))
        else:
            raise result
    return tally


def _batches(moves: Sequence[Move], how: tuple[StoreOptions | None, int]) -> list[Batch]:
    def weight(move: Move) -> int:
        return max(0, move.size)

    groups: Iterator[list[Move]] = cut(moves, weight, most_items=_BATCH_OBJECTS, most_weight=_BATCH_BYTES)
    return [Batch([move[:4] for move in group], *how) for group in groups]
