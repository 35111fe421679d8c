"""What a dataset's elements are, and how a batch in NumPy becomes tensors.

Floor 6. TensorFlow takes over the memory that a batch was put together in, as it lies (batches begin on a
page), and the memory is not used again before the last tensor is gone. Copied are small batches, which may
begin anywhere, single samples, and text. Must not know where samples come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from s3dlio.buffers import POOL, POOLED_FROM_BYTES, BytesView
from s3dlio.errors import FormatError, OptionError, S3dlioError

_Array = np.ndarray[Any, Any]
#: What text is to NumPy: its own arrays of bytes lose zeros at the ends of items.
_TEXT = np.dtype(object)
#: TensorFlow's kernels assume memory that begins so, and DLPack does not check it.
_ALIGNED = 64
#: What DLPack has dtypes for: booleans, whole numbers, floats and complex ones.
_NUMBERS = "biufc"


class Form(NamedTuple):
    """What one array of every sample is.

    Attributes:
        dtype: In the machine's byte order; ``object`` for text, each item of which is ``bytes``.
        shape: Of the first sample's.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Layout:
    """What the elements of a dataset are. Safe to share among threads once the form is known.

    Args:
        batch: Samples in each batch, ``None`` if that differs.
        ragged: What may differ among samples: ``raise`` (nothing), ``pad`` (the lengths of axes) or ``list``
            (the length of the first axis; of single samples, that of every axis).
        single: Elements are single samples.
        text: Samples that are bytes become text instead of uint8.

    Attributes:
        single: As given.
        text: As given.
        form: A :class:`Form`, or dicts and tuples of them; ``None`` until it is known.
    """

    def __init__(self, batch: int | None, ragged: str, *, single: bool = False, text: bool = False) -> None:
        self._batch = batch
        self._ragged = ragged
        self.single = single
        self.text = text
        self.form: Any = Form(_TEXT, ()) if text else None

    # -- samples ----------------------------------------------------------------------------------

    def learn(self, sample: Any) -> None:
        """Take the form of the first sample, of arrays, for that of all.

        Raises:
            FormatError: TensorFlow has no dtype for an array of it.
        """
        self.form = _form_of(sample)

    def arrays(self, sample: Any) -> Any:
        """Return a sample as NumPy arrays, and see that they are of the form.

        Raises:
            OptionError: A shape is another one than the first sample's; the message says which option helps.
            FormatError: It differs otherwise.
        """
        return self._free(sample) if self.form is None else self._fitted(sample, self.form, "")

    def _free(self, sample: Any) -> Any:
        if isinstance(sample, Mapping):
            return {name: self._free(value) for name, value in sample.items()}
        if isinstance(sample, tuple):
            return tuple(self._free(value) for value in sample)
        return self._array(sample)

    def _fitted(self, sample: Any, form: Any, name: str) -> Any:
        if isinstance(form, Form):
            if isinstance(sample, list) and not sample:  # a feature without values does not tell of which kind
                sample = np.empty(0, form.dtype)
            array = self._array(sample)
            if array.dtype != form.dtype or not self._is_allowed(array.shape, form.shape):
                raise self._misfit(array, form, name)
            return array
        if isinstance(form, dict):
            if isinstance(sample, Mapping) and sample.keys() == form.keys():
                return {key: self._fitted(sample[key], form[key], key) for key in form}
        elif isinstance(sample, tuple) and len(sample) == len(form):
            return tuple(self._fitted(part, its, name) for part, its in zip(sample, form, strict=True))
        msg = f"the sample is {_shown(sample)}, and the first one is {_shown(form)}"
        raise FormatError(msg)

    def _array(self, value: Any) -> _Array:
        """Return a value as an array of the machine's byte order; text as ``object``, each item ``bytes``."""
        if isinstance(value, BytesView):
            return _to_text(value.to_bytes()) if self.text else np.asarray(value.view(np.ndarray))
        if not isinstance(value, np.ndarray):
            value = _from_others(value)
        if value.dtype.kind in "SUO":
            return _to_text(value)
        native: _Array = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        return native

    def _is_allowed(self, shape: tuple[int, ...], first: tuple[int, ...]) -> bool:
        if self._ragged == "raise":
            return shape == first
        any_lengths = self._ragged == "pad" or self.single
        return len(shape) == len(first) and (any_lengths or shape[1:] == first[1:])

    def _misfit(self, array: _Array, form: Form, name: str) -> S3dlioError:
        what = f"array {name!r}" if name else "the sample"
        if array.dtype != form.dtype:
            return FormatError(f"{what} has dtype {_named(array.dtype)}, and {_named(form.dtype)} in the first sample")
        msg = f"{what} has shape {array.shape}, and {form.shape} in the first sample"
        if array.ndim != len(form.shape):
            return FormatError(msg)
        helps = [] if self.single else ["ragged='pad'"]
        helps += ["ragged='list'"] if self.single or array.shape[1:] == form.shape[1:] else []
        helps += ["as_string=True (objects as they are)"] if form.dtype == np.uint8 and array.ndim == 1 else []
        return OptionError(f"{msg}: give {' or '.join(helps)}")

    # -- elements ---------------------------------------------------------------------------------

    @property
    def spec(self) -> Any:
        """The ``element_spec`` of a dataset of these elements."""
        return self._spec(self.form)

    def _spec(self, form: Any) -> Any:
        if isinstance(form, dict):
            return {key: self._spec(part) for key, part in form.items()}
        if not isinstance(form, Form):
            return tuple(self._spec(part) for part in form)
        dtype = _tf_dtype(form.dtype)
        lengths = form.shape if self._ragged == "raise" else (None,) * len(form.shape)
        if self.single:
            return tf.TensorSpec(lengths, dtype)
        if self._ragged == "list" and form.shape:
            return tf.RaggedTensorSpec([self._batch, None, *form.shape[1:]], dtype, ragged_rank=1)
        return tf.TensorSpec([self._batch, *lengths], dtype)

    def tensors(self, element: Any) -> Any:
        """Return a batch, or a single sample, as tensors.

        Args:
            element: Arrays, or lists of them with ``ragged="list"``, in dicts and tuples. They are nobody
                else's, unless the elements are single: TensorFlow may write into the memory that it takes over.
        """
        if isinstance(element, dict):
            return {key: self.tensors(part) for key, part in element.items()}
        if isinstance(element, tuple):
            return tuple(self.tensors(part) for part in element)
        if isinstance(element, list):
            return _to_ragged(element)
        return _to_tensor(element, shared=self.single)


