"""Room card: what the TensorFlow room yields: true specs, TensorFlow's own records, memory, iterators, errors.

Tests marked `in_tf` run in a process of their own, where no fork may happen. Training, ranks and states are in
test_tf_training, and what happens when a program ends in test_tf_door.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio.buffers import POOL
from s3dlio.errors import FormatError, NotFoundError, OptionError
from s3dlio.testing import S3Server
from tests import tf_process
from tests.patience import eventually
from tests.tf_process import HAS_TF, in_tf

if TYPE_CHECKING or HAS_TF:
    import tensorflow as tf

    from s3dlio.tf import S3TFDataset, make_tf_dataset
    from s3dlio.tf.convert import Layout

COUNT = 50


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """Ends the process with the last test."""
    yield
    tf_process.end()


@pytest.fixture
def root(rclone: S3Server) -> Iterator[str]:
    """An empty bucket."""
    with rclone.activate():
        bucket = f"s3://tf-{os.urandom(4).hex()}"
        s3dlio.create_bucket(bucket)
        yield bucket


# -- samples ------------------------------------------------------------------------------------------


def here() -> str:
    """Return a prefix in memory that is empty."""
    return f"memory://tf-{os.urandom(4).hex()}"


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def put_npz(prefix: str, make: Callable[[int], dict[str, Any]], count: int = COUNT) -> str:
    s3dlio.put_many([(f"{prefix}/{n:04d}.npz", npz(**make(n))) for n in range(count)])
    return f"{prefix}/"


def put_numbers(prefix: str, count: int = COUNT, length: int = 10) -> str:
    """Write objects of as many bytes, all of one object with its number."""
    s3dlio.put_many([(f"{prefix}/{n:04d}.bin", bytes([n]) * length) for n in range(count)])
    return f"{prefix}/"


def put_lengths(prefix: str) -> str:
    """Write objects of 0 to 5 bytes, each of them zero."""
    s3dlio.put_many([(f"{prefix}/{n}.bin", bytes(n)) for n in range(6)])
    return f"{prefix}/"


def image(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 255, (9, 7, 3), dtype=np.uint8)


def numbers(batches: Any) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch]


# -- elements and their spec --------------------------------------------------------------------------


@in_tf
def test_npz_objects_become_dicts_of_tensors(root: str) -> None:
    put_npz(root, lambda n: {"image": image(n), "label": np.int64(n), "name": f"n{n}", "half": np.float16(n)})
    dataset = s3dlio.make_tf_dataset(f"{root}/", pattern="*.npz", batch_size=16)
    assert isinstance(dataset, tf.data.Dataset)
    assert dataset.element_spec == {
        "image": tf.TensorSpec((None, 9, 7, 3), tf.uint8), "label": tf.TensorSpec((None,), tf.int64),
        "name": tf.TensorSpec((None,), tf.string), "half": tf.TensorSpec((None,), tf.float16),
    }  # fmt: skip
    assert dataset.cardinality().numpy() == 4
    seen = 0
    for batch in dataset:
        for row, label in enumerate(batch["label"].numpy()):
            assert np.array_equal(batch["image"][row], image(seen))
            assert (label, batch["name"][row].numpy(), batch["half"][row]) == (seen, b"n%d" % seen, seen)
            seen += 1
    assert seen == COUNT
    labels = make_tf_dataset(f"{root}/", key="label")
    assert [batch.shape[0] for batch in labels] == [32, 18]  # 32 unless told otherwise


@in_tf
def test_whole_batches_have_a_known_shape(root: str) -> None:
    put_numbers(root)
    for name in ("drop_last", "drop_remainder"):
        dataset = make_tf_dataset(f"{root}/", batch_size=16, **{name: True})
        assert dataset.element_spec == tf.TensorSpec((16, 10), tf.uint8)
        assert dataset.cardinality().numpy() == 3
        assert numbers(dataset) == list(range(48))


@in_tf
def test_single_samples() -> None:
    dataset = make_tf_dataset(put_numbers(here()), batch_size=None, shuffle=True, seed=3)
    assert dataset.element_spec == tf.TensorSpec((10,), tf.uint8)
    assert dataset.cardinality().numpy() == COUNT
    assert sorted(int(sample[0]) for sample in dataset) == list(range(COUNT))
    open_lengths = make_tf_dataset(put_lengths(here()), batch_size=None, as_string=False, ragged="list")
    assert open_lengths.element_spec == tf.TensorSpec((None,), tf.uint8)
    assert [len(sample) for sample in open_lengths] == list(range(6))


@in_tf
def test_objects_of_one_size_are_bytes_and_others_are_text() -> None:
    equal = make_tf_dataset(put_numbers(here()), batch_size=20)
    assert equal.element_spec == tf.TensorSpec((None, 10), tf.uint8)
    assert numbers(equal) == list(range(COUNT))
    unequal = make_tf_dataset(put_lengths(here()), batch_size=4)
    assert unequal.element_spec == tf.TensorSpec((None,), tf.string)
    assert [text for batch in unequal for text in batch.numpy()] == [bytes(n) for n in range(6)]  # zeros are kept
    told = make_tf_dataset(put_numbers(here()), as_string=True)
    assert [text for batch in told for text in batch.numpy()] == [bytes([n]) * 10 for n in range(COUNT)]


@in_tf
def test_unequal_objects_are_refused_padded_or_ragged() -> None:
    uri = put_lengths(here())
    with pytest.raises(tf.errors.OpError) as refused:
        list(make_tf_dataset(uri, as_string=False))
    for told in ("ragged='pad'", "ragged='list'", "as_string=True", uri + "1.bin"):
        assert told in str(refused.value)
    padded = make_tf_dataset(uri, as_string=False, ragged="pad", batch_size=4)
    assert padded.element_spec == tf.TensorSpec((None, None), tf.uint8)
    assert [batch.shape.as_list() for batch in padded] == [[4, 3], [2, 5]]
    ragged = make_tf_dataset(uri, as_string=False, ragged="list", batch_size=3)
    assert ragged.element_spec == tf.RaggedTensorSpec([None, None], tf.uint8, ragged_rank=1)
    assert [batch.to_list() for batch in ragged] == [[[0] * n for n in range(k, k + 3)] for k in (0, 3)]
    whole = make_tf_dataset(uri, as_string=False, ragged="list", batch_size=3, drop_last=True)
    assert whole.element_spec == tf.RaggedTensorSpec([3, None], tf.uint8, ragged_rank=1)
    assert len(list(whole)) == 2


@in_tf
def test_every_sample_is_held_to_the_spec() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"x": np.zeros(3, np.float32)}, "dtype float32"),
        ({"x": np.zeros((3, 1))}, "(3, 1)"),
        ({"y": np.zeros(3)}, "'y'"),
        ({"x": np.zeros(3), "y": np.zeros(1)}, "'x', 'y'"),
        ({"x": np.zeros(4)}, "ragged='pad'"),
    ]
    for other, told in cases:
        uri = put_npz(here(), lambda n, other=other: other if n == 7 else {"x": np.zeros(3)}, 10)
        with pytest.raises(tf.errors.OpError) as refused:
            list(make_tf_dataset(uri, batch_size=5))
        assert told in str(refused.value)
        assert f"{uri}0007.npz" in str(refused.value)


@in_tf
def test_dtypes_and_byte_orders() -> None:
    kinds = ["?", "u1", "<i2", ">i4", "<u8", ">f4", "<f8", "<c8"]
    uri = put_npz(here(), lambda n: {kind[-2:]: np.arange(3).astype(kind) * (n % 2) for kind in kinds}, 6)
    for batch in make_tf_dataset(uri, batch_size=6):
        for kind in kinds:
            want = np.stack([np.arange(3).astype(kind) * (n % 2) for n in range(6)])
            assert batch[kind[-2:]].dtype == tf.as_dtype(want.dtype.newbyteorder("="))
            assert np.array_equal(batch[kind[-2:]].numpy(), want)
    with pytest.raises(FormatError, match=r"no dtype for datetime64.*0000.npz|0000.npz.*no dtype for datetime64"):
        make_tf_dataset(put_npz(here(), lambda _: {"when": np.datetime64("2020-01-01")}, 2))


@in_tf
def test_a_transform_decides_what_a_sample_is() -> None:
    uri = put_numbers(here())
    pairs = make_tf_dataset(uri, transform=lambda body: (np.float32(body[0]), f"n{body[0]}"), batch_size=25)
    assert pairs.element_spec == (tf.TensorSpec((None,), tf.float32), tf.TensorSpec((None,), tf.string))
    values, names = zip(*[(float(v), n) for vs, ns in pairs for v, n in zip(vs, ns.numpy(), strict=True)], strict=True)
    assert list(values) == list(range(COUNT))
    assert list(names) == [b"n%d" % n for n in range(COUNT)]
    tensors = make_tf_dataset(uri, transform=lambda body: {"x": tf.constant([body[0]], tf.int32)}, batch_size=25)
    assert tensors.element_spec == {"x": tf.TensorSpec((None, 1), tf.int32)}


# -- records ------------------------------------------------------------------------------------------


def put_records(folder: str, compression: str = "") -> list[str]:
    """Write three files with TensorFlow's own writer; return their paths."""
    paths = [f"{folder}/{shard}.tfrecord" for shard in range(3)]
    for shard, path in enumerate(paths):
        with tf.io.TFRecordWriter(path, compression) as writer:
            for n in range(shard * 20, shard * 20 + 20):
                writer.write(s3dlio.encode_example({"x": [n], "y": np.float32([n, 0.5]), "name": [b"a" * n]}))
    return paths


