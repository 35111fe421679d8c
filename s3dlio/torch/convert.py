"""From a decoded sample to tensors.

Floor 6. Tensors share the memory the object was read into. Copied are only arrays that torch cannot
take as they are: of another byte order, or not aligned to their own items (NPZ files do not align).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from s3dlio.buffers import BytesView


def to_tensor(sample: Any) -> Any:
    """Return a sample with every array and view in it as a CPU tensor.

    Args:
        sample: A view (becomes ``uint8``, one dimension), an array, or a dict of arrays.

    Returns:
        The same structure; what torch has no dtype for (text, structures) stays a NumPy array.
    """
    if isinstance(sample, BytesView):
        return _from_view(sample)
    if isinstance(sample, np.ndarray):
        return _from_array(sample)
    if isinstance(sample, dict):
        return {name: to_tensor(value) for name, value in sample.items()}
    return sample


def _from_view(view: BytesView) -> torch.Tensor:
    if not len(view):
        return torch.empty(0, dtype=torch.uint8)
    memory = view.memoryview(writable=True) if view.is_owner else bytearray(view)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _from_array(array: np.ndarray[Any, Any]) -> Any:
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if not (native.flags.aligned and native.flags.writeable):
        native = native.copy()
    try:
        return torch.from_numpy(native)
    except TypeError:
        return array
