"""Room card: where an epoch is resumed. Knows arithmetic only; the oracle is a set that must come out whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import OptionError
from s3dlio.orders import epoch_order
from s3dlio.resume import Bookmark, State, merge_states
from s3dlio.shards import Shard, Share, Walk, walk

ALONE = Shard()
COUNTS = st.integers(1, 150)
RANKS = st.integers(1, 5)
BATCHES = st.integers(1, 6)


class Reader:
    """What a dataset does, without reading."""

    def __init__(self, count: int, rank: Shard = ALONE, worker: Shard = ALONE, batch: int = 1) -> None:
        self.count = count
        self.bookmark = Bookmark(lambda: {"seed": 5, "samples": count})
        self._parts = (rank, worker, batch)

    def _walk_from(self, start: int) -> Walk:
        rank, worker, batch = self._parts
        order = epoch_order(self.count, shuffle=True, seed=5, epoch=self.bookmark.epoch)
        return walk(order, Share(self.count, rank, "uneven", start), worker, batch)

    def read(self, most: int = 10**6) -> list[int]:
        run = self.bookmark.begin(self._walk_from)
        seen: list[int] = []
        while run.steps < len(run.walk) and len(seen) < most:
            step = run.steps
            self.bookmark.advance(run)
            seen += run.walk.samples(step, step + 1).tolist()
        if len(seen) < most:
            self.bookmark.end(run)
        return seen


def stored(state: State) -> State:
    """A state as it comes back from a file."""
    assert len(json.dumps(state)) < 300
    back: State = json.loads(json.dumps(state))
    return back


@given(COUNTS, st.lists(st.tuples(RANKS, st.integers(0, 20)), min_size=1, max_size=4), RANKS)
def test_an_epoch_taken_up_again_and_again_comes_out_whole(count: int, stops: list[tuple[int, int]], last: int) -> None:
    """With other numbers of ranks each time, all of which have taken the same number of steps."""
    seen: list[int] = []
    state: State | None = None
    for ranks, steps in [*stops, (last, 10**6)]:
        readers = [Reader(count, Shard(rank, ranks)) for rank in range(ranks)]
        for reader in readers:
            if state is not None:
                reader.bookmark.load(stored(state))
            if reader.bookmark.epoch == 0:
                seen += reader.read(steps)
        state = readers[0].bookmark.state()
        if state["epoch"]:
            break
    assert sorted(seen) == list(range(count))


@given(COUNTS, BATCHES, st.integers(1, 4), st.integers(0, 30), st.integers(1, 4))
def test_workers_states_make_one_for_other_workers(
    count: int, batch: int, workers: int, batches: int, then: int
) -> None:
    readers = [Reader(count, Shard(), Shard(worker, workers), batch) for worker in range(workers)]
    seen: list[int] = []
    runs = [reader.bookmark.begin(reader._walk_from) for reader in readers]
    for turn in range(batches):
        reader, run = readers[turn % workers], runs[turn % workers]
        for _ in range(min(batch, len(run.walk) - run.steps)):
            step = run.steps
            reader.bookmark.advance(run)
            seen += run.walk.samples(step, step + 1).tolist()
    whole = Reader(count).read()
    assert seen == whole[: len(seen)]
    states = [stored(reader.bookmark.state()) for reader in readers]
    merged = merge_states(reversed(states)) if len(states) > 1 else states[0]
    for worker in range(then):
        reader = Reader(count, Shard(), Shard(worker, then), batch)
        reader.bookmark.load(merged)
        if reader.bookmark.epoch == 0:
            seen += reader.read()
    assert sorted(seen) == list(range(count))


def test_workers_that_are_not_at_their_turn_are_told() -> None:
    readers = [Reader(20, Shard(), Shard(worker, 2)) for worker in range(2)]
    readers[0].read(4)  # in a loader's batch of four, of which the dataset was not told
    readers[1].read(0)
    with pytest.raises(OptionError, match="batch_size="):
        merge_states([reader.bookmark.state() for reader in readers])


def test_states_of_some_workers_only_are_refused() -> None:
    readers = [Reader(20, Shard(), Shard(worker, 3), 2) for worker in range(3)]
    for reader in readers:
        reader.read(2)
    with pytest.raises(OptionError, match="not the states of all workers"):
        merge_states([reader.bookmark.state() for reader in readers[1:]])


def test_a_workers_state_is_for_the_same_worker_of_as_many() -> None:
    one = Reader(20, Shard(), Shard(1, 2), 2)
    first = one.read(4)
    same, other = Reader(20, Shard(), Shard(1, 2), 2), Reader(20, Shard(), Shard(1, 4), 2)
    for reader in (same, other):
        reader.bookmark.load(stored(one.bookmark.state()))
    assert first + same.read() == Reader(20, Shard(), Shard(1, 2), 2).read()
    with pytest.raises(OptionError, match="merge_states"):
        other.read()


# -- what users of other loaders suffer from ------------------------------------------------------------


def _resumed(state: State) -> Reader:
    reader = Reader(10)
    reader.bookmark.load(state)
    return reader


def test_a_second_resume_counts_from_the_epochs_beginning() -> None:
    one = Reader(10)
    seen = one.read(3)
    two = _resumed(one.bookmark.state())
    seen += two.read(3)
    assert two.bookmark.state()["consumed"] == 6
    assert seen + _resumed(two.bookmark.state()).read() == Reader(10).read()


def test_a_state_taken_before_loading_changes_nothing() -> None:
    one, two = Reader(10), Reader(10)
    seen = one.read(4)
    assert two.bookmark.state()["consumed"] == 0
    two.bookmark.load(one.bookmark.state())
    assert two.bookmark.state() == one.bookmark.state()
    assert seen + two.read() == Reader(10).read()


def test_begun_twice_before_anything_is_read_the_place_is_kept() -> None:
    one = Reader(10)
    seen = one.read(4)
    two = _resumed(one.bookmark.state())
    two.bookmark.begin(two._walk_from)
    assert seen + two.read() == Reader(10).read()
    assert len(two.read()) == 10  # and behind it an epoch is whole again


@pytest.mark.parametrize("finish", [True, False])
def test_a_state_from_the_end_begins_the_next_epoch(finish: bool) -> None:
    one = Reader(10)
    one.read(10**6 if finish else 10)
    state = one.bookmark.state()
    assert (state["epoch"], state["consumed"]) == (1, 0)
    two = _resumed(state)
    fresh = Reader(10)
    fresh.bookmark.set_epoch(1)
    assert two.read() == fresh.read()


def test_setting_the_epoch_that_is_resumed_keeps_its_place() -> None:
    one = Reader(10)
    one.bookmark.set_epoch(3)
    seen = one.read(4)
    two = _resumed(one.bookmark.state())
    two.bookmark.set_epoch(3)
    rest = two.read()
    assert len(seen + rest) == len(set(seen + rest)) == 10
    two.bookmark.set_epoch(4)
    assert len(two.read()) == 10


def test_who_takes_numbers_ahead_says_how_many_were_used() -> None:
    one = Reader(10)
    seen = one.read(8)
    assert one.bookmark.state(consumed=5)["consumed"] == 5
    two = _resumed(one.bookmark.state(consumed=5))
    two.read(4)
    assert two.bookmark.state(consumed=2)["consumed"] == 7
    assert seen[:5] + _resumed(one.bookmark.state(5)).read() == Reader(10).read()


@pytest.mark.parametrize(("change", "said"), [
    ({"seed": 6}, "seed=6"), ({"samples": 11}, "samples=11"), ({"version": 2}, "version 1"), ({"epoch": None}, "state"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    state = {**Reader(10).bookmark.state(), **change}
    if change.get("epoch", 0) is None:
        del state["epoch"]
    with pytest.raises(OptionError, match=said):
        _resumed(state)


def test_what_is_taken_out_of_a_state_is_not_compared() -> None:
    state = Reader(11).bookmark.state()
    del state["samples"]
    assert len(_resumed(state).read()) == 10


def test_an_epoch_below_zero_is_refused() -> None:
    with pytest.raises(OptionError, match="epoch"):
        Reader(10).bookmark.set_epoch(-1)
