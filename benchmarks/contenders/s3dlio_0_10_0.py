"""s3dlio 0.10.0: the Rust original, from the package index.

For: the library whose place this one wants to take. Must not know: how it is timed.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from benchmarks.imports import importing
from benchmarks.memory import fresh, touched
from benchmarks.objects import BIG_KEY
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, held, held_whole, serve

# By name: to a type checker, "s3dlio" is the working tree, which this process does not see.
_original: Any = import_module("s3dlio")


def small(job: Job) -> Action:
    """All objects by `get_many`."""
    uris = job.uris()

    def action() -> Haul:
        pairs = _original.get_many(uris, max_in_flight=job.setting["in_flight"])
        if job.proof:
            pairs = sorted(pairs, key=lambda pair: str(pair[0]))
        return held([data for _, data in pairs])

    return action


def big(_job: Job) -> Action:
    """The big object by `get`."""
    return lambda: held_whole(_original.get(BUCKET_URI + BIG_KEY))


def big_into(job: Job) -> Action:
    """The big object by `get_into_async` into the same memory every round."""
    memory = touched(job.manifest.big_size)

    def action() -> Haul:
        asyncio.run(_receive(memory))
        return held_whole(memory)

    return action


def big_by_into(job: Job) -> Action:
    """The big object by `get_into_async` into fresh memory: the quicker way to a `get`."""

    def action() -> Haul:
        memory = fresh(job.manifest.big_size)
        asyncio.run(_receive(memory))
        return held_whole(memory)

    return action


async def _receive(memory: Any) -> None:
    await _original.get_into_async(BUCKET_URI + BIG_KEY, memory, expected_len=len(memory))


def _iterable(job: Job) -> Any:
    # Its concurrency is that of one batch on the Rust side; the wrapper flattens those batches.
    datasets = import_module("s3dlio.torch").ObjectStoreIterableDataset
    options = {name: value for name, value in job.setting.items() if name not in ("torch_threads", "env")}
    return datasets.from_prefix(job.prefix_uri(), **options)


def _map(job: Job) -> Any:
    return import_module("s3dlio.torch").ObjectStoreMapDataset(job.prefix_uri())


def loader_iterable(job: Job) -> Action:
    """The iterable dataset over the whole prefix."""
    from benchmarks.loaders import loading

    return loading(job, _iterable(job))


def loader_map(job: Job) -> Action:
    """The map dataset over the whole prefix."""
    from benchmarks.loaders import loading

    return loading(job, _map(job))


WORKS = {
    "small": small,
    "big": big,
    "big_into": big_into,
    "big_by_into": big_by_into,
    "loader_iterable": loader_iterable,
    "loader_map": loader_map,
    "import": importing("s3dlio"),
}

if __name__ == "__main__":
    serve(WORKS, ("s3dlio",))
