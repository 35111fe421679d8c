"""Pieces of arrays in files: what one process holds of an array that others hold the rest of.

Floor 4. Knows how a piece is cut into blocks that are summed each, so that a part of it can be read and checked
without the rest, and which bytes of it a box is; must not know frameworks, nor who holds what. A file of pieces is
one of :mod:`s3dlio.checkpoint.layout`, so other programs can read it.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from s3dlio.buffers import KIB, MIB
from s3dlio.cancel import CancellationToken
from s3dlio.checkpoint.kinds import Outlet
from s3dlio.checkpoint.layout import arrange, pack_header
from s3dlio.checkpoint.saving import Contents, send
from s3dlio.checksums import combine_crc32c, crc32c
from s3dlio.errors import FormatError
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import Uri

#: A block is a 64th of its piece, so that what is read beyond a part of it stays within a few hundredths ...
_BLOCKS = 64
#: ... but no shorter than costs about as much as a request of its own, and no longer than a request should be.
_LEAST_BLOCK_BYTES = 64 * KIB
_MOST_BLOCK_BYTES = 8 * MIB
_SUM = np.dtype("<u4")

Shape = tuple[int, ...]


class Span(NamedTuple):
    """Where a box lies in its piece.

    Attributes:
        start: Its first byte.
        stop: Behind its last byte.
        is_whole: All bytes between them belong to it.
    """

    start: int
    stop: int
    is_whole: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an array, in row-major order.

    Attributes:
        file: The object, below the checkpoint's own URI.
        start: Its first byte there.
        shape: Its lengths.
        item_bytes: Bytes of an item.
        sums: CRC-32C of each of its blocks.
    """

    file: str
    start: int
    shape: Shape
    item_bytes: int
    sums: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.item_bytes

    def span(self, offsets: Sequence[int], lengths: Sequence[int]) -> Span:
        """Return where a box of it lies. The box must not be empty."""
        return span_of(self.shape, self.item_bytes, offsets, lengths)

    def blocks(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return first byte, end and sum of the blocks that have a byte in a stretch."""
        places = cuts(self.shape, self.item_bytes)
        first, end = bisect_right(places, start) - 1, bisect_left(places, stop)
        return [(places[at], places[at + 1], self.sums[at]) for at in range(first, end)]

    def to_json(self) -> dict[str, Any]:
        """Return the piece as plain JSON values."""
        sums = np.array(self.sums, _SUM).tobytes().hex()
        return {"file": self.file, "at": self.start, "shape": list(self.shape), "item": self.item_bytes, "sums": sums}


def strides_of(shape: Shape, item_bytes: int) -> Shape:
    """Return how many bytes lie between neighbours on each axis, in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) * item_bytes for axis in range(len(shape)))


def span_of(shape: Shape, item_bytes: int, offsets: Sequence[int], lengths: Sequence[int]) -> Span:
    """Return where a box lies in an array in row-major order. The box must not be empty."""
    strides = strides_of(shape, item_bytes)
    start = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    reach = sum((length - 1) * stride for length, stride in zip(lengths, strides, strict=True))
    stop = start + reach + item_bytes
    return Span(start, stop, stop - start == math.prod(lengths) * item_bytes)