@in_tf
def test_records_are_those_of_tensorflows_own_reader(root: str, folder: str) -> None:
    paths = put_records(folder)
    for path in paths:
        s3dlio.put(f"{root}/{os.path.basename(path)}", s3dlio.get(f"file://{path}"))
    theirs = tf.data.TFRecordDataset(paths)
    ours = s3dlio.make_tf_dataset(uri=f"{root}/", pattern="*.tfrecord", batch_size=16)
    assert ours.element_spec == tf.TensorSpec((None,), tf.string)
    assert [record for batch in ours for record in batch.numpy()] == list(theirs.as_numpy_iterator())
    single = make_tf_dataset(f"{root}/", batch_size=None)
    assert single.element_spec == theirs.element_spec
    assert list(single.as_numpy_iterator()) == list(theirs.as_numpy_iterator())
    features = {"x": tf.io.FixedLenFeature([], tf.int64), "y": tf.io.FixedLenFeature([2], tf.float32)}
    parsed = ours.map(lambda batch: tf.io.parse_example(batch, features))
    assert [int(x) for batch in parsed for x in batch["x"]] == list(range(60))
    assert [float(y) for batch in parsed for y in batch["y"][:, 0]] == list(range(60))


@in_tf
def test_compressed_records_are_read_from_their_beginning_and_in_no_other_way(folder: str) -> None:
    paths = put_records(folder, "GZIP")
    with pytest.raises(FormatError, match=r"\d\.tfrecord: the file is compressed.*compression='GZIP'") as caught:
        make_tf_dataset(f"file://{folder}/")
    ours = [bytes(record) for path in paths for record in s3dlio.iter_tfrecords(f"file://{path}", compression="GZIP")]
    assert ours == list(tf.data.TFRecordDataset(paths, "GZIP").as_numpy_iterator())
    for advice in ("s3dlio.iter_tfrecords(uri)", "s3dlio.TFRecordWriter(new_uri)"):
        assert advice in str(caught.value)
    for path in paths:  # in place: the file is replaced when it is whole
        with s3dlio.TFRecordWriter(path) as writer:
            for record in s3dlio.iter_tfrecords(path):
                writer.write(record)
    found = make_tf_dataset(f"file://{folder}/", batch_size=None)
    assert list(found.as_numpy_iterator()) == ours


