"""The PyTorch room: datasets that a ``torch.utils.data.DataLoader`` takes.

Floor 6. ``import torch`` in here means the framework: imports are absolute.
"""

from __future__ import annotations

try:
    import torch as _torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # torch is there, and broken: say how
    raise ModuleNotFoundError("this part of s3dlio needs PyTorch: pip install 's3dlio[torch]'", name="torch") from error

from s3dlio.torch.dataset import S3MapDataset
from s3dlio.torch.iterable import S3IterableDataset
from s3dlio.torch.packing import collate
from s3dlio.torch.resume import merge_states
from s3dlio.torch.sampler import ResumableDistributedSampler

__all__ = ["ResumableDistributedSampler", "S3IterableDataset", "S3MapDataset", "collate", "merge_states"]

del _torch
