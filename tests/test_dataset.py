"""Room card: samples without a framework: what is listed, decoded, read ahead, and in which order."""

from __future__ import annotations

import gzip
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zstandard

import s3dlio
from s3dlio.dataset import Ahead, ObjectDataset
from s3dlio.errors import FormatError, NotFoundError, OptionError, UriError
from s3dlio.foresight import Foresight, Strided
from s3dlio.orders import Sequential
from s3dlio.shards import Share, walk


@pytest.fixture
def space() -> Iterator[str]:
    """A memory space with a hundred small objects."""
    prefix = f"memory://data-{threading.get_native_id()}/"
    s3dlio.put_many([(f"{prefix}raw/{number:03d}.bin", bytes([number]) * 10) for number in range(100)])
    yield prefix
    s3dlio.delete(prefix, recursive=True)


def npz(**arrays: Any) -> bytes:
    """Return an NPZ file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_samples_come_by_number_in_listing_order(space: str) -> None:
    dataset = s3dlio.create_dataset(f"{space}raw/")
    assert len(dataset) == 100
    assert dataset[7] == b"\x07" * 10
    assert dataset[-1] == dataset.get_item(99) == b"\x63" * 10
    assert dataset.get_uris()[3] == f"{space}raw/003.bin"
    assert dataset.keys()[3] == "raw/003.bin"


@pytest.mark.parametrize("number", [100, -101])
def test_a_number_outside_is_an_index_error(space: str, number: int) -> None:
    with pytest.raises(IndexError, match="of 100"):
        s3dlio.create_dataset(f"{space}raw/")[number]


def test_iteration_reads_ahead_and_keeps_the_order(space: str) -> None:
    assert [view[0] for view in s3dlio.create_dataset(f"{space}raw/")] == list(range(100))


def test_a_batch_keeps_its_own_order_and_duplicates(space: str) -> None:
    dataset = s3dlio.create_dataset(f"{space}raw/")
    assert [view[0] for view in dataset.__getitems__([5, 3, 5, -1])] == [5, 3, 5, 99]


def test_a_pattern_selects_and_nothing_matching_is_an_error(space: str) -> None:
    assert len(s3dlio.create_dataset(f"{space}raw/", pattern="00*.bin")) == 10
    with pytest.raises(NotFoundError, match="no objects match"):
        s3dlio.create_dataset(f"{space}raw/", pattern="*.png")


def test_a_list_of_uris_is_taken_as_it_is(space: str) -> None:
    dataset = ObjectDataset([f"{space}raw/002.bin", f"{space}raw/001.bin"])
    assert [view[0] for view in dataset] == [2, 1]
    with pytest.raises(UriError, match="one scheme"):
        ObjectDataset(["memory://a/b", "file:///c"])
    with pytest.raises(OptionError, match="pattern"):
        ObjectDataset([f"{space}raw/002.bin"], pattern="*")


def test_npz_and_npy_samples_are_arrays(space: str) -> None:
    s3dlio.put(f"{space}n/a.npz", npz(x=np.arange(6).reshape(2, 3), y=np.float32(1)))
    s3dlio.put(f"{space}n/b.npz", npz(x=np.arange(6).reshape(2, 3) + 1, y=np.float32(2)))
    both = s3dlio.create_dataset(f"{space}n/")
    assert set(both[0]) == {"x", "y"}
    np.testing.assert_array_equal(both[1]["x"], np.arange(6).reshape(2, 3) + 1)
    only = s3dlio.create_dataset(f"{space}n/", key="y")
    assert [float(sample) for sample in only] == [1.0, 2.0]


def test_samples_belong_to_the_caller_and_may_be_changed(space: str) -> None:
    s3dlio.put(f"{space}n/a.npz", npz(x=np.zeros(5)))
    dataset = s3dlio.create_dataset(f"{space}n/")
    dataset[0]["x"][:] = 9
    assert dataset[0]["x"].sum() == 0


def test_a_broken_sample_names_its_object(space: str) -> None:
    s3dlio.put(f"{space}n/bad.npz", b"PK nonsense")
    with pytest.raises(FormatError) as caught:
        s3dlio.create_dataset(f"{space}n/")[0]
    assert caught.value.uri == f"{space}n/bad.npz"
    assert "n/bad.npz" in str(caught.value)


def test_a_missing_array_names_the_nearest(space: str) -> None:
    s3dlio.put(f"{space}n/a.npz", npz(image=np.zeros(5)))
    with pytest.raises(FormatError, match="did you mean 'image'"):
        s3dlio.create_dataset(f"{space}n/", key="imge")[0]


def test_a_failing_transform_tells_whose_sample_it_was(space: str) -> None:
    def fail(_sample: Any) -> Any:
        message = "no"
        raise ArithmeticError(message)

    with pytest.raises(ArithmeticError) as caught:
        s3dlio.create_dataset(f"{space}raw/", transform=fail)[4]
    assert "raw/004.bin" in "".join(caught.value.__notes__)


def test_a_misspelt_format_is_refused(space: str) -> None:
    with pytest.raises(OptionError, match="did you mean 'npz'"):
        s3dlio.create_dataset(f"{space}raw/", format="nzp")


def test_an_object_that_vanishes_is_an_error_and_not_the_end(space: str) -> None:
    dataset = s3dlio.create_dataset(f"{space}raw/")
    s3dlio.delete(f"{space}raw/050.bin")
    seen: list[int] = []
    with pytest.raises(NotFoundError):
        seen.extend(view[0] for view in dataset)
    assert seen == list(range(len(seen)))


def test_pickling_keeps_the_index_and_lists_nothing(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = pickle.dumps(s3dlio.create_dataset(f"{space}raw/"))
    monkeypatch.setattr("s3dlio.listing.find", lambda *_, **__: pytest.fail("listed again"))
    assert pickle.loads(dataset)[3] == b"\x03" * 10


def test_read_ahead_stays_within_its_bytes(space: str) -> None:
    dataset = s3dlio.create_dataset(f"{space}raw/")
    way = walk(Sequential(100), Share(100))
    reads = iter(dataset.iterate(way, Ahead(max_in_flight=4, budget_bytes=30)))
    assert [next(reads)[0] for _ in range(100)] == list(range(100))


class Counting(ObjectDataset):
    """Counts the streams that foresight begins."""

    streams = 0

    def stream_groups(self, groups: Any, ahead: Ahead, token: Any = None) -> Any:
        self.streams += 1
        return super().stream_groups(groups, ahead, token)


class Told:
    """An order that is a list."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = np.array(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def samples(self, first: int, stop: int) -> Any:
        return self._numbers[first:stop]


