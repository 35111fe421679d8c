"""Room card: TFRecord files, read, indexed and written, against TensorFlow itself and the definition of DALI's index.

Knows the format a second time, in the plainest way.  Must not know networks; files that lie are next door.
"""

from __future__ import annotations

import gc
import gzip
import itertools
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import checksums, progress
from s3dlio.errors import ClosedError, ForkError, NotFoundError, OptionError, StoreError, TFRecordError, UriError
from s3dlio.formats import row_sums
from s3dlio.formats.tfrecord import frame_foot, frame_head, payload, records
from s3dlio.formats.tfrecord_index import Entry, Index, scan
from s3dlio.tfrecords import (
    TFRecordWriter,
    create_tfrecord_index,
    get_tfrecord,
    get_tfrecord_index_entries,
    iter_tfrecords,
    read_tfrecord_index,
)
from tests.contract_base import in_child
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMPRESSIONS = ("", "GZIP", "ZLIB")
#: Nothing, little, what crosses a step of the compressed reader, and many small ones.
SAMPLES = [b"", b"a", b"spam" * 100, random.Random(1).randbytes(150_000), *(bytes([n]) * n for n in range(100))]
RECORDS = st.lists(st.binary(max_size=200), max_size=40)


def plain_crc(data: bytes) -> int:
    """The CRC-32C, bit by bit: the reflected polynomial of Castagnoli."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def plain_mask(crc: int) -> int:
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) % 2**32


def framed(samples: Iterable[bytes]) -> bytes:
    """A file of these records, by the library's own sums, which other tests hold against the plain ones."""
    return b"".join(frame_head(memoryview(x)) + x + frame_foot(memoryview(x)) for x in samples)


def dali_index(data: bytes) -> str:
    """What NVIDIA DALI's tfrecord2idx writes: it reads a length, skips the rest, and notes where it was and is."""
    lines, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<q", data, at)
        behind = at + 8 + 4 + length + 4
        lines.append(f"{at} {behind - at}\n")
        at = behind
    return "".join(lines)


