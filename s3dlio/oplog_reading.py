"""Operation logs, read and summed up.

Floor 4. Knows the columns (ours and MinIO warp's, by the header) and statistics; must not know how operations are
done, or done again (:mod:`s3dlio.oplog_replay`).
"""

from __future__ import annotations

import calendar
import csv
import glob
import io
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from s3dlio.errors import FormatError, NotFoundError, OptionError
from s3dlio.recorder import COLUMNS
from s3dlio.uri import from_path_or_uri, parse_object

_NS = 1_000_000_000
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NEEDED = ("op", "start", "end")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))")
_MIB = 1024**2
_LONGEST_LINE = 1 << 20


class Operation(NamedTuple):
    """One line of a log.

    Attributes:
        op: ``GET``, ``PUT``, ``STAT``, ``LIST``, ``DELETE``, ``PUTPART``, ...
        file: Bucket and key, or a path.
        bytes: Of objects, moved.
        objects: How many objects it was about.
        start_ns: When it began: nanoseconds since 1970, UTC.
        first_byte_ns: When the first byte came, or ``None``.
        end_ns: When it was over.
        error: What went wrong, or nothing.
        endpoint: Which server, or scheme.
        thread: Number of a thread.
        client: Which process.
    """

    op: str
    file: str
    bytes: int
    objects: int
    start_ns: int
    first_byte_ns: int | None
    end_ns: int
    error: str
    endpoint: str
    thread: int
    client: str

    @property
    def duration_s(self) -> float:
        """Seconds it took."""
        return (self.end_ns - self.start_ns) / _NS


def read_op_log(path: str | os.PathLike[str], *, children: bool = False) -> list[Operation]:
    """Read an operation log, or one that MinIO's warp wrote, compressed or not.

    Args:
        path: A path or ``file://`` URI.
        children: Read the logs of forked children (``PATH.PID``) too.

    Returns:
        The operations, by their start. A last line that is cut (the process was killed) is left out.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no such log.
    """
    name = parse_object(from_path_or_uri(os.fspath(path)), "read_op_log").key
    names = [name]
    if children:
        found = glob.glob(glob.escape(name) + ".*")
        names += [other for other in found if re.fullmatch(r"(\.\d+)+", other[len(name) :])]
    try:
        return sorted((operation for each in names for operation in _read(each)), key=lambda one: one.start_ns)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such log", uri=name, operation="read_op_log") from error


def _read(name: str) -> Iterator[Operation]:
    broken: tuple[type[Exception], ...] = (ValueError, TypeError, OverflowError, csv.Error)
    with open(name, "rb") as raw:
        stream: Any = raw
        if raw.peek(4)[:4] == _ZSTD_MAGIC:
            import zstandard  # noqa: PLC0415 - only for such files

            broken += (zstandard.ZstdError,)
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
        with io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n") as file:
            records = _Records(file)
            try:
                yield from _operations(records)
            except broken as error:
                msg = f"line {records.line} is not one of an operation log: {error}"
                raise FormatError(msg, uri=name, operation="read_op_log") from error


def _operations(records: Iterator[list[str]]) -> Iterator[Operation]:
    columns = next(records, [])
    missing = [column for column in _NEEDED if column not in columns]
    if missing:
        msg = f"the columns lack {', '.join(missing)}"
        raise ValueError(msg)
    for record in records:
        if len(record) < len(columns):
            if next(records, None) is None:
                return  # the last one, cut within quotes
            msg = f"it has {len(record)} fields of {len(columns)}"
            raise ValueError(msg)
        yield _operation(dict(zip(columns, record, strict=False)))


class _Records:
    """The records of a log, without remarks and without a last line that is cut.

    A record is several lines where a name or an error holds line ends. What starts with ``#`` is a remark only
    between records.
    """

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._inside = False
        self._records = csv.reader(self._lines(), delimiter="\t")

    @property
    def line(self) -> int:
        """How many lines were read, without remarks."""
        return self._records.line_num

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        record: list[str] = []
        while not record:  # an empty line
            record = next(self._records)
            self._inside = False
        return record

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                msg = f"it is longer than {_LONGEST_LINE} characters"
                raise ValueError(msg)
            if line.endswith("\n") and (self._inside or not line.startswith("#")):
                self._inside = True
                yield line


def _operation(fields: dict[str, str]) -> Operation:
    first = fields.get("first_byte") or ""
    return Operation(
        op=fields["op"],
        file=fields.get("file", ""),
        bytes=int(fields.get("bytes") or 0),
        objects=int(fields.get("n_objects") or 1),
        start_ns=_nanoseconds(fields["start"]),
        first_byte_ns=_nanoseconds(first) if first else None,
        end_ns=_nanoseconds(fields["end"]),
        error=fields.get("error", ""),
        endpoint=fields.get("endpoint", ""),
        thread=int(fields.get("thread") or 0),
        client=fields.get("client_id", ""),
    )


def _nanoseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        msg = f"{text!r} is no time"
        raise ValueError(msg)
    second = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    if found[3]:
        second -= int(found[3] + "1") * (int(found[4]) * 3600 + int(found[5]) * 60)
    return second * _NS + int((found[2] or "").ljust(9, "0"))


