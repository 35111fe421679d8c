"""The ways to read objects that s3torchconnector's users choose from.

Floor 6. Knows the kinds of readers and what a checkpoint's plan says; must not know clients or torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from s3dlio.compat.s3torchconnector.s3reader.dcp_optimized import (
    DEFAULT_MAX_GAP_SIZE,
    DCPOptimizedS3Reader,
    ItemRange,
    check_gap,
)
from s3dlio.compat.s3torchconnector.s3reader.s3reader import (
    GetStreamCallable,
    Place,
    RangedS3Reader,
    S3Reader,
    S3ReaderConstructorProtocol,
    SequentialS3Reader,
)
from s3dlio.errors import OptionError
from s3dlio.uri import Uri


@runtime_checkable
class DCPS3ReaderConstructorProtocol(S3ReaderConstructorProtocol, Protocol):
    """What makes readers of checkpoints, and is told what will be read."""

    def set_item_ranges_by_file(
        self, plan_items: Sequence[Any], storage_data: Mapping[Any, Any], base_path: str | os.PathLike[str]
    ) -> None:
        """Note what a plan reads."""


class DCPOptimizedConstructor:
    """The way for checkpoints that ``torch.distributed.checkpoint`` loads: see :class:`DCPOptimizedS3Reader`.

    A file of which nothing was said is read as :class:`SequentialS3Reader` reads it.

    Args:
        max_gap_size: Most bytes between two items that are read at once; may be infinite.

    Raises:
        OptionError: It is negative, or no number.
    """

    def __init__(self, max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> None:
        check_gap(max_gap_size)
        self._max_gap_size = max_gap_size
        self._item_ranges_by_file: dict[str, list[ItemRange]] = {}

    def set_item_ranges_by_file(
        self, plan_items: Sequence[Any], storage_data: Mapping[Any, Any], base_path: str | os.PathLike[str]
    ) -> None:
        """Note what a plan reads; what was noted before is forgotten.

        Args:
            plan_items: The items of a ``LoadPlan``.
            storage_data: Where each lies, by its ``storage_index``.
            base_path: The checkpoint's URI.

        Raises:
            OptionError: There are items, and nothing says where they lie.
        """
        if plan_items and not storage_data:
            msg = "storage_data must not be empty: it says where the items lie"
            raise OptionError(msg)
        ranges: dict[str, list[ItemRange]] = {}
        for item in plan_items:
            lies = storage_data[item.storage_index]
            uri = os.path.join(base_path, lies.relative_path)
            ranges.setdefault(uri, []).append(ItemRange(lies.offset, lies.offset + lies.length))
        self._item_ranges_by_file = ranges

    def __call__(
        self, bucket: str, key: str, get_object_info: Callable[[], Any], get_stream: GetStreamCallable
    ) -> S3Reader:
        """Return a reader."""
        where = get_stream.where if isinstance(get_stream, Place) else Uri("s3", bucket, key)
        items = self._item_ranges_by_file.get(str(where))
        if items is None:
            return SequentialS3Reader(bucket, key, get_object_info, get_stream)
        return DCPOptimizedS3Reader(bucket, key, items, get_object_info, get_stream, self._max_gap_size)


class S3ReaderConstructor:
    """Ways to read objects. All readers can do the same; they differ in what they fetch before they are asked."""

    @staticmethod
    def sequential() -> S3ReaderConstructorProtocol:
        """Return the way for objects that are read from the beginning to the end: datasets read them ahead."""
        return functools.partial(SequentialS3Reader)

    @staticmethod
    def range_based(buffer_size: int | None = None) -> S3ReaderConstructorProtocol:
        """Return the way for parts of large objects: nothing is read but what is asked for, and a little more.

        Args:
            buffer_size: Most bytes that small reads in a row bring at once; default 8 MiB.
        """
        return functools.partial(RangedS3Reader, buffer_size=buffer_size)

    @staticmethod
    def dcp_optimized(max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> DCPOptimizedConstructor:
        """Return the way for checkpoints: see :class:`DCPOptimizedConstructor`."""
        return DCPOptimizedConstructor(max_gap_size)

    @staticmethod
    def default() -> S3ReaderConstructorProtocol:
        """Return :meth:`sequential`."""
        return S3ReaderConstructor.sequential()

    @staticmethod
    def get_reader_type_string(constructor: S3ReaderConstructorProtocol | None) -> str:
        """Return the name of a way to read; ``unknown`` for users' own."""
        if isinstance(constructor, DCPOptimizedConstructor):
            return "dcp_optimized"
        if is_whole(constructor):
            return "sequential"
        is_ranged = isinstance(constructor, functools.partial) and constructor.func is RangedS3Reader
        return "range_based" if is_ranged else "unknown"


def is_whole(constructor: S3ReaderConstructorProtocol | None) -> bool:
    """Tell whether datasets should read the whole object before its reader is handed out."""
    if isinstance(constructor, functools.partial):
        return constructor.func is SequentialS3Reader
    return constructor is None or constructor is SequentialS3Reader
