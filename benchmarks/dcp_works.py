"""The works on checkpoints of torch: one process saves 4 GiB, and loads them again into a model that exists.

For: declaring them, and their actions. Must not know: how rounds are run. torch and the peers are imported in the
actions, since what declares a work has none of them.
"""

from __future__ import annotations

import gc
import io
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import depot
from benchmarks.declare import BOTO3, CONNECTOR, OURS, Lane, Setting, Target, Work
from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Haul, Job, Prepare, WrongBytesError, memory_bytes, weighed

DEPOT = "depot"
_SIDE = 4096
_TENSOR_BYTES = _SIDE * _SIDE * 4
_MIB = 1 << 20
_REGION = "us-east-1"
#: The environment that has torch with s3fs and nothing else.
_TORCH = "s3fs"
#: Files lie in memory, where clients differ and disks do not, or on a disk, as people have them.
_FOLDERS = {"file": Path("/dev/shm"), "disk": Path(__file__).resolve().parents[1] / ".bench"}
#: What was quickest when tried on 512 MiB: threads of 1, 2 and 4, targets of 10 and 50 Gbit/s, parts of 8 and 32 MiB.
#: For s3fs (threads, blocks) and boto3 (parts, requests in flight) nothing was quicker than their defaults.
_CONNECTOR_SETTINGS: dict[str, tuple[Setting, ...]] = {"save": ({"thread_count": 4, "part_mib": 32},), "load": ({},)}
#: A proof is of a quarter: all of it, from the making to the comparing, takes as long as three passes.
_PROVED_SHARE = 4
State = dict[str, Any]
#: Saves a state at a place, or loads it from there into another.
Way = Callable[[str, State], Any]
#: Makes a contender's two ways.
Ways = Callable[[Job], tuple[Way, Way]]

_ABOUT = (
    "One process, 64 tensors of 64 MiB. {} Ours sums every byte, on the way out and on the way in; the others keep no"
    " sums, but for those that S3 clients send. The peak is over the tensors themselves. The proof is of 1 GiB."
)
_SAVED = "What is saved goes to a server that throws it away, or to files in memory."
_SAVED_ON_DISK = (
    "What is saved goes to files on this machine's disk, and is there when the clock stops, but for torch.save's, which"
    " does not wait for the disk."
)
_LOADED = "Each lane loads what it has saved itself, without the clock, into tensors that exist and are touched."


def _file_lanes(does: str, on: str) -> tuple[Lane, ...]:
    params = {"does": does, "on": on}
    lanes = (
        Lane("ours DCP", OURS, "dcp_ours", params=params),
        Lane("ours checkpoint", OURS, "dcp_ours_file", params=params, kin="file"),
        Lane("torch DCP FileSystem", _TORCH, "dcp_torch", params=params),
        Lane("torch.save", _TORCH, "dcp_torch_save", params=params, kin="file"),
    )
    if does == "load":
        return lanes
    return (
        *lanes,
        Lane("ours DCP, 4 files", OURS, "dcp_ours", ({"files_per_rank": 4},), params=params, kin="many"),
        Lane("torch DCP, 4 files", _TORCH, "dcp_torch", ({"thread_count": 4},), params=params, kin="many"),
    )


def _bucket_lanes(does: str) -> tuple[Lane, ...]:
    params = {"does": does, "on": "s3"}
    return (
        Lane("ours DCP", OURS, "dcp_ours", params=params),
        Lane("ours checkpoint", OURS, "dcp_ours_file", params=params, kin="file"),
        Lane("s3torchconnector DCP", CONNECTOR, "dcp_connector", _CONNECTOR_SETTINGS[does], params=params),
        Lane("torch DCP fsspec on s3fs", _TORCH, "dcp_fsspec", params=params, most_rounds=2),
        Lane("torch.save over boto3", BOTO3, "dcp_boto3", params=params, most_rounds=2, kin="file"),
    )


