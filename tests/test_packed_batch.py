"""Room card: a batch as a sequence of samples and as one buffer.

Knows `s3dlio.packed`.  Must not know loaders.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.buffers import POOL, BytesView, bytes_of
from s3dlio.errors import OptionError
from s3dlio.packed import PackedBatch

SAMPLES = [b"spam", b"", b"eggs and bacon", b"x"]
ALL = b"".join(SAMPLES)


@pytest.fixture
def batch() -> PackedBatch:
    return PackedBatch.of_views(SAMPLES, [f"memory://d/{n}" for n in range(len(SAMPLES))])


def test_it_is_a_sequence_of_views(batch: PackedBatch) -> None:
    assert isinstance(batch, Sequence)
    assert len(batch) == 4
    assert list(batch) == SAMPLES
    assert list(reversed(batch)) == SAMPLES[::-1]
    assert (batch[0], batch[-1], batch[np.int64(2)]) == (b"spam", b"x", b"eggs and bacon")
    assert all(isinstance(view, BytesView) for view in batch)
    assert b"spam" in batch
    assert b"ham" not in batch
    assert (batch.index(b"x"), batch.count(b""), batch.count(b"ham")) == (3, 1, 0)
    assert (batch.sizes, batch.offsets) == ([4, 0, 14, 1], [0, 4, 4, 18])
    assert batch.uris[2] == "memory://d/2"
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            batch[wrong]
    with pytest.raises(ValueError, match="not in list"):
        batch.index(b"ham")


def test_it_is_bytes_like(batch: PackedBatch) -> None:
    assert memoryview(batch) == ALL
    assert memoryview(batch).nbytes == batch.nbytes == len(ALL)
    assert np.frombuffer(batch, np.uint8).tobytes() == bytes(batch) == batch.to_bytes() == ALL
    assert np.asarray(batch).shape == (len(ALL),)
    assert hashlib.sha256(batch).digest() == hashlib.sha256(ALL).digest()
    assert zlib.crc32(batch) == zlib.crc32(ALL)
    assert b"".join([batch, b"!"]) == ALL + b"!"
    file = io.BytesIO()
    file.write(batch)
    assert file.getvalue() == ALL


def test_everything_shares_its_memory() -> None:
    lease = POOL.take(100_000)
    batch = PackedBatch.of_memory(lease, [60_000, 40_000])
    array, views, part = np.frombuffer(batch, np.uint8), list(batch), batch[1:]
    lease[60_000] = 200
    lease[5] = 100
    assert (array[60_000], views[1][0], part[0][0], memoryview(batch)[60_000]) == (200,) * 4
    assert np.shares_memory(np.asarray(views[0]), lease)
    del lease, batch, array, part
    assert views[0][5] == 100  # the last view of it keeps it


def test_it_is_read_only_unless_asked(batch: PackedBatch) -> None:
    with pytest.raises(TypeError):
        memoryview(batch)[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        np.frombuffer(batch, np.uint8)[0] = 1
    batch.memoryview(writable=True)[0] = ord("S")
    assert batch[0] == b"Spam"
    assert batch.memoryview().readonly
    for shared in (batch[1:], PackedBatch.of_memory(b"abc", [3])):
        with pytest.raises(OptionError, match="copy it"):
            shared.memoryview(writable=True)


def test_a_slice_is_a_batch_of_neighbours(batch: PackedBatch) -> None:
    part = batch[1:3]
    assert isinstance(part, PackedBatch)
    assert bytes(part) == b"eggs and bacon"
    assert (list(part), part.uris) == (SAMPLES[1:3], ["memory://d/1", "memory://d/2"])
    assert part[1:] == [b"eggs and bacon"]
    assert list(batch[3:1]) == []
    with pytest.raises(OptionError, match="neighbours"):
        batch[::2]


def test_it_compares_with_batches_lists_and_bytes(batch: PackedBatch) -> None:
    assert batch == PackedBatch.of_views(SAMPLES) == SAMPLES
    assert batch == ALL
    assert batch == tuple(SAMPLES)
    assert batch != PackedBatch.of_views([ALL])
    assert batch != SAMPLES[:3]
    assert batch != ALL[1:]
    assert batch != 7
    with pytest.raises(TypeError):
        hash(batch)


def test_it_can_be_copied_and_pickled(batch: PackedBatch) -> None:
    for other in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert isinstance(other, PackedBatch)
        assert other == batch
        assert other.uris == batch.uris
    assert not np.shares_memory(np.asarray(copy.deepcopy(batch)), np.asarray(batch))
    assert repr(batch) == str(batch) == "PackedBatch(4 samples, 19 bytes)"


def test_an_empty_batch_is_empty() -> None:
    none, nothing = PackedBatch.of_views([]), PackedBatch.of_views([b"", b""])
    assert (len(none), bool(none), bytes(none), none.offsets) == (0, False, b"", [])
    assert (len(nothing), bool(nothing), bytes(nothing), nothing.sizes) == (2, True, b"", [0, 0])


def test_what_is_not_bytes_is_refused_with_advice() -> None:
    with pytest.raises(OptionError, match="a sample is dict, and a batch is of bytes"):
        PackedBatch.of_views([b"x", {"x": 1}])  # type: ignore[list-item]


def test_arithmetic_is_a_mistake(batch: PackedBatch) -> None:
    with pytest.raises(TypeError):
        batch + 1


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(-15, 15), st.integers(-15, 15))
def test_it_behaves_as_a_list_of_bytes(samples: list[bytes], first: int, stop: int) -> None:
    batch = PackedBatch.of_views(samples)
    assert list(batch) == samples
    assert list(batch[first:stop]) == samples[first:stop]
    assert bytes(batch[first:stop]) == b"".join(samples[first:stop])
    assert bytes_of(batch) == b"".join(samples)
    if -len(samples) <= first < len(samples):
        assert batch[first] == samples[first]


def test_a_tensor_shares_its_memory() -> None:
    torch = pytest.importorskip("torch")
    batch = PackedBatch.of_views([bytes(range(100)), bytes(range(100, 200))])
    tensor = torch.frombuffer(batch.memoryview(writable=True), dtype=torch.uint8)
    tensor[100] = 7
    assert batch[1][0] == 7
