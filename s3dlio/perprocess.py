"""Things that must not cross a fork: sockets, threads, locks.

Floor 1. Knows process ids; must not know what it keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's value."""
        pid = os.getpid()
        value = self._values.get(pid)
        if value is None:
            value = self._values.setdefault(pid, self._make())
            self._forget_others(pid)
        return value

    def peek(self) -> T | None:
        """Return this process's value if there is one, without making it."""
        return self._values.get(os.getpid())

    def _forget_others(self, pid: int) -> None:
        for other in [known for known in self._values if known != pid]:
            inherited = self._values.pop(other, None)
            if inherited is not None and self._abandon is not None:
                self._abandon(inherited)

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[object, object]]:
        """Pickle without the values."""
        return PerProcess, (self._make, self._abandon)
