"""What a checkpoint of ``torch.distributed.checkpoint`` looks like: its metadata as JSON.

Floor 6. Knows torch's planning classes; must not know how files are written or read
(:mod:`s3dlio.torch.checkpoint_writer`, :mod:`s3dlio.torch.checkpoint_reader`).

::

    metadata.json                                         written last, with one put: the checkpoint exists from then on
    metadata-rank-{rank}.json                             instead of it, of each rank that saves without the others
    data/...                                              pieces of tensors, and what is none as bytes

torch itself pickles its metadata, and whoever unpickles runs what is in there; this is JSON, with a sum of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from s3dlio.checkpoint.pieces import Piece, parse_piece
from s3dlio.checkpoint.places import base_of, pack_summed, parse_summed
from s3dlio.checkpoint.tree import put_together, take_apart
from s3dlio.errors import FormatError, OptionError, UriError

_FORMAT = "s3dlio-dcp"
_VERSION = 1

Pieces = dict[MetadataIndex, Piece]


def is_address(checkpoint_id: str | os.PathLike[str]) -> bool:
    """Tell whether a checkpoint can be at an address: of any backend, or a local path."""
    try:
        base_of(checkpoint_id)
    except (UriError, OptionError):
        return False
    return True


def metadata_name(rank: int | None) -> str:
    """Return the name of the metadata: of all ranks, or of one that saves by itself."""
    return "metadata.json" if rank is None else f"metadata-rank-{rank}.json"


# -- out ----------------------------------------------------------------------------------------------


def pack_metadata(metadata: Metadata, pieces: Mapping[MetadataIndex, Piece]) -> bytes:
    """Return metadata as it is stored.

    Raises:
        OptionError: A planner has put something into it that is not plain (numbers, text, dicts, lists, ...).
    """
    try:
        planner_data = take_apart(metadata.planner_data, []).tree
    except OptionError as error:
        msg = f"the planner's data cannot be saved without pickle: {error.message}"
        raise OptionError(msg) from error
    meta = metadata.storage_meta or StorageMeta()
    told = {
        "format": _FORMAT, "version": _VERSION, "torch": str(torch.__version__),
        "entries": [[name, _packed_entry(entry)] for name, entry in metadata.state_dict_metadata.items()],
        "pieces": [[*_packed_index(index), piece.to_json()] for index, piece in pieces.items()],
        "planner_data": planner_data,
        "storage_meta": {"checkpoint_id": str(meta.checkpoint_id), "save_id": meta.save_id, "modules": meta.modules},
    }  # fmt: skip
    return pack_summed(told)


def _packed_index(index: MetadataIndex) -> list[Any]:
    return [index.fqn, None if index.offset is None else list(index.offset), index.index]


def _packed_entry(entry: Any) -> Any:
    if not isinstance(entry, TensorStorageMetadata):
        return None
    p = entry.properties
    return {
        "dtype": _word(p.dtype), "layout": _word(p.layout), "memory_format": _word(p.memory_format),
        "requires_grad": p.requires_grad, "pin_memory": p.pin_memory, "size": list(entry.size),
        "chunks": [[list(chunk.offsets), list(chunk.sizes)] for chunk in entry.chunks],
    }  # fmt: skip


def _word(value: Any) -> str:
    return str(value).removeprefix("torch.")


# -- in -----------------------------------------------------------------------------------------------


def parse_metadata(text: bytes) -> Metadata:
    """Return metadata from what is stored, having checked all of it; ``storage_data`` are :class:`Piece`.

    Raises:
        IntegrityError: It is not what was written.
        CheckpointError: It is of a later version than this library knows.
        FormatError: It is none.
    """
    told = parse_summed(text, _FORMAT, _VERSION)
    try:
        return _metadata(told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"the metadata cannot be read: {error!r:.300}"
        raise FormatError(msg) from error


def _metadata(told: dict[str, Any]) -> Metadata:
    entries = {str(name): _entry(entry) for name, entry in told["entries"]}
    pieces = {
        MetadataIndex(str(name), offset, number): parse_piece(piece) for name, offset, number, piece in told["pieces"]
    }
    for name, entry in entries.items():
        _check(name, entry, pieces)
    meta = told["storage_meta"]
    return Metadata(
        state_dict_metadata=entries,
        planner_data=put_together(told["planner_data"], _no_array),
        storage_data=pieces,
        storage_meta=StorageMeta(meta["checkpoint_id"], meta["save_id"], modules=list(meta["modules"])),
    )


def _no_array(name: str, _kind: str, _extra: dict[str, Any]) -> Any:
    msg = f"an array {name!r} in the planner's data"
    raise ValueError(msg)


def _entry(told: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if told is None:
        return BytesStorageMetadata()
    properties = TensorProperties(
        dtype=_named(told["dtype"], torch.dtype),
        layout=_named(told["layout"], torch.layout),
        requires_grad=told["requires_grad"] is True,
        memory_format=_named(told["memory_format"], torch.memory_format),
        pin_memory=told["pin_memory"] is True,
    )
    chunks = [ChunkStorageMetadata(_size(offsets), _size(sizes)) for offsets, sizes in told["chunks"]]
    return TensorStorageMetadata(properties, _size(told["size"]), chunks)


def _named(word: Any, kind: type[Any]) -> Any:
    value = getattr(torch, word)
    if not isinstance(value, kind):
        msg = f"{word!r} is no {kind.__name__}"
        raise ValueError(msg)  # noqa: TRY004 - what the file says is wrong, not what the caller gave
    return value


def _size(lengths: Any) -> torch.Size:
    if not all(type(length) is int and 0 <= length < 1 << 62 for length in lengths):
        msg = f"lengths {lengths!r:.100}"
        raise ValueError(msg)
    return torch.Size(lengths)


def _check(name: str, entry: TensorStorageMetadata | BytesStorageMetadata, pieces: Pieces) -> None:
    """See that the parts of a tensor lie within it, and are what the pieces are."""
    if isinstance(entry, BytesStorageMetadata):
        return
    for chunk in entry.chunks:
        piece = pieces.get(MetadataIndex(name, chunk.offsets))
        within = all(
            low + length <= most for low, length, most in zip(chunk.offsets, chunk.sizes, entry.size, strict=True)
        )
        fits = piece and piece.shape == tuple(chunk.sizes) and piece.item_bytes == entry.properties.dtype.itemsize
        if not within or not fits:
            msg = f"a part of tensor {name!r} does not fit: {chunk!r:.200}"
            raise ValueError(msg)
