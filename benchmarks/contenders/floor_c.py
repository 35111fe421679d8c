"""The floor in C (`floor.c`), compiled on demand and called through ctypes with the GIL released.

For: seeing how much of the Python floor is the machine and how much is Python.
Must not know: more of HTTP than the text of a request.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contenders.floor import PART, request_text
from benchmarks.memory import fresh, touched
from benchmarks.objects import BIG_KEY
from benchmarks.worker import Action, Haul, Job, held_whole, serve


class Task(ctypes.Structure):
    """`struct task` of floor.c."""

    _fields_ = [
        ("request", ctypes.c_char_p),
        ("request_length", ctypes.c_size_t),
        ("target", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
    ]


@cache
def _library() -> Any:
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler: the floor in C is left out")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "floor.so")
        source = str(Path(__file__).with_name("floor.c"))
        command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", target, source]
        subprocess.run(command, check=True)
        return ctypes.CDLL(target)


def _run(job: Job, tasks: Any, scratch: Any, room: int) -> None:
    port = urlsplit(job.endpoint).port
    threads = job.setting["in_flight"]
    failures = _library().floor_run(port, tasks, ctypes.c_size_t(len(tasks)), threads, scratch, ctypes.c_size_t(room))
    if failures:
        raise RuntimeError(f"{failures} requests failed")


def small(job: Job) -> Action:
    """All objects, each thread with one recycled buffer; a proving pass keeps them all instead."""
    size, keys = job.manifest.small_size, job.object_keys()
    kept = ctypes.create_string_buffer(size * len(keys)) if job.proof else None
    base = ctypes.addressof(kept) if kept else None
    requests = [request_text(key) for key in keys]
    places = [None if base is None else base + index * size for index in range(len(keys))]
    rows = [Task(text, len(text), place, size) for text, place in zip(requests, places, strict=True)]
    tasks = (Task * len(rows))(*rows)
    scratch = ctypes.create_string_buffer(size * job.setting["in_flight"])

    def action() -> Haul:
        _run(job, tasks, scratch, size)
        haul = Haul(len(keys), len(keys) * size)
        if kept is not None:
            view = memoryview(kept)
            haul.objects = [view[index * size : (index + 1) * size] for index in range(len(keys))]
        return haul

    return action


def _fill(job: Job, memory: Any) -> None:
    size = job.manifest.big_size
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    spans = [(start, min(start + PART, size)) for start in range(0, size, PART)]
    texts = [request_text(BIG_KEY, f"Range: bytes={start}-{stop - 1}\r\n") for start, stop in spans]
    rows = [Task(text, len(text), base + start, stop - start) for text, (start, stop) in zip(texts, spans, strict=True)]
    _run(job, (Task * len(rows))(*rows), None, 0)


def big(job: Job) -> Action:
    """Into fresh memory, as a `get` has to."""

    def action() -> Haul:
        memory = fresh(job.manifest.big_size)
        _fill(job, memory)
        return held_whole(memory)

    return action


def big_into(job: Job) -> Action:
    """Into the same memory every round."""
    memory = touched(job.manifest.big_size)

    def action() -> Haul:
        _fill(job, memory)
        return held_whole(memory)

    return action


WORKS = {"small": small, "big": big, "big_into": big_into}

if __name__ == "__main__":
    serve(WORKS)
