"""The operations of a log, done again somewhere else.

Floor 6. Knows which verb does what a line tells; must not know how logs are read (:mod:`s3dlio.oplog_reading`).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple

from s3dlio import api, removal
from s3dlio.buckets import list_uris
from s3dlio.context import current_token
from s3dlio.crew import map_all
from s3dlio.datagen import generate_data
from s3dlio.errors import FormatError, OptionError, S3dlioError
from s3dlio.oplog_reading import Operation, read_op_log
from s3dlio.options import DEFAULT_IN_FLIGHT


class Replay(NamedTuple):
    """What became of a replay.

    Attributes:
        operations: How many were done.
        errors: How many of them failed.
        skipped: How many were left out: those that had failed, what concerns directories or names no object (many
            deleted at once), and steps of uploads other than their parts.
        bytes: Moved.
        duration_s: Seconds, without the preparation.
        late_s: How late the latest operation began, in seconds: the target is slower, or ``max_in_flight`` too small.
        first_error: What the first failure said, or nothing.
    """

    operations: int
    errors: int
    skipped: int
    bytes: int
    duration_s: float
    late_s: float
    first_error: str


def replay_op_log(
    log: str | os.PathLike[str] | Sequence[Operation],
    target_uri: str,
    speed: float = 1.0,
    *,
    max_in_flight: int = DEFAULT_IN_FLIGHT,
    prepare: bool = True,
) -> Replay:
    """Do the operations of a log again, of the same sizes and at the same times, below another prefix.

    A GET reads as many bytes from the object's beginning, a part of an upload becomes an object of its own
    (``KEY.part-N``). The bytes written are random.

    Args:
        log: The log's path (logs of forked children are taken in), or its operations.
        target_uri: What stands before each recorded bucket and key.
        speed: 2 goes twice as fast; ``math.inf`` does not wait.
        max_in_flight: Most operations at once.
        prepare: Write the objects that will be read, before the time begins.

    Raises:
        FormatError: It is no such log, or a name in it leads out of the target.
        OptionError: ``speed`` or ``max_in_flight`` is not positive.
        StoreError: The preparation failed. (Later failures are counted.)
    """
    if not speed > 0 or max_in_flight < 1:
        msg = f"speed and max_in_flight must be positive, not {speed} and {max_in_flight}"
        raise OptionError(msg, uri=target_uri, operation="replay_op_log")
    found = read_op_log(log, children=True) if isinstance(log, (str, os.PathLike)) else list(log)
    wanted = sorted(filter(_can_be_done, found), key=lambda one: one.start_ns)
    places = {one.file: _place(target_uri, one.file) for one in wanted}
    run = _Run(len(found) - len(wanted), max((one.bytes for one in wanted), default=0))
    if prepare:
        _prepare(wanted, places, run.random, max_in_flight)
    begin = time.perf_counter()
    with ThreadPoolExecutor(max_in_flight, "s3dlio-replay") as threads:
        for number, one in enumerate(wanted):
            due = begin + (0.0 if math.isinf(speed) else (one.start_ns - wanted[0].start_ns) / 1e9 / speed)
            time.sleep(max(0.0, due - time.perf_counter()))
            threads.submit(copy_context().run, run.do, one, places[one.file], (number, due))
    return run.result(time.perf_counter() - begin)


def _can_be_done(one: Operation) -> bool:
    # What ends in "/" is a directory, empty there; here it may not be. warp deletes many objects without their names.
    is_object = one.file != "" and not one.file.endswith("/")
    return one.op in _DOERS and not one.error and (one.op == "LIST" or is_object)


def _place(target: str, file: str) -> str:
    if ".." in file.split("/"):
        msg = f"the name {file!r} leads out of the target"
        raise FormatError(msg, uri=target, operation="replay_op_log")
    return f"{target.removesuffix('/')}/{file.removeprefix('/')}"


def _prepare(wanted: list[Operation], places: dict[str, str], random: memoryview, width: int) -> None:
    sizes: dict[str, int] = {}
    for one in wanted:
        if one.op in ("GET", "STAT"):
            sizes[one.file] = max(one.bytes, sizes.get(one.file, 0))
    map_all(lambda item, _token: api.put(places[item[0]], random[: item[1]]), sizes.items(), width, current_token())


class _Run:
    """What is counted while operations are done. Thread-safe."""

    def __init__(self, skipped: int, largest: int) -> None:
        self.random = generate_data(largest).memoryview()
        self._skipped = skipped
        self._lock = threading.Lock()
        self._done = self._errors = self._bytes = 0
        self._late = 0.0
        self._first_error = ""

    def do(self, one: Operation, uri: str, when: tuple[int, float]) -> None:
        late = time.perf_counter() - when[1]
        error, moved = "", 0
        try:
            moved = _DOERS[one.op](uri, self.random[: one.bytes], when[0])
        except S3dlioError as failure:
            error = str(failure)
        with self._lock:
            self._done += 1
            self._bytes += moved
            self._late = max(self._late, late)
            if error:
                self._errors += 1
                self._first_error = self._first_error or error

    def result(self, seconds: float) -> Replay:
        return Replay(
            self._done, self._errors, self._skipped, self._bytes, seconds, self._late, self._first_error
        )  # fmt: skip


def _get(uri: str, data: memoryview, _number: int) -> int:
    return len(api.get_range(uri, 0, len(data)))


def _put(uri: str, data: memoryview, _number: int) -> int:
    api.put(uri, data)
    return len(data)


def _part(uri: str, data: memoryview, number: int) -> int:
    return _put(f"{uri}.part-{number}", data, number)


def _stat(uri: str, _data: memoryview, _number: int) -> int:
    api.stat(uri)
    return 0


def _list(uri: str, _data: memoryview, _number: int) -> int:
    list_uris(uri)
    return 0


def _delete(uri: str, _data: memoryview, _number: int) -> int:
    removal.delete(uri)
    return 0


_DOERS: dict[str, Callable[[str, memoryview, int], int]] = {
    "GET": _get,
    "PUT": _put,
    "PUTPART": _part,
    "STAT": _stat,
    "LIST": _list,
    "DELETE": _delete,
}
