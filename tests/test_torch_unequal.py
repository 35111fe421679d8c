"""Room card: samples of unequal shapes: who has them and what helps is said, whoever collates is left alone.

Knows torch's loaders.  Must not repeat what other rooms' batches show.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

from s3dlio import OptionError, TFRecordWriter
from s3dlio.torch import S3IterableDataset, S3MapDataset, collate

pytestmark = pytest.mark.filterwarnings("ignore:.*set_vital")

_COUNT = 8
#: From this sample on they are longer.
_LONGER = 5
_BATCH = 4


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """NPZ files whose ``x`` grows longer, and whose ``y`` does not."""
    for number in range(_COUNT):
        np.savez(tmp_path / f"{number}.npz", x=np.full((3, 4 if number < _LONGER else 6), number), y=np.int64(number))
    return tmp_path


def _kinds(folder: Path, **options: Any) -> dict[str, Any]:
    dataset = S3MapDataset(str(folder), **options)
    return {
        "map": dataset,
        "subset": Subset(dataset, range(_COUNT)),
        "iterable": S3IterableDataset(str(folder), **options),
    }


@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["map", "subset", "iterable"])
def test_under_torchs_own_collation_the_error_names_samples_and_option(
    arrays: Path, kind: str, workers: int, loader: Any
) -> None:
    batches = iter(loader(_kinds(arrays)[kind], batch_size=_BATCH, num_workers=workers))
    assert next(batches)["y"].tolist() == [0, 1, 2, 3]
    with pytest.raises(OptionError) as caught:
        next(batches)
    for part in ("['x']", f"(3, 4) of file://{arrays}/4.npz", f"(3, 6) of file://{arrays}/5.npz", "ragged='pad'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_records_are_told_by_their_numbers(tmp_path: Path, kind: str) -> None:
    with TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for length in (5, 5, 7):
            writer.write(bytes(length))
    with pytest.raises(
        OptionError, match=r"\(5,\) of sample [01] of .*a\.tfrecord and \(7,\) of sample 2 of .*a\.tfrecord"
    ):
        list(DataLoader(_kinds(tmp_path)[kind], batch_size=3))


@pytest.mark.parametrize("kind", ["map", "iterable"])
@pytest.mark.parametrize("made", [lambda arrays: arrays["x"], lambda arrays: (arrays["y"], [arrays["x"].numpy()])])
def test_what_a_transform_makes_is_looked_at(arrays: Path, kind: str, made: Any) -> None:
    with pytest.raises(OptionError, match=r"\(3, 4\) of .*4\.npz and \(3, 6\) of .*5\.npz"):
        list(DataLoader(_kinds(arrays, transform=made)[kind], batch_size=_BATCH))


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_batches_that_fit_by_themselves_pass(arrays: Path, kind: str) -> None:
    sizes = [len(batch["y"]) for batch in DataLoader(_kinds(arrays)[kind], batch_size=1)]
    assert sizes == [1] * _COUNT
    (arrays / "4.npz").unlink()
    (arrays / "5.npz").unlink()  # the shape changes where a batch does
    shapes = [tuple(batch["x"].shape) for batch in DataLoader(_kinds(arrays)[kind], batch_size=2)]
    assert shapes == [(2, 3, 4), (2, 3, 4), (2, 3, 6)]


@pytest.mark.parametrize("kind", ["map", "subset", "iterable"])
def test_who_collates_himself_gets_the_samples(arrays: Path, kind: str) -> None:
    batches = list(DataLoader(_kinds(arrays)[kind], batch_size=_BATCH, collate_fn=list))
    assert [len(sample["x"][0]) for batch in batches for sample in batch] == [4] * _LONGER + [6] * (_COUNT - _LONGER)
    alone = list(DataLoader(_kinds(arrays)[kind], batch_size=None))
    assert len(alone) == _COUNT


class _Cropping(Dataset[Any]):
    """Somebody's own dataset around ours, which makes the samples equal."""

    def __init__(self, inner: S3MapDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, number: int) -> Any:
        return self.inner[number]["x"][:, :4]

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [sample["x"][:, :4] for sample in self.inner.__getitems__(numbers)]


