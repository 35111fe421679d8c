"""Made-up files that their own libraries can read, a piece at a time.

Floor 4. Knows the formats, and how long a file of each is before its first byte; must not know stores. A file of
many GiB takes a few MiB of memory: the payload is made while the file is written.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from s3dlio.buffers import KIB, MIB
from s3dlio.errors import OptionError, suggest
from s3dlio.formats.example_writing import encode_example
from s3dlio.formats.tfrecord import FOOT, HEAD, frame_foot, frame_head
from s3dlio.synthetic import Pattern, Recipe

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ZEROS = memoryview(bytes(MIB))
#: Payload of a TFRecord file's records, the last one excepted.
_RECORD_BYTES = 64 * KIB
#: Name of the feature, array or dataset that holds the payload.
_NAME = "x"
#: A field of one byte (its number, 15, is not in use) and a number of one to ten bytes; readers pass over it.
_FILLER_TAG = b"\x78"
_MOST_FILLER = 11
_EPOCH = (1980, 1, 1, 0, 0, 0)


def file_of(object_type: str, recipe: Recipe) -> Iterator[Buffer]:
    """Return the pieces of a file of exactly ``recipe.size`` bytes.

    Args:
        object_type: ``"raw"`` (also ``"random"``), ``"zeros"``, ``"npz"`` (an array ``x`` of bytes), ``"tfrecord"`` (records of about
            64 KiB, each a ``tf.train.Example`` with the feature ``x``) or ``"hdf5"`` (a dataset ``x`` of bytes).
        recipe: What the payload is made of, and how long the file is.

    Raises:
        OptionError: There is no such type, or the file is too short for it.
    """
    kind = object_type.lower()
    try:
        return _KINDS[kind](recipe)
    except KeyError:
        msg = f"there is no object_type {object_type!r}{suggest(kind, _KINDS)}; use {', '.join(_KINDS)}"
        raise OptionError(msg, operation="generate") from None


def _raw(recipe: Recipe) -> Iterator[Buffer]:
    return Pattern(recipe).pieces()


def _zeros(recipe: Recipe) -> Iterator[Buffer]:
    for start in range(0, recipe.size, MIB):
        yield _ZEROS[: recipe.size - start]


def _payload(recipe: Recipe, overhead: int, kind: str) -> Pattern:
    if recipe.size <= overhead:
        msg = f"an object of type {kind} takes more than {overhead} bytes, not {recipe.size}"
        raise OptionError(msg, operation="generate")
    return Pattern(dataclasses.replace(recipe, size=recipe.size - overhead))


# -- NPZ ----------------------------------------------------------------------------------------------


#: Header of the ``.npy`` file, length of the data in bytes, and what yields it.
Member = tuple[bytes, int, Callable[[], Iterator["Buffer"]]]


class _Pieces(io.RawIOBase):
    """What is written, as a list to be taken away; cannot seek, so that zip files are written in one go."""

    def __init__(self) -> None:
        self.list: list[Buffer] = []

    def write(self, data: Buffer) -> int:
        self.list.append(data)
        return len(memoryview(data))

    def take(self) -> Iterator[Buffer]:
        taken, self.list = self.list, []
        return iter(taken)


def npz(members: Mapping[str, Member]) -> Iterator[Buffer]:
    """Yield an NPZ file.

    Args:
        members: By name: the header of the ``.npy`` file, the length of the data in bytes, and what yields it.
    """
    sink = _Pieces()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, (header, _, data) in members.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                member.write(header)
                for piece in data():
                    member.write(piece)
                    yield from sink.take()
            yield from sink.take()
    yield from sink.take()


def npz_size(members: Mapping[str, Member]) -> int:
    """Return how many bytes :func:`npz` yields."""
    hollow = {name: (header, 0, _nothing) for name, (header, _, _) in members.items()}
    size = sum(len(memoryview(piece)) for piece in npz(hollow))
    begins, before = [], 0
    for name, (header, length, _) in members.items():
        begins.append(before)
        before += len(name) + 4 + len(header) + length + 30 + 20 + 24
    large = zipfile.ZIP64_LIMIT
    for begin, (header, length, _) in zip(begins, members.values(), strict=True):
        numbers = 16 * (len(header) + length > large) + 8 * (begin > large)
        size += length + numbers + 4 * (numbers > 0)
    return size + 76 * (before > large)  # the end of the directory, once more and wider


def _nothing() -> Iterator[Buffer]:
    return iter(())


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what stands before the data of a ``.npy`` file."""
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def _npz(recipe: Recipe) -> Iterator[Buffer]:
    overhead, length = -1, max(1, recipe.size)
    while True:  # the header says how long the data are, and that takes a digit more or less
        member = (npy_header(np.dtype(np.uint8), (length,)), length, _nothing)
        found = npz_size({_NAME: member}) - length
        if found == overhead:
            break
        overhead = found
        pattern = _payload(recipe, overhead, "npz")
        length = pattern.size
    return npz({_NAME: (member[0], length, pattern.pieces)})


