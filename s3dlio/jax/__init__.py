"""The JAX room: an iterable of batches that are ``jax.Array``, and checkpoints of arrays on many devices.

Floor 6. ``import jax`` in here means the framework: imports are absolute.
"""

from __future__ import annotations

try:
    import jax as _jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise  # JAX is there, and broken: say how
    raise ModuleNotFoundError("this part of s3dlio needs JAX: pip install 's3dlio[jax]'", name="jax") from error

from s3dlio.jax.checkpoint import save_sharded
from s3dlio.jax.checkpoint_reader import load_sharded
from s3dlio.jax.dataset import S3JaxIterable

__all__ = ["S3JaxIterable", "load_sharded", "save_sharded"]

del _jax
