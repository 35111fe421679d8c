"""One object, carried: by the far side itself, in one piece, or in parts that pass through bounded memory.

Floor 5. Knows stores' reads, uploads and copies; must not know how many objects there are, nor who asked. At its end
the object is there whole, or what was there before is there still.
"""

from __future__ import annotations

import contextlib
import mimetypes
import threading
from collections.abc import Callable, Iterator

from s3dlio.cancel import CancellationToken
from s3dlio.checksums import crc32c
from s3dlio.crew import map_all
from s3dlio.errors import S3dlioError
from s3dlio.memory import MIB, POOL
from s3dlio.ranges import Span, split
from s3dlio.sender import part_size
from s3dlio.stores.base import ObjectInfo, PutOptions, Reader, Store, Version, quoted
from s3dlio.stores.upload import Part, Upload
from s3dlio.transfer.plan import Move
from s3dlio.uri import PATH_SCHEMES, Uri

#: Objects up to here go in one piece: one request reads them, one writes them.
WHOLE_BYTES = 8 * MIB
#: Bytes of objects that may be in memory at once. Two hundred parts of 16 MiB under way gained nothing on loopback
#: over sixteen; a store that is far off has as many small requests under way as the caller allows.
ROOM_BYTES = 256 * MIB
#: A part's stretch when the far side copies it: large, since no byte of it comes here.
_COPIED_PART_BYTES = 256 * MIB
#: Between two looks at whether the work was cancelled.
_LOOK_EVERY_S = 0.5


class Room:
    """Memory that several threads share, by the byte. One thing larger than all of it is let in when it is empty.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._changed = threading.Condition(threading.Lock())

    @contextlib.contextmanager
    def held(self, length: int, token: CancellationToken) -> Iterator[None]:
        """Hold ``length`` bytes of it; wait until there is room. Whoever holds some must not ask for more."""
        with self._changed:
            while self._held and self._held + length > self._size:
                self._changed.wait(_LOOK_EVERY_S)
                token.check()
            self._held += length
        try:
            yield
        finally:
            with self._changed:
                self._held -= length
                self._changed.notify_all()


class _LargeError(Exception):
    """The object is larger than it was said to be."""


class Carrier:
    """Carries objects, one at a time per thread. Thread-safe.

    Args:
        open_store: Gives the store of an address.
        width: Most parts of one object under way at once.
        done: Called with the number of bytes that have arrived, as they do.
    """

    def __init__(self, open_store: Callable[[Uri], Store], width: int, done: Callable[[int], object]) -> None:
        self._open = open_store
        self._width = width
        self._done = done
        self._room = Room(ROOM_BYTES)
        self._stores: dict[str, Store] = {}

    def store(self, uri: Uri) -> Store:
        """Return the store of an address."""
        found = self._stores.get(uri.scheme)
        return found or self._stores.setdefault(uri.scheme, self._open(uri))

    def carry(self, move: Move, read: Reader, token: CancellationToken) -> int:
        """Carry one object and return its size in bytes.

        Args:
            move: From where to where.
            read: Reads the first part of an object of the source's store; the calling thread's own.
            token: Stops the work.

        Raises:
            ObjectChangedError: It was replaced meanwhile.
            StoreError: It cannot be read or written. Nothing of it is at the destination.
        """
        source, target = self.store(move.source), self.store(move.target)
        target.sizes.forget(move.target)
        if source is target and (size := self._copied(source, move, token)) is not None:
            return size
        if move.size <= WHOLE_BYTES:
            with contextlib.suppress(_LargeError):
                return self._in_one(source, target, move, (read, token))
        return self._in_parts(source, target, move, token)

    # -- by the far side --------------------------------------------------------------------------

    def _copied(self, store: Store, move: Move, token: CancellationToken) -> int | None:
        if move.size < 0 or move.size > store.copy_bytes:
            return None
        if not store.copy(move.source, move.target, Version(move.size, quoted(move.etag)), token):
            return None
        self._done(move.size)
        return move.size

    # -- through here -----------------------------------------------------------------------------

    def _in_one(self, source: Store, target: Store, move: Move, way: tuple[Reader, CancellationToken]) -> int:
        read, token = way
        memory = memoryview(b"")

        def place(size: int) -> memoryview:
            nonlocal memory
            if size > WHOLE_BYTES:
                raise _LargeError
            memory = POOL.take_bytes(size)
            return memory

        with self._room.held(move.size if move.size >= 0 else WHOLE_BYTES, token):
            options = self._options(source, target, move, token)
            read(move.source, 0, WHOLE_BYTES, place)
            target.put(move.target, memory, options, token)
        self._done(len(memory))
        return len(memory)

    def _in_parts(self, source: Store, target: Store, move: Move, token: CancellationToken) -> int:
        info = source.head(move.source, token)
        limits = target.limits
        length = part_size(info.size, limits)
        if source is target and info.size > source.copy_bytes:
            length = min(max(length, _COPIED_PART_BYTES), limits.most_bytes)
        spans = list(split(0, info.size, length))
        upload = target.upload(move.target, self._options(source, target, move, token, info), token)
        with _all_or_nothing(upload):
            parts = _Parts(source, move.source, Version(info.size, quoted(info.etag)), upload)
            parts.may_copy = source is target

            def work(item: tuple[int, Span], inner: CancellationToken) -> None:
                number, span = item
                if not parts.copy(number, span, inner):
                    with self._room.held(span.length, inner):
                        parts.bring(number, span, inner)
                self._done(span.length)

            map_all(work, enumerate(spans), 1 if limits.in_order else self._width, token)
            upload.complete(info.size, len(spans), token)
        return info.size

    def _options(
        self, source: Store, target: Store, move: Move, token: CancellationToken, info: ObjectInfo | None = None
    ) -> PutOptions:
        """Return how the object is written: with the media type and the metadata that it has, where both ends can."""
        if move.target.scheme in PATH_SCHEMES:
            return PutOptions(durable=False)
        if move.source.scheme in PATH_SCHEMES:
            return PutOptions(mimetypes.guess_type(move.source.key)[0] or "")
        info = info or source.head(move.source, token)
        return PutOptions(info.content_type, info.metadata)


class _Parts:
    """The parts of one object, from its store into an upload."""

    def __init__(self, store: Store, uri: Uri, version: Version, upload: Upload) -> None:
        self._store = store
        self._uri = uri
        self._version = version
        self._upload = upload
        self.may_copy = False

    def copy(self, number: int, span: Span, token: CancellationToken) -> bool:
        """Have the far side make the part, if it can."""
        if self.may_copy:
            self.may_copy = self._upload.copy(number, self._uri, span, self._version, token)
        return self.may_copy

    def bring(self, number: int, span: Span, token: CancellationToken) -> None:
        """Read the part, and send it."""
        memory = POOL.take_bytes(span.length)
        self._store.read_into(self._uri, span.start, memory, self._version, token)
        self._upload.send(Part(number, span.start, (memory,), span.length, crc32c(memory)), token)


@contextlib.contextmanager
def _all_or_nothing(upload: Upload) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            upload.abort()
        except S3dlioError as second:
            error.add_note(f"What had arrived could not be thrown away: {second}")
        raise
