"""Items drawn from an iterator in a thread of the library, a bounded number ahead of their use.

Floor 6. Knows threads and order; must not know what passes through. Drawing runs in the thread, finishing in
the consumer's own: what depends on the consumer's thread (JAX's contexts do) belongs there.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import ForkError

T = TypeVar("T")
R = TypeVar("R")


class _Outcome(NamedTuple):
    """What drawing an item, or finishing it, has come to: the item, an error, or the end."""

    item: Any = None
    error: BaseException | None = None
    is_end: bool = False


class Relay(Generic[T, R]):
    """Yields finished items in order; an error comes where the item would have.

    Args:
        source: Drawn from, and at the end closed, in the thread. Drawing must end when the token is cancelled.
        finish: Called with each item in the consumer's thread, as early as the item is there.
        depth: Most items that are ready while one is in use; one more may be in the making.
        token: Cancelled when the consumer stops, and to make it stop.
    """

    def __init__(
        self, source: Generator[T, None, None], finish: Callable[[T], R], depth: int, token: CancellationToken
    ) -> None:
        self._source = source
        self._finish = finish
        self._depth = depth
        self._token = token
        self._drawn: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth + 1)
        self._ready: deque[_Outcome] = deque()
        self._pid = self._consumer = 0
        self._has_thread = True

    # -- the thread's side ------------------------------------------------------------------------

    def abort(self) -> None:
        """Wake the thread; see :class:`s3dlio.cancel.Abortable`."""
        self._room.release()

    def _work(self) -> None:
        if self._consumer == threading.get_ident():  # the system has given no thread
            self._has_thread = False
            return
        self._drawn.put(self._draw_all())
        self._source.close()

    def _draw_all(self) -> _Outcome:
        """Draw until the end; return what that was."""
        try:
            self._token.watch(self)
            while True:
                self._room.acquire()
                self._token.check()
                outcome = self._draw()
                if outcome.is_end or outcome.error is not None:
                    return outcome
                self._drawn.put(outcome)
                del outcome  # the consumer alone keeps the item alive from here on
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: the consumer raises it again
            return _Outcome(error=error)
        finally:
            self._token.release(self)

    def _draw(self) -> _Outcome:
        try:
            return _Outcome(next(self._source))
        except StopIteration:
            return _Outcome(is_end=True)
        except BaseException as error:  # noqa: BLE001 - comes up where the item would have
            return _Outcome(error=error)

    # -- the consumer's side ----------------------------------------------------------------------

    def __iter__(self) -> Iterator[R]:
        """Iterate once; stopping in the midst stops the thread.

        Raises:
            ForkError: It was begun in another process.
        """
        self._pid, self._consumer = os.getpid(), threading.get_ident()
        try:
            CREW.get().start(self._work)
            while not (outcome := self._next()).is_end:
                error, made = outcome.error, [outcome.item]
                del outcome
                if error is not None:
                    raise error
                self._room.release()
                yield made.pop()  # held by nobody here while the consumer works
        finally:
            error = None  # its traceback holds this frame
            self._ready.clear()
            self._token.cancel()
            self._token.detach()

    def _next(self) -> _Outcome:
        """Finish whatever is there, and return the next one."""
        if self._pid != os.getpid():
            msg = "this iterator was begun in another process; begin a new one after the fork"
            raise ForkError(msg)
        while len(self._ready) <= self._depth:
            try:
                self._ready.append(self._finished(self._take(wait=not self._ready)))
            except queue.Empty:
                break
        return self._ready.popleft()

    def _take(self, *, wait: bool) -> _Outcome:
        if not self._has_thread:
            if wait:
                return self._draw()
            raise queue.Empty
        return self._drawn.get(wait)

    def _finished(self, outcome: _Outcome) -> _Outcome:
        if outcome.is_end or outcome.error is not None:
            return outcome
        try:
            return _Outcome(self._finish(outcome.item))
        except Exception as error:  # noqa: BLE001 - comes up where the item would have
            return _Outcome(error=error)
