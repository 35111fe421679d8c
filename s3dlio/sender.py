"""Sends an object as parts, several at once, and sees that it arrives whole or not at all.

Floor 3. Knows threads, sums and what is to happen when a part fails; must not know where bytes come from
(:mod:`s3dlio.outflow`, or memory that is there already), nor how a backend takes them. A part is taken by a
thread of the crew as it comes; who has as many under way as he may waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from s3dlio.bounds import whole
from s3dlio.cancel import CancellationToken
from s3dlio.checksums import combine_crc32c, crc32c_of_pieces
from s3dlio.crew import CREW
from s3dlio.errors import CancelledError, IntegrityError, OptionError, S3dlioError, StoreError
from s3dlio.stores.base import ObjectInfo, PutOptions, Store
from s3dlio.stores.upload import Limits, Part, Upload
from s3dlio.uri import Uri

_log = logging.getLogger("s3dlio")

DEFAULT_PART_BYTES = 16 * 1024**2
DEFAULT_PARTS_IN_FLIGHT = 16
_MIB = 1024**2
#: An object of so many bytes, all there, is sent in parts, so many at once.
_IN_PARTS_FROM = 64 * _MIB
_WHOLE_IN_FLIGHT = 8
#: Of a part's bytes, none is summed yet, and this is the sum of none.
NOT_SUMMED = (0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What became of an object that was sent.

    Attributes:
        total_bytes: Bytes of the object.
        parts: Requests that carried its bytes, at least 1.
        etag: Entity tag without quotes.
        crc32c: Sum of all bytes.
        started_at: When the first byte was handed over, with time zone.
        completed_at: When the object was complete.
    """

    total_bytes: int
    parts: int
    etag: str
    crc32c: int
    started_at: datetime
    completed_at: datetime


