"""s3torchconnector's names: ``from s3dlio.compat.s3torchconnector import S3MapDataset``, and the code runs as it is.

Floor 6. Knows where s3torchconnector's names are; must not do any work of its own.

What is better here needs no change of code: whole batches and what comes next are read at once, the listing is
made once and travels to spawned workers, every URI of this library works (``gs://``, ``az://``, ``file://``, ...), and the
region may be left out.
"""

from __future__ import annotations

import s3dlio.torch  # noqa: F401 - first: where PyTorch is missing, it says what to install
from s3dlio.buffers import BytesView
from s3dlio.compat.s3torchconnector._s3client import S3Client, S3ClientConfig
from s3dlio.compat.s3torchconnector.s3checkpoint import S3Checkpoint
from s3dlio.compat.s3torchconnector.s3iterable_dataset import S3IterableDataset
from s3dlio.compat.s3torchconnector.s3map_dataset import S3MapDataset
from s3dlio.compat.s3torchconnector.s3reader import S3Reader, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.s3writer import S3Writer
from s3dlio.errors import S3dlioError
from s3dlio.range_file import RangeFile, Whole
from s3dlio.uri import Uri
from s3dlio.version import VERSION as __version__  # noqa: N811 - the name that s3torchconnector has

__all__ = [
    "S3Checkpoint",
    "S3Client",
    "S3ClientConfig",
    "S3Exception",
    "S3IterableDataset",
    "S3MapDataset",
    "S3Reader",
    "S3ReaderConstructor",
    "S3Writer",
    "_BytesViewIO",
    "__version__",
]

#: What s3torchconnector raises; here the root of all errors.
S3Exception = S3dlioError


class _BytesViewIO(RangeFile):
    """Bytes in memory as a file that is open for reading; they are shared, not copied.

    Args:
        data: The bytes.
    """

    def __init__(self, data: BytesView) -> None:
        super().__init__(Whole(Uri("memory", "", ""), data))
