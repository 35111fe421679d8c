"""The machine that the figures belong to.

For: a description that lets a reader judge the figures. Must not know: any figure.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.venvs import ROOT


def describe() -> dict[str, Any]:
    """Processor, memory, kernel, Python, nginx, load and date."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_first("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "nginx": _said([shutil.which("nginx") or "/usr/sbin/nginx", "-v"]).removeprefix("nginx version: "),
        "load_at_start": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """The working tree's commit, marked where something in it has been changed since; empty without git."""
    return _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], must_work=True)


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0" if path.endswith("meminfo") else "unknown"


def _said(command: list[str], *, must_work: bool = False) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=must_work)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout + done.stderr).strip()
