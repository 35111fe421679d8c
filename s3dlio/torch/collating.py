"""From samples to a batch of tensors, for a DataLoader.

Floor 6. Knows torch's collation, which does all but what it cannot: take a batch that lies in one tensor as it is,
and samples of unequal shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import collate as collate_by
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from s3dlio.stacking import check_ragged
from s3dlio.torch.packing import stack, stacked
from s3dlio.torch.unequal import unequal


def collate(samples: list[Any], *, ragged: str = "raise") -> Any:
    """Collate a batch for a DataLoader: without a copy where a dataset with ``packed=True`` made it.

    Args:
        samples: What the dataset returned: tensors, NumPy arrays, numbers, texts; in dicts, tuples and lists.
        ragged: What to do with samples of unequal shapes: ``raise``; ``pad`` with zeros to the longest of each axis;
            or ``list`` the tensors, of equal shapes too, instead of stacking them.

    Returns:
        One tensor of shape ``(n, length)`` that shares the samples' memory, if they were packed; for anything else
        what ``torch.utils.data.default_collate`` returns, but for ``ragged``.

    Raises:
        OptionError: The samples are of unequal shapes; the message says what helps.

    Example:
        >>> from functools import partial
        >>> from torch.utils.data import DataLoader
        >>> padded = partial(collate, ragged="pad")
        >>> next(iter(DataLoader([torch.ones(1), torch.ones(2)], batch_size=2, collate_fn=padded)))
        tensor([[1., 0.],
                [1., 1.]])
    """
    check_ragged(ragged)
    if ragged != "list" and samples and all(isinstance(sample, torch.Tensor) for sample in samples):
        packed = stack(samples)
        if packed is not None:
            return packed
    if ragged == "raise":
        if samples and (pair := unequal(samples)):
            raise pair.tell()
        return default_collate(samples)
    return collate_by(
        samples, collate_fn_map={**default_collate_fn_map, torch.Tensor: functools.partial(_tensors, ragged=ragged)}
    )


def collated(samples: Sequence[Any]) -> Any:
    """Return samples that do not lie in one tensor as a batch, by one copy.

    Raises:
        OptionError: They are of unequal shapes.
    """
    if all(isinstance(sample, torch.Tensor) and sample.dim() == 1 for sample in samples):
        return stacked(samples)
    return collate(list(samples))


def _tensors(batch: list[torch.Tensor], *, ragged: str, collate_fn_map: Any = None) -> Any:
    """See :func:`collate`; of one array of the samples."""
    if ragged == "list":
        return list(batch)
    pair = unequal(batch)
    if pair is None:
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
    if any(tensor.dim() != batch[0].dim() for tensor in batch):
        raise pair.tell()
    longest = [max(lengths) for lengths in zip(*(tensor.shape for tensor in batch), strict=True)]
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in batch))
    out = batch[0].new_zeros((len(batch), *longest), dtype=dtype)
    for row, tensor in zip(out, batch, strict=True):
        row[tuple(slice(length) for length in tensor.shape)] = tensor
    return out
