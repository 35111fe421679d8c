"""Loads state dicts by ``torch.distributed.checkpoint``: what each rank needs, straight into its tensors.

Floor 6. Knows what torch calls when, and how a part of a tensor that was saved becomes a part of one that is to be
filled; requests are :mod:`s3dlio.checkpoint.gathering`'s, other libraries' checkpoints
:mod:`s3dlio.torch.checkpoint_foreign`'s.
"""

from __future__ import annotations

import abc
import io
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from s3dlio import api
from s3dlio.buffers import MIB, bytes_of
from s3dlio.checkpoint.gathering import Block, Files, blocks_for
from s3dlio.checkpoint.kinds import HostInlet, Inlet
from s3dlio.checkpoint.pieces import Piece, Span
from s3dlio.checkpoint.places import base_of
from s3dlio.context import current_token, store_of
from s3dlio.errors import CheckpointError, FormatError, IntegrityError, NotFoundError
from s3dlio.torch import checkpoint as layout
from s3dlio.torch.checkpoint_foreign import METADATA as FOREIGN
from s3dlio.torch.checkpoint_foreign import ForeignReader
from s3dlio.torch.leaves import KIND
from s3dlio.torch.plain import unpickled

#: What is read beside its place and then copied, at once; one that is larger comes by itself.
_STAGED_BYTES = 512 * MIB


