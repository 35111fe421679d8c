"""Reading ``tf.train.Example`` messages, without TensorFlow.

Floor 4. Knows this one protobuf message and as much of protobuf's wire format as it needs; must not know
records, files or stores. The message (tensorflow/core/example/example.proto, feature.proto)::

    Example  { Features features = 1; }
    Features { map<string, Feature> feature = 1; }      an entry: key = 1, value = 2
    Feature  { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }
    a list   { repeated bytes | float | int64 value = 1; }    numbers packed, or one by one

What comes twice is merged as protobuf does it: a key's last entry wins, a feature's last kind wins, lists of
one kind are appended to each other, unknown fields are skipped.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from s3dlio.buffers import KIB, flat_bytes
from s3dlio.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = np.ndarray[Any, Any]

_BYTES, _FLOATS, _INTS = 1, 2, 3
#: Wire types.
_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)
#: Fields 1 and 2, when they are messages, texts or packed numbers.
_TAG_1, _TAG_2, _TAG_3 = (number << 3 | _LENGTH for number in (1, 2, 3))
_PACKED = {_TAG_2: _FLOATS, _TAG_3: _INTS}
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
#: Protobuf's own limits.
_MOST_VARINT_BYTES = 10
_MOST_TAG_BYTES = 5
_MOST_DEPTH = 100
_MASK64 = (1 << 64) - 1
#: Below so many bytes a loop over numbers is faster than NumPy.
_FEW_BYTES = 48
#: Numbers are taken out of so many bytes at a time: the work takes 40 times as much memory.
_STEP_BYTES = 256 * KIB


def decode_example(data: Buffer) -> dict[str, Array | list[bytes]]:
    """Return the features of a serialized ``tf.train.Example``.

    Args:
        data: The message, as a TFRecord holds it.

    Returns:
        By name: a float32 array, an int64 array (both one-dimensional: the message knows no shapes), or a list of
        ``bytes``. A feature without a kind is an empty list. All in new memory, arrays writable.

    Raises:
        FormatError: The message is malformed; its byte is named.

    Example:
        >>> import s3dlio
        >>> message = s3dlio.encode_example({"label": 7, "image": b"..."})
        >>> s3dlio.decode_example(message)
        {'label': array([7]), 'image': [b'...']}
    """
    view = flat_bytes(data)
    try:
        found = _read_usual(view)
    except (_UnusualError, FormatError, LookupError, UnicodeDecodeError):
        found = _read_any(view)
    return found


class _UnusualError(Exception):
    """A message is not laid out as serializers do it; it may be right all the same."""


def _read_usual(data: memoryview) -> dict[str, Array | list[bytes]]:
    """Read a message as serializers write it, in less than half the time: all in order, each feature with one list.

    Raises:
        _UnusualError: Or LookupError, UnicodeDecodeError, FormatError: only :func:`_read_any` can tell.
    """
    found: dict[str, Array | list[bytes]] = {}
    stop = len(data)
    at = _into(data, 0, stop, _TAG_1)
    while at < stop:
        at, end = _span(data, at, _TAG_1)
        key, at = _span(data, at, _TAG_1)
        name = str(data[key:at], "utf-8")
        at = _into(data, at, end, _TAG_2)
        kind = data[at]
        at = _into(data, at, end, kind)
        if end > stop:
            raise _UnusualError
        if kind == _TAG_1:
            texts: list[bytes] = []
            while at < end:
                begin, at = _span(data, at, _TAG_1)
                texts.append(bytes(data[begin:at]))
            if at != end:
                raise _UnusualError
            found[name] = texts
        else:
            which = _PACKED[kind]
            items = _EMPTY[which]()
            _ADD[which](items, data, _Field(1, _LENGTH, _into(data, at, end, _TAG_1), end))
            found[name] = _finished(which, items)
        at = end
    return found


def _span(data: memoryview, at: int, tag: int) -> tuple[int, int]:
    """Return where the value of the field with this tag begins and ends."""
    length = data[at + 1]
    if data[at] != tag:
        raise _UnusualError
    if length < 128:  # noqa: PLR2004 - a number of one byte
        return at + 2, at + 2 + length
    length, at = _varint(data, at + 1, len(data))
    return at, at + length


def _into(data: memoryview, at: int, end: int, tag: int) -> int:
    """Return where the value of the field with this tag begins, if it reaches to the end."""
    begin, stop = _span(data, at, tag)
    if stop != end:
        raise _UnusualError
    return begin


def _read_any(view: memoryview) -> dict[str, Array | list[bytes]]:
    found: dict[str, Array | list[bytes]] = {}
    for features in _messages(view, _Field(0, 0, 0, len(view)), 1):
        for entry in _messages(view, features, 1):
            name, values = _read_entry(view, entry)
            found[name] = values.finish()
    return found


# -- protobuf's wire ----------------------------------------------------------------------------------


class _Field(NamedTuple):
    """A field of a message: its number, its wire type, and where its value lies in the whole."""

    number: int
    wire: int
    begin: int
    end: int


def _fields(data: memoryview, within: _Field) -> Iterator[_Field]:
    """Iterate over the fields of the message that is a field's value."""
    at, stop = within.begin, within.end
    while at < stop:
        number, wire, begin = _tag(data, at, stop)
        if wire == _LENGTH:
            length, begin = _varint(data, begin, stop)
            end = begin + length
        elif wire == _GROUP:
            end = _behind_group(data, begin, stop, number)
        elif wire == _END_GROUP:
            raise _malformed("a group ends that has not begun", at)
        else:
            end = _behind(data, begin, stop, wire)
        if end > stop:
            raise _malformed("a field ends behind its message", at)
        yield _Field(number, wire, begin, end)
        at = end


