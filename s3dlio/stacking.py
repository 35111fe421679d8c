"""From samples to a batch: arrays of one shape become one array.

Floor 5. Knows NumPy and the samples' structure; must not know where they come from or which framework wants
them. Batches lie in recycled memory that begins on a page, so that frameworks can take it over as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s3dlio.buffers import POOL, BytesView
from s3dlio.catalog import AnyArray
from s3dlio.errors import OptionError, suggest

_RAGGED = ("raise", "pad", "list")


def check_ragged(ragged: str) -> str:
    """Return what to do with samples of unequal shapes: ``raise``, ``pad`` or ``list``.

    Raises:
        OptionError: It is none of them.
    """
    if ragged not in _RAGGED:
        msg = f"ragged must be one of {', '.join(_RAGGED)}, not {ragged!r}{suggest(ragged, _RAGGED)}"
        raise OptionError(msg)
    return ragged


def stack(samples: Sequence[Any], ragged: str = "raise") -> Any:
    """Return samples as one batch.

    Args:
        samples: At least one; all mappings with the same names, or sequences (tuples, lists) of one length,
            or arrays, views and numbers of one dtype.
        ragged: What to do if shapes differ: ``raise``; ``pad`` with zeros (or empty bytes) to the longest of each
            axis; ``list`` the arrays instead of stacking them.

    Returns:
        The samples' structure with arrays of one more axis, the first. Views become uint8.

    Raises:
        OptionError: The samples do not fit together; the message says which option helps.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        names = set(first)
        if any(set(sample) != names for sample in samples):
            msg = f"samples have different arrays: {sorted(names)} and others; take some with key= or a transform"
            raise OptionError(msg)
        return {name: stack([sample[name] for sample in samples], ragged) for name in first}
    if isinstance(first, tuple | list) and not all(isinstance(item, bytes) for item in first):
        columns = zip(*samples, strict=True)
        return type(first)([stack(column, ragged) for column in columns])
    if ragged == "list":
        return [_array(sample) for sample in samples]
    return _stack([_array(sample) for sample in samples], ragged)


def _array(sample: Any) -> AnyArray:
    if isinstance(sample, BytesView):
        return np.asarray(sample.view(np.ndarray))
    # Bytes, or a list of them, become objects: NumPy's own arrays of bytes lose zeros at the ends.
    is_bytes = isinstance(sample, bytes) or (isinstance(sample, tuple | list) and len(sample) > 0)
    return np.asarray(sample, object if is_bytes else None)


def _stack(arrays: list[AnyArray], ragged: str) -> AnyArray:
    shapes = {array.shape for array in arrays}
    dtype = np.result_type(*{array.dtype for array in arrays})
    if len(shapes) == 1:
        out = _memory((len(arrays), *arrays[0].shape), dtype)
        return np.stack(arrays, out=out) if out.size else out
    if ragged == "raise" or len({len(shape) for shape in shapes}) > 1:
        shown = ", ".join(map(str, sorted(shapes)[:3]))
        msg = f"samples of unequal shapes ({shown}, ...) make no batch: give ragged='pad' or ragged='list'"
        raise OptionError(msg)
    out = _memory((len(arrays), *map(max, zip(*shapes, strict=True))), dtype)
    out[...] = b"" if dtype.hasobject else np.zeros((), dtype)
    for row, array in zip(out, arrays, strict=True):
        row[tuple(slice(0, length) for length in array.shape)] = array
    return out


def _memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Return uninitialised memory, recycled where it is large."""
    if dtype.hasobject:
        return np.empty(shape, dtype)
    length = int(np.prod(shape, dtype=object)) * dtype.itemsize
    return np.frombuffer(POOL.take(length), dtype).reshape(shape) if length else np.empty(shape, dtype)
