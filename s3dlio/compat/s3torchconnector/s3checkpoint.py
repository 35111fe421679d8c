"""Readers and writers of checkpoints, by s3torchconnector's names.

Floor 6. Knows addresses and clients; must not know what is written.
"""

from __future__ import annotations

from s3dlio.compat.s3torchconnector._s3client import S3Client, S3ClientConfig
from s3dlio.compat.s3torchconnector.s3reader.s3reader import S3Reader
from s3dlio.compat.s3torchconnector.s3writer import S3Writer
from s3dlio.uri import from_path_or_uri, parse_object


class S3Checkpoint:
    """Readers and writers for ``torch.load`` and ``torch.save``.

    Args:
        region: S3 region; default: the environment's.
        endpoint: Of an S3-compatible server.
        s3client_config: How to reach it.
    """

    def __init__(
        self, region: str | None = None, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)

    def reader(self, s3_uri: str) -> S3Reader:
        """Return an object's reader; what is missing raises at the first read."""
        where = parse_object(from_path_or_uri(s3_uri), "reader")
        return self._client.of_scheme(where.scheme).get_object(where.container, where.key)

    def writer(self, s3_uri: str) -> S3Writer:
        """Return a writer; the object appears when it is closed, and not when its ``with`` block raises."""
        where = parse_object(from_path_or_uri(s3_uri), "writer")
        return self._client.of_scheme(where.scheme).put_object(where.container, where.key)
