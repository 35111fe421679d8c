"""What a read is told where its bytes go, and what it tells of them.

Floor 2. Values alone: the seam of the stores speaks of them, also of stores that need no wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from s3dlio.leases import Lease

#: Gets the total size of an object and returns the memory for the first bytes that were asked for.
Place = Callable[[int], memoryview]
#: Told the number of an object and the memory that holds it.
Landed = Callable[[int, "Lease"], None]


class Version(NamedTuple):
    """Which content of an object was read: its size in bytes and its entity tag (may be empty)."""

    size: int
    etag: str
