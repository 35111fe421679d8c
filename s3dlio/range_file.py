"""An object as a file that is open for reading: a place in it, and some of its bytes kept.

Floor 5. Decides what is read ahead and what is kept; must not know who reads, or which library's file it plays.

Small reads are served from blocks. A read behind the one before it brings more each time, as a kernel's
read-ahead does, and what follows is read in the background meanwhile, as much as was read in a row so far; a read that
jumps brings only its own block. What is large goes past all that, straight into the reader's memory.

Measured on reads of 1 MiB in a row from a server that is 20 ms late: 44 MiB/s when each waits for its own request.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from s3dlio.binary_file import BinaryFile
from s3dlio.buffers import KIB, MIB, BytesView, bytes_of, writable_bytes
from s3dlio.cancel import CancellationToken
from s3dlio.errors import ClosedError, OptionError, S3dlioError
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What a read that jumps brings at least. Half of it arrives within a round trip of a data centre.
BLOCK_BYTES: Final = 64 * KIB
#: Reads from here on that jump are not kept: whoever asks for so much seldom asks for it again ...
_LARGE_BYTES: Final = MIB
#: ... and longer ones also in a row, from servers that are late: they are read in parallel ranges, which need no read-ahead.
_LARGEST_IN_A_ROW_BYTES: Final = 16 * MIB
#: Most that a run of small reads brings at once: what one request of a store reads by default.
DEFAULT_READAHEAD_BYTES: Final = 8 * MIB
#: What is kept for jumps back, in multiples of the longest read-ahead ...
_KEPT_READS: Final = 4
#: ... and what is under way in the background, or waits to be read: at 20 ms enough for 1 GB/s.
_COMING_READS: Final = 4


class Source(Protocol):
    """What such a file reads, in ranges: a :class:`s3dlio.remote.RemoteObject`, or a :class:`Whole`."""

    uri: Uri

    @property
    def size(self) -> int:
        """Bytes of the whole object."""

    @property
    def is_late(self) -> bool:
        """Whether a read of a megabyte waits for its first byte rather than for the rest."""

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``start <= position < stop``."""

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill memory with the bytes from ``start`` on."""

    def read_later(self, start: int, stop: int, token: CancellationToken) -> Future[memoryview] | None:
        """Begin to read ``start <= position < stop`` in the background; ``None`` where that is of no use."""


class Whole:
    """An object that has been read.

    Args:
        uri: Its address.
        data: Its bytes; they are shared, not copied.
    """

    is_late = False

    def __init__(self, uri: Uri, data: BytesView) -> None:
        self.uri = uri
        self._memory = bytes_of(data)

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return len(self._memory)

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes ``start <= position < stop``, without a copy."""
        return self._memory[start:stop]

    def read_into(self, start: int, target: memoryview) -> None:
        """Copy bytes into memory."""
        target[:] = self._memory[start : start + len(target)]

    def read_later(self, _start: int, _stop: int, _token: CancellationToken) -> None:
        """Return ``None``: all is there."""


class _Coming(NamedTuple):
    """A run that is read in the background, and where it begins and ends."""

    start: int
    stop: int
    memory: Future[memoryview]