def test_foresight_follows_sequential_batches(space: str) -> None:
    dataset = Counting(f"{space}raw/")
    foresight = Foresight(dataset, Ahead())
    taken = [foresight.take(list(range(start, start + 10))) for start in range(0, 100, 10)]
    assert [batch is not None for batch in taken] == [False, False, *[True] * 8]
    assert [sample.view[0] for batch in taken[2:] for sample in batch or []] == list(range(20, 100))
    assert dataset.streams == 1


def test_foresight_follows_one_worker_of_several(space: str) -> None:
    foresight = Foresight(Counting(f"{space}raw/"), Ahead())
    starts = range(5, 100, 15)  # every third batch of five
    taken = [foresight.take(list(range(start, start + 5))) for start in starts]
    assert [sample.view[0] for batch in taken[2:] for sample in batch or []] == [
        number for start in starts[2:] for number in range(start, start + 5)
    ]


def test_foresight_gives_up_on_the_unexpected_and_is_never_wrong(space: str) -> None:
    foresight = Foresight(Counting(f"{space}raw/"), Ahead())
    foresight.announce(Told([4, 8, 15, 16, 23, 42]))
    first = foresight.take([4, 8])
    assert [sample.view[0] for sample in first or []] == [4, 8]
    assert foresight.take([16, 15]) is None
    assert foresight.take([15, 16]) is None


@pytest.mark.parametrize(
    ("first", "stop", "length", "stride"), [(0, 10, 3, 3), (4, 25, 3, 9), (9, 9, 2, 4), (7, 8, 5, 5)]
)
def test_strided_numbers_are_those_of_a_plain_loop(first: int, stop: int, length: int, stride: int) -> None:
    plain = [n for start in range(first, stop, stride) for n in range(start, min(start + length, stop))]
    strided = Strided(first, stop, (length, stride))
    assert strided.samples(0, 1000).tolist() == plain
    assert len(strided) == len(plain)
    assert strided.samples(1, 3).tolist() == plain[1:3]


# -- compressed objects ---------------------------------------------------------------------------------


def _npy(number: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(4) + number)
    return file.getvalue()


@pytest.mark.parametrize(
    ("extension", "pack"), [(".zst", zstandard.compress), (".gz", gzip.compress), (".lz4", lz4.frame.compress)]
)
def test_compressed_objects_are_expanded_by_extension(extension: str, pack: Callable[[bytes], bytes]) -> None:
    root = f"memory://packed{extension[1:]}/"
    for number in range(3):
        s3dlio.put(f"{root}{number}.npy{extension}", pack(_npy(number)))
    found = [dataset[0] for dataset in (s3dlio.create_dataset(root), s3dlio.create_dataset(root, format="npy"))]
    assert all(np.array_equal(array, np.arange(4)) for array in found)
    assert [int(array[0]) for array in s3dlio.create_dataset(root)] == [0, 1, 2]
    assert bytes(s3dlio.create_dataset(root, format="raw")[1]) == pack(_npy(1))  # as stored, by choice


def test_a_damaged_compressed_object_is_named() -> None:
    s3dlio.put("memory://packed-bad/a.npy.gz", gzip.compress(_npy(0))[:-9])
    with pytest.raises(FormatError, match="cut short") as caught:
        s3dlio.create_dataset("memory://packed-bad/")[0]
    assert caught.value.uri == "memory://packed-bad/a.npy.gz"
