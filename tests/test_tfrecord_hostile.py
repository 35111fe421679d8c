"""Room card: TFRecord files that lie: what is read is the truth or a TFRecordError, and memory is never a file's to claim.

Knows how to damage bytes.  Must not know what sound files do; that is next door.
"""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.checksums import crc32c, mask
from s3dlio.errors import TFRecordError
from s3dlio.formats.deflate import unpacked
from s3dlio.formats.tfrecord import compression_of, frame_foot, frame_head, payload, records
from s3dlio.formats.tfrecord_index import Index, scan
from s3dlio.tfrecords import create_tfrecord_index, iter_tfrecords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_RANDOM = random.Random(2)
TRUTH = [_RANDOM.randbytes(length) for length in (0, 1, 5, 300, 0, 40, 12, 16, 7, 1000, *[3] * 40)]
CLAIMS = (2**64 - 1, 2**63, 2**63 - 17, 2**40, 2**31, 5)


def framed(samples: Iterable[bytes]) -> bytes:
    return b"".join(frame_head(memoryview(x)) + x + frame_foot(memoryview(x)) for x in samples)


def head_claiming(length: int) -> bytes:
    """A header whose sum is right and whose length is not."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", mask(crc32c(packed)))


GOOD = framed(TRUTH)
#: Where frames begin, and the file ends.
BOUNDS = [len(framed(TRUTH[:count])) for count in range(len(TRUTH) + 1)]


def flip(data: bytearray, random: random.Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def truncate(data: bytearray, random: random.Random) -> None:
    del data[random.randrange(len(data)) :]


def insert(data: bytearray, random: random.Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.randint(1, 40))


def delete(data: bytearray, random: random.Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randint(1, 40)]


def zero(data: bytearray, random: random.Random) -> None:
    at = random.randrange(len(data))
    data[at : at + 20] = bytes(len(data[at : at + 20]))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, truncate, insert, delete, zero)
mutations = st.tuples(st.sampled_from(MUTATIONS), st.randoms(use_true_random=False))


def mutated(data: bytes, changes: list[tuple[Callable[..., None], random.Random]]) -> bytes:
    changed = bytearray(data)
    for change, source in changes:
        if changed:
            change(changed, source)
    return bytes(changed)


def pieces(data: bytes, length: int) -> Iterator[bytes]:
    return (data[at : at + length] for at in range(0, len(data), length))


def drained(source: Iterator[memoryview]) -> tuple[list[bytes], TFRecordError | None]:
    """What came, and how it ended."""
    found = []
    try:
        for record in source:
            found.append(bytes(record))  # noqa: PERF401 - what came before an error counts
    except TFRecordError as error:
        return found, error
    return found, None


def is_part_of_the_truth(found: list[bytes], data: bytes, error: TFRecordError | None) -> None:
    """Records that came are those that were written, in order; without an error nothing but whole ones is missing."""
    rest = iter(TRUTH)
    assert all(any(sample == record for sample in rest) for record in found)
    if error is None:
        assert framed(found) == data


# -- damage ---------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.lists(mutations, min_size=1, max_size=3), st.integers(1, 3000), st.booleans())
def test_damaged_files_give_the_truth_or_an_error(
    changes: list[tuple[Callable[..., None], random.Random]], length: int, sized: bool
) -> None:
    data = mutated(GOOD, changes)
    found, error = drained(records(pieces(data, length), size=len(data) if sized else None))
    is_part_of_the_truth(found, data, error)
    assert data == GOOD or error is not None or framed(found) == data


@settings(max_examples=300)
@given(st.lists(mutations, min_size=1, max_size=3), st.integers(1, 3000), st.booleans())
def test_the_index_of_a_damaged_file_is_that_of_its_headers_or_an_error(
    changes: list[tuple[Callable[..., None], random.Random]], length: int, sized: bool
) -> None:
    data = mutated(GOOD, changes)
    try:
        index = scan(pieces(data, length), size=len(data) if sized else None)
    except TFRecordError:
        return
    assert sum(size for _, size in index) == len(data)
    for offset, size in index:
        payload(data[offset : offset + size], offset, check=False)


@settings(max_examples=300)
@given(st.lists(mutations, min_size=1, max_size=3), st.integers(1, 3000), st.sampled_from(["GZIP", "ZLIB"]))
def test_damaged_compressed_files_give_the_truth_or_an_error(
    changes: list[tuple[Callable[..., None], random.Random]], length: int, compression: str
) -> None:
    packed = gzip.compress(GOOD, mtime=0) if compression == "GZIP" else zlib.compress(GOOD)
    data = mutated(packed, changes)
    found, error = drained(records(unpacked(pieces(data, length), compression)))
    rest = iter(TRUTH)
    assert all(any(sample == record for sample in rest) for record in found)
    # Damage that zlib does not see is in what it does not look at: the name and time in GZIP's header.
    assert error is not None or found in (TRUTH, [])


@given(st.binary(max_size=500))
def test_any_bytes_are_records_or_an_error(data: bytes) -> None:
    found, error = drained(records([data]))
    assert error is not None or framed(found) == data
    if compression := compression_of(data):
        drained(records(unpacked([data], compression)))


@given(st.one_of(st.binary(max_size=300), st.text("0123456789 \n\t-x", max_size=300).map(str.encode)))
def test_any_bytes_are_an_index_or_an_error(text: bytes) -> None:
    try:
        index = Index.from_text(text)
    except TFRecordError:
        return
    assert index == [tuple(map(int, line.split())) for line in text.split(b"\n") if line.split()]


@pytest.mark.parametrize("number", range(len(TRUTH)))
def test_damaged_data_is_named_by_its_offset(number: int) -> None:
    if not TRUTH[number]:
        return
    data = bytearray(GOOD)
    data[BOUNDS[number] + 12] ^= 1
    found, error = drained(records([data]))
    assert found == TRUTH[:number]
    assert f"checksum of the record at byte {BOUNDS[number]} is wrong" in str(error)
    assert len(scan([data])) == len(TRUTH)  # which does not look at data


@pytest.mark.parametrize("number", range(len(TRUTH)))
@pytest.mark.parametrize("place", [0, 7, 8, 11])
def test_a_damaged_header_is_named_by_its_offset(number: int, place: int) -> None:
    data = bytearray(GOOD)
    data[BOUNDS[number] + place] ^= 0x80
    found, error = drained(records([data]))
    assert found == TRUTH[:number]
    assert f"no record at byte {BOUNDS[number]}:" in str(error)
    with pytest.raises(TFRecordError, match=f"no record at byte {BOUNDS[number]}:"):
        scan([data])


@pytest.mark.parametrize("length", [11, 7, 10_000])
def test_a_torn_tail_is_named_by_its_offset(length: int) -> None:
    for cut in range(1, len(GOOD)):
        begun = max(bound for bound in BOUNDS if bound < cut)
        if cut in BOUNDS:
            continue
        found, error = drained(records(pieces(GOOD[:cut], length)))
        assert found == TRUTH[: BOUNDS.index(begun)]
        assert f"at byte {begun} " in str(error)
        with pytest.raises(TFRecordError, match=f"at byte {begun} .*the file ends at byte {cut}"):
            scan(pieces(GOOD[:cut], length))


# -- claims ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("length", [5, 12, 1 << 20])
def test_a_claimed_length_takes_no_memory(claim: int, sized: bool, length: int) -> None:
    data = framed([b"first"]) + head_claiming(claim) + b"spam"
    size = len(data) if sized else None
    records(iter([]))  # what the first use imports and builds is not the file's doing
    scan([framed([b"first"])])
    tracemalloc.start()
    try:
        found, error = drained(records(pieces(data, length), size=size))
        with pytest.raises(TFRecordError, match="at byte 21 "):
            scan(pieces(data, length), size=size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert found == [b"first"]
    assert "at byte 21 " in str(error)


def test_a_record_beyond_the_limit_is_refused_before_it_comes() -> None:
    def endless() -> Iterator[bytes]:
        yield head_claiming(1000)
        pytest.fail("more was asked for")

    with pytest.raises(TFRecordError, match="at byte 0 has 1000 bytes; at most 999"):
        list(records(endless(), most_bytes=999))


def test_a_bomb_is_unpacked_no_further_than_asked() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(head_claiming(2**31) + bytes(200 << 20)) + packer.flush()
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(TFRecordError, match="cut short"):
            list(records(unpacked([bomb], "GZIP"), most_bytes=2**31))
        with pytest.raises(TFRecordError, match="at most 1000000"):
            list(records(unpacked([bomb], "GZIP"), most_bytes=1_000_000))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 250 << 20  # what is in the file, and not the 2 GiB that it claims


# -- at the door ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("uri", ["file://{}/x", "memory://hostile/x"])
def test_a_lying_file_is_named(tmp_path: Path, uri: str, claim: int) -> None:
    uri = uri.format(tmp_path)
    s3dlio.put(uri, framed([b"first"]) + head_claiming(claim) + b"spam")
    with pytest.raises(TFRecordError, match="at byte 21 ") as caught:
        create_tfrecord_index(uri)
    assert (caught.value.uri, caught.value.operation) == (uri, "create_tfrecord_index")
    source = iter_tfrecords(uri)
    assert bytes(next(source)) == b"first"
    with pytest.raises(TFRecordError, match="at byte 21 ") as caught:
        next(source)
    assert (caught.value.uri, caught.value.operation) == (uri, "iter_tfrecords")
    assert s3dlio.exists(f"{uri}.idx") is False


@settings(max_examples=60)
@given(st.lists(mutations, min_size=1, max_size=3))
def test_damaged_local_files_raise_nothing_else(changes: list[tuple[Callable[..., None], random.Random]]) -> None:
    data = mutated(GOOD, changes)
    s3dlio.put("memory://hostile/damaged", data)
    found, error = drained(iter_tfrecords("memory://hostile/damaged", compression=""))
    is_part_of_the_truth(found, data, error)
    assert error is None or error.uri == "memory://hostile/damaged"
