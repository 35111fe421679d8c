"""Where the records of a TFRecord file lie: found from its headers, and written as text.

Floor 4. Knows the text that NVIDIA DALI's ``tfrecord2idx`` writes, and how headers follow each other;
must not know stores, nor look at data.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from s3dlio.buffers import MIB, flat_bytes
from s3dlio.errors import TFRecordError
from s3dlio.formats.tfrecord import FOOT, HEAD, beyond, follow, torn, wrong_header

if TYPE_CHECKING:
    from typing_extensions import Buffer

Longs = np.ndarray[Any, np.dtype[np.int64]]

#: No file is longer: offsets are int64.
_MOST_BYTES = 2**63 - 1
_LINES_AT_ONCE = 4096
_TEXT_STEP = MIB
#: Digits that always fit int64.
_MOST_DIGITS = 18
_SEPARATORS = np.frombuffer(b" \n", np.uint8)


class Entry(NamedTuple):
    """Where a record lies: a pair that also takes ``entry["offset"]`` and ``entry["size"]``.

    Attributes:
        offset: First byte of its frame.
        size: Bytes of its whole frame, header and sums included.
    """

    offset: int
    size: int

    def __getitem__(self, key: Any) -> Any:
        """Return a part by name or, as of any tuple, by number."""
        if isinstance(key, str):
            if key not in self._fields:
                raise KeyError(key)
            return getattr(self, key)
        return tuple.__getitem__(self, key)


class Index(Sequence[Entry]):
    r"""Where the records of a file lie, in the file's order. Entries are made when they are asked for.

    Equal to any sequence of the same pairs. Thread-safe; 16 bytes a record.

    Args:
        offsets: First bytes of the frames, int64 of shape ``(n,)``; shared, not copied.
        sizes: Bytes of the whole frames, int64 of shape ``(n,)``; shared, not copied.

    Example:
        >>> index = Index.from_text(b"0 116\n116 50\n")
        >>> index[1]["offset"], [size for _, size in index]
        (116, [116, 50])
    """

    __slots__ = ("offsets", "sizes")

    def __init__(self, offsets: Longs, sizes: Longs) -> None:
        self.offsets = offsets
        self.sizes = sizes

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.offsets)

    def __getitem__(self, number: Any) -> Any:
        """Return one entry, or for a slice an index of part of them that shares memory."""
        if isinstance(number, slice):
            return Index(self.offsets[number], self.sizes[number])
        return Entry(int(self.offsets[number]), int(self.sizes[number]))

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries."""
        for begin in range(0, len(self), _LINES_AT_ONCE):
            part = slice(begin, begin + _LINES_AT_ONCE)
            yield from map(Entry, self.offsets[part].tolist(), self.sizes[part].tolist())

    def __eq__(self, other: object) -> bool:
        """Compare with another index, or any sequence of pairs."""
        if isinstance(other, Index):
            return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.sizes, other.sizes)
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        """Show how many there are, and the first."""
        first = f", first at byte {self.offsets[0]}" if len(self) else ""
        return f"Index({len(self)} records{first})"

    def to_text(self) -> bytes:
        """Return the index as NVIDIA DALI's ``tfrecord2idx`` writes it: lines of ``offset size``, ASCII."""
        both = np.stack([self.offsets, self.sizes], axis=1)
        return b"".join(_lines(both[at : at + _LINES_AT_ONCE]) for at in range(0, len(both), _LINES_AT_ONCE))

    @classmethod
    def from_text(cls, text: Buffer) -> Index:
        """Read what :meth:`to_text` or DALI's tool wrote. Spaces more than needed, and empty lines, are fine.

        Raises:
            TFRecordError: A line is not two whole numbers that a record can have; it is named.
        """
        view = flat_bytes(text)
        parts, line, at = [np.empty((0, 2), np.int64)], 1, 0
        while at < len(view):
            block = bytes(view[at : at + _TEXT_STEP])
            if at + len(block) < len(view):
                block = block[: block.rfind(b"\n") + 1]
            if not block:
                raise _wrong_line(line, bytes(view[at : at + 80]))
            numbers = _plain_numbers(block)
            parts.append(_any_numbers(block, line) if numbers is None else numbers)
            line += block.count(b"\n")
            at += len(block)
        both = np.concatenate(parts)
        return cls(np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1]))


def _lines(both: Longs) -> bytes:
    return ("%d %d\n" * len(both) % tuple(both.ravel().tolist())).encode("ascii")


