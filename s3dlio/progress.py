"""How far work has come, told to a person or a function.

Floor 1. Knows the terminal; must not know what the work is. Whoever is not at a terminal is told nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

#: Told the bytes done and the bytes in all.
Tell = Callable[[int, int], object]

#: Seconds between two lines where there is no bar.
_LINE_EVERY_S = 2.0
_MIB = 1024**2


def silence(_done: int, _total: int) -> None:
    """Tell nobody."""


class Count:
    """Bytes done by several threads, told as they come. Thread-safe.

    Args:
        total: Bytes in all.
        tell: Who is told, by one thread at a time.
        objects: Objects in all, where there are several; told to whoever has a method ``note_objects``.
    """

    def __init__(self, total: int, tell: Tell, objects: int = 0) -> None:
        self._total = total
        self._tell = tell
        self._done = 0
        self._objects = objects
        self._objects_done = 0
        self._note: Callable[[int, int], object] = getattr(tell, "note_objects", silence)
        self._lock = threading.Lock()

    def add(self, count: int, objects: int = 0) -> None:
        """Count bytes, and objects that are finished, and tell."""
        with self._lock:
            self._done += count
            self._objects_done += objects
            if objects:
                self._note(self._objects_done, self._objects)
            self._tell(self._done, self._total)


@contextlib.contextmanager
def telling(progress: bool | Tell, what: str) -> Iterator[Tell]:  # noqa: FBT001 - the public argument, handed on
    """Give work somebody to tell how far it is.

    Args:
        progress: A function is told as it is. ``True`` draws a bar with ``rich`` (share, bytes, rate, time left,
            objects), or writes a line now and then where that is not installed, to standard error and only if that
            is a terminal.
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
        import rich.progress as rich  # noqa: PLC0415 - optional, and only wanted at a terminal
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        yield _Lines(what)
        return
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.DownloadColumn(binary_units=True),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[objects]}"),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars, bars.add_task(what.replace("[", r"\["), total=None, objects=""))


class _Bar:
    """One task of ``rich``."""

    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task

    def __call__(self, done: int, total: int) -> None:
        self._bars.update(self._task, completed=done, total=total)

    def note_objects(self, done: int, total: int) -> None:
        self._bars.update(self._task, objects=f"{done:,}/{total:,} objects")


class _Lines:
    """Writes a line when the last one is some seconds old, and one at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._next = self._began + _LINE_EVERY_S
        self._objects = ""

    def note_objects(self, done: int, total: int) -> None:
        self._objects = f", {done:,}/{total:,} objects"

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _LINE_EVERY_S
        share = 100 * done // total if total else 100
        sys.stderr.write(f"{self._what}: {share} %{self._pace(done, total, now) if self._objects else ''}\n")

    def _pace(self, done: int, total: int, now: float) -> str:
        rate = done / max(now - self._began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        return f"{self._objects}, {rate / _MIB:.1f} MiB/s{left}"
