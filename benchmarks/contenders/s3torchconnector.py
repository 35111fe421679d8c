"""s3torchconnector: Amazon's connector for PyTorch (the CRT client below), by readers and by datasets.

For: the peer for loaders. Must not know: how it is timed.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from s3torchconnector import S3ClientConfig, S3IterableDataset, S3MapDataset, S3Reader
from s3torchconnector._s3client import S3Client

from benchmarks import dcp_works
from benchmarks.contenders import s3torchconnector_field
from benchmarks.crowd import share
from benchmarks.file_works import reading_in_a_row
from benchmarks.imports import importing
from benchmarks.loaders import loading
from benchmarks.objects import BIG_KEY, BUCKET
from benchmarks.put_works import writing
from benchmarks.worker import Action, Haul, Job, held, held_whole, serve

_REGION = "us-east-1"
_MIB = 1024 * 1024


def _config(job: Job) -> S3ClientConfig:
    return S3ClientConfig(
        force_path_style=True,
        throughput_target_gbps=float(job.setting.get("gbps", 10.0)),
        part_size=int(job.setting.get("part_mib", 8)) * _MIB,
    )


@cache
def _client(endpoint: str, config: S3ClientConfig) -> S3Client:
    return S3Client(_REGION, endpoint=endpoint, s3client_config=config)


def small(job: Job) -> Action:
    """All objects by the readers of one client, in threads."""
    client, keys = _client(job.endpoint, _config(job)), job.object_keys()

    def take(index: int) -> bytes:
        data: bytes = client.get_object(BUCKET, keys[index]).read()
        return data

    return lambda: held(share(take, job.indices(), job.setting["in_flight"]))


def big(job: Job) -> Action:
    """The big object by one reader: `read`, or `readinto` one buffer."""
    client, size = _client(job.endpoint, _config(job)), job.manifest.big_size

    def action() -> Haul:
        return held_whole(client.get_object(BUCKET, BIG_KEY).read())

    def action_into() -> Haul:
        target = bytearray(size)
        view, at = memoryview(target), 0
        reader = client.get_object(BUCKET, BIG_KEY)
        while at < size:
            at += reader.readinto(view[at : at + 8 * _MIB])
        return held_whole(target)

    return action_into if job.setting.get("mode") == "readinto" else action


def to_tensor(reader: S3Reader) -> torch.Tensor:
    """What the other datasets give: bytes as a tensor, without a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.frombuffer(reader.read(), dtype=torch.uint8)


def _dataset(job: Job, kind: Any, prefix: str, **more: Any) -> Any:
    return kind.from_prefix(
        prefix,
        region=_REGION,
        endpoint=job.endpoint,
        transform=to_tensor,
        s3client_config=_config(job),
        **more,
    )


def loader_iterable(job: Job) -> Action:
    """The iterable dataset over the whole prefix."""
    # A prefix that holds exactly the first hundred objects, where only few are to be read.
    few = job.params.get("count") == 100
    prefix = job.prefix_uri() + ("0000" if few else "")
    return loading(job, _dataset(job, S3IterableDataset, prefix, enable_sharding=True))


def loader_map(job: Job) -> Action:
    """The map dataset over the whole prefix."""
    return loading(job, _dataset(job, S3MapDataset, job.prefix_uri()))


def put(job: Job) -> Action:
    """By the writer of one client."""
    client = _client(job.endpoint, _config(job))

    def write(key: str, count: int, memory: memoryview) -> None:
        data = bytes(memory)  # it would copy anything else
        with client.put_object(BUCKET, key) as writer:
            for _ in range(count):
                writer.write(data)

    return writing(job, write)


def file_row(job: Job) -> Action:
    """By the sequential reader of one client."""
    client = _client(job.endpoint, _config(job))
    return reading_in_a_row(job, lambda key: client.get_object(BUCKET, key))


WORKS = {
    "file_row": file_row,
    "put": put,
    "small": small,
    "big": big,
    "loader_iterable": loader_iterable,
    "loader_map": loader_map,
    "import": importing("s3torchconnector"),
    **s3torchconnector_field.WORKS,
    **dcp_works.CONNECTOR_WORKS,
}

if __name__ == "__main__":
    serve(WORKS, ("s3torchconnector", "s3torchconnectorclient", "torch"))
