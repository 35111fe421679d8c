"""LitData: chunks that are downloaded into a local cache, by Lightning.

For: a peer for optimized shards. Must not know: how it is timed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"

from litdata import StreamingDataLoader, StreamingDataset, optimize
from litdata.streaming import downloader

from benchmarks.contenders.epochs import Batches, cache_folder, epoch, loader_options
from benchmarks.field_data import PER_SHARD, PREFIX
from benchmarks.jax_works import COUNT, SHAPE, contents
from benchmarks.worker import BUCKET_URI, Action, Job, serve

# It reads chunks through obstore, which refuses plain HTTP unless told otherwise, and has no option of its own for it.
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001


def _sample(number: int) -> dict[str, Any]:
    image = np.frombuffer(bytearray(contents(number)), np.uint8).reshape(SHAPE)
    return {"image": torch.from_numpy(image), "label": number}


def write(folder: Path) -> None:
    """Write chunks by its own `optimize`."""
    optimize(_sample, list(range(COUNT)), str(folder), chunk_size=PER_SHARD, num_workers=1)


def shards_s3(job: Job) -> Action:
    """Its dataset and its loader, over S3 by its own client."""
    cache = cache_folder(job)
    # The client reads credentials and region from the environment; the endpoint is told.
    storage = {"endpoint_url": job.endpoint}
    ahead = job.setting.get("max_pre_download", 2)

    def draw() -> Batches:
        dataset = StreamingDataset(
            f"{BUCKET_URI}{PREFIX}litdata",
            cache_dir=str(cache),
            shuffle=True,
            storage_options=storage,
            max_pre_download=ahead,
        )
        loader = StreamingDataLoader(dataset, **loader_options(job))
        return ((batch["image"], batch["label"]) for batch in loader)

    return epoch(job, draw)


WORKS = {"epoch_shards": shards_s3}

if __name__ == "__main__":
    serve(WORKS, ("litdata", "torch", "boto3", "obstore"))
