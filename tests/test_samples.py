"""Room card: samples within objects: indexes, groups read together, manifests, and what changes behind one's back."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.buffers import BytesView
from s3dlio.catalog import Catalog
from s3dlio.dataset import Ahead, ObjectDataset
from s3dlio.errors import FormatError, NotFoundError, ObjectChangedError, OptionError, TFRecordError, UriError
from s3dlio.gather import MAX_GAP_BYTES, Group
from s3dlio.options import StoreOptions
from s3dlio.orders import epoch_order
from s3dlio.samples import Records, SampleIndex
from s3dlio.shards import Share, walk
from s3dlio.tfrecords import TFRecordWriter
from tests.servers.faults import FaultOrigin, s3_error

FILES, RECORDS = 3, 40


def record(number: int) -> bytes:
    return number.to_bytes(4, "little") * (5 + number % 7)


def fill(prefix: str, *, index: Any = (1,), options: StoreOptions | None = None) -> list[bytes]:
    """Write files of numbered records; some have their index beside them."""
    truth = []
    for file in range(FILES):
        with TFRecordWriter(f"{prefix}{file}.tfrecord", index=file in index, options=options) as writer:
            for number in range(file * RECORDS, (file + 1) * RECORDS):
                truth.append(record(number))
                writer.write(truth[-1])
    return truth


@pytest.fixture
def space() -> Iterator[str]:
    """An empty place in memory."""
    prefix = f"memory://samples-{np.random.default_rng().integers(1 << 60)}/t/"
    yield prefix
    s3dlio.delete(prefix, recursive=True)


# -- records as samples -------------------------------------------------------------------------------


def test_each_record_is_a_sample(space: str) -> None:
    truth = fill(space)
    dataset = ObjectDataset(space)
    assert len(dataset) == len(truth)
    assert list(dataset) == truth
    assert dataset[57] == truth[57]
    assert dataset[-1] == truth[-1]
    assert dataset.__getitems__([5, 100, 5, 99, 4]) == [truth[n] for n in (5, 100, 5, 99, 4)]
    assert dataset.keys() == ["t/0.tfrecord", "t/1.tfrecord", "t/2.tfrecord"]  # and not the index
    assert dataset.uri_of(41) == f"{space}1.tfrecord"


@pytest.mark.parametrize("shuffle", ["none", "global", "block"])
def test_every_record_comes_once_in_every_order(space: str, shuffle: str) -> None:
    truth = fill(space)
    dataset = ObjectDataset(space)
    order = epoch_order(len(truth), shuffle=shuffle, seed=1, buffer=64)
    seen = list(dataset.iterate(walk(order, Share(len(truth))), Ahead(4, 100)))
    assert seen == [truth[number] for number in order.at(np.arange(len(truth)))]


def test_a_record_that_is_wanted_twice_comes_as_two(space: str) -> None:
    fill(space)
    one, two = ObjectDataset(space).__getitems__([7, 7])
    one.memoryview(writable=True)[0] = 255
    assert one != two
    assert two == record(7)


def test_records_and_objects_go_together(space: str) -> None:
    truth = fill(space, index=())
    s3dlio.put(f"{space}1b.bin", b"raw")
    array = io.BytesIO()
    np.save(array, np.arange(3))
    s3dlio.put(f"{space}9.npy", array.getvalue())
    samples = list(ObjectDataset(space))
    assert samples[:-1] == [*truth[: 2 * RECORDS], b"raw", *truth[2 * RECORDS :]]
    assert samples[-1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("index", [True, False])
def test_a_file_without_records_has_no_samples(space: str, index: bool) -> None:
    for name, records in (("a", []), ("b", [b"spam", b"eggs"]), ("c", []), ("d", [b"ham"])):
        with TFRecordWriter(f"{space}{name}.tfrecord", index=index) as writer:
            for data in records:
                writer.write(data)
    dataset = ObjectDataset(space)
    assert [bytes(sample) for sample in dataset] == [b"spam", b"eggs", b"ham"]
    assert dataset.uri_of(2) == f"{space}d.tfrecord"
    assert bytes(dataset[-1]) == b"ham"
    dataset.save_manifest(f"{space}kept.npz")
    assert len(ObjectDataset.from_manifest(f"{space}kept.npz")) == 3
    none = ObjectDataset(space, pattern="a.tfrecord")
    assert (len(none), list(none)) == (0, [])
    with pytest.raises(IndexError):
        none[0]


def test_examples_are_decoded(space: str) -> None:
    from s3dlio.formats.example_writing import encode_example

    with TFRecordWriter(f"{space}a.tfrecord") as writer:
        for number in range(3):
            writer.write(encode_example({"x": np.float32([number, 0.5]), "y": [number]}))
    samples = list(ObjectDataset(space, format="example"))
    assert [sample["y"].tolist() for sample in samples] == [[0], [1], [2]]
    assert ObjectDataset(space, format="example", key="x")[2].tolist() == [2.0, 0.5]


def test_one_record_among_many_is_one_small_request(origin: FaultOrigin) -> None:
    options = StoreOptions(
        endpoint_url=origin.endpoint_url, access_key_id="AKID", secret_access_key="secret", region="us-east-1"
    )
    fill("memory://one-record/t/", index=(0, 1, 2))
    for uri in s3dlio.list("memory://one-record/t/"):
        origin.objects["/bucket/" + uri.rpartition("/")[2]] = s3dlio.get(uri).to_bytes()
    uris = [f"s3://bucket/{file}.tfrecord" for file in range(FILES)]
    dataset = ObjectDataset(uris, options=options)
    del origin.requests[:]
    assert dataset[57] == record(57)
    (request,) = origin.requests
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    assert int(last) + 1 - int(first) == len(record(57)) + 16


def test_neighbours_come_with_one_request_and_little_waste(space: str) -> None:
    size = MAX_GAP_BYTES // 3
    with TFRecordWriter(f"{space}a.tfrecord") as writer:
        for number in range(40):
            writer.write(bytes([number]) * size)
    index = ObjectDataset(space).samples
    group = Group(index, np.array([0, 1, 2, 5, 20, 21, 39]))
    assert len(group.reads) == 3  # up to 5, although 3 and 4 are not wanted; 20 and 21; 39
    wanted = 7 * (size + 16)
    assert sum(read.size for read in group.reads) == wanted + 2 * (size + 16)


@given(st.lists(st.integers(0, FILES * RECORDS - 1), max_size=30))
def test_any_batch_is_right_packed_or_not(wanted: list[int]) -> None:
    dataset = _shared()
    assert dataset.__getitems__(wanted) == [record(number) for number in wanted]
    if not wanted:
        return
    group = Group(dataset.samples, np.array(wanted), lambda length: memoryview(bytearray(length)))
    for view in dataset._fetcher().read_all(group.reads):
        group.put(view)
    assert group.memory is not None
    frames = [BytesView.from_bytes(frame)[12:-4] for frame in _cut(group.memory, group.sizes)]
    assert frames == [record(number) for number in wanted]


def _shared() -> ObjectDataset:
    if not s3dlio.exists("memory://shared-samples/t/0.tfrecord"):
        fill("memory://shared-samples/t/")
    return ObjectDataset("memory://shared-samples/t/")


def _cut(memory: memoryview, sizes: list[int]) -> Iterator[memoryview]:
    at = 0
    for size in sizes:
        yield memory[at : at + size]
        at += size


def test_a_hundred_million_records_fit() -> None:
    """Twelve bytes each, and finding one takes no copy of them."""
    count = 1_000_000  # a hundredth of it
    tracemalloc.start()
    try:
        offsets = np.arange(count, dtype=np.int64) * 116
        index = SampleIndex(
            Catalog.of_names("s3", [("b", f"{n}") for n in range(100)], [116 * count // 100] * 100),
            Records(np.arange(101, dtype=np.int64) * (count // 100), offsets, np.full(count, 116, np.uint32)),
        )
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        found = index.locate(np.arange(0, count, count // 32))
        assert tracemalloc.get_traced_memory()[1] - before < 100_000
        assert before < 13 * count
    finally:
        tracemalloc.stop()
    assert found.objects.tolist() == [number // 10_000 for number in range(0, count, count // 32)]


# -- damaged and unfit --------------------------------------------------------------------------------


def test_a_damaged_record_is_told_with_its_file_and_offset(space: str) -> None:
    fill(space, index=())
    data = bytearray(s3dlio.get(f"{space}1.tfrecord"))
    at = len(record(40)) + 16 + 12
    data[at] ^= 1
    s3dlio.put(f"{space}1.tfrecord", data)
    dataset = ObjectDataset(space)
    with pytest.raises(TFRecordError, match=f"{at - 12}") as caught:
        dataset[41]
    assert caught.value.uri == f"{space}1.tfrecord"


def test_damaged_and_missing_samples_are_skipped_and_counted_if_asked_for(
    space: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(space, index=())
    data = bytearray(s3dlio.get(f"{space}1.tfrecord"))
    data[len(record(40)) + 16 + 12] ^= 1
    s3dlio.put(f"{space}1.tfrecord", data)
    dataset = ObjectDataset(space, on_error="skip")
    s3dlio.delete(f"{space}2.tfrecord")
    assert list(dataset) == [record(number) for number in range(2 * RECORDS) if number != 41]
    assert dataset.skipped == 1 + RECORDS
    assert "skipped sample 41" in caplog.text
    assert dataset.__getitems__([40, 41, 100]) == [record(40)]
    with pytest.raises(NotFoundError):
        list(ObjectDataset(dataset.get_uris()[2:]))


def test_a_store_that_refuses_is_not_skipped(origin: FaultOrigin) -> None:
    options = StoreOptions(
        endpoint_url=origin.endpoint_url, access_key_id="AKID", secret_access_key="s", region="us-east-1"
    )
    origin.objects |= {f"/bucket/{number}": b"x" for number in range(5)}
    origin.plan_all(*[s3_error(403, "AccessDenied")] * 50)
    with pytest.raises(PermissionError):
        list(ObjectDataset([f"s3://bucket/{number}" for number in range(5)], on_error="skip", options=options))


def test_a_failing_transform_is_skipped_if_asked_for(space: str) -> None:
    fill(space)

    def even(sample: BytesView) -> int:
        if sample[0] % 2:
            message = "odd"
            raise ArithmeticError(message)
        return int(sample[0])

    dataset = ObjectDataset(space, transform=even, on_error="skip")
    assert list(dataset) == list(range(0, FILES * RECORDS, 2))
    assert dataset.skipped == FILES * RECORDS // 2


def test_an_index_of_another_file_is_told(space: str) -> None:
    fill(space, index=())
    s3dlio.put(f"{space}0.tfrecord.idx", b"0 99999999\n")
    with pytest.raises(TFRecordError, match="behind the end") as caught:
        ObjectDataset(space)
    assert caught.value.uri == f"{space}0.tfrecord.idx"


def test_an_object_that_was_replaced_since_it_was_listed_is_told(space: str) -> None:
    for number in range(5):
        s3dlio.put(f"{space}{number}.bin", b"12345")
    dataset = ObjectDataset(space)
    s3dlio.put(f"{space}3.bin", b"1234567")
    for read in (lambda: dataset[3], lambda: dataset.__getitems__([2, 3]), lambda: list(dataset)):
        with pytest.raises(ObjectChangedError, match=r"listed|list anew"):
            read()
    assert str(dataset.changes()) == f"1 changed ({space}3.bin)"


# -- manifests ----------------------------------------------------------------------------------------


def test_a_manifest_stands_in_for_listing_and_indexing(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = fill(space)
    dataset = ObjectDataset(space)
    dataset.save_manifest("memory://manifests/m.npz")
    monkeypatch.setattr("s3dlio.listing.find", lambda *_, **__: pytest.fail("listed"))
    monkeypatch.setattr("s3dlio.indexing.index_of", lambda *_, **__: pytest.fail("indexed"))
    again = ObjectDataset.from_manifest("memory://manifests/m.npz")
    assert list(again) == truth
    assert again.samples.fingerprint() == dataset.samples.fingerprint()
    assert list(pickle.loads(pickle.dumps(again)))[-1] == truth[-1]


def test_numpy_opens_a_manifest(space: str) -> None:
    fill(space)
    ObjectDataset(space).save_manifest("memory://manifests/n.npz")
    arrays = np.load(io.BytesIO(s3dlio.get("memory://manifests/n.npz").to_bytes()))
    assert len(arrays["record_offsets"]) == FILES * RECORDS


def test_what_has_changed_since_a_manifest_is_told(space: str) -> None:
    fill(space)
    ObjectDataset(space, pattern="*.tfrecord").save_manifest("memory://manifests/c.npz")
    ObjectDataset.from_manifest("memory://manifests/c.npz", verify=True)
    s3dlio.delete(f"{space}0.tfrecord")
    s3dlio.put(f"{space}7.tfrecord", b"")
    with pytest.raises(ObjectChangedError) as caught:
        ObjectDataset.from_manifest("memory://manifests/c.npz", verify=True)
    assert f"1 added ({space}7.tfrecord); 1 removed ({space}0.tfrecord)" in str(caught.value)


def test_a_manifest_among_its_samples_is_not_taken_for_a_change(space: str) -> None:
    fill(space)
    s3dlio.put(f"{space}stranger.idx", b"not an index of any of them")
    ObjectDataset(space).save_manifest(f"{space}m.npz")
    again = ObjectDataset.from_manifest(f"{space}m.npz", verify=True)
    assert not again.changes()
    s3dlio.put(f"{space}8.bin", b"new")
    assert str(again.changes()) == f"1 added ({space}8.bin)"


def test_a_manifest_replaces_no_sample_and_has_a_name(space: str) -> None:
    s3dlio.put(f"{space}a.bin", b"spam")
    dataset = ObjectDataset(space)
    with pytest.raises(UriError, match="own objects"):
        dataset.save_manifest(f"{space}a.bin")
    with pytest.raises(UriError, match="append a name"):
        dataset.save_manifest(space)
    assert s3dlio.list(space) == [f"{space}a.bin"]
    assert s3dlio.get(f"{space}a.bin") == b"spam"


def test_a_pattern_is_not_ignored_beside_a_manifest(space: str) -> None:
    fill(space)
    ObjectDataset(space).save_manifest("memory://manifests/p.npz")
    with pytest.raises(OptionError, match="manifest"):
        ObjectDataset.from_manifest("memory://manifests/p.npz", pattern="0*")


def test_a_list_of_objects_has_nothing_to_compare_with(space: str) -> None:
    fill(space)
    with pytest.raises(OptionError, match="list of URIs"):
        ObjectDataset([f"{space}0.tfrecord"]).changes()


@given(st.data())
def test_a_damaged_manifest_is_refused_or_right(data: st.DataObject) -> None:
    dataset = _shared()
    dataset.save_manifest("memory://manifests/d.npz")
    whole = bytearray(s3dlio.get("memory://manifests/d.npz"))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[at:]
    s3dlio.put("memory://manifests/e.npz", whole)
    try:
        again = ObjectDataset.from_manifest("memory://manifests/e.npz")
    except FormatError:
        return
    assert again.samples.fingerprint() == dataset.samples.fingerprint()
    assert again[0] == record(0)


@pytest.mark.parametrize("change", [
    {"key_ends": np.array([5, 3, 9])}, {"key_ends": np.array([-1, 3, 9])}, {"sizes": np.array([1, 2])},
    {"owners": np.array([0, 0, 7], np.int32)}, {"tags": np.zeros(3)}, {"sizes": np.zeros((3, 1), np.int64)},
    {"record_first": np.array([0, 1, 2, 4]), "record_offsets": np.zeros(3, np.int64),
     "record_sizes": np.zeros(3, np.uint32)},
    {"record_first": np.array([0, 3, 2, 3]), "record_offsets": np.zeros(3, np.int64),
     "record_sizes": np.zeros(3, np.uint32)},
])  # fmt: skip
def test_arrays_that_contradict_each_other_are_refused(change: dict[str, Any]) -> None:
    arrays = Catalog.of_names("s3", [("b", "one"), ("b", "two"), ("b", "six")], [1, 2, 3]).arrays()
    with pytest.raises(FormatError):
        SampleIndex.of_arrays("s3", ["b"], arrays | change)


def test_a_catalog_keeps_odd_keys_and_many_containers() -> None:
    names = [("one", "ä/ö"), ("two", "a\udc80b"), ("one", ""), ("three", "x y%2F")]
    catalog = pickle.loads(pickle.dumps(Catalog.of_names("s3", names, [1, -1, 3, 4])))
    assert [catalog.uri(number)[1:] for number in range(4)] == names
    assert [catalog.read(number).size for number in range(4)] == [1, -1, 3, 4]
