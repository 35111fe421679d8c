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
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.errors import CancelledError
from s3dlio.perprocess import PerProcess

T = TypeVar("T")
R = TypeVar("R")

#: An idle thread costs little, and training loops pause for validation.
_IDLE_S = 60.0
#: At exit, reads are broken off and end at once; a thread stuck elsewhere is not waited for longer.
_EXIT_WAIT_S = 2.0
#: Between two looks at readers that have been told to stop.
_POLL_S = 0.001


#: What an idle thread waits at: the next job, or ``None`` to go home.
_Mailbox = queue.SimpleQueue[Callable[[], None] | None]


class Crew:
    """Threads for short-lived jobs, reused. Each job is handed to one thread, idle or new, that has no other."""

    def __init__(self) -> None:
        #: The last to become idle on top, so that those not needed go home. All its methods are atomic.
        self._idle: deque[_Mailbox] = deque()
        self._threads: set[threading.Thread] = set()
        self._dismissed = False
        #: Parent of the token of everything that runs here, so that the exit can stop it.
        self.token = CancellationToken()

    def start(self, job: Callable[[], None]) -> None:
        """Run ``job`` in a thread, now. It must not raise.

        Where the system gives no thread (a limit, an interpreter that ends) it runs in this one.
        """
        try:
            mailbox = self._idle.pop()
        except IndexError:
            self._hire(job)
        else:
            mailbox.put(job)

    def _hire(self, job: Callable[[], None]) -> None:
        mailbox: _Mailbox = queue.SimpleQueue()
        mailbox.put(job)  # beforehand: Ctrl-C while the thread starts must not leave it without
        thread = threading.Thread(target=self._serve, args=(mailbox,), name="s3dlio-reader", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            job()

    def _serve(self, mailbox: _Mailbox) -> None:
        self._threads.add(threading.current_thread())  # not before: dismiss() joins what it finds here
        try:
            job = mailbox.get()
            while job is not None:
                job()
                job = None  # it holds the gang, and so the caller's buffers
                job = self._next(mailbox)
        finally:
            self._threads.discard(threading.current_thread())

    def _next(self, mailbox: _Mailbox) -> Callable[[], None] | None:
        """Wait for a job; return ``None`` when it is time to go home."""
        self._idle.append(mailbox)
        try:
            return mailbox.get(timeout=0.0 if self._dismissed else _IDLE_S)
        except queue.Empty:
            pass
        try:
            self._idle.remove(mailbox)
        except ValueError:  # somebody has counted on this thread between the two: a job is on its way
            return mailbox.get()
        return None

    def dismiss(self) -> None:
        """Stop all work and wait a moment for the threads to notice."""
        self._dismissed = True
        self.token.cancel()
        deadline = time.monotonic() + _EXIT_WAIT_S
        while self._idle:
            self._idle.pop().put(None)
        for thread in self._threads.copy():
            thread.join(max(0.0, deadline - time.monotonic()))


#: This process's crew.
CREW: PerProcess[Crew] = PerProcess(Crew)


@atexit.register
def _at_exit() -> None:
    crew = CREW.take()  # what later exit handlers read or write, a new crew does
    if crew is not None:
        threading.excepthook = _without_cancelled(threading.excepthook)
        crew.dismiss()


def _without_cancelled(hook: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], Any]:
    """Return a hook that is silent about the users' daemon threads whose reads the exit has stopped."""

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, CancelledError):
            hook(args)

    return report


class Gang(abc.ABC):
    """Threads of the crew at work on one thing, until there is no more of it.

    Each member runs :meth:`work` once, and leaves. The first failure stops the others. The work is
    done when the last member has left.

    Args:
        width: Most members at once.
        parent: Cancelling it stops the work.
    """

    def __init__(self, width: int, parent: CancellationToken) -> None:
        self.width = width
        self.token = CancellationToken(parent, CREW.get().token)  # the exit stops what has a token of its own, too
        self.error: BaseException | None = None
        self.members = 0
        self.lock = threading.Lock()
        self._at_work: dict[object, int] = {}
        self._done = threading.Event()

    @abc.abstractmethod
    def work(self) -> None:
        """Do what one member does: piece after piece, until there is no more or the token is cancelled.

        It looks at the token before the first piece, too.
        """

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

    def join(self, helpers: int = 0) -> None:
        """Work in the calling thread, with ``helpers`` hired, until all is done; raise the first failure.

        An exception in this thread (Ctrl-C) stops the members before it goes on: none of them writes
        to the caller's memory any more when this returns.
        """
        try:
            with self.lock:
                self.members += 1
            self.hire(helpers)
            self._serve()
            self._done.wait()
        except BaseException:
            self.token.cancel()
            self._await_others()
            raise
        finally:
            self.token.detach()
        if self.error is not None:
            error, self.error = self.error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame, and this frame the buffers
        self.token.check()  # stopped from outside: what is there is not all

    def _await_others(self) -> None:
        """Wait until no other thread is at work, where the count of members cannot be trusted any more."""
        me = threading.get_ident()
        while any(thread != me for thread in self._at_work.copy().values()):
            time.sleep(_POLL_S)

    def _serve(self) -> None:
        mark = object()  # not the thread: without threads to have, a member works within another's work
        # The entry before the look at the token (in work()), which _await_others() relies on.
        self._at_work[mark] = threading.get_ident()
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: join() raises it again
            self.fail(error)
        finally:
            del self._at_work[mark]
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
    def __init__(
        self, work: Callable[[T, CancellationToken], R], items: list[T], width: int, parent: CancellationToken
    ) -> None:
        super().__init__(width, parent)
        self._work = work
        self._todo: Iterator[tuple[int, T]] = iter(list(enumerate(items)))
        self.results: list[R | None] = [None] * len(items)

    def work(self) -> None:
        for index, item in self._todo:  # one iterator for all members: a list's own is atomic
            if self.token.is_cancelled:
                return
            self.results[index] = self._work(item, self.token)


def map_all(
    work: Callable[[T, CancellationToken], R], items: Iterable[T], width: int, parent: CancellationToken
) -> list[R]:
    """Call ``work`` on every item, up to ``width`` at once, and return the results in order.

    ``work`` is handed the token that stops it when another item has failed.

    Raises:
        BaseException: The first failure, as it was raised; what had not begun is not begun.
    """
    gang = _Mapping(work, list(items), max(1, width), parent)
    gang.join(min(len(gang.results), gang.width) - 1)
    return gang.results  # type: ignore[return-value]
