"""Room card: the order of an epoch. Knows arithmetic only; the oracle is a permutation that must come out whole."""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import OptionError
from s3dlio.orders import LANES, Blocks, Order, epoch_order, permute

COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 20_000))
SHUFFLES = st.sampled_from(["none", "global", "block"])
GLOBAL = [10, 3, 1, 7, 2, 8, 6, 9, 11, 5, 0, 4]
BLOCK = [179, 163, 32, 107, 47, 186, 70, 149, 9, 11, 111, 24]
BUFFERS = st.sampled_from([1, 63, 64, 65, 300, 5000])


def whole(order: Order) -> list[int]:
    return order.at(np.arange(len(order))).tolist()


@given(COUNTS, SHUFFLES, st.integers(0, 5), st.integers(0, 5), BUFFERS)
def test_an_order_is_a_permutation_and_the_same_again(
    count: int, shuffle: str, seed: int, epoch: int, buffer: int
) -> None:
    order = whole(epoch_order(count, shuffle=shuffle, seed=seed, epoch=epoch, buffer=buffer))
    assert sorted(order) == list(range(count))
    assert order == whole(epoch_order(count, shuffle=shuffle, seed=seed, epoch=epoch, buffer=buffer))


@given(st.integers(1, 5000), SHUFFLES, st.lists(st.integers(0, 10**6), max_size=20))
def test_positions_can_be_asked_for_in_any_order(count: int, shuffle: str, wanted: list[int]) -> None:
    order = epoch_order(count, shuffle=shuffle, buffer=100)
    positions = [position % count for position in wanted]
    everything = whole(order)
    assert order.at(np.array(positions, np.int64)).tolist() == [everything[position] for position in positions]


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_epochs_and_seeds_differ(shuffle: str) -> None:
    orders = {tuple(whole(epoch_order(500, shuffle=shuffle, seed=s, epoch=e))) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_orders_stay_as_they_are_from_release_to_release() -> None:
    """A resumed run relies on them."""
    assert whole(epoch_order(12, shuffle=True, seed=7, epoch=3)) == GLOBAL
    assert whole(epoch_order(200, shuffle="block", seed=7, epoch=3, buffer=128))[:12] == BLOCK


@pytest.mark.parametrize("count", [4, 5, 6])
def test_all_permutations_of_a_few_samples_are_equally_likely(count: int) -> None:
    rounds = 200 * math.factorial(count)
    keys = np.random.default_rng(5).integers(0, 1 << 63, rounds).astype(np.uint64)
    columns = [permute(np.full(rounds, position), count, keys).tolist() for position in range(count)]
    seen = Counter(zip(*columns, strict=True))
    assert len(seen) == math.factorial(count)
    chi_squared = sum((times - 200) ** 2 / 200 for times in seen.values())
    freedom = math.factorial(count) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


def test_neighbours_are_scattered() -> None:
    order = epoch_order(100_000, shuffle=True)
    at = order.at(np.arange(1000))
    assert len(np.unique(at // 1000)) > 50  # of a hundred regions
    assert abs(np.corrcoef(np.arange(1000), at)[0, 1]) < 0.1


def test_a_hundred_million_samples_take_no_time_and_no_memory() -> None:
    began = time.process_time()
    order = epoch_order(100_000_000, shuffle=True)
    assert len(set(order.at(np.arange(99_999_000, 100_000_000)).tolist())) == 1000
    assert time.process_time() - began < 1.0  # CPU of this process: a stored order would take ten times as long


def test_a_window_of_a_block_shuffle_is_read_in_runs() -> None:
    order = epoch_order(64 * 1000, shuffle="block", buffer=1024)
    positions = np.arange(1024)
    windows = order.windows(positions)
    assert windows is not None
    assert set(windows.tolist()) == {0}
    numbers = np.sort(order.at(positions))
    assert np.count_nonzero(np.diff(numbers) > 1) < LANES  # 64 runs of 16 neighbours


@pytest.mark.parametrize("readers", [2, 4, 8, 64])
def test_the_usual_numbers_of_readers_read_whole_blocks(readers: int) -> None:
    order = epoch_order(64 * 1000, shuffle="block", buffer=1024)
    blocks = [set((order.at(np.arange(reader, 1024, readers)) // 16).tolist()) for reader in range(readers)]
    assert sum(map(len, blocks)) == len(set().union(*blocks)) == LANES


@given(st.integers(0, 3000), st.sampled_from([64, 128, 1024]), st.integers(0, 99))
def test_windows_hold_neighbouring_positions(count: int, buffer: int, seed: int) -> None:
    order = epoch_order(count, shuffle="block", seed=seed, buffer=buffer)
    windows = order.windows(np.arange(count))
    assert windows is not None
    runs = 1 + np.count_nonzero(np.diff(windows)) if count else 0
    # The samples of no whole block stand between two windows, or cut off the end.
    assert runs == len(np.unique(windows))
    assert max(Counter(windows.tolist()).values(), default=0) <= buffer


def test_the_last_few_samples_are_not_always_last() -> None:
    count = 64 * 50 + 7
    places = {whole(Blocks(count, key, 64)).index(count - 1) // 500 for key in range(40)}
    assert len(places) > 3


@pytest.mark.parametrize(("options", "said"), [
    ({"shuffle": "blok"}, "did you mean 'block'"), ({"epoch": -1}, "epoch"), ({"buffer": 0}, "shuffle_buffer"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        epoch_order(5, **options)  # type: ignore[arg-type]