class _CroppingStream(IterableDataset[Any]):
    """Likewise, of a stream."""

    def __init__(self, inner: S3IterableDataset) -> None:
        self.inner = inner

    def __iter__(self) -> Any:
        return (sample["x"][:, :4] for sample in self.inner)


@pytest.mark.parametrize("workers", [0, 1])
def test_who_stands_between_may_make_them_equal(arrays: Path, workers: int) -> None:
    kinds = _kinds(arrays)
    for dataset in (_Cropping(kinds["map"]), _CroppingStream(kinds["iterable"])):
        batches = list(DataLoader(dataset, batch_size=_BATCH, num_workers=workers))
        assert [tuple(batch.shape) for batch in batches] == [(4, 3, 4), (4, 3, 4)]


def test_a_subclass_may_make_them_equal_too(arrays: Path) -> None:
    class Cropped(S3MapDataset):
        def __getitems__(self, numbers: Any) -> list[Any]:
            return [sample["x"][:, :4] for sample in super().__getitems__(numbers)]

    batches = list(DataLoader(Cropped(str(arrays)), batch_size=_BATCH))
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 4), (4, 3, 4)]


def test_other_faults_of_batches_stay_torchs(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=np.ones(2))
    np.savez(tmp_path / "1.npz", y=np.ones(3))
    with pytest.raises(KeyError):
        list(DataLoader(S3MapDataset(str(tmp_path)), batch_size=2))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_padding_and_listing(arrays: Path, kind: str, workers: int) -> None:
    padding = DataLoader(
        _kinds(arrays)[kind], batch_size=_BATCH, num_workers=workers, collate_fn=partial(collate, ragged="pad")
    )
    first, second = padding
    assert first["x"].shape == (4, 3, 4)
    assert second["x"].shape == (4, 3, 6)
    assert second["x"][:, 0].tolist() == [[4] * 4 + [0] * 2, [5] * 6, [6] * 6, [7] * 6]
    assert second["y"].tolist() == [4, 5, 6, 7]
    listing = DataLoader(
        _kinds(arrays)[kind], batch_size=_BATCH, num_workers=workers, collate_fn=partial(collate, ragged="list")
    )
    assert [[tuple(x.shape) for x in batch["x"]] for batch in listing] == [[(3, 4)] * 4, [(3, 4), *[(3, 6)] * 3]]


def test_padded_batches_keep_structure_and_widen_dtypes() -> None:
    samples = [(torch.ones(2, dtype=torch.int16), {"s": "a", "n": 1}), (torch.ones(1), {"s": "b", "n": 2})]
    batch = collate(samples, ragged="pad")
    assert batch[0].dtype == torch.float32
    assert batch[0].tolist() == [[1, 1], [1, 0]]
    assert batch[1]["s"] == ["a", "b"]
    assert batch[1]["n"].tolist() == [1, 2]


def test_equal_samples_are_collated_as_torch_does() -> None:
    samples = [{"x": torch.full((2, 2), number), "y": np.float32(number), "z": ("a", [number])} for number in range(3)]
    expected = default_collate(samples)
    for ragged in ("raise", "pad"):
        got = collate(samples, ragged=ragged)
        assert repr(got) == repr(expected)


def test_axes_that_differ_in_number_cannot_be_padded() -> None:
    samples = [torch.ones(2), torch.ones(2, 2)]
    with pytest.raises(OptionError, match="ragged='list'"):
        collate(samples, ragged="pad")
    assert [tensor.dim() for tensor in collate(samples, ragged="list")] == [1, 2]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(OptionError, match="did you mean"):
        collate([torch.ones(1)], ragged="pads")
