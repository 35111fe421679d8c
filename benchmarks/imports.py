"""What `import` costs: a bare Python and one with the import, started by turns.

For: every contender's `import` work. Must not know: whose module it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median

from benchmarks.worker import Action, Haul, Job, Prepare

#: What a storage library should not drag in before it is asked to.
HEAVY = ("torch", "jax", "tensorflow", "boto3", "botocore", "obstore", "fsspec")


def importing(module: str) -> Prepare:
    """The `import` work for the client whose module this is."""

    def prepare(job: Job) -> Action:
        heavy = _heavy_modules(module)

        def action() -> Haul:
            costs = [_spawn(f"import {module}") - _spawn("pass") for _ in range(job.params["pairs"])]
            extra = {"heavy_modules": heavy, "costs": costs}
            return Haul(1, 0, proved_by_count=False, seconds=median(costs), extra=extra)

        return action

    return prepare


def _spawn(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return time.perf_counter() - start


def _heavy_modules(module: str) -> list[str]:
    # Its own name is no news: boto3 is allowed to load boto3.
    code = f"import json, sys, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [name for name in loaded if name != module]
