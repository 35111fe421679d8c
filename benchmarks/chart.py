"""The picture: one bar chart per work, ours highlighted, the floors as lines.

For: seeing the whole run on one page. Must not know: how anything was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import number

_OURS, _PEER, _FLOOR, _FLOOR_C = "#c4501b", "#8fa3b5", "#2b2b2b", "#888888"
_FLOORS = {"floor": (_FLOOR, "--", "floor"), "floor-c": (_FLOOR_C, ":", "floor in C")}
_COLUMNS = 2


def draw(path: Path, works: dict[str, Any]) -> None:
    """Needs matplotlib; raises ImportError where it is missing."""
    from matplotlib.figure import Figure

    shown = [work for work in works.values() if _bars(work)]
    columns = _share_out(shown)
    tallest = max(sum(_height(work) for work in column) for column in columns)
    figure = Figure(figsize=(13, 0.31 * tallest + 0.8), layout="constrained")
    grid = figure.add_gridspec(1, _COLUMNS)
    for place, column in enumerate(columns):
        if not column:
            continue
        heights = [_height(work) for work in column]
        inner = grid[0, place].subgridspec(len(column), 1, height_ratios=heights)
        for row, work in enumerate(column):
            _panel(figure.add_subplot(inner[row, 0]), work)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _share_out(works: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """In order, each work to the column that is shortest so far."""
    columns: list[list[dict[str, Any]]] = [[] for _ in range(_COLUMNS)]
    for work in works:
        min(columns, key=lambda column: sum(_height(each) for each in column)).append(work)
    return columns


def _height(work: dict[str, Any]) -> float:
    return len(_bars(work)) + 3.0


def _bars(work: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    lanes = [
        (label, lane)
        for label, lane in work["lanes"].items()
        if lane["summary"] and lane["contender"] not in _FLOORS
    ]
    return sorted(
        lanes, key=lambda item: float(item[1]["summary"]["median"]), reverse=work["lower_is_better"]
    )


def _panel(axes: Any, work: dict[str, Any]) -> None:
    bars = _bars(work)
    values = [lane["summary"]["median"] for _, lane in bars]
    colours = [_OURS if lane["contender"] == "ours" else _PEER for _, lane in bars]
    axes.barh([label for label, _ in bars], values, color=colours, height=0.68)
    _floors(axes, work)
    reach = axes.get_xlim()[1]
    for row, (_, lane) in enumerate(bars):
        axes.text(lane["summary"]["median"] + reach * 0.01, row, _words(lane), va="center", fontsize=8)
    axes.set_xlim(0, reach * 1.22)
    better = ", lower is better" if work["lower_is_better"] else ""
    axes.set_title(f"{work['title']} ({work['unit']}{better})", fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _words(lane: dict[str, Any]) -> str:
    summary = lane["summary"]
    ratio = summary.get("ours_over_it")
    if lane["contender"] == "ours" or ratio is None:
        return number(summary["median"])
    return f"{number(summary['median'])}   (ours: {number(ratio)} x)"


def _floors(axes: Any, work: dict[str, Any]) -> None:
    drawn = False
    for lane in work["lanes"].values():
        if lane["summary"] and lane["contender"] in _FLOORS:
            colour, dashes, name = _FLOORS[lane["contender"]]
            value = lane["summary"]["median"]
            axes.axvline(
                value, color=colour, linestyle=dashes, linewidth=1.2, label=f"{name}: {number(value)}"
            )
            drawn = True
    if drawn:
        axes.legend(fontsize=7, loc="lower right", frameon=False)
