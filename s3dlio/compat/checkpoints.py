"""The original's checkpoint classes: ours, with its names, orders of arguments and plain dicts.

Floor 6. Knows the original's signatures and translates them; what a checkpoint is, is decided in
:mod:`s3dlio.checkpoint_store` and :mod:`s3dlio.checkpoint_writer`.
"""

from __future__ import annotations

import builtins
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from s3dlio.buffers import BytesView
from s3dlio.checkpoint.manifest import Manifest, ShardInfo, check_meta, new_timestamp
from s3dlio.checkpoint_reader import CheckpointReader
from s3dlio.checkpoint_store import CheckpointInfo, CheckpointStore
from s3dlio.checkpoint_writer import CheckpointWriter, commit, write_shard
from s3dlio.errors import CheckpointError
from s3dlio.multipart_writer import MultipartUploadWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

_log = logging.getLogger("s3dlio")
_MIB = 1 << 20
_FIELDS = frozenset(field.name for field in dataclasses.fields(ShardInfo))


class PyCheckpointInfo(CheckpointInfo):
    """One checkpoint of a store: :class:`s3dlio.CheckpointInfo`, with the original's names beside.

    Attributes:
        total_size: Bytes of all shards.
        size_mb: In MiB.
        size_gb: In GiB.
        status: ``complete``: others are not listed.
        is_complete: ``True``.
        is_single_rank: Whether there is one shard.
    """

    status = "complete"
    is_complete = True

    @property
    def total_size(self) -> int:
        """Bytes of all shards."""
        return self.size

    @property
    def size_mb(self) -> float:
        """All shards together, in MiB."""
        return self.size / _MIB

    @property
    def size_gb(self) -> float:
        """All shards together, in GiB."""
        return self.size / _MIB / 1024

    @property
    def is_single_rank(self) -> bool:
        """Whether there is one shard."""
        return self.world_size == 1


class PyCheckpointReader:
    """Reads checkpoints, with manifests as plain dicts: what :meth:`PyCheckpointStore.reader` returns.

    Args:
        uri: Where they are.
    """

    def __init__(self, uri: str | PurePath) -> None:
        self._reader = CheckpointReader(uri)

    def load_latest_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the newest whole checkpoint, or ``None``: see :class:`s3dlio.Manifest`."""
        manifest = self._reader.load_latest_manifest()
        if manifest is None:
            return None
        return {**dataclasses.asdict(manifest), "shards": [dataclasses.asdict(shard) for shard in manifest.shards]}

    def read_shard_by_rank(self, manifest: Mapping[str, Any] | Manifest, rank: int) -> BytesView:
        """Read a rank's shard; its checksum is verified.

        Raises:
            OptionError: There is no such rank.
            IntegrityError: Its bytes are not those that were saved.
        """
        if not isinstance(manifest, Manifest):
            shards = tuple(_shard_of(shard) for shard in manifest["shards"])
            manifest = Manifest(**{**manifest, "shards": shards})
        return self._reader.read_shard_by_rank(manifest, rank)


class _CalledReader(CheckpointReader):
    """The store's own reader, which the original's programs ask for by calling it."""

    def __call__(self) -> PyCheckpointReader:
        return PyCheckpointReader(self.uri)


class PyCheckpointStream:
    """A shard that is sent while it is written. It belongs to one thread.

    Args:
        where: The shard's URI.
        told: What :meth:`finalize` tells beside the sizes.
    """

    def __init__(self, where: str, told: Mapping[str, Any]) -> None:
        self._writer = MultipartUploadWriter.from_uri(where)
        self._told = dict(told)
        self._writer.write(b"")  # an empty shard is one, too

    def write_chunk(self, data: Buffer) -> int:
        """Write bytes; return how many."""
        return self._writer.write(data)

    def bytes_written(self) -> int:
        """Return how many bytes were written so far."""
        return self._writer.bytes_written

    def finalize(self) -> dict[str, Any]:
        """Make the shard; return what :meth:`PyCheckpointWriter.save_distributed_shard` does."""
        info = self._writer.close()
        return {**self._told, "size": info.total_bytes, "etag": info.etag, "checksum": info.checksum}

    def cancel(self) -> None:
        """Throw away what was written."""
        self._writer.abort()


class PyCheckpointWriter(CheckpointWriter):
    """Writes one rank's shards, by the original's names too.

    Ranks need not agree on a timestamp here: each shard has a name of its own, and the manifest is what makes a
    checkpoint of them. Shards that no manifest names stay until they are deleted: below ``ranks/``.
    """

    def save_distributed_shard(self, step: int, epoch: int, framework: str, data: Any) -> dict[str, Any]:
        """Save this rank's part. Nothing of it counts before :meth:`finalize_distributed_checkpoint`.

        Args:
            step: The training step.
            epoch: Told back.
            framework: Told back.
            data: Bytes, or what :func:`s3dlio.save_checkpoint` takes.

        Returns:
            ``step``, ``epoch``, ``framework``, ``rank``, ``key``, ``size``, ``etag``, ``checksum``, ``content``,
            ``timestamp``: plain values that one rank collects from all.
        """
        told = self._named(step, epoch, framework)
        shard = write_shard(self._reader.at(told["key"]), told["key"], self.rank, data, {})
        return {**told, **dataclasses.asdict(shard)}

    def get_distributed_shard_stream(self, step: int, epoch: int = 0, framework: str = "") -> PyCheckpointStream:
        """Return a stream to write this rank's part with, piece by piece: it need not be in memory as a whole."""
        told = self._named(step, epoch, framework)
        return PyCheckpointStream(self._reader.at(told["key"]), told)

    def _named(self, step: int, epoch: int, framework: str) -> dict[str, Any]:
        timestamp = new_timestamp()
        key = f"ranks/step-{step}/{timestamp}-rank-{self.rank}"
        told = {"step": step, "epoch": epoch, "framework": framework, "timestamp": timestamp}
        return {**told, "rank": self.rank, "key": key, "content": "bytes"}

    def finalize_distributed_checkpoint(
        self,
        step: int,
        epoch: int,
        framework: str,
        shard_metas: Sequence[Mapping[str, Any]],
        user_meta: Mapping[str, Any] | None = None,
    ) -> str:
        """Make the checkpoint exist, once all ranks have saved. Called by one rank.

        Args:
            step: The training step.
            epoch: For the manifest.
            framework: Likewise.
            shard_metas: What each rank's :meth:`save_distributed_shard` or stream has returned.
            user_meta: For the manifest: plain JSON values.

        Returns:
            The manifest's key.

        Raises:
            IncompleteCheckpointError: Shards are missing, or are not whole; it names the ranks.
            CheckpointError: Somebody else has saved this step.
        """
        manifest = Manifest(
            global_step=step, timestamp=new_timestamp(), world_size=self.world_size,
            shards=tuple(sorted(map(_shard_of, shard_metas), key=lambda shard: shard.rank)), framework=framework,
            epoch=epoch, wall_time=time.time(), user_meta=check_meta(user_meta),
        )  # fmt: skip
        commit(self._reader, manifest)
        return manifest.key