@pytest.fixture
def folder(tmp_path: Any) -> str:
    """The path of an empty folder."""
    return str(tmp_path)


@in_tf
def test_the_documented_example_runs(root: str, folder: str) -> None:
    for path in put_records(folder):
        s3dlio.put(f"{root}/training-data/{os.path.basename(path)}", s3dlio.get(f"file://{path}"))
    uri = f"{root}/training-data/"
    ds = s3dlio.make_tf_dataset(uri=uri, pattern="*.tfrecord", batch_size=32, shuffle=True)
    sizes = [len(batch) for batch in ds]
    assert sizes == [32, 28]


@in_tf
def test_examples_are_decoded(folder: str) -> None:
    put_records(folder)
    dataset = make_tf_dataset(f"file://{folder}/", format="example", batch_size=16)
    assert dataset.element_spec == {
        "x": tf.TensorSpec((None, 1), tf.int64), "y": tf.TensorSpec((None, 2), tf.float32),
        "name": tf.TensorSpec((None, 1), tf.string),
    }  # fmt: skip
    seen = [(int(x[0]), float(y[0]), name) for batch in dataset
            for x, y, name in zip(batch["x"], batch["y"], batch["name"][:, 0].numpy(), strict=True)]  # fmt: skip
    assert seen == [(n, n, b"a" * n) for n in range(60)]
    only = make_tf_dataset(f"file://{folder}/", format="example", key="x")
    assert numbers(only) == list(range(60))


