"""This library's datasets for torch, over one object per image and over TFRecord files.

For: what `ours` offers to the epoch works. Must not know: how it is timed. torch is imported in the actions: the
process of another work has no use for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.epochs import Batches, decoded, epoch, loader_options
from benchmarks.field_data import LABEL_BYTES, OBJECTS, PREFIX, labelled, shards
from benchmarks.jax_works import PREFIX as NPZ_PREFIX
from benchmarks.jax_works import SHAPE, contents
from benchmarks.worker import BUCKET_URI, Action, Job

_OBJECTS = BUCKET_URI + OBJECTS
_NPZ = BUCKET_URI + NPZ_PREFIX
_EXAMPLES = f"{BUCKET_URI}{PREFIX}tfrecord/examples/"
_PLAIN = f"{BUCKET_URI}{PREFIX}tfrecord/plain/"


def write(folder: Path) -> None:
    """Write TFRecord files twice: of `tf.train.Example`s, and of records that are a label and an image."""
    from s3dlio.tfrecords import TFRecordWriter

    for kind in ("examples", "plain"):
        for shard, numbers in enumerate(shards()):
            with TFRecordWriter(folder / kind / f"{shard:05d}.tfrecord", index=True) as writer:
                for number in numbers:
                    writer.write(_record(kind, number))


def _record(kind: str, number: int) -> bytes:
    from s3dlio import encode_example

    if kind == "examples":
        return bytes(encode_example({"image": contents(number), "label": number}))
    return labelled(number)


def objects_iterable(job: Job) -> Action:
    """One object of plain bytes per image, shuffled by the dataset."""
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    def draw() -> Batches:
        options = loader_options(job)
        dataset = S3IterableDataset(
            _OBJECTS,
            shuffle=True,
            batch_size=options["batch_size"],
            return_type="view",
            transform=decoded,
            num_workers=job.setting.get("in_flight", 128),
        )
        return DataLoader(dataset, **options)

    return epoch(job, draw)


def objects_map(job: Job) -> Action:
    """One object of plain bytes per image, shuffled by this library's sampler."""
    from torch.utils.data import DataLoader

    from s3dlio.torch import ResumableDistributedSampler, S3MapDataset

    def draw() -> Batches:
        dataset = S3MapDataset(_OBJECTS, return_type="view", transform=decoded)
        return DataLoader(dataset, sampler=ResumableDistributedSampler(dataset), **loader_options(job))

    return epoch(job, draw)


def objects_npz(job: Job) -> Action:
    """One NPZ object per image, shuffled by the dataset."""
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    def draw() -> Batches:
        options = loader_options(job)
        dataset = S3IterableDataset(_NPZ, shuffle=True, batch_size=options["batch_size"])
        return _pairs(DataLoader(dataset, **options))

    return epoch(job, draw)


def _pairs(loader: Any) -> Iterator[tuple[Any, Any]]:
    return ((batch["image"], batch["label"]) for batch in loader)


def records_examples(job: Job) -> Action:
    """TFRecord files of `tf.train.Example`s, shuffled in blocks."""
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    def draw() -> Batches:
        options = loader_options(job)
        shuffle = {"shuffle": "block", "batch_size": options["batch_size"]}
        dataset = S3IterableDataset(_EXAMPLES, format="example", transform=_from_example, **shuffle)
        return _pairs(DataLoader(dataset, **options))

    return epoch(job, draw)


def _from_example(features: dict[str, Any]) -> dict[str, Any]:
    import torch

    image = torch.frombuffer(features["image"][0], dtype=torch.uint8)
    return {"image": image.view(SHAPE), "label": features["label"][0]}


def records_packed(job: Job) -> Action:
    """TFRecord files of a label and an image per record, whole batches at a time, shuffled in blocks."""
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    def draw() -> Batches:
        options = loader_options(job)
        size = options.pop("batch_size")
        dataset = S3IterableDataset(_PLAIN, shuffle="block", batch_size=size, packed=True)
        return map(_from_rows, DataLoader(dataset, batch_size=None, **options))

    return epoch(job, draw)


def _from_rows(rows: Any) -> tuple[Any, Any]:
    import torch

    labels = np.ascontiguousarray(rows[:, :LABEL_BYTES]).view(np.int64)
    return rows[:, LABEL_BYTES:].view(-1, *SHAPE), torch.from_numpy(labels[:, 0])


WORKS = {
    "epoch_objects_iterable": objects_iterable,
    "epoch_objects_map": objects_map,
    "epoch_objects_npz": objects_npz,
    "epoch_examples": records_examples,
    "epoch_records": records_packed,
}
