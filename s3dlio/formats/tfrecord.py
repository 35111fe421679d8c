"""TFRecord files, in memory: their records, and how these are framed.

Floor 4. Knows the frame of a record; must not know stores, nor what is in the data. A file is one frame after the other (tensorflow/core/lib/io/record_writer.h)::

    uint64 length | uint32 masked CRC-32C of these eight bytes | data | uint32 masked CRC-32C of the data

all little-endian, without a beginning or an end of its own. Records are views of the memory they are
given. Headers are followed first and their sums verified many at a time; nothing is believed before.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from s3dlio.buffers import MIB, flat_bytes
from s3dlio.checksums import crc32c_function, mask, unmask
from s3dlio.errors import TFRecordError
from s3dlio.formats.deflate import looks_packed
from s3dlio.formats.row_sums import crc32c_of_rows, unmask_many

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Bytes before the data of a record.
HEAD = 12
#: Bytes behind it.
FOOT = 4
#: Records longer than this are refused where nothing else bounds them: a protobuf message cannot be longer.
MOST_RECORD_BYTES = 2 * 1024 * MIB

_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
#: Headers that are followed before their sums are verified: bounds what a run of empty records costs.
_MOST_HEADERS = 1 << 14
#: Below this many sums, one call for each is faster than NumPy's dozen calls for all.
_FEW = 32


def frame_head(data: memoryview) -> bytes:
    """Return the twelve bytes that stand before ``data``."""
    length = _LENGTH.pack(len(data))
    return length + _WORD.pack(mask(crc32c_function()(length)))


def frame_foot(data: memoryview) -> bytes:
    """Return the four bytes that stand behind ``data``."""
    return _WORD.pack(mask(crc32c_function()(data)))


def payload(frame: Buffer, offset: int, *, check: bool = True) -> memoryview:
    """Return the data of one whole frame, as a view of it.

    Args:
        frame: Exactly the bytes of a record with its header and its sums.
        offset: Where it began, in bytes, for errors.
        check: Verify the sum of the data; that of the length always is.

    Raises:
        TFRecordError: It is no frame, not of this length, or damaged.
    """
    view = flat_bytes(frame)
    length = _frame_length(view, offset)
    if length != len(view):
        msg = f"the record at byte {offset} takes {length} bytes, not {len(view)}: the index does not fit the file"
        raise TFRecordError(msg)
    body = view[HEAD:-FOOT]
    if check and mask(crc32c_function()(body)) != _WORD.unpack_from(view, length - FOOT)[0]:
        raise _wrong_data(offset)
    return body


def records(
    chunks: Iterable[Buffer], *, check: bool = True, size: int | None = None, most_bytes: int = MOST_RECORD_BYTES
) -> Iterator[memoryview]:
    """Iterate over the data of all records of a file that comes in pieces.

    Memory: a record is a view of the chunk it lies in, and keeps that alive. Only one that crosses from
    one chunk into the next is copied together, as its bytes arrive.

    Args:
        chunks: The file's bytes, in consecutive pieces of any size.
        check: Verify the sums of the data; those of the lengths always are.
        size: Bytes of the whole file, if known: a record that claims to end behind it is refused at once.
        most_bytes: Refuse longer records.

    Raises:
        TFRecordError: A sum is wrong, or a record is cut short or too long. The records before it have
            been yielded.
    """
    pieces = ((flat_bytes(chunk), True) for chunk in chunks)
    return records_of_growing(pieces, check=check, size=size, most_bytes=most_bytes)


def records_of_growing(
    pieces: Iterable[tuple[memoryview, bool]],
    *,
    check: bool = True,
    size: int | None = None,
    most_bytes: int = MOST_RECORD_BYTES,
) -> Iterator[memoryview]:
    """Iterate as :func:`records` does while the pieces are still growing.

    Args:
        pieces: What has come of a piece, from its beginning on, and whether that is all of it; if not, the same memory
            comes again, and longer.
        check: As of :func:`records`.
        size: As of :func:`records`.
        most_bytes: As of :func:`records`.

    Raises:
        TFRecordError: As of :func:`records`.
    """
    crossing = _Crossing(size, most_bytes)
    base = at = 0
    for view, is_whole in pieces:
        at += crossing.take(view[at:])
        if crossing.is_whole:
            yield crossing.hand_over(check=check)
        if not crossing.is_open:
            at = yield from _whole_records(view, at, base, check=check)
        if is_whole:
            if not crossing.is_open:
                crossing.begin(view[at:], base + at)
            base += len(view)
            at = 0
    if crossing.is_open:
        raise torn(crossing.offset, base)


class Run(NamedTuple):
    """Good headers, one behind the other.

    Attributes:
        starts: Where they begin in the view, in bytes.
        after: Where the next one should; the last record may reach behind the view.
        is_broken: The header at ``after`` is there, and its sum is wrong.
    """

    starts: list[int]
    after: int
    is_broken: bool


def follow(view: memoryview, at: int) -> Run:
    """Follow the headers that lie in a view from byte ``at`` on, then verify all their sums.

    Only headers are touched. There may be more of them than are returned at once.
    """
    starts: list[int] = []
    note, length_at = starts.append, _LENGTH.unpack_from
    last = len(view) - HEAD
    for _ in range(_MOST_HEADERS):
        if at > last:
            break
        note(at)
        at += length_at(view, at)[0] + (HEAD + FOOT)
    good = _count_good(view, starts)
    if good < len(starts):
        return Run(starts[:good], starts[good], is_broken=True)
    return Run(starts, at, is_broken=False)


def _count_good(view: memoryview, starts: list[int]) -> int:
    """Return how many of the headers come before the first whose sum is wrong."""
    if len(starts) < _FEW:
        for count, start in enumerate(starts):
            if not _is_sound(bytes(view[start : start + HEAD])):
                return count
        return len(starts)
    heads = _bytes_at(view, starts, HEAD)
    stored = unmask_many(heads[:, 8:].copy().view("<u4").reshape(-1))
    wrong = np.flatnonzero(crc32c_of_rows(heads[:, :8]) != stored)
    return int(wrong[0]) if len(wrong) else len(starts)


def _bytes_at(view: memoryview, starts: list[int], length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a copy of the ``length`` bytes at each of the places, shape ``(len(starts), length)``."""
    everywhere: Any = np.ndarray((len(view) - length + 1,), f"V{length}", view, strides=(1,))
    taken: np.ndarray[Any, np.dtype[np.uint8]] = everywhere[starts].view(np.uint8).reshape(-1, length)
    return taken


