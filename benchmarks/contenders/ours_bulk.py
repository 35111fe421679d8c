"""This library's verbs on many objects: listings, transfers, processes, the operation log, made-up data.

For: what `ours` offers to the bulk works. Must not know: how it is timed.
"""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import Any

import s3dlio
from benchmarks.bulk_works import GENERATED_BYTES, LOGGED_PASSES, MANY_COUNT, MANY_PREFIX, MANY_TEMPLATE
from benchmarks.listing_pages import PREFIX, listing
from benchmarks.trees import carrying, run_tool
from benchmarks.venvs import ROOT
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, WrongBytesError

_LOG = Path("/dev/shm")
_BLOCK_BYTES = 8 << 20


def list_all(job: Job) -> Action:
    """By `list`: URIs, sorted."""
    lead = len(BUCKET_URI)
    return listing(job, lambda: s3dlio.list(BUCKET_URI + PREFIX), lambda uris: (uri[lead:] for uri in uris), len)


def list_lazily(job: Job) -> Action:
    """By `iter_objects`, each entry dropped when the next one comes; a proof keeps them."""
    lead = len(BUCKET_URI)

    def take() -> Any:
        entries = s3dlio.iter_objects(BUCKET_URI + PREFIX)
        return list(entries) if job.proof else range(sum(1 for _ in entries))

    return listing(job, take, lambda entries: (entry.uri[lead:] for entry in entries), len)


def transfer(job: Job) -> Action:
    """By the functions."""
    verb = s3dlio.download if job.params["way"] == "down" else s3dlio.upload

    def carry(source: str, target: str) -> None:
        where = f"file://{target}" if job.params["way"] == "files" else target
        verb(source if job.params["way"] == "down" else f"{source}/*", where, **job.setting)

    return carrying(job, carry)


def transfer_by_command(job: Job) -> Action:
    """By the command line, a process each time."""
    verb = "download" if job.params["way"] == "down" else "upload"

    def carry(source: str, target: str) -> dict[str, Any]:
        what = source if verb == "download" else f"{source}/*"
        words = (sys.executable, "-P", "-m", "s3dlio", verb, "-q", what, target)
        return run_tool(*words, PYTHONPATH=str(ROOT))

    return carrying(job, carry)


def mp_get(job: Job) -> Action:
    """By `mp_get`, as it counts and times itself: without the processes' start."""

    def action() -> Haul:
        told = s3dlio.mp_get(
            BUCKET_URI + MANY_PREFIX, procs=job.params["procs"], num=MANY_COUNT, template=MANY_TEMPLATE
        )
        if told.failed or told.total_bytes != MANY_COUNT * job.manifest.small_size:
            raise WrongBytesError(f"{told.failed} objects failed, {told.total_bytes} bytes came: {told.first_error}")
        return Haul(told.total_objects, told.total_bytes, seconds=told.duration_seconds, proved_by_count=False)

    return action


def logged(job: Job) -> Action:
    """All small objects, a few times over, with or without an operation log: which is finished when the clock stops."""
    uris, path = job.uris(), _LOG / f"s3dlio-bench-log-{os.getpid()}.tsv"

    def read() -> None:
        for _ in range(LOGGED_PASSES):
            pairs = s3dlio.get_many(uris)
            if job.proof:
                job.proof.seen.clear()
                for index, (_, data) in enumerate(pairs):
                    job.proof.small(index, data)

    def action() -> Haul:
        if not job.params["log"]:
            read()
        else:
            try:
                s3dlio.init_op_log(path)
                read()
                s3dlio.finalize_op_log()
                if job.proof:  # which is not timed
                    _check_log(path, len(uris) * LOGGED_PASSES)
            finally:
                path.unlink(missing_ok=True)
        return Haul(len(uris) * LOGGED_PASSES, 0, proved_by_count=False)

    return action


def _check_log(path: Path, count: int) -> None:
    with path.open("rb") as file:
        lines = sum(1 for _ in file) - 1
    if lines != count:
        raise WrongBytesError(f"the log has {lines} lines for {count} operations")


def generate(job: Job) -> Action:
    """By `generate_blocks`, one block dropped when the next one comes."""

    def action() -> Haul:
        size = total = 0
        for block in s3dlio.generate_blocks(GENERATED_BYTES, seed=7, block_size=_BLOCK_BYTES):
            size += len(block)
            if job.proof:
                total = zlib.crc32(block, total)
        if job.proof and total != _generated_again():
            raise WrongBytesError("the same seed made other bytes")
        return Haul(1, size, proved_by_count=False)

    return action


def _generated_again() -> int:
    return zlib.crc32(s3dlio.generate_data_with_threads(GENERATED_BYTES, threads=2, seed=7))


def generate_alone(_job: Job) -> Action:
    """NumPy's generator into one memory again and again."""
    import numpy as np

    generator = np.random.Generator(np.random.SFC64(7))

    def action() -> Haul:
        size = sum(len(generator.bytes(_BLOCK_BYTES)) for _ in range(GENERATED_BYTES // _BLOCK_BYTES))
        return Haul(1, size, proved_by_count=False)

    return action


WORKS = {
    "list_all": list_all,
    "list_lazily": list_lazily,
    "transfer": transfer,
    "transfer_by_command": transfer_by_command,
    "mp_get": mp_get,
    "logged": logged,
    "generate": generate,
    "generate_alone": generate_alone,
}
