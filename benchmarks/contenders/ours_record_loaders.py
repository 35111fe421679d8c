"""This library's loaders over TFRecord shards, and its order of an epoch.

For: what `ours` offers to the record loader works. Must not know: how it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record_files import RECORD_BYTES, prove
from benchmarks.record_shards import keys
from benchmarks.worker import BUCKET_URI, Action, Haul, Job


def record_loader(job: Job) -> Action:
    """All records of all shards through a DataLoader, in some order."""
    import torch
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    torch.set_num_threads(1)  # what the loaders of objects have found to be best, too
    size, packed = job.params["batch_size"], job.params.get("packed", False)
    dataset = S3IterableDataset(
        [BUCKET_URI + key for key in keys()],
        shuffle=job.params.get("shuffle", False),
        batch_size=size,
        packed=packed,
        num_workers=job.setting["num_workers"],
    )

    def action() -> Haul:
        loader = DataLoader(dataset, batch_size=None if packed else size)
        count, seen = 0, set()
        for batch in loader:
            count += len(batch)
            if job.proof is not None:
                seen |= {_proved(row.numpy()) for row in batch}
        if job.proof is not None:
            if len(seen) != len(dataset.samples):
                raise AssertionError(f"{len(seen)} of {len(dataset.samples)} records came")
            job.proof.whole = True
        return Haul(count, count * RECORD_BYTES)

    return action


def _proved(record: np.ndarray[Any, Any]) -> int:
    """Check one record, which says its own number; return that."""
    number = int.from_bytes(record[:8].tobytes(), "little")
    prove(number, record)
    return number


def record_one_by_one(job: Job) -> Action:
    """Some records, each asked for by itself, as a map dataset without batches is."""
    from s3dlio.torch import S3MapDataset

    dataset = S3MapDataset([BUCKET_URI + key for key in keys()])
    draws = job.params["draws"]

    def action() -> Haul:
        for turn in range(draws):
            record = dataset[turn * 7919 % len(dataset)]
        _proved(record.numpy())
        return Haul(draws, draws * RECORD_BYTES, proved_by_count=False)

    return action


def epoch_order(job: Job) -> Action:
    """Where the first 256 samples of a shuffled epoch lie, of a hundred million."""
    from s3dlio.catalog import Catalog
    from s3dlio.orders import epoch_order as order_of
    from s3dlio.samples import Records, SampleIndex
    from s3dlio.shards import Share, walk

    count, files = 100_000_000, 1000
    each = count // files
    catalog = Catalog.of_names("s3", [("bench", f"{n:04d}.tfrecord") for n in range(files)], [each * 116] * files)
    offsets = np.tile(np.arange(each, dtype=np.int64) * 116, files)
    records = Records(np.arange(files + 1, dtype=np.int64) * each, offsets, np.full(count, 116, np.uint32))
    index = SampleIndex(catalog, records)
    epoch = iter(range(1_000_000))
    shuffle = job.params["shuffle"]

    def ours() -> np.ndarray[Any, Any]:
        order = order_of(count, shuffle=shuffle, epoch=next(epoch))
        return walk(order, Share(count)).samples(0, 256)

    def stored() -> np.ndarray[Any, Any]:
        return np.random.default_rng(next(epoch)).permutation(count)[:256]

    first: Callable[[], np.ndarray[Any, Any]] = stored if shuffle == "numpy" else ours

    def action() -> Haul:
        index.locate(first())
        return Haul(256, 256 * 116, proved_by_count=False)

    return action


WORKS = {"record_loader": record_loader, "record_one_by_one": record_one_by_one, "epoch_order": epoch_order}
