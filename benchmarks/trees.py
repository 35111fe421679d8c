"""Folders that are carried: many small files, a few big ones, and the S3 server that they go to and come from.

For: making them, starting the server, timing a way to carry one, and proving what has arrived. Must not know: any client.
Imports nothing outside the standard library at its top, because it runs in environments that hold one client each.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.objects import BUCKET
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, WrongBytesError

SERVER = "server"
_STEM = "s3dlio-trees-"
_ROOT = "BENCH_TREES"
#: How many files, of how many bytes.
SETS = {"small": (2000, 64 << 10), "big": (4, 256 << 20)}
#: What a way to carry one folder brings beside its time.
Carry = Callable[[str, str], dict[str, Any] | None]


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
    """The folders in memory, and rclone's S3 server over the same files; yields what its clients need to know."""
    from s3dlio.testing import S3Server

    memory = Path("/dev/shm")
    _sweep(memory)
    root = Path(tempfile.mkdtemp(prefix=f"{_STEM}{os.getpid()}-", dir=memory))
    try:
        for name in SETS:
            _write(root, name)
        with S3Server(root / "buckets") as server:
            yield server.env | {"AWS_DEFAULT_REGION": server.region, _ROOT: str(root)}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{_STEM}*-*"):
        pid = left.name[len(_STEM) :].split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


def _write(root: Path, name: str) -> None:
    count, size = SETS[name]
    files, objects = root / "files" / name, root / "buckets" / BUCKET / name
    files.mkdir(parents=True)
    objects.mkdir(parents=True)
    for index in range(count):
        path = files / f"{index:06d}.bin"
        path.write_bytes(os.urandom(size))
        (objects / path.name).hardlink_to(path)


def carrying(job: Job, carry: Carry) -> Action:
    """Time a way to carry a folder's files into a new place; what has arrived is counted after each pass."""
    root = Path(os.environ[_ROOT])
    name, way = job.params["set"], job.params["way"]
    source = f"{BUCKET_URI}{name}/" if way == "down" else str(root / "files" / name)

    def action() -> Haul:
        new = f"new-{os.getpid()}-{time.monotonic_ns()}"
        landing = root / "buckets" / BUCKET / new if way == "up" else root / new
        start = time.perf_counter()
        extra = carry(source, f"{BUCKET_URI}{new}/" if way == "up" else str(landing))
        seconds = time.perf_counter() - start
        try:
            _prove(job, root / "files" / name, landing)
        finally:
            shutil.rmtree(landing, ignore_errors=True)
        count, size = SETS[name]
        return Haul(count, count * size, seconds=seconds, extra=extra or {})

    return action


def _prove(job: Job, source: Path, landing: Path) -> None:
    wanted, arrived = ({path.name: path.stat().st_size for path in folder.iterdir()} for folder in (source, landing))
    if wanted != arrived:
        raise WrongBytesError(f"{len(arrived)} files arrived of {len(wanted)}, or not of their sizes")
    if job.proof:
        _, wrong, failed = filecmp.cmpfiles(source, landing, list(wanted), shallow=False)
        if wrong or failed:
            raise WrongBytesError(f"{len(wrong) + len(failed)} files are not what they were")
        job.proof.whole = True


def run_tool(*words: str, **environment: str) -> dict[str, Any]:
    """Run a program to its end; returns the peak of its memory, and raises with its words if it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | environment
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(
                f"{words[0]} ended with {process.returncode}: {said.read()[-300:].decode(errors='replace')}"
            )
    return {"peak_rss_bytes": used.ru_maxrss * 1024}
