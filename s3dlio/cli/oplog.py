"""Commands on operation logs: summary, replay.

Floor 7. Knows what is asked for and shown; must not know how a log is written.
"""

from __future__ import annotations

from typing import Annotated

import typer

from s3dlio.cli import show, verbs
from s3dlio.cli.session import current

Log = Annotated[str, typer.Argument(metavar="FILE", help="An operation log, plain or .zst.")]


def summary(file: Log) -> None:
    """Show counts, bytes, rates and times by operation."""
    show.fields(verbs.summarize_op_log(file), as_json=current().as_json)


def replay(
    file: Log,
    target: Annotated[str, typer.Argument(metavar="URI", help="The prefix to work on.")],
    speed: Annotated[float, typer.Option("--speed", min=0.0, help="2: in half of the time it took; 0: at once.")] = 1.0,
) -> None:
    """Do again, against another prefix, what a log tells, at the times it tells."""
    show.fields(verbs.replay_op_log(file, target, speed), as_json=current().as_json)
