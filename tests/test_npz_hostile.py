"""Room card: NPZ and NPY files written by hand: rightly, with 64-bit numbers, and wrongly in every way we know.

A wrong file is an NpzError that names the member or the byte, takes no memory for what it merely claims, and never
gives other arrays than those that were saved.
"""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.arrays import RemoteNpz
from s3dlio.buffers import MIB, POOL
from s3dlio.errors import NpzError
from s3dlio.formats.npz import Npz, read_npy
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = 0xFFFFFFFF


# -- files by hand ------------------------------------------------------------------------------------


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version)
    return file.getvalue()


def npy_of(header: str | bytes, data: bytes = bytes(64), length: int | None = None, version: int = 1) -> bytes:
    """Returns an NPY file with any header, right or not."""
    text = header if isinstance(header, bytes) else header.encode()
    count = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", count) + text + data


def header(descr: Any = "<f8", shape: Any = (2,), fortran: Any = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape})


@dataclass
class Entry:
    """A member, and what its local header and its directory entry say; None is the truth."""

    body: bytes = npy(np.arange(50))
    name: bytes = b"x.npy"
    method: int = 0
    flags: int = 0
    crc: int | None = None
    packed: int | None = None
    size: int | None = None
    offset: int | None = None
    disk: int = 0
    extra: bytes = b""
    local_name: bytes | None = None
    local_extra: bytes = b""
    local_extra_bytes: int | None = None
    behind: bytes = b""
    raw: bytes | None = None

    @property
    def stored(self) -> bytes:
        if self.raw is not None:
            return self.raw
        worker = zlib.compressobj(wbits=-15)
        return worker.compress(self.body) + worker.flush() if self.method == 8 else self.body

    def local(self) -> bytes:
        name = self.name if self.local_name is None else self.local_name
        extra = len(self.local_extra) if self.local_extra_bytes is None else self.local_extra_bytes
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, self.flags, self.method, 0, 0, 0, 0, 0, len(name), extra)
        return head + name + self.local_extra + self.stored + self.behind

    def listed(self, offset: int) -> bytes:
        packed = len(self.stored) if self.packed is None else self.packed
        size = len(self.body) if self.size is None else self.size
        crc = zlib.crc32(self.body) if self.crc is None else self.crc
        at = offset if self.offset is None else self.offset
        numbers = (20, 20, self.flags, self.method, 0, 0, crc, packed, size, len(self.name), len(self.extra), 0)
        return struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers, self.disk, 0, 0, at) + self.name + self.extra


@dataclass
class End:
    """What the end of the file says, and what else is there; None is the truth."""

    entries: int | None = None
    here: int | None = None
    start: int | None = None
    length: int | None = None
    disk: int = 0
    within: bytes = b""
    behind: bytes = b""
    wide: bool = False
    wide_at: int | None = None
    wide_size: int = 44
    wide_start: int | None = None

    def text(self, start: int, length: int, count: int) -> bytes:
        said_start = start if self.start is None else self.start
        said_length = length if self.length is None else self.length
        entries = count if self.entries is None else self.entries
        here = entries if self.here is None else self.here
        wide = self.wide_records(start, length, entries) if self.wide else b""
        numbers = (self.disk, 0, min(here, 0xFFFF), min(entries, 0xFFFF), min(said_length, MASK), min(said_start, MASK))
        return wide + struct.pack("<4s4H2LH", b"PK\5\6", *numbers, 0) + self.behind

    def wide_records(self, start: int, length: int, entries: int) -> bytes:
        place = start + length if self.wide_at is None else self.wide_at
        at = start if self.wide_start is None else self.wide_start
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", self.wide_size, 45, 45, 0, 0, entries, entries, length, at)
        return record + struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)


def forged(*entries: Entry, end: End | None = None) -> bytes:
    """Returns a file of these members, which is right where they and the end say nothing else."""
    end = end or End()
    data, places = b"", []
    for entry in entries:
        places.append(len(data))
        data += entry.local()
    listed = b"".join(entry.listed(place) for entry, place in zip(entries, places, strict=True)) + end.within
    return data + listed + end.text(len(data), len(listed), len(entries))


