"""Sends a checkpoint's file: tensors straight from their memory, several parts at once.

Floor 4. Knows which bytes of which tensor make which part, and their sums; must not know frameworks. The file's
length is known before its first byte, so every part is put together, summed and sent by a thread of its own,
and no copy of the file exists. The header holds the sums, so what it lies in goes last.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from s3dlio.buffers import KIB, POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.checkpoint.kinds import Outlet
from s3dlio.checkpoint.layout import Tensor, pack_header
from s3dlio.checksums import combine_crc32c, crc32c
from s3dlio.crew import map_all
from s3dlio.errors import S3dlioError
from s3dlio.progress import Count, Tell, silence
from s3dlio.sender import part_size
from s3dlio.stores.base import ObjectInfo, PutOptions, Store
from s3dlio.stores.upload import Limits, Part, Upload
from s3dlio.uri import Uri

#: Parts under way at once: more bring nothing on a network of 100 Gbit/s, and each holds its pieces' memory.
_WIDTH = 8
#: Shorter pieces are put together first: a call of the system costs more than such a copy.
_SMALL_BYTES = 64 * KIB
_TYPE = "application/octet-stream"


class Contents(NamedTuple):
    """What is to be written.

    Attributes:
        tensors: In the order of the file.
        outlets: The way to each one's bytes.
        tree: The value's structure.
        framework: What other readers are told.
    """

    tensors: tuple[Tensor, ...]
    outlets: Sequence[Outlet]
    tree: Any
    framework: str


class Saved(NamedTuple):
    """What was written.

    Attributes:
        info: What the backend says of the object.
        crc32c: Sum of all its bytes.
    """

    info: ObjectInfo
    crc32c: int


class _Piece(NamedTuple):
    """A stretch of one tensor in one part, and its sum."""

    tensor: int
    crc32c: int
    length: int


class _Sent(NamedTuple):
    """A part that was sent: its pieces in their order, and its sum."""

    pieces: list[_Piece]
    crc32c: int
    length: int


def send(
    store: Store, uri: Uri, contents: Contents, options: PutOptions, token: CancellationToken, tell: Tell = silence
) -> Saved:
    """Write a checkpoint's file: whole, or nothing of it.

    Raises:
        AlreadyExistsError: It exists, and was not to be overwritten.
        StoreError: It cannot be written.
    """
    store.sizes.forget(uri)
    job = _Job(contents, store.limits)
    if job.count == 1:
        return job.put(store, uri, options, token)
    upload = store.upload(uri, options, token)
    try:
        send_all = job.send_header_last if upload.any_order else job.send_header_first
        sent = send_all(upload, token, tell)
        info = upload.complete(job.size, job.count, token)
    except BaseException as error:
        _abort(upload, error)
        raise
    return Saved(info, combine_crc32c([(part.crc32c, part.length) for part in sent]))


def whole_file(contents: Contents, limits: Limits) -> tuple[int, Iterator[memoryview]]:
    """Return the length of a checkpoint's file, and its bytes in their order, of which a part at a time is held.

    Every tensor is read twice: for its sum, which the header holds, and to be handed out.
    """
    job = _Job(contents, limits)
    return job.size, job.in_order()


def _abort(upload: Upload, error: BaseException) -> None:
    try:
        upload.abort()
    except S3dlioError as second:
        error.add_note(f"What had arrived could not be thrown away: {second}")


class _Job:
    """One file, cut into parts."""

    def __init__(self, contents: Contents, limits: Limits) -> None:
        self._contents = contents
        self._header = pack_header(contents.tensors, contents.tree, contents.framework)
        self._starts = [tensor.start + len(self._header) for tensor in contents.tensors]
        last = contents.tensors[-1].stop if contents.tensors else 0
        self.size = len(self._header) + last
        self._part_bytes = part_size(self.size, limits)
        self._is_in_order = limits.in_order
        self.count = max(1, -(-self.size // self._part_bytes))
        #: Parts that hold a byte of the header.
        self._held = -(-len(self._header) // self._part_bytes)

    def put(self, store: Store, uri: Uri, options: PutOptions, token: CancellationToken) -> Saved:
        """Write a file of one part by a single request."""
        memory = bytes_of(POOL.take(self.size))
        at = len(self._header)
        pieces = []
        for number, tensor in enumerate(self._contents.tensors):
            target = memory[at + tensor.start : at + tensor.stop]
            outlet = self._contents.outlets[number]
            target[:] = outlet.read(0, tensor.length)
            pieces.append(_Piece(number, outlet.sum(0, target), tensor.length))
        memory[:at] = self._summed([pieces])
        return Saved(store.put(uri, memory, options, token), crc32c(memory))

    def in_order(self) -> Iterator[memoryview]:
        """Yield the file's bytes, from the first one on."""
        summed = [self._gather(number)[1] for number in range(self.count)]
        self._header = self._summed(summed)
        for number, known in enumerate(summed):
            yield from self._gather(number, known)[0]

    def send_header_last(self, upload: Upload, token: CancellationToken, tell: Tell) -> list[_Sent]:
        """Send the parts, several at once, and sum them on the way; those with the header last."""
        count = Count(self.size, tell)
        carry = functools.partial(self._carry, upload, count)
        sent = map_all(carry, [(number, None) for number in range(self._held, self.count)], _WIDTH, token)
        held = [self._gather(number) for number in range(self._held)]
        self._header = self._summed([*(pieces for _, pieces in held), *(part.pieces for part in sent)])
        first = map_all(carry, [(number, None) for number in range(self._held)], _WIDTH, token)
        return [*first, *sent]

    def send_header_first(self, upload: Upload, token: CancellationToken, tell: Tell) -> list[_Sent]:
        """Sum all parts, then send them from the first one on."""
        summed = map_all(lambda number, _: self._gather(number)[1], range(self.count), _WIDTH, token)
        self._header = self._summed(summed)
        carry = functools.partial(self._carry, upload, Count(self.size, tell))
        return map_all(carry, list(enumerate(summed)), 1 if self._is_in_order else _WIDTH, token)

    def _summed(self, parts: Sequence[Sequence[_Piece]]) -> bytes:
        """Return the header with the sums in it: of tensors whose pieces lie in consecutive parts."""
        sums: list[list[tuple[int, int]]] = [[] for _ in self._contents.tensors]
        for pieces in parts:
            for piece in pieces:
                sums[piece.tensor].append((piece.crc32c, piece.length))
        whole = [combine_crc32c(found) for found in sums]
        return pack_header(self._contents.tensors, self._contents.tree, self._contents.framework, whole)

    def _carry(
        self, upload: Upload, count: Count, part: tuple[int, list[_Piece] | None], token: CancellationToken
    ) -> _Sent:
        """Send a part, whose pieces' sums are known or are not."""
        number, known = part
        memories, pieces = self._gather(number, known)
        start = number * self._part_bytes
        length = min(self._part_bytes, self.size - start)
        sums = [(crc32c(self._header[start : start + length]), max(0, min(length, len(self._header) - start)))]
        crc = combine_crc32c([*sums, *((piece.crc32c, piece.length) for piece in pieces)])
        upload.send(Part(number, start, tuple(memories), length, crc), token)
        count.add(length)
        return _Sent(pieces, crc, length)

    def _gather(self, number: int, known: list[_Piece] | None = None) -> tuple[list[memoryview], list[_Piece]]:
        """Return the memory that a part is made of, and the sums of the tensors' pieces in it, if they are not known."""
        start = number * self._part_bytes
        stop = min(start + self._part_bytes, self.size)
        gathered = _Gathered(stop - start)
        if start < len(self._header):
            gathered.add(memoryview(self._header)[start:stop])
        pieces = []
        for index in range(*self._tensors_within(start, stop)):
            begin = self._starts[index]
            low, high = max(start, begin) - begin, min(stop - begin, self._contents.tensors[index].length)
            outlet = self._contents.outlets[index]
            memory = outlet.read(low, high)
            if known is None:
                pieces.append(_Piece(index, outlet.sum(low, memory), high - low))
            gathered.add(memory)
        return gathered.finish(), pieces if known is None else known

    def _tensors_within(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and the end of the tensors that have a byte in a stretch of the file."""
        first = max(0, bisect_right(self._starts, start) - 1)
        return first, bisect_left(self._starts, stop)


class _Gathered:
    """Pieces of memory, the short ones of them put together."""

    def __init__(self, most: int) -> None:
        self._memories: list[memoryview] = []
        self._room = memoryview(b"")
        self._used = 0
        self._left = most

    def add(self, memory: memoryview) -> None:
        if len(memory) >= _SMALL_BYTES:
            self._close()
            self._memories.append(memory)
        elif len(memory):
            if not len(self._room):
                self._room = bytes_of(POOL.take(self._left))
            self._room[self._used : self._used + len(memory)] = memory
            self._used += len(memory)
        self._left -= len(memory)

    def _close(self) -> None:
        if self._used:
            self._memories.append(self._room[: self._used])
            self._room = self._room[self._used :]
            self._used = 0

    def finish(self) -> list[memoryview]:
        self._close()
        return self._memories
