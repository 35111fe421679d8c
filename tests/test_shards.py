"""Room card: who reads what. Knows arithmetic only; the oracle is a set that must come out whole."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import OptionError
from s3dlio.shards import Shard, epoch_order, nest, share

COUNTS = st.integers(0, 200)
READERS = st.integers(1, 9)


@given(COUNTS, READERS)
def test_uneven_shares_are_the_whole_once(count: int, readers: int) -> None:
    parts = [list(share(count, Shard(index, readers), "uneven")) for index in range(readers)]
    assert sorted(chain(*parts)) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(COUNTS, READERS)
def test_padded_shares_are_equal_and_cover_all(count: int, readers: int) -> None:
    parts = [list(share(count, Shard(index, readers), "pad")) for index in range(readers)]
    assert len({len(part) for part in parts}) == 1
    assert set(chain(*parts)) == set(range(count))
    assert len(parts[0]) == -(-count // readers)


@given(COUNTS, READERS)
def test_dropping_shares_are_equal_and_never_repeat(count: int, readers: int) -> None:
    parts = [list(share(count, Shard(index, readers), "drop")) for index in range(readers)]
    together = list(chain(*parts))
    assert len({len(part) for part in parts}) == 1
    assert len(together) == len(set(together)) == count // readers * readers


@given(COUNTS, READERS, READERS, st.sampled_from(["pad", "drop", "uneven"]))
def test_workers_split_their_ranks_part_exactly(count: int, ranks: int, workers: int, policy: str) -> None:
    for rank in range(ranks):
        whole = share(count, Shard(rank, ranks), policy)
        parts = [list(nest(whole, Shard(worker, workers))) for worker in range(workers)]
        assert sorted(chain(*parts)) == sorted(whole)


def test_padding_goes_round_like_torchs_distributed_sampler() -> None:
    from torch.utils.data import DistributedSampler

    for rank in range(4):
        theirs = DistributedSampler(range(10), 4, rank, shuffle=False)  # type: ignore[arg-type]
        assert list(share(10, Shard(rank, 4), "pad")) == list(theirs)


@given(COUNTS, st.integers(0, 5), st.integers(0, 5))
def test_a_shuffled_order_is_a_permutation_of_its_seed_and_epoch(count: int, seed: int, epoch: int) -> None:
    order = list(epoch_order(count, shuffle=True, seed=seed, epoch=epoch))
    assert sorted(order) == list(range(count))
    assert order == list(epoch_order(count, shuffle=True, seed=seed, epoch=epoch))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, shuffle=True, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_outside_its_count_is_refused(index: int, count: int) -> None:
    with pytest.raises(OptionError, match="shard index"):
        Shard(index, count)


def test_a_misspelt_policy_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'uneven'"):
        share(3, Shard(), "unevn")
