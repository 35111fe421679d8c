"""``direct://``: local files past the page cache (``O_DIRECT``).

Floor 2. Knows alignment; how such files are written is :mod:`s3dlio.stores.uncached`, everything else
:mod:`s3dlio.stores.local`. What is not aligned (an odd start, the tail, somebody's array) is read
through an aligned bounce buffer. A file system that refuses ``O_DIRECT`` is an error, not a detour.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from s3dlio.cancel import CancellationToken
from s3dlio.errors import ObjectChangedError
from s3dlio.memory import POOL, bytes_of
from s3dlio.stores.base import Version
from s3dlio.stores.local import LocalStore
from s3dlio.stores.uncached import (
    ALIGNMENT,
    BOUNCE_BYTES,
    O_DIRECT,
    STEP_BYTES,
    DirectDraft,
    address_of,
    explained,
    uncache,
)
from s3dlio.stores.upload import Limits
from s3dlio.uri import Uri


class DirectStore(LocalStore):
    """The local file system without the page cache."""

    open_flags = LocalStore.open_flags | O_DIRECT
    draft = DirectDraft
    limits = Limits(multiple=ALIGNMENT, free=True)

    def copy(self, _source: Uri, _target: Uri, _version: Version, _token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`: not by the kernel, which would copy through the page cache."""
        return False

    @contextlib.contextmanager
    def _open(self, uri: Uri) -> Iterator[int]:
        with explained(), super()._open(uri) as descriptor:
            uncache(descriptor)
            yield descriptor

    def _fill(self, uri: Uri, descriptor: int, start: int, target: memoryview, token: CancellationToken) -> None:
        done = 0
        address = address_of(target)
        bounce = bytes_of(POOL.take(BOUNCE_BYTES))
        while done < len(target):
            token.check()
            position = start + done
            whole = (len(target) - done) // ALIGNMENT * ALIGNMENT
            if whole and position % ALIGNMENT == 0 and (address + done) % ALIGNMENT == 0:
                count = os.preadv(descriptor, [target[done : done + min(whole, STEP_BYTES)]], position)
            else:
                count = _through(bounce, descriptor, position, target[done:])
            if not count:
                msg = f"the file ended at byte {position}: it is shorter than it was"
                raise ObjectChangedError(msg, uri=str(uri), operation="get")
            done += count


def _through(bounce: memoryview, descriptor: int, position: int, target: memoryview) -> int:
    """Read the aligned blocks around ``position`` and copy what belongs to ``target``."""
    skipped = position % ALIGNMENT
    wanted = min(len(bounce), -(-(skipped + len(target)) // ALIGNMENT) * ALIGNMENT)
    count = os.preadv(descriptor, [bounce[:wanted]], position - skipped) - skipped
    count = max(0, min(count, len(target)))
    target[:count] = bounce[skipped : skipped + count]
    return count