def _shard_of(told: Mapping[str, Any]) -> ShardInfo:
    missing = sorted({"rank", "key", "size", "checksum"} - told.keys())
    if missing:
        msg = f"a shard's description lacks {', '.join(missing)}; pass on what save_distributed_shard() returned"
        raise CheckpointError(msg)
    return ShardInfo(**{"etag": "", **{name: value for name, value in told.items() if name in _FIELDS}})


class PyCheckpointStore(CheckpointStore):
    """:class:`s3dlio.CheckpointStore`, which also takes the original's calls.

    Args:
        uri: Where the checkpoints are.
        strategy: As of :class:`s3dlio.CheckpointStore`; ``None``: ``flat``.
        multipart_threshold: Taken; large shards always go in parts.
        compression_level: If given, values (not bytes) are compressed, at the one level that there is.
        keep_last: As of :class:`s3dlio.CheckpointStore`.

    Example:
        >>> store = PyCheckpointStore("memory://demo/original")
        >>> _ = store.save(1, 0, "torch", b"state")
        >>> store.load_latest()
        b'state'
    """

    def __init__(
        self,
        uri: str | PurePath,
        strategy: str | None = None,
        multipart_threshold: int | None = None,
        compression_level: int | None = None,
        *,
        keep_last: int | None = None,
    ) -> None:
        super().__init__(uri, strategy or "flat", keep_last=keep_last)
        self.reader = _CalledReader(uri)
        self._compress = {} if compression_level is None else {"compress": True}
        if multipart_threshold is not None:
            _log.debug("multipart_threshold=%d: taken; large shards always go in parts", multipart_threshold)

    def writer(self, rank: int = 0, world_size: int = 1) -> PyCheckpointWriter:
        """Return a writer of one rank's shards. The numbers may come in either order: the rank is the smaller."""
        low, high = sorted((rank, world_size))
        return PyCheckpointWriter(self.uri, low, high, strategy=self.strategy)

    def save(self, name: str | int | None = None, *args: Any, **options: Any) -> Any:
        """Save as :meth:`s3dlio.CheckpointStore.save` does, or ``(step, epoch, framework, data, user_meta)``."""
        if isinstance(name, int):
            given = dict(zip(("epoch", "framework", "data", "user_meta"), args, strict=False))
            return self.save(step=name, **given, **options)
        data = args[0] if args else options.get("data")
        if not isinstance(data, bytes | bytearray | memoryview | BytesView):
            options = {**self._compress, **options}
        return super().save(name, *args, **options)

    def list_checkpoints(self) -> builtins.list[PyCheckpointInfo]:
        """Return the checkpoints of all steps, the newest last."""
        return [PyCheckpointInfo(*info) for info in self.list()]

    def delete_checkpoint(self, step: int) -> None:
        """Remove a step's checkpoint; what is not there is fine."""
        self.delete(step=step)
