"""Room card: torch's loaders taken up again: in the midst of an epoch, after SIGKILL, with other workers and ranks.

The oracle is the set of all samples, which must come out whole.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from s3dlio.errors import OptionError
from s3dlio.torch import ResumableDistributedSampler, S3IterableDataset, S3MapDataset, merge_states
from tests.patience import PROGRAM_S

COUNT = 103
BATCH = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Numbered samples in a local directory."""
    folder = tmp_path_factory.mktemp("samples")
    for number in range(COUNT):
        (folder / f"{number:04d}.bin").write_bytes(number.to_bytes(8, "little"))
    return f"file://{folder}/"


def numbers(batches: Any) -> list[int]:
    return [int.from_bytes(bytes(row.tolist()), "little") for batch in batches for row in batch]


def some(iterator: Iterator[Any], count: int) -> list[int]:
    return numbers([next(iterator) for _ in range(count)])


def iterable(root: str, **options: Any) -> S3IterableDataset:
    return S3IterableDataset(root, shuffle=True, seed=3, batch_size=BATCH, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 5, 12])
def test_a_stateful_loader_goes_on_with_an_iterable_dataset(root: str, workers: int, stop: int) -> None:
    whole = numbers(DataLoader(iterable(root), batch_size=BATCH))
    loader = StatefulDataLoader(iterable(root), batch_size=BATCH, num_workers=workers)
    seen = some(iter(loader), stop)
    again = StatefulDataLoader(iterable(root), batch_size=BATCH, num_workers=workers)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert seen + numbers(again) == whole


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, "block"])
def test_a_stateful_loader_goes_on_with_our_sampler(root: str, workers: int, shuffle: bool | str) -> None:
    def make() -> StatefulDataLoader[Any]:
        dataset = S3MapDataset(root)
        sampler = ResumableDistributedSampler(dataset, shuffle=shuffle, seed=3)
        return StatefulDataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers)

    whole = numbers(make())
    first, second, third = make(), make(), make()
    seen = some(iter(first), 4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    seen += some(iter(second), 3)
    third.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert seen + numbers(third) == whole
    assert sorted(whole) == list(range(COUNT))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3), (3, 1)])
def test_other_numbers_of_workers_go_on(root: str, before: int, after: int) -> None:
    loader = StatefulDataLoader(iterable(root), batch_size=BATCH, num_workers=before)
    seen = some(iter(loader), 5)
    dataset = iterable(root)
    dataset.load_state_dict(merge_states(loader.state_dict()))
    assert seen + numbers(DataLoader(dataset, batch_size=BATCH, num_workers=after)) == numbers(
        DataLoader(iterable(root), batch_size=BATCH)
    )


def test_a_loaded_state_counts_once_for_workers_that_come_anew_each_epoch(root: str) -> None:
    first = iterable(root)
    loader = DataLoader(first, batch_size=BATCH)
    seen = some(iter(loader), 5)
    dataset = iterable(root)
    dataset.load_state_dict(first.state_dict())
    again = DataLoader(dataset, batch_size=BATCH, num_workers=2)
    assert sorted(seen + numbers(again)) == list(range(COUNT))
    assert sorted(numbers(again)) == list(range(COUNT))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_epoch_set_in_the_trainer_reaches_workers_that_live_on(root: str, method: str) -> None:
    dataset = iterable(root)
    loader = DataLoader(
        dataset, batch_size=BATCH, num_workers=2, persistent_workers=True, multiprocessing_context=method
    )
    orders = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        orders.append(numbers(loader))
    assert len({tuple(order) for order in orders}) == 3
    dataset.set_epoch(1)
    assert numbers(loader) == orders[1] == numbers(loader)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_the_order_does_not_depend_on_the_number_of_workers(root: str, workers: int) -> None:
    for shuffle in (False, True, "block"):
        dataset = S3IterableDataset(root, shuffle=shuffle, batch_size=BATCH, shuffle_buffer=64)
        plain = numbers(DataLoader(dataset, batch_size=BATCH))
        assert numbers(DataLoader(dataset, batch_size=BATCH, num_workers=workers)) == plain


def test_a_plain_loader_that_takes_numbers_ahead_says_what_it_used(root: str) -> None:
    dataset = S3MapDataset(root)
    sampler = ResumableDistributedSampler(dataset, seed=3)
    batches = iter(DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=2))
    seen = some(batches, 3)
    state = sampler.state_dict(consumed=3 * BATCH)
    other = ResumableDistributedSampler(dataset, seed=3)
    other.load_state_dict(state)
    rest = numbers(DataLoader(dataset, batch_size=BATCH, sampler=other))
    assert sorted(seen + rest) == list(range(COUNT))


def test_a_state_of_other_samples_is_told(root: str, tmp_path: Path) -> None:
    state = iterable(root).state_dict()
    (tmp_path / "one.bin").write_bytes(b"12345678")
    with pytest.raises(OptionError, match="samples=103"):
        iterable(f"file://{tmp_path}/").load_state_dict(state)


def test_a_loader_state_without_ours_is_told() -> None:
    loader = StatefulDataLoader(list(range(10)))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no state"):
        merge_states(loader.state_dict())


def test_the_state_stays_small(root: str) -> None:
    dataset = iterable(root)
    samples = iter(dataset)
    sizes = set()
    for _ in range(COUNT - 1):
        next(samples)
        sizes.add(len(json.dumps(dataset.state_dict())))
    assert max(sizes) < 250
    assert max(sizes) - min(sizes) < 5