# -- files that are right -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [End(), End(wide=True), End(entries=1, wide=True)])
def test_the_forger_can_be_honest(end: End) -> None:
    data = forged(Entry(), end=end)
    assert np.load(io.BytesIO(data))["x"].tolist() == Npz(data)["x"].tolist() == list(range(50))


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize(
    "entry",
    [
        Entry(local_extra=bytes(60_000)),
        Entry(behind=b"PK\7\x08" + bytes(12), flags=8),
        Entry(behind=bytes(20), flags=8),
        Entry(behind=bytes(100_000)),
        Entry(extra=struct.pack("<HH8s", 99, 8, b"whatever")),
        Entry(name="ü.npy".encode(), flags=0x800),
        Entry(name="ü.npy".encode("cp437")),
    ],
)
def test_odd_files_are_read(entry: Entry, method: int) -> None:
    others = Entry(name=b"before.npy", body=npy(np.ones(3))), Entry(name=b"behind.npy", body=npy(np.zeros(5)))
    data = forged(others[0], replace(entry, method=method), others[1])
    found = Npz(data)
    assert [array.tolist() for array in found.values()] == [[1.0] * 3, list(range(50)), [0.0] * 5]
    assert list(found) == list(np.load(io.BytesIO(data)))


def wide(*numbers: int) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def test_members_with_64_bit_numbers() -> None:
    entry = Entry()
    size = len(entry.body)
    whole = replace(entry, packed=MASK, size=MASK, offset=MASK, extra=wide(size, size, 0))
    for forgery in (whole, replace(entry, size=MASK, extra=b"\x63\0\1\0?" + wide(size)), whole):
        data = forged(forgery, end=End(wide=True))
        assert Npz(data)["x"].tolist() == list(range(50))
        assert np.load(io.BytesIO(data))["x"].tolist() == list(range(50))


def test_more_members_than_16_bits_count() -> None:
    entries = [Entry(name=b"%05d" % number, body=b"") for number in range(70_000)]
    data = b"".join(entry.local() for entry in entries)
    directory = b"".join(entry.listed(35 * number) for number, entry in enumerate(entries))
    found = Npz(data + directory + End(wide=True).text(len(data), len(directory), len(entries)))
    assert len(found) == 70_000
    assert (found["00000"], found["69999"]) == (b"", b"")


class _Holes:
    """A source of any size: zeros, and some pieces that are there."""

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size = size
        self.pieces = pieces
        self.most_bytes = 0

    def read(self, start: int, stop: int, *, align_at: int | None = None) -> memoryview:
        assert 0 <= start <= stop <= self.size
        self.most_bytes = max(self.most_bytes, stop - start)
        assert stop - start <= 100 * MIB, "memory for what is not there"
        data = bytearray(stop - start)
        for place, piece in self.pieces.items():
            begin, end = max(start, place), min(stop, place + len(piece))
            if begin < end:
                data[begin - start : end - start] = piece[begin - place : end - place]
        return memoryview(data)


def test_offsets_and_sizes_beyond_four_gigabytes() -> None:
    big = Entry(name=b"big.npy", raw=b"", packed=MASK, size=MASK, extra=wide(7 << 30, 7 << 30))
    place = 30 + 7 + (7 << 30)
    small = Entry(offset=MASK, extra=wide(place))
    start = place + len(small.local())
    listed = big.listed(0) + small.listed(0)
    tail = listed + End(wide=True).text(start, len(listed), 2)
    source = _Holes(start + len(tail), {0: big.local(), place: small.local(), start: tail})
    found = Npz.over(source)
    assert list(found) == ["big", "x"]
    assert found["x"].tolist() == list(range(50))
    assert source.most_bytes < MIB


# -- files that lie -----------------------------------------------------------------------------------

