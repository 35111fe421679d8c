"""The directory of a ZIP file, and the packed bytes of its members, out of any bytes that can be read by ranges.

Floor 4. Knows PKWARE's APPNOTE.TXT (6.3.10) as far as NumPy writes it; must not know arrays or stores.
Strict where the format is loose: a directory must fill exactly the place that the end of the file names,
members must not overlap, and each must call itself what the directory calls it. So a damaged or forged
file is refused instead of being read in one of several ways.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, NoReturn, Protocol

from s3dlio.errors import NpzError

STORED = 0
DEFLATED = 8

_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"
#: The size of the record does not count its magic and itself.
_END64_UNCOUNTED = 12
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ENTRY_MAGIC = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_EXTRA = struct.Struct("<2H")
_ZIP64_EXTRA = 1

_MASK16 = 0xFFFF
_MASK32 = 0xFFFFFFFF
_ENCRYPTED = 0x0001 | 0x0040
_HAS_DESCRIPTOR = 0x0008
_UTF8 = 0x0800
#: What zipfile writes behind a member of a stream, as the numbers need 32 or 64 bits.
_DESCRIPTOR_BYTES = (16, 24)

#: The end record, the longest comment (64 KiB), and the directory of a thousand arrays.
_TAIL_BYTES = 128 * 1024
#: A million arrays. A larger directory would take gigabytes as Python objects.
_MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
#: Of the bytes between two members, which are the first one's extra fields and descriptor, read this
#: many with it: numpy writes 20, and a request saved is worth far more than these.
_MAX_SLACK_BYTES = 4096


class Source(Protocol):
    """Bytes that can be read by ranges."""

    @property
    def size(self) -> int:
        """All of them, in bytes."""

    def read(self, start: int, stop: int, *, align_at: int | None = None) -> memoryview:
        """Return exactly the bytes ``start <= position < stop``, which lie within the size.

        Args:
            start: First byte.
            stop: Behind the last byte.
            align_at: A byte that should lie at a multiple of 64 bytes in memory, where there is a choice.
        """


class Member(NamedTuple):
    """One entry of the directory.

    Attributes:
        name: As the directory has it.
        raw_name: The bytes of the name.
        offset: Where the member (its local header) begins, in bytes.
        limit: Where the next thing begins: it ends here or before.
        packed: Bytes of its data in the file.
        size: Bytes of its data.
        crc: CRC-32 of its data, unpacked.
        method: How it is packed.
        flags: General purpose bits.
    """

    name: str
    raw_name: bytes
    offset: int
    limit: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.name!r} (at byte {self.offset})"

    @property
    def is_encrypted(self) -> bool:
        """Whether a password is needed."""
        return bool(self.flags & _ENCRYPTED)


class _End(NamedTuple):
    """What the end of the file says of the directory."""

    entries: int
    start: int
    stop: int


def read_directory(source: Source) -> list[Member]:
    """Return the members in the order of the directory.

    One read of the last 128 KiB; a second one when the directory is longer than that.

    Raises:
        NpzError: Not a ZIP file, cut short, or it contradicts itself. The message names the byte.
    """
    base = max(0, source.size - _TAIL_BYTES)
    tail = source.read(base, source.size)
    end = _find_end(bytes(tail), base)
    if end.stop - end.start > _MAX_DIRECTORY_BYTES:
        msg = f"the directory at byte {end.start} has {end.stop - end.start} bytes, more than anything writes"
        raise NpzError(msg)
    raw = tail[end.start - base : end.stop - base] if end.start >= base else source.read(end.start, end.stop)
    return _with_limits(list(_entries(bytes(raw), end)), end.start)


# -- the end of the file ------------------------------------------------------------------------------


def _find_end(tail: bytes, base: int) -> _End:
    at = len(tail)
    while True:
        at = tail.rfind(_END_MAGIC, 0, at + len(_END_MAGIC) - 1)
        if at < 0:
            msg = f"not a ZIP file, or cut short: no end of a directory in the last {len(tail)} bytes"
            raise NpzError(msg)
        # Whatever looks like an end record and does not reach to the end of the file is data or comment.
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            return _read_end(tail, base, at)


def _read_end(tail: bytes, base: int, at: int) -> _End:
    _, disk, first_disk, here, count, length, start, _ = _END.unpack_from(tail, at)
    stop = base + at
    if at >= _LOCATOR.size and tail.startswith(_LOCATOR_MAGIC, at - _LOCATOR.size):
        stop, *wide = _read_end64(tail, base, at - _LOCATOR.size)
        masks = (_MASK16,) * 4 + (_MASK32,) * 2
        narrow = (disk, first_disk, here, count, length, start)
        if any(small not in (big, mask) for small, big, mask in zip(narrow, wide, masks, strict=True)):
            _contradicts(base + at)
        disk, first_disk, here, count, length, start = wide
    if disk or first_disk or here != count or start + length != stop or count * _ENTRY.size > length:
        _contradicts(base + at)
    return _End(count, start, stop)


def _read_end64(tail: bytes, base: int, at: int) -> tuple[int, ...]:
    """Return where the record begins, and its numbers in the order of the short record."""
    _, disk, start, _ = _LOCATOR.unpack_from(tail, at)
    place = start - base
    if disk or not 0 <= place <= at - _END64.size or not tail.startswith(_END64_MAGIC, place):
        msg = f"there is no ZIP64 end record at byte {start}, where byte {base + at} says it is"
        raise NpzError(msg)
    _, size, _, _, *numbers = _END64.unpack_from(tail, place)
    if place + _END64_UNCOUNTED + size != at:
        _contradicts(start)
    return start, *numbers


def _contradicts(at: int) -> NoReturn:
    msg = f"the end record at byte {at} does not fit the file: damaged, or cut out of a larger one"
    raise NpzError(msg)


# -- the directory ------------------------------------------------------------------------------------


def _entries(raw: bytes, end: _End) -> Iterator[Member]:
    at = 0
    for _ in range(end.entries):
        if at + _ENTRY.size > len(raw) or not raw.startswith(_ENTRY_MAGIC, at):
            msg = f"there is no directory entry at byte {end.start + at}, where one should be"
            raise NpzError(msg)
        member, at = _read_entry(raw, at, end.start)
        yield member
    if at != len(raw):
        msg = f"the directory has {len(raw) - at} bytes more than its {end.entries} entries (at byte {end.start + at})"
        raise NpzError(msg)


def _read_entry(raw: bytes, at: int, base: int) -> tuple[Member, int]:
    """Return the entry at ``at`` (its limit still open), and where the next one begins."""
    fields = _ENTRY.unpack_from(raw, at)
    _, _, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment_bytes, disk, _, _, offset = fields
    begin = at + _ENTRY.size
    stop = begin + name_bytes + extra_bytes + comment_bytes
    if stop > len(raw) or disk not in (0, _MASK16):
        msg = f"the directory entry at byte {base + at} reaches beyond the directory, or to another disk"
        raise NpzError(msg)
    raw_name = raw[begin : begin + name_bytes]
    name = _decode(raw_name, flags, base + at)
    if _MASK32 in (size, packed, offset):
        extra = raw[begin + name_bytes : begin + name_bytes + extra_bytes]
        size, packed, offset = _widen((size, packed, offset), extra, f"{name!r}, entry at byte {base + at}")
    return Member(name, raw_name, offset, 0, packed, size, crc, method, flags), stop


def _decode(raw_name: bytes, flags: int, at: int) -> str:
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError as error:
        msg = f"the name in the directory entry at byte {at} is not valid UTF-8"
        raise NpzError(msg) from error
    if "\0" in name:
        msg = f"the name {name!r} in the directory entry at byte {at} has a zero byte in it"
        raise NpzError(msg)
    return name


def _widen(numbers: tuple[int, ...], extra: bytes, label: str) -> tuple[int, ...]:
    """Replace the numbers that do not fit 32 bits by those of the ZIP64 extra field, which come in this order."""
    field = _find_extra(extra, _ZIP64_EXTRA)
    wanted = sum(number == _MASK32 for number in numbers)
    if len(field) < 8 * wanted:
        if not field:
            return numbers  # 4294967295 is a size like any other
        msg = f"the ZIP64 field of {label} is cut short"
        raise NpzError(msg)
    wide = iter(struct.unpack_from(f"<{wanted}Q", field))
    return tuple(next(wide) if number == _MASK32 else number for number in numbers)


def _find_extra(extra: bytes, wanted: int) -> bytes:
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == wanted:
            return extra[at : at + length]
        at += length
    return b""


def _with_limits(members: list[Member], end: int) -> list[Member]:
    """Say where each member must end, and refuse those that reach into the next one or the directory."""
    order = sorted(range(len(members)), key=lambda number: members[number].offset)
    starts = [*(members[number].offset for number in order), end]
    for number, (start, limit) in zip(order, pairwise(starts), strict=True):
        member = members[number]
        if start + _LOCAL.size + len(member.raw_name) + member.packed > limit:
            what = "the directory" if limit == end else "another member"
            msg = f"{member.label} has {member.packed} bytes and so reaches into {what} at byte {limit}"
            raise NpzError(msg)
        members[number] = member._replace(limit=limit)
    return members


# -- a member -----------------------------------------------------------------------------------------


def read_packed(source: Source, member: Member) -> memoryview:
    """Return a member's bytes as the file has them, packed or not; one read, seldom two.

    The data of a stored member that NumPy wrote begin at a multiple of 64 bytes in memory, where the
    source has a choice.

    Raises:
        NpzError: There is no such member there, or it overlaps another one.
    """
    fixed = _LOCAL.size + len(member.raw_name)
    # How long the local header's extra fields are stands in the file alone, but what is left of the room
    # up to the next member bounds it, and usually is nothing else.
    slack = member.limit - member.offset - fixed - member.packed
    stop = member.limit if slack <= _MAX_SLACK_BYTES else member.limit - slack + _MAX_SLACK_BYTES
    memory = source.read(member.offset, stop, align_at=member.offset + fixed + _likely_extra(member, slack))
    begin = _body_begin(memory, member)
    if begin + member.packed > member.limit - member.offset:
        msg = f"{member.label} reaches into what begins at byte {member.limit}"
        raise NpzError(msg)
    if begin + member.packed > len(memory):
        begin += member.offset
        return source.read(begin, begin + member.packed)
    return memory[begin : begin + member.packed]


def _likely_extra(member: Member, slack: int) -> int:
    if member.flags & _HAS_DESCRIPTOR:
        # The descriptor of 64-bit numbers goes with an extra field for them, which is 20 bytes long.
        short, long = _DESCRIPTOR_BYTES
        slack -= long if slack > long else short
    return slack if 0 <= slack <= _MAX_SLACK_BYTES else 0


def _body_begin(memory: memoryview, member: Member) -> int:
    """Return how many bytes the local header takes."""
    magic, _, flags, method, _, _, crc, _, _, name_bytes, extra_bytes = _LOCAL.unpack_from(memory)
    name = bytes(memory[_LOCAL.size : _LOCAL.size + name_bytes])
    is_same = name == member.raw_name and method == member.method
    is_same = is_same and not (flags ^ member.flags) & (_UTF8 | _HAS_DESCRIPTOR)
    # In a stream the sum was not known yet: what stands there then is nothing.
    is_same = is_same and crc in (member.crc, 0)
    if magic != _LOCAL_MAGIC or not is_same:
        msg = f"there is no member at byte {member.offset}, where {member.name!r} should be"
        raise NpzError(msg)
    begin: int = _LOCAL.size + name_bytes + extra_bytes
    return begin
