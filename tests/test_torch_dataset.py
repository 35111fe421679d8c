"""Room card: the torch room under a real DataLoader: every sample once, in order, as tensors."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from torch.utils.data._utils import signal_handling

import s3dlio
from s3dlio.errors import NotFoundError, OptionError
from s3dlio.testing import S3Server
from s3dlio.torch import ResumableDistributedSampler, S3IterableDataset, S3MapDataset
from tests.patience import PROGRAM_S

COUNT = 103
METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture
def prefix(rclone: S3Server) -> Iterator[str]:
    """A bucket folder with numbered samples: the first eight bytes are the number."""
    with rclone.activate():
        root = f"s3://torch-{os.urandom(4).hex()}"
        s3dlio.create_bucket(root)
        s3dlio.put_many([(f"{root}/raw/{n:04d}.bin", n.to_bytes(8, "little") * 20) for n in range(COUNT)])
        yield f"{root}/raw/"


def number(sample: torch.Tensor) -> int:
    return int.from_bytes(bytes(sample[:8].tolist()), "little")


def numbers(batches: Any) -> list[int]:
    return [number(sample) for batch in batches for sample in batch]


def test_the_map_dataset_gives_uint8_tensors_without_warning(prefix: str) -> None:
    dataset = S3MapDataset(prefix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = dataset[5]
    assert (sample.dtype, sample.shape, number(sample)) == (torch.uint8, (160,), 5)
    sample[0] = 99  # it is the caller's own
    assert number(dataset[-1]) == COUNT - 1


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("shuffle", [False, True])
def test_map_samples_come_once(prefix: str, method: str | None, shuffle: bool) -> None:
    dataset = S3MapDataset(prefix)
    assert number(dataset[0]) == 0  # the parent has used the library before the workers start
    loader = DataLoader(
        dataset, batch_size=8, shuffle=shuffle, num_workers=2 if method else 0, multiprocessing_context=method
    )
    seen = numbers(loader)
    assert sorted(seen) == list(range(COUNT))
    if not shuffle:
        assert seen == list(range(COUNT))


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("shuffle", [False, True])
def test_iterable_samples_come_once(prefix: str, method: str | None, shuffle: bool) -> None:
    dataset = S3IterableDataset(prefix, shuffle=shuffle, seed=3)
    assert len(s3dlio.get_many(dataset.get_uris()[:3])) == 3
    loader = DataLoader(dataset, batch_size=8, num_workers=2 if method else 0, multiprocessing_context=method)
    assert Counter(numbers(loader)) == Counter(range(COUNT))
    assert len(dataset) == COUNT


def test_the_shuffled_order_depends_on_seed_and_epoch_only(prefix: str) -> None:
    dataset = S3IterableDataset(prefix, shuffle=True, seed=3)
    again = S3IterableDataset(prefix, shuffle=True, seed=3)
    first = [number(sample) for sample in dataset]
    assert first == [number(sample) for sample in again]
    dataset.set_epoch(1)
    second = [number(sample) for sample in dataset]
    assert second != first
    assert sorted(second) == sorted(first) == list(range(COUNT))


def test_persistent_workers_iterate_again(prefix: str) -> None:
    loader = DataLoader(S3IterableDataset(prefix), batch_size=16, num_workers=2, persistent_workers=True)
    for _ in range(3):
        assert sorted(numbers(loader)) == list(range(COUNT))


def test_without_sharding_every_worker_reads_everything(prefix: str) -> None:
    loader = DataLoader(S3IterableDataset(prefix, enable_sharding=False), batch_size=8, num_workers=2)
    assert Counter(numbers(loader)) == Counter(list(range(COUNT)) * 2)


def test_the_read_ahead_sampler_tells_the_dataset_and_changes_nothing(prefix: str) -> None:
    dataset = S3MapDataset(prefix)
    sampler = ResumableDistributedSampler(dataset, seed=5)
    loader = DataLoader(dataset, batch_size=10, sampler=sampler)
    first = numbers(loader)
    assert numbers(loader) == first
    sampler.set_epoch(1)
    second = numbers(loader)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert numbers(DataLoader(dataset, batch_size=10, sampler=sampler, num_workers=2)) == second


def test_a_loader_left_in_the_middle_can_be_begun_again(prefix: str) -> None:
    for dataset in (S3MapDataset(prefix), S3IterableDataset(prefix)):
        loader = DataLoader(dataset, batch_size=4)
        for _ in range(3):
            assert numbers([next(iter(loader))]) == [0, 1, 2, 3]
        assert numbers(loader) == list(range(COUNT))


def test_npz_samples_collate_to_batches_of_tensors(prefix: str) -> None:
    root = prefix.replace("/raw/", "/npz/")
    for n in range(6):
        file = io.BytesIO()
        np.savez(file, image=np.full((3, 4), n, np.float32), label=np.int64(n), big=np.arange(3, dtype=">i4"))
        s3dlio.put(f"{root}{n}.npz", file.getvalue())
    batch = next(iter(DataLoader(S3MapDataset(root, pattern="*.npz"), batch_size=6)))
    assert batch["image"].shape == (6, 3, 4)
    assert batch["label"].tolist() == list(range(6))
    assert batch["big"].tolist() == [[0, 1, 2]] * 6
    images = next(iter(DataLoader(S3IterableDataset(root, key="image"), batch_size=6)))
    assert images[:, 0, 0].tolist() == list(range(6))


def test_return_types_and_transform(prefix: str) -> None:
    assert S3MapDataset(prefix, return_type="bytes")[1] == (1).to_bytes(8, "little") * 20
    assert isinstance(S3MapDataset(prefix, return_type="view")[1], s3dlio.BytesView)
    assert S3MapDataset(prefix, transform=number)[9] == 9
    with pytest.raises(OptionError, match="did you mean 'tensor'"):
        S3MapDataset(prefix, return_type="tensors")


def test_constructors_and_loader_options(prefix: str) -> None:
    assert len(S3MapDataset.from_prefix(prefix, pattern="000*")) == 10
    few = S3IterableDataset.from_uris([f"{prefix}0002.bin", f"{prefix}0001.bin"])
    assert [number(sample) for sample in few] == [2, 1]
    both = S3IterableDataset(prefix, loader_opts={"shuffle": True, "seed": 1}, shuffle=False)
    assert [number(sample) for sample in both] == list(range(COUNT))
    with pytest.raises(OptionError, match="did you mean 'shuffle'"):
        S3IterableDataset(prefix, shufle=True)
    with pytest.raises(OptionError, match="did you mean 'seed'"):
        S3IterableDataset(prefix, loader_opts={"sed": 1})


def test_an_empty_prefix_says_so(prefix: str) -> None:
    with pytest.raises(NotFoundError, match="no objects match"):
        S3IterableDataset(prefix + "nothing/")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [S3MapDataset, S3IterableDataset])
def test_an_error_reaches_the_training_loop(prefix: str, kind: Any, workers: int) -> None:
    dataset = kind(prefix)
    s3dlio.delete(f"{prefix}0050.bin")
    batches = iter(DataLoader(dataset, batch_size=8, num_workers=workers))
    with pytest.raises(NotFoundError, match=r"0050\.bin"):
        numbers(batches)
    _let_workers_go(batches)


def _let_workers_go(batches: Any) -> None:
    """End the workers of a loader that has failed, for which torch itself would wait five seconds each."""
    if workers := getattr(batches, "_workers", ()):
        signal_handling._remove_worker_pids(id(batches))  # else torch takes their end for a crash
        batches._worker_pids_set = False
    for worker in workers:
        worker.kill()
        worker.join()


def test_workers_never_list(prefix: str) -> None:
    dataset = S3IterableDataset(prefix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s3dlio.listing.scan", lambda *_, **__: os._exit(7))
        assert sorted(numbers(DataLoader(dataset, batch_size=8, num_workers=2))) == list(range(COUNT))


def test_ranks_share_the_samples_and_pad_like_torch(prefix: str) -> None:
    """Two real torch.distributed processes, each with two workers."""
    script = textwrap.dedent("""
        import sys, torch.distributed as dist
        from torch.utils.data import DataLoader
        from s3dlio.torch import S3IterableDataset
        dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
        dataset = S3IterableDataset(sys.argv[3])
        seen = [int.from_bytes(bytes(x[:8].tolist()), "little") for batch in
                DataLoader(dataset, batch_size=8, num_workers=2, multiprocessing_context=sys.argv[4]) for x in batch]
        assert len(seen) == len(dataset)
        print(*seen)
        dist.destroy_process_group()
    """)
    for method in ("fork", "spawn"):
        meeting = f"/tmp/s3dlio-test-{os.urandom(6).hex()}"
        if method == "spawn":  # a spawned worker imports the main module again
            script = "if __name__ == '__main__':\n" + textwrap.indent(script, "    ")
        path = f"{meeting}.py"
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        ranks = [
            subprocess.Popen([sys.executable, path, meeting, str(rank), prefix, method], stdout=subprocess.PIPE)
            for rank in range(2)
        ]
        try:
            parts = [[int(word) for word in rank.communicate(timeout=PROGRAM_S)[0].split()] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
                rank.stdout.close()  # type: ignore[union-attr]
            os.unlink(path)
        assert [rank.returncode for rank in ranks] == [0, 0]
        assert len(parts[0]) == len(parts[1]) == (COUNT + 1) // 2
        assert set(parts[0]) | set(parts[1]) == set(range(COUNT))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize("packed", [False, True])
def test_batches_can_be_pinned(prefix: str, packed: bool) -> None:
    dataset = S3IterableDataset(prefix, batch_size=8, packed=packed)
    loader = DataLoader(dataset, batch_size=None if packed else 8, num_workers=2, pin_memory=True)
    assert numbers(loader) == list(range(COUNT))


class Refusal:
    """A transform that refuses one sample."""

    def __call__(self, sample: torch.Tensor) -> torch.Tensor:
        if number(sample) == 50:
            message = "not this one"
            raise ArithmeticError(message)
        return sample


@pytest.mark.parametrize("kind", [S3MapDataset, S3IterableDataset])
def test_a_transforms_error_in_a_worker_reaches_the_loop_with_its_sample(prefix: str, kind: Any) -> None:
    batches = iter(DataLoader(kind(prefix, transform=Refusal()), batch_size=8, num_workers=2))
    with pytest.raises(ArithmeticError) as caught:
        numbers(batches)
    assert "not this one" in str(caught.value)
    assert f"sample 50, {prefix}0050.bin" in str(caught.value)
    _let_workers_go(batches)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [S3MapDataset, S3IterableDataset])
def test_samples_skipped_in_workers_are_counted_in_the_trainer(prefix: str, kind: Any, workers: int) -> None:
    dataset = kind(prefix, transform=Refusal(), on_error="skip")
    s3dlio.delete(f"{prefix}0099.bin")
    seen = numbers(DataLoader(dataset, batch_size=8, num_workers=workers))
    assert sorted(seen) == [n for n in range(COUNT) if n not in (50, 99)]
    assert dataset.skipped == 2


@pytest.mark.parametrize("module", ["s3dlio.torch", "s3dlio.compat.s3torchconnector"])
def test_without_pytorch_the_room_says_what_to_install(module: str) -> None:
    script = textwrap.dedent(f"""
        import sys
        sys.modules["torch"] = None
        try:
            import {module}
        except ModuleNotFoundError as error:
            print(error.name, error)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PROGRAM_S, check=True)
    assert done.stdout == "torch this part of s3dlio needs PyTorch: pip install 's3dlio[torch]'\n"


@pytest.mark.parametrize("packed", [False, True])
def test_several_numbers_and_slices_are_read_at_once(prefix: str, packed: bool) -> None:
    dataset = S3MapDataset(prefix, packed=packed)
    for asked in ([5, -1, 0], np.array([5, 102, 0]), torch.tensor([5, 102, 0]), (5, 102, 0)):
        assert [int(sample[0]) for sample in dataset[asked]] == [5, 102, 0]
    assert [int(sample[0]) for sample in dataset[100:]] == [100, 101, 102]
    assert [int(sample[0]) for sample in dataset[:4:-50]] == [102, 52]
    assert dataset[200:] == dataset[[]] == []
    assert int(dataset[np.int64(7)][0]) == int(dataset[torch.tensor(7)][0]) == 7
    with pytest.raises(IndexError, match="sample 103 of 103"):
        dataset[[0, 103]]
    batches = DataLoader(
        dataset, batch_size=None, sampler=BatchSampler(SequentialSampler(dataset), 50, drop_last=False)
    )
    assert [len(batch) for batch in batches] == [50, 50, 3]
