"""Threads that share a list of tasks, with as little between them and the work as Python allows.

For: the clients that leave concurrency to the caller; a pool's queue would be held against them.
Must not know: what a task does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay from one round to the next, as connections do."""
    return ThreadPoolExecutor(threads)


def share(function: Callable[[int], Any], tasks: range, threads: int) -> list[Any]:
    """`function(task)` for every task, each taken by whichever thread is free; results in order."""
    results: list[Any] = [None] * len(tasks)
    # One iterator for all threads: the `next` of a range is one step under the GIL, so no lock is needed.
    places = iter(range(len(tasks)))

    def take(_: int) -> None:
        for place in places:
            results[place] = function(tasks[place])

    for _ in pool(threads).map(take, range(threads)):
        pass
    return results
