"""Room card: NPY and NPZ files in memory, against NumPy itself.

What comes from stores is in `test_npz_remote`, what lies in `test_npz_hostile`.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s3dlio.errors import NpzError, OptionError
from s3dlio.formats.npz import MissingArrayError, Npz, read_npy

Array = np.ndarray[Any, Any]

SCALARS = st.one_of(
    hnp.integer_dtypes(endianness="?"), hnp.unsigned_integer_dtypes(endianness="?"), hnp.boolean_dtypes(),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64, 128)), hnp.complex_number_dtypes(endianness="?"),
    hnp.byte_string_dtypes(max_len=5), hnp.unicode_string_dtypes(max_len=5, endianness="?"),
    hnp.datetime64_dtypes(endianness="?"), hnp.timedelta64_dtypes(endianness="?"),
)  # fmt: skip
ODD_KINDS = (
    np.dtype([("a", "<i4"), ("b", ">f8", (2,))]),
    np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    np.dtype([(("a title", "a"), "f4"), (("ü", "b"), "u8")]),
    np.dtype({"names": ["x", "y"], "formats": ["i2", "f4"], "offsets": [3, 9], "itemsize": 20}),
    np.dtype([("nested", [("deep", [("x", "<U3"), ("y", "S2")], (2, 2))]), ("z", "M8[25us]")]),
    np.dtype([("it's", "i1"), ('"quoted"', "i1"), ("back\\slash", "i1"), ("lïne\nbreak", "i1"), ("漢", "i1")]),
    np.dtype([("nothing", "<i4", (0,))]),
    np.dtype("V7"),
    np.dtype("V0"),
    np.dtype([]),
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any array that NumPy can save without pickling: of any kind, shape and order."""
    shape = draw(SHAPES)
    kind = draw(st.one_of(SCALARS, st.sampled_from(ODD_KINDS), hnp.array_dtypes(SCALARS, max_size=3)))
    size = int(np.prod(shape)) * kind.itemsize
    flat = np.frombuffer(draw(st.binary(min_size=64, max_size=64)) * (size // 64 + 1), np.uint8, size)
    if kind.hasobject or not kind.itemsize:
        return np.zeros(shape, kind)
    array = flat.copy().view(kind).reshape(shape)
    how = draw(st.sampled_from(["C", "F", "strided", "transposed"]))
    if how == "strided":
        return array[::2] if array.ndim else array
    return array.T if how == "transposed" else np.array(array, order="F" if how == "F" else "C")


def saved(*arrays: Array, compress: bool = False, **named: Array) -> bytes:
    """Returns an NPZ file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Stored array in format 3.0"
        (np.savez_compressed if compress else np.savez)(file, *arrays, **named)
    return file.getvalue()


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    """Returns an NPY file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.lib.format.write_array(file, array, version)
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns a ZIP file as zipfile writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return file.getvalue()


def contents(array: Array) -> Any:
    """Returns the bytes of an array; of a structured one those of its fields, since what pads them is anything."""
    return {name: contents(array[name]) for name in array.dtype.names} if array.dtype.names else array.tobytes()


def same(mine: Any, theirs: Any) -> None:
    """The two are one array, or the same bytes."""
    assert type(mine) is type(theirs)
    if isinstance(theirs, bytes):
        assert mine == theirs
        return
    assert mine.dtype == theirs.dtype
    assert mine.dtype.fields == theirs.dtype.fields
    assert mine.shape == theirs.shape
    assert contents(mine) == contents(theirs)
    assert (mine.flags.f_contiguous, mine.flags.c_contiguous) == (theirs.flags.f_contiguous, theirs.flags.c_contiguous)


def same_files(mine: Any, data: bytes) -> None:
    """All that NumPy says of a file is said, and in its order."""
    with np.load(io.BytesIO(data)) as theirs:
        assert list(mine) == list(mine.keys()) == list(theirs)
        assert len(mine) == len(theirs)
        for name, array in mine.items():
            same(array, theirs[name])
            assert name in mine


# -- what NumPy writes --------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.dictionaries(NAMES, arrays(), max_size=3), st.booleans())
def test_files_equal_what_numpy_loads(named: dict[str, Array], compress: bool) -> None:
    assume("file" not in named)
    assume(not any(name + ".npy" in named for name in named))
    data = saved(compress=compress, **named)
    same_files(Npz(data), data)


@settings(max_examples=300)
@given(arrays(), st.sampled_from([None, (1, 0), (2, 0), (3, 0)]))
def test_npy_files_equal_what_numpy_loads(array: Array, version: tuple[int, int] | None) -> None:
    try:
        data = npy(array, version)
    except UnicodeEncodeError:
        assume(False)  # names beyond Latin-1 are for version 3.0
    same(read_npy(data), np.load(io.BytesIO(data)))


def test_names_come_in_the_files_order_and_by_number() -> None:
    data = saved(np.zeros(1), z=np.ones(2), a=np.ones(3))
    assert list(Npz(data)) == ["z", "a", "arr_0"]
    same_files(Npz(data), data)


def test_an_array_is_found_by_its_whole_name_too() -> None:
    arrays = Npz(saved(x=np.arange(3)))
    assert "x" in arrays
    assert "x.npy" in arrays
    assert "y" not in arrays
    assert 5 not in arrays
    same(arrays["x.npy"], arrays["x"])
    assert list(arrays) == ["x"]


def test_every_array_that_was_saved_comes_back_under_its_name() -> None:
    named = {"x": np.arange(3), "x.npy": np.arange(5), ".npy": np.arange(7), "": np.arange(2)}
    found = Npz(saved(**named))
    assert list(found) == list(named)
    for name, array in named.items():
        same(found[name], array)


def test_an_empty_file_has_no_arrays() -> None:
    data = saved()
    assert dict(Npz(data)) == {}
    same_files(Npz(data), data)


def test_headers_of_thousands_of_fields() -> None:
    kind = np.dtype([(f"field number {number}", "f4") for number in range(4000)])
    array = np.ones(3, kind)
    data = npy(array)
    assert data[6] == 2  # more than 64 KiB of header
    same(read_npy(data), array)


def test_headers_of_python_2_are_read() -> None:
    header = b"{'descr': [('L', '<i4'), ('2L', '<i4')], 'fortran_order': False, 'shape': (2L, 1L), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + np.arange(4, dtype="<i4").tobytes()
    assert read_npy(data).tolist() == [[(0, 1)], [(2, 3)]]
    assert read_npy(data).dtype.names == ("L", "2L")


# -- what else there is in ZIP files ------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_are_no_arrays_are_bytes(method: int) -> None:
    data = zipped(("notes.txt", b"spam" * 9), ("x.npy", b"no array"), ("empty", b""), ("y", npy(np.ones(2))),
                  ("folder/", b""), method=method)  # fmt: skip
    same_files(Npz(data), data)


class _Pipe(io.RawIOBase):
    """A file that cannot seek: zipfile then writes sizes and sums behind the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.data += bytes(piece)
        return len(piece)


@pytest.mark.parametrize("compress", [False, True])
def test_files_written_to_a_pipe(compress: bool) -> None:
    pipe = _Pipe()
    (np.savez_compressed if compress else np.savez)(pipe, x=np.arange(1000), y=np.ones((3, 4)))
    same_files(Npz(pipe.data), pipe.data)


def test_a_file_with_a_comment() -> None:
    file = io.BytesIO(saved(x=np.arange(5)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"a comment"
    same_files(Npz(file.getvalue()), file.getvalue())
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(65_000)  # which zipfile takes for the end of an empty file
    same(Npz(file.getvalue())["x"], np.arange(5))


def test_fields_of_other_programs_are_passed_over() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            info = zipfile.ZipInfo(name)
            info.extra = b"\x99\x99" + (5000).to_bytes(2, "little") + bytes(5000)
            info.comment = b"what a member"
            archive.writestr(info, npy(np.arange(40)))
    same_files(Npz(file.getvalue()), file.getvalue())


# -- memory and life ----------------------------------------------------------------------------------


def test_stored_arrays_are_views_of_the_file() -> None:
    data = bytearray(saved(x=np.arange(1000), empty=np.zeros((0, 3))))
    array = Npz(data)["x"]
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert array.flags.writeable
    assert not Npz(bytes(data))["x"].flags.writeable
    assert read_npy(bytearray(npy(np.zeros((0, 3))))).flags.writeable


def test_unpacked_arrays_are_writable_and_new_each_time() -> None:
    arrays = Npz(saved(x=np.arange(50_000), compress=True))
    first, second = arrays["x"], arrays["x"]
    first[:] = 0
    assert np.array_equal(second, np.arange(50_000))
    assert first.flags.aligned


def test_any_contiguous_memory_will_do() -> None:
    data = saved(x=np.arange(8))
    words = np.frombuffer(data + bytes(-len(data) % 8), np.uint64)  # padded: no longer a ZIP file
    for memory in (memoryview(data), np.frombuffer(data, np.uint8), bytearray(data)):
        same(Npz(memory)["x"], np.arange(8))
    with pytest.raises(OptionError, match="contiguous"):
        Npz(words[::2])


def test_a_missing_name_is_a_key_error_that_says_what_there_is() -> None:
    arrays = Npz(saved(weights=np.zeros(1), bias=np.zeros(1)))
    with pytest.raises(KeyError) as caught:
        arrays["wieghts"]
    assert isinstance(caught.value, MissingArrayError)
    assert str(caught.value) == "has no array 'wieghts'; did you mean 'weights'? (it has weights, bias)"
    assert arrays.get("nothing") is None
    with pytest.raises(KeyError):
        arrays[0]  # type: ignore[index]


def test_many_names_are_not_all_shown() -> None:
    arrays = Npz(zipped(*((f"{number}.npy", b"") for number in range(2000))))
    assert len(repr(arrays)) < 200
    with pytest.raises(KeyError, match=r"18, 19, \.\.\."):
        arrays["x"]


def test_it_cannot_be_pickled_or_copied() -> None:
    arrays = Npz(saved(x=np.arange(3)))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"dict\(arrays\)"):
            attempt(arrays)


# -- refusals -----------------------------------------------------------------------------------------


def test_objects_are_refused_without_being_unpickled() -> None:
    for array in (np.array([{"a": 1}], object), np.zeros(2, [("a", "i4"), ("b", object)])):
        data = saved(x=array)
        with pytest.raises(NpzError, match=r"'x.npy' \(at byte 0\) holds Python objects, which are pickles"):
            Npz(data)["x"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_numpy_does_not_write_are_named(method: int) -> None:
    with pytest.raises(NpzError, match=rf"'x.npy' \(at byte 0\) is compressed by method {method}"):
        Npz(zipped(("x.npy", npy(np.ones(3))), method=method))["x"]


def test_one_format_is_not_taken_for_the_other() -> None:
    with pytest.raises(NpzError, match="read_npy"):
        Npz(npy(np.ones(3)))
    with pytest.raises(NpzError, match="read_npz"):
        read_npy(saved(x=np.ones(3)))
