"""Room card: `tf.train.SequenceExample` against TensorFlow itself: what it writes is read alike, odd messages too.

Single features are `test_example`'s.  Must not know files but as records that a dataset hands to a transform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.errors import FormatError
from s3dlio.formats.sequence_example import SequenceExample, decode_sequence_example
from s3dlio.torch import S3MapDataset
from tests.test_example import (
    FEATURES,
    FLOAT32,
    INT64,
    VALUES,
    bytes_list,
    feature,
    field,
    float_list,
    int_list,
    number,
    varint,
)
from tests.test_example import same as same_features

if TYPE_CHECKING:
    from pathlib import Path

#: Steps of one kind, as they nearly always are, and of several, which the message allows.
STEPS = st.one_of(
    st.lists(st.lists(st.binary(max_size=9), max_size=4), max_size=6),
    st.lists(st.lists(INT64, max_size=9).map(lambda items: np.array(items, np.int64)), max_size=6),
    st.lists(st.lists(FLOAT32, max_size=9).map(lambda items: np.array(items, np.float32)), max_size=6),
    st.lists(VALUES, max_size=4),
)
LISTS = st.dictionaries(st.text(max_size=10), STEPS, max_size=4)


def written(value: Any) -> Any:
    """A feature as TensorFlow has it."""
    if isinstance(value, list):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
    if value.dtype == np.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


def built(context: dict[str, Any], lists: dict[str, list[Any]]) -> bytes:
    """The message as TensorFlow writes it."""
    steps = {name: tf.train.FeatureList(feature=map(written, values)) for name, values in lists.items()}
    message = tf.train.SequenceExample(
        context=tf.train.Features(feature={name: written(value) for name, value in context.items()}),
        feature_lists=tf.train.FeatureLists(feature_list=steps),
    )
    return bytes(message.SerializeToString())


def read(value: Any) -> Any:
    """A feature of TensorFlow as it would be returned here."""
    kind = value.WhichOneof("kind")
    if kind == "float_list":
        return np.array(value.float_list.value, np.float32)
    return np.array(value.int64_list.value, np.int64) if kind == "int64_list" else list(value.bytes_list.value)


def theirs(data: bytes) -> SequenceExample:
    """What TensorFlow reads, as it would be returned here."""
    message = tf.train.SequenceExample.FromString(data)
    return SequenceExample(
        {name: read(value) for name, value in message.context.feature.items()},
        {name: [read(step) for step in steps.feature] for name, steps in message.feature_lists.feature_list.items()},
    )


def same(mine: SequenceExample, other: SequenceExample) -> None:
    same_features(mine.context, other.context)
    assert mine.feature_lists.keys() == other.feature_lists.keys()
    for name, steps in mine.feature_lists.items():
        assert len(steps) == len(other.feature_lists[name])
        for step, its in zip(steps, other.feature_lists[name], strict=True):
            same_features({name: step}, {name: its})


def steps_of(name: str, *features: bytes) -> bytes:
    """An entry of the feature lists."""
    return field(1, field(1, name.encode()) + field(2, b"".join(field(1, one) for one in features)))


@settings(max_examples=200)
@given(FEATURES, LISTS)
def test_what_tensorflow_writes_is_read_alike(context: dict[str, Any], lists: dict[str, list[Any]]) -> None:
    data = built(context, lists)
    same(decode_sequence_example(data), SequenceExample(context, lists))
    same(theirs(data), SequenceExample(context, lists))


@settings(max_examples=30)
@given(st.lists(INT64, min_size=1, max_size=5), st.lists(st.lists(FLOAT32, min_size=3, max_size=3), max_size=6))
def test_tensorflows_parsing_operation_reads_the_same(labels: list[int], frames: list[list[float]]) -> None:
    values = [np.array(frame, np.float32) for frame in frames]
    data = built({"labels": np.array(labels, np.int64)}, {"frames": values})
    context, lists = tf.io.parse_single_sequence_example(
        data,
        {"labels": tf.io.FixedLenFeature([len(labels)], tf.int64)},
        {"frames": tf.io.FixedLenSequenceFeature([3], tf.float32)},
    )
    mine = decode_sequence_example(data)
    assert np.array_equal(mine.context["labels"], context["labels"].numpy())
    assert np.array_equal(np.array(mine.feature_lists["frames"], np.float32).reshape(-1, 3), lists["frames"].numpy())


#: Messages that are sound and that TensorFlow would not write so.
ODD = {
    "nothing": b"",
    "empty parts": field(1, b"") + field(2, b""),
    "lists before the context": field(2, steps_of("x", int_list(1))) + field(1, feature("a", int_list(7))),
    "parts twice": field(1, feature("a", int_list(1))) + field(2, steps_of("x", int_list(1)))
    + field(1, feature("a", int_list(2)) + feature("b")) + field(2, steps_of("y", int_list(2))),
    "the last entry wins": field(2, steps_of("x", int_list(1), int_list(2)) + steps_of("x", int_list(3))),
    "lists of an entry are joined": field(
        2, field(1, field(1, b"x") + field(2, field(1, int_list(1))) + field(2, field(1, bytes_list(b"2"))))
    ),
    "list before name": field(2, field(1, field(2, field(1, int_list(1))) + field(1, b"x"))),
    "no name": field(2, field(1, field(2, field(1, int_list(1))))),
    "no list": field(2, field(1, field(1, b"x"))),
    "no steps": field(2, steps_of("x")),
    "steps without a kind": field(2, steps_of("x", b"", b"")),
    "kinds within a step": field(2, steps_of("x", int_list(1) + int_list(2), float_list(1) + bytes_list(b"x"))),
    "one by one": field(2, steps_of("x", int_list(1, -2, packed=False), float_list(1.5, packed=False))),
    "unknown fields": number(7, 1) + field(3, b"?") + field(2, field(9, b"?") + steps_of("x", field(15, b"?") + int_list(1))),
    "other wire types": number(2, 3) + field(2, number(1, 1) + steps_of("x", number(1, 1) + int_list(5))),
    "unknown groups": varint(5 << 3 | 3) + number(1, 1) + varint(5 << 3 | 4) + field(2, steps_of("x", int_list(1))),
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_odd_messages_are_read_as_tensorflow_does(data: bytes) -> None:
    same(decode_sequence_example(data), theirs(data))


BROKEN = {
    "a name that is not UTF-8": field(2, field(1, field(1, b"\xff\xfe") + field(2, b""))),
    "a length beyond its message": field(2, b"\x0a\x05abc"),
    "a step beyond its list": field(2, field(1, field(1, b"x") + field(2, b"\x0a\x05abc"))),
    "a number without an end": field(2, steps_of("x", field(3, b"\x08\xff"))),
    "half a float": field(1, feature("f", field(2, b"\x0d\0\0"))),
    "wire type 7": field(2, b"\x0f"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_messages_are_refused_as_by_tensorflow(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"not a tf.train.SequenceExample: .* \(at byte \d+ of the message\)"):
        decode_sequence_example(data)
    with pytest.raises(DecodeError):
        tf.train.SequenceExample.FromString(data)


@settings(max_examples=500)
@given(
    st.one_of(st.sampled_from(list(ODD.values())), st.builds(built, FEATURES, LISTS)),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
)
def test_mutated_messages_are_refused_or_read_as_tensorflow_does(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data[:500])
    for place, value in changes:
        if changed:
            changed[place % len(changed)] = value
    try:
        mine = decode_sequence_example(changed)
    except FormatError:
        return
    try:
        other = theirs(bytes(changed))
    except DecodeError:
        return  # stricter about what is skipped, and about depth
    if not has_entries_aside(bytes(changed)):
        same(mine, other)


def has_entries_aside(data: bytes) -> bool:
    """Whether protobuf's Python keeps an entry aside, as it does with those that hold unknown fields."""
    message = tf.train.SequenceExample.FromString(data)
    parts = (message.context, message.feature_lists)
    return any(unknown.field_number == 1 for part in parts for unknown in UnknownFieldSet(part))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        decode_sequence_example(data)
    except FormatError:
        return


