"""The words that works are declared in: who takes part, with which settings, aiming at what.

For: `benchmarks/works.py` and its sisters. Must not know: any particular work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OURS = "ours"
ORIGINAL = "s3dlio-0.10.0"
OBSTORE = "obstore"
CONNECTOR = "s3torchconnector"
BOTO3 = "boto3"
AWSCLI = "awscli"
RCLONE = "rclone"
S3FS = "s3fs"
FLOOR = "floor"
FLOOR_C = "floor-c"
#: Their bars show what the machine gives; they are no clients.
FLOORS = (FLOOR, FLOOR_C)

Setting = dict[str, Any]


@dataclass(frozen=True)
class Lane:
    """One contender doing one work in one way. Settings are tried first, and the quickest one is used.

    A setting's "env" is set for the contender's process; the rest is handed to its function.
    Lanes of the same kin are held against each other; without one, against the first lane of ours. An endpoint
    of its own stands in for the work's.
    """

    label: str
    contender: str
    call: str
    settings: tuple[Setting, ...] = ({},)
    params: dict[str, Any] = field(default_factory=dict)
    most_rounds: int = 99
    note: str = ""
    kin: str = ""
    endpoint: str = ""


@dataclass(frozen=True)
class Target:
    """What is aimed at: a lane's figure alone, or over the best of the lanes it is held against."""

    text: str
    lane: str
    against: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    figure: str = "median"


@dataclass(frozen=True)
class Work:
    """A table in the results. `figure` says what a pass is worth: see `benchmarks/figures.py`."""

    name: str
    title: str
    figure: str
    unit: str
    lanes: tuple[Lane, ...]
    targets: tuple[Target, ...] = ()
    endpoint: str = "plain"
    params: dict[str, Any] = field(default_factory=dict)
    rounds: int = 9
    #: Passes before those that count; the first of them is the proof.
    warm_passes: int = 2
    lower_is_better: bool = False
    about: str = ""


def in_flight(counts: Iterable[int], **more: Any) -> tuple[Setting, ...]:
    """One setting per count, each with whatever else is said."""
    return tuple({"in_flight": count, **more} for count in counts)


def with_env(settings: tuple[Setting, ...], **env: str) -> tuple[Setting, ...]:
    """The same settings in processes that find these variables in their environment."""
    return tuple({**setting, "env": env} for setting in settings)
