"""The picture: one bar chart per work, ours highlighted, the floors as lines.

For: seeing the whole run on one page. Must not know: how anything was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import number

_OURS, _PEER = "#c4501b", "#9fb1c1"
#: Per floor: colour, dashes, and what to call it.
_FLOORS = {"floor": ("#2b2b2b", "--", "floor (dashed)"), "floor-c": ("#777777", ":", "in C (dotted)")}
_COLUMNS = 2
_ROOM_FOR_TITLE = 3.4


def draw(path: Path, works: dict[str, Any]) -> None:
    """Needs matplotlib; raises ImportError where it is missing."""
    from matplotlib.figure import Figure

    columns = _share_out([work for work in works.values() if _bars(work)])
    tallest = max(sum(_height(work) for work in column) for column in columns)
    figure = Figure(figsize=(15, 0.26 * tallest + 0.4), layout="constrained")
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
    return len(_bars(work)) + _ROOM_FOR_TITLE


def _bars(work: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The clients' lanes, best on top."""
    lanes = [
        (label, lane) for label, lane in work["lanes"].items() if lane["summary"] and lane["contender"] not in _FLOORS
    ]
    # A bar chart counts its rows from below.
    return sorted(lanes, key=lambda item: float(item[1]["summary"]["median"]), reverse=work["lower_is_better"])


def _panel(axes: Any, work: dict[str, Any]) -> None:
    bars = _bars(work)
    values = [lane["summary"]["median"] for _, lane in bars]
    colours = [_OURS if lane["contender"] == "ours" else _PEER for _, lane in bars]
    axes.barh([label for label, _ in bars], values, color=colours, height=0.7)
    floors = _floors(axes, work)
    reach = axes.get_xlim()[1]
    for row, (_, lane) in enumerate(bars):
        _label(axes, lane, lane["summary"]["median"] + reach * 0.01, row)
    axes.set_xlim(0, reach * 1.2)
    axes.xaxis.set_major_formatter(lambda value, _: number(value) if value else "0")
    better = ", lower is better" if work["lower_is_better"] else ""
    axes.set_title(f"{work['title']}\n{work['unit']}{better}{floors}", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, lane: dict[str, Any], where: float, row: int) -> None:
    words = number(lane["summary"]["median"])
    ratio = lane["summary"].get("ours_over_it")
    if lane["contender"] != "ours" and ratio is not None:
        words += f"   (ours: {number(ratio)} x)"
    # The lines of the floors pass behind the words.
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    axes.text(where, row, words, va="center", fontsize=8, bbox=box)


def _floors(axes: Any, work: dict[str, Any]) -> str:
    """Draw the floors as lines, and say what they are for the title."""
    said = []
    for lane in work["lanes"].values():
        if lane["summary"] and lane["contender"] in _FLOORS:
            colour, dashes, name = _FLOORS[lane["contender"]]
            value = lane["summary"]["median"]
            axes.axvline(value, color=colour, linestyle=dashes, linewidth=1.2, zorder=1.5)
            said.append(f"{name} {number(value)}")
    return f"; {', '.join(said)}" if said else ""
