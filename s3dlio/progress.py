"""How far work has come, told to a person or a function.

Floor 1. Knows the terminal; must not know what the work is. Whoever is not at a terminal is told nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

#: Told the bytes done and the bytes in all.
Tell = Callable[[int, int], object]

#: Seconds between two lines where there is no bar.
_LINE_EVERY_S = 2.0


def silence(_done: int, _total: int) -> None:
    """Tell nobody."""


class Count:
    """Bytes done by several threads, told as they come. Thread-safe.

    Args:
        total: Bytes in all.
        tell: Who is told, by one thread at a time.
    """

    def __init__(self, total: int, tell: Tell) -> None:
        self._total = total
        self._tell = tell
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes, and tell."""
        with self._lock:
            self._done += count
            self._tell(self._done, self._total)


@contextlib.contextmanager
def telling(progress: bool | Tell, what: str) -> Iterator[Tell]:  # noqa: FBT001 - the public argument, handed on
    """Give work somebody to tell how far it is.

    Args:
        progress: A function is told as it is. ``True`` draws a bar with ``rich``, or writes a line now and then
            where that is not installed, to standard error and only if that is a terminal.
        what: The work, in a few words.

    Yields:
        A function that takes the bytes done and the bytes in all.
    """
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        with _shown(what) as tell:
            yield tell
    else:
        yield silence


@contextlib.contextmanager
def _shown(what: str) -> Iterator[Tell]:
    try:
        from rich.console import Console  # noqa: PLC0415 - optional, and only wanted at a terminal
        from rich.progress import Progress  # noqa: PLC0415
    except ImportError:
        yield _Lines(what)
        return
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what.replace("[", r"\["), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class _Lines:
    """Writes a line when the last one is some seconds old, and one at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + _LINE_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _LINE_EVERY_S
        share = 100 * done // total if total else 100
        sys.stderr.write(f"{self._what}: {share} %\n")
