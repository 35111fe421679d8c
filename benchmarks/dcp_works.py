"""The works on checkpoints of torch.distributed.checkpoint: one process saves, and loads again into its tensors.

For: declaring them, and their actions. Must not know: how rounds are run. torch and the peers are imported in the
actions, since what declares a work has none of them.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.declare import BOTO3, CONNECTOR, OURS, Lane, Target, Work
from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Haul, Job, WrongBytesError

_SIDE = 4096
_TENSOR_BYTES = _SIDE * _SIDE * 4
_REGION = "us-east-1"
_OTHERS = "s3fs"
State = dict[str, Any]
#: Saves a state at a place, and loads it from there into another.
Ways = tuple[Callable[[str, State], Any], Callable[[str, State], Any]]

_ABOUT = (
    "One process, 64 tensors of 64 MiB. Ours sums every byte, on the way out and on the way in; torch's own writers"
    " and the connector keep no sums. torch's FileSystemWriter does not wait for the disk here (sync_files=False);"
    " ours always does. fsspec is torch's FsspecWriter on s3fs; boto3 is torch.save into memory and a transfer."
)


def _files(does: str) -> tuple[Lane, ...]:
    params = {"does": does, "on": "file"}
    return (
        Lane("ours DCP", OURS, "dcp_ours", ({}, {"files_per_rank": 4}), params=params),
        Lane("torch DCP FileSystem", OURS, "dcp_torch", ({}, {"thread_count": 4}), params=params),
    )


def _buckets(does: str) -> tuple[Lane, ...]:
    params = {"does": does, "on": "s3"}
    return (
        Lane("ours DCP", OURS, "dcp_ours", params=params),
        Lane("s3torchconnector DCP", CONNECTOR, "dcp_connector", ({}, {"thread_count": 4}), params=params),
        Lane("torch DCP fsspec on s3fs", _OTHERS, "dcp_fsspec", params=params, most_rounds=3),
        Lane("torch.save over boto3", BOTO3, "dcp_boto3", params=params, most_rounds=3),
    )


def _work(name: str, title: str, lanes: tuple[Lane, ...], peers: tuple[str, ...], at_least: float) -> Work:
    target = Target(f"{title}: {at_least} x the best peer", "ours DCP", peers, at_least=at_least)
    return Work(
        name=name, title=title, figure="gib_per_second", unit="GiB/s", lanes=lanes, targets=(target,),
        params={"tensors": 64}, rounds=5, about=_ABOUT,
    )  # fmt: skip


_S3_PEERS = ("s3torchconnector DCP", "torch DCP fsspec on s3fs", "torch.save over boto3")
DCP_SAVE_FILE = _work("dcp_save_file", "DCP: 4 GiB saved to files", _files("save"), ("torch DCP FileSystem",), 1.0)
DCP_LOAD_FILE = _work("dcp_load_file", "DCP: 4 GiB loaded from files", _files("load"), ("torch DCP FileSystem",), 2.0)
DCP_SAVE_S3 = _work("dcp_save_s3", "DCP: 4 GiB saved to S3", _buckets("save"), _S3_PEERS, 1.0)
DCP_LOAD_S3 = _work("dcp_load_s3", "DCP: 4 GiB loaded from S3", _buckets("load"), _S3_PEERS, 1.5)


def dcp_ours(job: Job) -> Action:
    """Our writer and reader."""
    import torch.distributed.checkpoint as dcp

    from s3dlio.torch import S3StorageReader, S3StorageWriter

    return _doing(
        job,
        lambda where, state: dcp.save(state, storage_writer=S3StorageWriter(where, **job.setting)),
        lambda where, state: dcp.load(state, storage_reader=S3StorageReader(where)),
    )


def dcp_torch(job: Job) -> Action:
    """Those of torch itself, on files."""
    import torch.distributed.checkpoint as dcp

    def save(where: str, state: State) -> None:
        path = where.removeprefix("file://")
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path, sync_files=False, **job.setting))

    def load(where: str, state: State) -> None:
        dcp.load(state, storage_reader=dcp.FileSystemReader(where.removeprefix("file://")))

    return _doing(job, save, load)


def dcp_fsspec(job: Job) -> Action:
    """Those of torch, on s3fs."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    there: dict[str, Any] = {"client_kwargs": {"endpoint_url": job.endpoint}}
    return _doing(
        job,
        lambda where, state: dcp.save(state, storage_writer=FsspecWriter(where, sync_files=False, **there)),
        lambda where, state: dcp.load(state, storage_reader=FsspecReader(where, **there)),
    )


def dcp_connector(job: Job) -> Action:
    """Those of Amazon's connector."""
    import torch.distributed.checkpoint as dcp
    from s3torchconnector import S3ClientConfig
    from s3torchconnector.dcp import S3StorageReader, S3StorageWriter

    config = S3ClientConfig(force_path_style=True)

    def save(where: str, state: State) -> None:
        dcp.save(state, storage_writer=S3StorageWriter(_REGION, where, s3client_config=config, **job.setting))

    def load(where: str, state: State) -> None:
        dcp.load(state, storage_reader=S3StorageReader(_REGION, where, s3client_config=config))

    return _doing(job, save, load)


def dcp_boto3(job: Job) -> Action:
    """What people write without any of these: the whole state pickled into memory, and sent."""
    import boto3
    import torch

    client = boto3.client("s3", endpoint_url=job.endpoint)

    def save(where: str, state: State) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        client.upload_fileobj(file, BUCKET, where.partition(f"{BUCKET}/")[2])

    def load(where: str, state: State) -> None:
        file = io.BytesIO()
        client.download_fileobj(BUCKET, where.partition(f"{BUCKET}/")[2], file)
        file.seek(0)
        for name, tensor in torch.load(file).items():
            state[name].copy_(tensor)

    return _doing(job, save, load)


def _doing(job: Job, save: Callable[[str, State], Any], load: Callable[[str, State], Any]) -> Action:
    """Return what is timed: a save, or a load of what was saved beforehand; a proof compares every byte."""
    import torch

    warnings.filterwarnings("ignore", "torch.distributed is disabled|Detected an existing checkpoint")
    count = job.params["tensors"]
    state = {f"layer{at}": torch.full((_SIDE, _SIDE), float(at)) for at in range(count)}
    target = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    where = _place(job)
    if job.params["does"] == "load":
        save(where, state)

    def action() -> Haul:
        if job.params["does"] == "save":
            save(where, state)
        if job.params["does"] == "load" or job.proof:
            load(where, target)
        if job.proof:
            _prove(state, target)
            job.proof.whole = True
        return Haul(count, count * _TENSOR_BYTES)

    return action


def _place(job: Job) -> str:
    if job.params["on"] == "s3":
        return f"s3://{BUCKET}/dcp/{job.params['does']}"
    # In memory: disks differ by more than clients do.
    folder = Path("/dev/shm") / "s3dlio-dcp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return f"file://{tempfile.mkdtemp(dir=folder)}/checkpoint"


def _prove(state: State, target: State) -> None:
    for name, tensor in state.items():
        if not bool((target[name] == tensor).all()):
            raise WrongBytesError(f"{name} came back otherwise")