def test_results_have_memory_of_their_own() -> None:
    data = bytearray(built({"f": np.ones(2, np.float32)}, {"i": [np.arange(2)], "b": [[b"spam"]]}))
    found = s3dlio.decode_sequence_example(memoryview(data))
    data[:] = bytes(len(data))
    assert np.asarray(found.context["f"]).tolist() == [1, 1]
    assert found.feature_lists["b"] == [[b"spam"]]
    found.feature_lists["i"][0][0] = 5  # type: ignore[call-overload]
    assert found == (found.context, found.feature_lists)


def test_records_of_a_dataset_are_decoded_by_it(tmp_path: Path) -> None:
    with s3dlio.TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        for label in range(3):
            writer.write(built({"label": np.array([label])}, {"frames": [np.full(n, label) for n in range(label + 1)]}))
    for made in (
        s3dlio.create_dataset(tmp_path, transform=s3dlio.decode_sequence_example),
        S3MapDataset(tmp_path, return_type="view", transform=s3dlio.decode_sequence_example),
    ):
        found = [made[number] for number in range(len(made))]
        assert [one.context["label"].tolist() for one in found] == [[0], [1], [2]]
        assert [[len(step) for step in one.feature_lists["frames"]] for one in found] == [[0], [0, 1], [0, 1, 2]]
