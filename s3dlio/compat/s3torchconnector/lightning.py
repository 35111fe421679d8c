"""Checkpoints of Lightning's ``Trainer``, by s3torchconnector's names. Needs ``pip install lightning``.

Floor 6. Knows Lightning's interface and translates it; must not know what is saved.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from packaging.version import Version

from s3dlio.compat.s3torchconnector._s3client import S3Client, S3ClientConfig
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.errors import OptionError
from s3dlio.uri import Uri, parse_object

#: The first Lightning that leaves the choice to torch, and lets users choose.
_ASKS_FOR_WEIGHTS_ONLY = Version("2.6.0")
#: What stands before a scheme where fsspec is to find this library.
_FSSPEC_PREFIX = "s3dlio+"


class S3LightningCheckpoint(CheckpointIO):
    """A plugin of Lightning's ``Trainer`` that keeps checkpoints in object storage.

    Lightning's ``ModelCheckpoint`` looks into its ``dirpath`` through fsspec, which finds nobody for ``s3://`` unless s3fs
    is installed. Name it ``s3dlio+s3://bucket/prefix``: that is this library, for both of them.

    Args:
        region: S3 region; default: the environment's.
        s3client_config: How to reach it.
        endpoint: Of an S3-compatible server.
    """

    def __init__(
        self, region: str | None = None, s3client_config: S3ClientConfig | None = None, endpoint: str | None = None
    ) -> None:
        self.region = region
        agent = UserAgent(["lightning", lightning.__version__])
        self._client = S3Client(region, endpoint=endpoint, user_agent=agent, s3client_config=s3client_config)

    def _at(self, path: object) -> tuple[S3Client, Uri]:
        if not isinstance(path, str):
            msg = f"{type(path).__name__!r} is not a supported type for 'path'. Pass the URI as a string."
            raise OptionError(msg)
        where = parse_object(path.removeprefix(_FSSPEC_PREFIX), "checkpoint")
        return self._client.of_scheme(where.scheme), where

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Save by ``torch.save``; the object appears when it is complete.

        Raises:
            OptionError: ``path`` is no string, as a ``Path`` is not: those are of local files.
        """
        client, where = self._at(path)
        with client.put_object(where.container, where.key) as writer:
            torch.save(checkpoint, writer)  # type: ignore[arg-type]

    def load_checkpoint(
        self,
        path: str,
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: FBT001 - Lightning's
    ) -> dict[str, Any]:
        """Load by ``torch.load``.

        Args:
            path: The checkpoint's URI.
            map_location: As in ``torch.load``.
            weights_only: As in ``torch.load``; ``None`` is torch's default, or, with Lightning before 2.6, which has no
                such argument and saves whole objects, ``False``: load only what you trust.
        """
        if weights_only is None and Version(lightning.__version__) < _ASKS_FOR_WEIGHTS_ONLY:
            weights_only = False
        client, where = self._at(path)
        with client.get_object(where.container, where.key) as reader:
            loaded: dict[str, Any] = torch.load(reader, map_location, weights_only=weights_only)  # type: ignore[arg-type]
        return loaded

    def remove_checkpoint(self, path: str) -> None:
        """Delete a checkpoint."""
        client, where = self._at(path)
        client.delete_object(where.container, where.key)
