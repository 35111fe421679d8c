"""Made-up data in memory: what users of benchmarks call.

Floor 6. Knows the public contract; the bytes are :mod:`s3dlio.synthetic`'s, the files
:mod:`s3dlio.synthetic_files`'s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from s3dlio.buffers import MIB, POOL, BytesView, bytes_of, flat_bytes, view_of, writable_bytes
from s3dlio.context import current_token
from s3dlio.errors import OptionError
from s3dlio.spellings import also_spelt
from s3dlio.synthetic import Pattern, Recipe, make, make_into
from s3dlio.synthetic_files import Member, npy_header, npz, npz_size

#: A share of the floats below 1 that every kind of them has, in bits of the fraction: the exponent stays that of 1.
_ONE_TO_TWO = {2: (0x3C00, 10), 4: (0x3F800000, 23), 8: (0x3FF0000000000000, 52)}


@also_spelt(dedup="dedup_factor", compress="compress_factor")
def generate_data(size: int, dedup_factor: float = 1, compress_factor: float = 1, seed: int | None = None) -> BytesView:
    """Make up bytes: random, but as repetitive and as compressible as asked for.

    Args:
        size: How many bytes.
        dedup_factor: 1 for no duplicates; 4: equal blocks (of 4 KiB up to 1 MiB, as the size allows) come four
            times each on the average. Also: ``dedup``.
        compress_factor: 1 for what nothing compresses; 4: a compressor makes a quarter of it. At most 256.
            Also: ``compress``.
        seed: The same seed makes the same bytes, on every machine. Without one they are others each time.

    Returns:
        The bytes, in memory of their own.

    Raises:
        OptionError: A number is out of its range.

    Example:
        >>> import s3dlio
        >>> s3dlio.generate_data(1 << 20, seed=7) == s3dlio.generate_data(1 << 20, seed=7)
        True
    """
    return generate_data_with_threads(size, dedup_factor, compress_factor, threads=1, seed=seed)


@also_spelt(dedup="dedup_factor", compress="compress_factor")
def generate_data_with_threads(
    size: int,
    dedup_factor: float = 1,
    compress_factor: float = 1,
    threads: int | None = None,
    seed: int | None = None,
) -> BytesView:
    """Do as :func:`generate_data` does, with several threads: the bytes are the same.

    Args:
        size: How many bytes.
        dedup_factor: See :func:`generate_data`.
        compress_factor: See :func:`generate_data`.
        threads: How many; one for each core if not given.
        seed: See :func:`generate_data`.
    """
    recipe = Recipe(size=size, dedup_factor=dedup_factor, compress_factor=compress_factor, seed=seed)
    return make(recipe, threads or os.cpu_count() or 1, current_token())


@also_spelt(dedup="dedup_factor", compress="compress_factor")
def generate_into_buffer(
    buffer: object,
    dedup_factor: float = 1,
    compress_factor: float = 1,
    threads: int | None = None,
    seed: int | None = None,
) -> int:
    """Make up bytes as :func:`generate_data` does, in existing memory.

    Args:
        buffer: Anything writable and contiguous: NumPy array, CPU tensor, memoryview, bytearray. It is filled.
        dedup_factor: See :func:`generate_data`.
        compress_factor: See :func:`generate_data`.
        threads: How many; one for each core if not given.
        seed: See :func:`generate_data`.

    Returns:
        How many bytes: all of the buffer's.

    Raises:
        OptionError: A number is out of its range, or the buffer is read-only or not contiguous.

    Example:
        >>> import s3dlio
        >>> s3dlio.generate_into_buffer(bytearray(1000))
        1000
    """
    target = writable_bytes(buffer)
    recipe = Recipe(size=target.nbytes, dedup_factor=dedup_factor, compress_factor=compress_factor, seed=seed)
    make_into(target, recipe, threads or os.cpu_count() or 1, current_token())
    return target.nbytes


def generate_blocks(
    size: int,
    dedup_factor: float = 1,
    compress_factor: float = 1,
    seed: int | None = None,
    block_size: int = 8 * MIB,
) -> Iterator[BytesView]:
    """Yield what :func:`generate_data` returns, block by block, in constant memory.

    Args:
        size: How many bytes in all.
        dedup_factor: See :func:`generate_data`.
        compress_factor: See :func:`generate_data`.
        seed: See :func:`generate_data`.
        block_size: Bytes of each block but the last.

    Yields:
        Blocks in order, each in memory of its own.
    """
    if block_size < 1:
        msg = f"block_size must be at least 1 byte, not {block_size}"
        raise OptionError(msg, operation="generate")
    recipe = Recipe(size=size, dedup_factor=dedup_factor, compress_factor=compress_factor, seed=seed)
    return _blocks(Pattern(recipe), block_size)


def _blocks(pattern: Pattern, block_size: int) -> Iterator[BytesView]:
    for start in range(0, pattern.size, block_size):
        lease = POOL.take(min(block_size, pattern.size - start))
        pattern.fill(bytes_of(lease), start)
        yield view_of(lease)


def generate_npz_bytes(
    shape: Sequence[int], dtype: Any = "float32", num_samples: int = 1, seed: int | None = None
) -> BytesView:
    """Make up an NPZ file: a random array ``x``, and labels ``y``, all zero.

    Args:
        shape: Of ``x``.
        dtype: Of ``x``: any of numbers or booleans. Floats are in [1, 2), never NaN or infinite.
        num_samples: How many labels (int64) there are.
        seed: The same seed makes the same file.

    Returns:
        The file, in memory of its own; ``numpy.load`` and :func:`s3dlio.read_npz` read it.

    Raises:
        OptionError: There is no such dtype, or not of numbers.
    """
    kind = _number_type(dtype)
    count = math.prod(shape)
    if count < 0 or num_samples < 0:
        msg = f"shape and num_samples must not be negative: {tuple(shape)}, {num_samples}"
        raise OptionError(msg, operation="generate")
    random = Pattern(Recipe(size=count * kind.itemsize, seed=seed))
    members: dict[str, Member] = {
        "x": (npy_header(kind, tuple(shape)), random.size, lambda: _valid(random, kind)),
        "y": (npy_header(np.dtype("<i8"), (num_samples,)), 8 * num_samples, lambda: iter([bytes(8 * num_samples)])),
    }
    lease = POOL.take(npz_size(members))
    target, done = bytes_of(lease), 0
    for piece in npz(members):
        view = flat_bytes(piece)
        target[done : done + len(view)] = view
        done += len(view)
    return view_of(lease)


def _number_type(dtype: Any) -> np.dtype[Any]:
    try:
        kind: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        msg = f"there is no dtype {dtype!r}"
        raise OptionError(msg, operation="generate") from error
    fits = kind.kind in "iub" or (kind.kind in "fc" and kind.itemsize // (1 + (kind.kind == "c")) in _ONE_TO_TWO)
    if not fits:
        msg = f"dtype must be of numbers (integers, float16 to float64, complex, bool), not {kind}"
        raise OptionError(msg, operation="generate")
    return kind


def _valid(random: Pattern, kind: np.dtype[Any]) -> Iterator[memoryview]:
    """Yield the random bytes as what are valid numbers of a kind."""
    for piece in random.pieces():
        if kind.kind in "iu":
            yield piece
        elif kind.kind == "b":
            yield bytes_of(np.frombuffer(piece, np.uint8) & 1)
        else:
            width = kind.itemsize // (1 + (kind.kind == "c"))
            one, bits = _ONE_TO_TWO[width]
            words = np.frombuffer(piece, f"<u{width}")
            made = words & words.dtype.type((1 << bits) - 1) | words.dtype.type(one)
            yield bytes_of(made.astype(kind.byteorder.replace("|", "=") + f"u{width}").view(np.uint8))
