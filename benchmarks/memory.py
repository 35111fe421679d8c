"""Memory to receive into: fresh, or touched already and used again.

For: the contenders whose caller brings the buffer. Must not know: who writes into it.
"""

from __future__ import annotations

import mmap
from functools import cache


def fresh(size: int) -> mmap.mmap:
    """Private memory in huge pages where the kernel grants them; no page is there yet."""
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@cache
def touched(size: int) -> mmap.mmap:
    """The same memory at every call, and every page of it is there."""
    memory = fresh(size)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return memory
