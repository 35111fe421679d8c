"""As much of protobuf's wire format as reading needs: a message's fields, one after the other.

Floor 4. Pure: knows tags, numbers and lengths; must not know what any message means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Wire types.
VARINT, _FIXED64, LENGTH, _GROUP, _END_GROUP, FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, FIXED32: 4}
#: Protobuf's own limits.
MOST_VARINT_BYTES = 10
_MOST_TAG_BYTES = 5
_MOST_DEPTH = 100
_MASK64 = (1 << 64) - 1


class MalformedError(Exception):
    """Bytes are no message. It never leaves the library: who reads a message says which one it is not.

    Args:
        what: What is wrong.
        at: The byte of the whole where it is.
    """

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what, at)
        self.what = what
        self.at = at


def whole(data: memoryview) -> Field:
    """Return a message as if it were a field's value."""
    return Field(0, 0, 0, len(data))


class Field(NamedTuple):
    """A field of a message: its number, its wire type, and where its value lies in the whole."""

    number: int
    wire: int
    begin: int
    end: int


def fields(data: memoryview, within: Field) -> Iterator[Field]:
    """Iterate over the fields of the message that is a field's value."""
    at, stop = within.begin, within.end
    while at < stop:
        number, wire, begin = _tag(data, at, stop)
        if wire == LENGTH:
            length, begin = varint(data, begin, stop)
            end = begin + length
        elif wire == _GROUP:
            end = _behind_group(data, begin, stop, number)
        elif wire == _END_GROUP:
            raise MalformedError("a group ends that has not begun", at)
        else:
            end = _behind(data, begin, stop, wire)
        if end > stop:
            raise MalformedError("a field ends behind its message", at)
        yield Field(number, wire, begin, end)
        at = end


def messages(data: memoryview, within: Field, number: int) -> Iterator[Field]:
    """Iterate over the fields of one number that hold messages."""
    return (field for field in fields(data, within) if field.number == number and field.wire == LENGTH)


def varint(data: memoryview, at: int, stop: int, most_bytes: int = MOST_VARINT_BYTES) -> tuple[int, int]:
    """Return a number of up to 64 bits, seven to a byte, and where it ends."""
    if at < stop and data[at] < 128:  # noqa: PLR2004 - nearly all of them
        return data[at], at + 1
    value = 0
    for place, byte in enumerate(data[at : min(at + most_bytes, stop)]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:  # noqa: PLR2004 - the bit that says another byte follows
            return value & _MASK64, at + place + 1
    raise MalformedError("a number has no end", at)


def _tag(data: memoryview, at: int, stop: int) -> tuple[int, int, int]:
    """Return a field's number and wire type, and where its value begins."""
    tag, begin = varint(data, at, stop, _MOST_TAG_BYTES)
    if not 0 < tag >> 3 < 1 << 29:
        raise MalformedError(f"there is no field {tag >> 3}", at)
    if tag & 7 > FIXED32:
        raise MalformedError(f"there is no wire type {tag & 7}", at)
    return tag >> 3, tag & 7, begin


def _behind(data: memoryview, begin: int, stop: int, wire: int) -> int:
    """Return where a number ends."""
    if wire == VARINT:
        return varint(data, begin, stop)[1]
    return begin + _FIXED_BYTES[wire]


def _behind_group(data: memoryview, at: int, stop: int, number: int) -> int:
    """Return where a group ends, with all groups in it. They are long out of use, and skipped."""
    opened = [number]
    while opened:
        inner, wire, begin = _tag(data, at, stop)
        if wire == _GROUP:
            opened.append(inner)
            at = begin
        elif wire == _END_GROUP:
            if opened.pop() != inner:
                raise MalformedError("a group ends that has not begun", at)
            at = begin
        elif wire == LENGTH:
            length, begin = varint(data, begin, stop)
            at = begin + length
        else:
            at = _behind(data, begin, stop, wire)
        if len(opened) > _MOST_DEPTH:
            raise MalformedError("groups lie too deep in each other", at)
    return at
