"""The AWS command line: what most people copy folders with. A process each time, as they do.

For: `aws s3 cp --recursive`. Must not know: how it is timed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.trees import carrying, run_tool
from benchmarks.worker import Action, Job, serve

_AWS = str(Path(sys.executable).with_name("aws"))


def transfer(job: Job) -> Action:
    """With its own settings: ten requests at once."""

    def carry(source: str, target: str) -> dict[str, Any]:
        return run_tool(sys.executable, _AWS, "s3", "cp", "--recursive", "--only-show-errors", source, target)

    return carrying(job, carry)


WORKS = {"transfer": transfer}

if __name__ == "__main__":
    serve(WORKS, ("awscli",))
