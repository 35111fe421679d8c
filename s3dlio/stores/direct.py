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
from collections.abc import Iterator

import numpy as np

from s3dlio.buffers import MIB, POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.errors import ObjectChangedError
from s3dlio.stores.local import LocalStore
from s3dlio.uri import Uri

#: Covers the logical block size of every common device (512 or 4096 bytes).
ALIGNMENT = 4096
_BOUNCE_BYTES = MIB
_STEP_BYTES = 64 * MIB
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectStore(LocalStore):
    """The local file system without the page cache."""

    open_flags = LocalStore.open_flags | _O_DIRECT

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

    def _write(self, path: str, data: memoryview, token: CancellationToken) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _O_DIRECT
        with _explained():
            descriptor = os.open(path, flags, 0o666)
            try:
                _uncache(descriptor)
                self._write_blocks(descriptor, data, token)
                os.ftruncate(descriptor, len(data))  # the last block was padded
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _write_blocks(self, descriptor: int, data: memoryview, token: CancellationToken) -> None:
        aligned = len(data) > 0 and _address(data) % ALIGNMENT == 0
        bounce = bytes_of(POOL.take(_BOUNCE_BYTES))
        done = 0
        while done < len(data):
            token.check()
            whole = (len(data) - done) // ALIGNMENT * ALIGNMENT
            if whole and aligned and done % ALIGNMENT == 0:
                done += os.pwrite(descriptor, data[done : done + min(whole, _STEP_BYTES)], done)
                continue
            piece = data[done : done + _BOUNCE_BYTES]
            padded = -(-len(piece) // ALIGNMENT) * ALIGNMENT
            bounce[: len(piece)] = piece
            bounce[len(piece) : padded] = bytes(padded - len(piece))
            written = os.pwrite(descriptor, bounce[:padded], done)
            if written % ALIGNMENT:
                msg = "the device wrote part of a block"
                raise OSError(errno.EIO, msg)
            done += min(written, len(piece))


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
