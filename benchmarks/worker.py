"""The furniture that every contender's process shares: one JSON command per line in, one answer out.

For: timing an action, weighing what it cost (CPU, peak memory) and proving what it brought.
Must not know: any client, or how rounds are arranged. Imports nothing outside the standard library,
because it runs in environments that hold one client each.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from benchmarks.objects import SMALL_PREFIX, Manifest, load_manifest, small_key

BUCKET_URI = "s3://bench/"


class WrongBytesError(AssertionError):
    """A contender brought something else than what the origin holds."""


@dataclass
class Proof:
    """Holds every object that was brought against the manifest; only the untimed first pass has one."""

    manifest: Manifest
    expected: int
    seen: list[int] = field(default_factory=list)
    whole: bool = False

    def small(self, index: int, data: Any) -> None:
        """The small object of this number."""
        if zlib.crc32(data) != self.manifest.small_crcs[index]:
            raise WrongBytesError(f"small object {index}: wrong bytes")
        self.seen.append(index)

    def sample(self, data: Any) -> None:
        """An object of unknown number: its first eight bytes say which one it is."""
        index = int.from_bytes(bytes(data[:8]), "little")
        if index >= self.manifest.small_count:
            raise WrongBytesError(f"a sample names object {index}, which does not exist")
        self.small(index, data)

    def big(self, data: Any) -> None:
        """The big object."""
        if zlib.crc32(data) != self.manifest.big_crc:
            raise WrongBytesError("the big object: wrong bytes")
        self.whole = True

    def close(self, haul: Haul) -> str:
        """Everything that was counted was proved, and nothing came twice in one pass."""
        if not haul.proved_by_count:
            return "not a data work"
        if len(self.seen) != haul.ops and not self.whole:
            raise WrongBytesError(f"{haul.ops} objects were counted, but {len(self.seen)} were seen")
        if self.seen and sorted(self.seen) != list(range(self.expected)):
            raise WrongBytesError("one pass did not bring every object exactly once")
        return f"{len(self.seen)} objects" if self.seen else "whole object"


@dataclass(frozen=True)
class Job:
    """One command: what to do, with which settings, and whether to prove the bytes."""

    endpoint: str
    manifest: Manifest
    params: dict[str, Any]
    setting: dict[str, Any]
    proof: Proof | None

    @property
    def count(self) -> int:
        """How many of the small objects this work reads: all, or the first so many."""
        count: int = self.params.get("count", self.manifest.small_count)
        return count

    def prefix_uri(self) -> str:
        """Where the small objects lie."""
        return BUCKET_URI + SMALL_PREFIX

    def uris(self) -> list[str]:
        """The addresses of the objects to read."""
        return [BUCKET_URI + small_key(index) for index in self.indices()]

    def object_keys(self) -> list[str]:
        """The keys of the objects to read."""
        return [small_key(index) for index in self.indices()]

    def indices(self) -> range:
        """The numbers of the objects to read."""
        return range(self.count)


@dataclass
class Haul:
    """What an action brought. `objects` and `whole` are what the caller holds when the clock stops."""

    ops: int
    bytes: int
    objects: list[Any] | None = None
    whole: Any = None
    proved_by_count: bool = True
    seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


Action = Callable[[], Haul]
Prepare = Callable[[Job], Action]


def held(objects: list[Any]) -> Haul:
    """All small objects, in the order of their numbers, in the caller's hands."""
    return Haul(len(objects), sum(len(each) for each in objects), objects=objects)


def held_whole(data: Any) -> Haul:
    """The big object, in the caller's hands."""
    return Haul(1, len(data), whole=data)


@cache
def _manifest(path: str) -> Manifest:
    return load_manifest(Path(path))


def memory_bytes(name: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _cpu() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime


class Worker:
    """Answers commands with one client, which stays warm from one to the next."""

    def __init__(self, works: Mapping[str, Prepare]) -> None:
        self._works = works
        self._baseline: int | None = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do one command and weigh it."""
        manifest = _manifest(command["manifest"])
        expected = command["params"].get("count", manifest.small_count)
        proof = Proof(manifest, expected) if command["check"] else None
        job = Job(command["endpoint"], manifest, command["params"], command["setting"], proof)
        action = self._works[command["work"]](job)
        gc.collect()
        if self._baseline is None:
            # The client is made, nothing is fetched yet: later passes may start with a kept pool.
            self._baseline = memory_bytes("VmRSS")
        haul, figures = _timed(action)
        figures.setdefault("baseline_rss_bytes", self._baseline)
        figures["check"] = _prove(proof, haul) if proof else "not in timed passes"
        return figures


def weighed(step: Callable[[], Any]) -> dict[str, Any]:
    """What a step takes: seconds, CPU, and the peak of memory. For actions that have more to do than is measured."""
    _reset_peak()
    user, system = _cpu()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    user_after, system_after = _cpu()
    return {
        "seconds": seconds,
        "cpu_user": user_after - user,
        "cpu_sys": system_after - system,
        "peak_rss_bytes": memory_bytes("VmHWM"),
    }


def _timed(action: Action) -> tuple[Haul, dict[str, Any]]:
    brought: list[Haul] = []
    figures = weighed(lambda: brought.append(action()))
    haul = brought[0]
    figures |= {"ops": haul.ops, "bytes": haul.bytes}
    if haul.seconds is not None:
        figures["seconds"] = haul.seconds
    return haul, figures | haul.extra


def _prove(proof: Proof, haul: Haul) -> str:
    for index, data in enumerate(haul.objects or []):
        proof.small(index, data)
    if haul.whole is not None:
        proof.big(haul.whole)
    return proof.close(haul)


def _greeting(distributions: tuple[str, ...], versions: dict[str, str] | None) -> dict[str, Any]:
    installed = {name: importlib.metadata.version(name) for name in distributions}
    return {"python": platform.python_version(), "versions": (versions or {}) | installed}


def serve(
    works: Mapping[str, Prepare],
    distributions: tuple[str, ...] = (),
    versions: dict[str, str] | None = None,
) -> None:
    """Run until standard input ends. Standard output is kept for answers: clients that print do so aside."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(works)
    _send(answers, _greeting(distributions, versions))
    for line in sys.stdin:
        _send(answers, _guarded(worker, json.loads(line)))


def _guarded(worker: Worker, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return worker.answer(command)
    except Exception as error:  # noqa: BLE001 - whatever a client raises is its result, to be reported as such
        traceback.print_exc()
        wrong = isinstance(error, WrongBytesError)
        return {"error": f"{type(error).__name__}: {error}"[:400], "wrong_bytes": wrong}


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
