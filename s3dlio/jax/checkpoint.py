"""Saves and loads pytrees whose arrays lie on the devices of many processes, each its own part.

Floor 6. Knows pytrees, shardings and what processes must do in step; files are :mod:`s3dlio.checkpoint.pieces`',
reads :mod:`s3dlio.checkpoint.gathering`'s. The manifest is put last, at once, when all processes have written.

::

    manifest.json       written last, with one put: the checkpoint exists from then on
    data/...            the shards of each process; ``.json`` beside them, until the manifest is written
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from s3dlio import api, removal
from s3dlio.buckets import list_uris
from s3dlio.checkpoint.kinds import dtype_name
from s3dlio.checkpoint.pieces import Offer, Piece, parse_piece, write_pieces
from s3dlio.checkpoint.places import DATA, base_of, file_names, new_save, pack_summed, parse_summed, removable
from s3dlio.checkpoint.tree import put_together, take_apart
from s3dlio.context import current_token, store_of
from s3dlio.errors import (
    AlreadyExistsError,
    CheckpointError,
    FormatError,
    IncompleteCheckpointError,
    IntegrityError,
    NotFoundError,
    OptionError,
    S3dlioError,
)
from s3dlio.jax.leaves import FetchedOutlet, named_dtype, plain_of, require_concrete, shard_on_host
from s3dlio.uri import Uri

MANIFEST = "manifest.json"
_FORMAT = "s3dlio-jax"
_VERSION = 1
_SAVE_DIGITS = 96  # more than a save's name has

Shape = tuple[int, ...]


class SavedArray(NamedTuple):
    """What the manifest says of an array.

    Attributes:
        dtype: Its dtype.
        shape: Its lengths, all processes' parts together.
        made_by: What random keys were made by; ``None`` for numbers.
        is_numpy: It was an array of NumPy.
        pieces: Where each begins in the array, and what it is. They do not overlap.
    """

    dtype: np.dtype[Any]
    shape: Shape
    made_by: str | None
    is_numpy: bool
    pieces: list[tuple[Shape, Piece]]


class SavedTree(NamedTuple):
    """What the manifest says.

    Attributes:
        arrays: By path.
        values: What is no array, by path.
    """

    arrays: dict[str, SavedArray]
    values: dict[str, Any]


def leaves_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by path (``['layers'][0].kernel``); ``None`` is no leaf to JAX."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def save_sharded(uri: str | os.PathLike[str], tree: Any, *, overwrite: bool = True) -> None:
    """Save a pytree whose arrays lie on many devices, of many processes: each writes what its own devices hold.

    All processes of ``jax.distributed`` call it with the same ``uri`` and the same structure, as a collective.
    Of what several devices hold, one writes; arrays that lie on devices of one process alone, NumPy's arrays and
    what is no array are taken to be the same everywhere, and process 0 writes them. Shards are fetched from devices
    one after the other and sent in parts, several at once; on the CPU from their own memory. Every block of 64 KiB
    to 8 MiB is saved with its CRC-32C. Saved twice to the same place, the first checkpoint can be loaded until the
    second can; its files are then removed.

    Args:
        uri: Where the checkpoint is to be (its objects lie below), or a local directory that all processes see.
        tree: Any pytree. Its leaves: ``jax.Array`` (random keys too), NumPy arrays, numbers, text, bytes.
        overwrite: ``False`` refuses to replace a checkpoint.

    Raises:
        OptionError: A leaf cannot be saved; it names the path.
        AlreadyExistsError: There is a checkpoint, and ``overwrite`` is ``False``.
        IncompleteCheckpointError: Another process could not write its part: there is no new checkpoint.
        StoreError: It cannot be written; the checkpoint before it is as it was.

    Example:
        >>> import jax.numpy as jnp
        >>> from s3dlio.jax import load_sharded, save_sharded
        >>> save_sharded("memory://demo/jax", {"w": jnp.arange(3), "step": 7})
        >>> load_sharded("memory://demo/jax", {"w": jnp.zeros(3, int), "step": 0})
        {'step': 7, 'w': Array([0, 1, 2], dtype=int32)}
    """
    base = base_of(uri)
    save = _agreed_name()
    error: Exception | None = None
    try:
        _write_own(base, save, leaves_of(tree), overwrite=overwrite)
    except Exception as caught:  # noqa: BLE001 - raised below: the others wait for this process, and must not for ever
        error = caught
    _wait_for_all(f"s3dlio {save} written")
    if error is None and jax.process_index() == 0:
        try:
            _commit(base, save, overwrite=overwrite)
        except Exception as caught:  # noqa: BLE001 - as above
            error = caught
    done = _told_by_first(error is None)
    if error is not None:
        if isinstance(error, S3dlioError):
            error.concern(base, "save_checkpoint")
        raise error
    if not done:
        msg = "there is no new checkpoint: process 0 could not finish it; its own error says why"
        raise IncompleteCheckpointError(msg, uri=str(base), operation="save_checkpoint")


# -- processes in step ----------------------------------------------------------------------------------


def _agreed_name() -> str:
    """Return a name for this save, the same in all processes."""
    save = new_save()
    if jax.process_count() == 1:
        return save
    text = np.frombuffer(save.encode().ljust(_SAVE_DIGITS), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(text), np.uint8)).decode().strip()


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _told_by_first(value: bool) -> bool:  # noqa: FBT001 - one word to all
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value, np.int32)))


# -- out ------------------------------------------------------------------------------------------------


def _write_own(base: Uri, save: str, leaves: Mapping[str, Any], *, overwrite: bool) -> None:
    rank = jax.process_index()
    if rank == 0 and not overwrite and api.exists(f"{base}{MANIFEST}"):
        msg = "there is a checkpoint already, and overwrite is False"
        raise AlreadyExistsError(msg, uri=str(base), operation="save_checkpoint")
    told: dict[str, Any] = {}
    offers: list[tuple[str, Shape, Offer]] = []
    for path, leaf in leaves.items():
        try:
            told[path] = _described(path, leaf, offers)
        except OptionError as error:
            msg = f"{path}: {error.message}" if path else error.message
            raise OptionError(msg, uri=str(base), operation="save_checkpoint") from error
    pieces: Sequence[Piece] = []
    if offers:
        file = next(file_names(save, rank))
        pieces, _ = write_pieces(store_of(base), base, file, [offer for _, _, offer in offers], current_token())
    for (path, offsets, _), piece in zip(offers, pieces, strict=True):
        told[path]["pieces"].append([list(offsets), piece.to_json()])
    beside = next(file_names(save, rank, suffix="json"))
    api.put(f"{base}{beside}", json.dumps(told).encode(), content_type="application/json")


def _described(path: str, leaf: Any, offers: list[tuple[str, Shape, Offer]]) -> dict[str, Any]:
    """Return what the manifest will say of a leaf, and add what this process is to write of it."""
    if isinstance(leaf, jax.Array):
        require_concrete(leaf)
        data, more = plain_of(leaf)
        mine = _shards_to_write(data)
    elif isinstance(leaf, (np.ndarray, np.generic)):
        data, more = np.asarray(leaf), {"numpy": True}
        mine = [((0,) * data.ndim, data)] if jax.process_index() == 0 else []
    else:
        return {"value": take_apart(leaf, []).tree}
    dtype = np.dtype(data.dtype)
    if dtype.hasobject or dtype.names or dtype.itemsize not in (1, 2, 4, 8, 16) or dtype.kind in "MmSU":
        msg = f"an array of dtype {dtype} cannot be saved"
        raise OptionError(msg)
    for offsets, part in mine:
        offers.append((path, offsets, _offer(f"{path}{list(offsets)}", part, dtype)))
    return {"dtype": dtype.name, "shape": list(data.shape), **more, "pieces": []}


def _shards_to_write(data: Any) -> list[tuple[Shape, Any]]:
    """Return offsets and array of the parts that this process is to write."""
    if data.is_fully_addressable and jax.process_count() > 1 and jax.process_index() != 0:
        return []
    shards = [shard for shard in data.addressable_shards if shard.replica_id == 0]
    return [(tuple(part.start or 0 for part in shard.index), shard.data) for shard in shards]


def _offer(name: str, part: Any, dtype: np.dtype[Any]) -> Offer:
    def fetch() -> np.ndarray[Any, Any]:
        if isinstance(part, np.ndarray):
            return np.ascontiguousarray(part).astype(dtype.newbyteorder("<"), copy=False)
        return shard_on_host(part)

    length = part.size * dtype.itemsize
    told = dtype_name(dtype) or "U8"
    return Offer(name, told, tuple(part.shape), dtype.itemsize, FetchedOutlet(fetch, length), "numpy")


def _commit(base: Uri, save: str, *, overwrite: bool) -> None:
    besides = [next(file_names(save, rank, suffix="json")) for rank in range(jax.process_count())]
    told = _merged([_beside(base, file, rank) for rank, file in enumerate(besides)])
    before = _files_of(base)
    text = pack_summed(
        {"format": _FORMAT, "version": _VERSION, "leaves": [[path, leaf] for path, leaf in told.items()]}
    )
    api.put(f"{base}{MANIFEST}", text, overwrite=overwrite, content_type="application/json")
    try:
        kept = _files_of(base)
        found = [uri.removeprefix(str(base)) for uri in list_uris(f"{base}{DATA}")]
        gone = {*besides, *(before - kept), *removable(found, kept)}
        removal.delete([f"{base}{file}" for file in gone])
    except S3dlioError as error:
        msg = f"the checkpoint is saved, but files of the one before it could not be removed: {error}"
        warnings.warn(msg, RuntimeWarning, stacklevel=3)


def _beside(base: Uri, file: str, rank: int) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(bytes(api.get(f"{base}{file}")))
    except NotFoundError as error:
        msg = f"process {rank} has not written its part; its own error says why"
        raise IncompleteCheckpointError(msg, uri=str(base), operation="save_checkpoint") from error
    return told


def _merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the processes' descriptions together; values are those of process 0."""
    whole, *others = parts
    for rank, other in enumerate(others, 1):
        for path, leaf in other.items():
            ours = whole.get(path, {})
            facts = ("dtype", "shape", "key")
            if set(other) != set(whole) or [ours.get(fact) for fact in facts] != [leaf.get(fact) for fact in facts]:
                msg = f"processes 0 and {rank} do not save the same structure: they differ at {path}"
                raise CheckpointError(msg, operation="save_checkpoint")
            ours.get("pieces", []).extend(leaf.get("pieces", []))
    for path, leaf in whole.items():
        if "shape" in leaf and sum(math.prod(p["shape"]) for _, p in leaf["pieces"]) != math.prod(leaf["shape"]):
            msg = f"the processes' parts of {path} are not the whole array"
            raise IncompleteCheckpointError(msg, operation="save_checkpoint")
    return whole


