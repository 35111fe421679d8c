"""A reader of a checkpoint's file, which is told beforehand what will be read.

Floor 6. Decides which items come with one request; must not know plans, clients or torch.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from s3dlio.buffers import MIB, writable_bytes
from s3dlio.compat.s3torchconnector.s3reader.s3reader import GetStreamCallable, S3Reader, check_integers
from s3dlio.errors import OptionError
from s3dlio.range_file import Source

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: s3torchconnector's.
DEFAULT_MAX_GAP_SIZE: Final = 32 * MIB
#: Most that neighbouring items bring at once; an item alone may be larger.
_MOST_GROUP_BYTES: Final = 64 * MIB


class ItemRange(NamedTuple):
    """Bytes ``start <= position < end`` of a file, which belong together."""

    start: int
    end: int


class DCPOptimizedS3Reader(S3Reader):
    """For files of checkpoints: the first byte of an item brings all of it, with small neighbours.

    Holds the items of one request at a time: at most 64 MiB, or one item. Other reads are as :class:`S3Reader`'s.

    Args:
        bucket: As there.
        key: As there.
        item_ranges: Where the items lie that will be read.
        get_object_info: As there.
        get_stream: As there.
        max_gap_size: Most bytes between two items that are read at once.

    Raises:
        OptionError: ``max_gap_size`` is negative, or no number; or an item ends before it begins, or begins before its file.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        item_ranges: Iterable[ItemRange],
        get_object_info: Callable[[], Any],
        get_stream: GetStreamCallable,
        max_gap_size: float = DEFAULT_MAX_GAP_SIZE,
    ) -> None:
        super().__init__(bucket, key, get_object_info, get_stream)
        check_gap(max_gap_size)
        self._max_gap_size = max_gap_size
        self._item_ranges = sorted(item_ranges)
        for start, end in self._item_ranges:
            if not 0 <= start <= end:
                msg = f"an item cannot be the bytes from {start} to {end}"
                raise OptionError(msg, uri=self.uri, operation="open")
        self._groups = _grouped(self._item_ranges, max_gap_size)
        self._group: tuple[ItemRange, memoryview] = ItemRange(0, 0), memoryview(b"")
        self._items: Source | None = None

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into existing memory; return the bytes read."""
        file = self._file()
        target = writable_bytes(buffer)
        target = target[: max(0, file.size - file.tell())]
        done = 0
        while done < len(target):
            memory = self._grouped_from(file.tell())[: len(target) - done]
            if not memory:
                return done + file.readinto(target[done:])
            target[done : done + len(memory)] = memory
            done += len(memory)
            file.seek(len(memory), os.SEEK_CUR)
        return done

    def read(self, size: int | None = None, /) -> bytes:
        """Read bytes; ``None`` and what is negative read to the end."""
        check_integers(self.uri, "read", 0 if size is None else size)
        file = self._file()
        rest = max(0, file.size - file.tell())
        memory = bytearray(rest if size is None or size < 0 else min(size, rest))
        self.readinto(memory)
        return bytes(memory)

    def close(self) -> None:
        """Let go of what was read."""
        self._group = ItemRange(0, 0), memoryview(b"")
        super().close()

    def _source(self) -> Source:
        self._items = super()._source()
        return self._items

    def _grouped_from(self, start: int) -> memoryview:
        """Return the bytes from a place to the end of its group; nothing if it lies in none."""
        group, memory = self._group
        if not group.start <= start < group.end:
            number = bisect.bisect_right(self._groups, start, key=lambda each: each.start) - 1
            if number < 0 or self._items is None or start >= min(self._groups[number].end, self._items.size):
                return memoryview(b"")
            group = self._groups[number]
            self._group = ItemRange(0, 0), memoryview(b"")  # two of them at a time would be too much memory
            memory = self._items.read(group.start, min(group.end, self._items.size))
            self._group = group, memory
        return memory[start - group.start :]

    def _arguments(self) -> tuple[Any, ...]:
        return self._bucket, self._key, self._item_ranges, self._get_object_info, self._get_stream, self._max_gap_size


def check_gap(max_gap_size: object) -> None:
    """Check the most bytes between two items that are read at once.

    Raises:
        OptionError: It is negative, or no number.
    """
    if not isinstance(max_gap_size, int | float) or not max_gap_size >= 0:
        msg = f"max_gap_size must be non-negative, not {max_gap_size!r}"
        raise OptionError(msg)


def _grouped(ranges: Sequence[ItemRange], max_gap: float) -> list[ItemRange]:
    groups: list[ItemRange] = []
    for start, end in ranges:
        last = groups[-1] if groups else None
        if last and start - last.end <= max_gap and max(end, last.end) - last.start <= _MOST_GROUP_BYTES:
            groups[-1] = ItemRange(last.start, max(end, last.end))
        elif last is None or start >= last.end:
            groups.append(ItemRange(start, end))
        elif end > last.end:
            groups.append(ItemRange(last.end, end))
    return groups
