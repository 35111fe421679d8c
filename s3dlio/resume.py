"""Where a reader of epochs stands, and how that is saved and taken up again.

Floor 0. Knows positions, ranks and workers as numbers; must not know what reads, nor how states are kept.

A state is a small dict of constant size. What it says of an epoch is how many samples all ranks together
have consumed: enough to go on with other ranks and workers. The state that a *worker* of a loader saves
also says how far it is in its own part, and only the same worker of as many can take that up;
:func:`merge_states` makes one state out of those of all workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from s3dlio.bounds import is_a, whole
from s3dlio.errors import OptionError
from s3dlio.shards import Share, Walk, merged_steps

VERSION = 1
_ALONE = (0, 1, 1, 1)  # worker, workers, ranks, batch: a state that no worker saved
State = dict[str, Any]


class Point(NamedTuple):
    """A point in an epoch.

    Attributes:
        consumed: Samples that all ranks together had consumed when the walk began.
        steps: What this reader has consumed since then.
        worker: Which worker of how many, of how many ranks, took these steps; empty if there were none.
    """

    consumed: int = 0
    steps: int = 0
    worker: tuple[int, ...] = ()


class Run:
    """One walk through an epoch, as far as it has come.

    Attributes:
        walk: The way.
        steps: How many have been taken.
        ended: Whether it has come to its end.
    """

    def __init__(self, walk: Walk, steps: int) -> None:
        self.walk = walk
        self.steps = steps
        self.ended = False
        self.first = steps


class Bookmark:
    """The place of one reader. Not thread-safe: it belongs to whoever iterates.

    Args:
        identity: Returns what a state must agree with to be taken up, by name: seed, shuffle, number and
            fingerprint of the samples. Called when a state is saved or loaded.
    """

    def __init__(self, identity: Callable[[], Mapping[str, Any]]) -> None:
        self._identity = identity
        self._epoch = 0
        self._from: Point | None = None  # a loaded place that nothing has been read from yet
        self._run: Run | None = None  # what was read from last
        self._begun: Run | None = None  # what was begun last: a worker's state tells of which worker

    @property
    def epoch(self) -> int:
        """The epoch that is read, or that the next walk reads."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. The one that a loaded state stands in keeps its place."""
        epoch = whole("the epoch", epoch, 0)
        if epoch != self._epoch:
            self._epoch = epoch
            self._from = self._run = self._begun = None

    # -- reading ----------------------------------------------------------------------------------

    def begin(self, walk_from: Callable[[int], Walk]) -> Run:
        """Begin a walk, where a loaded state says or at the beginning of the epoch.

        Args:
            walk_from: Given how many samples have been consumed, returns the walk through the others.

        Raises:
            OptionError: The loaded state is that of another worker.
        """
        point = self._from or Point()
        walk = walk_from(point.consumed)
        if point.worker and point.worker != _worker_of(walk):
            msg = (
                f"the state was saved by (worker, workers, ranks, batch) {point.worker} and is loaded by "
                f"{_worker_of(walk)}; load merge_states(states of all workers) instead"
            )
            raise OptionError(msg, operation="load_state_dict")
        self._begun = Run(walk, point.steps)
        return self._begun

    @property
    def is_loaded(self) -> bool:
        """Whether the next walk begins where a loaded state says."""
        return self._from is not None

    def rewind(self) -> None:
        """Forget the loaded state: the next walk begins at the beginning of its epoch."""
        self._from = None

    def advance(self, run: Run, steps: int = 1) -> bool:
        """Note that a walk has gone on: called before a sample is handed out.

        Returns:
            Whether this has used up a loaded state: a walk that nobody has read from leaves it to the next.
        """
        run.steps += steps
        self._run = run
        used, self._from = self._from is not None, None
        return used

    def end(self, run: Run) -> bool:
        """Note that a walk has come to its end; returns what :meth:`advance` does."""
        run.ended = True
        return self.advance(run, 0)

    # -- states -----------------------------------------------------------------------------------

    def state(self, consumed: int | None = None) -> State:
        """Return where the reader stands; a finished epoch is the beginning of the next one.

        Args:
            consumed: How many of the last walk's samples were really used, if not all that were read.
        """
        state: State = {"version": VERSION, "epoch": self._epoch, "consumed": 0, **self._identity()}
        run = self._run or self._begun
        if run is None:
            point = self._from or Point()
            state["consumed"] = point.consumed
            if point.worker:
                state |= {"worker": list(point.worker), "steps": point.steps}
        elif run.walk.hand.worker.count > 1:
            state["consumed"] = run.walk.share.start
            state |= {"worker": list(_worker_of(run.walk)), "steps": run.steps}
        else:
            steps = run.steps if consumed is None else run.first + consumed
            if (run.ended and consumed is None) or _is_over(run.walk.share, steps):
                state["epoch"] += 1
            else:
                state["consumed"] = run.walk.share.consumed(steps)
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state; the next walk begins there.

        Raises:
            OptionError: It is no state, or one of other samples, another seed or another shuffle.
        """
        _check(state, self._identity())
        self._epoch = int(state["epoch"])
        self._from = Point(int(state["consumed"]), int(state.get("steps", 0)), tuple(state.get("worker", ())))
        self._run = self._begun = None


def _worker_of(walk: Walk) -> tuple[int, int, int, int]:
    hand = walk.hand
    return hand.worker.index, hand.worker.count, walk.share.rank.count, hand.batch


def _is_over(share: Share, steps: int) -> bool:
    """Tell whether the epoch is: with uneven parts other ranks may still have samples when one has none."""
    if share.policy == "uneven":
        return share.consumed(steps) >= share.count
    return steps >= len(share)


def _check(state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse what cannot be taken up."""
    if not is_a(state, Mapping):
        msg = f"a state is what state_dict() has returned, not {state!r:.80}"
        raise OptionError(msg, operation="load_state_dict")
    missing = {"version", "epoch", "consumed"} - set(state)
    if missing or state["version"] != VERSION:
        msg = f"this is not a state of this library's (version {VERSION}): it has {sorted(state)}"
        raise OptionError(msg, operation="load_state_dict")
    for name, mine in identity.items():
        if name in state and state[name] != mine:
            msg = (
                f"the state was saved with {name}={state[name]!r} and this is {mine!r}: samples would be "
                f"repeated or left out (take {name!r} out of the state to resume all the same)"
            )
            raise OptionError(msg, operation="load_state_dict")


