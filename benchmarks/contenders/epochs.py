"""An epoch of the images, whoever brings it: what is counted, and how it is proved.

For: the contenders of the epoch works, each of which brings batches through its own loader.
Must not know: any client. torch is imported where it is used, since not all of them have it.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.field_data import LABEL_BYTES
from benchmarks.jax_works import COUNT, SHAPE, contents
from benchmarks.worker import Action, Haul, Job, WrongBytesError

#: Images (n, 96, 96, 3) of uint8 and labels (n,), as tensors or arrays.
Batches = Iterable[tuple[Any, Any]]
#: The share of samples that may follow the one that was written before them. Shuffled within a file of a hundred,
#: a hundredth does.
_NEIGHBOURS = 0.1


def epoch(job: Job, draw: Callable[[], Batches]) -> Action:
    """Draw every batch of one epoch; datasets and loaders are made within the clock."""
    _home()

    def action() -> Haul:
        count = size = 0
        labels_seen: list[int] = []
        first, start = 0.0, time.perf_counter()
        for images, labels in draw():
            first = first or time.perf_counter() - start
            count, size = count + len(labels), size + images.nbytes
            if job.proof:
                labels_seen += _proved(images, labels)
        if job.proof:
            _prove_order(job, labels_seen)
            # That each came exactly once, the proof sees for itself.
            job.proof.seen, job.proof.expected = labels_seen, job.params.get("count", COUNT)
        return Haul(count, size, extra={"first_batch_seconds": first})

    return action


def _proved(images: Any, labels: Any) -> list[int]:
    if tuple(images.shape) != (len(labels), *SHAPE):
        raise WrongBytesError(f"a batch of {len(labels)} labels has images of {tuple(images.shape)}")
    numbers = [int(label) for label in labels]
    for number, image in zip(numbers, images, strict=True):
        if not 0 <= number < COUNT or image.__array__().tobytes() != contents(number):
            raise WrongBytesError(f"image {number}: wrong bytes")
    return numbers


def _prove_order(job: Job, labels: list[int]) -> None:
    if not job.params.get("shuffled", True):
        return
    # Not by the order of the whole: workers that take turns mix files that each of them reads in order.
    kept = sum(after == before + 1 for before, after in pairwise(labels))
    if kept > len(labels) * _NEIGHBOURS:
        raise WrongBytesError(f"{kept} of {len(labels)} samples follow the one written before: they are not shuffled")


def decoded(data: Any) -> tuple[Any, int]:
    """Image and label of an object of `field_data.labelled`, without a copy: the same lines for every client."""
    import torch

    (label,) = struct.unpack_from("<q", data)
    return torch.frombuffer(data, dtype=torch.uint8, offset=LABEL_BYTES).view(SHAPE), label


def loader_options(job: Job) -> dict[str, Any]:
    """What every torch lane tells its loader."""
    import torch

    # See `benchmarks/loaders.py` on threads.
    torch.set_num_threads(job.setting.get("torch_threads", 1))
    # Clients that hand out immutable bytes as tensors mean it.
    warnings.filterwarnings("ignore", message="The given (buffer|NumPy array) is not writable")
    workers = job.params["num_workers"]
    options: dict[str, Any] = {"batch_size": job.params["batch_size"], "num_workers": workers}
    return options | ({"multiprocessing_context": "fork"} if workers else {})


# -- what is left on this machine ---------------------------------------------------------------------


def _end(*_: object) -> None:
    """An exit that Python sees, so that clients take away their shared memory."""
    gc.collect()  # some do so when its last user goes, and not while the interpreter ends
    sys.exit(143)


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    """A folder of this process, in memory where there is some, which goes when the process is ended.

    What clients put into the temporary folder and leave there is in it too.
    """
    signal.signal(signal.SIGTERM, _end)
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    # By this name the next run's origin would take it away, if this process could not.
    home = tempfile.TemporaryDirectory(prefix=f"s3dlio-bench-{os.getpid()}-", dir=parent, ignore_cleanup_errors=True)
    tempfile.tempdir = home.name
    return home


def cache_folder(job: Job) -> Path:
    """Where a client may keep what it has read: a new folder for each epoch, or the same one."""
    caches = Path(_home().name) / "caches"
    if job.params.get("cache") == "kept":
        return caches
    shutil.rmtree(caches, ignore_errors=True)
    caches.mkdir()
    return Path(tempfile.mkdtemp(dir=caches))
