"""Commands that measure: bench, mp-get.

Floor 7. Knows clocks, percentiles and what is shown; must not know any backend.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import message
from s3dlio.cli.session import current, with_common_options
from s3dlio.uri import from_path_or_uri, join

#: What reads hold in memory at once.
_GROUP_BYTES = 256 * 1024**2
_PERCENTILES = (50, 90, 99)
#: Pauses before what was written is deleted: a server may finish puts that were broken off, after the first time.
_LOOKS_S = (0.0, 0.5, 1.5)


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one part of a measurement found.

    Attributes:
        name: What was done.
        objects: How many objects.
        bytes: Their bytes together.
        seconds: From the first request to the last byte.
        latencies: Seconds of each request, where each was measured.
    """

    name: str
    objects: int
    bytes: int
    seconds: float
    latencies: Sequence[float] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the figures; times in seconds, rates by the second."""
        rates = {"bytes_per_second": self.bytes / self.seconds, "objects_per_second": self.objects / self.seconds}
        times = {f"p{share}_seconds": percentile(self.latencies, share) for share in _PERCENTILES if self.latencies}
        return {"objects": self.objects, "bytes": self.bytes, "seconds": self.seconds, **rates, **times}

    def as_row(self) -> list[str]:
        """Return the figures as people read them."""
        times = [
            show.duration_text(percentile(self.latencies, share)) if self.latencies else "" for share in _PERCENTILES
        ]
        rate, count = self.bytes / self.seconds, self.objects / self.seconds
        return [self.name, f"{self.objects:,}", f"{show.size_text(rate)}/s", f"{count:,.1f}/s", *times]


def percentile(values: Sequence[float], share: int) -> float:
    """Return the least value that ``share`` percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


@click.command("bench")
@click.argument("uri", help="A bucket, prefix or directory of yours to write below.")
@click.option("--num", "-n", type=click.IntRange(min=1), default=64, help="Objects.")
@click.option("--size", "-s", default="4MiB", help="Bytes of each, such as 8MiB.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=32, help="Objects at once.")
@with_common_options
def bench(uri: str, num: int, size: str, jobs: int) -> None:
    """Measure puts and gets on a bucket: writes objects below a new prefix, reads them, deletes them."""
    prefix = join(from_path_or_uri(uri), f"s3dlio-bench-{secrets.token_hex(8)}/")
    uris = [f"{prefix.rstrip('/')}/{number:06d}" for number in range(num)]
    data = os.urandom(show.read_size(size))
    with _taken_away(f"{prefix.rstrip('/')}/", uris):
        phases = [_puts(uris, data, jobs), _gets_together(uris, len(data), jobs), _gets_alone(uris, len(data))]
    if current().as_json:
        figures = {phase.name: phase.as_json() for phase in phases}
        show.json_line({"uri": from_path_or_uri(uri), "size": len(data), "jobs": jobs, **figures})
        return
    show.line(
        f"{show.count_text(num, 'object')} of {show.size_text(len(data))}, {jobs} at once, on {from_path_or_uri(uri)}"
    )
    columns = ["", "objects ", "throughput ", "rate ", *(f"p{share} " for share in _PERCENTILES)]
    show.table(columns, [phase.as_row() for phase in phases])


@contextlib.contextmanager
def _taken_away(prefix: str, uris: Sequence[str]) -> Iterator[None]:
    """Delete whatever the block has written, however it ends."""
    from s3dlio import removal

    failed = True
    try:
        yield
        failed = False
    finally:
        try:
            for pause_s in _LOOKS_S if failed else _LOOKS_S[:1]:
                time.sleep(pause_s)
                removal.delete(uris)  # by name: those that no listing shows yet as well
                removal.delete(prefix, recursive=True)  # the directories of files
        except BaseException as error:
            show.note(f"objects may be left ({message(error)}); delete them with: s3dlio rm -r -y {prefix}")
            if not failed or not isinstance(error, Exception):  # else the first failure is the one to tell
                raise


def _puts(uris: Sequence[str], data: bytes, jobs: int) -> Phase:
    from s3dlio.context import current_token, store_of
    from s3dlio.crew import map_all
    from s3dlio.sender import send_whole
    from s3dlio.stores.base import PutOptions
    from s3dlio.uri import parse

    store, body = store_of(parse(uris[0])), memoryview(data)

    def write(uri: str, token: Any) -> float:
        return _timed(lambda: send_whole(store, parse(uri), body, PutOptions(), token))

    began = time.perf_counter()
    latencies = map_all(write, uris, jobs, current_token())
    return Phase("put", len(uris), len(uris) * len(data), time.perf_counter() - began, latencies)


def _gets_together(uris: Sequence[str], size: int, jobs: int) -> Phase:
    from s3dlio import api

    at_once = max(1, _GROUP_BYTES // max(1, size))
    seconds = 0.0
    for start in range(0, len(uris), at_once):
        group = uris[start : start + at_once]
        seconds += _timed(lambda group=group: _check(api.get_many(group, max_in_flight=jobs), size))  # type: ignore[misc]
    return Phase("get_many", len(uris), len(uris) * size, seconds)


def _gets_alone(uris: Sequence[str], size: int) -> Phase:
    from s3dlio import api

    began = time.perf_counter()
    latencies = [_timed(lambda uri=uri: _check([(uri, api.get(uri))], size)) for uri in uris]  # type: ignore[misc]
    return Phase("get", len(uris), len(uris) * size, time.perf_counter() - began, latencies)


def _check(found: Sequence[tuple[str, Any]], size: int) -> None:
    from s3dlio.errors import IntegrityError

    for uri, view in found:
        if len(view) != size:
            msg = f"{len(view)} bytes came back of {size}"
            raise IntegrityError(msg, uri=uri, operation="bench")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@click.command("mp-get")
@click.argument("uri", help="A prefix; or with --template what stands before the numbers.")
@click.option("--procs", type=click.IntRange(min=1), default=4, help="Processes.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=64, help="Objects at once in each.")
@click.option("--num", "-n", type=click.IntRange(min=1), default=1000, help="Objects.")
@click.option("--template", help="Names of the objects, such as a-{:06d}.")
@with_common_options
def mp_get(uri: str, procs: int, jobs: int, num: int, template: str | None) -> None:
    """Read objects in several processes and keep nothing: how fast can this machine read?"""
    from s3dlio import mp_reading

    how: dict[str, Any] = {"procs": procs, "jobs": jobs, "num": num}
    if template is not None:
        how["template"] = template
    show.fields(mp_reading.mp_get(from_path_or_uri(uri), **how), as_json=current().as_json)