def _files_of(base: Uri) -> set[str]:
    """Return the files of the checkpoint at a place, if there is one that can be read."""
    try:
        saved = read_manifest(base)
    except (NotFoundError, FormatError, IntegrityError, CheckpointError):
        return set()
    return {piece.file for array in saved.arrays.values() for _, piece in array.pieces}


# -- the manifest -----------------------------------------------------------------------------------------


def read_manifest(base: Uri) -> SavedTree:
    """Return what the manifest says, checked.

    Raises:
        NotFoundError: There is no checkpoint.
        IntegrityError: The manifest is damaged.
        CheckpointError: It is of a later version than this library knows.
        FormatError: It is none.
    """
    where = f"{base}{MANIFEST}"
    try:
        told = parse_summed(bytes(api.get(where)), _FORMAT, _VERSION)
        return _parsed(told)
    except NotFoundError as error:
        msg = f"there is no checkpoint: {MANIFEST} is missing (a save puts it last)"
        raise NotFoundError(msg, uri=str(base), operation="load_checkpoint") from error
    except (IntegrityError, CheckpointError, FormatError) as error:
        error.concern(where, "load_checkpoint")
        raise


def _parsed(told: dict[str, Any]) -> SavedTree:
    arrays: dict[str, SavedArray] = {}
    values: dict[str, Any] = {}
    try:
        for path, leaf in told["leaves"]:
            if "value" in leaf:
                values[str(path)] = put_together(leaf["value"], _no_array)
            else:
                arrays[str(path)] = _array_of(leaf)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"the manifest cannot be read: {error!r:.300}"
        raise FormatError(msg) from error
    return SavedTree(arrays, values)


def _no_array(name: str, _kind: str, _extra: dict[str, Any]) -> Any:
    msg = f"an array {name!r} within a value"
    raise ValueError(msg)


def _array_of(leaf: dict[str, Any]) -> SavedArray:
    dtype, shape = named_dtype(leaf["dtype"]), tuple(leaf["shape"])
    pieces = [(tuple(offsets), parse_piece(piece)) for offsets, piece in leaf["pieces"]]
    counts = [count for lengths in (shape, *(offsets for offsets, _ in pieces)) for count in lengths]
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        msg = f"lengths of {leaf!r:.200}"
        raise ValueError(msg)
    for offsets, piece in pieces:
        ends = [low + length for low, length in zip(offsets, piece.shape, strict=True)]
        within = all(end <= most for end, most in zip(ends, shape, strict=True))
        if not within or piece.item_bytes != dtype.itemsize:
            msg = f"a part does not fit: {offsets!r:.100}, {piece!r:.200}"
            raise ValueError(msg)
    return SavedArray(dtype, shape, leaf.get("key"), leaf.get("numpy") is True, pieces)


def iter_paths(saved: SavedTree) -> Iterator[str]:
    """Yield the paths of all leaves."""
    yield from saved.arrays
    yield from saved.values