class OpSummary(NamedTuple):
    """All operations of one kind. Times are those of operations without errors, in seconds.

    Attributes:
        op: The kind.
        operations: How many there were.
        errors: How many of them failed.
        objects: How many objects they were about.
        bytes: Moved.
        p50_s: Half of them took no longer.
        p90_s: Nine of ten took no longer.
        p99_s: 99 of 100 took no longer.
        longest_s: The longest one.
        first_byte_p50_s: Half of them had the first byte by then; ``None`` where that is not known.
        mib_per_s: MiB moved in each second from the first one's start to the last one's end.
        ops_per_s: Operations in each of these seconds.
    """

    op: str
    operations: int
    errors: int
    objects: int
    bytes: int
    p50_s: float
    p90_s: float
    p99_s: float
    longest_s: float
    first_byte_p50_s: float | None
    mib_per_s: float
    ops_per_s: float


class Interval(NamedTuple):
    """What went on in a stretch of time.

    Attributes:
        start_s: Seconds since the log's first operation began.
        operations: How many ended in it.
        bytes: Moved in it; those of an operation are spread evenly over its time.
    """

    start_s: float
    operations: int
    bytes: float


class Summary(NamedTuple):
    """What a log tells.

    Attributes:
        ops: Each kind of operation, by name.
        duration_s: Seconds from the first start to the last end.
        bytes: Moved.
        errors: Operations that failed.
        interval_s: Seconds of each interval.
        intervals: What went on when.
    """

    ops: dict[str, OpSummary]
    duration_s: float
    bytes: int
    errors: int
    interval_s: float
    intervals: list[Interval]


def summarize_op_log(
    log: str | os.PathLike[str] | Sequence[Operation], *, interval_s: float = 1.0, children: bool = True
) -> Summary:
    """Sum up an operation log.

    Args:
        log: Its path, or its operations.
        interval_s: Seconds of each interval of the throughput over time (at most 100,000 of them are made).
        children: Take the logs of forked children in, if a path is given.

    Raises:
        FormatError: It is no such log.
        OptionError: ``interval_s`` is not positive.
    """
    if not interval_s > 0:
        raise OptionError(f"interval_s must be positive, not {interval_s}", operation="summarize_op_log")
    found = read_op_log(log, children=children) if isinstance(log, (str, os.PathLike)) else list(log)
    if not found:
        return Summary({}, 0.0, 0, 0, interval_s, [])
    begin, end = min(one.start_ns for one in found), max(one.end_ns for one in found)
    kinds = sorted({one.op for one in found})
    ops = {kind: _of_kind(kind, [one for one in found if one.op == kind]) for kind in kinds}
    width = max(interval_s, (end - begin) / _NS / _MOST_INTERVALS)
    return Summary(
        ops,
        (end - begin) / _NS,
        sum(one.bytes for one in found),
        sum(bool(one.error) for one in found),
        width,
        _intervals(found, begin, end, width),
    )


_MOST_INTERVALS = 100_000


def _of_kind(kind: str, found: list[Operation]) -> OpSummary:
    good = [one for one in found if not one.error]
    times = np.array([one.duration_s for one in good] or [0.0])
    firsts = [(one.first_byte_ns - one.start_ns) / _NS for one in good if one.first_byte_ns is not None]
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    moved = sum(one.bytes for one in found)
    span = max(1, max(one.end_ns for one in found) - min(one.start_ns for one in found)) / _NS
    return OpSummary(
        kind, len(found), len(found) - len(good), sum(one.objects for one in found), moved, p50, p90, p99,
        float(times.max()), float(np.median(firsts)) if firsts else None, moved / _MIB / span, len(found) / span,
    )  # fmt: skip


def _intervals(found: list[Operation], begin: int, end: int, width: float) -> list[Interval]:
    count = max(1, int(np.ceil((end - begin) / _NS / width)))
    edges = np.arange(count + 1) * width
    starts = np.array([one.start_ns - begin for one in found]) / _NS
    ends = np.array([one.end_ns - begin for one in found]) / _NS
    sizes = np.array([one.bytes for one in found], float)
    done = np.histogram(ends, bins=[*edges[:-1], max(edges[-1], ends.max())])[0]
    # Bytes moved until each edge: of an operation under way the share of its time that has passed.
    total = _moved_until(edges, starts, np.maximum(ends, starts + 1e-9), sizes)
    total[-1] = sizes.sum()
    each = np.diff(total)
    return [Interval(float(at), int(n), float(b)) for at, n, b in zip(edges[:-1], done, each, strict=True)]


def _moved_until(edges: Any, starts: Any, ends: Any, sizes: Any) -> Any:
    """Return the bytes moved until each edge: a sum of ramps, whose slopes are added up in order of time."""
    rates = sizes / (ends - starts)
    at = np.concatenate([starts, ends])
    order = np.argsort(at, kind="stable")
    at, slope = at[order], np.cumsum(np.concatenate([rates, -rates])[order])
    moved = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])
    return np.interp(edges, at, moved)


def plot_op_log(summary: Summary, path: str | os.PathLike[str]) -> None:
    """Draw throughput and operations over time into a picture (PNG, or what the extension says).

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError as error:
        msg = "a picture needs matplotlib: pip install 's3dlio[plot]'"
        raise OptionError(msg, operation="plot_op_log") from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    times = [one.start_s for one in summary.intervals]
    above.step(times, [one.bytes / _MIB / summary.interval_s for one in summary.intervals], where="post")
    above.set_ylabel("MiB/s")
    below.step(times, [one.operations / summary.interval_s for one in summary.intervals], where="post")
    below.set_ylabel("operations/s")
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
    figure.savefig(os.fspath(path))


__all__ = [
    "COLUMNS", "Interval", "OpSummary", "Operation", "Summary", "plot_op_log", "read_op_log", "summarize_op_log",
]  # fmt: skip
