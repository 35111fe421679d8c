"""Objects one after the other, by s3torchconnector's names.

Floor 6. Knows how torch asks; must not do any work of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from torch.utils.data import IterableDataset

from s3dlio.compat.s3torchconnector._s3client import S3ClientConfig
from s3dlio.compat.s3torchconnector._s3dataset_common import Finder, Objects, Transform, identity, listed, named
from s3dlio.compat.s3torchconnector.s3reader.s3reader import S3ReaderConstructorProtocol
from s3dlio.torch.world import rank, worker


class S3IterableDataset(Objects, IterableDataset[Any]):
    """Objects one after the other, read ahead. Make it by :meth:`from_prefix` or :meth:`from_objects`.

    They are listed when the first of them is asked for, and once: workers that are spawned get the list, those that
    are forked make their own. Without ``enable_sharding`` each rank and each DataLoader worker yields all of them, as
    s3torchconnector does.
    """

    _sort = "iterable"

    def __init__(  # noqa: PLR0913, PLR0917 - s3torchconnector's
        self,
        region: str | None,
        get_dataset_objects: Finder,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,  # noqa: FBT001, FBT002 - s3torchconnector's
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        super().__init__(region, get_dataset_objects, endpoint, transform, s3client_config, reader_constructor)
        self._enable_sharding = enable_sharding
        self._rank = rank()

    @classmethod
    def from_objects(  # noqa: PLR0913 - s3torchconnector's
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Return the dataset of the objects that are named, in that order.

        Args:
            object_uris: One URI or many.
            region: S3 region; default: the environment's.
            endpoint: Of an S3-compatible server.
            transform: Called with each object's :class:`S3Reader`; what it returns is the sample.
            s3client_config: How to reach them.
            enable_sharding: Ranks, and the workers of each, take objects in turn.
            reader_constructor: How to read them: see :class:`S3ReaderConstructor`.
        """
        return cls(
            region, named(object_uris), endpoint, transform=transform, s3client_config=s3client_config,
            reader_constructor=reader_constructor, enable_sharding=enable_sharding,
        )  # fmt: skip

    @classmethod
    def from_prefix(  # noqa: PLR0913 - s3torchconnector's
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Return the dataset of the objects whose URI begins with ``s3_uri``; they are listed when first needed.

        See :meth:`from_objects`. What cannot be listed raises then.
        """
        return cls(
            region, listed(s3_uri), endpoint, transform=transform, s3client_config=s3client_config,
            reader_constructor=reader_constructor, enable_sharding=enable_sharding,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's samples."""
        numbers: range = range(len(self._objects()))
        if self._enable_sharding:
            hand = worker()
            numbers = numbers[self._rank.index :: self._rank.count][hand.index :: hand.count]
        return self._samples(numbers)