def _plain_numbers(block: bytes) -> Longs | None:
    """Return the numbers of lines that are exactly as DALI writes them, shape ``(n, 2)``, else nothing."""
    digits = np.frombuffer(block, np.uint8) - np.uint8(ord("0"))
    ends = np.flatnonzero(digits > 9)  # noqa: PLR2004 - the digit
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts
    regular = len(ends) % 2 == 0 and len(ends) > 0 and ends[-1] == len(block) - 1
    if not regular or lengths.min() < 1 or lengths.max() > _MOST_DIGITS:
        return None
    marks = np.frombuffer(block, np.uint8)[ends].reshape(-1, 2)
    numbers = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max())):
        there = np.flatnonzero(lengths > place)
        numbers[there] += digits[ends[there] - (place + 1)].astype(np.int64) * 10**place
    both: Longs = numbers.reshape(-1, 2)
    return both if (marks == _SEPARATORS).all() and both[:, 1].min() >= HEAD + FOOT else None


def _any_numbers(block: bytes, line: int) -> Longs:
    """Return the numbers of lines that are less regular, or name the first that cannot be read."""
    found = []
    for number, text in enumerate(block.split(b"\n"), line):
        words = text.split()
        good = len(words) == 2 and all(word.isdigit() and len(word) <= _MOST_DIGITS for word in words)  # noqa: PLR2004
        if words and (not good or int(words[1]) < HEAD + FOOT):
            raise _wrong_line(number, text)
        if words:
            found.append((int(words[0]), int(words[1])))
    return np.array(found, np.int64).reshape(-1, 2)


def _wrong_line(number: int, text: bytes) -> TFRecordError:
    msg = f"line {number} of the index is {text[:60]!r}, not an offset and the size of a whole record in bytes"
    return TFRecordError(msg)


class Scanner:
    """Finds where records lie, from the headers alone; the data is skipped and never looked at.

    Memory: 16 bytes a record, for a while twice that. One thread at a time.

    Args:
        size: Bytes of the whole file, if known: a record that claims to end behind it is refused at once.

    Attributes:
        position: Where the next header begins, in bytes.
    """

    def __init__(self, size: int | None = None) -> None:
        self.position = 0
        self._size = size
        self._offsets = array("q")

    def feed(self, view: memoryview, base: int) -> None:
        """Look at all headers that lie whole in a view whose first byte is byte ``base`` of the file.

        Raises:
            TFRecordError: The sum of a header is wrong, or a record ends behind the end of the file.
        """
        limit = _MOST_BYTES if self._size is None else self._size
        while base + len(view) - self.position >= HEAD:
            run = follow(view, self.position - base)
            if run.is_broken:
                raise wrong_header(base + run.after, view[run.after :])
            if base + run.after > limit:
                last = base + run.starts[-1]
                raise beyond(last, base + run.after - last, limit)
            self._offsets.extend([base + start for start in run.starts])
            self.position = base + run.after

    def finish(self, size: int) -> Index:
        """Return the index, once all of the file's ``size`` bytes have been shown.

        Raises:
            TFRecordError: The last record is cut short.
        """
        if self.position > size:
            raise beyond(self._offsets[-1], self.position - self._offsets[-1], size)
        if self.position < size:
            raise torn(self.position, size)
        offsets = np.array(self._offsets, np.int64)
        return Index(offsets, np.diff(offsets, append=np.int64(size)))


def scan(chunks: Iterable[Buffer], *, size: int | None = None) -> Index:
    """Return the index of a file that comes in pieces, in one pass.

    Memory: 16 bytes a record, for a while twice that, whatever the pieces.

    Args:
        chunks: The file's bytes, in consecutive pieces of any size. A file in memory is one piece, of
            which only the headers are touched.
        size: Bytes of the whole file, if known: a record that claims to end behind it is refused at once.

    Raises:
        TFRecordError: The sum of a header is wrong, the last record is cut short, or the file is compressed.
    """
    scanner = Scanner(size)
    base, torn_header = 0, b""
    for chunk in chunks:
        view = flat_bytes(chunk)
        if torn_header:
            begin = base - len(torn_header)
            torn_header += bytes(view[: HEAD - len(torn_header)])
            scanner.feed(memoryview(torn_header), begin)
        if len(torn_header) in (0, HEAD):  # else the chunk was shorter than a header
            scanner.feed(view, base)
            torn_header = b""
        base += len(view)
        left = base - scanner.position
        if left > 0 and not torn_header:
            torn_header = bytes(view[-left:])
    return scanner.finish(base)
