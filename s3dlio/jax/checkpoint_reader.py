"""Loads pytrees onto devices: each process reads what its own devices are to hold, and no more.

Floor 6. Knows shardings and how the parts that were saved cover the parts that are wanted; the manifest is
:mod:`s3dlio.jax.checkpoint`'s, requests are :mod:`s3dlio.checkpoint.gathering`'s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from s3dlio.buffers import MIB
from s3dlio.checkpoint.gathering import Block, Files, blocks_for
from s3dlio.checkpoint.kinds import HostInlet
from s3dlio.checkpoint.pieces import Piece, Span, span_of, strides_of
from s3dlio.checkpoint.places import base_of
from s3dlio.context import current_token, store_of
from s3dlio.errors import CheckpointError, FormatError, IncompleteCheckpointError, OptionError
from s3dlio.jax.abstract import sharding_of
from s3dlio.jax.checkpoint import SavedArray, SavedTree, iter_paths, leaves_of, read_manifest
from s3dlio.jax.leaves import bytes_of_array, is_key, keys_of, plain_of, require_dtype, room_for

#: Arrays are read in turns of about so much memory of this machine, and handed to the devices in between.
_TURN_BYTES = 1024 * MIB

Shape = tuple[int, ...]
_Array = np.ndarray[Any, Any]


class Box(NamedTuple):
    """A part of an array.

    Attributes:
        offsets: Where it begins, on each axis.
        lengths: How long it is.
    """

    offsets: Shape
    lengths: Shape


def load_sharded(uri: str | os.PathLike[str], like: Any = None, *, partial: bool = False) -> Any:
    """Load what :func:`save_sharded` has saved, onto any devices: on another mesh or number of processes, too.

    Each process reads the ranges that its own devices need, several at once, and checks every block of them (64 KiB
    to 8 MiB). Of what several devices hold, it reads one copy. On CPU devices arrays take over the memory that was
    read into; other devices are handed theirs, about 1 GiB at a time.

    Args:
        uri: Where the checkpoint is, or a local directory.
        like: A pytree of the saved structure. Its leaves say where arrays go: ``jax.Array`` or
            ``jax.ShapeDtypeStruct`` (to the same devices, checked for shape and dtype), a ``jax.sharding.Sharding``
            (not checked), a NumPy array (to NumPy), anything else for what was saved as no array. ``None``: a dict
            of all leaves by path, whole arrays on the default device.
        partial: Take what ``like`` asks for, and leave the rest of the checkpoint.

    Returns:
        A pytree like ``like``; its leaves are new, and nothing is shared with it.

    Raises:
        NotFoundError: There is no checkpoint.
        CheckpointError: It does not fit ``like``; every path, shape and dtype that differs is listed.
        IncompleteCheckpointError: A file is missing, or cut.
        IntegrityError: Bytes are not those that were saved; it names path and file.
        FormatError: It is no checkpoint, or JAX would change its 64-bit numbers (``jax_enable_x64``).
        StoreError: It cannot be read.
    """
    base = base_of(uri)
    saved = read_manifest(base)
    wanted = dict.fromkeys(iter_paths(saved)) if like is None else leaves_of(like)
    _require_fit(str(base), saved, wanted, is_partial=partial or like is None)
    found = dict(saved.values)
    files = Files(store_of(base), base, current_token())
    arrays = [_Arrival(path, saved.arrays[path], leaf) for path, leaf in wanted.items() if path in saved.arrays]
    for turn in _turns(arrays):
        for array in turn:
            array.prepare(files)
        files.read([block for array in turn for block in array.blocks])
        for array in turn:
            found[array.path] = array.finish()
    if like is None:
        return found
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), [found[path] for path in wanted])


def _turns(arrays: Sequence[_Arrival]) -> Iterator[list[_Arrival]]:
    turn: list[_Arrival] = []
    for array in arrays:
        if turn and sum(one.needed for one in turn) + array.needed > _TURN_BYTES:
            yield turn
            turn = []
        turn.append(array)
    if turn:
        yield turn


# -- what fits --------------------------------------------------------------------------------------------


def _require_fit(uri: str, saved: SavedTree, wanted: dict[str, Any], *, is_partial: bool) -> None:
    faults = []
    for path, leaf in wanted.items():
        if path in saved.arrays:
            faults += [f"{path}: {fault}" for fault in [_misfit(saved.arrays[path], leaf)] if fault]
        elif path not in saved.values:
            faults.append(f"{path}: is not in the checkpoint")
        elif _is_array(leaf):
            faults.append(f"{path}: is no array in the checkpoint")
    if not is_partial:
        faults += [f"{path}: is in the checkpoint only" for path in iter_paths(saved) if path not in wanted]
    if faults:
        msg = f"the checkpoint does not fit ({len(faults)} differences):\n  " + "\n  ".join(sorted(faults))
        raise CheckpointError(msg, uri=uri, operation="load_checkpoint")


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, Sharding))


def _misfit(saved: SavedArray, leaf: Any) -> str:
    if leaf is None or isinstance(leaf, Sharding):
        return ""
    if not _is_array(leaf):
        return f"is an array in the checkpoint, and a {type(leaf).__name__} here"
    keys = saved.made_by is not None
    if keys != (isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) and is_key(leaf)):
        return "random keys, and numbers " + ("here" if keys else "in the checkpoint")
    theirs = saved.shape[: len(leaf.shape)] if keys else saved.shape
    if tuple(leaf.shape) != theirs:
        return f"shape {list(leaf.shape)}, and {list(theirs)} in the checkpoint"
    if not keys and np.dtype(leaf.dtype) != saved.dtype:
        return f"dtype {leaf.dtype}, and {saved.dtype} in the checkpoint"
    return _misplaced(saved, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else ""


def _misplaced(saved: SavedArray, leaf: Any) -> str:
    try:
        sharding_of(leaf, saved.shape)
    except OptionError as error:
        return error.message
    return ""


# -- arrays on their way in -------------------------------------------------------------------------------


class _Arrival:
    """One array on its way in: a memory for each box that some device here is to hold."""

    def __init__(self, path: str, saved: SavedArray, like: Any) -> None:
        self.path = path
        self.blocks: list[Block] = []
        self._saved = saved
        self._sharding = _sharding_of(like, saved.shape)
        self._to_numpy = isinstance(like, (np.ndarray, np.generic)) or (like is None and saved.is_numpy)
        self._is_scalar = isinstance(like, np.generic)
        self._devices = self._devices_of_boxes()
        self._memories: dict[Box, _Array] = {}
        self._inlets: list[HostInlet] = []
        if not self._to_numpy:
            try:
                require_dtype(saved.dtype)
            except FormatError as error:
                raise FormatError(f"{path}: {error.message}", operation="load_checkpoint") from error

    @property
    def needed(self) -> int:
        """Bytes of memory."""
        return sum(math.prod(box.lengths) for box in self._devices) * self._saved.dtype.itemsize

    def _devices_of_boxes(self) -> dict[Box, list[Any]]:
        shape = self._saved.shape
        if self._sharding is None:
            return {Box((0,) * len(shape), shape): []}
        found: dict[Box, list[Any]] = {}
        for device, index in self._sharding.addressable_devices_indices_map(shape).items():
            ranges = [part.indices(length) for part, length in zip(index or (), shape, strict=True)]
            box = Box(tuple(low for low, _, _ in ranges), tuple(high - low for low, high, _ in ranges))
            found.setdefault(box, []).append(device)
        return found

    def prepare(self, files: Files) -> None:
        """Find out which blocks are to be read, and take the memory.

        Raises:
            IncompleteCheckpointError: The saved parts do not cover what is wanted, or files are missing.
        """
        parts = {box: list(self._parts(box)) for box in self._devices}
        files.require([part.piece for found in parts.values() for part in found])
        for box, found in parts.items():
            size = math.prod(box.lengths)
            if sum(math.prod(part.lengths) for part in found) != size:
                msg = f"{self.path}: the parts that were saved do not cover the array"
                raise IncompleteCheckpointError(msg, operation="load_checkpoint")
            memory = room_for(box.lengths, self._saved.dtype, size * self._saved.dtype.itemsize)
            self._memories[box] = memory
            for part in found:
                self._expect(part, box, memory)

    def _parts(self, box: Box) -> Iterator[_Part]:
        for offsets, piece in self._saved.pieces:
            lows = tuple(map(max, offsets, box.offsets))
            ends = [low + length for low, length in zip(offsets, piece.shape, strict=True)]
            highs = map(min, ends, (low + length for low, length in zip(*box, strict=True)))
            lengths = tuple(high - low for low, high in zip(lows, highs, strict=True))
            if all(length > 0 for length in lengths):
                yield _Part(piece, _minus(lows, offsets), _minus(lows, box.offsets), lengths)

    def _expect(self, part: _Part, box: Box, memory: _Array) -> None:
        source = part.piece.span(part.source, part.lengths)
        target = span_of(box.lengths, memory.dtype.itemsize, part.target, part.lengths)
        if source.is_whole and target.is_whole:
            inlet = HostInlet(None, bytes_of_array(memory)[target.start : target.stop])
        else:
            view = memory[tuple(slice(at, at + n) for at, n in zip(part.target, part.lengths, strict=True))]
            source, inlet = _cut_out(view, part.piece, source)
        self._inlets.append(inlet)
        self.blocks += blocks_for(part.piece, self.path, source.start, source.stop, inlet)

    def finish(self) -> Any:
        """Return the array, once all its bytes are there."""
        for inlet in self._inlets:
            inlet.finish()
        if self._sharding is None:
            (memory,) = self._memories.values()
            if self._to_numpy:
                return memory[()] if self._is_scalar else memory
            return keys_of(jax.device_put(memory), self._saved.made_by)
        shards = [
            jax.device_put(memory, device) for box, memory in self._memories.items() for device in self._devices[box]
        ]
        data = jax.make_array_from_single_device_arrays(self._saved.shape, self._sharding, shards)
        return keys_of(data, self._saved.made_by)


class _Part(NamedTuple):
    """What one piece has of a box."""

    piece: Piece
    source: Shape
    target: Shape
    lengths: Shape


def _minus(one: Shape, other: Shape) -> Shape:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _sharding_of(like: Any, plain_shape: Shape) -> Any:
    if isinstance(like, Sharding):
        return like
    if isinstance(like, jax.Array):
        return plain_of(like)[0].sharding
    return sharding_of(like, plain_shape) if isinstance(like, jax.ShapeDtypeStruct) else None


def _cut_out(target: _Array, piece: Piece, span: Span) -> tuple[Span, HostInlet]:
    """Return what is to be read for a box, and where to: memory that the box is copied out of afterwards."""
    blocks = piece.blocks(span.start, span.stop)
    around = Span(blocks[0][0], blocks[-1][1], is_whole=True)
    length = around.stop - around.start
    memory = room_for((length // target.dtype.itemsize,), target.dtype, length)
    inside = memory[(span.start - around.start) // target.dtype.itemsize :]
    strides = strides_of(piece.shape, piece.item_bytes)
    box = np.lib.stride_tricks.as_strided(inside, target.shape, strides, writeable=False)
    return around, _CutInlet(target, box, bytes_of_array(memory))


class _CutInlet(HostInlet):
    """Memory that a box is copied out of when it is there."""

    def __init__(self, target: _Array, box: _Array, memory: memoryview) -> None:
        super().__init__(None, memory)
        self._target = target
        self._box = box

    def finish(self) -> Any:
        """See :meth:`s3dlio.checkpoint.kinds.Inlet.finish`."""
        self._target[...] = self._box