class Sender:
    """The parts of one object on their way. Belongs to one thread; what it hands parts to are others.

    Args:
        store: Where to.
        uri: The object.
        options: How it is written.
        part_bytes: Bytes of each part but the last.
        width: Most parts under way at once.
        parent: Cancelling it stops the upload.

    Raises:
        OptionError: The backend does not take such parts.
        StoreError: The upload cannot be begun (where that costs a request, it is begun later).
    """

    def __init__(
        self, store: Store, uri: Uri, options: PutOptions, *, part_bytes: int, width: int, parent: CancellationToken
    ) -> None:
        _check(store, uri, part_bytes, width)
        self._store = store
        self._uri = uri
        self._options = options
        self._part_bytes = part_bytes
        self._width = 1 if store.limits.in_order else width
        self._token = CancellationToken(parent, CREW.get().token)
        self._upload: Upload | None = None
        self._sums: dict[int, tuple[int, int]] = {}
        self._length = 0
        self._under_way = 0
        self._changed = threading.Condition(threading.Lock())
        self._error: BaseException | None = None
        self._started_at = datetime.now(UTC)
        if store.limits.free:
            with self.all_or_nothing():
                self._begin()

    @property
    def length(self) -> int:
        """Bytes that were handed over."""
        return self._length

    def send(
        self,
        pieces: Sequence[memoryview],
        length: int,
        done: Callable[[], Any] = lambda: None,
        summed: tuple[int, int] = NOT_SUMMED,
    ) -> None:
        """Hand over the next part; wait while as many as may be are under way.

        Args:
            pieces: Its bytes, not to be changed until ``done``.
            length: How many.
            done: Called in some thread when the part has arrived or is given up. It must not raise.
            summed: How many of the bytes, from the first one on, are summed already, and their CRC-32C.

        Raises:
            OptionError: The object would have more parts than the backend takes.
            BaseException: What an earlier part failed with. Nothing of the object is left.
        """
        carried = tuple(pieces)
        with self.all_or_nothing():
            number = self._next_number(length)
            self._await_room()
            self._raise_failure()
            if self._upload is None:
                self._begin()
            start, self._length = self._length, self._length + length
            self._hand_over(lambda: self._carry(number, start, carried, length, summed), done)

    def _hand_over(self, carry: Callable[[], None], done: Callable[[], Any]) -> None:
        ticket: list[None] = []  # whoever takes it away, here or in the thread, sees to the end

        def job(work: Callable[[], None] = carry) -> None:
            try:
                ticket.pop()
            except IndexError:  # the other one saw to it
                return
            work()
            self._leave(done)

        try:
            with self._changed:
                self._under_way += 1
                ticket.append(None)
            CREW.get().start(job)
        except BaseException:  # Ctrl-C: the job may have reached a thread or not
            job(lambda: None)
            raise

    def _leave(self, done: Callable[[], Any]) -> None:
        done()
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Make that nothing of the object is left, and nothing more is taken, when what is within fails.

        So does each method here for itself; the caller whose parts belong together, for what lies between them.
        """
        try:
            yield
        except BaseException as error:
            self._fail(error)
            try:
                self.abort()
            except S3dlioError as second:
                error.add_note(f"What had arrived could not be thrown away: {second}")
            raise

    def _await_room(self) -> None:
        with self._changed:
            while self._under_way >= self._width and self._error is None:
                self._changed.wait()

    def _begin(self) -> Upload:
        self._upload = upload = self._store.upload(self._uri, self._options, self._token)
        return upload

    def _next_number(self, length: int) -> int:
        number = len(self._sums)
        most = self._store.limits.most_parts
        if number >= most:
            advice = -(-self._part_bytes * 4 // 2**20)
            msg = (
                f"the object has more than {most:,} parts of {self._part_bytes:,} bytes; "
                f"choose a larger part_size, e.g. {advice} MiB"
            )
            raise OptionError(msg, uri=str(self._uri), operation="put")
        self._sums[number] = (0, length)
        return number

    def _carry(
        self, number: int, start: int, pieces: tuple[memoryview, ...], length: int, summed: tuple[int, int]
    ) -> None:
        try:
            if self._error is None and self._upload is not None:
                crc = crc32c_of_pieces(pieces, *summed)
                self._sums[number] = (crc, length)
                self._upload.send(Part(number, start, pieces, length, crc), self._token)
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: who sends next raises it again
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, StoreError):
            error.concern(self._uri, "put")  # an answer that cannot be read does not know what it is about
        with self._changed:
            if self._error is None or isinstance(self._error, CancelledError):
                self._error = error
        self._token.cancel()

    def check(self) -> None:
        """Raise what a part has failed with, if one has.

        Raises:
            BaseException: That. Nothing of the object is left.
        """
        if self._error is not None:
            with self.all_or_nothing():
                self._raise_failure()

    def wait(self) -> None:
        """Wait until what was handed over has arrived.

        Raises:
            BaseException: What a part failed with. Nothing of the object is left.
        """
        with self.all_or_nothing():
            self._settle()
            self._raise_failure()

    def _settle(self) -> None:
        with self._changed:
            while self._under_way:
                self._changed.wait()

    def _raise_failure(self) -> None:
        if self._error is None:
            return
        if not isinstance(self._error, Exception):  # not Ctrl-C a second time
            msg = "the upload was interrupted, and nothing of it is left"
            raise CancelledError(msg, uri=str(self._uri), operation="put") from self._error
        raise self._error

    def finish(self, pieces: Sequence[memoryview], length: int, summed: tuple[int, int] = NOT_SUMMED) -> Sent:
        """Hand over the last bytes, and make the object.

        An object of no more than one part is put with a single request.

        Raises:
            BaseException: It could not be made; nothing of it is left.
        """
        with self.all_or_nothing():
            self._raise_failure()
            is_small = self._upload is None and length <= self._part_bytes
            info = self._put(pieces, length) if is_small else self._complete(pieces, length, summed)
        self._token.detach()
        sums = [self._sums[number] for number in range(len(self._sums))]
        crc = combine_crc32c(sums)
        return Sent(self._length, max(1, len(sums)), info.etag, crc, self._started_at, datetime.now(UTC))

    def _complete(self, pieces: Sequence[memoryview], length: int, summed: tuple[int, int]) -> ObjectInfo:
        if length:
            self.send(pieces, length, summed=summed)
        self.wait()
        upload = self._upload or self._begin()
        return upload.complete(self._length, len(self._sums), self._token)

    def _put(self, pieces: Sequence[memoryview], length: int) -> ObjectInfo:
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        self._sums[0] = (crc32c_of_pieces(pieces), length)
        self._length = length
        return self._store.put(self._uri, data, self._options, self._token)

    def abort(self) -> None:
        """Stop what is under way and throw away what has arrived. Once is enough.

        Raises:
            StoreError: It could not be thrown away.
        """
        self._token.cancel()
        self._settle()
        self._token.detach()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abort()


def send_whole(store: Store, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> None:
    """Write an object whose bytes are all there: a large one in parts, several at once, from where it lies.

    Raises:
        AlreadyExistsError: It exists, and was not to be overwritten.
        StoreError: It cannot be written; nothing of it is left.
    """
    store.sizes.forget(uri)
    limits = store.limits
    # One request replaces or refuses atomically everywhere; parts do not where the server heeds no condition.
    if len(data) < _IN_PARTS_FROM or limits.in_order or not (options.overwrite or limits.conditional):
        store.put(uri, data, options, token)
        return
    size = part_size(len(data), limits)
    sender = Sender(store, uri, options, part_bytes=size, width=_WHOLE_IN_FLIGHT, parent=token)
    last = (len(data) - 1) // size * size
    with sender.all_or_nothing():
        for start in range(0, last, size):
            sender.send((data[start : start + size],), size)
        sender.finish((data[last:],), len(data) - last)


def part_size(length: int, limits: Limits) -> int:
    """Return how many bytes each part of an object has: more than usual, where there would be too many of them."""
    least = max(DEFAULT_PART_BYTES, limits.least_bytes, -(-length // limits.most_parts))
    return -(-least // _MIB) * _MIB


def _check(store: Store, uri: Uri, part_bytes: int, width: int) -> None:
    limits = store.limits
    fault = ""
    if part_bytes < limits.least_bytes:
        fault = f"at least {limits.least_bytes:,}"
    elif part_bytes > limits.most_bytes:
        fault = f"at most {limits.most_bytes:,}"
    elif part_bytes < 1 or part_bytes % limits.multiple:
        fault = f"a multiple of {limits.multiple:,}"
    if fault:
        msg = f"part_size must be {fault} bytes, not {part_bytes:,}"
        raise OptionError(msg, uri=str(uri), operation="put")
    whole("max_in_flight", width, 1)


def verify_size(store: Store, where: Uri, length: int, operation: str, token: CancellationToken) -> None:
    """Ask for the size of what was written.

    Raises:
        IntegrityError: It is another one.
    """
    stored = store.head(where, token).size
    if stored != length:
        msg = f"{length} bytes were sent and {stored} are there: somebody else has written it, or it is damaged"
        raise IntegrityError(msg, uri=str(where), operation=operation)
    _log.debug("%s: %s: HEAD verified stored=%d", operation, where, stored)
