"""Checkpoints of ``torch.distributed.checkpoint`` in object storage, by s3torchconnector's names.

Floor 6. Knows torch's file system of checkpoints and translates it; must not know what is saved.

The files are torch's own, so what s3torchconnector wrote is read by this, and the other way round.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan

from s3dlio.compat.s3torchconnector._s3client import S3Client, S3ClientConfig
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.compat.s3torchconnector.dcp.s3_prefix_strategy import DefaultPrefixStrategy, S3PrefixStrategyBase
from s3dlio.compat.s3torchconnector.s3reader.constructor import DCPS3ReaderConstructorProtocol, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.s3reader.s3reader import S3ReaderConstructorProtocol
from s3dlio.errors import NotFoundError, OptionError, S3dlioError, UriError
from s3dlio.uri import Uri, parse, parse_object

_LOG = logging.getLogger(__name__)

Path = str | os.PathLike[str]


class S3FileSystem(FileSystemBase):
    """What torch's checkpoints do with files, done with objects.

    Args:
        region: S3 region; ``None`` is the environment's.
        s3_client: Does it; default: a client of this region.
        s3client_config: How to reach S3.
        reader_constructor: How to read.
    """

    def __init__(
        self,
        region: str | None = None,
        s3_client: S3Client | None = None,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        self._path: Path = ""
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()
        way = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
        agent = UserAgent(["dcp", torch.__version__, f"md/reader_type#{way}"])
        self._client = s3_client or S3Client(region, user_agent=agent, s3client_config=s3client_config)

    def _at(self, path: Path) -> tuple[S3Client, Uri]:
        where = parse_object(str(path), "checkpoint")
        return self._client.of_scheme(where.scheme), where

    @contextmanager
    def create_stream(self, path: Path, mode: str) -> Generator[io.IOBase, None, None]:
        """Open an object; what is written appears when the block ends, and not when it raises.

        Args:
            path: Its URI.
            mode: ``rb`` or ``wb``.

        Raises:
            OptionError: Another mode.
        """
        client, where = self._at(path)
        if mode == "wb":
            with client.put_object(where.container, where.key) as writer:
                yield writer
        elif mode == "rb":
            with client.get_object(where.container, where.key, reader_constructor=self._reader_constructor) as reader:
                yield reader
        else:
            msg = f"Invalid {mode=} mode argument: create_stream only supports rb (read mode) & wb (write mode)"
            raise OptionError(msg)

    def concat_path(self, path: Path, suffix: str) -> str:
        """Return the URI of what lies below another."""
        return os.path.join(os.fspath(path), suffix)

    def init_path(self, path: Path) -> Path:
        """Note the checkpoint's URI, and return it."""
        self._path = path
        return path

    def rename(self, old_path: Path, new_path: Path) -> None:
        """Copy an object to its new name and delete the old one.

        Raises:
            OptionError: They are in different buckets.
            StoreError: It cannot be done; the old one is still there.
        """
        client, old = self._at(old_path)
        _, new = self._at(new_path)
        if old[:2] != new[:2]:
            msg = "Source and destination buckets cannot be different (a checkpoint is renamed within its bucket)"
            raise OptionError(msg, uri=str(old), operation="rename")
        client.copy_object(old.container, old.key, new.container, new.key)
        client.delete_object(old.container, old.key)

    def mkdir(self, path: Path) -> None:
        """Do nothing: object storage has no folders."""

    def exists(self, path: Path) -> bool:
        """Tell whether there is such an object.

        Raises:
            StoreError: The store does not tell.
        """
        client, where = self._at(path)
        try:
            client.head_object(where.container, where.key)
        except NotFoundError:
            return False
        return True

    def rm_file(self, path: Path) -> None:
        """Delete an object; when that fails, say so in the log, as s3torchconnector does."""
        client, where = self._at(path)
        try:
            client.delete_object(where.container, where.key)
        except S3dlioError:
            _LOG.exception("an object of a checkpoint could not be deleted")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Path) -> bool:
        """Tell whether this can be a checkpoint's URI."""
        if isinstance(checkpoint_id, os.PathLike):
            return True
        try:
            parse(checkpoint_id)
        except UriError:
            return False
        return True


@dataclasses.dataclass
class StorageMetadata:
    """What torch asks a plan for when it names files.

    Attributes:
        prefix: What a rank's file names begin with.
    """

    prefix: str


class S3StorageWriter(FileSystemWriter):
    """The ``storage_writer`` of ``torch.distributed.checkpoint.save``.

    Args:
        region: S3 region; ``None`` is the environment's.
        path: The checkpoint's URI.
        s3client_config: How to reach S3.
        prefix_strategy: What each rank's file names begin with.
        thread_count: Threads of each rank, each with files of its own.
        **kwargs: Of torch's ``FileSystemWriter``.
    """

    def __init__(
        self,
        region: str | None,
        path: str,
        s3client_config: S3ClientConfig | None = None,
        prefix_strategy: S3PrefixStrategyBase | None = None,
        thread_count: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, sync_files=False, thread_count=thread_count, **kwargs)
        self.fs: S3FileSystem = S3FileSystem(region, s3client_config=s3client_config)  # type: ignore[assignment]
        self.path = self.fs.init_path(path)
        self.prefix_strategy = prefix_strategy or DefaultPrefixStrategy()

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans of all ranks, each with its prefix."""
        return [
            dataclasses.replace(plan, storage_data=StorageMetadata(self.prefix_strategy(rank)))
            for rank, plan in enumerate(plans)
        ]

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Path) -> bool:
        """Tell whether this can be a checkpoint's URI."""
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)


class S3StorageReader(FileSystemReader):
    """The ``storage_reader`` of ``torch.distributed.checkpoint.load``.

    Args:
        region: S3 region; ``None`` is the environment's.
        path: The checkpoint's URI.
        s3client_config: How to reach S3.
        reader_constructor: How to read; default: :meth:`S3ReaderConstructor.dcp_optimized`, with which each tensor
            comes whole, and small ones together.
    """

    def __init__(
        self,
        region: str | None,
        path: Path,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        super().__init__(path)
        self._reader_constructor = reader_constructor or S3ReaderConstructor.dcp_optimized()
        self.fs: S3FileSystem = S3FileSystem(  # type: ignore[assignment]
            region, s3client_config=s3client_config, reader_constructor=self._reader_constructor
        )
        self.path = self.fs.init_path(path)
        self.sync_files = False

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Path) -> bool:
        """Tell whether this can be a checkpoint's URI."""
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan with its items in the order in which they lie; readers of checkpoints are told of them."""
        plan.items.sort(key=lambda item: self.storage_data[item.storage_index].offset)
        if isinstance(self._reader_constructor, DCPS3ReaderConstructorProtocol):
            self._reader_constructor.set_item_ranges_by_file(plan.items, self.storage_data, self.path)
        return plan
