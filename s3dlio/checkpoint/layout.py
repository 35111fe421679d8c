"""The layout of a checkpoint's file: safetensors, with what else is to be known in its metadata.

Floor 4. Pure: header in, bytes out, and back. Knows offsets, dtypes' names and sums; must not know tensors,
stores or threads. A file without such metadata (anybody's safetensors) is read as well.

A file is eight bytes (the header's length, little-endian), the header (JSON, padded with spaces), and the
tensors' bytes without a gap; largest items first, so that each lies at a multiple of its items. Source of the
format: https://huggingface.co/docs/safetensors. Under ``__metadata__`` there is one string ``s3dlio``: JSON of
``version``, ``tree`` (:mod:`s3dlio.checkpoint.tree`), ``sums`` (eight hexadecimal digits of CRC-32C for each
tensor, in the order of the file) and ``header``, the CRC-32C of the header itself with zeros in this place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from s3dlio.checksums import crc32c
from s3dlio.errors import FormatError, IntegrityError, OptionError

VERSION = 1
#: What stands before the header.
_ZIP_MAGIC = b"PK\x03\x04"
PREFIX_BYTES = 8
#: The safetensors library refuses longer headers.
MOST_HEADER_BYTES = 100_000_000
_NAME = "s3dlio"
_SUM_DIGITS = 8
_ALIGNMENT = 8
#: Bits of an item, by the format's own names.
ITEM_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
#: More axes NumPy does not have; and more bytes are in no memory.
_MOST_AXES = 64
_MOST_BYTES = 1 << 62
_HEADER_SUM = re.compile(rb'\\"header\\":\\"([0-9a-f]{8})\\"')


class Tensor(NamedTuple):
    """One tensor's place in the file.

    Attributes:
        name: Unique in the file.
        dtype: By the format's name, such as ``BF16``.
        shape: Its lengths.
        start: First byte, counted from the end of the header.
        stop: Behind the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes."""
        return self.stop - self.start


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        tensors: In the order of the file.
        is_own: Whether this library has written it: other people's files have neither tree nor sums.
        tree: What :mod:`s3dlio.checkpoint.tree` made of the saved value.
        sums: CRC-32C of each tensor, or empty where the file has none.
        framework: ``pt``, ``np``, ``flax`` or empty: what the file's metadata says it was saved by.
        data_start: Where in the file the tensors begin.
    """

    tensors: tuple[Tensor, ...]
    is_own: bool
    tree: Any
    sums: tuple[int, ...]
    framework: str
    data_start: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.data_start + (self.tensors[-1].stop if self.tensors else 0)


def arrange(wanted: Sequence[tuple[str, str, tuple[int, ...], int]]) -> tuple[Tensor, ...]:
    """Give tensors their places.

    Args:
        wanted: Name, dtype, shape and length in bytes of each.
    """
    ordered = sorted(wanted, key=lambda item: -ITEM_BITS[item[1]])  # sorted() keeps the order among equals
    tensors, end = [], 0
    for name, dtype, shape, length in ordered:
        tensors.append(Tensor(name, dtype, shape, end, end + length))
        end += length
    return tuple(tensors)


def pack_header(tensors: Sequence[Tensor], tree: Any, framework: str, sums: Sequence[int] | None = None) -> bytes:
    """Return what stands before the tensors' bytes: as long with the sums as without.

    Args:
        tensors: As :func:`arrange` has placed them.
        tree: Plain JSON values.
        framework: What other readers are told (``format`` in the metadata); may be empty.
        sums: CRC-32C of each tensor; ``None`` while they are not known yet.

    Raises:
        OptionError: There is too much of it.
    """
    digits = "".join(f"{crc:08x}" for crc in sums) if sums is not None else "0" * _SUM_DIGITS * len(tensors)
    own = {"version": VERSION, "header": "0" * _SUM_DIGITS, "sums": digits, "tree": tree}
    metadata = {_NAME: json.dumps(own, separators=(",", ":"), ensure_ascii=True)}
    if framework:
        metadata["format"] = framework
    entries: dict[str, Any] = {"__metadata__": metadata}
    for tensor in tensors:
        place = [tensor.start, tensor.stop]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": place}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    if len(header) > MOST_HEADER_BYTES:
        msg = f"names and structure alone would take {len(header):,} bytes, of at most {MOST_HEADER_BYTES:,}"
        raise OptionError(msg)
    if sums is not None:
        header = _with_sum(header, f"{crc32c(header):08x}".encode())
    return len(header).to_bytes(PREFIX_BYTES, "little") + header


def _with_sum(header: bytes, digits: bytes) -> bytes:
    found = _HEADER_SUM.search(header)
    if found is None:
        msg = "the header has no place for its own sum"
        raise FormatError(msg)
    return header[: found.start(1)] + digits + header[found.end(1) :]


