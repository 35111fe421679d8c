"""The work on small NPZ images: batches for TensorFlow, held against batches for torch and for JAX.

For: declaring it, and its actions. Must not know: how rounds are run. The frameworks are imported in the
actions, since what declares a work has none of them. The objects are those of the JAX work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.declare import OURS, Lane, Target, Work
from benchmarks.jax_works import COUNT, PREFIX, contents
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, WrongBytesError

_URI = BUCKET_URI + PREFIX

LOADER_TF = Work(
    name="loader_tf",
    title="10,000 NPZ objects of a 96 x 96 x 3 image and a label, in batches of 32, no latency",
    figure="ops_per_second",
    unit="samples/s",
    params={"batch_size": 32, "times": 5},
    rounds=9,
    about="2,000 objects, each named five times. Making the dataset is within the clock. All read through the same"
    " floors; none has loader processes. TensorFlow takes 50 ms to make a dataset of a generator, and 20 ms more to"
    " begin an epoch, whatever it yields: the lane of a short epoch shows what that is worth.",
    lanes=(
        Lane("ours TensorFlow", OURS, "loader_tf"),
        Lane("ours torch", OURS, "loader_tf_by_torch", ({"torch_threads": 1}, {"torch_threads": 2})),
        Lane("ours JAX", OURS, "loader_tf_by_jax"),
        Lane("ours TensorFlow, 2,000 objects", OURS, "loader_tf", params={"times": 1}),
    ),
    targets=(
        Target("TensorFlow loader: 0.85 x our torch loader", "ours TensorFlow", ("ours torch",), at_least=0.85),
        Target("TensorFlow loader: 0.85 x our JAX loader", "ours TensorFlow", ("ours JAX",), at_least=0.85),
    ),
)


def loader_tf(job: Job) -> Action:
    """The dataset of the TensorFlow room, as a loop over it sees it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from s3dlio.tf import make_tf_dataset

    return _drawing(job, lambda uris: make_tf_dataset(uris, batch_size=job.params["batch_size"]))


def loader_tf_by_torch(job: Job) -> Action:
    """The iterable dataset of the torch room under a DataLoader without workers."""
    import torch
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    torch.set_num_threads(job.setting.get("torch_threads", 1))
    size = job.params["batch_size"]
    return _drawing(job, lambda uris: DataLoader(S3IterableDataset(uris, batch_size=size), batch_size=size))


def loader_tf_by_jax(job: Job) -> Action:
    """The iterable of the JAX room, every batch waited for."""
    import jax

    from s3dlio.jax import S3JaxIterable

    return _drawing(job, lambda uris: S3JaxIterable(uris, batch_size=job.params["batch_size"]), jax.block_until_ready)


def _drawing(
    job: Job, make: Callable[[list[str]], Iterable[Any]], ready: Callable[[Any], Any] = lambda batch: batch
) -> Action:
    # A proving pass looks at each object once: it would bring all of them again and again.
    uris = [f"{_URI}{number:06d}.npz" for number in range(COUNT)] * (1 if job.proof else job.params["times"])

    def action() -> Haul:
        count = size = 0
        for batch in map(ready, make(uris)):
            shape = batch["image"].shape
            count, size = count + shape[0], size + math.prod(shape)
            if job.proof:
                _prove(batch)
        if count != len(uris):
            raise WrongBytesError(f"{count} samples came, of {len(uris)}")
        if job.proof:
            job.proof.whole = True
        return Haul(count, size)

    return action


def _prove(batch: Any) -> None:
    for image, label in zip(batch["image"], batch["label"], strict=True):
        if bytes(memoryview(image.__array__())) != contents(int(label)):
            raise WrongBytesError(f"image {int(label)}: wrong bytes")


WORKS = {"loader_tf": loader_tf, "loader_tf_by_torch": loader_tf_by_torch, "loader_tf_by_jax": loader_tf_by_jax}
