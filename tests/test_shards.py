"""Room card: who reads what. Knows arithmetic only; the oracle is a set that must come out whole."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import OptionError
from s3dlio.orders import Sequential, epoch_order
from s3dlio.shards import Hand, Shard, Share, Walk, merged_steps, walk

COUNTS = st.integers(0, 200)
READERS = st.integers(1, 9)
BATCHES = st.integers(1, 7)
POLICIES = st.sampled_from(["pad", "drop", "uneven"])


def positions(share: Share) -> list[int]:
    return share.at(np.arange(len(share))).tolist()


def samples(way: Walk) -> list[int]:
    return way.samples(0, len(way)).tolist()


@given(COUNTS, READERS, st.integers(0, 210))
def test_uneven_shares_are_the_whole_once(count: int, readers: int, start: int) -> None:
    parts = [positions(Share(count, Shard(index, readers), "uneven", start)) for index in range(readers)]
    assert sorted(chain(*parts)) == list(range(start, count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(COUNTS, READERS, st.integers(0, 210))
def test_padded_shares_are_equal_and_cover_all(count: int, readers: int, start: int) -> None:
    parts = [positions(Share(count, Shard(index, readers), "pad", start)) for index in range(readers)]
    assert {len(part) for part in parts} == {-(-max(0, count - start) // readers)}
    assert set(chain(*parts)) == set(range(start, count))


@given(COUNTS, READERS, st.integers(0, 210))
def test_dropping_shares_are_equal_and_never_repeat(count: int, readers: int, start: int) -> None:
    parts = [positions(Share(count, Shard(index, readers), "drop", start)) for index in range(readers)]
    together = sorted(chain(*parts))
    assert together == list(range(start, start + max(0, count - start) // readers * readers))


@given(COUNTS, READERS, READERS, BATCHES, POLICIES, st.booleans())
def test_workers_split_their_ranks_part_exactly(
    count: int, ranks: int, workers: int, batch: int, policy: str, drop_last: bool
) -> None:
    for rank in range(ranks):
        share = Share(count, Shard(rank, ranks), policy)
        whole = positions(share)
        if drop_last:
            whole = whole[: len(whole) // batch * batch]
        ways = [
            walk(Sequential(count), share, Shard(worker, workers), batch, drop_last=drop_last)
            for worker in range(workers)
        ]
        assert sorted(chain(*map(samples, ways))) == sorted(whole)
        assert sum(map(len, ways)) == len(whole)


@given(COUNTS, READERS, BATCHES)
def test_batches_taken_from_workers_in_turn_are_those_of_none(count: int, workers: int, batch: int) -> None:
    """What a DataLoader does."""
    order = epoch_order(count, shuffle=True)
    plain = samples(walk(order, Share(count)))
    parts = [samples(walk(order, Share(count), Shard(worker, workers), batch)) for worker in range(workers)]
    batches = [[part[at : at + batch] for at in range(0, len(part), batch)] for part in parts]
    turns = max(map(len, batches), default=0)
    in_turn = [each[turn] for turn in range(turns) for each in batches if turn < len(each)]
    assert list(chain(*in_turn)) == plain


@given(COUNTS, READERS, BATCHES, st.integers(0, 50))
def test_the_steps_of_workers_are_put_together(count: int, workers: int, batch: int, batches: int) -> None:
    hands = [Hand(count, Shard(index, workers), batch) for index in range(workers)]
    steps = [0] * workers
    for turn in range(batches):
        worker = turn % workers
        steps[worker] = min(steps[worker] + batch, len(hands[worker]))
    assert merged_steps(steps, batch) == min(batches * batch, count)


def test_workers_out_of_turn_cannot_be_put_together() -> None:
    assert merged_steps([4, 0], 2) is None
    assert merged_steps([0, 2], 2) is None


@given(st.integers(0, 3000), READERS, READERS, st.integers(1, 100), st.integers(0, 100))
def test_groups_are_the_walk_in_order(count: int, ranks: int, workers: int, most: int, first: int) -> None:
    for shuffle in ("none", "block"):
        order = epoch_order(count, shuffle=shuffle, buffer=128)
        way = walk(order, Share(count, Shard(0, ranks)), Shard(0, workers))
        groups = list(way.groups(first, most))
        assert list(chain(*[group.tolist() for group in groups])) == samples(way)[first:]
        assert all(len(group) <= (most if shuffle == "none" else 128) for group in groups)


def test_padding_goes_round_like_torchs_distributed_sampler() -> None:
    from torch.utils.data import DistributedSampler

    for rank in range(4):
        theirs = DistributedSampler(range(10), 4, rank, shuffle=False)  # type: ignore[arg-type]
        assert positions(Share(10, Shard(rank, 4), "pad")) == list(theirs)


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_outside_its_count_is_refused(index: int, count: int) -> None:
    with pytest.raises(OptionError, match="shard index"):
        Shard(index, count)


def test_a_misspelt_policy_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'uneven'"):
        Share(3, policy="unevn")
