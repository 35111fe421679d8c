"""Readers and the ways to make them, by s3torchconnector's names.

Floor 6. Knows where they are; must not know anything else.
"""

from __future__ import annotations

from s3dlio.compat.s3torchconnector.s3reader.constructor import (
    DCPOptimizedConstructor,
    DCPS3ReaderConstructorProtocol,
    S3ReaderConstructor,
)
from s3dlio.compat.s3torchconnector.s3reader.dcp_optimized import DCPOptimizedS3Reader, ItemRange
from s3dlio.compat.s3torchconnector.s3reader.s3reader import (
    GetStreamCallable,
    RangedS3Reader,
    S3Reader,
    S3ReaderConstructorProtocol,
    SequentialS3Reader,
)

__all__ = [
    "DCPOptimizedConstructor",
    "DCPOptimizedS3Reader",
    "DCPS3ReaderConstructorProtocol",
    "GetStreamCallable",
    "ItemRange",
    "RangedS3Reader",
    "S3Reader",
    "S3ReaderConstructor",
    "S3ReaderConstructorProtocol",
    "SequentialS3Reader",
]