@in_tf
def test_features_of_unequal_lengths() -> None:
    space = here()
    with s3dlio.TFRecordWriter(f"{space}/a.tfrecord") as writer:
        for n in (1, 0, 3):
            writer.write(s3dlio.encode_example({"x": list(range(n))}))
    ragged = make_tf_dataset(f"{space}/", format="example", ragged="list")
    assert [batch["x"].to_list() for batch in ragged] == [[[0], [], [0, 1, 2]]]
    padded = make_tf_dataset(f"{space}/", format="example", ragged="pad")
    assert [batch["x"].numpy().tolist() for batch in padded] == [[[0, 0, 0], [0, 0, 0], [0, 1, 2]]]


# -- memory -------------------------------------------------------------------------------------------


@in_tf
def test_a_tensor_takes_over_the_memory_of_a_batch() -> None:
    layout = Layout(None, "raise")
    batch = np.frombuffer(POOL.take(1 << 20), np.uint8).reshape(256, 4096)
    tensor = layout.tensors(batch)
    batch[7, 9] = 77
    assert tensor[7, 9] == 77
    single = Layout(None, "raise", single=True).tensors(batch)
    batch[7, 9] = 0
    assert single[7, 9] == 77


@pytest.mark.parametrize("kind", ["raw", "npz"])
@in_tf
def test_batches_that_are_kept_are_never_written_to(kind: str) -> None:
    space = here()
    bodies = [np.random.default_rng(n).integers(0, 255, 40_000, dtype=np.uint8) for n in range(120)]
    for n, body in enumerate(bodies):
        s3dlio.put(f"{space}/{n:04d}.{kind}", body if kind == "raw" else npz(x=body))
    batches = make_tf_dataset(f"{space}/", format=kind, key="x" if kind == "npz" else None, batch_size=2)
    POOL.clear()
    kept = []
    for turn in range(6):  # memory of batches that were let go is used again beside what is kept
        for number, batch in enumerate(batches.prefetch(3)):
            if turn == 0 and number < 50:
                kept += [batch, batch[1]]
    for number in range(50):
        assert np.array_equal(kept[2 * number], bodies[2 * number : 2 * number + 2])
        assert np.array_equal(kept[2 * number + 1], bodies[2 * number + 1])


