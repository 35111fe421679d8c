"""Arrays of JAX that are only described: checkpoints are loaded by such trees, and the arrays are made then.

Floor 6. Knows ``jax.ShapeDtypeStruct`` and what its sharding needs to name devices; must not know files.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding

from s3dlio.checkpoint.kinds import Facts, Inlet, Kind, Outlet
from s3dlio.errors import FormatError, OptionError
from s3dlio.jax.leaves import Landing, facts_of, is_key, require_dtype, room_for


class AbstractKind(Kind):
    """``jax.ShapeDtypeStruct``, as ``jax.eval_shape`` returns: nothing that could be saved."""

    name = "jax"
    format = "flax"
    has_memory = False

    def owns(self, value: object) -> bool:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.owns`."""
        return isinstance(value, jax.ShapeDtypeStruct)

    def facts(self, value: Any) -> Facts:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.facts`. Two alike are one array where they were saved as one.

        Raises:
            OptionError: No such array can be made: JAX has not the dtype, or the devices do not divide the shape.
        """
        data, extra = numbers_of(value)
        try:
            require_dtype(np.dtype(data.dtype))
        except FormatError as error:
            raise OptionError(error.message) from error
        sharding = sharding_of(value, tuple(data.shape))
        return facts_of(data, extra, ("described", tuple(data.shape), str(data.dtype), extra.get("key"), sharding))

    def outlet(self, value: Any) -> Outlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.outlet`.

        Raises:
            OptionError: Always.
        """
        raise OptionError("a jax.ShapeDtypeStruct describes an array and has no bytes")

    def fresh(self, dtype: str, shape: tuple[int, ...], extra: dict[str, Any]) -> Inlet:
        """See :meth:`s3dlio.checkpoint.kinds.Kind.fresh`.

        Raises:
            OptionError: Always: what was saved was none.
        """
        raise OptionError("no file has a jax.ShapeDtypeStruct")

    def existing(self, value: Any) -> Inlet:
        """Return the array that is described, on its way in.

        See :meth:`s3dlio.checkpoint.kinds.Kind.existing`.
        """
        data, extra = numbers_of(value)
        dtype = np.dtype(data.dtype)
        memory = room_for(tuple(data.shape), dtype, data.size * dtype.itemsize)
        return Landing(memory, extra.get("key"), sharding_of(value, tuple(data.shape)))


def numbers_of(value: Any) -> tuple[Any, dict[str, Any]]:
    """Return the description of an array's numbers, and of random keys what they are made by."""
    if not is_key(value):
        return value, {}
    made_by = []

    def taken_apart(keys: Any) -> Any:
        made_by.append(str(jax.random.key_impl(keys)))
        return jax.random.key_data(keys)

    data = jax.eval_shape(taken_apart, value)
    return data, {"key": made_by[0]}


def sharding_of(value: Any, shape: tuple[int, ...]) -> Any:
    """Return where a described array's numbers go; ``None`` for the default device.

    Args:
        value: The description.
        shape: Of the numbers, which for random keys has more axes.

    Raises:
        OptionError: Its sharding names no devices, or does not divide the shape, or is of a kind that says nothing of
            the numbers of random keys.
    """
    sharding = value.sharding
    if isinstance(sharding, NamedSharding) and not isinstance(sharding.mesh, jax.sharding.Mesh):
        # What jax.eval_shape says of arrays on a mesh with explicit axes.
        mesh = getattr(jax.sharding, "get_mesh", lambda: None)()
        if mesh is None or mesh.empty or mesh.shape != sharding.mesh.shape:
            msg = (
                f"its sharding is over an abstract mesh, which names no devices: load within jax.set_mesh ({sharding})"
            )
            raise OptionError(msg)
        sharding = NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)
    # The numbers of a key are axes behind those of the array of keys: the same two mean the same of both.
    if is_key(value) and not isinstance(sharding, (NamedSharding, SingleDeviceSharding, type(None))):
        msg = f"random keys cannot be loaded by a {type(sharding).__name__}: give a NamedSharding"
        raise OptionError(msg)
    try:
        if sharding is not None:
            sharding.shard_shape(shape)
    except ValueError as error:
        msg = f"the sharding does not fit the shape {list(shape)}: {error}"
        raise OptionError(msg) from error
    return sharding


KIND = AbstractKind()