class S3StorageReader(StorageReader):
    """Reads checkpoints of ``torch.distributed.checkpoint`` (DCP) from any backend; see :class:`S3StorageWriter`.

    Each rank reads what its tensors need, by ranges, several at once, straight into their memory: on another
    number of ranks too. What is read is checked, a block at a time (a 64th of a saved part, from 64 KiB to 8 MiB);
    blocks that hold a needed byte are read, no others, so parts by rows cost hardly a byte too much. Parts by
    columns of which a row is shorter than a block are cut out of whole parts. Tensors on a device are filled
    through pinned memory, and tensors that are not contiguous from a copy, at most 512 MiB at once (or one part
    of a tensor, if that is larger).

    **No code of a checkpoint is run.** What is no tensor was pickled by torch's planner, which unpickles it
    without restraint (``weights_only=False``). So it is taken through ``torch.load(weights_only=True)`` here
    first, and the planner gets what has come out of that: plain Python values (dates and ``BytesIO`` too),
    tensors, NumPy's arrays of numbers and text, and the classes of ``torch.serialization.add_safe_globals``.
    ``allow_pickle=True`` hands it on as it is.

    It can be pickled, works in forked children, and may be used for many loads, one after the other. A load that
    is under way while the same place is saved again fails; it never mixes the two.

    Args:
        uri: Where the checkpoint is; ``checkpoint_id=`` of ``dcp.load`` takes its place.
        allow_pickle: Unpickle whatever is in it, which runs code of whoever wrote it. Checkpoints of torch's own
            writers and of s3torchconnector need this: their metadata is pickled.

    Raises:
        UriError: ``uri`` is no address.
    """

    def __init__(self, uri: str | os.PathLike[str], *, allow_pickle: bool = False) -> None:
        super().__init__()
        self._base = base_of(uri)
        self._allow_pickle = allow_pickle
        self._load_id = uuid.uuid4().hex
        self._metadata = Metadata({})
        self._foreign: ForeignReader | None = None

    @property
    def checkpoint_id(self) -> str:
        """Where the checkpoint is."""
        return str(self._base)

    def __repr__(self) -> str:
        """Show where the checkpoint is."""
        return f"S3StorageReader({self.checkpoint_id!r})"

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin another load, of another place if one is given."""
        if checkpoint_id:
            self._base = base_of(checkpoint_id)
        self._load_id = uuid.uuid4().hex
        self._metadata = Metadata({})
        self._foreign = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what the checkpoint holds.

        Args:
            *args: None so far.
            **kwargs: ``rank``: of a checkpoint whose ranks have saved each by itself.

        Raises:
            NotFoundError: There is no checkpoint.
            CheckpointError: Another library has written it, and ``allow_pickle`` is ``False``; or it is of a
                later version than this library knows.
            IntegrityError: The metadata is damaged.
            FormatError: It is none.
        """
        rank = kwargs.get("rank")
        where = f"{self.checkpoint_id}{layout.metadata_name(rank)}"
        try:
            text = bytes(api.get(where))
        except NotFoundError as error:
            return self._read_foreign(rank, error)
        try:
            metadata = layout.parse_metadata(text)
        except (FormatError, IntegrityError, CheckpointError) as error:
            error.concern(where, "load_checkpoint")
            raise
        (metadata.storage_meta or StorageMeta()).load_id = self._load_id
        return metadata

    def _read_foreign(self, rank: int | None, error: NotFoundError) -> Metadata:
        if not api.exists(
            f"{self.checkpoint_id}{FOREIGN}" if rank is None else f"{self.checkpoint_id}__{rank}{FOREIGN}"
        ):
            name = layout.metadata_name(rank)
            msg = f"there is no checkpoint: {name} is missing (a save puts it last): {error.message}"
            raise NotFoundError(msg, uri=self.checkpoint_id, operation="load_checkpoint") from error
        if not self._allow_pickle:
            msg = (
                f"another library has written this checkpoint, with pickled metadata ({FOREIGN}): give "
                "S3StorageReader(..., allow_pickle=True) if you trust whoever has written it"
            )
            raise CheckpointError(msg, uri=self.checkpoint_id, operation="load_checkpoint") from error
        self._foreign = ForeignReader(self.checkpoint_id)
        return self._foreign.read_metadata(**({} if rank is None else {"rank": rank}))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: FBT001 - torch's
        """Learn what the checkpoint holds."""
        self._metadata = metadata
        if self._foreign is not None:
            self._foreign.set_up_storage_reader(metadata, is_coordinator, *args, **kwargs)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what this rank needs; done when this returns.

        Raises:
            IncompleteCheckpointError: A file is missing, or cut.
            IntegrityError: Bytes are not those that were saved; it names the tensor and the file.
            CheckpointError: What is no tensor needs ``allow_pickle=True``.
            StoreError: They cannot be read.
        """
        if self._foreign is not None:
            return self._foreign.read_data(plan, planner)
        files = Files(store_of(self._base), self._base, current_token())
        files.require([self._piece(item) for item in plan.items])
        for wave in self._waves(plan.items):
            arrivals = [self._arrival(item, planner) for item in wave]
            files.read([block for arrival in arrivals for block in arrival.blocks])
            for arrival in arrivals:
                arrival.finish()
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _piece(self, item: ReadItem) -> Piece:
        piece: Piece | None = self._metadata.storage_data.get(item.storage_index)
        if piece is None:
            msg = f"the metadata does not say where {item.storage_index.fqn!r} is"
            raise CheckpointError(msg, uri=self.checkpoint_id, operation="load_checkpoint")
        return piece

    def _waves(self, items: Sequence[ReadItem]) -> Iterator[list[ReadItem]]:
        """Divide items so that memory for what may be staged stays bounded."""
        wave: list[ReadItem] = []
        staged = 0
        for item in items:
            length = self._piece(item).length
            if wave and staged + length > _STAGED_BYTES and self._may_stage(item):
                yield wave
                wave, staged = [], 0
            wave.append(item)
            staged += length if self._may_stage(item) else 0
        if wave:
            yield wave

    def _may_stage(self, item: ReadItem) -> bool:
        if item.type == LoadItemType.BYTE_IO or 0 in item.lengths:
            return True
        return not self._piece(item).span(item.storage_offsets, item.lengths).is_whole

    def _arrival(self, item: ReadItem, planner: LoadPlanner) -> _Arrival:
        piece = self._piece(item)
        if item.type == LoadItemType.BYTE_IO:
            return _BytesArrival(item, planner, piece, None if self._allow_pickle else self.checkpoint_id)
        entry = self._metadata.state_dict_metadata[item.storage_index.fqn]
        if not isinstance(entry, TensorStorageMetadata):
            msg = f"{item.storage_index.fqn!r} was saved as bytes, and is to be loaded as a tensor"
            raise CheckpointError(msg, uri=self.checkpoint_id, operation="load_checkpoint")
        return _TensorArrival(item, planner, piece, entry.properties.dtype)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tell whether a checkpoint can be there: any URI that this library knows, or a local path."""
        return layout.is_address(checkpoint_id)