@in_tf
def test_memory_of_batches_that_were_let_go_is_used_again() -> None:
    uri = put_numbers(here(), 200, 40_000)
    POOL.clear()
    addresses = {batch.numpy().ctypes.data for batch in make_tf_dataset(uri, batch_size=2)}
    assert len(addresses) <= 16  # in use, ready, in the making, and on their way back


# -- iterators ----------------------------------------------------------------------------------------


@in_tf
def test_it_is_as_any_other_dataset() -> None:
    dataset = make_tf_dataset(put_numbers(here()), batch_size=20)
    firsts = dataset.map(lambda batch: batch[:, 0], num_parallel_calls=tf.data.AUTOTUNE)
    assert [int(n) for batch in firsts.prefetch(tf.data.AUTOTUNE) for n in batch] == list(range(COUNT))
    assert sorted(int(n) for n in firsts.unbatch().shuffle(30)) == list(range(COUNT))
    assert numbers(dataset.repeat(2)) == 2 * list(range(COUNT))
    assert numbers(dataset.repeat().take(4)) == [*range(COUNT), *range(20)]
    assert numbers(dataset.skip(1).take(1)) == list(range(20, 40))
    assert numbers(dataset.unbatch().batch(7)) == list(range(COUNT))
    for made, count in ((dataset, 3), (dataset.repeat(2), 6), (dataset.take(2), 2), (firsts.prefetch(1), 3)):
        assert tf.data.experimental.cardinality(made).numpy() == count
    assert dataset.repeat().cardinality().numpy() == tf.data.INFINITE_CARDINALITY

    @tf.function
    def total(batches: Any) -> Any:
        sum_of = tf.constant(0)
        for batch in batches:
            sum_of += tf.reduce_sum(tf.cast(batch[:, 0], tf.int32))
        return sum_of

    assert total(dataset) == sum(range(COUNT))