@lru_cache(maxsize=64)
def _is_sound(head: bytes) -> bool:
    """Tell whether the sum in a header of twelve bytes is that of its length; records tend to be of one size."""
    length, stored = _HEADER.unpack(head)
    return mask(crc32c_function()(_LENGTH.pack(length))) == int(stored)


def _whole_records(view: memoryview, at: int, base: int, *, check: bool) -> Generator[memoryview, None, int]:
    """Yield the data of the records that lie whole in a view; return where the first that does not begins."""
    while True:
        run = follow(view, at)
        bounds = run.starts
        if run.after <= len(view):
            bounds.append(run.after)
        yield from (_checked if check else _unchecked)(view, bounds, base)
        if run.is_broken:
            raise wrong_header(base + run.after, view[run.after :])
        if run.after > len(view):
            return bounds[-1]
        if run.after == at:
            return at
        at = run.after


def _checked(view: memoryview, bounds: list[int], base: int) -> Iterator[memoryview]:
    crc32c = crc32c_function()
    for (start, stop), stored in zip(pairwise(bounds), _sums_before(view, bounds[1:]), strict=True):
        body = view[start + HEAD : stop - FOOT]
        if crc32c(body) != stored:
            raise _wrong_data(base + start)
        yield body


def _unchecked(view: memoryview, bounds: list[int], _base: int) -> Iterator[memoryview]:
    for start, stop in pairwise(bounds):
        yield view[start + HEAD : stop - FOOT]


def _sums_before(view: memoryview, stops: list[int]) -> list[int]:
    """Return the sums, no longer masked, with which the frames end that end at ``stops``."""
    if len(stops) < _FEW:
        return [unmask(_WORD.unpack_from(view, stop - FOOT)[0]) for stop in stops]
    feet = _bytes_at(view, [stop - FOOT for stop in stops], FOOT)
    sums: list[int] = unmask_many(feet.view("<u4").reshape(-1)).tolist()
    return sums


