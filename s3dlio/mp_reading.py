"""Reading with many processes, to see what a store gives.

Floor 6. Knows processes and how work is cut for them; must not know how objects are read. A piece of work is plain
data, can be done anywhere and again: so any executor does, one of a cluster too.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, ClassVar, NamedTuple

from s3dlio import recorder
from s3dlio.bare_processes import BareProcesses
from s3dlio.batches import run_batches
from s3dlio.bounds import whole
from s3dlio.context import context_options, current_token, store_of
from s3dlio.errors import OptionError, S3dlioError
from s3dlio.fetch import Fetcher, Read
from s3dlio.generation import names
from s3dlio.listing import find
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store
from s3dlio.uri import parse, parse_object

#: Pieces of work for each process: who is done early takes another one.
_PIECES_EACH = 4
_MIB = 1024**2


class _Piece(NamedTuple):
    uris: list[str]
    jobs: int
    options: StoreOptions | None
    log: tuple[str, bool] | None


class _Done(NamedTuple):
    worker: str
    objects: int
    bytes: int
    failed: int
    first_error: str
    began: float
    ended: float


def _read(piece: _Piece) -> _Done:
    """Do a piece of work, in whatever process this is."""
    if piece.log is not None:
        recorder.follow(*piece.log)
    store = open_store(parse(piece.uris[0]), piece.options)
    fetcher = Fetcher(store, max_in_flight=piece.jobs, lenient=True)
    began = time.time()
    objects = moved = failed = 0
    error = ""
    for _, view in fetcher.stream((Read(parse_object(uri, "mp_get")) for uri in piece.uris), ordered=False):
        if isinstance(view, S3dlioError):
            failed += 1
            error = error or str(view)
        else:
            objects += 1
            moved += len(view)
    return _Done(f"{platform.node()}:{os.getpid()}", objects, moved, failed, error, began, time.time())


class _Told(Mapping[str, Any]):
    """A mapping whose items are attributes too."""

    _names: ClassVar[tuple[str, ...]]

    def __getitem__(self, name: str) -> Any:
        """Return an item by its name."""
        if name not in self._names:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._names)


@dataclasses.dataclass(frozen=True)
class WorkerStats(_Told):
    """What one process has read: a mapping whose items are attributes too.

    Attributes:
        worker: Host and process id.
        objects: Read.
        bytes: Read.
        failed: Objects that could not be read.
        seconds: From its first object to its last.
        worker_id: The same as ``worker``.
        throughput_mb_s: MiB in each of these seconds.
    """

    _names = ("worker", "worker_id", "objects", "bytes", "failed", "seconds", "throughput_mb_s")

    worker: str
    objects: int
    bytes: int
    failed: int
    seconds: float

    @property
    def worker_id(self) -> str:
        """Host and process id."""
        return self.worker

    @property
    def throughput_mb_s(self) -> float:
        """MiB in each second."""
        return self.bytes / _MIB / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class ReadStats(_Told):
    """What all processes have read: a mapping whose items are attributes too.

    Attributes:
        total_objects: Read.
        total_bytes: Read, as they were counted on arrival.
        duration_seconds: From the first object to the last, without the processes' start.
        throughput_mb_s: MiB in each of these seconds.
        ops_per_sec: Objects in each of these seconds.
        failed: Objects that could not be read.
        first_error: What the first of these said, or nothing.
        workers: Of each process.
    """

    _names = (
        "total_objects", "total_bytes", "duration_seconds", "throughput_mb_s", "ops_per_sec", "failed", "first_error",
        "workers",
    )  # fmt: skip

    total_objects: int
    total_bytes: int
    duration_seconds: float
    throughput_mb_s: float
    ops_per_sec: float
    failed: int
    first_error: str
    workers: list[WorkerStats]


def mp_get(
    uri: str,
    procs: int = 4,
    jobs: int = 64,
    num: int = 1000,
    template: str | None = None,
    *,
    executor: Executor | None = None,
) -> ReadStats:
    """Read many objects with several processes, and forget their bytes: a measurement.

    Each process holds a few hundred MiB at most. An operation log that is being written goes on in ``PATH.PID`` of
    each process. The processes import this library and nothing of the script, which therefore needs no guard.

    Args:
        uri: A prefix.
        procs: Processes.
        jobs: Objects in flight in each of them.
        num: How many objects.
        template: Names behind the prefix, with ``{}`` for the number from 0 on (a second one for ``num``). Without
            one the prefix is listed, and the first ``num`` objects are read.
        executor: Runs the pieces of work instead of processes of our own: any of ``concurrent.futures``' interface,
            also one that leads to other machines, which need the same library and credentials. What a lost worker
            was at is done once more by another one.

    Returns:
        Counts and times, in all and for each process. Objects that cannot be read are counted as failed.

    Raises:
        OptionError: A number is out of its range, or there is nothing to read.
        StoreError: The prefix cannot be listed.
        S3dlioError: A process ended early.
    """
    procs, jobs, num = whole("procs", procs, 1), whole("jobs", jobs, 1), whole("num", num, 1)
    uris = _named(uri, num, template)
    size = max(1, min(-(-len(uris) // procs), max(jobs, -(-len(uris) // (procs * _PIECES_EACH)))))
    active = recorder.active
    log = (active.path, active.packed) if active is not None else None
    options = context_options.get()
    pieces = [_Piece(uris[at : at + size], jobs, options, log) for at in range(0, len(uris), size)]
    try:
        if executor is not None:
            return _stats(_results(executor, pieces))
        with BareProcesses(min(procs, len(pieces))) as pool:
            return _stats(_results(pool, pieces))
    except BrokenExecutor as error:
        msg = f"{error}; with an executor of spawned processes the script needs if __name__ == '__main__'"
        raise S3dlioError(msg, uri=uri, operation="mp_get") from error


def _named(uri: str, num: int, template: str | None) -> list[str]:
    if template is not None:
        prefix = uri if uri.endswith("/") else f"{uri}/"
        return [f"{prefix}{name}" for name in names(template, num)]
    found = [str(one.uri) for one in find(uri, None, current_token(), store=store_of(parse(uri)))]
    if not found:
        raise OptionError("there is nothing to read below this prefix", uri=uri, operation="mp_get")
    return found[:num]


def _results(executor: Executor, pieces: list[_Piece]) -> list[_Done]:
    done = []
    for _, result in run_batches(executor, _read, pieces, current_token()):
        if not isinstance(result, _Done):
            raise result
        done.append(result)
    return done


def _stats(done: list[_Done]) -> ReadStats:
    seconds = max(1e-9, max(one.ended for one in done) - min(one.began for one in done))
    objects = sum(one.objects for one in done)
    moved = sum(one.bytes for one in done)
    workers: dict[str, list[_Done]] = {}
    for one in done:
        workers.setdefault(one.worker, []).append(one)
    return ReadStats(
        total_objects=objects,
        total_bytes=moved,
        duration_seconds=seconds,
        throughput_mb_s=moved / _MIB / seconds,
        ops_per_sec=objects / seconds,
        failed=sum(one.failed for one in done),
        first_error=next((one.first_error for one in done if one.first_error), ""),
        workers=[_of_worker(name, pieces) for name, pieces in sorted(workers.items())],
    )


def _of_worker(name: str, done: list[_Done]) -> WorkerStats:
    return WorkerStats(
        name,
        sum(one.objects for one in done),
        sum(one.bytes for one in done),
        sum(one.failed for one in done),
        max(one.ended for one in done) - min(one.began for one in done),
    )
