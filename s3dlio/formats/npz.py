"""NPY and NPZ files, out of memory or of anything that can be read by ranges.

Floor 4. Knows NumPy's file formats (NEP 1, ``numpy.lib.format``); must not know stores. Of a source that
is not in memory only the directory travels, and what is asked for. Arrays are views of the fetched memory
wherever the file holds them uncompressed. Object arrays are pickles, and are never read.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from s3dlio.buffers import KIB, MIB, POOL, bytes_of, flat_bytes
from s3dlio.errors import NpzError, OptionError, suggest
from s3dlio.formats.zipdir import DEFLATED, STORED, Member, Source, read_directory, read_packed

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = np.ndarray[Any, Any]

_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
#: By version: how the length of the header is written, and its text.
_VERSIONS = {(1, 0): ("<H", "latin-1"), (2, 0): ("<I", "latin-1"), (3, 0): ("<I", "utf-8")}
#: 20,000 fields. NumPy itself writes more than 64 KiB only for thousands of fields; a larger claim is hostile.
_MAX_HEADER_BYTES = 256 * 1024
_PREFIX_BYTES = len(_MAGIC) + 2 + 4
#: All that stands in a header: what lies beyond could crash the parser, or is not plain data.
_PLAIN = re.compile(
    r"""(?:'(?:[^'\\\n]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*+'
    |"(?:[^"\\\n]|\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*+"
    |[0-9]{1,19}L?(?![0-9A-Za-z_])|True|False|[\s()\[\]{},:])*+""",
    re.VERBOSE,
)
#: Numbers as NumPy wrote them under Python 2; strings, so that they are left alone.
_LONG = re.compile(r"""('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[0-9]+)L?""")
#: Element types as NumPy writes them; other names that ``numpy.dtype`` takes are warned of, or mean several.
_ELEMENT = re.compile(r"[<>|=]?[?biufcmMSUVO][0-9]*(?:\[[0-9A-Za-z/]*\])?", re.ASCII)
_MAX_DIMENSIONS = 64
#: NumPy does not notice more than these when the elements take no bytes.
_MAX_LENGTH = 2**63 - 1

#: Deflate cannot expand more than this; a directory that promises more lies.
_MAX_RATIO = 1032
_RATIO_SLACK_BYTES = 1024
#: Unpacked at a time: within the processor's cache, so that it is summed and copied at once.
_STEP_BYTES = MIB
_FEED_BYTES = 64 * KIB
#: Names are compared with a wrong one, and shown, up to this many.
_MOST_COMPARED = 1000
_MOST_SHOWN = 20


class MissingArrayError(NpzError, KeyError):
    """An NPZ file has no array of that name."""


class _Memory:
    """Memory as a source. What is read are views of it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def size(self) -> int:
        return len(self._view)

    def read(self, start: int, stop: int, *, align_at: int | None = None) -> memoryview:
        return self._view[start:stop]


# -- NPY ----------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """What precedes the numbers: what they are, and where they begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    begin: int

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(data: Buffer, *, name: str = "array") -> Array:
    """Return the array of an NPY file as a view of ``data`` (writable if ``data`` is).

    Args:
        data: The whole file, contiguous.
        name: What to call it in errors.

    Raises:
        NpzError: Not an NPY file, cut short, or an object array.
        OptionError: ``data`` is not contiguous memory.
    """
    return load_npy(_Memory(flat_bytes(data)), name=name)


def load_npy(source: Source, *, name: str = "array") -> Array:
    """Return the array of an NPY file: its header is read first, then just the numbers.

    Args:
        source: The whole file.
        name: What to call it in errors.

    Returns:
        A view of the memory that the source gave for the numbers, writable if that is.

    Raises:
        NpzError: Not an NPY file, cut short, or an object array.
    """
    begin, end = _header_span(source.read(0, min(_PREFIX_BYTES, source.size)), source.size, name)
    header = _read_header(source.read(0, end), begin, name)
    _require_bytes(header, source.size - header.begin, name)
    stop = header.begin + header.data_bytes
    return _as_array(source.read(header.begin, stop, align_at=header.begin), header, name)


def _from_bytes(body: memoryview, name: str) -> Array:
    begin, end = _header_span(body, len(body), name)
    header = _read_header(body[:end], begin, name)
    _require_bytes(header, len(body) - header.begin, name)
    return _as_array(body[header.begin :], header, name)


def _header_span(prefix: memoryview, there: int, name: str) -> tuple[int, int]:
    """Return where the text of the header begins and ends, of a file of ``there`` bytes."""
    version = tuple(prefix[len(_MAGIC) : len(_MAGIC) + 2])
    if prefix[: len(_MAGIC)] != _MAGIC or version not in _VERSIONS:
        is_zip = bytes(prefix[:2]) == b"PK"
        _not_npy(
            name,
            "it is a ZIP file; read_npz() reads it if it is NPZ"
            if is_zip
            else "it does not begin with NPY's magic and a known version",
        )
    form, _ = _VERSIONS[version]
    begin = len(_MAGIC) + 2 + struct.calcsize(form)
    if len(prefix) < begin:
        _not_npy(name, "its header is cut short")
    length: int = struct.unpack_from(form, prefix, len(_MAGIC) + 2)[0]
    if length > _MAX_HEADER_BYTES:
        _not_npy(name, f"its header claims {length} bytes; {_MAX_HEADER_BYTES} are the most")
    if length > there - begin:
        _not_npy(name, f"its header is cut short: {length} bytes are promised and {there - begin} there")
    return begin, begin + length


def _read_header(head: memoryview, begin: int, name: str) -> _Header:
    _, encoding = _VERSIONS[head[len(_MAGIC)], head[len(_MAGIC) + 1]]
    try:
        text = str(head[begin:], encoding)
        # The samples of a dataset have the same few headers; a forged long one is not kept.
        parse = _parse_known if len(text) <= _SHORT_HEADER else _parse_header
        shape, fortran, dtype = parse(text)
    except (ValueError, TypeError, SyntaxError, LookupError, OverflowError, RecursionError) as error:
        msg = f"{name} is not an NPY file: {error}"
        raise NpzError(msg) from error
    if dtype.hasobject:
        msg = f"{name} holds Python objects, which are pickles and are not read; save plain arrays"
        raise NpzError(msg)
    return _Header(shape, fortran, dtype, len(head))


def _not_npy(name: str, reason: str) -> NoReturn:
    msg = f"{name} is not an NPY file: {reason}"
    raise NpzError(msg)


def _parse_header(text: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if not _PLAIN.fullmatch(text):
        raise ValueError("its header is not a plain literal")
    fields = ast.literal_eval(_LONG.sub(r"\1", text).strip())
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header has not the fields that it must have")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(length) is int for length in shape):
        raise ValueError(f"its shape is {shape!r}")
    if len(shape) > _MAX_DIMENSIONS or math.prod(shape) > _MAX_LENGTH or not isinstance(fortran, bool):
        raise ValueError("its header has values that no array has")
    for element in _elements(fields["descr"]):
        if not isinstance(element, str) or not _ELEMENT.fullmatch(element):
            raise ValueError(f"its elements are {element!r}")
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(fields["descr"])
    return shape, fortran, dtype


#: Most headers that are remembered, and the longest of them: a quarter of a megabyte in all.
_SHORT_HEADER = 256
_parse_known = lru_cache(maxsize=512)(_parse_header)


def _elements(descr: Any) -> Iterator[object]:
    """Yield what stands for element types in a description of a dtype; names, unless it is forged."""
    if isinstance(descr, list):
        for field in descr:
            yield from _elements(field[1])
    elif isinstance(descr, tuple):
        yield from _elements(descr[0])
    else:
        yield descr


def _require_bytes(header: _Header, there: int, name: str) -> None:
    if header.data_bytes > there:
        msg = f"{name} is cut short: {header.data_bytes} bytes are promised and {there} there"
        raise NpzError(msg)


def _as_array(body: memoryview, header: _Header, name: str) -> Array:
    order: Any = "F" if header.fortran else "C"
    try:
        return np.ndarray(header.shape, header.dtype, body, order=order)
    except (ValueError, TypeError) as error:
        msg = f"{name} is not an array: {error}"
        raise NpzError(msg) from error


# -- NPZ ----------------------------------------------------------------------------------------------


class Npz(Mapping[str, Array]):
    """The arrays of an NPZ file. Each is made when it is asked for, and its checksum verified then.

    Names are those of ``numpy.load``: without ``.npy``, and with it they are understood as well. A member
    that is no NPY file is returned as ``bytes``, as there. Thread-safe.

    Args:
        data: The whole file, contiguous. Arrays stored uncompressed are views of it, writable if it is.

    Raises:
        NpzError: Not an NPZ file.

    Example:
        >>> import io, numpy
        >>> file = io.BytesIO()
        >>> numpy.savez(file, x=numpy.arange(3))
        >>> Npz(file.getvalue())["x"]
        array([0, 1, 2])
    """

    def __init__(self, data: Buffer) -> None:
        self._begin(_Memory(flat_bytes(data)))

    @staticmethod
    def over(source: Source) -> Npz:
        """Return the arrays of a file that is read by ranges: now its directory, later what is asked for.

        Args:
            source: The whole file. Arrays stored uncompressed are views of the memory it reads into.

        Raises:
            NpzError: Not an NPZ file.
        """
        made = Npz.__new__(Npz)
        made._begin(source)  # noqa: SLF001 - its own kind
        return made

    def _begin(self, source: Source) -> None:
        self._source = source
        if source.size >= len(_MAGIC) and source.read(0, len(_MAGIC)) == _MAGIC:
            msg = "this is an NPY file, which is one array, and no NPZ file: read_npy() reads it"
            raise NpzError(msg)
        members = read_directory(source)
        #: By the names that are listed, in the file's order.
        self._members = {member.name.removesuffix(_SUFFIX): member for member in members}
        if len(self._members) < len(members):
            _refuse_duplicate(members)
        #: Listed names win. (In NumPy whole ones do: of the arrays "x" and "x.npy" it gives the first for both.)
        self._known = {member.name: member for member in members} | self._members

    def __getitem__(self, name: str) -> Array:
        """Return one array.

        Raises:
            KeyError: There is none of that name (:class:`MissingArrayError`).
            NpzError: It is damaged, compressed in an unknown way, or holds objects. The message names
                the member and the byte.
        """
        return decode(self._source, self._find(name))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the file's order."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such an array, without reading it."""
        return name in self._known

    def __repr__(self) -> str:
        """Show the names."""
        return f"<{type(self).__name__} of {len(self)} arrays: {self._shown()}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: it would be a copy of all of the file, or of none of it."""
        msg = f"{type(self).__name__} cannot be pickled or copied; pass its address on, or dict(arrays)"
        raise OptionError(msg)

    def _find(self, name: str) -> Member:
        member = self._known.get(name)
        if member is None:
            raise MissingArrayError(self._missing(name))
        return member

    def _missing(self, name: object) -> str:
        near = suggest(name, self._members) if isinstance(name, str) and len(self) <= _MOST_COMPARED else ""
        return f"has no array {name!r}{near} (it has {self._shown()})"

    def _shown(self) -> str:
        shown = ", ".join(name for name, _ in zip(self._members, range(_MOST_SHOWN), strict=False))
        return f"{shown}, ..." if len(self) > _MOST_SHOWN else shown


def _refuse_duplicate(members: list[Member]) -> NoReturn:
    seen: set[str] = set()
    for member in members:
        name = member.name.removesuffix(_SUFFIX)
        if name in seen:
            msg = f"there are two members called {name!r}; the second is {member.label}"
            raise NpzError(msg)
        seen.add(name)
    msg = "unreachable: there is a duplicate"
    raise AssertionError(msg)


def decode(source: Source, member: Member) -> Array:
    """Return the array that a member of an NPZ file holds.

    Returns:
        A view of the memory that the source gave, if the member is stored; else in memory of its own.
        A member that is no NPY file is returned as ``bytes`` (NumPy types it as an array, too).

    Raises:
        NpzError: It is damaged, compressed in an unknown way, or holds objects.
    """
    body = _checked_body(source, member)
    if body[: len(_MAGIC)] != _MAGIC:
        return bytes(body)  # type: ignore[return-value]
    return _from_bytes(body, member.label)


def _checked_body(source: Source, member: Member) -> memoryview:
    """Return the bytes of a member, unpacked, whose sum is right."""
    if member.is_encrypted:
        msg = f"{member.label} is encrypted; write it without a password"
        raise NpzError(msg)
    if member.method == STORED:
        if member.size != member.packed:
            msg = f"{member.label} contradicts itself about its size: {member.packed} or {member.size} bytes"
            raise NpzError(msg)
        body = read_packed(source, member)
        crc = zlib.crc32(body)
    elif member.method == DEFLATED:
        body, crc = _inflate(read_packed(source, member), member)
    else:
        msg = f"{member.label} is compressed by method {member.method}, which NumPy does not write"
        raise NpzError(msg)
    if crc != member.crc:
        msg = f"the checksum of {member.label} is wrong"
        raise NpzError(msg)
    return body


def _inflate(packed: memoryview, member: Member) -> tuple[memoryview, int]:
    """Unpack into memory of its own; return it and its CRC-32."""
    if member.size > len(packed) * _MAX_RATIO + _RATIO_SLACK_BYTES:
        msg = f"{member.label} promises {member.size} bytes out of {len(packed)}, which cannot be"
        raise NpzError(msg)
    body = bytes_of(POOL.take(member.size))
    crc = done = 0
    try:
        for piece in _pieces(packed):
            if done + len(piece) > member.size:
                break
            body[done : done + len(piece)] = piece
            crc = zlib.crc32(piece, crc)
            done += len(piece)
        else:
            if done == member.size:
                return body, crc
    except zlib.error as error:
        msg = f"{member.label} cannot be unpacked: {error}"
        raise NpzError(msg) from error
    msg = f"{member.label} has not the size it promises: {member.size} bytes out of {len(packed)}"
    raise NpzError(msg)


def _pieces(packed: memoryview) -> Iterator[bytes]:
    """Unpack step by step.

    Raises:
        zlib.error: Damaged, cut short, or something follows.
    """
    worker = zlib.decompressobj(-zlib.MAX_WBITS)
    # Fed in pieces, too: what a step leaves over of its input is copied.
    for begin in range(0, len(packed), _FEED_BYTES):
        rest: bytes | memoryview = packed[begin : begin + _FEED_BYTES]
        while rest and not worker.eof:
            yield worker.decompress(rest, _STEP_BYTES)
            rest = worker.unconsumed_tail
        if worker.eof and (worker.unused_data or begin + _FEED_BYTES < len(packed)):
            msg = "something follows the data"
            raise zlib.error(msg)
    while not worker.eof:
        piece = worker.decompress(b"", _STEP_BYTES)
        if not piece:
            msg = "the data is cut short"
            raise zlib.error(msg)
        yield piece
