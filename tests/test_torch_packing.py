"""Room card: batches that lie in one tensor: the same bytes as collated ones, without the copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from s3dlio.errors import OptionError, TFRecordError
from s3dlio.tfrecords import TFRecordWriter
from s3dlio.torch import S3IterableDataset, S3MapDataset, collate
from s3dlio.torch.packing import Packing, stack

COUNT, SIZE = 50, 40_000


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Samples of one size, as objects and as records."""
    folder = tmp_path_factory.mktemp("packed")
    for kind in ("raw", "tfr", "odd"):
        (folder / kind).mkdir()
    rows = np.random.default_rng(1).integers(0, 256, (COUNT, SIZE), np.uint8)
    for number, row in enumerate(rows):
        (folder / "raw" / f"{number:03d}.bin").write_bytes(row.tobytes())
        (folder / "odd" / f"{number:03d}.bin").write_bytes(row[: SIZE - number].tobytes())
    with (
        TFRecordWriter(str(folder / "tfr" / "a.tfrecord")) as one,
        TFRecordWriter(str(folder / "tfr" / "b.tfrecord")) as two,
    ):
        for number, row in enumerate(rows):
            (one if number < 30 else two).write(row.tobytes())
    return {kind: f"file://{folder}/{kind}/" for kind in ("raw", "tfr", "odd")}


