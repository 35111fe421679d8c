"""Where the next iteration begins, and how far the last one has come.

Floor 6. Knows epochs, ranks and batches as numbers; must not know tensors. tf.data draws ahead of the
training loop, begins iterations that nobody uses (Keras does, between epochs) and takes looks at the first
batches: so an iteration counts only once it has yielded all, or more than anybody draws for a look.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from s3dlio.errors import OptionError
from s3dlio.loader import BatchLoader
from s3dlio.resume import Run, State
from s3dlio.shards import Walk

#: An iteration that was broken off within so many batches was a look: the next one begins at the same place.
#: What tf.distribute draws in advance for each of its devices is less (three batches).
LOOK = 16


class Point(NamedTuple):
    """A place between two elements.

    Attributes:
        epoch: Which one.
        consumed: Samples of it that all ranks together have consumed.
    """

    epoch: int = 0
    consumed: int = 0


class Pass:
    """One iteration over what an epoch has from some place on.

    Args:
        begun: Where it begins.
        walk: The way.
        before: Elements that lie before it.
        lost: Takes the numbers of elements all of whose samples were skipped.
    """

    def __init__(self, begun: Point, walk: Walk, before: int, lost: set[int]) -> None:
        self.begun = begun
        self.run = Run(walk, 0)
        self.steps = 0  # samples of this rank that it has come past
        self.before = before
        self.lost = lost


class Place:
    """Keeps the place of a dataset. Thread-safe.

    Args:
        loader: Whose samples, in which batches.
        unit: Samples in an element.
    """

    def __init__(self, loader: BatchLoader, unit: int) -> None:
        self._dataset, self._plan = loader.dataset, loader.plan
        self._unit = unit
        self._lock = threading.Lock()
        self._start = self._next = Point()
        self._last: Pass | None = None
        self._lost: set[int] = set()

    # -- choosing ---------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration reads, unless it stands in that one already."""
        if epoch < 0:
            msg = f"the epoch must be at least 0, not {epoch}"
            raise OptionError(msg)
        with self._lock:
            self._move(self._next if epoch == self._next.epoch else Point(epoch))

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state.

        Raises:
            OptionError: It is no state, or one of other samples, another seed or another shuffle.
        """
        loader = BatchLoader(self._dataset, self._plan)
        loader.load_state_dict(state)
        loader.begin()  # refuses the state of a torch DataLoader's worker
        point = Point(int(state["epoch"]), int(state["consumed"]))
        if not self._elements(point) and not self._others_may_have_more(point):
            point = Point(point.epoch + 1)
        with self._lock:
            self._move(point)

    def _move(self, point: Point) -> None:
        self._start = self._next = point
        self._last = None
        self._lost = set()

    # -- reading ----------------------------------------------------------------------------------

    def begin(self) -> Pass:
        """Begin an iteration."""
        with self._lock:
            begun = self._next
            self._last = Pass(begun, self._walk(begun), self._distance(begun), self._lost)
            return self._last

    def note(self, done: Pass, steps: int, *, lost: bool = False) -> None:
        """Note that an element of so many samples is handed out, or lost: all of it was skipped."""
        with self._lock:
            if lost:
                done.lost.add(done.before + done.steps // self._unit)
            done.steps += steps
            if done.steps > LOOK * self._plan.batch_size:
                self._leave(done)
        if done.steps >= len(done.run.walk):
            self.end(done)

    def end(self, done: Pass) -> None:
        """Note that an iteration has nothing more to yield."""
        with self._lock:
            self._leave(done)

    def _leave(self, done: Pass) -> None:
        if self._next == done.begun:
            self._next = Point(done.begun.epoch + 1)

    # -- arithmetic -------------------------------------------------------------------------------

    def state(self, elements: int | None = None) -> State:
        """Return where the reader stands.

        Args:
            elements: How many were used since the place was chosen last (or since the beginning), over
                all iterations; ``None``: all that the last iteration has handed out.
        """
        with self._lock:
            if elements is not None:
                point = self._behind(self._start, self._with_lost(elements))
            elif self._last is None:
                point = self._next
            else:
                point = self._behind(self._last.begun, -(-self._last.steps // self._unit))
        state = BatchLoader(self._dataset, self._plan).state_dict()
        return state | {"epoch": point.epoch, "consumed": point.consumed}

    def _with_lost(self, elements: int) -> int:
        for lost in sorted(self._lost):
            elements += lost <= elements
        return elements

    def _walk(self, point: Point) -> Walk:
        return self._plan.walk(len(self._dataset), point.epoch, point.consumed)

    def _elements(self, point: Point) -> int:
        """Return how many elements an epoch has from some place on."""
        return -(-len(self._walk(point)) // self._unit)

    def _distance(self, point: Point) -> int:
        """Return how many elements lie between the start and a place where an epoch begins."""
        if point == self._start:
            return 0
        whole = point.epoch - self._start.epoch - 1
        return self._elements(self._start) + whole * self._elements(Point(point.epoch))

    def _behind(self, point: Point, elements: int) -> Point:
        """Return the place that lies so many elements behind another one."""
        here = self._elements(point)
        if elements < here or (elements == here and self._others_may_have_more(point)):
            return self._within(point, elements)
        whole = self._elements(Point(point.epoch + 1))
        if not whole:
            return Point(point.epoch + 1)
        epochs, rest = divmod(elements - here, whole)
        return self._within(Point(point.epoch + 1 + epochs), rest)

    def _within(self, point: Point, elements: int) -> Point:
        way = self._walk(point)
        return Point(point.epoch, way.share.consumed(min(elements * self._unit, len(way))))

    def _others_may_have_more(self, point: Point) -> bool:
        """Whether other ranks may have a sample more than this one, and so not be at the end of the epoch."""
        share = self._walk(point).share
        return share.policy == "uneven" and not self._plan.drop_last and share.consumed(len(share)) < share.count
