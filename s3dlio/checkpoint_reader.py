"""Finds checkpoints of one or many ranks below a URI, and reads their shards.

Floor 6. Knows what makes a checkpoint whole: its manifest, and shards of the right sizes and sums. What a shard's
file looks like is :mod:`s3dlio.checkpoints`', how objects are named :mod:`s3dlio.checkpoint.manifest`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3dlio import api
from s3dlio.bounds import whole
from s3dlio.buckets import list_uris
from s3dlio.buffers import BytesView, bytes_of
from s3dlio.checkpoint import manifest as names
from s3dlio.checkpoint.manifest import Manifest, ShardInfo
from s3dlio.checkpoints import load_shard
from s3dlio.checksums import crc32c
from s3dlio.errors import (
    CheckpointError,
    FormatError,
    IncompleteCheckpointError,
    IntegrityError,
    NotFoundError,
    OptionError,
)
from s3dlio.uri import from_path_or_uri

if TYPE_CHECKING:
    from pathlib import PurePath


class CheckpointReader:
    """Reads the checkpoints below a URI.

    Thread-safe; works in forked children.

    Args:
        uri: Where they are, or a local directory.
    """

    def __init__(self, uri: str | PurePath) -> None:
        self.uri = from_path_or_uri(uri).rstrip("/") + "/"

    def at(self, key: str) -> str:
        """Return the URI of a key below the checkpoints' own."""
        return f"{self.uri}{key}"

    def manifest_ids(self) -> list[tuple[str, int]]:
        """Return timestamp and step of all checkpoints, the newest last."""
        try:
            found = [names.id_of(uri.removeprefix(self.uri)) for uri in list_uris(self.at(names.MANIFESTS))]
        except NotFoundError:
            return []
        return sorted((timestamp, step) for step, timestamp in filter(None, found))

    def load_manifest(self, step: int | None = None, timestamp: str | None = None) -> Manifest:
        """Return the manifest of a checkpoint.

        Args:
            step: Which; the newest one of that step. ``None``: the newest of all.
            timestamp: Which of several of one step.

        Raises:
            NotFoundError: There is no such checkpoint.
            CheckpointError: The manifest is of a later version than this library knows.
            FormatError: It is no manifest.
        """
        step = None if step is None else whole("step", step)
        fits = [(t, s) for t, s in self.manifest_ids() if step in (None, s) and timestamp in (None, t)]
        if not fits:
            known = sorted({found for _, found in self.manifest_ids()})
            there = f"; there are steps {', '.join(map(str, known[-10:]))}" if known else ""
            what = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise NotFoundError(f"there is not {what}{there}", uri=self.uri, operation="load_manifest")
        return self._read_manifest(*fits[-1])

    def _read_manifest(self, timestamp: str, step: int) -> Manifest:
        where = self.at(f"{names.MANIFESTS}{names.checkpoint_id(step, timestamp)}.json")
        try:
            return names.parse_manifest(bytes(api.get(where)))
        except (CheckpointError, FormatError) as error:
            error.concern(where, "load_manifest")
            raise

    def load_latest_manifest(self) -> Manifest | None:
        """Return the manifest of the newest checkpoint that is whole; ``None`` if there is none.

        ``latest.json`` is not relied on: it may be missing, old, or name what is gone. A checkpoint counts if
        its manifest can be read and all its shards are there, of the right sizes.

        Raises:
            CheckpointError: The newest one is of a later version than this library knows: an older one instead
                would not be what was asked for.
            StoreError: The store cannot be asked.
        """
        ids = self.manifest_ids()
        while (found := self._newest_whole(ids)) is None:
            known, ids = ids, self.manifest_ids()
            if ids == known:
                break  # else a writer that keeps few has saved another meanwhile, and removed these
        return found

    def _newest_whole(self, ids: list[tuple[str, int]]) -> Manifest | None:
        for timestamp, step in reversed(ids):
            try:
                manifest = self._read_manifest(timestamp, step)
            except (FormatError, NotFoundError):
                continue
            if not self.faults(manifest):
                return manifest
        return None

    def faults(self, manifest: Manifest) -> list[str]:
        """Return what is wrong with a checkpoint's shards, as far as sizes tell: nothing, if it is whole."""
        uris = [self.at(shard.key) for shard in manifest.shards]
        try:
            sizes: list[int | None] = [info["size"] for info in api.stat_many(uris)]
        except NotFoundError:
            sizes = [_size_of(uri) for uri in uris]
        return [
            f"rank {shard.rank} ({shard.key}): {'missing' if size is None else f'{size} bytes, not {shard.size}'}"
            for shard, size in zip(manifest.shards, sizes, strict=True)
            if size != shard.size
        ]

    def read_shard_by_rank(self, manifest: Manifest, rank: int) -> BytesView:
        """Return a shard's bytes, having checked their sum.

        Raises:
            OptionError: There is no such rank.
            IncompleteCheckpointError: The shard is missing, or of another size.
            IntegrityError: Its bytes are not those that were saved.
        """
        shard = manifest.shard(rank)
        where = self.at(shard.key)
        try:
            view = api.get(where)
        except NotFoundError as error:
            msg = f"the shard of rank {rank} is missing"
            raise IncompleteCheckpointError(msg, uri=where, operation="load_checkpoint") from error
        _compare(where, shard, len(view), crc32c(bytes_of(view)))
        return view

    def load(self, manifest: Manifest, rank: int = 0, **options: Any) -> Any:
        """Return the value that a rank has saved; options as of :func:`s3dlio.load_checkpoint`.

        Raises:
            IncompleteCheckpointError: The shard is missing, or of another size.
            IntegrityError: Its bytes are not those that were saved.
        """
        shard = manifest.shard(rank)
        if shard.content == "bytes":
            if options:
                msg = f"rank {rank} has saved bytes, for which there is no {', '.join(options)}"
                raise OptionError(msg, uri=self.at(shard.key), operation="load_checkpoint")
            return self.read_shard_by_rank(manifest, rank)
        where = self.at(shard.key)
        size = _size_of(where)
        if size != shard.size:
            msg = f"the shard of rank {rank} " + (
                "is missing" if size is None else f"has {size} bytes, not {shard.size}"
            )
            raise IncompleteCheckpointError(msg, uri=where, operation="load_checkpoint")
        try:
            return load_shard(where, shard.checksum, **options)
        except (IntegrityError, FormatError) as error:
            msg = f"the shard of rank {rank} is damaged: {error.message}"
            raise IntegrityError(msg, uri=where, operation="load_checkpoint") from error

    def __repr__(self) -> str:
        """Show where they are."""
        return f"CheckpointReader({self.uri!r})"


def _size_of(uri: str) -> int | None:
    try:
        return int(api.stat(uri)["size"])
    except NotFoundError:
        return None


def _compare(where: str, shard: ShardInfo, size: int, crc: int) -> None:
    if size != shard.size:
        msg = f"the shard of rank {shard.rank} has {size} bytes, not {shard.size}"
        raise IncompleteCheckpointError(msg, uri=where, operation="load_checkpoint")
    if f"crc32c:{crc:08x}" != shard.checksum:
        msg = f"the shard of rank {shard.rank} is damaged: crc32c:{crc:08x}, and {shard.checksum} in the manifest"
        raise IntegrityError(msg, uri=where, operation="load_checkpoint")
