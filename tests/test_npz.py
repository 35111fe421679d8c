"""Room card: NPY and NPZ files against NumPy itself, and against files that lie."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s3dlio.errors import NpzError
from s3dlio.formats.npz import Npz, read_npy

KINDS = st.one_of(
    hnp.integer_dtypes(endianness="?"), hnp.unsigned_integer_dtypes(endianness="?"), hnp.boolean_dtypes(),
    hnp.floating_dtypes(endianness="?"), hnp.complex_number_dtypes(endianness="?"),
    hnp.byte_string_dtypes(max_len=5), hnp.unicode_string_dtypes(max_len=5), hnp.datetime64_dtypes(),
    st.just(np.dtype([("a", "<i4"), ("b", ">f8", (2,))])),
)  # fmt: skip
ARRAYS = hnp.arrays(KINDS, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))


def packed(arrays: dict[str, Any], *, compress: bool = False) -> bytes:
    """Return an NPZ file."""
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def same(mine: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> None:
    assert mine.dtype == theirs.dtype
    assert mine.shape == theirs.shape
    assert mine.tobytes() == theirs.tobytes()
    assert mine.flags.f_contiguous == theirs.flags.f_contiguous


@settings(max_examples=150)
@given(ARRAYS, st.booleans(), st.booleans())
def test_arrays_equal_what_numpy_loads(array: np.ndarray[Any, Any], compress: bool, fortran: bool) -> None:
    data = packed({"x": np.asfortranarray(array) if fortran else array}, compress=compress)
    same(Npz(data)["x"], np.load(io.BytesIO(data))["x"])


@given(ARRAYS)
def test_npy_files_equal_what_numpy_loads(array: np.ndarray[Any, Any]) -> None:
    file = io.BytesIO()
    np.save(file, array)
    same(read_npy(file.getvalue()), np.load(io.BytesIO(file.getvalue())))


def test_names_come_in_the_files_order_and_by_number() -> None:
    file = io.BytesIO()
    np.savez(file, np.zeros(1), z=np.ones(2), a=np.ones(3))
    assert list(Npz(file.getvalue())) == list(np.load(io.BytesIO(file.getvalue())))
    assert len(Npz(file.getvalue())) == 3


def test_stored_arrays_are_views_of_the_file() -> None:
    data = bytearray(packed({"x": np.arange(1000, dtype=np.uint8)}))
    array = Npz(data)["x"]
    array[0] = 77
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not Npz(bytes(data)).__contains__("y")


def test_a_missing_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Npz(packed({"x": np.zeros(1)}))["y"]


def test_objects_are_refused_without_being_unpickled() -> None:
    data = packed({"x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(NpzError, match="pickles"):
        Npz(data)["x"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_flipped_bit_is_found(compress: bool) -> None:
    data = bytearray(packed({"x": np.arange(500)}, compress=compress))
    data[len(data) // 2] ^= 16
    with pytest.raises(NpzError):
        Npz(data)["x"]


def test_a_wrong_checksum_names_the_member_and_its_place() -> None:
    data = bytearray(packed({"x": np.arange(500)}))
    data[2000] ^= 1
    with pytest.raises(NpzError, match=r"checksum of 'x.npy' \(at byte 0\)"):
        Npz(data)["x"]


@pytest.mark.parametrize("junk", [b"", b"PK", b"not a zip at all", b"\x93NUMPY\x01\x00"])
def test_junk_is_not_an_npz(junk: bytes) -> None:
    with pytest.raises(NpzError):
        Npz(junk)


@pytest.mark.parametrize("cut", [5, 30, 200, 700])
def test_a_file_that_is_cut_short_is_refused(cut: int) -> None:
    data = packed({"x": np.arange(100)})
    with pytest.raises(NpzError):
        Npz(data[:-cut])["x"]


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * 100_000)
    data = bytearray(file.getvalue())
    place = data.rfind(b"PK\x01\x02")
    struct.pack_into("<L", data, place + 24, 0xF0000000)  # claims 4 GB unpacked
    with pytest.raises(NpzError, match="cannot be"):
        Npz(data)["x"]


def test_a_header_that_promises_more_than_there_is_is_refused() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(NpzError, match="cut short"):
        read_npy(file.getvalue())


@settings(max_examples=300)
@given(st.data())
def test_mutated_files_raise_or_read_and_nothing_else(data: st.DataObject) -> None:
    good = bytearray(packed({"x": np.arange(20), "y": np.ones((2, 3))}, compress=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        list(Npz(good).values())
    except NpzError:
        return
