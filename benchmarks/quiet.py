"""Waiting for the machine to be quiet, so that a pass is not measured under somebody else's load.

For: runs on a machine that is shared. Must not know: what is about to be measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_LOOK_SECONDS = 0.1
BUSY_CORES = 0.25


class Quiet:
    """Waits for quiet, within a budget of seconds for the whole run, and says whether it came."""

    def __init__(self, budget_seconds: float = 600.0, most_at_once: float = 20.0) -> None:
        self._budget = budget_seconds
        self._most_at_once = most_at_once
        self.waited = 0.0

    def wait(self) -> float:
        """The cores that others kept busy at the last look, after waiting for them as long as allowed."""
        busy = busy_cores()
        start = time.monotonic()
        while busy > BUSY_CORES and self._may_wait(time.monotonic() - start):
            time.sleep(_LOOK_SECONDS)
            busy = busy_cores()
        self.waited += time.monotonic() - start
        return round(busy, 2)

    def _may_wait(self, so_far: float) -> bool:
        return so_far < self._most_at_once and self.waited + so_far < self._budget


def busy_cores() -> float:
    """How many cores were busy for a moment in which this run itself only waited."""
    before = _busy_ticks()
    time.sleep(_LOOK_SECONDS)
    ticks = _busy_ticks() - before
    return ticks / os.sysconf("SC_CLK_TCK") / _LOOK_SECONDS


def _busy_ticks() -> int:
    first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    numbers = [int(word) for word in first.split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = numbers[:8]
    return user + nice + system + irq + softirq + steal
