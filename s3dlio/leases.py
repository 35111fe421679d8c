"""One use of a block of memory, as an array that gives the block back when it dies.

Floor 0. Knows NumPy; must not know where blocks come from (:mod:`s3dlio.memory`).
"""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np

#: The type of a byte.
U1 = np.dtype(np.uint8)


class Home(Protocol):
    """Where a block goes when nobody uses it."""

    def give_back(self, block: memoryview) -> None:
        """Take a block back. Called at any moment, in any thread: it must neither lock nor raise."""


@final
class Lease(np.ndarray[Any, Any]):
    """One use of a block: a writable uint8 array that returns its block when nothing refers to it.

    Arrays, memoryviews and tensors made from it keep it alive, so the block cannot be used again
    while anything can still see the bytes.
    """

    __slots__ = ("block", "shelf")
    block: memoryview
    shelf: Home

    def __del__(self) -> None:
        """Return the block. Runs at any moment, in any thread: it must neither lock nor raise."""
        block = getattr(self, "block", None)
        if block is not None:
            self.shelf.give_back(block)
