"""CRC-32C, as TFRecord files and object stores use it.

Floor 0. Knows how bytes are summed and how a sum is masked; must not know files. The work is done by
``awscrt`` (Amazon's, with the processor's own instructions), which reads any memory as it lies. It is
imported with the first sum: it takes 60 ms.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Added to a rotated sum. TFRecord masks its sums since the sum of data that holds its own sum is no good one:
#: tensorflow/core/lib/hash/crc32c.h.
MASK_DELTA = 0xA282EAD8
_WORD = 0xFFFFFFFF


@cache
def crc32c_function() -> Callable[[Buffer], int]:
    """Return the function that sums contiguous bytes, for loops that call it often.

    Returns:
        A function from any contiguous bytes-like object, which it does not copy, to a number of 32 bits.
        Thread-safe. (On loopback machines: 24-40 GB/s in cache, 0.15 us for a few bytes.)
    """
    function: Callable[[Buffer], int] = importlib.import_module("awscrt.checksums").crc32c
    return function


def crc32c(data: Buffer) -> int:
    """Return the CRC-32C (Castagnoli) of contiguous bytes.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    return crc32c_function()(data)


def crc32c_of_pieces(pieces: Iterable[memoryview], summed: int = 0, crc: int = 0) -> int:
    """Return the CRC-32C of bytes that lie in several pieces of memory, one after the other.

    Args:
        pieces: The bytes.
        summed: How many of them, from the first one on, are summed already ...
        crc: ... and their sum.
    """
    function = crc32c_onward()
    for piece in pieces:
        done = min(summed, len(piece))
        summed -= done
        crc = function(piece[done:], crc)
    return crc


@cache
def crc32c_onward() -> Callable[[Buffer, int], int]:
    """Return the function that goes on with a sum: from bytes, and the sum of those before them."""
    function: Callable[[Buffer, int], int] = importlib.import_module("awscrt.checksums").crc32c
    return function


def combine_crc32c(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32C of a whole, from (sum, length in bytes) of each of its parts, in their order."""
    combine: Callable[[int, int, int], int] = importlib.import_module("awscrt.checksums").combine_crc32c
    whole = 0
    for crc, length in parts:
        whole = combine(whole, crc, length)
    return whole


def base64_of(crc: int) -> str:
    """Return a CRC-32C as header fields of S3 and Google Cloud Storage carry it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def mask(crc: int) -> int:
    """Return a sum as TFRecord files store it: rotated by 15 bits to the right, plus a constant."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & _WORD


def unmask(masked: int) -> int:
    """Return the sum that :func:`mask` made this of."""
    rotated = masked - MASK_DELTA & _WORD
    return (rotated << 15 | rotated >> 17) & _WORD
