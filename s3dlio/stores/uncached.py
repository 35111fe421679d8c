"""Files written past the page cache (``O_DIRECT``).

Floor 2. Knows alignment. The kernel then moves bytes between the device and the caller's memory itself, which asks
that a write's offset and length be multiples of the block size, and its memory's address too, as far as the device
says (disks: the block; NVMe: four bytes; memory: nothing). What is not so goes through an aligned bounce buffer.
:class:`DirectDraft` insists on it, :class:`BulkDraft` goes on through the cache where a file system refuses.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence

from s3dlio.cancel import CancellationToken
from s3dlio.memory import MIB, POOL, bytes_of
from s3dlio.stores.draft import Draft

#: Covers the logical block size of every common device (512 or 4096 bytes).
ALIGNMENT = 4096
BOUNCE_BYTES = MIB
#: One call moves at most this much, so that cancelled work on a huge file ends soon.
STEP_BYTES = 64 * MIB
O_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectDraft(Draft):
    """A file that is written past the page cache, or not at all."""

    flags = Draft.flags | O_DIRECT
    #: Memory must begin at a multiple of this, as far as is known; it is tried, since no call of Python's tells it.
    _asked = 1

    def _open(self, path: str) -> int:
        with explained():
            try:
                descriptor = super()._open(path)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)  # some kernels make the file before they refuse
                raise
        uncache(descriptor)
        return descriptor

    def write(self, start: int, pieces: Sequence[memoryview], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.draft.Draft.write`. Starts on a block, and pads the last one with zeros."""
        if start % ALIGNMENT:
            msg = f"a stretch begins at byte {start}, which no block does"
            raise OSError(errno.EINVAL, msg)
        with explained():
            bounce = bytes_of(POOL.take(BOUNCE_BYTES))
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
        """Write whole blocks from the caller's memory, if the device takes it as it lies; return how many bytes."""
        blocks = piece[: min(len(piece) // ALIGNMENT * ALIGNMENT, STEP_BYTES)]
        alignment = _alignment_of(blocks)
        if not blocks or alignment < self._asked:
            return 0
        if alignment == ALIGNMENT:
            return self._pwrite(blocks, start)
        try:
            return self._whole(os.pwrite(self._descriptor, blocks, start))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._asked = 2 * alignment
            return 0

    def _write_bounced(self, start: int, blocks: memoryview) -> int:
        done = 0
        while done < len(blocks):
            done += self._pwrite(blocks[done:], start + done)
        return done

    def _pwrite(self, blocks: memoryview, start: int) -> int:
        """Write some of what lies and goes as every device takes it; return how much."""
        return self._whole(os.pwrite(self._descriptor, blocks, start))

    def _whole(self, written: int) -> int:
        if written % ALIGNMENT:
            msg = "the device wrote part of a block"
            raise OSError(errno.EIO, msg)
        return written

    def _settle(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)  # the last block was padded


class BulkDraft(DirectDraft):
    """A file that nobody reads soon: written past the page cache where that is possible, and through it elsewhere."""

    def _open(self, path: str) -> int:
        try:
            return super()._open(path)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.open(path, Draft.flags, 0o666)

    def _pwrite(self, blocks: memoryview, start: int) -> int:
        try:
            return super()._pwrite(blocks, start)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._leave_direct():
                raise
        return super()._pwrite(blocks, start)

    def _whole(self, written: int) -> int:
        if written % ALIGNMENT:
            self._leave_direct()  # what follows begins within a block, and tells what hindered this
        return written

    def _leave_direct(self) -> bool:
        """Write through the cache from now on; ``False`` if that is so already."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~O_DIRECT)
        return bool(flags & O_DIRECT)


def address_of(view: memoryview) -> int:
    """Return where memory begins."""
    if not len(view):
        return 0
    import numpy as np  # noqa: PLC0415

    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address


def _alignment_of(view: memoryview) -> int:
    """Return the power of two, blocks at most, at a multiple of which memory begins."""
    address = address_of(view) | ALIGNMENT
    return address & -address


def uncache(descriptor: int) -> None:
    """Switch the page cache off where that is done on an open file: on macOS."""
    if not O_DIRECT:
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)  # type: ignore[attr-defined,unused-ignore]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say what ``EINVAL`` means here; some file systems refuse at the opening, some at the first block."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        msg = "the file system refuses O_DIRECT; use file:// here"
        raise OSError(errno.EINVAL, msg) from error
