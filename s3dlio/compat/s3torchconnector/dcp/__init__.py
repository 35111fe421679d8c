"""Distributed checkpoints of torch, by s3torchconnector's names.

Floor 6. Knows where they are; must not know anything else.
"""

from __future__ import annotations

from s3dlio.compat.s3torchconnector.dcp.s3_file_system import S3FileSystem, S3StorageReader, S3StorageWriter
from s3dlio.compat.s3torchconnector.dcp.s3_prefix_strategy import (
    BinaryPrefixStrategy,
    DefaultPrefixStrategy,
    HexPrefixStrategy,
    NumericPrefixStrategy,
    RoundRobinPrefixStrategy,
    S3PrefixStrategyBase,
)

__all__ = [
    "BinaryPrefixStrategy",
    "DefaultPrefixStrategy",
    "HexPrefixStrategy",
    "NumericPrefixStrategy",
    "RoundRobinPrefixStrategy",
    "S3FileSystem",
    "S3PrefixStrategyBase",
    "S3StorageReader",
    "S3StorageWriter",
]
