"""JAX's arrays in checkpoints: their bytes as they lie on the CPU, or fetched from devices an array at a time.

Floor 6. Knows JAX's dtypes, devices and random keys; what a checkpoint looks like is :mod:`s3dlio.checkpoint`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from s3dlio.buffers import POOL, bytes_of, flat_bytes
from s3dlio.checkpoint.kinds import Facts, HostInlet, Inlet, Kind, Outlet, dtype_name, numpy_dtype
from s3dlio.errors import FormatError, OptionError

_Array = np.ndarray[Any, Any]


class JaxKind(Kind):
    """``jax.Array``, random keys too, whose devices all belong to this process."""

    name = "jax"
    format = "flax"

    def owns(self, value: object) -> bool:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.owns`."""
        return isinstance(value, jax.Array)

    def facts(self, value: Any) -> Facts:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.facts`."""
        require_concrete(value)
        if not value.is_fully_addressable:
            msg = "the array lies on devices of several processes: save it by s3dlio.jax.save_sharded"
            raise OptionError(msg)
        return facts_of(*plain_of(value), ("jax", id(value)))

    def outlet(self, value: Any) -> Outlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.outlet`."""
        data, _ = plain_of(value)
        return FetchedOutlet(lambda: on_host(data), data.size * data.dtype.itemsize)

    def fresh(self, dtype: str, shape: tuple[int, ...], extra: dict[str, Any]) -> Inlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.fresh`. Arrays are put on the default device.

        Raises:
            FormatError: JAX has no such dtype, or not while its 64-bit types are off: numbers are not changed.
        """
        kind = named_dtype(str(extra["dtype"])) if "dtype" in extra else numpy_dtype(dtype)
        length = int(np.prod(shape, dtype=object)) * numpy_dtype(dtype).itemsize
        told = extra.get("shape", list(shape))
        target = Landing(room_for(tuple(told), kind, length), extra.get("key"), None)
        require_dtype(kind)
        return target

    def existing(self, value: Any) -> Inlet:
        """Return an array on its way to the devices of an existing one, which JAX lets nobody write to.

        See :meth:`s3dlio.checkpoint.kinds.Kind.existing`.
        """
        data, extra = plain_of(value)
        length = data.size * data.dtype.itemsize
        return Landing(room_for(tuple(data.shape), data.dtype, length), extra.get("key"), data.sharding)


def facts_of(data: Any, extra: dict[str, Any], identity: Hashable) -> Facts:
    """Return the facts of an array of numbers, or of a description of one; ``extra`` is added to."""
    dtype, shape = np.dtype(data.dtype), tuple(data.shape)
    name, length = dtype_name(dtype), data.size * dtype.itemsize
    if not name:
        extra = extra | {"dtype": dtype.name, "shape": list(shape)}
        name, shape = "U8", (length,)
    return Facts(name, shape, length, extra, identity)


def require_concrete(value: Any) -> None:
    """Refuse what has no bytes.

    Raises:
        OptionError: The array is being traced, or was deleted or donated.
    """
    if isinstance(value, jax.core.Tracer):
        msg = "an array that is being traced has no bytes: save outside of jax.jit"
        raise OptionError(msg)
    if value.is_deleted():
        msg = "the array was deleted or donated to a computation: save the one that came out of it"
        raise OptionError(msg)


def is_key(value: Any) -> bool:
    """Tell whether an array is one of random keys (``jax.random.key``)."""
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def plain_of(value: Any) -> tuple[Any, dict[str, Any]]:
    """Return an array of numbers, and of random keys what they were made by."""
    if not is_key(value):
        return value, {}
    return jax.random.key_data(value), {"key": str(jax.random.key_impl(value))}


def keys_of(data: Any, made_by: Any) -> Any:
    """Return random keys of their numbers; numbers as they are where ``made_by`` is ``None``.

    Raises:
        FormatError: JAX does not know such keys.
    """
    if made_by is None:
        return data
    try:
        return jax.random.wrap_key_data(data, impl=made_by)
    except (ValueError, TypeError) as error:
        msg = f"random keys of kind {made_by!r} cannot be made: {error}"
        raise FormatError(msg) from error