def header_length(prefix: bytes | memoryview, size: int) -> int:
    """Return how long the header is, of a file of ``size`` bytes that begins with ``prefix``.

    Raises:
        FormatError: This is no such file.
    """
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if len(prefix) < PREFIX_BYTES or not 2 <= length <= min(size - PREFIX_BYTES, MOST_HEADER_BYTES):  # noqa: PLR2004
        if bytes(prefix[:4]) == _ZIP_MAGIC:
            msg = "this is a ZIP file, as torch.save writes: torch.load(io.BytesIO(s3dlio.get(uri))) reads one of those"
            raise FormatError(msg)
        msg = f"this is no checkpoint: {size} bytes, of which a header of {length} bytes is said to be a part"
        raise FormatError(msg)
    return length


def parse_header(header: bytes, size: int) -> Header:
    """Return what a header says, having checked all of it.

    Args:
        header: The JSON, without the eight bytes before it.
        size: Bytes of the whole file.

    Raises:
        IntegrityError: The header is not the one that was written.
        FormatError: It is not a header, or the file is not as long as it says.
    """
    entries = _load(header, "the header")
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        msg = "the header's __metadata__ is not a mapping"
        raise FormatError(msg)
    data_start = PREFIX_BYTES + len(header)
    tensors = _tensors(entries, size - data_start)
    framework = metadata.get("format", "")
    framework = framework if isinstance(framework, str) else ""
    # By its sum, not by its name alone: with one bit of the name wrong it would pass for somebody else's.
    if _NAME not in metadata and not _HEADER_SUM.search(header):
        return Header(tensors, False, None, (), framework, data_start)  # noqa: FBT003
    tree, sums = _own(metadata.get(_NAME), header, len(tensors))
    return Header(tensors, True, tree, sums, framework, data_start)  # noqa: FBT003


def _load(text: Any, what: str) -> dict[str, Any]:
    try:
        # The format is UTF-8; json would take UTF-16 and UTF-32 as well, which other readers do not.
        value = json.loads(str(text, "utf-8") if isinstance(text, bytes) else text, object_pairs_hook=_unique)
    except (ValueError, RecursionError, TypeError) as error:
        msg = f"{what} cannot be read: {error}"
        raise FormatError(msg) from error
    if not isinstance(value, dict):
        msg = f"{what} is not a mapping"
        raise FormatError(msg)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "a name occurs twice"
        raise ValueError(msg)
    return found


def _tensors(entries: dict[str, Any], data_bytes: int) -> tuple[Tensor, ...]:
    tensors = sorted(
        (_tensor(name, entry) for name, entry in entries.items()), key=lambda item: (item.start, item.stop)
    )
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            msg = f"tensor {tensor.name!r} begins at byte {tensor.start} of the data, where {end} is due"
            raise FormatError(msg)
        end = tensor.stop
    if end != data_bytes:
        msg = f"the file holds {data_bytes:,} bytes of data, and its header speaks of {end:,}: it is cut, or not whole"
        raise FormatError(msg)
    return tuple(tensors)


def _tensor(name: str, entry: Any) -> Tensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    place: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        msg = f"tensor {name!r} has dtype {dtype!r}, which is not known here"
        raise FormatError(msg)
    fine = are_counts(shape) and fits_memory(shape, ITEM_BITS[dtype] // 8) and are_counts(place)
    if not fine or len(place) != 2:  # noqa: PLR2004 - start and stop
        msg = f"tensor {name!r:.200} has shape {shape!r:.200} and offsets {place!r:.200}"
        raise FormatError(msg)
    start, stop = place
    if (stop - start) * 8 != math.prod(shape) * ITEM_BITS[dtype]:
        msg = f"tensor {name!r} of shape {shape} and dtype {dtype} has {stop - start} bytes"
        raise FormatError(msg)
    return Tensor(name, dtype, tuple(shape), start, stop)


def are_counts(values: Any) -> bool:
    """Tell whether something out of a file is a list of lengths, as many as an array can have."""
    return (
        isinstance(values, list)
        and len(values) <= _MOST_AXES
        and all(type(value) is int and 0 <= value < _MOST_BYTES for value in values)
    )


def fits_memory(shape: Sequence[int], item_bytes: int) -> bool:
    """Tell whether libraries can count the bytes of an array, which they do without its axes of length 0."""
    return math.prod(length or 1 for length in shape) * max(1, item_bytes) < _MOST_BYTES


def _own(text: Any, header: bytes, count: int) -> tuple[Any, tuple[int, ...]]:
    """Return tree and sums out of this library's metadata, which must be whole."""
    told = _HEADER_SUM.search(header)
    zeros = b"0" * _SUM_DIGITS
    if told is None or int(told[1], 16) != crc32c(_with_sum(header, zeros)):
        msg = "the header is damaged: its checksum is wrong"
        raise IntegrityError(msg)
    own = _load(text, "the header's structure")
    if own.get("version") != VERSION:
        msg = (
            f"the checkpoint is of version {own.get('version')}, and this library reads {VERSION}: it is newer; update"
        )
        raise FormatError(msg)
    sums = own.get("sums")
    if not isinstance(sums, str) or not re.fullmatch(rf"[0-9a-f]{{{_SUM_DIGITS * count}}}", sums):
        msg = "the header's checksums are not as many as its tensors"
        raise FormatError(msg)
    return own.get("tree"), tuple(int(sums[at : at + _SUM_DIGITS], 16) for at in range(0, len(sums), _SUM_DIGITS))