# -- processes ----------------------------------------------------------------------------------------

_TRAINER = textwrap.dedent("""
    import json, os, sys
    from torchdata.stateful_dataloader import StatefulDataLoader
    from s3dlio.torch import S3IterableDataset
    root, folder, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    dataset = S3IterableDataset(root, shuffle=True, seed=3, batch_size=8)
    loader = StatefulDataLoader(dataset, batch_size=8, num_workers=workers)
    state = os.path.join(folder, "state.json")
    if os.path.exists(state):
        loader.load_state_dict(json.load(open(state)))
    for batch in loader:
        seen = [int.from_bytes(bytes(row.tolist()), "little") for row in batch]
        # As a trainer does: what was learned and the state that goes with it become visible at once.
        with open(state + ".new", "w") as file:
            json.dump(loader.state_dict() | {"_seen": seen}, file)
        os.replace(state + ".new", state)
        print(json.dumps(seen), flush=True)
    print("done", flush=True)
""")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_that_is_killed_again_and_again_sees_every_sample_once(
    root: str, tmp_path: Path, workers: int
) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    seen: list[list[int]] = []
    for kill_after in (3, 1, 4, 10**6):
        trainer = subprocess.Popen(
            [sys.executable, str(script), root, str(tmp_path), str(workers)],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert trainer.stdout is not None
        try:
            for number, line in enumerate(trainer.stdout, 1):
                if line.strip() == "done":
                    break
                seen.append(json.loads(line))
                if number == kill_after:
                    break
        finally:
            os.killpg(trainer.pid, signal.SIGKILL)
            trainer.wait()
        # What it has done before the signal came: lines on their way, and one more batch that was saved.
        lines = [line for line in trainer.stdout.read().splitlines(keepends=True) if line.endswith("]\n")]
        trainer.stdout.close()
        seen += [json.loads(line) for line in lines]
        saved = json.loads((tmp_path / "state.json").read_text())["_seen"]
        if saved != seen[-1]:
            seen.append(saved)
    assert sorted(number for batch in seen for number in batch) == list(range(COUNT))


_RANK = textwrap.dedent("""
    import json, os, sys
    import torch.distributed as dist
    from torch.utils.data import DataLoader
    from s3dlio.torch import ResumableDistributedSampler, S3IterableDataset, S3MapDataset
    root, folder, kind, batches = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if kind == "iterable":
        keeper = dataset = S3IterableDataset(root, shuffle=True, seed=3, batch_size=4, uneven="uneven")
        loader = DataLoader(dataset, batch_size=4)
    else:
        dataset = S3MapDataset(root)
        keeper = ResumableDistributedSampler(dataset, seed=3)
        loader = DataLoader(dataset, batch_size=4, sampler=keeper)
    state = os.path.join(folder, "state.json")
    if os.path.exists(state):
        keeper.load_state_dict(json.load(open(state)))
    dist.barrier()  # all have read it before one writes it
    seen = []
    for number, batch in enumerate(loader):
        if number == batches:
            break
        seen += [int.from_bytes(bytes(row.tolist()), "little") for row in batch]
        saved = keeper.state_dict()
    json.dump(seen, open(os.path.join(folder, f"seen-{dist.get_world_size()}-{rank}.json"), "w"))
    if rank == 0:
        json.dump(saved, open(state, "w"))
    dist.destroy_process_group()
""")


@pytest.mark.parametrize("kind", ["iterable", "map"])
def test_four_ranks_go_on_where_two_have_stopped(root: str, tmp_path: Path, kind: str) -> None:
    """Real ranks under torchrun, found by themselves."""
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    for ranks, batches in ((2, 5), (4, 10**6)):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            str(script),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        subprocess.run(
            [*command, root, str(tmp_path), kind, str(batches)],
            check=True, timeout=PROGRAM_S, env=environment, capture_output=True,
        )  # fmt: skip
    parts = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("seen-*.json")}
    assert sorted(map(len, (parts["seen-2-0"], parts["seen-2-1"]))) == [20, 20]
    seen = [number for part in parts.values() for number in part]
    assert set(seen) == set(range(COUNT))
    # The map dataset's ranks are filled up to the same length, as with torch's own sampler.
    assert len(seen) == (COUNT if kind == "iterable" else 40 + 4 * -(-(COUNT - 40) // 4))


# -- our sampler beside torch's -------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_without_shuffling_the_sampler_is_torchs(ranks: int, drop_last: bool) -> None:
    for rank in range(ranks):
        arguments = (list(range(22)), ranks, rank, False, 0, drop_last)
        theirs = torch.utils.data.DistributedSampler(*arguments)  # type: ignore[arg-type]
        ours = ResumableDistributedSampler(*arguments)
        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs)
        for name in ("num_replicas", "rank", "shuffle", "seed", "drop_last", "epoch", "num_samples", "total_size"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.dataset is arguments[0]


def test_the_sampler_has_the_dataset_read_ahead(root: str) -> None:
    dataset = S3MapDataset(root)
    sampler = ResumableDistributedSampler(dataset, seed=1)
    batches = iter(DataLoader(dataset, batch_size=BATCH, sampler=sampler))
    next(batches)
    foresight = dataset._foresight.get()
    assert foresight._coming is not None
    numbers(batches)
