"""WebDataset: tar files that curl reads, each a run of samples.

For: the peer for streams of tar files. Must not know: how it is timed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import webdataset as wds

from benchmarks.contenders.epochs import Batches, epoch, loader_options
from benchmarks.field_data import PREFIX, SHARDS, shards
from benchmarks.jax_works import SHAPE, contents
from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Job, serve

#: Samples that are mixed, as in its guide.
_BUFFER = 1000


def write(folder: Path) -> None:
    """Write tar files of an array and a class per sample."""
    for shard, numbers in enumerate(shards()):
        with wds.TarWriter(str(folder / f"{shard:05d}.tar")) as sink:
            for number in numbers:
                image = np.frombuffer(contents(number), np.uint8).reshape(SHAPE)
                sink.write({"__key__": f"{number:06d}", "npy": image, "cls": number})


def shards_http(job: Job) -> Action:
    """As its guide has it: shards shuffled, a buffer of samples, batches made in the workers."""
    urls = f"{job.endpoint}/{BUCKET}/{PREFIX}tar/{{00000..{SHARDS - 1:05d}}}.tar"

    def draw() -> Batches:
        options = loader_options(job)
        size = options.pop("batch_size")
        dataset = wds.WebDataset(urls, shardshuffle=SHARDS).shuffle(_BUFFER)
        dataset = dataset.decode().to_tuple("npy", "cls").map_tuple(torch.from_numpy, None)
        return wds.WebLoader(dataset.batched(size), batch_size=None, **options)

    return epoch(job, draw)


WORKS = {"epoch_shards": shards_http}

if __name__ == "__main__":
    serve(WORKS, ("webdataset", "torch"))