class _Crossing:
    """Puts together the one frame that crosses from one chunk into the next.

    Args:
        size: Bytes of the whole file, if known.
        most_bytes: Refuse longer records.
    """

    def __init__(self, size: int | None, most_bytes: int) -> None:
        self.offset = 0
        self._size = size
        self._most = most_bytes
        self._frame = bytearray()
        self._wanted = HEAD

    @property
    def is_open(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return len(self._frame) > 0

    @property
    def is_whole(self) -> bool:
        """Whether all of its bytes have come."""
        return len(self._frame) == self._wanted

    def begin(self, rest: memoryview, offset: int) -> None:
        """Take the beginning of a frame, which may be nothing, from the end of a chunk."""
        self.offset = offset
        self._append(rest)

    def take(self, view: memoryview) -> int:
        """Take what is missing from the beginning of a chunk; return how many bytes that was."""
        return self._append(view) if self._frame else 0

    def _append(self, view: memoryview) -> int:
        taken = 0
        while taken < len(view) and len(self._frame) < self._wanted:
            piece = view[taken : taken + self._wanted - len(self._frame)]
            self._frame += piece  # grows with what has come, never with what is claimed
            taken += len(piece)
            if len(self._frame) == HEAD:
                self._wanted = self._claimed()
        return taken

    def _claimed(self) -> int:
        length = _frame_length(self._frame, self.offset)
        if self._size is not None and self.offset + length > self._size:
            raise beyond(self.offset, length, self._size)
        if length - HEAD - FOOT > self._most:
            msg = f"the record at byte {self.offset} has {length - HEAD - FOOT} bytes; at most {self._most} are read"
            raise TFRecordError(msg)
        return length

    def hand_over(self, *, check: bool) -> memoryview:
        """Return the data of the complete frame, and be ready for another."""
        frame, self._frame, self._wanted = self._frame, bytearray(), HEAD
        return payload(frame, self.offset, check=check)


def _frame_length(view: Buffer, offset: int) -> int:
    """Return the bytes of a whole frame, by its header."""
    head = bytes(memoryview(view)[:HEAD])
    if len(head) < HEAD:
        raise torn(offset, offset + len(head))
    if not _is_sound(head):
        raise wrong_header(offset, head)
    return int(_LENGTH.unpack_from(head)[0]) + HEAD + FOOT


def torn(offset: int, end: int) -> TFRecordError:
    """Build the error for a record whose bytes end too early."""
    return TFRecordError(f"the record at byte {offset} is cut short: the file ends at byte {end}")


def beyond(offset: int, length: int, end: int) -> TFRecordError:
    """Build the error for a record whose header claims more bytes than there are."""
    msg = f"the record at byte {offset} takes {length} bytes, but the file ends at byte {end}: it is cut short"
    return TFRecordError(msg)


def _wrong_data(offset: int) -> TFRecordError:
    return TFRecordError(f"the checksum of the record at byte {offset} is wrong: its data is damaged")


def wrong_header(offset: int, found: Buffer) -> TFRecordError:
    """Build the error for a header whose sum is wrong, where ``found`` stands."""
    packing = looks_packed(found) if not offset else ""
    if packing:
        msg = (
            f"the file is compressed (compression={packing!r}): its records have no places, so there can be no index and"
            " no dataset of them. Read it from its beginning with s3dlio.iter_tfrecords(uri), or pack it anew: write"
            " what that yields with s3dlio.TFRecordWriter(new_uri)"
        )
        return TFRecordError(msg)
    return TFRecordError(f"there is no record at byte {offset}: the checksum of its length is wrong")


def compression_of(beginning: Buffer) -> str:
    """Tell by its first twelve bytes how a file is compressed: ``""``, ``"GZIP"`` or ``"ZLIB"``.

    A file whose first header is sound is not compressed, whatever else its bytes might mean.
    """
    head = bytes(memoryview(beginning)[:HEAD])
    return "" if len(head) == HEAD and _is_sound(head) else looks_packed(head)
