"""The PyTorch room: datasets that a ``torch.utils.data.DataLoader`` takes.

Floor 6. ``import torch`` in here means the framework: imports are absolute.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import torch as _torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # torch is there, and broken: say how
    raise ModuleNotFoundError("this part of s3dlio needs PyTorch: pip install 's3dlio[torch]'", name="torch") from error

from s3dlio.torch.collating import collate
from s3dlio.torch.dataset import S3MapDataset
from s3dlio.torch.iterable import S3IterableDataset
from s3dlio.torch.resume import merge_states
from s3dlio.torch.sampler import ResumableDistributedSampler

if TYPE_CHECKING:
    from s3dlio.torch.checkpoint_reader import S3StorageReader
    from s3dlio.torch.checkpoint_writer import S3StorageWriter

__all__ = [
    "ResumableDistributedSampler",
    "S3IterableDataset",
    "S3MapDataset",
    "S3StorageReader",
    "S3StorageWriter",
    "collate",
    "merge_states",
]

#: Names that are imported when they are first asked for: torch.distributed.checkpoint takes 0.8 s, in every worker.
_LATER = {
    "S3StorageReader": "s3dlio.torch.checkpoint_reader",
    "S3StorageWriter": "s3dlio.torch.checkpoint_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LATER[name]), name)


del _torch
