"""Reading ``tf.train.SequenceExample`` messages, without TensorFlow.

Floor 4. Knows this one message; features are :mod:`s3dlio.formats.example`'s. Must not know records, files or stores.
The message (tensorflow/core/example/example.proto, feature.proto)::

    SequenceExample { Features context = 1; FeatureLists feature_lists = 2; }
    FeatureLists    { map<string, FeatureList> feature_list = 1; }
    FeatureList     { repeated Feature feature = 1; }

What comes twice is merged as protobuf does it: a name's last entry wins, lists within one entry are appended to each
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from s3dlio.buffers import flat_bytes
from s3dlio.formats.example import UNUSUAL, Values, not_a, read_entry, read_feature, read_features, read_usual_feature
from s3dlio.formats.protobuf import Field, MalformedError, messages, whole

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SequenceExample(NamedTuple):
    """A decoded ``tf.train.SequenceExample``: a pair.

    Attributes:
        context: What holds for the whole sequence, as :func:`s3dlio.decode_example` returns features.
        feature_lists: By name the steps of each list in order, each as a feature. Steps may be of unequal lengths, and
            lists of unequal numbers of steps.
    """

    context: dict[str, Values]
    feature_lists: dict[str, list[Values]]


def decode_sequence_example(data: Buffer) -> SequenceExample:
    """Return context and feature lists of a serialized ``tf.train.SequenceExample``.

    It will do as the ``transform`` of a dataset of records; of torch's datasets with ``return_type="view"``.

    Args:
        data: The message, as a TFRecord holds it.

    Returns:
        The pair ``(context, feature_lists)``, with these names. A feature is a float32 or int64 array of one axis, or
        a list of ``bytes``; one without a kind is an empty list. All in new memory, arrays writable.

    Raises:
        FormatError: The message is malformed; its byte is named.

    Example:
        >>> import s3dlio
        >>> word = "0a0a 0a0161 1205 1a030a0107"  # "a": [7]
        >>> steps = "0a13 0a0178 120e 0a051a030a0101 0a051a030a0102"  # "x": [1], then [2]
        >>> found = s3dlio.decode_sequence_example(bytes.fromhex(f"0a0c {word} 1215 {steps}"))
        >>> found.context, found.feature_lists
        ({'a': array([7])}, {'x': [array([1]), array([2])]})
    """
    view = flat_bytes(data)
    lists: dict[str, list[Values]] = {}
    try:
        context = read_features(view, messages(view, whole(view), 1))
        for part in messages(view, whole(view), 2):
            for entry in messages(view, part, 1):
                name, values = read_entry(view, entry)
                lists[name] = [_read_step(view, step) for value in values for step in messages(view, value, 1)]
    except MalformedError as error:
        raise not_a("tf.train.SequenceExample", error) from None
    return SequenceExample(context, lists)


def _read_step(data: memoryview, step: Field) -> Values:
    try:
        return read_usual_feature(data, step.begin, step.end)
    except UNUSUAL:
        return read_feature(data, [step])
