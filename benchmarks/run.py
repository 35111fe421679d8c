"""`python -m benchmarks.run`: make the environments, start the origin, run the works, write the results.

For: the command line. Must not know: how a contender works, or what a figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import chart, depot, figures, machine, report, sink, trees, venvs
from benchmarks.dcp_works import DEPOT
from benchmarks.declare import Lane, Work
from benchmarks.extras import WRITTEN_BYTES, write_extras
from benchmarks.listing_pages import COUNT as LISTED
from benchmarks.origin import LISTING, Origin, OriginError
from benchmarks.put_works import SINK
from benchmarks.quiet import Quiet
from benchmarks.rounds import Runner
from benchmarks.works import WORKS

_HOME = Path(__file__).resolve().parent
_LATEST = _HOME / "results" / "latest.json"
_ASIDE = venvs.BENCH / "aside.json"
_PICTURE = "results/get.png"
#: Exit status after SIGTERM.
_TERMINATED = 143
_QUICK_ROUNDS = 3


def say(message: str) -> None:
    """One line of progress, at once."""
    print(message, flush=True)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--works", help=f"some works only, of: {', '.join(WORKS)}")
    parser.add_argument("--contenders", help=f"some contenders only, of: {', '.join(venvs.REQUIREMENTS)}")
    parser.add_argument("--rounds", type=int, help="rounds per work, instead of each work's own number")
    parser.add_argument("--quick", action="store_true", help="three rounds, and a fast look")
    parser.add_argument("--out", type=Path, help=f"where the JSON goes (a whole run: {_LATEST.name})")
    parser.add_argument("--merge", action="store_true", help="put these works in place of those in the results")
    parser.add_argument("--fresh", action="store_true", help="make the environments again, with what is newest")
    parser.add_argument("--report-only", action="store_true", help="write page and picture again; measure nothing")
    chosen = parser.parse_args(words)
    if chosen.merge and (chosen.contenders or chosen.quick):
        parser.error("--merge takes whole works only: no --contenders, no --quick")
    return chosen


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    chosen = _arguments(words)
    # Ends by exception, so that origin and contenders are taken down on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    if chosen.report_only:
        _publish(json.loads(_LATEST.read_text(encoding="utf-8")))
        return 0
    try:
        result = _measure(chosen)
    except OriginError as error:
        say(str(error))
        return 1
    _write_out(chosen, result)
    return 0


def _measure(chosen: argparse.Namespace) -> dict[str, Any]:
    works = [WORKS[name] for name in _names(chosen.works, list(WORKS))]
    contenders = _names(chosen.contenders, list(venvs.REQUIREMENTS))
    venvs.prepare_folder()
    endpoints = {work.endpoint for work in works}
    taking_part = {lane.contender for work in works for lane in work.lanes}
    for contender in filter(taking_part.__contains__, contenders):
        venvs.ensure(contender, say, fresh=chosen.fresh)
    result: dict[str, Any] = {"machine": machine.describe(), "quick": chosen.quick, "works": {}}
    start, quiet = time.monotonic(), Quiet()
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(
            Origin.started(
                more=lambda bucket: write_extras(bucket, say),
                more_size=WRITTEN_BYTES,
                listed=LISTED if LISTING in endpoints else 0,
            )
        )
        origin.endpoints[SINK] = stack.enter_context(sink.running())
        origin.endpoints[DEPOT] = stack.enter_context(depot.running())
        if trees.SERVER in endpoints:
            server = stack.enter_context(trees.served())
            origin.endpoints[trees.SERVER] = server["AWS_ENDPOINT_URL"]
            origin.environments[trees.SERVER] = server
        runner = Runner(origin, quiet, say)
        with _kept(result["works"]):
            for work in works:
                lanes = [lane for lane in work.lanes if lane.contender in contenders]
                if lanes and work.endpoint in origin.endpoints:
                    result["works"][work.name] = _run_one(runner, work, lanes, chosen)
    result["seconds"] = round(time.monotonic() - start, 1)
    result["waited_for_quiet_seconds"] = round(quiet.waited, 1)
    return result


@contextlib.contextmanager
def _kept(finished: Mapping[str, Any]) -> Iterator[None]:
    """Go on to the end with the works that are finished when somebody breaks the run off."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        # Wrong bytes end the run as well, and with a message: of such a run nothing is kept.
        if not finished or getattr(ended, "code", _TERMINATED) != _TERMINATED:
            raise
        say(f"broken off; kept: {', '.join(finished)}")


def _names(given: str | None, known: list[str]) -> list[str]:
    names = given.split(",") if given else known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return names


def _run_one(runner: Runner, work: Work, lanes: list[Lane], chosen: argparse.Namespace) -> dict[str, Any]:
    say(f"{work.name}: {work.title}")
    record = runner.run(work, lanes, chosen.rounds or (_QUICK_ROUNDS if chosen.quick else work.rounds))
    record["commit"] = machine.commit()
    figures.add_ratios(work, record["lanes"])
    record["targets"] = [figures.judge(target, record["lanes"]) for target in work.targets]
    for label, lane in record["lanes"].items():
        say(f"  {label:40s} {_line(lane, work)}")
    for target in record["targets"]:
        say(f"  target: {target['text']}: {target['value']} met: {target['met']}")
    return record


def _line(lane: dict[str, Any], work: Work) -> str:
    summary = lane["summary"]
    if summary is None:
        return f"failed: {lane['failed']}"
    spread = f"{report.number(summary['min'])} - {report.number(summary['max'])}"
    ratio = f"ours/it {summary['ours_over_it']:.2f}" if "ours_over_it" in summary else ""
    return f"{report.number(summary['median']):>9s} {work.unit} ({spread}) {ratio} {lane['failed']}"


def _write_out(chosen: argparse.Namespace, result: dict[str, Any]) -> None:
    partial = bool(chosen.works or chosen.contenders or chosen.quick)
    if chosen.merge and _LATEST.exists():
        whole = json.loads(_LATEST.read_text(encoding="utf-8"))
        works = whole["works"] | result["works"]
        result = {**whole, "works": {name: works[name] for name in WORKS if name in works}}
    published = chosen.merge or not (partial or chosen.out)
    target = _LATEST if published else chosen.out or _ASIDE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {target}")
    if published:
        _publish(result)


def _publish(result: dict[str, Any]) -> None:
    report.write(_HOME / "RESULTS.md", result, _PICTURE)
    try:
        chart.draw(_HOME / _PICTURE, result["works"])
    except ImportError as error:
        say(f"no picture: {error} (pip install matplotlib)")
    say(f"wrote {_HOME / 'RESULTS.md'}")


if __name__ == "__main__":
    sys.exit(main())