TWICE = (Entry(), Entry(name=b"y.npy"))
FORGERIES: dict[str, tuple[bytes, str]] = {
    "bomb": (forged(Entry(method=8, size=0xF0000000)), r"'x.npy' \(at byte 0\) promises 4026531840 bytes out of"),
    "wide bomb": (
        forged(Entry(method=8, size=MASK, extra=wide(1 << 62))),
        r"'x.npy' \(at byte 0\) promises 4611686018427387904 bytes",
    ),
    "wide member": (forged(Entry(packed=MASK, size=MASK, extra=wide(1 << 63, 1 << 63))), r"'x.npy' \(at byte 0\).*at byte"),
    "more unpacked than promised": (forged(Entry(method=8, size=100)), r"'x.npy' \(at byte 0\) has not the size"),
    "less unpacked than promised": (forged(Entry(method=8, size=600)), r"'x.npy' \(at byte 0\) has not the size"),
    "packed cut short": (
        forged(Entry(method=8, packed=60)),
        r"'x.npy' \(at byte 0\) cannot be unpacked: the data is cut short",
    ),
    "packed too long": (
        forged(replace(Entry(method=8), raw=Entry(method=8).stored + b"!")),
        r"'x.npy' \(at byte 0\) cannot be unpacked: something follows",
    ),
    "not packed at all": (
        forged(Entry(method=8, raw=b"\xff" * 200)),
        r"'x.npy' \(at byte 0\) cannot be unpacked: .*invalid block type",
    ),
    "sizes apart": (forged(Entry(size=500)), r"'x.npy' \(at byte 0\) contradicts itself"),
    "wrong sum": (forged(Entry(crc=1)), r"checksum of 'x.npy' \(at byte 0\) is wrong"),
    "wrong sum, packed": (forged(Entry(crc=1, method=8)), r"checksum of 'x.npy' \(at byte 0\) is wrong"),
    "encrypted": (forged(Entry(flags=1)), r"'x.npy' \(at byte 0\) is encrypted"),
    "no such method": (forged(Entry(method=77)), r"'x.npy' \(at byte 0\) is compressed by method 77"),
    "beyond the file": (forged(Entry(offset=0x7FFFFFFF)), r"'x.npy' \(at byte 2147483647\).*reaches into"),
    "into the directory": (forged(Entry(packed=529, size=529)), r"'x.npy' \(at byte 0\).*the directory at byte 563"),
    "into the next": (
        forged(Entry(packed=600, size=600), Entry(name=b"y.npy")),
        r"'x.npy' \(at byte 0\).*another member at byte 563",
    ),
    "two in one place": (forged(Entry(), Entry(name=b"y.npy", offset=0)), r"'x.npy' \(at byte 0\).*member at byte 0"),
    "between": (forged(Entry(offset=7, packed=9, size=9)), r"no member at byte 7, where 'x.npy' should be"),
    "another name there": (forged(Entry(local_name=b"y.npy")), r"no member at byte 0, where 'x.npy' should be"),
    "long extra": (
        forged(Entry(local_extra_bytes=900), Entry(name=b"y.npy")),
        r"'x.npy' \(at byte 0\) reaches into what begins at byte 563",
    ),
    "one name twice": (forged(Entry(), Entry()), r"two members called 'x'; the second is 'x.npy' \(at byte 563\)"),
    "nearly one name": (forged(Entry(name=b"x"), Entry()), r"two members called 'x'; the second is 'x.npy'"),
    "zero in the name": (forged(Entry(name=b"x\0.npy")), r"'x\\x00.npy' in the directory entry at byte 564"),
    "name in no encoding": (forged(Entry(name=b"\xff.npy", flags=0x800)), r"entry at byte 563 is not valid UTF-8"),
    "on another disk": (forged(Entry(disk=3)), r"entry at byte 563 reaches beyond the directory, or to another disk"),
    "wide field cut short": (forged(Entry(size=MASK, packed=MASK, extra=wide(500))), r"ZIP64 field of 'x.npy'"),
    "wide field that lies": (forged(Entry(size=MASK, extra=b"\1\0\x08\0\0")), r"ZIP64 field of 'x.npy'"),
    "too many entries": (forged(Entry(name=b"x" * 99), end=End(entries=2)), r"no directory entry at byte 802"),
    "too few entries": (forged(*TWICE, end=End(entries=1)), r"51 bytes more than its 1 entries \(at byte 1177\)"),
    "absurdly many": (forged(*TWICE, end=End(entries=60_000)), r"end record at byte 1228 does not fit"),
    "counts apart": (forged(*TWICE, end=End(here=1)), r"end record at byte 1228 does not fit"),
    "other start": (forged(*TWICE, end=End(start=1000)), r"end record at byte 1228 does not fit"),
    "other length": (forged(*TWICE, end=End(length=101)), r"end record at byte 1228 does not fit"),
    "one of several": (forged(*TWICE, end=End(disk=1)), r"end record at byte 1228 does not fit"),
    "something before": (b"junk" + forged(*TWICE), r"end record at byte 1232 does not fit"),
    "something behind": (forged(*TWICE, end=End(behind=b"junk")), r"no end of a directory"),
    "something within": (forged(*TWICE, end=End(within=b"junk")), r"directory has 4 bytes more.*\(at byte 1228\)"),
    "wide elsewhere": (forged(*TWICE, end=End(wide=True, wide_at=5)), r"no ZIP64 end record at byte 5"),
    "wide beyond": (forged(*TWICE, end=End(wide=True, wide_at=1 << 63)), r"no ZIP64 end record at byte 9223372036854775808"),
    "wide of another size": (forged(*TWICE, end=End(wide=True, wide_size=50)), r"end record at byte 1228 does not fit"),
    "wide that contradicts": (forged(*TWICE, end=End(wide=True, wide_start=9)), r"end record at byte 1304 does not fit"),
    "nothing": (b"", r"not a ZIP file"),
    "two letters": (b"PK", r"not a ZIP file"),
    "another format": (b"GIF89a" + bytes(1000), r"not a ZIP file"),
}  # fmt: skip


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How much memory was asked of the pool."""
    sizes: list[int] = []
    take = POOL.take

    def note(length: int) -> Any:
        sizes.append(length)
        return take(length)

    monkeypatch.setattr(POOL, "take", note)
    tracemalloc.start()
    yield sizes
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 3 * MIB
    assert max(sizes, default=0) < MIB


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("from_store", [False, True])
def test_a_forgery_is_found_and_its_place_named(forgery: str, from_store: bool, taken: list[int]) -> None:
    data, message = FORGERIES[forgery]
    with pytest.raises(NpzError, match=message):
        (RemoteNpz(remote(data)) if from_store else Npz(data))["x"]


def remote(data: bytes, first_bytes: int = 100) -> RemoteObject:
    s3dlio.put("memory://hostile/x.npz", data)
    where = parse("memory://hostile/x.npz")
    return RemoteObject(open_store(where), where, first_bytes=first_bytes)


def test_a_directory_of_gigabytes_is_not_fetched() -> None:
    size = (1 << 33) + 76 + 22
    tail = End(wide=True).text(0, 1 << 33, (1 << 33) // 46)
    with pytest.raises(NpzError, match=r"directory at byte 0 has 8589934592 bytes"):
        Npz.over(_Holes(size, {1 << 33: tail}))


def test_a_directory_of_many_megabytes_is_left_at_its_first_wrong_entry() -> None:
    length = 60 * MIB
    tail = End(wide=True).text(0, length, length // 46)
    with pytest.raises(NpzError, match=r"no directory entry at byte 0"):
        Npz.over(_Holes(length + len(tail), {length: tail}))


LYING_ARRAYS: dict[str, tuple[bytes, str]] = {
    "huge": (npy_of(header(shape=(10**12,))), "cut short: 8000000000000 bytes are promised and 64 there"),
    "huge in two": (npy_of(header(shape=(10**9, 10**9))), "cut short"),
    "beyond all numbers": (npy_of(header(shape=(2**62, 2**62))), "values that no array has"),
    "huge of nothing": (npy_of(header("|V0", shape=(2**62, 2**62))), "values that no array has"),
    "huge and empty": (npy_of(header(shape=(0, 2**62))), "is not an array: array is too big"),
    "one byte short": (npy(np.arange(10))[:-1], "cut short: 80 bytes are promised and 79 there"),
    "negative": (npy_of(header(shape=(-5,))), "not a plain literal"),
    "twice negative": (npy_of(header(shape=(-5, -5))), "not a plain literal"),
    "fraction": (npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1.5,)}"), "not a plain literal"),
    "no tuple": (npy_of(header(shape=[2])), r"its shape is \[2\]"),
    "truth as length": (npy_of(header(shape=(True,))), r"its shape is \(True,\)"),
    "many dimensions": (npy_of(header(shape=(1,) * 65)), "values that no array has"),
    "order": (npy_of(header(fortran=7)), "values that no array has"),
    "call": (npy_of(header().replace("False", "print()")), "not a plain literal"),
    "long number": (npy_of(header(shape="@").replace("'@'", "(" + "9" * 5000 + ",)")), "not a plain literal"),
    "deep": (npy_of("(" * 5000), "is not an NPY file"),
    "deep and closed": (npy_of(header("@").replace("'@'", "[" * 300 + "]" * 300)), "is not an NPY file"),
    "signs": (npy_of("-" * 5000), "not a plain literal"),
    "no dictionary": (npy_of("[1, 2]"), "has not the fields"),
    "field missing": (npy_of("{'descr': '<f8', 'shape': (2,)}"), "has not the fields"),
    "field more": (npy_of(header()[:-1] + ", 'x': 1}"), "has not the fields"),
    "empty": (npy_of(""), "is not an NPY file"),
    "no text": (npy_of(b"\xff\xfe", version=3), "is not an NPY file"),
    "element of nothing": (npy_of(header("<f3")), "not understood"),
    "element with a warning": (npy_of(header("a5")), "its elements are 'a5'"),
    "element by name": (npy_of(header("float64")), "its elements are 'float64'"),
    "elements in one text": (npy_of(header("f8,i4")), "its elements are 'f8,i4'"),
    "huge element": (npy_of(header("|V2147483647")), "cut short"),
    "element too huge": (npy_of(header([("a", "|V2147483647"), ("b", "|V2147483647")])), "is not an NPY file"),
    "huge field": (npy_of(header([("a", "<f8", (10**9, 10**9))])), "is not an NPY file"),
    "one field twice": (npy_of(header([("a", "<f8"), ("a", "<f8")])), "is not an NPY file"),
    "field of numbers": (npy_of(header([(1, 2)])), "is not an NPY file"),
    "description of numbers": (npy_of(header(5)), "its elements are 5"),
    "objects": (npy_of(header("|O")), "pickles"),
    "hidden objects": (npy_of(header([("a", "<f8"), ("b", [("c", "|O")])])), "pickles"),
    "no such version": (npy_of(header(), version=4), "known version"),
    "huge header": (npy_of(header(), length=MASK, version=2), "header claims 4294967295 bytes; 262144 are"),
    "header cut short": (npy_of(header(), b"", length=60_000), "header is cut short: 60000 bytes"),
    "length cut short": (b"\x93NUMPY\2\0\1\0", "header is cut short"),
    "magic alone": (b"\x93NUMPY", "does not begin with"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LYING_ARRAYS)
@pytest.mark.parametrize("method", [0, 8])
def test_an_array_that_lies_is_found(lie: str, method: int, taken: list[int]) -> None:
    data, message = LYING_ARRAYS[lie]
    with pytest.raises(NpzError, match=message):
        read_npy(data, name="it")
    with pytest.raises(NpzError, match=rf"'x.npy' \(at byte 0\).*{message}"):
        Npz(forged(Entry(data, method=method)))["x"]


def test_a_header_of_many_megabytes_is_not_parsed() -> None:
    with pytest.raises(NpzError, match="header claims 10000000 bytes"):
        read_npy(npy_of("(" * 10_000_000, version=2))


def test_a_real_bomb_takes_no_more_than_it_promises() -> None:
    zeros = npy(np.zeros(4 * MIB, np.uint8))
    assert Npz(forged(Entry(zeros, method=8)))["x"].nbytes == 4 * MIB
    tracemalloc.start()
    with pytest.raises(NpzError, match="has not the size"):
        Npz(forged(Entry(zeros, method=8, size=1000)))["x"]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 3 * MIB


# -- files that were damaged --------------------------------------------------------------------------


def corpus() -> list[bytes]:
    """Returns files of every make."""
    named = {"x": np.arange(30), "é": np.ones((2, 3), ">f4"), "a/b": np.zeros((0, 4)), "s": np.array(["ab", "c"])}
    odd = {
        "t": np.zeros(3, [("a", "i4"), ("b", "f8", (2,))]),
        "zero": np.array(5),
        "f": np.asfortranarray(np.ones((3, 4))),
    }
    files = []
    for save in (np.savez, np.savez_compressed):
        for arrays in (named, odd, {}):
            file = io.BytesIO()
            save(file, **arrays)
            files.append(file.getvalue())
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", "spam " * 20)
        archive.comment = b"a comment"
    files.append(file.getvalue())
    files.append(forged(*TWICE, end=End(wide=True)))
    files.append(forged(Entry(local_extra=bytes(200)), Entry(name=b"y.npy", behind=bytes(16), flags=8)))
    return files


CORPUS = corpus()


def contents(arrays: Npz) -> dict[str, Any]:
    return {
        name: array if isinstance(array, bytes) else (array.dtype, array.shape, array.tobytes())
        for name, array in arrays.items()
    }


TRUTH = [contents(Npz(data)) for data in CORPUS]


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """Changes one place: mostly anywhere, often in the directory."""
    place = numbers.randrange(len(data))
    if numbers.random() < 0.4:
        place = max(0, len(data) - 1 - numbers.randrange(250))
    how = numbers.randrange(6)
    step = numbers.choice([1, 2, 4, 22, 46, 300])
    match how:
        case 0 | 1:
            return data[:place] + bytes([data[place] ^ 1 << numbers.randrange(8)]) + data[place + 1 :]
        case 2:
            return data[:place] + numbers.choice([b"\0", b"\xff", b"\x80"]) + data[place + 1 :]
        case 3:
            return data[:place] + data[place + step :]
        case 4:
            return data[:place] + numbers.randbytes(step) + data[place:]
        case _:
            source = numbers.randrange(len(data))
            return data[:place] + data[source : source + step] + data[place + step :]


def check_damaged(arrays: Npz, truth: dict[str, Any]) -> bool:
    """It gives what was saved, or says that it cannot; returns which."""
    try:
        found = contents(arrays)
    except NpzError:
        return False
    assert found == truth
    return True


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_a_damaged_file_gives_what_was_saved_or_an_error(seed: int) -> None:
    numbers = random.Random(seed)
    for _ in range(150):
        which = numbers.randrange(len(CORPUS))
        try:
            arrays = Npz(damaged(CORPUS[which], numbers))
        except NpzError:
            continue
        check_damaged(arrays, TRUTH[which])


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 60, 4000]))
def test_a_damaged_object_gives_what_was_saved_or_an_error(seed: int, first_bytes: int) -> None:
    numbers = random.Random(seed)
    for _ in range(30):
        which = numbers.randrange(len(CORPUS))
        try:
            arrays = RemoteNpz(remote(damaged(CORPUS[which], numbers), first_bytes))
        except NpzError:
            continue
        check_damaged(arrays, TRUTH[which])


def test_a_file_cut_anywhere_is_refused() -> None:
    for data in CORPUS:
        for length in range(len(data)):
            with pytest.raises(NpzError):
                Npz(data[:length])


def test_every_bit_of_the_data_is_guarded() -> None:
    data = forged(Entry(npy(np.arange(4))))
    for place in range(35, 35 + 128 + 32):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(NpzError, match="checksum"):
                Npz(flipped)["x"]


@settings(max_examples=100)
@given(
    st.integers(0, 2**32), st.sampled_from([npy(np.arange(20)), npy(np.zeros((3, 2), [("a", "<U2"), ("b", ">f8")]))])
)
def test_a_damaged_npy_file_gives_an_array_or_an_error(seed: int, data: bytes) -> None:
    numbers = random.Random(seed)
    for _ in range(50):
        hurt = damaged(data[:200], numbers) + data[200:]
        try:
            array = read_npy(hurt)
        except NpzError:
            continue
        assert array.nbytes <= len(hurt)


@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\3\4", b"\x93NUMPY\1\0", b"\x93NUMPY\3\0"]))
def test_junk_is_refused(junk: bytes, begin: bytes) -> None:
    for read in (Npz, read_npy):
        with pytest.raises(NpzError):
            read(begin + junk)  # type: ignore[operator]