class _Arrival(abc.ABC):
    """One item on its way in."""

    blocks: list[Block]

    @abc.abstractmethod
    def finish(self) -> None:
        """Hand it over to the planner: its bytes are there."""


class _BytesArrival(_Arrival):
    """Something that is no tensor."""

    def __init__(self, item: ReadItem, planner: LoadPlanner, piece: Piece, guarded: str | None) -> None:
        self._item = item
        self._planner = planner
        self._guarded = guarded
        self._memory = np.empty(piece.length, np.uint8)
        inlet = HostInlet(None, bytes_of(self._memory))
        self.blocks = blocks_for(piece, item.storage_index.fqn, 0, piece.length, inlet) if piece.length else []

    def finish(self) -> None:
        data = io.BytesIO(self._memory.tobytes())
        self._planner.load_bytes(self._item, data if self._guarded is None else self._plain(data, self._guarded))

    def _plain(self, data: io.BytesIO, uri: str) -> io.BytesIO:
        """Return bytes that this process has made of what could be unpickled without running anything."""
        try:
            value = unpickled(data)
        except CheckpointError as error:
            msg = f"{self._item.storage_index.fqn!r}: {error.message}"
            raise CheckpointError(msg, uri=uri, operation="load_checkpoint") from error
        plain = io.BytesIO()
        torch.save(value, plain)
        plain.seek(0)
        return plain


class _TensorArrival(_Arrival):
    """A part of a tensor."""

    def __init__(self, item: ReadItem, planner: LoadPlanner, piece: Piece, dtype: torch.dtype) -> None:
        self._item = item
        self._planner = planner
        self._target = target = planner.resolve_tensor(item).detach()
        if target.size() != item.lengths:
            msg = f"{item.dest_index.fqn!r}: {tuple(item.lengths)} is to go into {tuple(target.size())}"
            raise CheckpointError(msg, operation="load_checkpoint")
        self._inlet: Inlet | None = None
        self.blocks = []
        if not target.numel():
            return
        span = piece.span(item.storage_offsets, item.lengths)
        if span.is_whole and target.dtype == dtype:
            self._inlet = KIND.existing(target)
        else:
            span, self._inlet = _cut_out(target, piece, span, dtype)
        self.blocks = blocks_for(piece, item.storage_index.fqn, span.start, span.stop, self._inlet)

    def finish(self) -> None:
        if self._inlet is not None:
            self._inlet.finish()
        self._planner.commit_tensor(self._item, self._target)


def _cut_out(target: torch.Tensor, piece: Piece, span: Span, dtype: torch.dtype) -> tuple[Span, Inlet]:
    """Return what is to be read for a box, and where to: memory that the box is copied out of afterwards."""
    blocks = piece.blocks(span.start, span.stop)
    around = Span(blocks[0][0], blocks[-1][1], is_whole=True)
    memory = torch.empty((around.stop - around.start) // dtype.itemsize, dtype=dtype)
    strides = [math.prod(piece.shape[axis + 1 :]) for axis in range(len(piece.shape))]
    box = memory.as_strided(target.size(), strides, (span.start - around.start) // dtype.itemsize)
    return around, _CutInlet(target, box, KIND.existing(memory).memory(0, around.stop - around.start))


class _CutInlet(HostInlet):
    """Memory that a box is copied out of when it is there."""

    def __init__(self, target: torch.Tensor, box: torch.Tensor, memory: memoryview) -> None:
        super().__init__(target, memory)
        self._box = box

    def finish(self) -> Any:
        """See :meth:`s3dlio.checkpoint.kinds.Inlet.finish`."""
        target: torch.Tensor = super().finish()
        target.copy_(self._box)
        return target
