"""Room card: NPZ and NPY objects of any store: what NumPy would load, and nothing fetched that was not asked for.

Arrays of every kind are in `test_npz`; here is what depends on reading by ranges.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import struct
import threading
import time
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import arrays as door
from s3dlio.arrays import RemoteNpz, read_npy, read_npz
from s3dlio.buffers import KIB, MIB
from s3dlio.errors import FormatError, NotFoundError, NpzError, ObjectChangedError, UriError
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.stores.local import LocalStore
from s3dlio.uri import parse
from tests.patience import eventually
from tests.reading import CHUNK, impatient, requests_for, verbs_with
from tests.servers.faults import ChangeEtag, Latency, ResetInBody, s3_error
from tests.test_npz import NAMES, npy, same, same_files, saved
from tests.test_npz import arrays as any_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin

PATH = "/bucket/a.npz"
URI = "s3://bucket/a.npz"
#: Ten arrays of 100 KB, which the first 256 KiB and the last 128 KiB of the file do not hold.
NAMED = {f"part {number}": np.random.default_rng(number).random(12_500) for number in range(10)}


@pytest.fixture
def shop(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultOrigin]:
    """An origin with an NPZ object; the verbs read it in parts of 64 KiB."""
    origin.objects[PATH] = saved(**NAMED)
    with verbs_with(monkeypatch, impatient(origin.endpoint_url, chunk_size=CHUNK, min_split_size=200 * KIB)):
        yield origin


def fetched(origin: FaultOrigin, path: str = PATH) -> list[int]:
    """Returns how many bytes each request asked for."""
    size = len(origin.objects[path])
    found = []
    for request in requests_for(origin, path):
        assert request.method == "GET"
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        found.append(min(int(last) + 1, size) - int(first))
    return found


# -- equal to NumPy -----------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.dictionaries(NAMES, any_arrays(), max_size=4), st.booleans(), st.sampled_from([1, 100, 1000]))
def test_objects_equal_what_numpy_loads(named: dict[str, Any], compress: bool, first_bytes: int) -> None:
    assume("file" not in named)
    assume(not any(name + ".npy" in named for name in named))
    data = saved(compress=compress, **named)
    s3dlio.put("memory://npz/a", data)
    where = parse("memory://npz/a")
    found = RemoteNpz(RemoteObject(open_store(where), where, first_bytes=first_bytes))
    same_files(found, data)
    assert list(found.load()) == list(found)
    same_files(found.load(), data)


@settings(max_examples=100)
@given(any_arrays(), st.binary(max_size=9))
def test_npy_objects_equal_what_numpy_loads(array: Any, behind: bytes) -> None:
    data = npy(array)
    s3dlio.put("memory://npz/a.npy", data + behind)
    found = read_npy("memory://npz/a.npy")
    same(found, np.load(io.BytesIO(data)))
    assert found.flags.writeable


@pytest.mark.parametrize("compress", [False, True])
def test_from_a_real_server(rclone: S3Server, compress: bool) -> None:
    data = saved(compress=compress, notes=np.array("spam"), **NAMED)
    with rclone.activate():
        rclone.make_bucket("npz")
        uri = "s3://npz/some where/a.npz"
        s3dlio.put(uri, data)
        same_files(read_npz(uri), data)
        same_files(read_npz(uri).load(), data)
        same(read_npz(uri, "part 7"), NAMED["part 7"])
        s3dlio.put(uri, npy(NAMED["part 3"]))
        same(read_npy(uri), NAMED["part 3"])


def test_from_files_and_memory(tmp_path: Path) -> None:
    data = saved(**NAMED)
    for uri in (f"file://{tmp_path}/a.npz", "memory://npz/b.npz"):
        s3dlio.put(uri, data)
        same_files(read_npz(uri), data)


# -- no more than was asked for -----------------------------------------------------------------------


def test_a_small_object_costs_one_request(shop: FaultOrigin) -> None:
    data = shop.objects[PATH] = saved(x=np.arange(100), y=np.ones(7))
    same_files(read_npz(URI), data)
    assert fetched(shop) == [len(data)]


def test_one_array_costs_one_request(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    assert (len(arrays), "part 5" in arrays) == (10, True)
    assert fetched(shop) == [256 * KIB, 128 * KIB]
    same(arrays["part 5"], NAMED["part 5"])
    assert fetched(shop)[2:] == [30 + 10 + 20 + 128 + 100_000]
    same(arrays["part 0"], NAMED["part 0"])  # in what came first
    assert len(fetched(shop)) == 3


def test_a_large_array_comes_in_parts(shop: FaultOrigin) -> None:
    array = np.arange(100_000)
    shop.objects[PATH] = saved(a=np.zeros(100_000), x=array, z=np.zeros(100_000))
    same(read_npz(URI, "x"), array)
    assert len(fetched(shop)) == 2 + -(-800_000 // CHUNK)
    assert sum(fetched(shop)) < 800_000 + 400 * KIB


def test_a_directory_of_many_names_costs_one_more_request(shop: FaultOrigin) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("first.npy", npy(np.zeros(100_000)))
        for number in range(1500):
            archive.writestr(f"{number:060}.npy", b"")
    shop.objects[PATH] = file.getvalue()
    assert len(read_npz(URI)) == 1501
    assert len(fetched(shop)) == 3


def test_a_field_of_unusual_length_costs_one_more_request(shop: FaultOrigin) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("first.npy", npy(np.zeros(100_000)))
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<HH", 0x9999, 50_000) + bytes(50_000)
        archive.writestr(info, npy(np.arange(100)))
        archive.writestr("last.npy", npy(np.zeros(100_000)))
    shop.objects[PATH] = file.getvalue()
    same(read_npz(URI, "x"), np.arange(100))
    assert fetched(shop)[2:] == [30 + 5 + 928 + 4096, 928]


def test_arrays_one_after_the_other_become_few_requests(shop: FaultOrigin) -> None:
    named = {f"{number}": np.full(500, number) for number in range(500)}
    data = shop.objects[PATH] = saved(**named)
    same_files(read_npz(URI), data)
    assert len(fetched(shop)) < 60  # and not 502
    before = len(fetched(shop))
    same_files(read_npz(URI).load(), data)
    assert len(fetched(shop)) - before < 60


def test_who_asks_for_one_after_the_other_is_read_ahead_for(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    shop.plan(PATH, *[Latency(0.3)] * 8)
    before = len(shop.requests)
    same_files(arrays, shop.objects[PATH])
    came = [request.time_s for request in shop.requests[before:]]
    assert min(after - first for first, after in itertools.pairwise(came)) < 0.3  # before the one before was answered


def test_no_more_is_read_ahead_than_was_read(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    before = sum(fetched(shop))
    for name in ("part 4", "part 5"):
        same(arrays[name], NAMED[name])
    eventually(lambda: len(fetched(shop)) == 5)  # two short neighbours are one request
    time.sleep(0.05)
    assert 390_000 < sum(fetched(shop)) - before < 410_000
    same(arrays["part 6"], NAMED["part 6"])  # is here already
    same(arrays["part 6"], NAMED["part 6"])  # and is handed out once
    assert arrays["part 6"] is not arrays["part 6"]


def test_who_jumps_about_is_not_read_ahead_for(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    for number in (9, 8, 7, 3, 5, 4, 6, 3):
        same(arrays[f"part {number}"], NAMED[f"part {number}"])
    assert len(fetched(shop)) == 2 + 8


def test_one_megabyte_out_of_a_gigabyte_moves_less_than_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.npz"
    _write_sparse(path, 1000, MIB)
    assert path.stat().st_size > 1_000_000_000
    moved = _count_bytes(monkeypatch)
    array = read_npz(f"file://{path}", "array 777")
    assert (array.shape, array.sum()) == ((MIB - 128,), 0)
    assert sum(moved) < 2_000_000
    assert len(moved) == 3


def test_beyond_four_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vast.npz"
    with path.open("wb") as file:
        file.seek(5 << 30)  # a hole, which takes no room
        np.savez(file, x=np.arange(100_000), y=np.ones(3))
    moved = _count_bytes(monkeypatch)
    arrays = read_npz(f"file://{path}")
    assert list(arrays) == ["x", "y"]
    same(arrays["x"], np.arange(100_000))
    same(arrays["y"], np.ones(3))
    assert sum(moved) < 2 * MIB


def _write_sparse(path: Path, count: int, member_bytes: int) -> None:
    """Writes arrays of zeros whose data are holes in the file."""
    head = npy(np.zeros(member_bytes - 128, np.uint8))[:128]
    crc = zlib.crc32(head + bytes(member_bytes - 128))
    with path.open("wb") as file:
        listed, place = b"", 0
        for number in range(count):
            name = f"array {number:03}.npy".encode()
            common = (20, 0, 0, 0, 0, crc, member_bytes, member_bytes, len(name))
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", *common, 0) + name + head)
            listed += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *common, 0, 0, 0, 0, 0, place) + name
            place += 30 + len(name) + member_bytes
            file.seek(place)
        file.write(listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(listed), place, 0))


def _count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    moved: list[int] = []
    fill = LocalStore._fill

    def count(store: Any, uri: Any, descriptor: int, start: int, target: memoryview, token: Any) -> None:
        moved.append(len(target))
        fill(store, uri, descriptor, start, target, token)

    monkeypatch.setattr(LocalStore, "_fill", count)
    return moved


def test_of_an_npy_object_only_its_array_is_read(shop: FaultOrigin) -> None:
    array = np.arange(300_000)
    shop.objects["/bucket/x.npy"] = npy(array) + bytes(5 * MIB)
    same(read_npy("s3://bucket/x.npy"), array)
    assert sum(fetched(shop, "/bucket/x.npy")) == 128 + array.nbytes
    shop.objects["/bucket/y.npy"] = npy(array[:1000])
    same(read_npy("s3://bucket/y.npy"), array[:1000])
    assert len(fetched(shop, "/bucket/y.npy")) == 1


def test_a_header_that_promises_too_much_is_found_before_anything_is_read(shop: FaultOrigin) -> None:
    shop.objects["/bucket/x.npy"] = npy(np.zeros(10**6))[:-1]
    with pytest.raises(NpzError, match=r"cut short: 8000000 bytes are promised and 7999999 there") as caught:
        read_npy("s3://bucket/x.npy")
    assert (caught.value.uri, caught.value.operation) == ("s3://bucket/x.npy", "read_npy")
    assert len(fetched(shop, "/bucket/x.npy")) == 1


# -- the arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_are_the_callers_own(shop: FaultOrigin, compress: bool) -> None:
    shop.objects[PATH] = saved(compress=compress, **NAMED, small=np.arange(5), empty=np.zeros((0, 2)))
    found = read_npz(URI)
    loaded = found.load()
    for name in found:
        for array in (found[name], loaded[name]):
            assert array.flags.writeable
            array[...] = -1
    same_files(found, shop.objects[PATH])


def test_arrays_are_aligned(shop: FaultOrigin) -> None:
    named = NAMED | {f"small {number}": np.arange(number * 100) for number in range(1, 50)}
    shop.objects[PATH] = saved(**named)
    shop.objects["/bucket/x.npy"] = npy(np.arange(500_000))
    arrays = read_npz(URI)
    for array in [*arrays.values(), *arrays.load().values(), read_npy("s3://bucket/x.npy")]:
        assert array.ctypes.data % 64 == 0


def test_threads_may_share_the_mapping(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    right: list[bool] = []

    def read(seed: int) -> None:
        names = random.Random(seed).choices(list(NAMED), k=15)
        right.extend(np.array_equal(arrays[name], NAMED[name]) for name in names)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 60


def test_a_forked_child_may_use_the_mapping(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    for name in ("part 3", "part 4"):
        same(arrays[name], NAMED[name])  # others are on their way now
    child = os.fork()
    if not child:
        status = 1
        try:
            same(arrays["part 5"], NAMED["part 5"])
            same_files(arrays.load(), shop.objects[PATH])
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    same(arrays["part 5"], NAMED["part 5"])


def test_the_mapping_cannot_be_pickled_but_its_arrays_can(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(arrays)
    same(pickle.loads(pickle.dumps(dict(arrays)))["part 1"], NAMED["part 1"])


# -- errors -------------------------------------------------------------------------------------------


def test_a_missing_array_is_a_key_error_that_names_object_and_neighbour(shop: FaultOrigin) -> None:
    with pytest.raises(KeyError) as caught:
        read_npz(URI, "prat 5")
    assert isinstance(caught.value, FormatError)
    assert str(caught.value).startswith(f"read_npz {URI}: has no array 'prat 5'; did you mean 'part 5'?")
    assert read_npz(URI).get("nothing") is None


@pytest.mark.parametrize("read", [read_npz, read_npy])
def test_what_cannot_be_read_says_so(shop: FaultOrigin, read: Any) -> None:
    shop.objects[PATH] = b"neither"
    with pytest.raises(NpzError) as caught:
        read(URI)
    assert (caught.value.uri, caught.value.operation) == (URI, read.__name__)
    with pytest.raises(NotFoundError):
        read("s3://bucket/nothing")
    with pytest.raises(UriError):
        read("s3://bucket")


def test_damage_is_told_with_its_place(shop: FaultOrigin) -> None:
    data = bytearray(shop.objects[PATH])
    data[650_000] ^= 1
    shop.objects[PATH] = bytes(data)
    arrays = read_npz(URI)
    for read in (lambda: arrays["part 6"], arrays.load, lambda: read_npz(URI, "part 6")):
        with pytest.raises(NpzError, match=r"checksum of 'part 6.npy' \(at byte 601128\) is wrong") as caught:
            read()
        assert (caught.value.uri, caught.value.operation) == (URI, "read_npz")
    same(arrays["part 5"], NAMED["part 5"])


def test_damage_that_was_met_ahead_is_raised_in_its_turn(shop: FaultOrigin) -> None:
    data = bytearray(shop.objects[PATH])
    data[650_000] ^= 1
    shop.objects[PATH] = bytes(data)
    arrays = read_npz(URI)
    for name, array in NAMED.items():
        if name != "part 6":
            same(arrays[name], array)
            continue
        with pytest.raises(NpzError, match="part 6"):
            arrays[name]


def test_a_replaced_object_is_never_a_mixture(shop: FaultOrigin) -> None:
    arrays = read_npz(URI)
    same(arrays["part 5"], NAMED["part 5"])
    shop.objects[PATH] = saved(**{name: array[::-1] for name, array in NAMED.items()})
    for read in (lambda: arrays["part 5"], lambda: arrays["part 8"], arrays.load):
        with pytest.raises(ObjectChangedError) as caught:
            read()
        assert caught.value.uri == URI


def test_a_directory_of_another_version_is_refused(shop: FaultOrigin) -> None:
    shop.plan(PATH, None, ChangeEtag('"another"'))
    with pytest.raises(ObjectChangedError):
        read_npz(URI)
    same_files(read_npz(URI), shop.objects[PATH])


def test_faults_on_the_way_are_mended(shop: FaultOrigin) -> None:
    shop.plan(PATH, s3_error(503, "SlowDown"), ResetInBody(999), None, ResetInBody(77), s3_error(500, "InternalError"))
    same_files(read_npz(URI).load(), shop.objects[PATH])
    shop.plan(PATH, s3_error(403, "AccessDenied"), s3_error(403, "AccessDenied"))
    with pytest.raises(s3dlio.AccessDeniedError):
        read_npz(URI)


def test_the_door_says_what_it_offers() -> None:
    assert all(getattr(door, name).__doc__ for name in door.__all__)
