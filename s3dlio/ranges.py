"""Arithmetic on byte ranges.

Floor 0. Knows numbers only; must not know objects, buffers or I/O. Inside the library a range is
half-open ``(start, stop)``; ``(offset, length)`` exists only at the public door.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from s3dlio.bounds import whole
from s3dlio.errors import RangeError


class Span(NamedTuple):
    """A half-open range of bytes, ``start <= position < stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes in the range."""
        return self.stop - self.start


def from_offset_length(offset: int, length: int | None) -> tuple[int, int | None]:
    """Turn the public ``(offset, length)`` into ``(start, stop)``; ``None`` is the end of the object.

    Raises:
        RangeError: Either number is negative.
        OptionError: Either is no whole number.
    """
    offset, length = whole("offset", offset), None if length is None else whole("length", length)
    if offset < 0 or (length is not None and length < 0):
        msg = f"offset and length must not be negative (offset={offset}, length={length})"
        raise RangeError(msg)
    return offset, None if length is None else offset + length


def clamp(start: int, stop: int | None, size: int) -> Span:
    """Fit a wanted range into an object of ``size`` bytes.

    Returns:
        The range that exists: past the end clamps, ``None`` reaches to the end.

    Raises:
        RangeError: The range starts behind the end (``start > size``).
    """
    if start > size:
        msg = f"offset {start} lies behind the end of the object ({size} bytes)"
        raise RangeError(msg)
    return Span(start, size if stop is None else max(start, min(stop, size)))


def split(start: int, stop: int, chunk: int) -> Iterator[Span]:
    """Cut a range into pieces of ``chunk`` bytes; only the last may be shorter.

    Args:
        start: First byte.
        stop: Behind the last byte; nothing is yielded when it is not beyond ``start``.
        chunk: Bytes per piece, at least 1.
    """
    if chunk < 1:
        msg = f"chunk must be at least 1 byte, not {chunk}"
        raise RangeError(msg)
    for begin in range(start, stop, chunk):
        yield Span(begin, min(begin + chunk, stop))


class Merged(NamedTuple):
    """One range to read, and which wanted ranges (by their position in the input) lie in it."""

    span: Span
    members: tuple[int, ...]


def coalesce(spans: Iterable[Span], *, max_gap: int, max_length: int) -> list[Merged]:
    """Merge ranges that lie close together, so that one request serves several.

    Args:
        spans: Wanted ranges in any order; they may overlap or repeat.
        max_gap: Largest number of unwanted bytes between two ranges that are still merged.
        max_length: A merged range does not grow beyond this many bytes, unless one wanted range
            alone is longer.

    Returns:
        Ranges in rising order; every input position occurs in exactly one of them.
    """
    wanted = sorted((span.start, span.stop, position) for position, span in enumerate(spans))
    merged: list[Merged] = []
    begin = end = -1
    members: list[int] = []
    for start, stop, position in wanted:
        reach = max(end, stop)
        if members and start - end <= max_gap and reach - begin <= max(max_length, end - begin):
            end = reach
            members.append(position)
            continue
        if members:
            merged.append(Merged(Span(begin, end), tuple(members)))
        begin, end, members = start, stop, [position]
    if members:
        merged.append(Merged(Span(begin, end), tuple(members)))
    return merged
