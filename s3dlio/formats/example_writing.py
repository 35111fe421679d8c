"""Making ``tf.train.Example`` messages, without TensorFlow.

Floor 4. Knows what values become which of the message's three kinds of lists, as :mod:`s3dlio.formats.example` reads
them; must not know records, files or stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from s3dlio.bounds import mapping
from s3dlio.buffers import flat_bytes
from s3dlio.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array = np.ndarray[Any, Any]

_BYTES, _FLOATS, _INTS = 1, 2, 3
#: Protobuf's wire type of messages, texts and packed numbers.
_LENGTH = 2
#: Protobuf's own limit.
_MOST_VARINT_BYTES = 10


def encode_example(features: Mapping[str, Any]) -> bytes:
    """Return a serialized ``tf.train.Example``.

    Args:
        features: By name: ``bytes``, ``str`` (as UTF-8) or a list of them; or a number, a list of numbers or an
            array. Booleans and integers become int64, floats float32; arrays are flattened in C order. An empty
            list makes a feature without a kind, an empty array one of its dtype.

    Raises:
        OptionError: A value is none of these, or a number does not fit.
    """
    entries = []
    for name, value in mapping("features", features).items():
        try:
            entries.append(_delimited(1, _delimited(1, _encoded(name)) + _delimited(2, _feature(value))))
        except OptionError as error:
            msg = f"feature {name!r}: {error.message}"
            raise OptionError(msg, operation="encode_example") from error
    return _delimited(1, b"".join(entries))


def _delimited(number: int, data: Buffer) -> bytes:
    view = memoryview(data)
    return b"".join([_small(number << 3 | _LENGTH), _small(len(view)), view])


def _encoded(text: Any) -> bytes:
    try:
        return str.encode(text)
    except TypeError as error:
        msg = f"a name is a str, not {type(text).__name__}"
        raise OptionError(msg) from error
    except UnicodeEncodeError as error:
        msg = "the text holds half a character (a lone surrogate), which has no form in UTF-8"
        raise OptionError(msg) from error


def _small(value: int) -> bytes:
    out = bytearray()
    while value > 127:  # noqa: PLR2004 - seven bits to a byte
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _feature(value: Any) -> bytes:
    if isinstance(value, str | bytes | bytearray | memoryview):
        value = [value]
    if isinstance(value, list | tuple) and not value:
        return b""
    items = _texts(value)
    if items is not None:
        return _delimited(_BYTES, b"".join(_delimited(1, item) for item in items))
    numbers = _numbers(value)
    if numbers.dtype.kind == "f":
        return _delimited(_FLOATS, _delimited(1, _floats(numbers).data.cast("B")) if len(numbers) else b"")
    if numbers.dtype.kind in "iub":
        return _delimited(_INTS, _delimited(1, _varints(numbers)) if len(numbers) else b"")
    msg = f"expected bytes, text or numbers, not {type(value).__name__} (dtype {numbers.dtype})"
    raise OptionError(msg)


def _numbers(value: Any) -> Array:
    try:
        return np.asarray(value).ravel()
    except (TypeError, ValueError) as error:  # lists in a list that are not of one length
        msg = f"no array can be made of it: {error}"
        raise OptionError(msg) from error


def _texts(value: Any) -> list[Buffer] | None:
    """Return the items of a list of texts or bytes, or nothing if it is something else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        value = value.ravel().tolist()
    if not isinstance(value, list | tuple):
        return None
    if not all(isinstance(item, str | bytes | bytearray | memoryview) for item in value):
        return None
    return [_encoded(item) if isinstance(item, str) else flat_bytes(item) for item in value]


def _floats(numbers: Array) -> Array:
    with np.errstate(over="ignore"):
        floats = numbers.astype("<f4")
    if not np.array_equal(np.isinf(floats), np.isinf(numbers)):
        msg = "a number is too large for float32, of which the message is made"
        raise OptionError(msg)
    return floats


def _varints(numbers: Array) -> bytes:
    if numbers.dtype.kind == "u" and numbers.max() > np.iinfo(np.int64).max:
        msg = "a number is too large for int64, of which the message is made"
        raise OptionError(msg)
    values = numbers.astype(np.int64).view(np.uint64)
    lengths = np.ones(len(values), np.int64)
    for place in range(1, _MOST_VARINT_BYTES):
        lengths += values >= np.uint64(1 << 7 * place)
    ends = np.cumsum(lengths)
    out = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(lengths.max())):
        which = np.flatnonzero(lengths > place)
        more = np.where(lengths[which] > place + 1, 128, 0).astype(np.uint8)
        out[(ends - lengths)[which] + place] = (values[which] >> np.uint64(7 * place)).astype(np.uint8) & 127 | more
    return out.tobytes()