def _work(does: str, on: str) -> Work:
    lanes = _bucket_lanes(does) if on == "s3" else _file_lanes(does, on)
    where = {"s3": "S3", "file": "files", "disk": "a disk"}[on]
    about = _LOADED if does == "load" else _SAVED_ON_DISK if on == "disk" else _SAVED
    title = f"torch checkpoint: 4 GiB {'saved to' if does == 'save' else 'loaded from'} {where}"
    return Work(
        name=f"dcp_{does}_{on}", title=title, figure="gib_per_second", unit="GiB/s", lanes=lanes,
        targets=tuple(_targets(does, where, lanes)), endpoint=DEPOT, params={"tensors": 64}, rounds=5, warm_passes=1,
        about=_ABOUT.format(about),
    )  # fmt: skip


def _targets(does: str, where: str, lanes: tuple[Lane, ...]) -> Iterator[Target]:
    title = f"checkpoint {'saved to' if does == 'save' else 'loaded from'} {where}"
    peers = [lane for lane in lanes if lane.contender != OURS]
    for ours in ("ours DCP", "ours DCP, 4 files"):
        is_many = ours != "ours DCP"
        against = tuple(lane.label for lane in peers if (lane.kin == "many") == is_many)
        if against:
            yield Target(f"{title}, {ours}: 2 x the best peer", ours, against, at_least=2.0)
    if does == "load":
        for label in ("ours DCP", "ours checkpoint"):
            text = f"{title}, {label}: peak over the model, GiB"
            yield Target(text, label, at_most=0.25, figure="peak_over_baseline_gib")


DCP_WORKS = (_work("save", "disk"), *(_work(does, on) for on in ("file", "s3") for does in ("save", "load")))


# -- the ways -----------------------------------------------------------------------------------------


def _ours(job: Job) -> tuple[Way, Way]:
    import torch.distributed.checkpoint as dcp

    from s3dlio.torch import S3StorageReader, S3StorageWriter

    return (
        lambda where, state: dcp.save(state, storage_writer=S3StorageWriter(where, **job.setting)),
        lambda where, state: dcp.load(state, storage_reader=S3StorageReader(where)),
    )


def _ours_file(_job: Job) -> tuple[Way, Way]:
    import s3dlio

    return s3dlio.save_checkpoint, lambda where, state: s3dlio.load_checkpoint(where, into=state)


def _torch(job: Job) -> tuple[Way, Way]:
    import torch.distributed.checkpoint as dcp

    # Ours waits for the disk, theirs need not in memory, where there is nothing to wait for.
    how = {"sync_files": job.params["on"] == "disk", **job.setting}
    return (
        lambda where, state: dcp.save(state, storage_writer=dcp.FileSystemWriter(where.removeprefix("file://"), **how)),
        lambda where, state: dcp.load(state, storage_reader=dcp.FileSystemReader(where.removeprefix("file://"))),
    )


def _torch_save(_job: Job) -> tuple[Way, Way]:
    import torch

    return (
        lambda where, state: torch.save(state, where.removeprefix("file://")),
        lambda where, state: _copy(torch.load(where.removeprefix("file://"), mmap=False), state),
    )


def _fsspec(job: Job) -> tuple[Way, Way]:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    there: dict[str, Any] = {"client_kwargs": {"endpoint_url": job.endpoint}}
    return (
        lambda where, state: dcp.save(state, storage_writer=FsspecWriter(where, sync_files=False, **there)),
        lambda where, state: dcp.load(state, storage_reader=FsspecReader(where, **there)),
    )


def _connector(job: Job) -> tuple[Way, Way]:
    import torch.distributed.checkpoint as dcp
    from s3torchconnector import S3ClientConfig
    from s3torchconnector.dcp import S3StorageReader, S3StorageWriter

    config = S3ClientConfig(force_path_style=True, part_size=job.setting.get("part_mib", 8) * _MIB)
    threads = job.setting.get("thread_count", 1)
    return (
        lambda where, state: dcp.save(
            state, storage_writer=S3StorageWriter(_REGION, where, s3client_config=config, thread_count=threads)
        ),
        lambda where, state: dcp.load(
            state, storage_reader=S3StorageReader(_REGION, where, s3client_config=config)
        ),
    )  # fmt: skip


