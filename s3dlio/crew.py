"""The threads that work for the library, and how they work together.

Floor 3. Knows threads and how they end; must not know what they do. A :class:`Crew` grows on demand,
its idle threads go home after a while, and it belongs to one process: a forked child hires its own. A
:class:`Gang` is some of them, and the caller, at work on one thing.

Daemon threads, stopped by an exit hook: the standard pools' threads would make an interpreter that
ends with a read in flight wait for that read.
"""

from __future__ import annotations

import abc
import atexit
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.errors import CancelledError
from s3dlio.perprocess import PerProcess

T = TypeVar("T")
R = TypeVar("R")

#: An idle thread costs little, and training loops pause for validation.
_IDLE_S = 60.0
#: At exit, reads are broken off and end at once; a thread stuck elsewhere is not waited for longer.
_EXIT_WAIT_S = 2.0


class Crew:
    """Threads for short-lived jobs, reused."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: set[threading.Thread] = set()
        #: Parent of the token of everything that runs here, so that the exit can stop it.
        self.token = CancellationToken()

    def start(self, job: Callable[[], None]) -> None:
        """Run ``job`` in a thread, now. It must not raise."""
        self._jobs.put(job)
        if self._idle.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._serve, name="s3dlio-reader", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads: those there are will come to it
            self._threads.discard(thread)
            if not self._threads:
                self._jobs.get_nowait()()

    def _serve(self) -> None:
        try:
            while True:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    job = self._wait()
                job()
                del job  # it holds the gang, and so the caller's buffers
        except queue.Empty:
            return
        finally:
            self._threads.discard(threading.current_thread())

    def _wait(self) -> Callable[[], None]:
        """Wait for a job; raise ``queue.Empty`` when it is time to go home."""
        self._idle.release()
        while True:
            try:
                return self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    raise
                # Somebody has counted on this thread between the two: a job is on its way.

    def dismiss(self) -> None:
        """Stop all work and wait a moment for the threads to notice."""
        self.token.cancel()
        threads = self._threads.copy()
        for _ in threads:
            self._jobs.put(_go_home)
        deadline = time.monotonic() + _EXIT_WAIT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _go_home() -> None:
    """End the thread that takes this for a job."""
    raise queue.Empty


#: This process's crew.
CREW: PerProcess[Crew] = PerProcess(Crew)


@atexit.register
def _at_exit() -> None:
    crew = CREW.peek()
    if crew is not None:
        crew.dismiss()


class Gang(abc.ABC):
    """Threads of the crew at work on one thing, until there is no more of it.

    Each member runs :meth:`work` once, and leaves. The first failure stops the others. The work is done when the last member has left.

    Args:
        width: Most members at once.
        parent: Cancelling it stops the work.
    """

    def __init__(self, width: int, parent: CancellationToken) -> None:
        self.width = width
        self.token = CancellationToken(parent)
        self.error: BaseException | None = None
        self.members = 0
        self.lock = threading.Lock()
        self._done = threading.Event()

    @abc.abstractmethod
    def work(self) -> None:
        """Do what one member does: piece after piece, until there is no more or the token is cancelled."""

    def finished(self) -> None:
        """Called when the last member has left."""

    def hire(self, count: int) -> None:
        """Put up to ``count`` more members to work, within the width."""
        with self.lock:
            count = min(count, self.width - self.members)
            if count <= 0 or self.token.is_cancelled:
                return
            self.members += count
        crew = CREW.get()
        for _ in range(count):
            crew.start(self._serve)

    def join(self) -> None:
        """Work in the calling thread too until all is done; raise the first failure.

        An exception in this thread (Ctrl-C) stops the members before it goes on: none of them writes
        to the caller's memory any more when this returns.
        """
        with self.lock:
            self.members += 1
        self._serve()
        try:
            self._done.wait()
        except BaseException:
            self.token.cancel()
            self._done.wait()
            raise
        finally:
            self.token.detach()
        if self.error is not None:
            raise self.error
        self.token.check()  # stopped from outside: what is there is not all

    def _serve(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: join() raises it again
            self.fail(error)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self.lock:
            self.members -= 1
            last = self.members == 0
        if last:
            self.finished()
            self._done.set()

    def fail(self, error: BaseException) -> None:
        """Keep the first failure and stop the others."""
        with self.lock:
            # What the others report after the first failure is that they were stopped.
            if self.error is None or isinstance(self.error, CancelledError):
                self.error = error
        self.token.cancel()


class _Mapping(Gang, Generic[T, R]):
    def __init__(self, work: Callable[[T], R], items: list[T], width: int, parent: CancellationToken) -> None:
        super().__init__(width, parent)
        self._work = work
        self._todo: Iterator[tuple[int, T]] = iter(list(enumerate(items)))
        self.results: list[R | None] = [None] * len(items)

    def work(self) -> None:
        for index, item in self._todo:  # one iterator for all members: a list's own is atomic
            if self.token.is_cancelled:
                return
            self.results[index] = self._work(item)


def map_all(work: Callable[[T], R], items: Iterable[T], width: int, parent: CancellationToken) -> list[R]:
    """Call ``work`` on every item, up to ``width`` at once, and return the results in order.

    Raises:
        BaseException: The first failure, as it was raised; what had not begun is not begun.
    """
    gang = _Mapping(work, list(items), max(1, width), parent)
    gang.hire(min(len(gang.results), gang.width) - 1)
    gang.join()
    return gang.results  # type: ignore[return-value]
