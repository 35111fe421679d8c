"""Objects by number, by s3torchconnector's names.

Floor 6. Knows how torch asks; must not do any work of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch.utils.data import Dataset

from s3dlio.compat.s3torchconnector._s3client import S3ClientConfig
from s3dlio.compat.s3torchconnector._s3dataset_common import Objects, Transform, identity, listed, named
from s3dlio.compat.s3torchconnector.s3reader.s3reader import S3ReaderConstructorProtocol


class S3MapDataset(Objects, Dataset[Any]):
    """Objects by number. Make it by :meth:`from_prefix` or :meth:`from_objects`.

    Thread-safe; works in workers of every start method.
    """

    _sort = "map"

    @classmethod
    def from_objects(
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Return the dataset of the objects that are named, in that order.

        Args:
            object_uris: One URI or many.
            region: S3 region; default: the environment's.
            endpoint: Of an S3-compatible server.
            transform: Called with each object's :class:`S3Reader`; what it returns is the sample.
            s3client_config: How to reach them.
            reader_constructor: How to read them: see :class:`S3ReaderConstructor`.
        """
        return cls(
            region, named(object_uris), endpoint,
            transform=transform, s3client_config=s3client_config, reader_constructor=reader_constructor,
        )  # fmt: skip

    @classmethod
    def from_prefix(
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Return the dataset of the objects whose URI begins with ``s3_uri``; they are listed when first needed.

        See :meth:`from_objects`. What cannot be listed raises then.
        """
        return cls(
            region, listed(s3_uri), endpoint,
            transform=transform, s3client_config=s3client_config, reader_constructor=reader_constructor,
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of objects.

        Raises:
            StoreError: They cannot be listed.
        """
        return len(self._objects())

    def _position(self, number: int) -> int:
        position = number + len(self) if number < 0 else number
        if not 0 <= position < len(self):
            msg = f"object {number} of {len(self)}"
            raise IndexError(msg)
        return position

    def __getitem__(self, number: int) -> Any:
        """Return one sample; its object is read when the transform, or the caller, reads it."""
        return self._sample(self._objects().uri(self._position(number)))

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return a batch of samples, in order; their objects are read at once."""
        return self._batch([self._position(number) for number in numbers])
