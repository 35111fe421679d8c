"""From raw passes to figures: what a pass is worth, medians, ratios, and whether a target is met.

For: every number in the results, computed in one place from what was recorded.
Must not know: where the passes came from, or how figures are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.declare import OURS, Lane, Target, Work
from benchmarks.quiet import BUSY_CORES

GIB = 1 << 30
Pass = dict[str, Any]
#: With so many quiet passes, those that somebody else disturbed are left out of the figures.
_ENOUGH_QUIET = 3

_FIGURES: dict[str, Callable[[Pass], float]] = {
    "ops_per_second": lambda one: one["ops"] / one["seconds"],
    "gib_per_second": lambda one: one["bytes"] / GIB / one["seconds"],
    "gb_per_cpu_second": lambda one: one["bytes"] / 1e9 / (one["cpu_user"] + one["cpu_sys"]),
    "megabytes": lambda one: one["bytes"] / 1e6,
    "milliseconds": lambda one: one["seconds"] * 1000,
}


def summarize(work: Work, passes: list[Pass]) -> dict[str, Any]:
    """A lane's figures over its rounds; the quiet ones, if they are enough."""
    disturbed = [one for one in passes if one["others_busy_cores"] > BUSY_CORES]
    if len(passes) - len(disturbed) >= _ENOUGH_QUIET:
        passes = [one for one in passes if one not in disturbed]
    values = [_FIGURES[work.figure](one) for one in passes]
    cpu = [(one["cpu_user"] + one["cpu_sys"]) / one["ops"] for one in passes]
    peaks = [one["peak_rss_bytes"] - one["baseline_rss_bytes"] for one in passes]
    summary: dict[str, Any] = {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "cpu_us_per_op": median(cpu) * 1e6,
        "peak_over_baseline_gib": max(peaks) / GIB,
        "disturbed": len(disturbed),
        "counted": len(passes),
    }
    if "heavy_modules" in passes[0]:
        summary["heavy_modules"] = passes[0]["heavy_modules"]
        summary["heavy_module_count"] = len(passes[0]["heavy_modules"])
    return summary


def add_ratios(work: Work, lanes: dict[str, Any]) -> None:
    """How our lane of the same kin does against each: above 1, ours is better."""
    for lane in work.lanes:
        base = figure_of(lanes, _ours_for(work, lane), "median")
        value = figure_of(lanes, lane.label, "median")
        if base and value:
            ratio = value / base if work.lower_is_better else base / value
            lanes[lane.label]["summary"]["ours_over_it"] = ratio


def _ours_for(work: Work, lane: Lane) -> str:
    ours = [mine for mine in work.lanes if mine.contender == OURS]
    kin = [mine.label for mine in ours if mine.kin == lane.kin]
    return kin[0] if kin else ours[0].label


def figure_of(lanes: dict[str, Any], label: str, figure: str) -> float | None:
    """One figure of a lane, or None where it was not measured."""
    summary = lanes.get(label, {}).get("summary")
    return None if not summary else summary.get(figure)


def judge(target: Target, lanes: dict[str, Any]) -> dict[str, Any]:
    """The target beside what was measured; met is None where something was not measured."""
    value = figure_of(lanes, target.lane, target.figure)
    against = None
    if target.against:
        rivals = [figure_of(lanes, label, target.figure) for label in target.against]
        against = max((rival for rival in rivals if rival), default=None)
        value = value / against if value is not None and against else None
    met = None if value is None else _within(target, value)
    return {
        "text": target.text,
        "lane": target.lane,
        "against": list(target.against),
        "at_least": target.at_least,
        "at_most": target.at_most,
        "value": value,
        "met": met,
    }


def _within(target: Target, value: float) -> bool:
    above = target.at_least is None or value >= target.at_least
    return above and (target.at_most is None or value <= target.at_most)
