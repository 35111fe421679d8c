"""Things that must not cross a fork: sockets, threads, locks.

Floor 1. Knows process ids; must not know what it keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Forks that led to this process. Its id alone could be that of an ancestor that ended long ago.
_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - one number for the process is what this is about
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class PerProcess(Generic[T]):
    """Holds one value per process, made on first use in each.

    After a fork the child finds its own, fresh value; what it inherited is let go without being
    used. There is no lock that a fork could catch in the locked state: ``dict.setdefault`` is atomic.
    Pickling keeps the factory only.

    Args:
        make: Called without arguments, at most a few times per process (a race is settled, the
            loser's value is dropped unused).
        abandon: Called in the child with the inherited value, for example to close its handles.
    """

    def __init__(self, make: Callable[[], T], abandon: Callable[[T], object] | None = None) -> None:
        self._make = make
        self._abandon = abandon
        self._values: dict[tuple[int, int], T] = {}

    def get(self) -> T:
        """Return this process's value."""
        process = os.getpid(), _forks
        value = self._values.get(process)
        if value is None:
            value = self._values.setdefault(process, self._make())
            self._forget_others(process)
        return value

    def peek(self) -> T | None:
        """Return this process's value if there is one, without making it."""
        return self._values.get((os.getpid(), _forks))

    def take(self) -> T | None:
        """Return this process's value, if there is one, and forget it: the next use makes another."""
        return self._values.pop((os.getpid(), _forks), None)

    def _forget_others(self, process: tuple[int, int]) -> None:
        for other in [known for known in self._values if known != process]:
            inherited = self._values.pop(other, None)
            if inherited is not None and self._abandon is not None:
                self._abandon(inherited)

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[object, object]]:
        """Pickle without the values."""
        return PerProcess, (self._make, self._abandon)
