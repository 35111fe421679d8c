"""Which part of the samples this process reads: rank and DataLoader worker.

Floor 6. Reads torch's placement and nothing else; the arithmetic is :mod:`s3dlio.shards`.
"""

from __future__ import annotations

import os

import torch.distributed as dist
from torch.utils.data import get_worker_info

from s3dlio.shards import Shard


def rank() -> Shard:
    """Return this process's rank: of torch.distributed, else of torchrun, else the only one."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun; a spawned worker inherits the variables
        return Shard(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    return Shard()


def worker() -> Shard:
    """Return which DataLoader worker this process is, of how many; the only one outside of workers."""
    info = get_worker_info()
    return Shard() if info is None else Shard(info.id, info.num_workers)
