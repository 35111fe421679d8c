"""The original's further names for made-up data: a generator that fills buffers, and its numbers of threads.

Floor 6. Knows the original's signatures; the bytes are :mod:`s3dlio.synthetic`'s.
"""

from __future__ import annotations

import os

from s3dlio.buffers import MIB, writable_bytes
from s3dlio.cancel import CancellationToken
from s3dlio.compat.dlio import check_count
from s3dlio.context import current_token
from s3dlio.crew import map_all
from s3dlio.synthetic import Pattern, Recipe

#: Bytes that the original recommends to fill at once.
_CHUNK_BYTES = 32 * MIB


class Generator:
    """Made-up bytes, one buffer after the other. It belongs to one thread.

    Args:
        size: How many bytes in all.
        dedup: As ``dedup_factor`` of :func:`s3dlio.generate_data`.
        compress: As ``compress_factor`` of :func:`s3dlio.generate_data`.
        threads: How many fill a buffer; one for each core if not given.
        chunk_size: Told back as :attr:`chunk_size`; buffers may have any size.
        seed: The same seed makes the same bytes.

    Raises:
        OptionError: A number is out of its range.

    Example:
        >>> generator, buffer = Generator(size=100), bytearray(64)
        >>> generator.fill_chunk(buffer), generator.fill_chunk(buffer), generator.fill_chunk(buffer)
        (64, 36, 0)
    """

    def __init__(
        self,
        size: int,
        dedup: float = 1,
        compress: float = 1,
        threads: int | None = None,
        chunk_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_count("threads", threads)
        check_count("chunk_size", chunk_size)
        self._pattern = Pattern(Recipe(size=size, dedup_factor=dedup, compress_factor=compress, seed=seed))
        self._threads = threads or py_total_cpus()
        self._done = 0
        self.chunk_size = chunk_size or _CHUNK_BYTES

    def fill_chunk(self, buffer: object) -> int:
        """Fill a buffer with the bytes that follow; return how many these are: 0 when there are no more.

        Raises:
            OptionError: The buffer is read-only or not contiguous.
        """
        whole = writable_bytes(buffer)
        target, begin = whole[: self._pattern.size - self._done], self._done

        def fill(start: int, token: CancellationToken) -> None:
            token.check()
            self._pattern.fill(target[start : start + MIB], begin + start)

        map_all(fill, range(0, len(target), MIB), self._threads, current_token())
        self._done += len(target)
        return len(target)

    def is_complete(self) -> bool:
        """Tell whether all bytes were made."""
        return self._done == self._pattern.size

    def reset(self) -> None:
        """Begin anew, with the same bytes."""
        self._done = 0


def py_total_cpus() -> int:
    """Return how many cores there are."""
    return os.cpu_count() or 1


def py_default_data_gen_threads() -> int:
    """Return how many threads make bytes up when nothing is said: one for each core."""
    return py_total_cpus()