def _messages(data: memoryview, within: _Field, number: int) -> Iterator[_Field]:
    """Iterate over the fields of one number that hold messages."""
    return (field for field in _fields(data, within) if field.number == number and field.wire == _LENGTH)


def _varint(data: memoryview, at: int, stop: int, most_bytes: int = _MOST_VARINT_BYTES) -> tuple[int, int]:
    """Return a number of up to 64 bits, seven to a byte, and where it ends."""
    if at < stop and data[at] < 128:  # noqa: PLR2004 - nearly all of them
        return data[at], at + 1
    value = 0
    for place, byte in enumerate(data[at : min(at + most_bytes, stop)]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:  # noqa: PLR2004 - the bit that says another byte follows
            return value & _MASK64, at + place + 1
    raise _malformed("a number has no end", at)


def _tag(data: memoryview, at: int, stop: int) -> tuple[int, int, int]:
    """Return a field's number and wire type, and where its value begins."""
    tag, begin = _varint(data, at, stop, _MOST_TAG_BYTES)
    if not 0 < tag >> 3 < 1 << 29:
        raise _malformed(f"there is no field {tag >> 3}", at)
    if tag & 7 > _FIXED32:
        raise _malformed(f"there is no wire type {tag & 7}", at)
    return tag >> 3, tag & 7, begin


def _behind(data: memoryview, begin: int, stop: int, wire: int) -> int:
    """Return where a number ends."""
    if wire == _VARINT:
        return _varint(data, begin, stop)[1]
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
                raise _malformed("a group ends that has not begun", at)
            at = begin
        elif wire == _LENGTH:
            length, begin = _varint(data, begin, stop)
            at = begin + length
        else:
            at = _behind(data, begin, stop, wire)
        if len(opened) > _MOST_DEPTH:
            raise _malformed("groups lie too deep in each other", at)
    return at


def _malformed(what: str, at: int) -> FormatError:
    return FormatError(f"not a tf.train.Example: {what} (at byte {at} of the message)")


# -- features -----------------------------------------------------------------------------------------


class _Values:
    """The values of one feature, of the kind that was seen last."""

    __slots__ = ("_items", "_kind")

    def __init__(self) -> None:
        self._kind = 0
        self._items: Any = []

    def merge(self, data: memoryview, kind: int, within: _Field) -> None:
        """Take the values out of a list."""
        if kind != self._kind:
            self._kind = kind
            self._items = _EMPTY[kind]()
        add = _ADD[kind]
        for field in _fields(data, within):
            if field.number == 1:
                add(self._items, data, field)

    def finish(self) -> Array | list[bytes]:
        """Return them, in an array if they are numbers."""
        return _finished(self._kind, self._items)


def _finished(kind: int, items: Any) -> Array | list[bytes]:
    if kind == _FLOATS:
        floats: Array = np.frombuffer(items, "<f4") if items else np.empty(0, np.float32)
        return floats.astype(np.float32, copy=False)
    if kind == _INTS:
        return np.frombuffer(items, np.int64) if items else np.empty(0, np.int64)
    values: list[bytes] = items
    return values


def _read_entry(data: memoryview, entry: _Field) -> tuple[str, _Values]:
    name, values = "", _Values()
    for field in _fields(data, entry):
        if field.wire != _LENGTH:
            continue
        if field.number == 1:
            name = _text(data, field)
        elif field.number == 2:  # noqa: PLR2004 - value, of key and value
            for kind in _fields(data, field):
                if kind.wire == _LENGTH and kind.number in _EMPTY:
                    values.merge(data, kind.number, kind)
    return name, values


def _text(data: memoryview, field: _Field) -> str:
    try:
        return str(data[field.begin : field.end], "utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("a name is not UTF-8", field.begin) from error


def _add_bytes(items: list[bytes], data: memoryview, field: _Field) -> None:
    if field.wire == _LENGTH:
        items.append(bytes(data[field.begin : field.end]))


def _add_floats(items: bytearray, data: memoryview, field: _Field) -> None:
    if field.wire not in (_LENGTH, _FIXED32):
        return
    if (field.end - field.begin) % 4:
        raise _malformed("packed floats are cut short", field.begin)
    items += data[field.begin : field.end]


def _add_ints(items: array[int], data: memoryview, field: _Field) -> None:
    if field.wire == _VARINT:
        items.append(_signed(_varint(data, field.begin, field.end)[0]))
    elif field.wire != _LENGTH:
        return
    elif field.end - field.begin < _FEW_BYTES:
        at = field.begin
        while at < field.end:
            value, at = _varint(data, at, field.end)
            items.append(_signed(value))
    else:
        _add_packed(items, data, field)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _add_packed(items: array[int], data: memoryview, field: _Field) -> None:
    at = field.begin
    while at < field.end:
        raw = np.frombuffer(data[at : min(at + _STEP_BYTES, field.end)], np.uint8)
        ends = np.flatnonzero(raw < 128)  # noqa: PLR2004 - the bit that says another byte follows
        starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
        lengths = ends - starts + 1
        if not len(ends) or lengths.max() > _MOST_VARINT_BYTES:
            raise _malformed("a number among packed ones has no end", at)
        items.frombytes(_gathered(raw, starts, lengths).tobytes())
        at += int(ends[-1]) + 1


def _gathered(raw: Array, starts: Array, lengths: Array) -> Array:
    """Return the numbers whose bytes begin at ``starts``, all at once: one step per place, not per number."""
    values = (raw[starts] & 127).astype(np.uint64)
    for place in range(1, int(lengths.max())):
        which = np.flatnonzero(lengths > place)
        values[which] |= (raw[starts[which] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
    return values


_EMPTY: dict[int, Any] = {_BYTES: list, _FLOATS: bytearray, _INTS: lambda: array("q")}
_ADD: dict[int, Any] = {_BYTES: _add_bytes, _FLOATS: _add_floats, _INTS: _add_ints}
