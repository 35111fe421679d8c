"""A stream of bytes that becomes an object while it is written.

Floor 3. Gathers bytes into parts, in memory of the library's own that whoever writes may also fill himself;
must not know what they are, nor how parts travel (:mod:`s3dlio.sender`).
"""

from __future__ import annotations

import abc
import contextlib
import os
import weakref
from types import TracebackType
from typing import Self

from s3dlio.bounds import whole
from s3dlio.cancel import CancellationToken
from s3dlio.checksums import crc32c_onward
from s3dlio.crew import CREW
from s3dlio.errors import ClosedError, ForkError, OptionError, S3dlioError
from s3dlio.memory import KIB, MIB, POOL
from s3dlio.sender import NOT_SUMMED, Sender, Sent
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import Uri

#: Copies of at least so many bytes let go of the interpreter lock; for fewer that costs more than the copy.
_LARGE_COPY_BYTES = 64 * KIB
#: They are summed as they are copied, so many bytes at a time, which are then still in the processor's cache: 16 MiB
#: are copied in 0.86 ms, then summed in 0.67; both at once take 0.94 (by 64 KiB or 1 MiB: 1.2 and 1.4).
_STEP_BYTES = 256 * KIB
#: ``bytes``, which nobody can change, are not copied from this size on but kept until they are sent. (Each piece
#: is a call to the socket of its own, so that smaller ones gain nothing.)
_BORROWED_BYTES = MIB


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
        self._summed = NOT_SUMMED  # how many of those are summed already, and their CRC-32C
        self._room = memoryview(bytearray())  # memory that is being filled
        self._used = 0  # bytes of it
        self._reserved: memoryview | None = None
        self._own: memoryview | None = None  # what is reserved, when it is not in the room
        self._state = "open"
        self._finalizer = (
            weakref.finalize(self, _drop, weakref.ref(self), self._sender, self._process) if abort_on_drop else None
        )

    @property
    def bytes_written(self) -> int:
        """Bytes that were written so far."""
        return self._sender.length + self._gathered

    # -- writing ----------------------------------------------------------------------------------

    def write(self, data: memoryview) -> int:
        """Take bytes; their memory is the caller's again when this returns.

        They are copied, but for large ``bytes``, which cannot change.

        Raises:
            ClosedError: It is closed, or memory is reserved and not committed.
            BaseException: What an earlier part failed with.
        """
        self.check_open()
        if self._reserved is not None:
            msg = "memory is reserved: commit it before the next write"
            raise ClosedError(msg, uri=str(self.uri), operation="write")
        owner = data.obj
        if len(data) >= _BORROWED_BYTES and type(owner) is bytes and 2 * len(data) >= len(owner):
            self._take_over(data)  # nobody can change it
            return len(data)
        return self._gather(data)

    def _gather(self, data: memoryview) -> int:
        done = 0
        while done < len(data):
            self._send_if_full()
            if self._used == len(self._room):
                self._take_room(self._part_bytes - self._gathered)
            count = min(len(data) - done, len(self._room) - self._used, self._part_bytes - self._gathered)
            self._copy_in(self._room[self._used : self._used + count], data[done : done + count])
            done += count
            self._advance(count)
        return done

    def _copy_in(self, target: memoryview, data: memoryview) -> None:
        summed, crc = self._summed
        if len(data) < _LARGE_COPY_BYTES or summed != self._gathered:
            _copy(target, data)
        else:
            self._summed = summed + len(data), _copy_and_sum(target, data, crc)

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
        length = whole("length", length)
        if length < 0:
            msg = f"cannot reserve {length} bytes"
            raise OptionError(msg, uri=str(self.uri), operation="reserve")
        if length:
            self._send_if_full()
        left = self._part_bytes - self._gathered
        if length > left:
            self._own = POOL.take_bytes(length)
            self._reserved = self._own[:]
            return self._reserved
        if length > len(self._room) - self._used:
            self._take_room(left)
        self._reserved = self._room[self._used : self._used + length]
        return self._reserved

    def commit(self, length: int) -> int:
        """Take the first bytes of what was reserved as written, without a copy.

        (Only of a reservation larger than what a part lacks, of which less than half is taken, these bytes are
        copied: else they would keep all its memory.) The reserved view is released: using it afterwards raises
        ``ValueError``. (Not an array made of it: nobody can take that away.)

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
        elif 2 * length < len(own):  # so many small pieces do not each hold a large memory
            self._gather(own[:length])
        else:
            self._take_over(own[:length])
        return length

    def _take_over(self, memory: memoryview) -> None:
        """Make pieces of memory that is filled already."""
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
        self._room = POOL.take_bytes(length)

    def _close_room(self) -> None:
        """Make a piece of what was filled of the room; the rest of it stays."""
        if self._used:
            self._pieces.append(self._room[: self._used])
            self._room = self._room[self._used :]
            self._used = 0

    def _advance(self, count: int) -> None:
        self._used += count
        self._gathered += count

    def _send_if_full(self) -> None:
        """Send a whole part, once there is more to come: an object of just one part takes a single request."""
        if self._gathered == self._part_bytes:
            pieces, length, summed = self._take_part()
            self._sender.send(pieces, length, summed=summed)

    def _take_part(self) -> tuple[list[memoryview], int, tuple[int, int]]:
        self._close_room()
        pieces, self._pieces = self._pieces, []
        length, self._gathered = self._gathered, 0
        summed, self._summed = self._summed, NOT_SUMMED
        return pieces, length, summed

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
        part = self._take_part()
        self._store.sizes.forget(self.uri)
        sent = self._sender.finish(*part)
        self._dismiss()
        return sent

    def abort(self) -> None:
        """Throw away what was written. Once is enough; after :meth:`close` this does nothing.

        Raises:
            StoreError: What had arrived at the server could not be thrown away.
        """
        if self._state != "open" or self._process != os.getpid():
            return
        self._state = "aborted"
        self._dismiss()
        self._pieces, self._room, self._reserved, self._own = [], memoryview(bytearray()), None, None
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
            BaseException: What a part has failed with; nothing of the object is left.
        """
        if self._process != os.getpid():
            msg = "this writer belongs to the process that made it; make one here"
            raise ForkError(msg, uri=str(self.uri), operation="write")
        if self._state != "open":
            msg = f"the writer is {self._state}"
            raise ClosedError(msg, uri=str(self.uri), operation="write")
        self._sender.check()


