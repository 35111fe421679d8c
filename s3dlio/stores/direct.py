"""``direct://``: local files past the page cache (``O_DIRECT``).

Floor 2. Knows alignment; everything else is :mod:`s3dlio.stores.local`. The kernel then moves bytes
between the device and the caller's memory itself, which asks that file offset, length and memory
address be multiples of the block size. What is not (an odd start, the tail, somebody's array) goes
through an aligned bounce buffer. A file system that refuses ``O_DIRECT`` is an error, not a detour.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

import numpy as np

from s3dlio.cancel import CancellationToken
from s3dlio.errors import ObjectChangedError
from s3dlio.memory import MIB, POOL, bytes_of
from s3dlio.stores.base import Version
from s3dlio.stores.draft import Draft
from s3dlio.stores.local import LocalStore
from s3dlio.stores.upload import Limits
from s3dlio.uri import Uri

#: Covers the logical block size of every common device (512 or 4096 bytes).
ALIGNMENT = 4096
_BOUNCE_BYTES = MIB
_STEP_BYTES = 64 * MIB
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class _DirectDraft(Draft):
    """A file that is written past the page cache."""

    flags = Draft.flags | _O_DIRECT

    def _open(self, path: str) -> int:
        with _explained():
            descriptor = super()._open(path)
        _uncache(descriptor)
        return descriptor

    def write(self, start: int, pieces: Sequence[memoryview], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.draft.Draft.write`. Starts on a block, and pads the last one with zeros."""
        if start % ALIGNMENT:
            msg = f"a stretch begins at byte {start}, which no block does"
            raise OSError(errno.EINVAL, msg)
        with _explained():
            bounce = bytes_of(POOL.take(_BOUNCE_BYTES))
            held = 0  # bytes in the bounce buffer
            for piece in pieces:
                done = 0
                while done < len(piece):
                    token.check()
                    if not held and (count := self._write_blocks(start, piece[done:])):
                        start, done = start + count, done + count
                        continue
                    count = min(len(piece) - done, len(bounce) - held)
                    bounce[held : held + count] = piece[done : done + count]
                    held, done = held + count, done + count
                    if held == len(bounce):
                        start, held = start + self._write_bounced(start, bounce), 0
            if held:
                padded = -(-held // ALIGNMENT) * ALIGNMENT
                bounce[held:padded] = bytes(padded - held)
                self._write_bounced(start, bounce[:padded])

    def _write_blocks(self, start: int, piece: memoryview) -> int:
        """Write whole blocks from the caller's memory, if that begins as blocks must; return how many bytes."""
        whole = len(piece) // ALIGNMENT * ALIGNMENT
        if not whole or _address(piece) % ALIGNMENT:
            return 0
        return _whole_blocks(os.pwrite(self._descriptor, piece[: min(whole, _STEP_BYTES)], start))

    def _write_bounced(self, start: int, blocks: memoryview) -> int:
        done = 0
        while done < len(blocks):
            done += _whole_blocks(os.pwrite(self._descriptor, blocks[done:], start + done))
        return done

    def _settle(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)  # the last block was padded


class DirectStore(LocalStore):
    """The local file system without the page cache."""

    open_flags = LocalStore.open_flags | _O_DIRECT
    draft = _DirectDraft
    limits = Limits(multiple=ALIGNMENT, free=True)

    def copy(self, _source: Uri, _target: Uri, _version: Version, _token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`: not by the kernel, which would copy through the page cache."""
        return False

    @contextlib.contextmanager
    def _open(self, uri: Uri) -> Iterator[int]:
        with _explained(), super()._open(uri) as descriptor:
            _uncache(descriptor)
            yield descriptor

    def _fill(self, uri: Uri, descriptor: int, start: int, target: memoryview, token: CancellationToken) -> None:
        done = 0
        address = _address(target)
        bounce = bytes_of(POOL.take(_BOUNCE_BYTES))
        while done < len(target):
            token.check()
            position = start + done
            whole = (len(target) - done) // ALIGNMENT * ALIGNMENT
            if whole and position % ALIGNMENT == 0 and (address + done) % ALIGNMENT == 0:
                count = os.preadv(descriptor, [target[done : done + min(whole, _STEP_BYTES)]], position)
            else:
                count = _through(bounce, descriptor, position, target[done:])
            if not count:
                msg = f"the file ended at byte {position}: it is shorter than it was"
                raise ObjectChangedError(msg, uri=str(uri), operation="get")
            done += count


def _whole_blocks(written: int) -> int:
    if written % ALIGNMENT:
        msg = "the device wrote part of a block"
        raise OSError(errno.EIO, msg)
    return written


def _through(bounce: memoryview, descriptor: int, position: int, target: memoryview) -> int:
    """Read the aligned blocks around ``position`` and copy what belongs to ``target``."""
    skipped = position % ALIGNMENT
    wanted = min(len(bounce), -(-(skipped + len(target)) // ALIGNMENT) * ALIGNMENT)
    count = os.preadv(descriptor, [bounce[:wanted]], position - skipped) - skipped
    count = max(0, min(count, len(target)))
    target[:count] = bounce[skipped : skipped + count]
    return count


def _address(view: memoryview) -> int:
    if not len(view):
        return 0
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address


def _uncache(descriptor: int) -> None:
    if not _O_DIRECT:  # macOS has a switch on the open file instead
        import fcntl  # noqa: PLC0415

        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)  # type: ignore[attr-defined,unused-ignore]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what ``EINVAL`` means here; some file systems refuse at the opening, some at the first block."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        msg = "the file system refuses O_DIRECT; use file:// here"
        raise OSError(errno.EINVAL, msg) from error
