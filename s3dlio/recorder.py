"""The operation log's pen: one line for each operation, in a file.

Floor 1. Knows time, threads, processes and how the lines look; must not know what an operation is, nor HTTP.
``recorder.active`` is ``None`` while there is no log: asking that is all that it costs then.

The lines are those of MinIO's warp: tab-separated, a header first, times in UTC with nanoseconds. They are taken
as tuples and written by a thread of their own. Nothing is lost: who is faster than the disk waits, what is left is
written when the log is finished or the interpreter ends, and every half second it reaches the file. A forked child
writes a file of its own, the same path with ``.PID`` behind it, from its first operation on; when multiprocessing ends
it, or ``sys.exit``, it is finished as well. What is killed, or ends by ``os._exit``, lacks the last half second.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from s3dlio.errors import OptionError, StoreError
from s3dlio.uri import Uri

_log = logging.getLogger("s3dlio")

COLUMNS = (
    "idx", "thread", "op", "client_id", "n_objects", "bytes", "endpoint", "file", "error", "start", "first_byte",
    "end", "duration_ns",
)  # fmt: skip
_NS = 1_000_000_000
_EVERY_S = 0.5
#: So many lines wake the thread that writes them; with so many waiting, who brings another waits as well.
_WAKE_LINES = 4096
_MOST_LINES = 65_536
_EXIT_WAIT_S = 10.0
#: warp reads the thread's number as sixteen bits.
_MOST_THREADS = 1 << 16
_TO_QUOTE = re.compile(r'[\t\n\r"]')
#: Numbers that are kept of a get.
_NOTED = 5

now = time.perf_counter_ns

_OPS = {"get": "GET", "put": "PUT", "stat": "STAT", "delete": "DELETE", "list": "LIST", "copy": "COPY"}
#: Operations that carry bytes of objects to the store.
SENDING = frozenset({"PUT", "PUTPART"})


def op_name(operation: str, method: str = "") -> str:
    """Return what the log calls a verb of the library; looking is ``STAT``, for whatever verb it is done."""
    return "STAT" if method == "HEAD" else _OPS.get(operation) or operation.upper()


class Line(NamedTuple):
    """One operation.

    Attributes:
        op: ``GET``, ``PUT``, ...
        endpoint: Where to.
        uri: The object.
        start: When it was begun, as :func:`now` tells it.
        first: When the first byte of what was asked for came; 0 if none did.
        end: When it was over.
        moved: Bytes of objects that were moved.
        error: What went wrong, or nothing.
        objects: How many objects it was about.
    """

    op: str
    endpoint: str
    uri: Uri
    start: int
    first: int
    end: int
    moved: int = 0
    error: str = ""
    objects: int = 1


class Gets:
    """Gets that went well, one as the other but for the objects: many lines for the cost of few.

    Args:
        endpoint: Where to.
        uris: The objects, by number, all of one container.
    """

    __slots__ = ("endpoint", "noted", "uris")

    def __init__(self, endpoint: str, uris: Mapping[int, Uri]) -> None:
        self.endpoint = endpoint
        self.uris = uris
        #: Number, start, first, end and size of each, one after the other: five lists would cost five calls a get.
        self.noted: list[int] = []

    def __len__(self) -> int:
        return len(self.noted) // _NOTED

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return zip(*[iter(self.noted)] * _NOTED, strict=True)

    def note(self, number: int, start: int, first: int, size: int) -> int:
        """Note that a get is over now; return how many are noted."""
        noted = self.noted
        noted += (number, start, first, now(), size)
        return len(noted) // _NOTED

    def lines(self) -> Iterator[Line]:
        """Yield each as a line."""
        for number, start, first, end, size in self:
            yield Line("GET", self.endpoint, self.uris[number], start, first, end, size)


class Recorder:
    """A log that is being written. Thread-safe; belongs to one process.

    Args:
        path: The file, replaced if it is there; one that ends in ``.zst`` is compressed.
        packed: Compress it, whatever its name.
        lossy: Leave lines out, and count them, rather than wait for a slow disk.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str, *, packed: bool = False, lossy: bool = False) -> None:
        self.path = path
        self.packed = packed
        self.lossy = lossy
        self.lost = 0
        self.failure: Exception | None = None
        self._lines: deque[tuple[int, Line | Gets]] = deque()
        self._more = 0  # about so many lines more than entries
        self._awake = threading.Event()
        self._room = threading.Condition(threading.Lock())
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begun = self._done = False
        self._file: io.FileIO | None = None
        self._packer: Any = None
        self._end_of_block = 0
        self._offset = time.time_ns() - now()
        self._index = 0
        self._threads: dict[int, int] = {}
        #: The clock's time at which a second of UTC began, and how that second is written.
        self._second = (-_NS, "")
        self._client = f"s3dlio-{os.getpid()}"

    def open(self) -> None:
        """Open the file and write the header."""
        folder = os.path.dirname(self.path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        # Without a buffer, which a forked child would inherit, and write a second time.
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 - closed by finish()
        if self.packed:
            import zstandard  # noqa: PLC0415 - not needed without a log

            self._packer = zstandard.ZstdCompressor().compressobj()
            self._end_of_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._append(("\t".join(COLUMNS) + "\n").encode())

    def _append(self, data: bytes) -> None:
        if self._packer is not None:
            data = self._packer.compress(data) + self._packer.flush(self._end_of_block)
        self._store(data)

    def _store(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._file is not None:
            left = left[self._file.write(left) :]

    def add(self, line: Line) -> None:
        """Take a line."""
        lines = self._lines
        lines.append((threading.get_ident(), line))
        if not self._begun:
            self._begin()
        if len(lines) >= _WAKE_LINES:
            self._press()

    def add_gets(self, gets: Gets) -> None:
        """Take the lines of many gets of one thread."""
        self._lines.append((threading.get_ident(), gets))
        self._more += len(gets) - 1
        if not self._begun:
            self._begin()
        if len(self._lines) + self._more >= _WAKE_LINES:
            self._press()

    def _begin(self) -> None:
        with self._room:
            if self._begun:
                return
            self._begun = True
        if _in_child_of_multiprocessing():
            from multiprocessing.util import Finalize  # noqa: PLC0415 - such children run no atexit handlers

            Finalize(None, _at_exit, exitpriority=100)
        thread = threading.Thread(target=self._serve, name="s3dlio-oplog", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends: finish() writes what there is
            return
        self._thread = thread

    def _press(self) -> None:
        """Have the lines written, and wait while they are too many."""
        self._awake.set()
        if len(self._lines) + self._more <= _MOST_LINES:
            return
        if self.lossy:
            with contextlib.suppress(IndexError):  # all of them are being written meanwhile
                count = _count(self._lines.pop()[1])
                self.lost += count
                self._more -= count - 1
            return
        if self._thread is None:
            self._write()
        with self._room:
            while len(self._lines) + self._more > _MOST_LINES and not self._done and self.failure is None:
                self._room.wait(_EVERY_S)

    def _serve(self) -> None:
        while not self._done:
            self._awake.wait(_EVERY_S)
            self._awake.clear()
            self._write()

    def _write(self) -> None:
        """Write the lines that there are."""
        with self._writing:
            self._more = 0  # not exact, and need not be: what is added meanwhile is soon written
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            if taken and self.failure is None:
                try:
                    self._put(taken)
                except Exception as error:  # noqa: BLE001 - a thread's boundary: finish() raises it
                    self.failure = error
                    _log.error("the operation log %s cannot be written any more: %s", self.path, error)
        with self._room:
            self._room.notify_all()

    def _put(self, taken: list[tuple[int, Line | Gets]]) -> None:
        if self._file is None:
            self.open()
        text = "".join(self._rows(taken))
        count = sum(_count(entry) for _, entry in taken)
        if _needs_quotes(text, count):
            fields = [self._fields(index, *pair) for index, pair in enumerate(_single(taken), self._index)]
            text = "".join(["\t".join(map(_quoted, row)) + "\n" for row in fields])
        self._index += count
        self._append(text.encode("utf-8", "surrogateescape"))

    def _rows(self, taken: list[tuple[int, Line | Gets]]) -> Iterator[str]:
        """Yield the lines as they are written where nothing needs quotes: a third of the time that csv takes."""
        numbers, client, index = self._threads, self._client, self._index
        base, second = self._second
        for thread, entry in taken:
            if isinstance(entry, Gets):
                yield self._rows_of_gets(index, thread, entry)
                index += len(entry)
                base, second = self._second
                continue
            op, endpoint, (_, container, key), start, first, end, moved, error, objects = entry
            # As good as always all of it happens within the second of the line before.
            if thread not in numbers or not (first and base <= start and end < base + _NS):
                yield "\t".join(map(str, self._fields(index, thread, entry))) + "\n"
                base, second = self._second
            else:
                file = f"{container}/{key}" if container else key
                yield (
                    f"{index}\t{numbers[thread]}\t{op}\t{client}\t{objects}\t{moved}\t{endpoint}\t{file}\t{error}\t"
                    f"{second}{start - base:09d}Z\t{second}{first - base:09d}Z\t{second}{end - base:09d}Z\t{end - start}\n"
                )
            index += 1

    def _rows_of_gets(self, index: int, thread: int, gets: Gets) -> str:
        """Return the lines of many gets: one ``%`` a line takes two thirds of the time of an f-string."""
        self._time(min(gets.noted[1::_NOTED]))
        base, second = self._second
        if max(gets.noted[3::_NOTED]) >= base + _NS:  # seldom: not all within one second
            lines = enumerate(gets.lines(), index)
            return "".join(["\t".join(map(str, self._fields(at, thread, line))) + "\n" for at, line in lines])
        number = self._threads.setdefault(thread, len(self._threads) % _MOST_THREADS)
        container, times = gets.uris[gets.noted[0]].container, f"{second}%09dZ\t" * 3
        named = f"{gets.endpoint}\t{container}/" if container else f"{gets.endpoint}\t"
        row = f"%d\t{number}\tGET\t{self._client}\t1\t%d\t{named.replace('%', '%%')}%s\t\t{times}%d\n"
        uris = gets.uris
        rows = [
            row % (at, size, uris[which].key, start - base, first - base, end - base, end - start)
            for at, (which, start, first, end, size) in enumerate(gets, index)
        ]
        return "".join(rows)

    def _fields(self, index: int, thread: int, line: Line) -> tuple[object, ...]:
        op, endpoint, uri, start, first, end, moved, error, objects = line
        file = f"{uri.container}/{uri.key}" if uri.container else uri.key
        number = self._threads.setdefault(thread, len(self._threads) % _MOST_THREADS)
        return (
            index, number, op, self._client, objects, moved, endpoint, file, error,
            self._time(start), self._time(first) if first else "", self._time(end), end - start,
        )  # fmt: skip

    def _time(self, at: int) -> str:
        base, text = self._second
        if not base <= at < base + _NS:
            second = (at + self._offset) // _NS
            base, text = second * _NS - self._offset, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = base, text
        return f"{text}{at - base:09d}Z"

    def finish(self) -> None:
        """Write what is left and close the file.

        Raises:
            Exception: The file could not be written.
        """
        self._done = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join(_EXIT_WAIT_S)
        self._write()
        if self._file is not None:
            try:
                if self._packer is not None and self.failure is None:
                    self._store(self._packer.flush())
            finally:
                self._file.close()
        if self.lost:
            _log.warning(
                "the operation log %s lacks %d lines: it could not be written fast enough", self.path, self.lost
            )
        if self.failure is not None:
            raise self.failure


def _count(entry: Line | Gets) -> int:
    return len(entry) if isinstance(entry, Gets) else 1


def _single(taken: list[tuple[int, Line | Gets]]) -> Iterator[tuple[int, Line]]:
    for thread, entry in taken:
        yield from ((thread, line) for line in (entry.lines() if isinstance(entry, Gets) else (entry,)))


def _quoted(field: object) -> str:
    # Python's csv, before 3.13, leaves a lone carriage return without quotes, and then cannot read it.
    text = str(field)
    return '"' + text.replace('"', '""') + '"' if _TO_QUOTE.search(text) else text


def _needs_quotes(text: str, lines: int) -> bool:
    """Tell whether a field holds what separates fields or lines, or quotes them."""
    separators = text.count("\n") - lines or text.count("\t") - lines * (len(COLUMNS) - 1)
    return bool(separators) or '"' in text or "\r" in text


#: The log that is being written, if one is.
active: Recorder | None = None


def start(path: str, *, lossy: bool = False) -> None:
    """Begin a log.

    Raises:
        OptionError: There is one.
        StoreError: The file cannot be written.
    """
    global active  # noqa: PLW0603 - one log for the process is what this is about
    if active is not None:
        msg = f"an operation log is being written to {active.path}: finalize_op_log() first"
        raise OptionError(msg, uri=path, operation="init_op_log")
    recorder = Recorder(path, packed=path.endswith(".zst"), lossy=lossy)
    try:
        recorder.open()
    except OSError as error:
        msg = f"the operation log cannot be written: {error.strerror or error}"
        raise StoreError(msg, uri=path, operation="init_op_log") from error
    active = recorder


def stop() -> None:
    """Finish the log, if there is one.

    Raises:
        StoreError: Lines could not be written.
    """
    global active
    recorder, active = active, None
    if recorder is None:
        return
    try:
        recorder.finish()
    except Exception as error:
        msg = f"the operation log is not whole: {error}"
        raise StoreError(msg, uri=recorder.path, operation="finalize_op_log") from error


def _in_child_of_multiprocessing() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


@atexit.register
def _at_exit() -> None:
    try:
        stop()
    except StoreError as error:  # there is nobody to raise it to
        _log.error("%s", error)


def follow(path: str, packed: bool) -> None:  # noqa: FBT001 - sent from another process as it is
    """Write what belongs to another process's log into ``PATH.PID``, unless a log is being written here."""
    global active  # noqa: PLW0603 - as above
    if active is None:
        active = Recorder(f"{path}.{os.getpid()}", packed=packed)


def _in_child() -> None:
    """Write a log of its own, once there is something to write: what waits in the parent's is the parent's."""
    global active  # noqa: PLW0603 - as above
    if active is not None:
        active = Recorder(f"{active.path}.{os.getpid()}", packed=active.packed, lossy=active.lossy)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
