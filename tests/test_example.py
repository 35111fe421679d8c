"""Room card: `tf.train.Example` against TensorFlow itself: what it writes is read alike, what is written it reads alike.

Builds messages byte by byte where TensorFlow would never write them so.  Must not know records or files.
"""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.errors import FormatError, OptionError
from s3dlio.formats.example import decode_example
from s3dlio.formats.example_writing import encode_example

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(
    st.lists(st.binary(max_size=20), max_size=5),
    st.lists(INT64, max_size=200).map(lambda numbers: np.array(numbers, np.int64)),
    st.lists(st.integers(0, 300), max_size=200).map(lambda numbers: np.array(numbers, np.int64)),
    st.lists(FLOAT32, max_size=50).map(lambda numbers: np.array(numbers, np.float32)),
)
FEATURES = st.dictionaries(st.text(max_size=10), VALUES, max_size=5)


def varint(value: int) -> bytes:
    out = bytearray()
    value %= 2**64
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    """A field of a length and so many bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(place: int, value: int) -> bytes:
    """A field of one number."""
    return varint(place << 3) + varint(value)


def message(*features: bytes) -> bytes:
    return field(1, b"".join(features))


def feature(name: str, *kinds: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, b"".join(kinds)))


def bytes_list(*items: bytes) -> bytes:
    return field(1, b"".join(field(1, item) for item in items))


def float_list(*items: float, packed: bool = True) -> bytes:
    if packed:
        return field(2, field(1, struct.pack(f"<{len(items)}f", *items)))
    return field(2, b"".join(b"\x0d" + struct.pack("<f", item) for item in items))


def int_list(*items: int, packed: bool = True) -> bytes:
    if packed:
        return field(3, field(1, b"".join(map(varint, items))))
    return field(3, b"".join(number(1, item) for item in items))


def theirs(data: bytes) -> dict[str, Any]:
    """What TensorFlow reads, as it would be returned here."""
    found: dict[str, Any] = {}
    for name, value in tf.train.Example.FromString(data).features.feature.items():
        kind = value.WhichOneof("kind")
        if kind == "float_list":
            found[name] = np.array(value.float_list.value, np.float32)
        elif kind == "int64_list":
            found[name] = np.array(value.int64_list.value, np.int64)
        else:
            found[name] = list(value.bytes_list.value)
    return found


def same(mine: dict[str, Any], other: dict[str, Any]) -> None:
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert type(value) is type(other[name])
        if isinstance(value, list):
            assert value == other[name]
        else:
            assert value.dtype == other[name].dtype
            assert value.tobytes() == other[name].tobytes()


def built(features: dict[str, Any]) -> bytes:
    """The message as TensorFlow writes it."""
    parts = {}
    for name, value in features.items():
        if isinstance(value, list):
            parts[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        elif value.dtype == np.float32:
            parts[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
        else:
            parts[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return bytes(tf.train.Example(features=tf.train.Features(feature=parts)).SerializeToString())


# -- against TensorFlow ---------------------------------------------------------------------------------


@settings(max_examples=200)
@given(FEATURES)
def test_what_tensorflow_writes_is_read_alike(features: dict[str, Any]) -> None:
    same(decode_example(built(features)), features)


@settings(max_examples=200)
@given(FEATURES)
def test_what_is_written_here_tensorflow_reads_alike(features: dict[str, Any]) -> None:
    data = encode_example(features)
    same(theirs(data), features)
    same(decode_example(data), features)


def test_tensorflows_own_parser_reads_what_is_written_here() -> None:
    data = encode_example({"image": b"\xff\xd8...", "label": 7, "box": [0.5, 1, 2.25, -1], "words": ["a", "é"]})
    wanted = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "box": tf.io.FixedLenFeature([4], tf.float32),
        "words": tf.io.VarLenFeature(tf.string),
    }
    parsed = tf.io.parse_single_example(data, wanted)
    assert (parsed["image"].numpy(), int(parsed["label"])) == (b"\xff\xd8...", 7)
    assert parsed["box"].numpy().tolist() == [0.5, 1, 2.25, -1]
    assert parsed["words"].values.numpy().tolist() == [b"a", "é".encode()]


#: Messages that are sound and that TensorFlow would not write so.
ODD = {
    "one by one": message(feature("f", float_list(1.5, -2, packed=False)), feature("i", int_list(1, -2, packed=False))),
    "packed and one by one": message(feature("i", field(3, number(1, 5) + field(1, b"\x01\x02") + number(1, 2**64 - 1)))),
    "floats both ways": message(feature("f", float_list(1, packed=False), float_list(2, 3), float_list(4, packed=False))),
    "lists of a kind are joined": message(feature("b", bytes_list(b"x"), bytes_list(b"y", b""))),
    "the last kind wins": message(feature("x", bytes_list(b"x"), int_list(1, 2), float_list(0.5))),
    "back and forth": message(feature("x", int_list(1), bytes_list(b"x"), int_list(2))),
    "the last entry wins": message(feature("x", int_list(1)), feature("y"), feature("x", bytes_list(b"2"))),
    "values of an entry are merged": message(field(1, field(1, b"x") + field(2, int_list(1)) + field(2, int_list(2)))),
    "the last name wins": message(field(1, field(1, b"x") + field(2, int_list(1)) + field(1, b"z"))),
    "value before name": message(field(1, field(2, int_list(1)) + field(1, b"x"))),
    "no name": message(field(1, field(2, int_list(1)))),
    "no value": message(field(1, field(1, b"x"))),
    "an empty entry": message(field(1, b"")),
    "features twice": message(feature("x", int_list(1))) + message(feature("x", int_list(2)), feature("y")),
    "no kind": message(feature("x")),
    "empty lists": message(feature("b", field(1, b"")), feature("f", field(2, b"")), feature("i", field(3, b""))),
    "empty runs": message(feature("f", float_list()), feature("i", int_list())),
    "nothing": b"",
    "no features": message(),
    "unknown fields": number(7, 1) + field(9, b"?") + message(field(8, b"?"), feature("x", field(15, b"?"), int_list(1)))
    + varint(11 << 3 | 5) + b"1234" + varint(12 << 3 | 1) + b"12345678",
    "unknown groups": varint(5 << 3 | 3) + number(1, 1) + field(2, b"?") + varint(6 << 3 | 3) + varint(6 << 3 | 4)
    + varint(1 << 3 | 5) + b"1234" + varint(5 << 3 | 4) + message(feature("x", int_list(1))),
    "other wire types": message(number(1, 3), feature("x", number(1, 1), int_list(5))) + number(1, 0),
    "bytes as a number": message(feature("b", field(1, number(1, 5) + field(1, b"x")))),
    "floats as numbers": message(feature("f", field(2, number(1, 5) + varint(1 << 3 | 1) + bytes(8) + b"\x0d\0\0\0\0"))),
    "ints as floats": message(feature("i", field(3, b"\x0d\0\0\0\0" + number(1, 6)))),
    "long ways to say little": message(feature("i", field(3, field(1, b"\x81\x80\x80\0" * 30 + b"\x80" * 9 + b"\0")))),
    "the highest field": field(2**29 - 1, b"?") + message(feature("x", int_list(1))),
    "many ints": message(feature("i", int_list(*range(-500, 100_000, 7)))),
    "bits beyond 64": message(feature("i", int_list(5), field(3, field(1, (b"\xff" * 9 + b"\x7f") * 20)))),
    "bits beyond 64, one by one": message(feature("i", field(3, b"\x08" + b"\xff" * 9 + b"\x7f"))),
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_odd_messages_are_read_as_tensorflow_does(data: bytes) -> None:
    same(decode_example(data), theirs(data))


BROKEN = {
    "a name that is not UTF-8": message(field(1, field(1, b"\xff\xfe") + field(2, int_list(1)))),
    "a length beyond the end": b"\x0a\x05abc",
    "a length beyond its message": message(field(1, b"\x0a\x05abc")),
    "a huge length": b"\x0a" + varint(2**63) + b"abc",
    "a number without an end": message(feature("i", field(3, b"\x08\xff"))),
    "a packed number without an end": message(feature("i", field(3, field(1, b"\x01\xff")))),
    "a packed number without an end, among many": message(feature("i", field(3, field(1, b"\x01" * 100 + b"\xff")))),
    "eleven bytes": message(feature("i", field(3, field(1, b"\xff" * 10 + b"\x01" + b"\x01" * 50)))),
    "eleven bytes, few": message(feature("i", field(3, field(1, b"\xff" * 10 + b"\x01")))),
    "no end at all": message(feature("i", field(3, field(1, b"\xff" * 300_000)))),
    "three bytes of a float": message(feature("f", field(2, field(1, b"\0\0\0")))),
    "half a float": message(feature("f", field(2, b"\x0d\0\0"))),
    "field 0": b"\x02\x01x",
    "a tag of six bytes": b"\x8a\x80\x80\x80\x80\x00\x01x",
    "wire type 6": b"\x0e",
    "wire type 7": message(b"\x0f"),
    "the end of no group": varint(5 << 3 | 4),
    "a group without an end": varint(5 << 3 | 3) + number(1, 1),
    "another group's end": varint(5 << 3 | 3) + varint(6 << 3 | 4),
    "groups in groups": varint(5 << 3 | 3) * 1000 + varint(5 << 3 | 4) * 1000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_messages_are_refused_as_by_tensorflow(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"not a tf.train.Example: .* \(at byte \d+ of the message\)"):
        decode_example(data)
    with pytest.raises(DecodeError):
        tf.train.Example.FromString(data)


def test_the_broken_byte_is_named() -> None:
    good = message(feature("x", int_list(1)))
    with pytest.raises(FormatError, match=f"at byte {len(good)} of the message"):
        decode_example(good + b"\x0e")


@settings(max_examples=500)
@given(
    st.one_of(st.sampled_from(list(ODD.values())[:-3]), FEATURES.map(encode_example)),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
)
def test_mutated_messages_are_refused_or_read_as_tensorflow_does(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data[:500])
    for place, value in changes:
        if changed:
            changed[place % len(changed)] = value
    try:
        mine = decode_example(changed)
    except FormatError:
        return
    try:
        other = theirs(bytes(changed))
    except DecodeError:
        return  # stricter about what is skipped, and about depth
    if not has_entries_aside(bytes(changed)):
        same(mine, other)


def has_entries_aside(data: bytes) -> bool:
    """Whether protobuf's Python keeps an entry aside: it does that with those that hold unknown fields.

    Its C++, and the library, skip just these fields.
    """
    features = tf.train.Example.FromString(data).features
    return any(unknown.field_number == 1 for unknown in UnknownFieldSet(features))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        decode_example(data)
    except FormatError:
        return


def test_memory_stays_in_proportion() -> None:
    packed = message(feature("i", field(3, field(1, bytes(3_000_000)))))
    single = message(feature("i", field(3, b"\x08\x01" * 100_000)), feature("f", field(2, b"\x0d\0\0\0\0" * 50_000)))
    decode_example(message(feature("i", int_list(*range(100)))))
    for data, most in ((packed, 24_000_000 * 2 + 12_000_000), (single, 4_000_000)):
        tracemalloc.start()
        decode_example(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


def test_results_have_memory_of_their_own() -> None:
    data = bytearray(encode_example({"f": [1.0, 2.0], "i": [1, 2], "b": b"spam"}))
    found = decode_example(memoryview(data))
    data[:] = bytes(len(data))
    assert np.asarray(found["f"]).tolist() == [1.0, 2.0]
    assert found["b"] == [b"spam"]
    found["i"][0] = 5  # type: ignore[call-overload]
    found["f"][0] = 5  # type: ignore[call-overload]


# -- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, np.array([5])),
        (True, np.array([1])),
        (2.5, np.array([2.5], np.float32)),
        ([1, 2.5], np.array([1, 2.5], np.float32)),
        (np.float64(0.1), np.array([0.1], np.float32)),
        (np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(6)),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(6, dtype=np.float32)),
        (np.array([np.inf, -np.inf, np.nan]), np.array([np.inf, -np.inf, np.nan], np.float32)),
        (np.arange(3, dtype=">i4"), np.arange(3)),
        (np.uint64(2**63 - 1), np.array([2**63 - 1])),
        (-1, np.array([-1])),
        ("é", ["é".encode()]),
        (b"", [b""]),
        (bytearray(b"x"), [b"x"]),
        ((b"x", "y", memoryview(b"z")), [b"x", b"y", b"z"]),
        (np.array([b"a\0", b""], object), [b"a\0", b""]),
        (np.array(["a", "bc"]), [b"a", b"bc"]),
        ([], []),
        (np.zeros(0), np.zeros(0, np.float32)),
        (np.zeros(0, np.uint8), np.zeros(0, np.int64)),
    ],
)  # fmt: skip
def test_values_of_many_kinds_are_written(value: Any, expected: Any) -> None:
    data = encode_example({"x": value})
    same(decode_example(data), {"x": expected})
    same(theirs(data), {"x": expected})


@pytest.mark.parametrize(
    "value",
    [None, {"a": 1}, [b"x", 1], [[1, 2], [3]], 2**63, -(2**63) - 1, np.uint64(2**63), 1e300, 1j, np.array([b"a"]),
     np.array(["2020-01-01"], "M8[D]"), [None], object(), "\ud800", ["x", "\ud800"]],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="feature 'x': "):
        encode_example({"good": 1, "x": value})


@pytest.mark.parametrize("name", [5, b"x", "\ud800"])
def test_names_are_text(name: Any) -> None:
    with pytest.raises(OptionError, match=r"name|half a character"):
        encode_example({name: 1})