@in_tf
def test_several_iterators_at_once() -> None:
    dataset = make_tf_dataset(put_numbers(here()), batch_size=5)
    pairs = zip(dataset, dataset, dataset.prefetch(2), strict=True)
    assert [numbers(three) for three in pairs] == [3 * list(range(n, n + 5)) for n in range(0, COUNT, 5)]
    threads_saw: list[list[int]] = []
    threads = [threading.Thread(target=lambda: threads_saw.append(numbers(dataset))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert threads_saw == 4 * [list(range(COUNT))]


def put_counting(prefix: str, seen: list[int]) -> Any:
    """Return a dataset of single objects, whose transform notes what has been read."""
    return make_tf_dataset(
        put_numbers(prefix, 200), batch_size=1, transform=lambda body: seen.append(body[0]) or np.asarray(body)
    )


@in_tf
def test_elements_are_made_ahead_and_not_many() -> None:
    seen: list[int] = []
    iterator = iter(put_counting(here(), seen))
    del seen[:]  # the first one tells what the elements are
    next(iterator)
    eventually(lambda: len(seen) >= 2)
    time.sleep(0.05)
    assert len(seen) <= 4  # in use, ready, and one that waits to be


@pytest.mark.parametrize("ahead", [0, 4])
@in_tf
def test_an_iterator_that_is_dropped_stops_its_readers(ahead: int) -> None:
    seen: list[int] = []
    dataset = put_counting(here(), seen)
    before = threading.active_count()
    iterator = iter(dataset.prefetch(ahead) if ahead else dataset)
    for _ in range(3):
        next(iterator)
    del iterator
    drawn = len(seen)
    eventually(lambda: threading.active_count() <= before + 128)
    time.sleep(0.05)
    assert len(seen) <= drawn + 2
    assert len(seen) < 20


# -- errors -------------------------------------------------------------------------------------------


@in_tf
def test_an_error_says_what_and_where() -> None:
    uri = put_numbers(here())
    dataset = make_tf_dataset(uri, batch_size=8)
    s3dlio.delete(f"{uri}0030.bin")
    seen: list[int] = []
    with pytest.raises(tf.errors.OpError) as failed:
        seen.extend(n for batch in dataset for n in numbers([batch]))
    assert "NotFoundError" in str(failed.value)
    assert f"{uri}0030.bin" in str(failed.value)
    assert seen == list(range(len(seen)))  # all reading stops at once: maybe before batches that came first
    assert len(seen) <= 24

    def refuse(body: Any) -> Any:
        if body[0] == 11:
            msg = "it is eleven"
            raise ValueError(msg)
        return body[0]

    with pytest.raises(tf.errors.OpError, match="it is eleven"):
        list(make_tf_dataset(put_numbers(here()), batch_size=8, transform=refuse).prefetch(2))


@in_tf
def test_damaged_samples_can_be_left_out() -> None:
    space = here()
    put_npz(space, lambda n: {"x": np.int64(n)}, 12)
    for number in (0, 5, 8, 9, 10, 11):
        s3dlio.put(f"{space}/{number:04d}.npz", b"damaged")
    source = S3TFDataset(f"{space}/", on_error="skip", batch_size=4)
    assert source.element_spec == {"x": tf.TensorSpec((None,), tf.int64)}
    assert source.skipped == 0
    assert [batch["x"].numpy().tolist() for batch in source.dataset()] == [[1, 2, 3], [4, 6, 7]]
    assert source.skipped == 6
    with pytest.raises(tf.errors.OpError, match=r"000[58]\.npz"):
        list(make_tf_dataset([f"{space}/{n:04d}.npz" for n in (1, 5, 8)], batch_size=1))
    with pytest.raises(FormatError, match=r"no sample that can be read"):
        make_tf_dataset([f"{space}/{n:04d}.npz" for n in (0, 5, 8)], on_error="skip")


@in_tf
def test_a_first_sample_that_is_damaged_is_told_at_once() -> None:
    space = here()
    s3dlio.put(f"{space}/a.npz", b"no zip")
    with pytest.raises(FormatError, match=r"a\.npz"):
        make_tf_dataset(f"{space}/")
    with pytest.raises(NotFoundError):
        make_tf_dataset(f"{here()}/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sise": 3}, "no option 'batch_sise'.*batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": None, "drop_last": True}, "drop_last=True goes with batches"),
        ({"rank": 1}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "not within"),
        ({"ragged": "padd"}, "pad"),
        ({"shuffle": "globl"}, "global"),
        ({"uneven": "dropp"}, "drop"),
        ({"loader_opts": {"seeed": 3}}, "seed"),
        ({"on_error": "ignore"}, "skip"),
    ],
)
@in_tf
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_tf_dataset(put_numbers(here(), 3), **options)


@in_tf
def test_keywords_win_over_a_mapping_of_options() -> None:
    uri = put_numbers(here())
    dataset = make_tf_dataset(uri, batch_size=25, loader_opts={"batch_size": 10, "drop_remainder": True})
    assert dataset.element_spec == tf.TensorSpec((25, 10), tf.uint8)
    listed = make_tf_dataset([f"{uri}0004.bin", f"{uri}0002.bin"], as_string=False)
    assert numbers(listed) == [4, 2]


@in_tf
def test_constructors() -> None:
    uri = put_numbers(here())
    assert numbers(S3TFDataset.from_prefix(uri, batch_size=7)) == list(range(COUNT))
    assert numbers(S3TFDataset.from_uris(iter([f"{uri}0003.bin", f"{uri}0001.bin"]), as_string=False)) == [3, 1]
    manifest = f"{here()}/manifest"
    S3TFDataset(uri).samples.save_manifest(manifest)
    source = S3TFDataset.from_manifest(manifest, transform=lambda body: np.asarray(body)[:1], batch_size=10)
    assert numbers(source) == list(range(COUNT))
    assert len(source) == 5
    assert str(COUNT) in repr(source)
