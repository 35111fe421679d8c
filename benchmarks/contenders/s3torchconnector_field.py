"""s3torchconnector's datasets over one object per image.

For: what `s3torchconnector` offers to the epoch works. Must not know: how it is timed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from s3torchconnector import S3ClientConfig, S3IterableDataset, S3MapDataset, S3Reader
from torch.utils.data import DataLoader, Subset

from benchmarks.contenders.epochs import Batches, decoded, epoch, loader_options
from benchmarks.field_data import OBJECTS
from benchmarks.jax_works import PREFIX as NPZ_PREFIX
from benchmarks.worker import BUCKET_URI, Action, Job

_OBJECTS = BUCKET_URI + OBJECTS
_NPZ = BUCKET_URI + NPZ_PREFIX


def _plain(reader: S3Reader) -> tuple[torch.Tensor, int]:
    return decoded(reader.read())


def _archive(reader: S3Reader) -> tuple[torch.Tensor, int]:
    with np.load(io.BytesIO(reader.read())) as arrays:
        return torch.from_numpy(arrays["image"]), int(arrays["label"])


def _dataset(job: Job, kind: Any, prefix: str, transform: Any = _plain, **more: Any) -> Any:
    gbps = float(job.setting.get("gbps", 10.0))
    config = S3ClientConfig(force_path_style=True, throughput_target_gbps=gbps)
    options = {"region": "us-east-1", "endpoint": job.endpoint, "transform": transform, "s3client_config": config}
    return kind.from_prefix(prefix, **options, **more)


def objects_iterable(job: Job) -> Action:
    """In the order of the keys: this dataset has no shuffle."""
    # A prefix that holds exactly the first hundred objects, where only few are to be read.
    prefix = _OBJECTS + ("0000" if job.params.get("count") == 100 else "")

    def draw() -> Iterator[Any]:
        return iter(DataLoader(_dataset(job, S3IterableDataset, prefix, enable_sharding=True), **loader_options(job)))

    return epoch(job, draw)


def objects_map(job: Job) -> Action:
    """Shuffled by the DataLoader."""

    def draw() -> Batches:
        dataset = _dataset(job, S3MapDataset, _OBJECTS)
        if "count" in job.params:
            dataset = Subset(dataset, range(job.params["count"]))
        return DataLoader(dataset, shuffle=True, **loader_options(job))

    return epoch(job, draw)


def objects_npz(job: Job) -> Action:
    """In the order of the keys, each parsed by NumPy."""

    def draw() -> Iterator[Any]:
        dataset = _dataset(job, S3IterableDataset, _NPZ, _archive, enable_sharding=True)
        return iter(DataLoader(dataset, **loader_options(job)))

    return epoch(job, draw)


WORKS = {
    "epoch_objects_iterable": objects_iterable,
    "epoch_objects_map": objects_map,
    "epoch_objects_npz": objects_npz,
}
