"""Reads parts of pieces: each block by its range, straight into the memory it is to be in, and checks it.

Floor 4. Knows which blocks go together into one request; must not know frameworks, nor why a part is wanted.
Blocks are read that have a wanted byte, no others; requests reach over neighbours, never over gaps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from s3dlio.buffers import KIB, MIB, POOL, bytes_of
from s3dlio.cancel import CancellationToken
from s3dlio.checkpoint.kinds import Inlet
from s3dlio.checkpoint.pieces import Piece
from s3dlio.checksums import crc32c
from s3dlio.crew import map_all
from s3dlio.errors import IncompleteCheckpointError, IntegrityError, NotFoundError
from s3dlio.stores.base import Store, Version, quoted
from s3dlio.uri import Uri

#: Shorter runs are read together with their neighbours, and copied.
_SMALL_BYTES = 256 * KIB
#: Most bytes of one request.
_STEP_BYTES = 8 * MIB


class Block(NamedTuple):
    """One block of a piece, of which some bytes are wanted.

    Attributes:
        file: Where it is.
        start: Its first byte there.
        stop: Behind its last byte.
        crc32c: Its sum.
        name: Of the array, for errors.
        inlet: Where the wanted bytes go to.
        at: Where in the inlet the block's first byte would lie; may be negative.
        low: First wanted byte, counted from the block's.
        high: Behind the last wanted byte.
    """

    file: str
    start: int
    stop: int
    crc32c: int
    name: str
    inlet: Inlet
    at: int
    low: int
    high: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it is wanted."""
        return self.low == 0 and self.high == self.stop - self.start


def blocks_for(piece: Piece, name: str, start: int, stop: int, inlet: Inlet) -> list[Block]:
    """Return the blocks that a stretch of a piece needs; the inlet's first byte is that of the stretch."""
    return [
        Block(
            piece.file, piece.start + low, piece.start + high, crc, name, inlet,
            low - start, max(0, start - low), min(high, stop) - low,
        )
        for low, high, crc in piece.blocks(start, stop)
    ]  # fmt: skip


class Files:
    """The files of a checkpoint, each of one version. Thread-safe.

    Args:
        store: Where they are.
        base: The checkpoint's own URI; its key ends in ``/``.
        token: Stops the reads.
    """

    def __init__(self, store: Store, base: Uri, token: CancellationToken) -> None:
        self._store = store
        self._base = base
        self._token = token
        self._versions: dict[str, Version] = {}
        self._lock = threading.Lock()

    def where(self, file: str) -> Uri:
        """Return the URI of a file."""
        return self._base.with_key(self._base.key + file)

    def require(self, pieces: Sequence[Piece]) -> None:
        """See that the files of pieces are there, and as long as the pieces say: before memory is taken for them.

        Raises:
            IncompleteCheckpointError: A file is missing or too short.
        """
        ends: dict[str, int] = {}
        for piece in pieces:
            ends[piece.file] = max(ends.get(piece.file, 0), piece.start + piece.length)
        unknown = [file for file in ends if file not in self._versions]
        map_all(self._look_up, unknown, self._store.range_width(self._base), self._token)
        for file, end in ends.items():
            if end > self._versions[file].size:
                msg = f"the file has {self._versions[file].size:,} bytes, and {end:,} at least are expected: it is cut"
                raise IncompleteCheckpointError(msg, uri=str(self.where(file)), operation="load_checkpoint")

    def _look_up(self, file: str, token: CancellationToken) -> None:
        try:
            info = self._store.head(self.where(file), token)
        except NotFoundError as error:
            msg = "a file of the checkpoint is missing"
            raise IncompleteCheckpointError(msg, uri=str(self.where(file)), operation="load_checkpoint") from error
        with self._lock:
            self._versions[file] = Version(info.size, quoted(info.etag))

    def read(self, blocks: Sequence[Block]) -> None:
        """Read blocks of files that :meth:`require` has seen, several requests at once, in any order.

        Raises:
            IntegrityError: Bytes are not those that were saved; it names array and file.
            StoreError: They cannot be read.
        """
        width = self._store.range_width(self._base)
        map_all(self._read_step, list(_steps(blocks)), width, self._token)

    def _read_step(self, step: Sequence[Block], token: CancellationToken) -> None:
        first, start, stop = step[0], step[0].start, step[-1].stop
        is_direct = _is_run(step)
        if is_direct:
            memory = first.inlet.memory(first.at, first.at + stop - start)
        else:
            memory = bytes_of(POOL.take(stop - start))
        self._store.read_into(self.where(first.file), start, memory, self._versions[first.file], token)
        for block in step:
            self._verify(block, memory[block.start - start : block.stop - start])
        if is_direct:
            first.inlet.landed(first.at, first.at + stop - start, memory)
            return
        for block in step:
            _copy_out(block, memory[block.start - start :])

    def _verify(self, block: Block, memory: memoryview) -> None:
        found = crc32c(memory)
        if found != block.crc32c:
            msg = (
                f"{block.name!r} is damaged in bytes {block.start:,} to {block.stop:,} of the file: "
                f"their CRC-32C is {found:08x}, and was {block.crc32c:08x} when they were saved"
            )
            raise IntegrityError(msg, uri=str(self.where(block.file)), operation="load_checkpoint")


def _copy_out(block: Block, memory: memoryview) -> None:
    low, high = block.at + block.low, block.at + block.high
    target = block.inlet.memory(low, high)
    target[:] = memory[block.low : block.high]
    block.inlet.landed(low, high, target)


def _steps(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Put blocks together into requests: those that go to one memory in one run, and small neighbours."""
    group: list[Block] = []
    for run in _runs(sorted(blocks, key=lambda block: (block.file, block.start))):
        is_small = _bytes(run) < _SMALL_BYTES
        fits = is_small and group and _are_neighbours(group, run) and _bytes(group) + _bytes(run) <= _STEP_BYTES
        if group and not fits:
            yield group
            group = []
        if is_small:
            group.extend(run)
        else:
            yield run
    if group:
        yield group


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    run: list[Block] = []
    for block in blocks:
        goes_on = run and _are_neighbours(run, [block]) and _is_run([run[-1], block])
        if run and not (goes_on and block.stop - run[0].start <= _STEP_BYTES):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def _is_run(step: Sequence[Block]) -> bool:
    first = step[0]
    return all(
        block.is_whole and block.inlet is first.inlet and block.at - first.at == block.start - first.start
        for block in step
    )


def _are_neighbours(step: Sequence[Block], other: Sequence[Block]) -> bool:
    return step[-1].file == other[0].file and step[-1].stop == other[0].start


def _bytes(step: Sequence[Block]) -> int:
    return step[-1].stop - step[0].start
