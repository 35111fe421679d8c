"""Values out of a pickle, without running what is in it: what stands beside the tensors in a checkpoint.

Floor 6. Knows which classes are nothing but data; must not know where the bytes come from. NumPy's own way back
from a pickle believes all it is told of an array's memory, so something that checks takes its place.
"""

from __future__ import annotations

import datetime as dt
import io
import math
import re
import threading
from typing import Any, Self

import numpy as np
import torch

from s3dlio.checkpoint.layout import are_counts
from s3dlio.errors import CheckpointError
from s3dlio.perprocess import PerProcess

#: torch's list of safe classes belongs to the process, and is put back as it was.
_LOCK = PerProcess(threading.Lock)
#: What torch says of a class, in the midst of advice on its own options.
_REFUSED = re.compile(r"WeightsUnpickler error:\s*(?P<why>[^\n]*?)(\. Please use|\n|$)")
#: Numbers, bools, bytes and text; no objects, no fields, and nothing without a length.
_PLAIN_CODE = re.compile(r"[biufcSU][1-9][0-9]{0,6}")


def unpickled(data: io.BytesIO) -> Any:
    """Return what ``torch.save`` has written, of plain values, tensors, and classes that were named safe.

    What is returned can be pickled, and is then what was saved: arrays are of a class of this module's until then.

    Raises:
        CheckpointError: There is something else in it; the message names the class.
    """
    try:
        with _LOCK.get(), torch.serialization.safe_globals(_safe()):
            return torch.load(data, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises pickle's, its own and others, as the bytes will have it
        told = _REFUSED.search(str(error))
        reason = told["why"] if told else str(error).partition("\n")[0]
        msg = (
            f"it is no tensor and cannot be unpickled safely ({reason:.200}): name its classes by "
            "torch.serialization.add_safe_globals, or give allow_pickle=True if you trust whoever has written it"
        )
        raise CheckpointError(msg) from error


def _safe() -> list[Any]:
    """Return what is safe beyond torch's own; of NumPy nothing, where the user has named NumPy's own."""
    named = [item[1] if isinstance(item, tuple) else item.__module__ for item in torch.serialization.get_safe_globals()]
    return [*_DATA, *([] if any(name.startswith("numpy.") or name == "numpy" for name in named) else _NUMPY)]


class _Dtype:
    """A dtype on its way in."""

    def __init__(self, code: object, *_align_and_copy: object) -> None:
        if not isinstance(code, str) or not _PLAIN_CODE.fullmatch(code):
            msg = f"a NumPy dtype {code!r:.50}"
            raise ValueError(msg)
        self.real: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *more = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in more[:3]):
            msg = f"a NumPy dtype with {state!r:.100}"
            raise ValueError(msg)
        self.real = self.real.newbyteorder(order)

    def __reduce__(self) -> Any:
        return self.real.__reduce__()


class _Array(np.ndarray[Any, Any]):
    """An array on its way in, which is pickled as what it stands for."""

    def __new__(cls) -> Self:
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, raw = state
        fine = isinstance(dtype, _Dtype) and type(raw) is bytes and are_counts(list(shape))
        if not fine or math.prod(shape) * dtype.real.itemsize != len(raw):
            msg = f"a NumPy array of shape {shape!r:.100} that does not have the bytes which are there"
            raise ValueError(msg)
        super().__setstate__((1, tuple(shape), dtype.real, is_fortran is True, raw))  # type: ignore[arg-type]  # as NumPy writes it

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


class _Range:
    """A range on its way in: it cannot be iterated over, or a few bytes would fill a set with all its numbers."""

    def __init__(self, *numbers: int) -> None:
        self.real = range(*numbers)

    def __reduce__(self) -> Any:
        return self.real.__reduce__()


def _array(_kind: Any, _shape: Any, _code: Any) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, raw: bytes) -> Any:
    (value,) = np.frombuffer(raw, dtype.real)
    return value


def _no_bytes() -> bytes:
    """Return what ``bytes()`` makes, which is how pickle writes them; with a number it would make as many."""
    return b""


#: To make one of these runs no code of a checkpoint's.
_DATA = (
    (_no_bytes, "builtins.bytes"), (_no_bytes, "__builtin__.bytes"),
    (_Range, "builtins.range"), (_Range, "__builtin__.xrange"), io.BytesIO, frozenset, slice, dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone,
)  # fmt: skip
#: What stands in for NumPy's own, whose home was called otherwise before NumPy 2.
_NUMPY = (
    (_Dtype, "numpy.dtype"), (_Array, "numpy.ndarray"),
    (_array, "numpy._core.multiarray._reconstruct"), (_array, "numpy.core.multiarray._reconstruct"),
    (_scalar, "numpy._core.multiarray.scalar"), (_scalar, "numpy.core.multiarray.scalar"),
)  # fmt: skip
