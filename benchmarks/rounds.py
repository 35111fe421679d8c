"""Run one work: find every lane's best setting, prove its bytes, then let all lanes take turns.

For: figures that were taken side by side, under the same noise.
Must not know: what the work is, or how results are shown.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks import figures
from benchmarks.declare import Lane, Setting, Work
from benchmarks.lanes import LaneError, LaneProcess, WrongBytesError, environment
from benchmarks.origin import Origin
from benchmarks.quiet import Quiet

_CALIBRATION_PASSES = 2

Say = Callable[[str], None]


@dataclass
class Entry:
    """A lane in this run: its process, its setting, and all it has answered."""

    lane: Lane
    process: LaneProcess | None = None
    setting: Setting = field(default_factory=dict)
    calibration: list[dict[str, Any]] = field(default_factory=list)
    passes: list[dict[str, Any]] = field(default_factory=list)
    greeting: dict[str, Any] = field(default_factory=dict)
    check: str = ""
    failed: str = ""

    def fail(self, reason: str) -> None:
        """This lane takes no more turns, and the results say why."""
        self.failed = reason
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.close()
            self.process = None


class Runner:
    """Runs works against one origin."""

    def __init__(self, origin: Origin, quiet: Quiet, say: Say) -> None:
        self._origin = origin
        self._quiet = quiet
        self._say = say

    def run(self, work: Work, lanes: list[Lane], rounds: int) -> dict[str, Any]:
        """The work's whole record, failures included. Wrong bytes end the run."""
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        entries = [Entry(lane) for lane in lanes]
        try:
            for entry in entries:
                self._guard(self._prepare, work, entry)
            for turn in range(rounds):
                self._round(work, entries, turn)
        finally:
            for entry in entries:
                entry.close()
        return _record(work, entries, started, rounds)

    def _guard(self, step: Callable[[Work, Entry], None], work: Work, entry: Entry) -> None:
        try:
            step(work, entry)
        except LaneError as error:
            entry.fail(str(error))
            self._say(f"    {entry.lane.label}: FAILED: {error}")
        except WrongBytesError as error:
            message = f"{entry.lane.label} brought wrong bytes: {error}"
            raise SystemExit(message) from error

    def _prepare(self, work: Work, entry: Entry) -> None:
        entry.setting = self._calibrate(work, entry)
        entry.process = self._start(work, entry.lane, entry.setting)
        entry.greeting = entry.process.greeting
        entry.check = entry.process.ask(self._command(work, entry, entry.setting, check=True))["check"]
        for _ in range(work.warm_passes - 1):
            entry.process.ask(self._command(work, entry, entry.setting))
        self._say(f"    {entry.lane.label}: proved ({entry.check}), setting {entry.setting or 'default'}")

    def _calibrate(self, work: Work, entry: Entry) -> Setting:
        """Try every setting in a process of its own that ends with it; the quickest pass decides."""
        settings = entry.lane.settings
        if len(settings) == 1:
            return settings[0]
        for setting in settings:
            try:
                tried = {"setting": setting, "seconds": self._try(work, entry, setting)}
            except LaneError as error:
                tried = {"setting": setting, "failed": str(error)}
            entry.calibration.append(tried)
            if len(entry.calibration) == 1 and "failed" in tried:
                # A client that cannot do the work at all would take the time limit once per setting.
                raise LaneError(tried["failed"])
        sound = [tried for tried in entry.calibration if "seconds" in tried]
        chosen: Setting = min(sound, key=lambda tried: float(tried["seconds"]))["setting"]
        return chosen

    def _try(self, work: Work, entry: Entry, setting: Setting) -> float:
        with self._started(work, entry.lane, setting) as process:
            command = self._command(work, entry, setting)
            for _ in range(work.warm_passes):
                process.ask(command)
            self._quiet.wait()
            return min(float(process.ask(command)["seconds"]) for _ in range(_CALIBRATION_PASSES))

    def _round(self, work: Work, entries: list[Entry], turn: int) -> None:
        # Another order each round: who comes before leaves the machine's free memory in another state.
        order = random.Random(turn).sample(entries, len(entries))
        for entry in order:
            if entry.process is not None and turn < entry.lane.most_rounds:
                self._guard(self._take_turn, work, entry)

    def _take_turn(self, work: Work, entry: Entry) -> None:
        assert entry.process is not None
        busy = self._quiet.wait()
        answer = entry.process.ask(self._command(work, entry, entry.setting))
        entry.passes.append(answer | {"others_busy_cores": busy})

    def _start(self, work: Work, lane: Lane, setting: Setting) -> LaneProcess:
        name = lane.endpoint or work.endpoint
        more = self._origin.environments.get(name, {}) | setting.get("env", {})
        env = environment(lane.contender, self._origin.endpoints[name], self._origin.ca_bundle, more)
        return LaneProcess(lane.contender, env)

    @contextlib.contextmanager
    def _started(self, work: Work, lane: Lane, setting: Setting) -> Iterator[LaneProcess]:
        process = self._start(work, lane, setting)
        try:
            yield process
        finally:
            process.close()

    def _command(self, work: Work, entry: Entry, setting: Setting, *, check: bool = False) -> dict[str, Any]:
        return {
            "work": entry.lane.call,
            "endpoint": self._origin.endpoints[entry.lane.endpoint or work.endpoint],
            "manifest": str(self._origin.manifest_path),
            "params": work.params | entry.lane.params,
            "setting": setting,
            "check": check,
        }


def _record(work: Work, entries: list[Entry], started: str, rounds: int) -> dict[str, Any]:
    lanes: dict[str, Any] = {}
    for entry in entries:
        lanes[entry.lane.label] = {
            "contender": entry.lane.contender,
            "note": entry.lane.note,
            "params": entry.lane.params,
            "setting": entry.setting,
            "calibration": entry.calibration,
            "versions": entry.greeting.get("versions", {}),
            "check": entry.check,
            "failed": entry.failed,
            "passes": entry.passes,
            "summary": figures.summarize(work, entry.passes) if entry.passes else None,
        }
    return {
        "title": work.title,
        "about": work.about,
        "figure": work.figure,
        "unit": work.unit,
        "lower_is_better": work.lower_is_better,
        "endpoint": work.endpoint,
        "params": work.params,
        "started": started,
        "rounds": rounds,
        "lanes": lanes,
    }
