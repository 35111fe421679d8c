"""Grain over ArrayRecord files: the loader of the JAX world.

For: the peer that hands out arrays. Must not know: how it is timed.
"""

from __future__ import annotations

from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.contenders.epochs import Batches, epoch
from benchmarks.field_data import HOME, LABEL_BYTES, labelled, shards
from benchmarks.jax_works import SHAPE
from benchmarks.worker import Action, Job, serve


def write(folder: Path) -> None:
    """Write ArrayRecord files whose records can be read one by one, as Grain needs them."""
    for shard, numbers in enumerate(shards()):
        writer = ArrayRecordWriter(str(folder / f"{shard:05d}.array_record"), "group_size:1,uncompressed")
        for number in numbers:
            writer.write(labelled(number))
        writer.close()


def _sample(record: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = np.frombuffer(record, np.uint8, offset=LABEL_BYTES).reshape(SHAPE)
    return image, np.frombuffer(record, np.int64, count=1)[0]


def shards_local(job: Job) -> Action:
    """Local files: its source of ArrayRecords has no other way."""
    paths = sorted(str(path) for path in (HOME / "arrayrecord").iterdir())
    reading = grain.ReadOptions(**{name: job.setting[name] for name in ("num_threads",) if name in job.setting})
    processes = grain.MultiprocessingOptions(num_workers=job.params["num_workers"])

    def draw() -> Batches:
        source = grain.sources.ArrayRecordDataSource(paths)
        dataset = grain.MapDataset.source(source).shuffle(seed=1).map(_sample)
        batches = dataset.batch(job.params["batch_size"]).to_iter_dataset(reading)
        if processes.num_workers:
            batches = batches.mp_prefetch(processes)
        iterator = iter(batches)
        yield from iterator
        iterator.close()

    return epoch(job, draw)


WORKS = {"epoch_shards": shards_local}

if __name__ == "__main__":
    serve(WORKS, ("grain", "array_record", "numpy"))