def merge_states(states: Iterable[Mapping[str, Any]]) -> State:
    """Make one state out of those of all workers of one rank.

    It can be loaded with another number of workers, and of ranks.

    Args:
        states: Of all workers, in any order.

    Raises:
        OptionError: Some are missing, they do not belong together, or the workers do not stand where a
            loader that takes batches from them in turn would have left them (the dataset was not
            told the loader's ``batch_size``).
    """
    given = sorted(states, key=lambda state: state.get("worker", _ALONE)[0])
    workers = [tuple(state.get("worker", _ALONE)) for state in given]
    common = {(state["epoch"], state["consumed"], *worker[1:]) for state, worker in zip(given, workers, strict=True)}
    if len(common) != 1 or [worker[0] for worker in workers] != list(range(workers[0][1])):
        msg = f"these are not the states of all workers of one rank: (worker, workers, ranks, batch) {workers}"
        raise OptionError(msg, operation="merge_states")
    turns = merged_steps([int(state.get("steps", 0)) for state in given], batch=workers[0][3])
    if turns is None:
        msg = "the workers do not stand where batches taken in turn leave them; give the dataset batch_size="
        raise OptionError(msg, operation="merge_states")
    merged = {name: value for name, value in given[0].items() if name not in ("worker", "steps")}
    merged["consumed"] += turns * workers[0][2]
    if merged["consumed"] >= merged.get("samples", math.inf):
        merged |= {"epoch": merged["epoch"] + 1, "consumed": 0}
    return merged
