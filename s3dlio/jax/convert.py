"""From a batch in NumPy to JAX: onto the default device, or over the devices of a sharding.

Floor 6. On CPU devices an array takes over the batch's memory (NumPy memory that begins at a multiple of
64 bytes, and batches begin on a page), and keeps it from being used again. Copied are arrays whose dtype
or byte order JAX does not have, and samples that a transform may still hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from s3dlio.buffers import POOL
from s3dlio.errors import OptionError

_Array = np.ndarray[Any, Any]
#: What JAX has no dtype for although NumPy counts it among the numbers.
_LONG = (np.dtype(np.longdouble), np.dtype(np.clongdouble))


def to_jax(batch: Any, sharding: Sharding | None = None, *, parts: int = 1, shared: bool = False) -> Any:
    """Return a batch with every array in it as a ``jax.Array``; transfers run on behind this call.

    Args:
        batch: An array, or dicts, lists and tuples of them. Not written to afterwards.
        sharding: Over which devices; the default one if ``None``.
        parts: How many processes' rows follow each other in the global batch.
        shared: Somebody else may hold the arrays and write to them: copy them.

    Returns:
        The same structure. 64-bit numbers become 32-bit ones unless JAX's 64-bit types are on
        (``jax_enable_x64``), as ``jax.device_put`` does it. What JAX has no dtype for (text, dates,
        structures) stays a NumPy array.

    Raises:
        OptionError: A batch does not divide among the devices.
    """
    if isinstance(batch, Mapping):
        return {name: to_jax(value, sharding, parts=parts, shared=shared) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)([to_jax(value, sharding, parts=parts, shared=shared) for value in batch])
    array = np.asarray(batch)
    if not _is_numeric(array.dtype):
        return array
    array = _taken_as_it_is(array, shared=shared)
    if sharding is None:
        return jax.device_put(array)
    return _distribute(array, sharding, parts)


@lru_cache  # bounded: dtypes come out of files
def _is_numeric(dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "m" or dtype.newbyteorder("=") in _LONG:
        return False  # numbers to NumPy, not to JAX
    return jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_


def _taken_as_it_is(array: _Array, *, shared: bool) -> _Array:
    """Return an array of a dtype that JAX has: itself, or a copy in memory of its own."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder("="))
    if dtype == array.dtype and not shared:
        return array
    length = array.size * dtype.itemsize
    out = np.frombuffer(POOL.take(length), dtype).reshape(array.shape) if length else np.empty(array.shape, dtype)
    with np.errstate(all="ignore"):  # a float beyond float32 is infinity to JAX, too
        out[...] = array
    return out


def _distribute(array: _Array, sharding: Sharding, parts: int) -> Any:
    shape = (array.shape[0] * parts, *array.shape[1:])
    _check_divides(shape, sharding)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, array, shape)  # type: ignore[no-untyped-call]


def _check_divides(shape: tuple[int, ...], sharding: Sharding) -> None:
    axes = len(sharding.spec) if isinstance(sharding, NamedSharding) else 1
    cause: ValueError | None = None
    if axes <= len(shape):
        try:
            sharding.shard_shape(shape)
        except ValueError as error:
            cause = error
        else:
            return
    msg = (
        f"a batch of shape {shape} does not divide by sharding= ({cause or f'it has {axes} axes'}): choose a batch_size "
        "that does, leave a short last batch out (drop_last=True), or take the array away (key= or a transform)"
    )
    raise OptionError(msg) from cause
