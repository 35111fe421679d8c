"""Reading ``tf.train.Example`` messages, without TensorFlow.

Floor 4. Knows this one message, on protobuf's wire (:mod:`s3dlio.formats.protobuf`); must not know records, files or
stores. The message (tensorflow/core/example/example.proto, feature.proto)::

    Example  { Features features = 1; }
    Features { map<string, Feature> feature = 1; }      an entry: key = 1, value = 2
    Feature  { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }
    a list   { repeated bytes | float | int64 value = 1; }    numbers packed, or one by one

What comes twice is merged as protobuf does it: a key's last entry wins, a feature's last kind wins, lists of
one kind are appended to each other, unknown fields are skipped.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from s3dlio.buffers import KIB, flat_bytes
from s3dlio.errors import FormatError
from s3dlio.formats.protobuf import (
    FIXED32,
    LENGTH,
    MOST_VARINT_BYTES,
    VARINT,
    Field,
    MalformedError,
    fields,
    messages,
    varint,
    whole,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = np.ndarray[Any, Any]
#: What a feature holds.
Values = Array | list[bytes]

_BYTES, _FLOATS, _INTS = 1, 2, 3
#: Fields 1 and 2, when they are messages, texts or packed numbers.
_TAG_1, _TAG_2, _TAG_3 = (number << 3 | LENGTH for number in (1, 2, 3))
_PACKED = {_TAG_2: _FLOATS, _TAG_3: _INTS}
#: Below so many bytes a loop over numbers is faster than NumPy.
_FEW_BYTES = 48
#: Numbers are taken out of so many bytes at a time: the work takes 40 times as much memory.
_STEP_BYTES = 256 * KIB


def decode_example(data: Buffer) -> dict[str, Values]:
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
        return _read_usual(view)
    except UNUSUAL:
        pass
    try:
        return read_features(view, messages(view, whole(view), 1))
    except MalformedError as error:
        raise not_a("tf.train.Example", error) from None


def not_a(message: str, error: MalformedError) -> FormatError:
    """Return the error for bytes that are no such message."""
    return FormatError(f"not a {message}: {error.what} (at byte {error.at} of the message)")


class _UnusualError(Exception):
    """A message is not laid out as serializers do it; it may be right all the same."""


#: What reading as serializers write raises of other messages, right or not.
UNUSUAL = (_UnusualError, MalformedError, LookupError, UnicodeDecodeError)


def _read_usual(data: memoryview) -> dict[str, Values]:
    """Read a message as serializers write it, in less than half the time: all in order, each feature with one list.

    Raises:
        _UnusualError: Or LookupError, UnicodeDecodeError, MalformedError: only :func:`read_features` can tell.
    """
    found: dict[str, Values] = {}
    stop = len(data)
    at = _into(data, 0, stop, _TAG_1)
    while at < stop:
        at, end = _span(data, at, _TAG_1)
        key, at = _span(data, at, _TAG_1)
        name = str(data[key:at], "utf-8")
        at = _into(data, at, end, _TAG_2)
        if end > stop:
            raise _UnusualError
        found[name] = read_usual_feature(data, at, end)
        at = end
    return found


def read_usual_feature(data: memoryview, at: int, end: int) -> Values:
    """Read a feature that lies between two places as serializers write it, with one list.

    Raises:
        _UnusualError: Or another one of :data:`UNUSUAL`: only :func:`read_feature` can tell.
    """
    kind = data[at]
    at = _into(data, at, end, kind)
    if kind != _TAG_1:
        which = _PACKED[kind]
        items = _EMPTY[which]()
        _ADD[which](items, data, Field(1, LENGTH, _into(data, at, end, _TAG_1), end))
        return _finished(which, items)
    texts: list[bytes] = []
    while at < end:
        begin, at = _span(data, at, _TAG_1)
        texts.append(bytes(data[begin:at]))
    if at != end:
        raise _UnusualError
    return texts


def _span(data: memoryview, at: int, tag: int) -> tuple[int, int]:
    """Return where the value of the field with this tag begins and ends."""
    length = data[at + 1]
    if data[at] != tag:
        raise _UnusualError
    if length < 128:  # noqa: PLR2004 - a number of one byte
        return at + 2, at + 2 + length
    length, at = varint(data, at + 1, len(data))
    return at, at + length


def _into(data: memoryview, at: int, end: int, tag: int) -> int:
    """Return where the value of the field with this tag begins, if it reaches to the end."""
    begin, stop = _span(data, at, tag)
    if stop != end:
        raise _UnusualError
    return begin


def read_features(data: memoryview, found_in: Iterable[Field]) -> dict[str, Values]:
    """Return the features of all messages ``Features`` that are some fields' values.

    Raises:
        MalformedError: They are none.
    """
    found: dict[str, Values] = {}
    for features in found_in:
        for entry in messages(data, features, 1):
            name, values = read_entry(data, entry)
            found[name] = read_feature(data, values)
    return found


def read_entry(data: memoryview, entry: Field) -> tuple[str, list[Field]]:
    """Return the name of an entry of a map, and its values: of messages there may be several, to be merged.

    Raises:
        MalformedError: It is none.
    """
    name, values = "", []
    for field in fields(data, entry):
        if field.wire != LENGTH:
            continue
        if field.number == 1:
            name = _text(data, field)
        elif field.number == 2:  # noqa: PLR2004 - value, of key and value
            values.append(field)
    return name, values


def read_feature(data: memoryview, parts: Iterable[Field]) -> Values:
    """Return the values of the one feature that some fields' values are together.

    Raises:
        MalformedError: They are none.
    """
    values = _Values()
    for part in parts:
        for kind in fields(data, part):
            if kind.wire == LENGTH and kind.number in _EMPTY:
                values.merge(data, kind.number, kind)
    return values.finish()


# -- features -----------------------------------------------------------------------------------------


class _Values:
    """The values of one feature, of the kind that was seen last."""

    __slots__ = ("_items", "_kind")

    def __init__(self) -> None:
        self._kind = 0
        self._items: Any = []

    def merge(self, data: memoryview, kind: int, within: Field) -> None:
        """Take the values out of a list."""
        if kind != self._kind:
            self._kind = kind
            self._items = _EMPTY[kind]()
        add = _ADD[kind]
        for field in fields(data, within):
            if field.number == 1:
                add(self._items, data, field)

    def finish(self) -> Values:
        """Return them, in an array if they are numbers."""
        return _finished(self._kind, self._items)


def _finished(kind: int, items: Any) -> Values:
    if kind == _FLOATS:
        floats: Array = np.frombuffer(items, "<f4") if items else np.empty(0, np.float32)
        return floats.astype(np.float32, copy=False)
    if kind == _INTS:
        return np.frombuffer(items, np.int64) if items else np.empty(0, np.int64)
    values: list[bytes] = items
    return values


def _text(data: memoryview, field: Field) -> str:
    try:
        return str(data[field.begin : field.end], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a name is not UTF-8", field.begin) from error


def _add_bytes(items: list[bytes], data: memoryview, field: Field) -> None:
    if field.wire == LENGTH:
        items.append(bytes(data[field.begin : field.end]))


def _add_floats(items: bytearray, data: memoryview, field: Field) -> None:
    if field.wire not in (LENGTH, FIXED32):
        return
    if (field.end - field.begin) % 4:
        raise MalformedError("packed floats are cut short", field.begin)
    items += data[field.begin : field.end]


def _add_ints(items: array[int], data: memoryview, field: Field) -> None:
    if field.wire == VARINT:
        items.append(_signed(varint(data, field.begin, field.end)[0]))
    elif field.wire != LENGTH:
        return
    elif field.end - field.begin < _FEW_BYTES:
        at = field.begin
        while at < field.end:
            value, at = varint(data, at, field.end)
            items.append(_signed(value))
    else:
        _add_packed(items, data, field)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _add_packed(items: array[int], data: memoryview, field: Field) -> None:
    at = field.begin
    while at < field.end:
        raw = np.frombuffer(data[at : min(at + _STEP_BYTES, field.end)], np.uint8)
        ends = np.flatnonzero(raw < 128)  # noqa: PLR2004 - the bit that says another byte follows
        starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
        lengths = ends - starts + 1
        if not len(ends) or lengths.max() > MOST_VARINT_BYTES:
            raise MalformedError("a number among packed ones has no end", at)
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