def cut(data: bytes, places: Iterable[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return (data[start:stop] for start, stop in itertools.pairwise(bounds))


def tf_file(path: Path, samples: Iterable[bytes], compression: str) -> None:
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for sample in samples:
            writer.write(sample)


def tf_read(path: Path, compression: str) -> list[bytes]:
    return list(tf.data.TFRecordDataset(str(path), compression_type=compression).as_numpy_iterator())


# -- sums and frames ------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_sums_are_those_of_the_definition(data: bytes) -> None:
    assert checksums.crc32c(data) == plain_crc(data)
    assert checksums.mask(plain_crc(data)) == plain_mask(plain_crc(data))
    assert frame_head(memoryview(data))[8:] == struct.pack("<I", plain_mask(plain_crc(struct.pack("<Q", len(data)))))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_many_sums_at_once_are_the_same(numbers: list[int]) -> None:
    rows = np.array(numbers, "<u8").view(np.uint8).reshape(-1, 8)
    sums = [plain_crc(bytes(row)) for row in rows]
    assert row_sums.crc32c_of_rows(rows).tolist() == sums
    assert row_sums.unmask_many(np.array([plain_mask(each) for each in sums], np.uint32)).tolist() == sums


@settings(max_examples=150)
@given(RECORDS, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_cut_of_a_file_gives_its_records_and_its_index(samples: list[bytes], places: list[int]) -> None:
    data = framed(samples)
    assert [bytes(record) for record in records(cut(data, places))] == samples
    assert [bytes(record) for record in records(cut(data, places), check=False, size=len(data))] == samples
    for index in (scan(cut(data, places)), scan(cut(data, places), size=len(data)), scan([data])):
        assert index.to_text().decode() == dali_index(data)


def test_byte_by_byte_is_a_cut_too() -> None:
    data = framed(SAMPLES[:3])
    assert [bytes(record) for record in records(data[at : at + 1] for at in range(len(data)))] == SAMPLES[:3]
    assert scan(data[at : at + 1] for at in range(len(data))).to_text().decode() == dali_index(data)


def test_many_small_records_come_in_several_turns() -> None:
    data = framed([b"", b"x"] * 25_000)
    assert sum(len(record) for record in records([data])) == 25_000
    assert len(scan([data])) == 50_000
    assert scan([data]).to_text().decode() == dali_index(data)


def test_records_are_views_of_the_chunk_and_a_crossing_one_is_not() -> None:
    data = bytearray(framed([b"first", b"second"]))
    first, second = records([memoryview(data)[:30], memoryview(data)[30:]])
    data[12:17] = b"other"
    data[33:39] = b"change"
    assert (bytes(first), bytes(second)) == (b"other", b"second")


def test_a_frame_gives_its_data_as_a_view() -> None:
    frame = bytearray(framed([b"spam"]))
    view = payload(frame, 0)
    frame[12] = ord("S")
    assert bytes(view) == b"Spam"
    assert bytes(payload(frame, 0, check=False)) == b"Spam"
    with pytest.raises(TFRecordError, match="checksum of the record at byte 77 is wrong"):
        payload(frame, 77)


@pytest.mark.parametrize("length", [0, 5, 12, 19, 21])
def test_a_frame_of_another_length_does_not_fit(length: int) -> None:
    with pytest.raises(TFRecordError, match="at byte 7 "):
        payload((framed([b"spam"]) + b"x")[:length], 7)


# -- TensorFlow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tensorflow_reads_what_is_written_here(tmp_path: Path, compression: str) -> None:
    with TFRecordWriter(tmp_path / "x", compression=compression) as writer:
        for sample in SAMPLES:
            writer.write(sample)
    assert tf_read(tmp_path / "x", compression) == SAMPLES


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_tensorflow_writes_is_read_here(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x"
    tf_file(path, SAMPLES, compression)
    assert [bytes(record) for record in iter_tfrecords(path)] == SAMPLES
    assert [bytes(record) for record in iter_tfrecords(path, compression=compression, check=False)] == SAMPLES


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("samples", [[], [b""]])
def test_files_of_nothing_are_files(tmp_path: Path, compression: str, samples: list[bytes]) -> None:
    tf_file(tmp_path / "theirs", samples, compression)
    with TFRecordWriter(tmp_path / "ours", compression=compression) as writer:
        for sample in samples:
            writer.write(sample)
    assert [bytes(record) for record in iter_tfrecords(tmp_path / "theirs")] == samples
    assert tf_read(tmp_path / "ours", compression) == samples


def test_uncompressed_files_are_the_same_bytes(tmp_path: Path) -> None:
    tf_file(tmp_path / "theirs", SAMPLES, "")
    with TFRecordWriter(tmp_path / "ours") as writer:
        for sample in SAMPLES:
            writer.write(memoryview(sample))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes() == framed(SAMPLES)


# -- compression ----------------------------------------------------------------------------------------


def test_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    data = framed(SAMPLES)
    members = [gzip.compress(piece) for piece in (data[:7], b"", data[7:50_000], data[50_000:])]
    (tmp_path / "x").write_bytes(b"".join(members) + bytes(600))  # and the zeros that tapes leave
    assert [bytes(record) for record in iter_tfrecords(tmp_path / "x")] == SAMPLES


def test_bytes_behind_zlib_data_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(zlib.compress(framed([b"spam"])) + b"more")
    with pytest.raises(TFRecordError, match="behind the end of the ZLIB data"):
        list(iter_tfrecords(tmp_path / "x"))


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_much_of_little_is_unpacked_step_by_step(tmp_path: Path, compression: str) -> None:
    with TFRecordWriter(tmp_path / "x", compression=compression) as writer:
        for _ in range(40):
            writer.write(bytes(1_000_000))
    assert (tmp_path / "x").stat().st_size < 100_000
    assert [len(record) for record in iter_tfrecords(tmp_path / "x")] == [1_000_000] * 40


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_compressed_file_has_no_index(tmp_path: Path, compression: str) -> None:
    tf_file(tmp_path / "x", SAMPLES, compression)
    with pytest.raises(TFRecordError, match=f"compressed.*{compression}.*no index") as caught:
        create_tfrecord_index(tmp_path / "x")
    assert caught.value.uri == f"file://{tmp_path}/x"
    with pytest.raises(TFRecordError, match="compressed"):
        list(iter_tfrecords(tmp_path / "x", compression=""))


@pytest.mark.parametrize(
    "words", [{"compression": "gzip"}, {"compression": "auto"}, {"compression": "GZIP", "index": True}]
)
def test_a_writer_refuses_what_it_cannot_do(tmp_path: Path, words: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        TFRecordWriter(tmp_path / "x", **words)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_compression_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'auto', '', 'GZIP', 'ZLIB', not 'gzip'"):
        iter_tfrecords(tmp_path / "x", compression="gzip")


# -- the index ------------------------------------------------------------------------------------------


def test_entries_are_pairs_with_names() -> None:
    index = get_tfrecord_index_entries(b"0 116\n116 50\n166 16\n")
    assert index[0]["offset"] == 0
    assert index[-1] == (166, 16)
    offset, size = index[1]
    assert (offset, size) == (index[1].offset, index[1]["size"]) == (116, 50)
    assert [entry["size"] for entry in index] == [116, 50, 16]
    with pytest.raises(KeyError):
        index[0]["length"]
    with pytest.raises(IndexError):
        index[3]


def test_an_index_is_a_sequence() -> None:
    index = scan([framed(SAMPLES)])
    assert len(index) == len(SAMPLES)
    assert index == list(index) == pickle.loads(pickle.dumps(index)) == Index.from_text(index.to_text())
    assert index[2:4] == [index[2], index[3]]
    assert index != index[1:]
    assert index != 5
    assert Entry(0, 16) in index
    assert index[1:].offsets.base is not None
    assert repr(index) == f"Index({len(SAMPLES)} records, first at byte 0)"


@given(st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(16, 10**18 - 1)), max_size=200))
def test_text_and_numbers_are_the_same_index(pairs: list[tuple[int, int]]) -> None:
    text = "".join(f"{offset} {size}\n" for offset, size in pairs).encode()
    assert Index.from_text(text) == pairs
    assert Index.from_text(text).to_text() == text


def test_a_long_index_is_read_in_blocks() -> None:
    sizes = np.arange(16, 200_016)
    index = Index(np.cumsum(sizes) - sizes, sizes)
    assert len(index.to_text()) > 3_000_000
    assert Index.from_text(index.to_text()) == index


@pytest.mark.parametrize(
    "text", [b"0  116\n116 50", b"0 116\r\n116 50\r\n", b"\n0 116\n\n\t116 50 \n", b"00 116\n116 050\n"]
)
def test_spaces_and_empty_lines_do_not_matter(text: bytes) -> None:
    assert Index.from_text(text) == [(0, 116), (116, 50)]


@pytest.mark.parametrize(
    "line",
    [
        b"116",
        b"116 50 1",
        b"x 50",
        b"-1 50",
        b"116 15",
        b"1.5 50",
        b"116 0x50",
        b"1" * 19 + b" 16",
        "\u0661 16".encode(),
    ],
)
def test_a_line_that_is_no_entry_is_named(line: bytes) -> None:
    for ending in (b"\n", b"\n166 16\n", b""):
        with pytest.raises(TFRecordError, match="line 3 of the index"):
            Index.from_text(b"0 116\n\n" + line + ending)


def test_an_endless_line_is_not_an_index() -> None:
    with pytest.raises(TFRecordError, match="line 2 of the index"):
        Index.from_text(b"0 116\n" + b"7" * 3_000_000)


@pytest.mark.parametrize("form", [str, Path, "file://{}".format])
def test_the_index_lies_beside_the_file(tmp_path: Path, form: type) -> None:
    path = tmp_path / "x.tfrecord"
    tf_file(path, SAMPLES, "")
    assert create_tfrecord_index(form(path)) == len(SAMPLES)
    assert (tmp_path / "x.tfrecord.idx").read_text() == dali_index(path.read_bytes())
    assert read_tfrecord_index(form(f"{path}.idx")) == get_tfrecord_index_entries(f"{path}.idx")


def test_the_index_goes_where_it_is_told(tmp_path: Path) -> None:
    tf_file(tmp_path / "x", SAMPLES, "")
    s3dlio.put("memory://tfrecord/in", (tmp_path / "x").read_bytes())
    create_tfrecord_index(input_path="memory://tfrecord/in", output_path=f"file://{tmp_path}/deep/out.idx")
    create_tfrecord_index(tmp_path / "x", "memory://tfrecord/out")
    assert s3dlio.get("memory://tfrecord/out") == (tmp_path / "deep/out.idx").read_bytes()
    assert s3dlio.get("memory://tfrecord/out").decode() == dali_index((tmp_path / "x").read_bytes())


@pytest.mark.parametrize("length", [0, 100, 3_000, 70_000, 1_100_000])
def test_local_files_are_indexed_whatever_the_length_of_records(tmp_path: Path, length: int) -> None:
    count = 3_000_000 // (length + 1_000)
    data = framed([bytes(length), bytes(length // 3)] * count)
    (tmp_path / "x").write_bytes(data)
    assert create_tfrecord_index(tmp_path / "x") == 2 * count
    assert (tmp_path / "x.idx").read_text() == dali_index(data)


def test_a_missing_file_is_missing_at_once(tmp_path: Path) -> None:
    for verb in (create_tfrecord_index, iter_tfrecords, read_tfrecord_index):
        with pytest.raises(NotFoundError):
            verb(tmp_path / "x")


# -- one record -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "memory"])
def test_each_record_is_read_by_its_entry(tmp_path: Path, place: str) -> None:
    uri = f"file://{tmp_path}/x" if place == "file" else "memory://tfrecord/one"
    with TFRecordWriter(uri, index=True) as writer:
        for sample in SAMPLES:
            writer.write(sample)
    entries = read_tfrecord_index(f"{uri}.idx")
    assert [bytes(get_tfrecord(uri, entry)) for entry in entries] == SAMPLES
    assert not get_tfrecord(uri, (0, 16)).readonly


@pytest.mark.parametrize("entry", [(1, 116), (0, 17), (-1, 16), (0, 15), (16, 1 << 40)])
def test_an_entry_that_does_not_fit_is_an_error(entry: tuple[int, int]) -> None:
    s3dlio.put("memory://tfrecord/unfit", framed([b"", b"spam" * 100]))
    with pytest.raises(TFRecordError) as caught:
        get_tfrecord("memory://tfrecord/unfit", entry)
    assert (caught.value.uri, caught.value.operation) == ("memory://tfrecord/unfit", "get_tfrecord")


# -- writing --------------------------------------------------------------------------------------------


def test_a_file_appears_whole_when_it_is_closed(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x"
    writer = TFRecordWriter(target)
    writer.write(bytes(20_000_000))
    (hidden,) = target.parent.iterdir()
    assert hidden.name.startswith(".x.")
    assert s3dlio.list(f"file://{tmp_path}/") == []
    writer.close()
    writer.close()
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(ClosedError):
        writer.write(b"more")


@pytest.mark.parametrize("uri", ["file://{}/x", "memory://tfrecord-abort/x"])
def test_an_exception_leaves_what_was_there(tmp_path: Path, uri: str) -> None:
    uri = uri.format(tmp_path)
    s3dlio.put(uri, b"old")

    def fail() -> None:
        with TFRecordWriter(uri, index=True) as writer:
            writer.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert s3dlio.list(uri.removesuffix("x")) == [uri]
    assert s3dlio.get(uri) == b"old"
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "x"])


def test_a_forgotten_writer_leaves_nothing(tmp_path: Path) -> None:
    TFRecordWriter(tmp_path / "x").write(b"spam")
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_aborts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: object, _place: int) -> int:
        raise OSError(28, "No space left on device")

    writer = TFRecordWriter(tmp_path / "x")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left") as caught:  # noqa: PT012 - one of these, soon
        while True:
            writer.write(bytes(3_000_000))
    assert caught.value.uri == f"file://{tmp_path}/x"
    with pytest.raises(ClosedError):
        writer.write(b"")
    assert list(tmp_path.iterdir()) == []


def test_a_fork_does_not_write_into_its_parents_file(tmp_path: Path) -> None:
    writer = TFRecordWriter(tmp_path / "x")
    writer.write(b"spam")

    def child() -> None:
        with pytest.raises(ForkError):
            writer.write(b"eggs")
        with pytest.raises(ForkError):
            writer.close()
        writer.abort()

    in_child(child)
    writer.write(b"more")
    writer.close()
    assert (tmp_path / "x").read_bytes() == framed([b"spam", b"more"])


def test_arrays_of_any_kind_are_records(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with TFRecordWriter(tmp_path / "x") as writer:
        writer.write(array)
    (record,) = iter_tfrecords(tmp_path / "x")
    assert np.array_equal(np.frombuffer(record, np.float32).reshape(2, 3), array)


@pytest.mark.parametrize(("index", "place"), [(True, "x.idx"), ("{}/deep/y", "deep/y"), ("file://{}/z", "z")])
def test_the_index_is_written_along(tmp_path: Path, index: str | bool, place: str) -> None:
    where = index if index is True else str(index).format(tmp_path)
    with TFRecordWriter(tmp_path / "x", index=where) as writer:
        for sample in SAMPLES:
            writer.write(sample)
    assert (tmp_path / place).read_text() == dali_index((tmp_path / "x").read_bytes())


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(UriError):
        TFRecordWriter(f"file://{tmp_path}/x/")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="a file stands where a directory is needed"):
        TFRecordWriter(tmp_path / "file" / "x")


def test_the_indexes_of_many_files_are_made_at_once(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.tfrecord" for n in range(5)]
    for file in files:
        tf_file(file, SAMPLES, "")
    told: list[tuple[int, int]] = []
    count = create_tfrecord_index(files, progress=lambda *done: told.append(done))
    assert (count, told[-1]) == (5 * len(SAMPLES), (5, 5))
    made = [(tmp_path / f"{n}.tfrecord.idx").read_bytes() for n in range(5)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert create_tfrecord_index([str(file) for file in files], executor=pool) == count
        files[2].write_bytes(b"no records at all, but long enough for a head")
        with pytest.raises(TFRecordError, match=r"2\.tfrecord"):
            create_tfrecord_index(files, executor=pool)
    assert made == [(tmp_path / f"{n}.tfrecord.idx").read_bytes() for n in range(5)]
    with pytest.raises(OptionError, match="one file"):
        create_tfrecord_index(files, tmp_path / "out")


# -- telling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["file://{}/x", "memory://tfrecord/told"])
def test_a_function_is_told_how_far_it_is(tmp_path: Path, uri: str) -> None:
    data = framed([bytes(100_000)] * 100)
    s3dlio.put(uri.format(tmp_path), data)
    told: list[tuple[int, int]] = []
    create_tfrecord_index(uri.format(tmp_path), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (len(data), len(data))


def test_nobody_is_told_off_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tf_file(tmp_path / "x", SAMPLES, "")
    create_tfrecord_index(tmp_path / "x", progress=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rich: bool) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    with progress.telling(True, "index of [x]") as tell:
        tell(50, 100)
        tell(100, 100)
    shown = capsys.readouterr().err
    assert "index of [x]" in shown
    assert rich or shown == "index of [x]: 50 %\nindex of [x]: 100 %\n"


def test_importing_it_loads_no_checksums() -> None:
    program = "import s3dlio.tfrecords, sys; print('awscrt' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PROGRAM_S
    )
    assert done.stdout.strip() == "False False"
