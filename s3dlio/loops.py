"""One iteration over batches, in a ``for`` or in an ``async for`` loop.

Floor 6. Knows threads and asyncio, but starts no event loop; must not know what a batch is, nor how it is
read. Whoever waits for a batch does so without holding anybody up: an event loop goes on, a timeout is
heeded, and leaving the loop, by whichever way, stops the reading.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import ClosedError, OptionError, StoreTimeoutError
from s3dlio.resume import Run

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Source(Protocol[T_co]):
    """Where batches come from."""

    def begin(self) -> Run:
        """Begin an iteration. In any thread; may take long."""

    def read(self, run: Run, token: CancellationToken) -> Iterator[tuple[int, T_co]]:
        """Read the batches of an iteration, each behind the number of its steps. In any thread."""

    def note(self, run: Run, steps: int) -> None:
        """Note that a batch of so many steps is handed out."""

    def end(self, run: Run) -> None:
        """Note that the end is told."""


class Outcome(NamedTuple):
    """What came of reading on: a batch behind its steps, an error, or neither at the end."""

    taken: tuple[int, Any] | None = None
    error: BaseException | None = None

    def open(self) -> tuple[int, Any] | None:
        """Return what was taken, or raise what came instead."""
        if self.error is None:
            return self.taken
        raise self.error


class Reading(Generic[T]):
    """One iteration. Reads one batch at a time, in whichever thread; belongs to one loop.

    Args:
        source: Says what to read, and is told what was handed out.
        token: Stops it; its own.
        timeout_s: Seconds to wait for a batch; ``None``: as long as it takes.
    """

    def __init__(self, source: Source[T], token: CancellationToken, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._source = source
        self._token = token
        self._run: Run | None = None
        self._batches: Iterator[tuple[int, T]] = iter(())
        self._fault = ""
        self._ended = False

    @property
    def has_begun(self) -> bool:
        """Whether it reads objects, and not only finds out which there are."""
        return self._run is not None

    def take(self) -> tuple[int, T] | None:
        """Read the next batch; ``None`` at the end.

        Raises:
            ClosedError: It has failed or was stopped before.
        """
        if self._ended:
            return None
        if self._fault:
            msg = f"this loop is over ({self._fault}); begin a new one"
            raise ClosedError(msg)
        try:
            if self._run is None:
                run = self._source.begin()
                self._token.check()  # that may have taken long
                self._batches, self._run = self._source.read(run, self._token), run
            return next(self._batches, None)
        except BaseException as error:
            self._fault = f"{type(error).__name__}: {error}"
            raise

    def attempt(self) -> Outcome:
        """Do as :meth:`take` does, but raise nothing."""
        try:
            return Outcome(self.take())
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: whoever waits raises it
            return Outcome(error=error)

    def hand(self, taken: tuple[int, T] | None) -> tuple[T] | None:
        """Note that what was taken is handed out, and return the batch alone; ``None`` at the end."""
        if taken is None:
            if not self._ended and self._run is not None:
                self._ended = True
                self._source.end(self._run)
                self.stop()
            return None
        steps, batch = taken
        if self._run is not None:
            self._source.note(self._run, steps)
        return (batch,)

    def stop(self) -> None:
        """Stop it for good, from any thread."""
        self._fault = self._fault or "it was stopped"
        self._token.cancel()
        self._token.detach()

    def late(self) -> StoreTimeoutError:
        """Stop it, and return the error of a batch that has not come in time."""
        self._fault = msg = f"no batch came within {self.timeout_s:g} s (timeout_seconds)"
        self.stop()
        return StoreTimeoutError(msg, operation="load")


class Loop(Iterator[T]):
    """What a ``for`` loop iterates over."""

    def __init__(self, reading: Reading[T]) -> None:
        self._reading = reading

    def __next__(self) -> T:
        """Return the next batch."""
        reading = self._reading
        taken = reading.take() if reading.timeout_s is None else self._take_within(reading.timeout_s)
        handed = reading.hand(taken)
        if handed is None:
            raise StopIteration
        return handed[0]

    def _take_within(self, seconds: float) -> tuple[int, T] | None:
        reading, box = self._reading, queue.SimpleQueue[Outcome]()
        CREW.get().start(lambda: box.put(reading.attempt()))
        try:
            outcome = box.get(timeout=seconds)
        except queue.Empty:
            raise reading.late() from None
        except BaseException:
            reading.stop()
            raise
        try:
            return outcome.open()
        finally:
            del outcome  # the error's traceback holds this frame, which would hold the error

    def close(self) -> None:
        """Stop the reading."""
        self._reading.stop()

    def __del__(self) -> None:
        """Stop the reading: nobody takes its batches."""
        self._reading.stop()


class AsyncLoop(AsyncIterator[T]):
    """What an ``async for`` loop iterates over. One task at a time."""

    def __init__(self, reading: Reading[T]) -> None:
        self._reading = reading
        self._is_awaited = False

    async def __anext__(self) -> T:
        """Return the next batch; a thread of the library waits for it meanwhile.

        Raises:
            OptionError: Another task waits for it.
        """
        if self._is_awaited:
            msg = "another task waits for the next batch of this loop; give each task a loop of its own"
            raise OptionError(msg, operation="load")
        self._is_awaited = True
        try:
            outcome = await self._outcome()
        finally:
            self._is_awaited = False
        try:
            handed = self._reading.hand(outcome.open())
        finally:
            del outcome  # the error's traceback holds this frame, which would hold the error
        if handed is None:
            raise StopAsyncIteration
        return handed[0]

    async def _outcome(self) -> Outcome:
        reading = self._reading
        waiter = _send(reading, asyncio.get_running_loop())
        try:
            await asyncio.wait([waiter], timeout=reading.timeout_s)
        except asyncio.CancelledError:
            reading.stop()
            # Until the thread is gone, so that nothing is left behind; a second cancel does not wait.
            # Finding out what there is to read cannot be broken off: that ends by itself.
            if reading.has_begun:
                await asyncio.wait([waiter])
            raise
        except BaseException:  # the event loop was closed half-way
            reading.stop()
            raise
        if not waiter.done():
            raise reading.late()
        return waiter.result()

    async def aclose(self) -> None:
        """Stop the reading."""
        self._reading.stop()

    def __del__(self) -> None:
        """Stop the reading: nobody takes its batches."""
        self._reading.stop()


def _send(reading: Reading[Any], loop: asyncio.AbstractEventLoop) -> asyncio.Future[Outcome]:
    """Have a thread read the next batch; return what the event loop can wait for."""
    waiter: asyncio.Future[Outcome] = loop.create_future()

    def work() -> None:
        outcome = reading.attempt()
        try:
            loop.call_soon_threadsafe(_settle, waiter, outcome)
        except RuntimeError:  # the event loop was closed half-way: nobody waits any more
            reading.stop()

    CREW.get().start(work)
    return waiter


def _settle(waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
