"""The command oplog and those below it: summary, replay.

Floor 7. Knows what is asked for and shown; must not know how a log is written.
"""

from __future__ import annotations

import math
from typing import Any

import click

from s3dlio.cli import show
from s3dlio.cli.session import current, with_common_options
from s3dlio.uri import from_path_or_uri

_file = click.argument("file", help="An operation log, plain or .zst.")


@click.group("oplog")
def oplog() -> None:
    """Read operation logs (see --op-log), or do again what they tell."""


@oplog.command("summary")
@_file
@click.option("--plot", metavar="PNG", help="Draw it as well (needs matplotlib).")
@with_common_options
def summary(file: str, plot: str | None) -> None:
    """Show counts, bytes, rates and times by operation."""
    from s3dlio import oplog_reading

    result = oplog_reading.summarize_op_log(file)
    if plot is not None:
        oplog_reading.plot_op_log(result, plot)
    told = show.plain(result)
    if current().as_json or "ops" not in told:
        show.fields(result, as_json=current().as_json)
        return
    show.table(_COLUMNS, [_row(part) for part in told["ops"].values()])
    seconds, size = told["duration_s"], told["bytes"]
    show.line(f"{show.size_text(size)} in {show.duration_text(seconds)}, {told['errors']:,} errors")


_COLUMNS = ("op", "operations ", "errors ", "bytes ", "throughput ", "rate ", "p50 ", "p90 ", "p99 ", "longest ")


def _row(part: dict[str, Any]) -> list[str]:
    times = [show.duration_text(part[name]) for name in ("p50_s", "p90_s", "p99_s", "longest_s")]
    rates = [f"{part['mib_per_s']:,.1f} MiB/s", f"{part['ops_per_s']:,.1f}/s"]
    return [part["op"], f"{part['operations']:,}", f"{part['errors']:,}", show.size_text(part["bytes"]), *rates, *times]


@oplog.command("replay")
@_file
@click.argument("target", metavar="URI", help="The prefix to work on.")
@click.option(
    "--speed", type=click.FloatRange(min=0.0), default=1.0, help="2: in half of the time it took; 0: at once."
)
@with_common_options
def replay(file: str, target: str, speed: float) -> None:
    """Do again, against another prefix, what a log tells, at the times it tells."""
    from s3dlio import oplog_replay

    done = oplog_replay.replay_op_log(file, from_path_or_uri(target), speed or math.inf)
    show.fields(done, as_json=current().as_json)