def cuts(shape: Shape, item_bytes: int) -> list[int]:
    """Return where the blocks of a piece begin, and its end.

    Blocks are halves of halves, by rows where there are enough of them: what twice or four times as many processes
    hold of an array later begins and ends where blocks do.
    """
    length = math.prod(shape) * item_bytes
    if not length:
        return [0]
    wanted = min(max(length // _BLOCKS, _LEAST_BLOCK_BYTES), _MOST_BLOCK_BYTES)
    count = 1 << (-(-length // wanted) - 1).bit_length()
    by_rows = bool(shape) and shape[0] >= count
    unit = length // shape[0] if by_rows else item_bytes
    units = length // unit
    return [units * at // count * unit for at in range(count + 1)]


def parse_piece(told: Any) -> Piece:
    """Return a piece from its JSON, checked: a file of the checkpoint, and as many sums as blocks.

    Raises:
        FormatError: It is none.
    """
    try:
        piece = Piece(
            file=told["file"], start=told["at"], shape=tuple(told["shape"]), item_bytes=told["item"],
            sums=tuple(np.frombuffer(bytes.fromhex(told["sums"]), _SUM).tolist()),
        )  # fmt: skip
    except (TypeError, ValueError, KeyError) as error:
        msg = f"a piece cannot be read: {error!r}"
        raise FormatError(msg) from error
    _check(piece)
    return piece


def _check(piece: Piece) -> None:
    file: Any = piece.file
    if not isinstance(file, str) or file.startswith("/") or ".." in file.split("/") or "://" in file:
        msg = f"a piece's file leads out of the checkpoint: {file!r:.200}"
        raise FormatError(msg)
    counts = [piece.start, *piece.shape]
    fine = all(type(count) is int and 0 <= count < 1 << 62 for count in counts)
    # As many sums as there are blocks bounds what the piece claims: eight digits stand for 8 MiB at most.
    if not fine or piece.item_bytes not in (1, 2, 4, 8, 16, 32) or len(piece.sums) != _count_of(piece):
        msg = f"a piece of shape {piece.shape!r:.200} and {len(piece.sums)} sums is not as it should be"
        raise FormatError(msg)


def _count_of(piece: Piece) -> int:
    """Return how many blocks a piece has, without making a list of what it merely claims."""
    least = piece.length // _MOST_BLOCK_BYTES
    return -1 if least > len(piece.sums) else len(cuts(piece.shape, piece.item_bytes)) - 1


# -- writing ------------------------------------------------------------------------------------------


class Offer(NamedTuple):
    """A piece that is to be written.

    Attributes:
        name: Unique in the file.
        dtype: By the file format's name; ``U8`` for what it has no name for.
        shape: The piece's.
        item_bytes: Bytes of an item.
        outlet: The way to its bytes.
        kind: Whose array it is, for whoever loads the file by itself; ``bytes`` for no array.
    """

    name: str
    dtype: str
    shape: Shape
    item_bytes: int
    outlet: Outlet
    kind: str

    @property
    def length(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.item_bytes


class _Summed(Outlet):
    """An outlet that sums by blocks; the sum of a stretch is put together from theirs, so every byte is seen once."""

    def __init__(self, offer: Offer) -> None:
        self._outlet = offer.outlet
        self._cuts = cuts(offer.shape, offer.item_bytes)
        self._parts: dict[int, tuple[int, int]] = {}  # by first byte: one that is read twice is the same twice
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> memoryview:
        """See :meth:`s3dlio.checkpoint.kinds.Outlet.read`."""
        return self._outlet.read(start, stop)

    def sum(self, start: int, memory: memoryview) -> int:
        """See :meth:`s3dlio.checkpoint.kinds.Outlet.sum`."""
        if not len(memory):
            return crc32c(memory)
        stop = start + len(memory)
        inner = self._cuts[bisect_right(self._cuts, start) : bisect_left(self._cuts, stop)]
        edges = [start, *inner, stop]
        found = {low: (crc32c(memory[low - start : high - start]), high - low) for low, high in pairwise(edges)}
        with self._lock:
            self._parts.update(found)
        return combine_crc32c(found.values())

    def sums(self) -> tuple[int, ...]:
        places = sorted(self._parts)
        within = [places[bisect_left(places, low) : bisect_left(places, high)] for low, high in pairwise(self._cuts)]
        return tuple(combine_crc32c([self._parts[place] for place in block]) for block in within)


def write_pieces(
    store: Store, base: Uri, file: str, offers: Sequence[Offer], token: CancellationToken
) -> tuple[list[Piece], int]:
    """Write a file of pieces: whole, or nothing of it; straight from their memory, several parts at once.

    Args:
        store: Where to.
        base: The checkpoint's own URI; its key ends in ``/``.
        file: The object below it; it must not exist.
        offers: The pieces.
        token: Stops the work.

    Returns:
        The pieces, in the order of the offers, and the bytes of the file.

    Raises:
        StoreError: It cannot be written.
    """
    outlets = {offer.name: _Summed(offer) for offer in offers}
    named = {offer.name: offer for offer in offers}
    tensors = arrange([(o.name, o.dtype, o.shape if o.dtype != "U8" else (o.length,), o.length) for o in offers])
    tree = {"d": {o.name: {"a": o.name, "k": o.kind} for o in offers}}
    contents = Contents(tensors, [outlets[tensor.name] for tensor in tensors], tree, "")
    data_start = len(pack_header(tensors, tree, ""))
    where = base.with_key(base.key + file)
    saved = send(store, where, contents, PutOptions(content_type="application/octet-stream", bulk=True), token)
    starts = {tensor.name: data_start + tensor.start for tensor in tensors}
    pieces = [
        Piece(file, starts[name], offer.shape, offer.item_bytes, outlets[name].sums()) for name, offer in named.items()
    ]
    return pieces, saved.info.size