def _boto3(job: Job) -> tuple[Way, Way]:
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
        _copy(torch.load(file), state)

    return save, load


def _copy(loaded: State, state: State) -> None:
    for name, tensor in loaded.items():
        state[name].copy_(tensor)


# -- what is timed ------------------------------------------------------------------------------------


def prepare(ways: Ways, job: Job) -> Action:
    """Return what is timed: a save, or a load of what was saved beforehand; a proof compares every byte.

    Tensors are made in the pass and gone after it: lanes take turns, and all of them at once have no room.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled|Detected an existing checkpoint")
    save, load = ways(job)
    return partial(_pass, job, save, load)


def _pass(job: Job, save: Way, load: Way) -> Haul:
    count, is_load = job.params["tensors"], job.params["does"] == "load"
    count = count // _PROVED_SHARE if job.proof else count
    where = _place(job, is_kept=is_load or job.proof is not None)
    try:
        figures = _weighed(save, where, {f"layer{at}": _tensor(at) for at in range(count)})
        if is_load or job.proof:
            target = {f"layer{at}": _blank() for at in range(count)}
            loaded = _weighed(load, where, target)
            figures = loaded if is_load else figures
            if job.proof:
                _prove(target)
                job.proof.whole = True
            del target
    finally:
        _forget(job, where)
    return Haul(count, count * _TENSOR_BYTES, seconds=figures["seconds"], extra=figures)


def _weighed(way: Way, where: str, state: State) -> dict[str, Any]:
    gc.collect()
    baseline = memory_bytes("VmRSS")
    return weighed(lambda: way(where, state)) | {"baseline_rss_bytes": baseline}


def _tensor(number: int) -> Any:
    """No word of it is in any other tensor, or twice."""
    import torch

    words = _SIDE * _SIDE
    first = number * words
    return torch.arange(first, first + words, dtype=torch.int32).view(torch.float32).view(_SIDE, _SIDE)


def _blank() -> Any:
    import torch

    return torch.full((_SIDE, _SIDE), -1.0)


def _prove(target: State) -> None:
    import torch

    for at, (name, tensor) in enumerate(target.items()):
        # As whole numbers: some of these words are no numbers when they are taken for floats, and equal nothing.
        if not torch.equal(tensor.view(torch.int32), _tensor(at).view(torch.int32)):
            raise WrongBytesError(f"{name} came back otherwise")


def _place(job: Job, *, is_kept: bool) -> str:
    """A place of this pass alone."""
    if job.params["on"] == "s3":
        return f"s3://{BUCKET}/{'' if is_kept else depot.THROWN}dcp-{time.monotonic_ns()}/checkpoint"
    folder = _FOLDERS[job.params["on"]]
    return f"file://{tempfile.mkdtemp(prefix=_stem(folder), dir=folder)}/checkpoint"


@cache
def _stem(folder: Path) -> str:
    """How this process names its folders; those of processes that were killed are removed."""
    stem = "s3dlio-dcp-"
    for left in folder.glob(f"{stem}*-*"):
        if not Path("/proc", left.name[len(stem) :].split("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return f"{stem}{os.getpid()}-"


def _forget(job: Job, where: str) -> None:
    if job.params["on"] == "s3":
        depot.clear(job.endpoint)
    else:
        shutil.rmtree(Path(where.removeprefix("file://")).parent)
    gc.collect()


def _preparing(ways: Ways) -> Prepare:
    return partial(prepare, ways)


OURS_WORKS = {"dcp_ours": _preparing(_ours), "dcp_ours_file": _preparing(_ours_file)}
TORCH_WORKS = {
    "dcp_torch": _preparing(_torch),
    "dcp_torch_save": _preparing(_torch_save),
    "dcp_fsspec": _preparing(_fsspec),
}
CONNECTOR_WORKS = {"dcp_connector": _preparing(_connector)}
BOTO3_WORKS = {"dcp_boto3": _preparing(_boto3)}