def _drop(outflow: weakref.ref[Outflow], sender: Sender, process: int) -> None:
    """Abort the upload of a stream that was let go; in a forked child it is the parent's."""

    def abort() -> None:
        with contextlib.suppress(S3dlioError):  # there is nobody to tell
            sender.abort()

    if process != os.getpid():
        return
    if outflow() is not None:  # it is still there: the interpreter ends
        abort()
    else:  # garbage is collected in any thread, also in one that carries a part of this very stream
        CREW.get().start(abort)


def _copy(target: memoryview, data: memoryview) -> None:
    if len(data) < _LARGE_COPY_BYTES:
        target[:] = data
    else:
        import numpy as np  # noqa: PLC0415 - 0.1 s, which an object of a few bytes need not wait for

        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data, np.uint8))


def _copy_and_sum(target: memoryview, data: memoryview, crc: int) -> int:
    if len(data) < _LARGE_COPY_BYTES:
        target[:] = data
        return crc32c_onward()(target, crc)
    import numpy as np  # noqa: PLC0415 - as above

    to, of = np.frombuffer(target, np.uint8), np.frombuffer(data, np.uint8)
    onward = crc32c_onward()
    for start in range(0, len(data), _STEP_BYTES):
        stop = start + _STEP_BYTES
        np.copyto(to[start:stop], of[start:stop])
        crc = onward(target[start:stop], crc)
    return crc


class WritingBlock(abc.ABC):
    """What a writer is as a ``with`` block: its object is made at the block's end, and not at all if that raises."""

    _outflow: Outflow

    @abc.abstractmethod
    def _end(self) -> object:
        """Make the object."""

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the object, or throw away what was written when the block raises."""
        if kind is None:
            self._end()
        else:
            self._outflow.abort_because(error)