def named_dtype(name: str) -> np.dtype[Any]:
    """Return a dtype of numbers by NumPy's name, those of ``ml_dtypes`` (bfloat16, int4, ...) too.

    Raises:
        FormatError: There is no such dtype.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name, name))
    except TypeError as error:
        msg = f"there is no dtype {name!r:.50}"
        raise FormatError(msg) from error
    if dtype.hasobject or dtype.names or dtype.itemsize not in (1, 2, 4, 8, 16):
        msg = f"JAX has no dtype {name!r:.50}"
        raise FormatError(msg)
    return dtype


def require_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse numbers that JAX would change.

    Raises:
        FormatError: JAX makes them 32-bit ones, or has no such dtype.
    """
    try:
        kept = jax.dtypes.canonicalize_dtype(dtype)
    except TypeError as error:
        raise FormatError(f"JAX has no dtype {dtype}: load it with framework='numpy'") from error
    if kept != dtype:
        msg = (
            f"JAX would make {kept} of {dtype}: switch its 64-bit types on (jax.config.update('jax_enable_x64', "
            "True)), or load it with framework='numpy'"
        )
        raise FormatError(msg)


def room_for(shape: Any, dtype: np.dtype[Any], length: int) -> _Array:
    """Return memory for an array, aligned so that JAX takes it over on the CPU.

    Raises:
        FormatError: An array of this shape does not have ``length`` bytes.
    """
    fine = all(type(count) is int and 0 <= count < 1 << 62 for count in shape)
    if not fine or int(np.prod(shape, dtype=object)) * dtype.itemsize != length:
        msg = f"an array of dtype {dtype} and shape {shape!r:.200} does not have the {length} bytes that are there"
        raise FormatError(msg)
    if not length:
        return np.empty(shape, dtype)
    return np.frombuffer(POOL.take(length), dtype).reshape(shape)


def on_host(data: Any) -> _Array:
    """Return an array's numbers in the memory of this machine; on the CPU that is its own memory.

    An array over several devices is put together of the shards of one replica.
    """
    shards = [shard for shard in data.addressable_shards if shard.replica_id == 0]
    if len(shards) == 1:
        return shard_on_host(shards[0].data)
    whole = room_for(tuple(data.shape), data.dtype, data.size * data.dtype.itemsize)
    for shard in shards:
        whole[shard.index] = shard_on_host(shard.data)
    return whole


def shard_on_host(data: Any) -> _Array:
    """Return the numbers of an array on one device."""
    # Through the CPU's own device: numpy.asarray() of an array elsewhere keeps its copy as long as the array.
    near = data if data.device.platform == "cpu" else jax.device_put(data, jax.local_devices(backend="cpu")[0])
    return np.ascontiguousarray(np.asarray(near))


def bytes_of_array(array: _Array) -> memoryview:
    """Return the bytes of a contiguous array, of any dtype."""
    return bytes_of(array.reshape(-1).view(np.uint8)) if array.size else memoryview(bytearray())


class FetchedOutlet(Outlet):
    """An array that is fetched when its first byte is due, and that goes when its last one is read.

    Args:
        fetch: Returns it in the memory of this machine.
        length: Its bytes.
    """

    def __init__(self, fetch: Callable[[], _Array], length: int) -> None:
        self._fetch = fetch
        self._length = self._left = length
        self._memory: memoryview | None = None
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> memoryview:
        """See :meth:`s3dlio.checkpoint.kinds.Outlet.read`."""
        with self._lock:
            if self._memory is None:
                self._memory = flat_bytes(bytes_of_array(self._fetch()))
                self._left = self._length
            memory = self._memory
            self._left -= stop - start
            if self._left <= 0:
                self._memory = None
        return memory[start:stop]


class Landing(HostInlet):
    """An array on its way in, for whose bytes there is memory.

    Args:
        array: The memory.
        made_by: What random keys were made by; ``None`` for numbers.
        sharding: Where the numbers go; ``None`` for the default device.
    """

    def __init__(self, array: _Array, made_by: Any, sharding: Any) -> None:
        super().__init__(array, bytes_of_array(array))
        self._made_by = made_by
        self._sharding = sharding

    def finish(self) -> Any:
        """See :meth:`s3dlio.checkpoint.kinds.Inlet.finish`."""
        array: Any = super().finish()
        if self._sharding is None or self._sharding.is_fully_addressable:
            data = jax.device_put(array, self._sharding)
        else:  # each process gives its own devices their part, and need not ask the others whether theirs is the same
            data = jax.make_array_from_callback(array.shape, self._sharding, lambda index: array[index])
        return keys_of(data, self._made_by)


KIND = JaxKind()
