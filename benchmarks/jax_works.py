"""The work on small NPZ images: batches for JAX, held against batches for torch of the same objects.

For: declaring it, writing its objects, and its actions. Must not know: how rounds are run. The frameworks are
imported in the actions, since what declares a work has none of them.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.declare import OURS, Lane, Target, Work
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, WrongBytesError

PREFIX = "images/"
COUNT = 2000
SHAPE = (96, 96, 3)
_IMAGE_BYTES = SHAPE[0] * SHAPE[1] * SHAPE[2]
_HEADER_BYTES = 128

LOADER_JAX = Work(
    name="loader_jax",
    title="2,000 NPZ objects of a 96 x 96 x 3 image and a label, in batches of 32, no latency",
    figure="ops_per_second",
    unit="samples/s",
    params={"batch_size": 32},
    rounds=9,
    about="Listing is within the clock. Both read the same objects through the same floors; neither has loader"
    " processes. A batch counts when it is on the device.",
    lanes=(
        Lane("ours JAX", OURS, "loader_jax"),
        Lane("ours torch", OURS, "loader_jax_by_torch", ({"torch_threads": 1}, {"torch_threads": 2})),
    ),
    targets=(Target("JAX loader: 0.85 x our torch loader", "ours JAX", ("ours torch",), at_least=0.85),),
)


# -- the objects --------------------------------------------------------------------------------------


def write_images(bucket: Path) -> None:
    """Write the objects as numpy.savez would: stored, an image and a label each."""
    (bucket / PREFIX).mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        image = _npy("|u1", SHAPE, contents(number))
        label = _npy("<i8", (), struct.pack("<q", number))
        (bucket / f"{PREFIX}{number:06d}.npz").write_bytes(_archive({"image.npy": image, "label.npy": label}))


def contents(number: int) -> bytes:
    """What the image of this number holds: any process can say it again."""
    return random.Random(number).randbytes(_IMAGE_BYTES)


def _npy(kind: str, shape: tuple[int, ...], data: bytes) -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1) + b"\n" + data


def _archive(members: dict[str, bytes]) -> bytes:
    """A ZIP file of stored members, by hand: zipfile would write the time into it."""
    body, listed = b"", b""
    for name, data in members.items():
        common = (20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(name))
        listed += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *common, 0, 0, 0, 0, 0, len(body)) + name.encode()
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *common, 0) + name.encode() + data
    counts = (0, 0, len(members), len(members), len(listed), len(body), 0)
    return body + listed + struct.pack("<4s4H2LH", b"PK\5\6", *counts)


# -- the actions --------------------------------------------------------------------------------------


def loader_jax(job: Job) -> Action:
    """The iterable of the JAX room, every batch waited for."""
    import jax

    from s3dlio.jax import S3JaxIterable

    def draw() -> Any:
        return map(jax.block_until_ready, S3JaxIterable(BUCKET_URI + PREFIX, batch_size=job.params["batch_size"]))

    return _drawing(job, draw)


def loader_jax_by_torch(job: Job) -> Action:
    """The iterable dataset of the torch room under a DataLoader without workers."""
    import torch
    from torch.utils.data import DataLoader

    from s3dlio.torch import S3IterableDataset

    torch.set_num_threads(job.setting.get("torch_threads", 1))

    def draw() -> Any:
        size = job.params["batch_size"]
        return DataLoader(S3IterableDataset(BUCKET_URI + PREFIX, batch_size=size), batch_size=size)

    return _drawing(job, draw)


def _drawing(job: Job, draw: Callable[[], Any]) -> Action:
    def action() -> Haul:
        count = size = 0
        for batch in draw():
            count, size = count + len(batch["label"]), size + batch["image"].nbytes
            if job.proof:
                _prove(batch)
        if job.proof:
            if count != COUNT:
                raise WrongBytesError(f"{count} samples came, of {COUNT}")
            job.proof.whole = True
        return Haul(count, size)

    return action


def _prove(batch: Any) -> None:
    for image, label in zip(batch["image"], batch["label"], strict=True):
        if bytes(memoryview(image.__array__())) != contents(int(label)):
            raise WrongBytesError(f"image {int(label)}: wrong bytes")


WORKS = {"loader_jax": loader_jax, "loader_jax_by_torch": loader_jax_by_torch}