class _Run:
    """Bytes of the object that were read at once."""

    __slots__ = ("memory", "start")

    def __init__(self, start: int, memory: memoryview) -> None:
        self.start = start
        self.memory = memory

    @property
    def stop(self) -> int:
        """Behind its last byte."""
        return self.start + len(self.memory)

    def blocks(self) -> range:
        """Return the numbers of the blocks it holds."""
        return range(self.start // BLOCK_BYTES, -(-self.stop // BLOCK_BYTES))


class RangeFile(BinaryFile):
    """One version of one object as a binary file that is open for reading.

    Holds at most four times ``readahead_bytes`` of what was read, and as much of what follows while it is read in a row.
    It belongs to one thread at a time, and works in forked children.

    Args:
        source: The object.
        readahead_bytes: Most bytes that small reads in a row bring at once, at least 64 KiB; up to four times as much
            is on its way in the background.

    Raises:
        OptionError: ``readahead_bytes`` is too small.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://demo/lines", b"spam and eggs")
        >>> where = s3dlio.uri.parse("memory://demo/lines")
        >>> RangeFile(s3dlio.remote.RemoteObject(s3dlio.stores.open_store(where), where)).read(4)
        b'spam'
    """

    def __init__(self, source: Source, *, readahead_bytes: int = DEFAULT_READAHEAD_BYTES) -> None:
        if readahead_bytes < BLOCK_BYTES:
            msg = f"readahead_bytes must be at least {BLOCK_BYTES}, not {readahead_bytes}"
            raise OptionError(msg, uri=str(source.uri), operation="open")
        super().__init__()
        self._source = source
        self._most_ahead = readahead_bytes
        self._most_kept = _KEPT_READS * readahead_bytes
        self._position = 0
        self._ahead = BLOCK_BYTES
        self._expected = 0
        self._in_a_row = 0  # bytes that were read so until ``_expected``
        self._coming: deque[_Coming] = deque()  # one behind the other from ``_expected`` on
        self._token = CancellationToken()  # stops them
        self._home = os.getpid()  # where they are read
        self._kept_bytes = 0
        self._runs: OrderedDict[int, _Run] = OrderedDict()  # by their start, those used lately at the end
        self._blocks: dict[int, _Run] = {}

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self._source.size

    @property
    def uri(self) -> str:
        """The object's URI."""
        return str(self._source.uri)

    # -- a file ----------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Tell that it can be read."""
        return not self.closed

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return not self.closed

    def tell(self) -> int:
        """Return the place of the next read, in bytes from the beginning."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, which may lie behind the end; nothing is read yet.

        Returns:
            The place, in bytes from the beginning.

        Raises:
            OptionError: The place lies before the beginning, or ``whence`` is unknown.
        """
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        if whence not in bases or bases[whence] + offset < 0:
            msg = f"cannot seek to {offset} by whence={whence}"
            raise OptionError(msg, uri=self.uri, operation="seek")
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into existing memory, as much as it holds or the object still has.

        Returns:
            Bytes read; 0 at the end.

        Raises:
            ObjectChangedError: The object was replaced since it was opened.
            StoreError: It cannot be read.
        """
        self._check_open()
        target = writable_bytes(buffer)
        target = target[: max(0, self.size - self._position)]
        self._fill(self._position, target)
        self._position += len(target)
        return len(target)

    def readinto1(self, buffer: Buffer, /) -> int:
        """Do as :meth:`readinto` does."""
        return self.readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; ``-1`` or ``None`` reads to the end.

        Raises:
            StoreError: As :meth:`readinto`.
        """
        self._check_open()
        rest = max(0, self.size - self._position)
        count = rest if size is None or size < 0 else min(size, rest)
        run = self._blocks.get(self._position // BLOCK_BYTES)
        if run is not None and self._position + count <= run.stop:
            self._runs.move_to_end(run.start)
            start = self._position - run.start
            self._position += count
            return bytes(run.memory[start : start + count])
        memory = bytearray(count)
        self.readinto(memory)
        return bytes(memory)

    def read1(self, size: int = -1, /) -> bytes:
        """Read some bytes: at most ``size``, or what one block holds."""
        return self.read(BLOCK_BYTES if size < 0 else size)

    def peek(self, size: int = 1, /) -> bytes:
        """Return bytes from here on without moving: what is kept in one piece, at least one unless at the end."""
        self._check_open()
        if self._position >= self.size:
            return b""
        return bytes(self._kept(self._position, 1)[: max(size, io.DEFAULT_BUFFER_SIZE)])

    def close(self) -> None:
        """Let go of what is kept, and of what is being read."""
        self._stop_coming()
        self._runs.clear()
        self._blocks.clear()
        super().close()

    # -- what is kept ----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed:
            msg = "the file is closed"
            raise ClosedError(msg, uri=self.uri, operation="read")

    def _fill(self, start: int, target: memoryview) -> None:
        limit = _LARGEST_IN_A_ROW_BYTES if self._source.is_late and self._goes_on(start) else _LARGE_BYTES
        if len(target) >= limit:
            self._stop_coming()
            self._source.read_into(start, target)
            self._expected = start + len(target)
            self._in_a_row = 0
            return
        done = 0
        while done < len(target):
            piece = self._kept(start + done, len(target) - done)[: len(target) - done]
            target[done : done + len(piece)] = piece
            done += len(piece)

    def _goes_on(self, start: int) -> bool:
        """Tell whether a read from ``start`` on goes on where what was read last ended, or within that."""
        return start // BLOCK_BYTES in self._blocks or start == self._expected

    def _kept(self, start: int, wanted: int) -> memoryview:
        """Return the bytes from ``start`` on, at least one, as far as they lie in one piece."""
        run = self._blocks.get(start // BLOCK_BYTES)
        if run is None:
            run = self._load(start, wanted)
        else:
            self._runs.move_to_end(run.start)
        return run.memory[start - run.start :]

    def _load(self, start: int, wanted: int) -> _Run:
        first = start - start % BLOCK_BYTES
        if first <= self._expected <= start:
            self._ahead = min(2 * self._ahead, self._most_ahead)
        else:
            self._stop_coming()
            self._ahead, self._in_a_row = BLOCK_BYTES, 0
        memory = self._take_coming(first)
        if memory is None:
            stop = _whole_blocks(max(start + wanted, first + self._ahead))
            memory = self._source.read(first, min(stop, self.size))
        run = _Run(first, memory.toreadonly())
        self._expected = first + len(memory)
        self._see_to_more(len(memory))
        self._keep(run)
        return run

    def _see_to_more(self, count: int) -> None:
        """Have what follows ``count`` more bytes in a row read in the background, as much as were read in a row."""
        is_row = self._in_a_row > 0
        self._in_a_row += count
        if not is_row:
            return
        most = min(self._in_a_row, _COMING_READS * self._most_ahead)
        sent = self._coming[-1].stop if self._coming else self._expected
        while sent < self.size and sent - self._expected < most:
            stop = min(_whole_blocks(sent + self._ahead), self.size)
            memory = self._source.read_later(sent, stop, self._token)
            if memory is None:
                return
            self._coming.append(_Coming(sent, stop, memory))
            sent = stop

    def _take_coming(self, start: int) -> memoryview | None:
        """Return the bytes from ``start`` on that were read in the background, if they were and there was no trouble."""
        if os.getpid() != self._home:  # a forked child has none of its parent's threads
            self._stop_coming()
            self._home = os.getpid()
        if self._coming and self._coming[0].start == start:
            try:
                return self._coming.popleft().memory.result()
            except S3dlioError:  # it is read once more: if the failure was its own it is raised then
                pass
        self._stop_coming()
        return None

    def _stop_coming(self) -> None:
        if self._coming:
            self._coming.clear()
            self._token.cancel()
            self._token = CancellationToken()

    def _keep(self, run: _Run) -> None:
        replaced = self._runs.pop(run.start, None)
        self._kept_bytes -= len(replaced.memory) if replaced else 0
        self._runs[run.start] = run
        self._blocks.update(dict.fromkeys(run.blocks(), run))
        self._kept_bytes += len(run.memory)
        while self._kept_bytes > self._most_kept and len(self._runs) > 1:
            _, old = self._runs.popitem(last=False)
            self._kept_bytes -= len(old.memory)
            for block in old.blocks():
                if self._blocks.get(block) is old:
                    del self._blocks[block]


def _whole_blocks(stop: int) -> int:
    """Return the end of the block in which ``stop`` lies, if that is not its end already."""
    return -(-stop // BLOCK_BYTES) * BLOCK_BYTES
