"""MosaicML Streaming: MDS shards that are downloaded into a local cache.

For: a peer for optimized shards. Must not know: how it is timed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # noqa: F401 - its package needs it to be importable
except RuntimeError:
    # A torchvision for CUDA on a torch without: the operators that it registers at import are declared, never called.
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from benchmarks.contenders.epochs import Batches, cache_folder, epoch, loader_options
from benchmarks.field_data import PER_SHARD, PREFIX
from benchmarks.jax_works import COUNT, SHAPE, contents
from benchmarks.worker import BUCKET_URI, Action, Job, serve

_COLUMNS = {"image": f"ndarray:uint8:{','.join(map(str, SHAPE))}", "label": "int"}
#: A sample and its share of the header.
_SAMPLE_BYTES = SHAPE[0] * SHAPE[1] * SHAPE[2] + 8 + 4


def write(folder: Path) -> None:
    """Write MDS shards; their length is told in bytes."""
    limit = PER_SHARD * _SAMPLE_BYTES + 1024
    with MDSWriter(out=str(folder), columns=_COLUMNS, size_limit=limit) as sink:
        for number in range(COUNT):
            image = np.frombuffer(contents(number), np.uint8).reshape(SHAPE)
            sink.write({"image": image, "label": number})


def shards_s3(job: Job) -> Action:
    """Its dataset and its loader, over S3 by its own client."""
    os.environ["S3_ENDPOINT_URL"] = job.endpoint
    cache = cache_folder(job)
    options = {name: value for name, value in job.setting.items() if name in ("predownload", "shuffle_block_size")}

    def draw() -> Batches:
        dataset = StreamingDataset(
            remote=f"{BUCKET_URI}{PREFIX}mds",
            local=str(cache),
            shuffle=True,
            batch_size=job.params["batch_size"],
            **options,
        )
        for stream in dataset.streams:
            # It has fetched the index. Forked workers would share its connection, and take each other's bytes off it:
            # seen as shards with wrong contents, with 0.13.0.
            stream._downloader.clean_up()  # noqa: SLF001
        loader = StreamingDataLoader(dataset, **loader_options(job))
        return ((batch["image"], batch["label"]) for batch in loader)

    return epoch(job, draw)


WORKS = {"epoch_shards": shards_s3}

if __name__ == "__main__":
    serve(WORKS, ("mosaicml-streaming", "torch", "boto3"))
