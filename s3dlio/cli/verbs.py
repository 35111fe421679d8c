"""What the commands call of the library by its public names.

Floor 7. Knows the names and argument lists of the bulk verbs, in one place; must not know options or output.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from s3dlio.errors import OptionError


def public(name: str) -> Any:
    """Return a public name of the library.

    Raises:
        OptionError: This version has none such.
    """
    try:
        return getattr(importlib.import_module("s3dlio"), name)
    except AttributeError:
        msg = f"the installed s3dlio has no {name}; pip install --upgrade s3dlio"
        raise OptionError(msg) from None


def upload(sources: Sequence[str], dest: str, jobs: int, *, create_bucket: bool, **how: Any) -> Any:
    """Send local files; ``how``: pattern, progress, update."""
    return public("upload")(_one_or_many(sources), dest, jobs, create_bucket, **how)


def download(sources: Sequence[str], dest: str, jobs: int, **how: Any) -> Any:
    """Fetch objects into local files; ``how``: flatten, pattern, progress, update."""
    return public("download")(_one_or_many(sources), dest, jobs, **how)


def copy(sources: Sequence[str], dest: str, jobs: int, **how: Any) -> Any:
    """Copy between two places of any kind; ``how``: pattern, progress, update."""
    return public("copy")(_one_or_many(sources), dest, jobs, **how)


def _one_or_many(sources: Sequence[str]) -> str | list[str]:
    return sources[0] if len(sources) == 1 else [*sources]


#: What is told of a transfer, and what its result calls it.
_FIGURES = {
    "objects": ("transferred", "objects"),
    "bytes": ("total_bytes", "bytes"),
    "skipped": ("skipped",),
    "seconds": ("seconds",),
}


def figures(result: Any) -> dict[str, Any]:
    """Return what a transfer has done: objects, bytes, skipped, seconds."""
    return {
        name: next(getattr(result, word) for word in words if hasattr(result, word)) for name, words in _FIGURES.items()
    }


def generate(template: str, count: int, size: int, jobs: int, **how: Any) -> Any:
    """Put objects of made-up bytes; ``how``: object_type, dedup_factor, compress_factor, progress."""
    return public("put")(template, num=count, size=size, max_in_flight=jobs, **how)


def mp_get(uri: str, **how: Any) -> Any:
    """Read in several processes; ``how``: procs, jobs, num, template."""
    return public("mp_get")(uri, **how)


def begin_op_log(path: str) -> None:
    """Begin to write down each operation."""
    public("init_op_log")(path)


def end_op_log() -> None:
    """Write what is left of the operation log."""
    public("finalize_op_log")()


def summarize_op_log(path: str) -> Any:
    """Return counts, bytes and times of an operation log."""
    return public("summarize_op_log")(path)


def replay_op_log(path: str, target: str, speed: float) -> Any:
    """Do again, against another prefix, what an operation log tells."""
    return public("replay_op_log")(path, target, speed=speed)


def plot_op_log(summary: Any, picture: str) -> None:
    """Draw what an operation log tells: throughput and operations over time."""
    public("plot_op_log")(summary, picture)
