"""Saves state dicts of many ranks by ``torch.distributed.checkpoint``: parts of tensors straight from their memory.

Floor 6. Knows what torch calls when; files are :mod:`s3dlio.checkpoint.pieces`', their names and the metadata
:mod:`s3dlio.torch.checkpoint`'s.
"""

from __future__ import annotations

import io
import math
import os
import threading
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from s3dlio import api, removal
from s3dlio.bounds import flag, whole
from s3dlio.buckets import list_uris
from s3dlio.cancel import CancellationToken
from s3dlio.checkpoint.kinds import HostOutlet, Outlet
from s3dlio.checkpoint.manifest import check_strategy
from s3dlio.checkpoint.pieces import Offer, write_pieces
from s3dlio.checkpoint.places import DATA, base_of, file_names, new_save, removable
from s3dlio.context import current_token, store_of
from s3dlio.crew import map_all
from s3dlio.errors import (
    AlreadyExistsError,
    CheckpointError,
    FormatError,
    IntegrityError,
    NotFoundError,
    OptionError,
    S3dlioError,
)
from s3dlio.torch import checkpoint as layout
from s3dlio.torch.leaves import KIND, dtype_name
from s3dlio.uri import Uri


class S3StorageWriter(StorageWriter):
    """Writes checkpoints of ``torch.distributed.checkpoint`` (DCP): ``save`` and ``async_save``.

    To any backend: ``s3://``, ``gs://``, ``az://``, ``file://``, ``direct://``, ``memory://`` (one process), or a
    local path. Each rank writes one file (in the safetensors layout) straight from its tensors' memory, several
    parts at once; from a device through pinned memory. The metadata is JSON and is put last, at once, over what
    was there: saved twice to the same place, the first checkpoint can be loaded until the second can, and only
    then its files are removed. A save that was killed leaves the checkpoint before it whole; the files it leaves
    are removed by a later save, once they are a day old.

    What is neither tensor nor DTensor, torch's planner pickles (``torch.save``); here those are just bytes.
    :class:`S3StorageReader` loads them without running what is in them.

    It can be pickled, works in forked children, and may be used for many saves, one after the other.

    Args:
        uri: Where the checkpoint is to be; ``checkpoint_id=`` of ``dcp.save`` takes its place.
        overwrite: ``False`` refuses to replace a checkpoint.
        strategy: How the names of ranks' files spread over prefixes: ``flat``, ``round_robin`` or ``binary``.
        files_per_rank: How many files each rank writes; more than one if a rank's file would be too large
            (5 TiB on S3), or if it is alone on a local file system, where the kernel lets one thread at a time
            write to a file.

    Raises:
        OptionError: There is no such strategy, or ``files_per_rank`` is less than 1.
        UriError: ``uri`` is no address.

    Example:
        >>> import torch, torch.distributed.checkpoint as dcp
        >>> from s3dlio.torch import S3StorageReader, S3StorageWriter
        >>> state = {"weight": torch.arange(4)}
        >>> _ = dcp.save(state, storage_writer=S3StorageWriter("s3://bucket/step-100"))    # doctest: +SKIP
        >>> dcp.load(state, storage_reader=S3StorageReader("s3://bucket/step-100"))        # doctest: +SKIP
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        strategy: str = "flat",
        files_per_rank: int = 1,
    ) -> None:
        super().__init__()
        self._base = base_of(uri)
        self._overwrite = flag("overwrite", overwrite)
        self._strategy = check_strategy(strategy)
        self._files_per_rank = whole("files_per_rank", files_per_rank, 1)
        self._save_id = uuid.uuid4().hex
        self._rank = 0
        self._is_coordinator = True
        self._together = True

    @property
    def checkpoint_id(self) -> str:
        """Where the checkpoint is."""
        return str(self._base)

    def __repr__(self) -> str:
        """Show where the checkpoint is."""
        return f"S3StorageWriter({self.checkpoint_id!r})"

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin another checkpoint, at another place if one is given."""
        if checkpoint_id:
            self._base = base_of(checkpoint_id)
        self._save_id = uuid.uuid4().hex

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: FBT001 - torch's
        """Learn whose writer this is."""
        self._is_coordinator = is_coordinator
        self._rank = kwargs.get("rank") or 0
        self._together = kwargs.get("use_collectives", True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuse to replace a checkpoint, where that is asked for.

        Raises:
            AlreadyExistsError: There is one.
        """
        asks = self._is_coordinator or not self._together
        if not self._overwrite and asks and api.exists(str(self._metadata_uri())):
            msg = "there is a checkpoint already, and overwrite is False"
            raise AlreadyExistsError(msg, uri=self.checkpoint_id, operation="save_checkpoint")
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans as they are: ranks choose their files' names by themselves, no two the same."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part; done when this returns.

        Raises:
            OptionError: A tensor cannot be saved.
            StoreError: A file cannot be written; nothing of it is left.
        """
        files: list[str] = []
        names = file_names(new_save(), self._rank, self._strategy)
        jobs = [(next(names), items) for items in _dealt(plan.items, self._files_per_rank)]
        store = store_of(self._base)

        def write(job: tuple[str, list[WriteItem]], token: CancellationToken) -> list[WriteResult]:
            file, items = job
            offers = _offers(items, planner)
            pieces, _ = write_pieces(store, self._base, file, offers, token)
            files.append(file)
            return [WriteResult(item.index, piece.length, piece) for item, piece in zip(items, pieces, strict=True)]

        try:
            written = map_all(write, jobs, len(jobs), current_token())
        except BaseException as error:
            self._take_back(files, error)
            raise
        future: Future[list[WriteResult]] = Future()
        future.set_result([result for results in written for result in results])
        return future

    def _take_back(self, files: Sequence[str], error: BaseException) -> None:
        try:
            removal.delete([self._uri(file) for file in files])
        except S3dlioError as second:
            error.add_note(f"Files that had been written could not be removed: {second}")

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Make the checkpoint exist, by one put, and remove the files of the one that it replaces.

        Raises:
            OptionError: A planner has put something into the metadata that is not plain.
            AlreadyExistsError: There is a checkpoint, and it was not to be replaced.
            StoreError: The metadata cannot be written.
        """
        pieces = {result.index: result.storage_data for found in results for result in found}
        metadata.storage_data = pieces
        metadata.storage_meta = self.storage_meta()
        text = layout.pack_metadata(metadata, pieces)
        before = self._files_before()
        where = str(self._metadata_uri())
        api.put(where, text, overwrite=self._overwrite, content_type="application/json")
        try:
            self._sweep(before - {piece.file for piece in pieces.values()})
        except S3dlioError as error:
            msg = f"the checkpoint is saved, but files of the one before it could not be removed: {error}"
            warnings.warn(msg, RuntimeWarning, stacklevel=2)

    def _files_before(self) -> set[str]:
        """Return the files of the checkpoint that is to be replaced, if it can be read."""
        try:
            metadata = layout.parse_metadata(bytes(api.get(str(self._metadata_uri()))))
        except (NotFoundError, FormatError, IntegrityError, CheckpointError):
            return set()
        return {piece.file for piece in metadata.storage_data.values()}

    def _sweep(self, before: set[str]) -> None:
        """Remove the files of the checkpoint that was replaced, and what saves have left that were killed."""
        if not self._together:
            removal.delete([self._uri(file) for file in before])
            return
        kept = _named_in(self._base, self._metadata_uri())
        stem = self.checkpoint_id
        found = [uri.removeprefix(stem) for uri in list_uris(f"{stem}{DATA}")]
        removal.delete([self._uri(file) for file in {*before, *removable(found, kept)}])

    def _metadata_uri(self) -> Uri:
        name = layout.metadata_name(None if self._together else self._rank)
        return self._base.with_key(self._base.key + name)

    def _uri(self, file: str) -> str:
        return str(self._base.with_key(self._base.key + file))

    def storage_meta(self) -> StorageMeta:
        """Return what is written of this save besides the tensors."""
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save_id)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tell whether a checkpoint can be there: any URI that this library knows, or a local path."""
        return layout.is_address(checkpoint_id)


def _named_in(base: Uri, metadata_uri: Uri) -> set[str]:
    """Return all files that some metadata at a place names: those of all ranks together, and of each by itself."""
    named: set[str] = set()
    stem = str(base)
    for uri in {str(metadata_uri), *list_uris(f"{stem}metadata")}:
        metadata = layout.parse_metadata(bytes(api.get(uri)))
        named |= {piece.file for piece in metadata.storage_data.values()}
    return named


def _dealt(items: Sequence[WriteItem], count: int) -> list[list[WriteItem]]:
    """Deal items out to files, each to the one that has the least bytes so far."""
    hands: list[list[WriteItem]] = [[] for _ in range(count)]
    sizes = [0] * count
    for item in sorted(items, key=_bytes_of, reverse=True):
        least = sizes.index(min(sizes))
        hands[least].append(item)
        sizes[least] += _bytes_of(item)
    return [hand for hand in hands if hand]


def _bytes_of(item: WriteItem) -> int:
    if item.tensor_data is None:
        return item.bytes_io_data.nbytes if item.bytes_io_data else 0
    return math.prod(item.tensor_data.chunk.sizes) * item.tensor_data.properties.dtype.itemsize


def _offers(items: Sequence[WriteItem], planner: SavePlanner) -> list[Offer]:
    offers: dict[str, Offer] = {}
    for item in items:
        offer = _bytes_offer(item, planner) if item.type == WriteItemType.BYTE_IO else _tensor_offer(item, planner)
        name = offer.name if offer.name not in offers else f"{offer.name}#{len(offers)}"
        offers[name] = offer._replace(name=name)
    return list(offers.values())


def _bytes_offer(item: WriteItem, planner: SavePlanner) -> Offer:
    data = planner.resolve_data(item)
    if not isinstance(data, io.BytesIO):
        msg = f"the planner was to give the bytes of {item.index.fqn!r}, and gave a {type(data).__name__}"
        raise OptionError(msg, operation="save_checkpoint")
    memory = data.getbuffer()
    return Offer(item.index.fqn, "U8", (len(memory),), 1, HostOutlet(memory), "bytes")


def _tensor_offer(item: WriteItem, planner: SavePlanner) -> Offer:
    data = item.tensor_data
    if data is None:
        msg = f"the plan does not say what {item.index.fqn!r} is"
        raise OptionError(msg, operation="save_checkpoint")
    sizes, offsets, dtype = tuple(data.chunk.sizes), data.chunk.offsets, data.properties.dtype
    name = item.index.fqn
    if sizes != tuple(data.size):
        name += "[" + ",".join(f"{low}:{low + n}" for low, n in zip(offsets, sizes, strict=True)) + "]"
    return Offer(name, dtype_name(dtype) or "U8", sizes, dtype.itemsize, _PlannedOutlet(item, planner), "torch")


class _PlannedOutlet(Outlet):
    """A tensor that the planner is asked for when its first byte is due, and that goes when its last one is read.

    Planners may make tensors (convert them, bring them from a device), which is not to be done for all at once.
    """

    def __init__(self, item: WriteItem, planner: SavePlanner) -> None:
        self._item = item
        self._planner = planner
        self._lock = threading.Lock()
        self._outlet: Outlet | None = None
        self._left = 0

    def read(self, start: int, stop: int) -> memoryview:
        """See :meth:`s3dlio.checkpoint.kinds.Outlet.read`."""
        with self._lock:
            if self._outlet is None:
                self._outlet = self._resolved()
                self._left = _bytes_of(self._item)
            outlet = self._outlet
            self._left -= stop - start
            if self._left <= 0:
                self._outlet = None
        return outlet.read(start, stop)

    def _resolved(self) -> Outlet:
        tensor: Any = self._planner.resolve_data(self._item)
        data: Any = self._item.tensor_data
        if not isinstance(tensor, torch.Tensor) or tensor.shape != data.chunk.sizes:
            shape = tuple(getattr(tensor, "shape", ()))
            msg = f"{self._item.index.fqn!r} was planned with shape {tuple(data.chunk.sizes)}, and has {shape}"
            raise OptionError(msg, operation="save_checkpoint")
        tensor = tensor.detach()
        if tensor.dtype != data.properties.dtype:  # the plan's word counts: it is what the metadata says
            tensor = tensor.to(data.properties.dtype)
        try:
            KIND.facts(tensor)  # refuses what is not dense
        except OptionError as error:
            msg = f"{self._item.index.fqn!r}: {error.message}"
            raise OptionError(msg, operation="save_checkpoint") from error
        return KIND.outlet(tensor)
