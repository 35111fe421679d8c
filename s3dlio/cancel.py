"""Stopping work that is under way, from any thread, at once.

Floor 1. Knows that work hangs on things with an ``abort()``; must not know sockets.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from s3dlio.errors import CancelledError
from s3dlio.perprocess import PerProcess


class Abortable(Protocol):
    """Something a thread may be blocked in, that another thread can break."""

    def abort(self) -> None:
        """Make the blocked call return or raise soon. Called from another thread, at most a few times."""


class _Nap:
    """A pause that can be ended. A bare lock, so that a signal handler may end the pause it interrupts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self, seconds: float) -> None:
        self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def abort(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            return  # awake already


class CancellationToken:
    """A switch that stops everything which was handed it.

    Thread-safe. Once cancelled it stays cancelled; make a new one for new work. A pickled or copied
    token is a new, separate one: the switch works within one process. After a fork parent and child
    have a switch each; no lock is in it that the fork could have caught in the locked state.

    Args:
        *parents: Cancelling one of them cancels this one, until :meth:`detach`.

    Example:
        >>> token = CancellationToken()
        >>> token.cancel()
        >>> token.is_cancelled
        True
    """

    def __init__(self, *parents: CancellationToken) -> None:
        self._cancelled = False
        self._parents = parents
        #: A forked child must not touch what its parent's threads wait for: the sockets are shared.
        self._blocked: PerProcess[dict[int, Abortable]] = PerProcess(dict)
        for parent in parents:
            parent.watch(self)

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` was called, here or on a parent."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the work: blocked reads end now, and nothing new begins."""
        self._cancelled = True
        for thing in self._blocked.get().copy().values():  # a copy is atomic; threads come and go
            thing.abort()

    def abort(self) -> None:
        """Do as :meth:`cancel` does; a token is itself one of the things its parents stop."""
        self.cancel()

    def watch(self, thing: Abortable) -> None:
        """Abort ``thing`` when cancelled, from now until :meth:`release`.

        Raises:
            CancelledError: The token is cancelled already.
        """
        blocked = self._blocked.get()
        blocked[id(thing)] = thing
        # Looked at after the entry is made: a cancel() between the two has either seen the entry or
        # is seen here.
        if self._cancelled:
            blocked.pop(id(thing), None)
            self.check()

    def release(self, thing: Abortable) -> None:
        """End what :meth:`watch` began."""
        self._blocked.get().pop(id(thing), None)

    def check(self) -> None:
        """Raise :class:`~s3dlio.errors.CancelledError` if cancelled."""
        if self._cancelled:
            msg = "the work was cancelled"
            raise CancelledError(msg)

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the token is cancelled.

        Raises:
            CancelledError: It was.
        """
        if seconds > 0:
            nap = _Nap()
            self.watch(nap)
            try:
                nap.sleep(seconds)
            finally:
                self.release(nap)
        self.check()

    def detach(self) -> None:
        """Let go of the parents, once the work is done."""
        for parent in self._parents:
            parent.release(self)

    def __reduce__(self) -> tuple[type[CancellationToken], tuple[()]]:
        """Pickle as a new token."""
        return CancellationToken, ()


class Deadline:
    """A moment in the future, asked again and again how far away it is.

    Args:
        seconds: From now.
    """

    __slots__ = ("_at",)

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._at
