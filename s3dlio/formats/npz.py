"""NPY and NPZ files, in memory.

Floor 4. Knows NumPy's file formats and ZIP; must not know stores. Arrays are views of the memory they
are given wherever the file holds them uncompressed. Object arrays are pickles, and are never read.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from s3dlio.errors import NpzError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = np.ndarray[Any, Any]

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
#: More than any array header numpy writes; a larger claim is hostile.
_MAX_ARRAY_HEADER = 64 * 1024
#: Deflate cannot expand more than this; a directory that promises more lies.
_MAX_RATIO = 1032


def read_npy(data: Buffer, *, name: str = "array") -> Array:
    """Return the array of an NPY file as a view of ``data`` (writable if ``data`` is).

    Args:
        data: The whole file.
        name: What to call it in errors.

    Raises:
        NpzError: Not an NPY file, cut short, or an object array.
    """
    view = memoryview(data).cast("B")
    head = io.BytesIO(view[:_MAX_ARRAY_HEADER])
    try:
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=_MAX_ARRAY_HEADER)
    except (ValueError, EOFError, SyntaxError) as error:
        msg = f"{name} is not an NPY file: {error}"
        raise NpzError(msg) from error
    if dtype.hasobject:
        msg = f"{name} holds Python objects, which are pickles and are not read; save plain arrays"
        raise NpzError(msg)
    return _as_array(view[head.tell() :], (tuple(shape), bool(fortran), dtype), name)


def _as_array(body: memoryview, kind: tuple[tuple[int, ...], bool, np.dtype[Any]], name: str) -> Array:
    shape, fortran, dtype = kind
    count = 1
    for length in shape:
        if length < 0:
            msg = f"{name} has a negative dimension: {shape}"
            raise NpzError(msg)
        count *= length
    if count * dtype.itemsize > len(body):
        msg = f"{name} is cut short: {count * dtype.itemsize} bytes are promised and {len(body)} there"
        raise NpzError(msg)
    if not count or not dtype.itemsize:
        return np.empty(shape, dtype, order="F" if fortran else "C")
    flat = np.frombuffer(body, dtype, count)
    return flat.reshape(shape, order="F" if fortran else "C")


class Npz(Mapping[str, Array]):
    """The arrays of an NPZ file. Each is made when it is asked for, and its checksum verified then.

    Args:
        data: The whole file. Arrays stored uncompressed are views of it, writable if it is.

    Raises:
        NpzError: Not an NPZ file.
    """

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        try:
            with zipfile.ZipFile(_ViewFile(self._view)) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
            msg = f"not an NPZ file: {error}"
            raise NpzError(msg) from error
        self._members = {info.filename.removesuffix(".npy"): info for info in infos if not info.is_dir()}

    def __getitem__(self, name: str) -> Array:
        """Return one array.

        Raises:
            KeyError: There is none of that name.
            NpzError: It is damaged, compressed in an unknown way, or holds objects.
        """
        info = self._members[name]
        body = self._body(info)
        if zlib.crc32(body) != info.CRC:
            msg = f"the checksum of {info.filename!r} (at byte {info.header_offset}) is wrong"
            raise NpzError(msg)
        return read_npy(body, name=repr(info.filename))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the file's order."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._members)

    def _body(self, info: zipfile.ZipInfo) -> memoryview:
        """Return the bytes of a member, unpacked."""
        packed = self._packed(info)
        if info.flag_bits & 0x1:
            msg = f"{info.filename!r} is encrypted"
            raise NpzError(msg)
        if info.compress_type == zipfile.ZIP_STORED:
            if info.file_size != info.compress_size:
                msg = f"{info.filename!r} (at byte {info.header_offset}) contradicts itself about its size"
                raise NpzError(msg)
            return packed
        if info.compress_type != zipfile.ZIP_DEFLATED:
            msg = f"{info.filename!r} is compressed by method {info.compress_type}, which NumPy does not write"
            raise NpzError(msg)
        return _inflate(packed, info)

    def _packed(self, info: zipfile.ZipInfo) -> memoryview:
        start = info.header_offset
        head = self._view[start : start + _LOCAL_HEADER.size]
        if len(head) < _LOCAL_HEADER.size or head[:4] != _LOCAL_MAGIC:
            msg = f"there is no member at byte {start}, where {info.filename!r} should be"
            raise NpzError(msg)
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        begin = start + _LOCAL_HEADER.size + name_length + extra_length
        packed = self._view[begin : begin + info.compress_size]
        if len(packed) != info.compress_size:
            msg = f"{info.filename!r} (at byte {start}) is cut short"
            raise NpzError(msg)
        return packed


def _inflate(packed: memoryview, info: zipfile.ZipInfo) -> memoryview:
    if info.file_size > len(packed) * _MAX_RATIO + 1024:
        msg = f"{info.filename!r} promises {info.file_size} bytes out of {len(packed)}, which cannot be"
        raise NpzError(msg)
    worker = zlib.decompressobj(-15)
    try:
        # One byte more than promised is asked for, so that too much is seen and never all unpacked.
        body = worker.decompress(packed, info.file_size + 1)
    except zlib.error as error:
        msg = f"{info.filename!r} (at byte {info.header_offset}) cannot be unpacked: {error}"
        raise NpzError(msg) from error
    if len(body) != info.file_size:
        msg = f"{info.filename!r} (at byte {info.header_offset}) has not the size it promises"
        raise NpzError(msg)
    return memoryview(bytearray(body))


class _ViewFile(io.RawIOBase):
    """A memoryview as a file, without the copy that ``io.BytesIO`` makes."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._view))[whence]
        if base + offset < 0:
            msg = "seek before the beginning"
            raise OSError(msg)
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._view[self._position : self._position + len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)
