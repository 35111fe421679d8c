"""A stream of bytes that becomes an object while it is written.

Floor 3. Gathers bytes into parts, in memory of the library's own that whoever writes may also fill himself;
must not know what they are, nor how parts travel (:mod:`s3dlio.sender`).
"""

from __future__ import annotations

import contextlib
import os
import weakref

import numpy as np

from s3dlio.buffers import POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.errors import ClosedError, ForkError, OptionError, S3dlioError
from s3dlio.sender import Sender, Sent
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import Uri

#: Copies of at least so many bytes let go of the interpreter lock; for fewer that costs more than the copy.
_LARGE_COPY_BYTES = 64 * 1024


class Outflow:
    """Bytes in, an object out. Belongs to one thread at a time, and to the process that made it.

    Args:
        store: Where to.
        uri: The object.
        options: How it is written.
        part_bytes: Bytes of each part but the last.
        width: Most parts under way at once; so much memory, and one part more, is in use.
        parent: Cancelling it stops the upload.
        abort_on_drop: Abort an upload that is let go without being closed, also when the interpreter ends.
    """

    def __init__(  # noqa: PLR0913 - what an upload needs
        self,
        store: Store,
        uri: Uri,
        options: PutOptions,
        *,
        part_bytes: int,
        width: int,
        parent: CancellationToken,
        abort_on_drop: bool = True,
    ) -> None:
        self.uri = uri
        self._store = store
        self._sender = Sender(store, uri, options, part_bytes=part_bytes, width=width, parent=parent)
        self._part_bytes = part_bytes
        self._process = os.getpid()
        self._pieces: list[memoryview] = []  # of the part that is being gathered
        self._gathered = 0  # bytes in them, and in the first bytes of the room
        self._room = memoryview(b"")  # memory that is being filled
        self._used = 0  # bytes of it
        self._reserved: memoryview | None = None
        self._own: memoryview | None = None  # what is reserved, when it is not in the room
        self._state = "open"
        self._finalizer = weakref.finalize(self, _drop, self._sender, self._process) if abort_on_drop else None

    @property
    def bytes_written(self) -> int:
        """Bytes that were written so far."""
        return self._sender.length + self._gathered

    # -- writing ----------------------------------------------------------------------------------

    def write(self, data: memoryview) -> int:
        """Copy bytes; they are the caller's again when this returns.

        Raises:
            ClosedError: It is closed, or memory is reserved and not committed.
            BaseException: What an earlier part failed with.
        """
        self.check_open()
        if self._reserved is not None:
            msg = "memory is reserved: commit it before the next write"
            raise ClosedError(msg, uri=str(self.uri), operation="write")
        done = 0
        while done < len(data):
            self._send_if_full()
            if self._used == len(self._room):
                self._take_room(self._part_bytes - self._gathered)
            count = min(len(data) - done, len(self._room) - self._used)
            _copy(self._room[self._used : self._used + count], data[done : done + count])
            done += count
            self._advance(count)
        return done

    def reserve(self, length: int) -> memoryview:
        """Return memory to be filled, and then committed.

        Args:
            length: Bytes; may be more than a part.

        Raises:
            ClosedError: It is closed, or other memory is reserved.
            OptionError: ``length`` is negative.
        """
        self.check_open()
        if self._reserved is not None:
            msg = "memory is reserved already: commit it first (0 gives it back)"
            raise ClosedError(msg, uri=str(self.uri), operation="reserve")
        if length < 0:
            msg = f"cannot reserve {length} bytes"
            raise OptionError(msg, uri=str(self.uri), operation="reserve")
        if length:
            self._send_if_full()
        left = self._part_bytes - self._gathered
        if length > left:
            self._own = bytes_of(POOL.take(length))
            self._reserved = self._own[:]
            return self._reserved
        if length > len(self._room) - self._used:
            self._take_room(left)
        self._reserved = self._room[self._used : self._used + length]
        return self._reserved

    def commit(self, length: int) -> int:
        """Take the first bytes of what was reserved as written, without a copy.

        The reserved view is released: using it afterwards raises ``ValueError``. (Not an array made of it:
        nobody can take that away.)

        Raises:
            ClosedError: Nothing is reserved.
            OptionError: ``length`` is more than was reserved.
        """
        self.check_open()
        view = self._reserved
        if view is None:
            msg = "nothing is reserved"
            raise ClosedError(msg, uri=str(self.uri), operation="commit")
        if not 0 <= length <= len(view):
            msg = f"{len(view)} bytes were reserved, {length} cannot be committed"
            raise OptionError(msg, uri=str(self.uri), operation="commit")
        own, self._own, self._reserved = self._own, None, None
        with contextlib.suppress(BufferError):  # somebody has made an array of it
            view.release()
        if own is None:
            self._advance(length)
        else:
            self._take_over(own[:length])
        return length

    def _take_over(self, memory: memoryview) -> None:
        """Make pieces of the caller's own, filled memory."""
        self._close_room()
        done = 0
        while done < len(memory):
            self._send_if_full()
            count = min(len(memory) - done, self._part_bytes - self._gathered)
            self._pieces.append(memory[done : done + count])
            self._gathered += count
            done += count

    def _take_room(self, length: int) -> None:
        self._close_room()
        self._room = bytes_of(POOL.take(length))

    def _close_room(self) -> None:
        """Make a piece of what was filled of the room, and leave the rest of it."""
        if self._used:
            self._pieces.append(self._room[: self._used])
        self._room = memoryview(b"")
        self._used = 0

    def _advance(self, count: int) -> None:
        self._used += count
        self._gathered += count

    def _send_if_full(self) -> None:
        """Send a whole part, once there is more to come: an object of just one part takes a single request."""
        if self._gathered == self._part_bytes:
            pieces, length = self._take_part()
            self._sender.send(pieces, length)

    def _take_part(self) -> tuple[list[memoryview], int]:
        self._close_room()
        pieces, self._pieces = self._pieces, []
        length, self._gathered = self._gathered, 0
        return pieces, length

    # -- the end ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until all whole parts have arrived; what does not fill a part stays here.

        Raises:
            BaseException: What a part failed with.
        """
        self.check_open()
        if self._reserved is None:
            self._send_if_full()
        self._sender.wait()

    def close(self) -> Sent:
        """Send the rest, make the object, and see that it is whole.

        Raises:
            ClosedError: It is closed, or memory is reserved and not committed.
            BaseException: The object could not be made; nothing of it is left.
        """
        self.check_open()
        if self._reserved is not None:
            msg = "memory is reserved and not committed"
            raise ClosedError(msg, uri=str(self.uri), operation="close")
        self._state = "closed"
        self._dismiss()
        pieces, length = self._take_part()
        self._store.sizes.forget(self.uri)
        return self._sender.finish(pieces, length)

    def abort(self) -> None:
        """Throw away what was written. Once is enough; after :meth:`close` this does nothing.

        Raises:
            StoreError: What had arrived at the server could not be thrown away.
        """
        if self._state != "open" or self._process != os.getpid():
            return
        self._state = "aborted"
        self._dismiss()
        self._pieces, self._room, self._reserved, self._own = [], memoryview(b""), None, None
        self._sender.abort()

    def abort_because(self, error: BaseException | None) -> None:
        """Abort, for the sake of an error that is on its way; should that fail too, the error says so."""
        try:
            self.abort()
        except S3dlioError as second:
            if error is not None:
                error.add_note(f"What was written could not be thrown away: {second}")

    def _dismiss(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()

    def check_open(self) -> None:
        """See that it can be written to.

        Raises:
            ForkError: It was made in another process.
            ClosedError: It is closed or aborted.
        """
        if self._process != os.getpid():
            msg = "this writer belongs to the process that made it; make one here"
            raise ForkError(msg, uri=str(self.uri), operation="write")
        if self._state != "open":
            msg = f"the writer is {self._state}"
            raise ClosedError(msg, uri=str(self.uri), operation="write")


def _drop(sender: Sender, process: int) -> None:
    """Abort the upload of a stream that was let go; in a forked child it is the parent's."""
    if process == os.getpid():
        with contextlib.suppress(S3dlioError):  # there is nobody to tell
            sender.abort()


def _copy(target: memoryview, data: memoryview) -> None:
    if len(data) < _LARGE_COPY_BYTES:
        target[:] = data
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data, np.uint8))