# -- TFRecord -----------------------------------------------------------------------------------------


def _tfrecord(recipe: Recipe) -> Iterator[Buffer]:
    least = HEAD + FOOT + len(encode_example({_NAME: b""}))
    pattern = _payload(recipe, least + 1, "tfrecord")  # of which some is not used
    return _records(pattern, recipe.size)


def _records(pattern: Pattern, size: int) -> Iterator[Buffer]:
    whole = HEAD + FOOT + len(encode_example({_NAME: bytes(_RECORD_BYTES)}))
    used = 0
    while size >= 2 * whole:
        yield from _record(pattern.read(used, used + _RECORD_BYTES))
        used += _RECORD_BYTES
        size -= whole
    length, filler = _fitting(size)
    yield from _record(pattern.read(used, used + length), filler)


def _record(payload: memoryview, filler: bytes = b"") -> Iterator[Buffer]:
    data = memoryview(encode_example({_NAME: [payload]}) + filler)
    yield frame_head(data)
    yield data
    yield frame_foot(data)


def _fitting(size: int) -> tuple[int, bytes]:
    """Return how long a payload makes a record of ``size`` bytes, and what is to be added to it.

    Lengths stand before what they are the length of, in bytes of seven bits: not every size can be reached.
    """
    data = size - HEAD - FOOT
    length = data
    while True:
        gap = data - len(encode_example({_NAME: bytes(length)}))
        if gap == 0:
            return length, b""
        if 1 < gap <= _MOST_FILLER:
            return length, _FILLER_TAG + b"\x80" * (gap - 2) + b"\x00"
        length += min(gap, -1)


# -- HDF5 ---------------------------------------------------------------------------------------------


class _Sparse(io.RawIOBase):
    """A file of which only what is written is kept: HDF5 sets aside the place of the data, and leaves it alone."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}
        self.length = 0
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Buffer) -> int:
        kept = bytes(data)
        self.written[self._at] = kept
        self._at += len(kept)
        self.length = max(self.length, self._at)
        return len(kept)

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target)
        view[:] = self.between(self._at, self._at + len(view))
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.length = self._at if size is None else size
        return self.length

    def between(self, start: int, stop: int) -> bytes:
        """Return what a stretch holds, zeros where nothing was written."""
        out = bytearray(stop - start)
        for at, data in self.written.items():
            low, high = max(at, start), min(at + len(data), stop)
            if low < high:
                out[low - start : high - start] = data[low - at : high - at]
        return bytes(out)


def _hdf5(recipe: Recipe) -> Iterator[Buffer]:
    overhead = sum(_hdf5_frame(1)[1:])
    pattern = _payload(recipe, overhead, "hdf5")
    frame, before, behind = _hdf5_frame(pattern.size)
    return _framed(frame.between(0, before), pattern, frame.between(recipe.size - behind, recipe.size))


def _framed(head: bytes, pattern: Pattern, tail: bytes) -> Iterator[Buffer]:
    yield head
    yield from pattern.pieces()
    yield tail


def _hdf5_frame(length: int) -> tuple[_Sparse, int, int]:
    """Return an HDF5 file without its data, and how many bytes stand before and behind them."""
    try:
        import h5py  # noqa: PLC0415 - optional
    except ImportError as error:
        msg = "object_type='hdf5' needs h5py: pip install 's3dlio[hdf5]'"
        raise OptionError(msg, operation="generate") from error
    sparse = _Sparse()
    with h5py.File(sparse, "w", track_order=False) as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.CONTIGUOUS)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plan.set_obj_track_times(False)  # else the second of its making is in the file
        space = h5py.h5s.create_simple((length,))
        before = h5py.h5d.create(file.id, _NAME.encode(), h5py.h5t.NATIVE_UINT8, space, plan).get_offset()
    return sparse, before, sparse.length - before - length


_KINDS: dict[str, Callable[[Recipe], Iterator[Buffer]]] = {
    "raw": _raw,
    "random": _raw,
    "zeros": _zeros,
    "npz": _npz,
    "tfrecord": _tfrecord,
    "hdf5": _hdf5,
}
