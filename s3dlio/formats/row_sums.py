"""Many short sums at once, as an index of TFRecord files needs them.

Floor 4. Knows what sums of eight bytes have to do with each other; must not know files.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from s3dlio.checksums import MASK_DELTA, crc32c_function

Words = np.ndarray[Any, np.dtype[np.uint32]]


def unmask_many(masked: Words) -> Words:
    """Return the sums that :func:`mask` made these of, one by one, in new memory."""
    rotated = masked - np.uint32(MASK_DELTA)
    return rotated << np.uint32(15) | rotated >> np.uint32(17)


def crc32c_of_rows(rows: np.ndarray[Any, np.dtype[np.uint8]]) -> Words:
    """Return the CRC-32C of each row of eight bytes.

    Many short sums cost more in calls than in work, so this takes all at once: a CRC is linear, hence the
    sum of a row is the exclusive or of what each of its bytes adds.

    Args:
        rows: uint8 of shape ``(n, 8)``.

    Returns:
        uint32 of shape ``(n,)``.
    """
    tables, of_zeros = _row_tables()
    sums = np.full(len(rows), of_zeros, np.uint32)
    for place in range(8):
        column = rows[:, place]
        if column.any():  # the upper bytes of lengths seldom are anything but zero, which adds nothing
            sums ^= tables[place][column]
    return sums


@cache
def _row_tables() -> tuple[Words, int]:
    """Return what each value adds in each of eight places, and the sum of eight zeros."""
    function = crc32c_function()
    of_zeros = function(bytes(8))
    tables = np.empty((8, 256), np.uint32)
    for place in range(8):
        for value in range(256):
            row = bytearray(8)
            row[place] = value
            tables[place, value] = function(row) ^ of_zeros
    return tables, of_zeros