def nothing_like(spec: Any) -> tf.data.Dataset:
    """Return a dataset that has no elements, and would have some of this spec; its cardinality is unknown.

    Nothing of it runs in Python: TensorFlow may come past it when the interpreter has ended.
    """
    empty = tf.data.Dataset.from_tensors(tf.nest.map_structure(_zeros, spec)).take(0)
    return empty.ignore_errors()  # there are none: to TensorFlow the cardinality is unknown behind it


def _zeros(spec: Any) -> Any:
    if isinstance(spec, tf.RaggedTensorSpec):
        rows, _, *inner = spec.shape
        values = _zeros(tf.TensorSpec([None, *inner], spec.dtype))
        return tf.RaggedTensor.from_row_lengths(values, tf.zeros(rows or 0, tf.int64), validate=False)
    return tf.zeros([length or 0 for length in spec.shape], spec.dtype)


def _form_of(sample: Any) -> Any:
    if isinstance(sample, dict):
        return {name: _form_of(value) for name, value in sample.items()}
    if isinstance(sample, tuple):
        return tuple(_form_of(value) for value in sample)
    try:
        _tf_dtype(sample.dtype)
    except TypeError as error:
        msg = f"TensorFlow has no dtype for {sample.dtype}: choose other arrays with key= or a transform"
        raise FormatError(msg) from error
    return Form(sample.dtype, sample.shape)


def _tf_dtype(dtype: np.dtype[Any]) -> Any:
    return tf.string if dtype == _TEXT else tf.as_dtype(dtype)


def _from_others(value: Any) -> _Array:
    """Return what a transform or a decoder may come with as an array: numbers, text, lists, tensors."""
    if isinstance(value, bytes | str) or (isinstance(value, list) and any(isinstance(v, bytes | str) for v in value)):
        return np.asarray(value, _TEXT)
    return np.asarray(value.numpy() if tf.is_tensor(value) else value)


def _to_text(value: Any) -> _Array:
    array = np.asarray(value, _TEXT)
    out = np.empty(array.shape, _TEXT)
    for place, item in np.ndenumerate(array):
        if not isinstance(item, bytes | str):
            msg = f"TensorFlow has no dtype for {type(item).__name__}: choose other arrays with key= or a transform"
            raise FormatError(msg)
        out[place] = item.encode() if isinstance(item, str) else bytes(item)
    return out


def _to_tensor(array: _Array, *, shared: bool = False) -> Any:
    """Return an array as a tensor, in the same memory unless that is ``shared`` or not fit for it."""
    if array.dtype.kind not in _NUMBERS or not array.size:
        return tf.convert_to_tensor(array, _tf_dtype(array.dtype))
    flags, begin = array.flags, array.__array_interface__["data"][0]
    if shared or begin % _ALIGNED or not (flags.c_contiguous and flags.writeable):
        array = _aligned_copy(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _aligned_copy(array: _Array) -> _Array:
    """Return a copy that TensorFlow can take over; cheaper than TensorFlow's own (by 60 us, measured)."""
    if array.nbytes >= POOLED_FROM_BYTES:
        memory: _Array = np.frombuffer(POOL.take(array.nbytes), np.uint8)
    else:
        memory = np.empty(array.nbytes + _ALIGNED, np.uint8)
        memory = memory[-memory.__array_interface__["data"][0] % _ALIGNED :][: array.nbytes]
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _to_ragged(arrays: list[_Array]) -> Any:
    """Return arrays as one RaggedTensor, scalars as a plain tensor."""
    if not arrays[0].ndim:
        return _to_tensor(np.stack(arrays))
    values = _to_tensor(np.concatenate(arrays))
    return tf.RaggedTensor.from_row_lengths(values, [len(array) for array in arrays], validate=False)


def _named(dtype: np.dtype[Any]) -> str:
    return "text" if dtype == _TEXT else str(dtype)


def _shown(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return f"a dict of {', '.join(map(repr, sorted(sample)))}"
    return f"a tuple of {len(sample)}" if isinstance(sample, tuple) and not isinstance(sample, Form) else "an array"