@pytest.fixture(scope="module")
def truth(roots: dict[str, str]) -> torch.Tensor:
    """All samples, one a row."""
    return default_collate(list(S3MapDataset(roots["raw"])))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def npy_and_raw(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A raw object, and beside it one of the same size that holds an array of as many numbers."""
    folder = tmp_path_factory.mktemp("mixed")
    np.save(folder / "b.npy", np.arange(16, dtype=np.uint8))
    (folder / "a.bin").write_bytes(b"x" * (folder / "b.npy").stat().st_size)
    return f"file://{folder}/"


def test_what_is_decoded_is_decoded_when_packed_too(npy_and_raw: str) -> None:
    expected = [sample.tolist() for sample in S3MapDataset(npy_and_raw)]
    assert [sample.tolist() for sample in S3MapDataset(npy_and_raw, packed=True).__getitems__([1, 1])] == [
        expected[1],
        expected[1],
    ]
    batches = S3IterableDataset(npy_and_raw, packed=True, batch_size=1)
    assert [batch[0].tolist() for batch in batches] == expected


def test_an_object_beside_files_of_records_keeps_its_ends_when_packed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"y" * 20)  # as long as a record of four bytes with its frame
    with TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"spam")
    where = f"file://{tmp_path}/"
    expected = [b"y" * 20, b"spam"]
    assert [bytes(row.tolist()) for row in S3MapDataset(where, packed=True).__getitems__([0, 1])] == expected
    batches = S3IterableDataset(where, packed=True, batch_size=1)
    assert [bytes(batch[0].tolist()) for batch in batches] == expected


@pytest.mark.parametrize("kind", ["raw", "tfr"])
@pytest.mark.parametrize("workers", [0, 2])
def test_packed_map_batches_are_the_collated_ones(
    roots: dict[str, str], truth: torch.Tensor, kind: str, workers: int
) -> None:
    dataset = S3MapDataset(roots[kind], packed=True)
    batches = list(DataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=collate))
    assert torch.equal(torch.cat(batches), truth)
    assert all(batch.storage_offset() in (0, 12) for batch in batches)
    # With any other collation they are samples like all others.
    assert torch.equal(torch.cat(list(DataLoader(dataset, batch_size=8))), truth)


@pytest.mark.parametrize("kind", ["raw", "tfr"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_packed_iterable_batches_are_the_collated_ones(
    roots: dict[str, str], truth: torch.Tensor, kind: str, workers: int, drop_last: bool
) -> None:
    dataset = S3IterableDataset(roots[kind], packed=True, batch_size=8, drop_last=drop_last)
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert len(batches) == len(dataset) == (6 if drop_last else 7)
    assert torch.equal(torch.cat(batches), truth[:48] if drop_last else truth)


def test_collating_a_packed_batch_copies_nothing(roots: dict[str, str]) -> None:
    rows = S3MapDataset(roots["raw"], packed=True).__getitems__(list(range(8)))
    assert collate(rows).data_ptr() == rows[0].data_ptr()
    records = S3MapDataset(roots["tfr"], packed=True).__getitems__([5, 3, 40, 3])
    batch = collate(records)
    assert batch.data_ptr() == records[0].data_ptr()
    assert batch.shape == (4, SIZE)
    assert torch.equal(batch[1], batch[3])


def test_a_worker_reads_into_memory_that_it_shares(roots: dict[str, str]) -> None:
    dataset = S3MapDataset(roots["raw"], packed=True)
    (batch, *_) = DataLoader(dataset, batch_size=8, num_workers=1, collate_fn=collate)
    assert batch.is_shared()


def test_npz_batches_come_collated(tmp_path: Path) -> None:
    for number in range(10):
        np.savez(tmp_path / f"{number}.npz", x=np.full((2, 3), number), y=np.int64(number))
    dataset = S3IterableDataset(f"file://{tmp_path}/", packed=True, batch_size=4)
    batches = list(DataLoader(dataset, batch_size=None))
    assert [batch["y"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0]["x"].shape == (4, 2, 3)


def test_samples_of_unequal_size_name_the_way_out(roots: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=r"collate_fn=.*ragged='pad'"):
        list(S3IterableDataset(roots["odd"], packed=True, batch_size=8))
    rows = S3MapDataset(roots["odd"], packed=True).__getitems__([0, 9])
    assert [len(row) for row in rows] == [SIZE, SIZE - 9]
    with pytest.raises(OptionError, match="ragged='pad'"):
        collate(rows)


@pytest.mark.parametrize(("options", "said"), [
    ({}, "batch_size="), ({"batch_size": 0}, "at least 1"), ({"batch_size": 2, "return_type": "bytes"}, "return_type"),
    ({"batch_size": 2, "on_error": "skip"}, "on_error"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(roots: dict[str, str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        S3IterableDataset(roots["raw"], packed=True, **options)


def test_sizes_that_are_not_known_are_asked_for_by_name(roots: dict[str, str]) -> None:
    dataset = S3MapDataset(S3MapDataset(roots["raw"]).get_uris(), packed=True)
    with pytest.raises(OptionError, match="of a prefix"):
        dataset.__getitems__([1, 2])


def test_a_damaged_record_is_found_in_a_packed_batch_too(tmp_path: Path) -> None:
    with TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for number in range(10):
            writer.write(bytes([number]) * 100)
    data = bytearray((tmp_path / "a.tfrecord").read_bytes())
    data[3 * 116 + 50] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(data)
    with pytest.raises(TFRecordError, match="348"):
        S3MapDataset(f"file://{tmp_path}/", packed=True).__getitems__([1, 3])
    with pytest.raises(TFRecordError, match="348"):
        list(S3IterableDataset(f"file://{tmp_path}/", packed=True, batch_size=5))


def test_rows_that_do_not_lie_evenly_are_not_taken_for_a_batch() -> None:
    memory = torch.arange(40, dtype=torch.uint8)
    even = [memory[0:5], memory[10:15], memory[20:25]]
    assert torch.equal(stack(even), torch.stack(even))  # type: ignore[arg-type]
    for odd in ([memory[0:5], memory[10:15], memory[19:24]], [memory[5:10], memory[0:5]],
                [memory[0:5], memory[3:8]], [memory[0:5], torch.zeros(5, dtype=torch.uint8)]):  # fmt: skip
        assert stack(odd) is None
        assert torch.equal(collate(odd), torch.stack(odd))


def test_a_packing_of_nothing_is_empty() -> None:
    packing = Packing()
    assert len(packing.allocate(0)) == 0
    assert packing.rows([], (0, 0)) == []
