"""Batches that lie in one tensor from the start, so that collating them copies nothing.

Floor 6. Knows tensors and where their memory is; must not know objects. In a DataLoader worker a batch
is read straight into shared memory, and crosses to the trainer's process without a copy either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.utils.data import get_worker_info

from s3dlio.buffers import POOL, bytes_of, writable_bytes
from s3dlio.errors import OptionError
from s3dlio.torch.unequal import WAY_OUT


class Packing:
    """Takes memory for one batch, and cuts it into samples.

    Attributes:
        tensor: All bytes of the batch (uint8), once memory was taken.
    """

    def __init__(self) -> None:
        self.tensor = torch.empty(0, dtype=torch.uint8)

    def allocate(self, length: int) -> memoryview:
        """Take memory for all samples of a batch together."""
        self.tensor = _new(length)
        return writable_bytes(self.tensor)

    def batch(self, sizes: Sequence[int], trim: tuple[int, int]) -> torch.Tensor:
        """Return the samples, of one size each, as a tensor of shape ``(n, length)`` that shares the batch's memory.

        Args:
            sizes: Bytes of each, in order.
            trim: Bytes at the beginning and at the end of each that do not belong to the sample.

        Raises:
            OptionError: They are not of one size.
        """
        if min(sizes) != max(sizes):
            return stack_or_tell(self.rows(sizes, trim))
        return self.tensor.view(len(sizes), sizes[0])[:, trim[0] : sizes[0] - trim[1]]

    def rows(self, sizes: Sequence[int], trim: tuple[int, int]) -> list[torch.Tensor]:
        """Return the samples as tensors that share the batch's memory.

        Args:
            sizes: Bytes of each, in order.
            trim: Bytes at the beginning and at the end of each that do not belong to the sample.
        """
        rows, at = [], 0
        for size in sizes:
            rows.append(self.tensor[at + trim[0] : at + size - trim[1]])
            at += size
        return rows


def _new(length: int) -> torch.Tensor:
    """Return uninitialised memory, recycled; in a worker such as other processes can map."""
    if get_worker_info() is None:
        return torch.frombuffer(bytes_of(POOL.take(length)), dtype=torch.uint8) if length else torch.empty(0).byte()
    # As torch's own collation does.
    storage = torch.UntypedStorage._new_shared(length)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def stack(rows: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return tensors that lie at even distances in one memory as one tensor, without a copy.

    Returns:
        Shape ``(n, length)``, sharing their memory; ``None`` if they do not lie so.
    """
    first = rows[0]
    plain = all(row.dtype == torch.uint8 and row.dim() == 1 and len(row) == len(first) for row in rows)
    if not plain or any(row.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() for row in rows):
        return None
    begins = [row.storage_offset() for row in rows]
    stride = begins[1] - begins[0] if len(rows) > 1 else len(first)
    if stride < len(first) or any(after - before != stride for before, after in pairwise(begins)):
        return None
    return torch.as_strided(first, (len(rows), len(first)), (stride, 1))


def stack_or_tell(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the rows of a packed batch as one tensor, without a copy.

    Raises:
        OptionError: They are not of one size.
    """
    packed = stack(rows)
    return stacked(rows) if packed is None else packed


def stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors of one axis as one tensor, by one copy.

    Raises:
        OptionError: They are not of one size.
    """
    sizes = {len(row) for row in rows}
    if len(sizes) > 1:
        msg = (
            f"packed=True needs samples of one size; these have {min(sizes)} to {max(sizes)} bytes: "
            f"leave it off, and give the DataLoader {WAY_OUT}"
        )
        raise OptionError(msg)
    out = None
    if get_worker_info() is not None and rows[0].dtype == torch.uint8:
        out = _new(len(rows) * len(rows[0])).view(len(rows), -1)
    return torch.stack(list(rows), out=out)
