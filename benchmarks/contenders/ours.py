"""This library, from the working tree, by its public functions and its default settings.

For: the lane that the others are held against. Must not know: how it is timed.
"""

from __future__ import annotations

from typing import Any

import s3dlio
from benchmarks import dcp_works, file_works, jax_works, tf_works
from benchmarks.contenders import ours_bulk, ours_field, ours_put, ours_record_loaders, ours_records
from benchmarks.imports import importing
from benchmarks.memory import touched
from benchmarks.npz_works import open_ours, reading_all, reading_one
from benchmarks.objects import BIG_KEY
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, held, held_whole, serve

_BIG_URI = BUCKET_URI + BIG_KEY


def small(job: Job) -> Action:
    """All objects by `get_many`, which answers in the order it was asked in."""
    uris = job.uris()

    def action() -> Haul:
        pairs = s3dlio.get_many(uris, max_in_flight=job.setting["in_flight"])
        return held([data for _, data in pairs])

    return action


def big(_job: Job) -> Action:
    """The big object by `get`."""
    return lambda: held_whole(s3dlio.get(_BIG_URI))


def big_into(job: Job) -> Action:
    """The big object by `get_into`, into the same memory every round."""
    memory: Any = touched(job.manifest.big_size)

    def action() -> Haul:
        s3dlio.get_into(_BIG_URI, memory)
        return held_whole(memory)

    return action


def loader_iterable(job: Job) -> Action:
    """The iterable dataset over the whole prefix."""
    from benchmarks.loaders import loading
    from s3dlio.torch import S3IterableDataset

    return loading(job, S3IterableDataset(job.prefix_uri()))


def loader_map(job: Job) -> Action:
    """The map dataset over the whole prefix."""
    from benchmarks.loaders import loading
    from s3dlio.torch import S3MapDataset

    return loading(job, S3MapDataset(job.prefix_uri()))


WORKS = {
    "small": small,
    "big": big,
    "big_into": big_into,
    "loader_iterable": loader_iterable,
    "loader_map": loader_map,
    "import": importing("s3dlio"),
    "npz_all": lambda job: reading_all(job, open_ours),
    "file_row": file_works.ours,
    "npz_one": lambda job: reading_one(job, open_ours),
    **ours_records.WORKS,
    **ours_record_loaders.WORKS,
    **ours_field.WORKS,
    **ours_put.WORKS,
    **dcp_works.OURS_WORKS,
    **ours_bulk.WORKS,
    **jax_works.WORKS,
    **tf_works.WORKS,
}

if __name__ == "__main__":
    serve(WORKS, ("numpy", "torch"), {"s3dlio": getattr(s3dlio, "__version__", "working tree")})
