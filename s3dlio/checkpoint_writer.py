"""Writes checkpoints of one or many ranks, so that each exists wholly or not at all.

Floor 6. Knows the order in which objects are written: all shards, then a claim, then the manifest with one put.
What a run that was killed leaves is never taken for a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s3dlio import api, removal
from s3dlio.bounds import whole
from s3dlio.buckets import list_uris
from s3dlio.buffers import BytesView
from s3dlio.checkpoint import manifest as names
from s3dlio.checkpoint.manifest import Manifest, ShardInfo
from s3dlio.checkpoint_reader import CheckpointReader
from s3dlio.checkpoints import save_checkpoint
from s3dlio.context import current_token
from s3dlio.errors import (
    AlreadyExistsError,
    CheckpointError,
    IncompleteCheckpointError,
    NotFoundError,
    ObjectChangedError,
    OptionError,
    S3dlioError,
)
from s3dlio.multipart_writer import MultipartUploadWriter
from s3dlio.uri import from_path_or_uri, parse_object

if TYPE_CHECKING:
    from pathlib import PurePath

_log = logging.getLogger("s3dlio")

#: A claim this old (seconds), without its manifest, is of a writer that has ended.
_CLAIM_S = 60.0
#: How often (seconds) one is looked at whose manifest is awaited: between the two lies one small put.
_CLAIM_LOOK_S = 0.25
#: A claim is tried so often: it may be void, or just being replaced.
_CLAIM_TRIES = 4
_BYTES = (bytes, bytearray, memoryview, BytesView)


class CheckpointWriter:
    """Writes the shards of one rank, and on one rank the manifests.

    Args:
        uri: Where the checkpoints are, or a local directory.
        rank: This process's.
        world_size: How many ranks there are.
        strategy: How shards' names spread over prefixes: ``flat``, ``round_robin`` or ``binary``.

    Raises:
        OptionError: There is no such strategy or rank.

    Example:
        >>> import s3dlio
        >>> writer = s3dlio.CheckpointWriter("memory://demo/run1")
        >>> when = writer.new_timestamp()                       # one for all ranks: broadcast it
        >>> shard = writer.save_shard(100, {"x": 1}, timestamp=when)
        >>> writer.finalize(100, timestamp=when).world_size     # on one rank, after all have saved
        1
    """

    def __init__(self, uri: str | PurePath, rank: int = 0, world_size: int = 1, *, strategy: str = "flat") -> None:
        rank, world_size = whole("rank", rank), whole("world_size", world_size)
        if not 0 <= rank < world_size:
            msg = f"rank must be from 0 to world_size - 1, not {rank} of {world_size}"
            raise OptionError(msg)
        self.rank = rank
        self.world_size = world_size
        self.strategy = names.check_strategy(strategy)
        self._reader = CheckpointReader(uri)

    @property
    def uri(self) -> str:
        """Where the checkpoints are."""
        return self._reader.uri

    @staticmethod
    def new_timestamp() -> str:
        """Return the time now, as the name of a new checkpoint: one rank makes it, all ranks use it."""
        return names.new_timestamp()

    def save_shard(self, step: int, data: Any, *, timestamp: str, **options: Any) -> ShardInfo:
        """Save this rank's part of a checkpoint. Nothing of it counts before :meth:`finalize`.

        Args:
            step: The training step.
            data: What :func:`s3dlio.save_checkpoint` takes; bytes are stored as they are.
            timestamp: Of :meth:`new_timestamp`, the same on all ranks.
            **options: As of :func:`s3dlio.save_checkpoint`.

        Raises:
            OptionError: Something in ``data`` cannot be saved.
            StoreError: It cannot be written.
        """
        step = whole("step", step, 0)
        key = names.shard_key(step, names.check_timestamp(timestamp), self.rank, self.strategy)
        shard = write_shard(self._reader.at(key), key, self.rank, data, options)
        beside = self._reader.at(f"{key}.json")
        api.put(beside, names.pack_shard(shard, self.world_size), content_type="application/json")
        return shard

    def finalize(
        self,
        step: int,
        *,
        timestamp: str,
        shards: Sequence[ShardInfo] | None = None,
        epoch: int | None = None,
        framework: str = "",
        user_meta: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Make the checkpoint exist, once all ranks have saved their shards. Called by one rank.

        A step that somebody else was about to finish is waited for: a minute at most, if that writer was killed.

        Args:
            step: The training step.
            timestamp: As of the shards.
            shards: What :meth:`save_shard` has returned on each rank; ``None``: found out from the store.
            epoch: For the manifest.
            framework: Likewise.
            user_meta: Likewise: plain JSON values.

        Raises:
            IncompleteCheckpointError: Shards are missing, or are not whole; it names the ranks.
            CheckpointError: Somebody else has saved this step.
            OptionError: ``user_meta`` is not plain JSON.
            StoreError: The manifest cannot be written.
        """
        step, epoch, framework = names.check_facts(step, epoch, framework)
        found = list(shards) if shards is not None else self._shards_of(step, names.check_timestamp(timestamp))
        manifest = Manifest(
            global_step=step, timestamp=timestamp, world_size=self.world_size,
            shards=tuple(sorted(found, key=lambda shard: shard.rank)), framework=framework, epoch=epoch,
            wall_time=time.time(), user_meta=names.check_meta(user_meta),
        )  # fmt: skip
        commit(self._reader, manifest)
        removal.delete([self._reader.at(f"{shard.key}.json") for shard in manifest.shards])
        return manifest

    def _shards_of(self, step: int, timestamp: str) -> list[ShardInfo]:
        keys = [names.shard_key(step, timestamp, rank, self.strategy) for rank in range(self.world_size)]
        found = read_shards([self._reader.at(f"{key}.json") for key in keys], self.world_size)
        for shard in found:
            if shard.key != keys[shard.rank % len(keys)]:
                msg = f"what says to be the shard of rank {shard.rank} speaks of {shard.key}"
                raise IncompleteCheckpointError(msg, uri=self.uri, operation="finalize")
        return found

    def __repr__(self) -> str:
        """Show where it writes, and as whom."""
        return f"CheckpointWriter({self.uri!r}, rank={self.rank}, world_size={self.world_size})"


def write_shard(where: str, key: str, rank: int, data: Any, options: Mapping[str, Any]) -> ShardInfo:
    """Write one shard, and return what a manifest says of it."""
    if isinstance(data, _BYTES):
        if options:
            msg = f"bytes are stored as they are, there is no {', '.join(options)} for them"
            raise OptionError(msg, uri=where, operation="save")
        with MultipartUploadWriter.from_uri(where) as writer:
            writer.write(data)  # type: ignore[arg-type]  # bytes-like, all of them
        info = writer.close()
        return ShardInfo(
            rank=rank, key=key, size=info.total_bytes, etag=info.etag, checksum=info.checksum, content="bytes"
        )
    told = save_checkpoint(where, data, **options)
    return ShardInfo(rank=rank, key=key, size=told["size"], etag=told["etag"], checksum=told["checksum"])


def read_shards(uris: Sequence[str], world_size: int) -> list[ShardInfo]:
    """Return what lies beside shards, as far as it is there.

    Raises:
        IncompleteCheckpointError: A shard says that it is of a world of another size.
    """
    found = []
    for uri in uris:
        try:
            shard, told = names.parse_shard(bytes(api.get(uri)))
        except NotFoundError:
            continue
        if told != world_size:
            msg = f"the shard of rank {shard.rank} is one of {told}, not of {world_size}"
            raise IncompleteCheckpointError(msg, uri=uri, operation="finalize")
        found.append(shard)
    return found


def commit(reader: CheckpointReader, manifest: Manifest) -> None:
    """Write a manifest, if its shards are whole and nobody else has saved the step."""
    ranks = [shard.rank for shard in manifest.shards]
    missing = sorted(set(range(manifest.world_size)) - set(ranks))
    faults = [f"rank {rank}: not saved" for rank in missing]
    faults += [f"rank {one}: {ranks.count(one)} shards" for one in sorted(set(ranks)) if ranks.count(one) > 1]
    faults += [
        f"rank {rank}: there are ranks 0 to {manifest.world_size - 1}" for rank in ranks if rank >= manifest.world_size
    ]
    faults = faults or reader.faults(manifest)
    if faults:
        msg = f"{manifest.id} cannot be finished: " + "; ".join(faults[:20])
        raise IncompleteCheckpointError(msg, uri=reader.uri, operation="finalize")
    _claim(reader, manifest)
    _refuse_second(reader, manifest)
    api.put(reader.at(manifest.key), manifest.to_json(), content_type="application/json")
    hint = {"manifest": manifest.key, "global_step": manifest.global_step, "timestamp": manifest.timestamp}
    api.put(reader.at(names.LATEST), json.dumps(hint).encode(), content_type="application/json")


def _refuse_second(reader: CheckpointReader, manifest: Manifest) -> None:
    """Refuse a step that has a manifest, which a server that always replaces the claim does not."""
    others = [t for t, step in reader.manifest_ids() if step == manifest.global_step and t != manifest.timestamp]
    if others:
        msg = f"step {manifest.global_step} was saved before ({others[-1]}); delete it first, or save another step"
        raise CheckpointError(msg, uri=reader.uri, operation="finalize")


def _claim(reader: CheckpointReader, manifest: Manifest) -> None:
    """Become the one who may write a step's manifest.

    Where the server refuses to replace an object (S3, Azure, Google, files), one of several wins. Elsewhere
    the last to write the claim does, unless two write it and read it back at the same moment.
    """
    where = reader.at(names.claim_key(manifest.global_step))
    mine = json.dumps({"manifest": manifest.key, "wall_time": time.time()}).encode()
    for _ in range(_CLAIM_TRIES):
        try:
            api.put(where, mine, overwrite=False, content_type="application/json")
        except AlreadyExistsError:
            if not _is_held(reader, where, manifest):
                continue
        claim = _read_claim(where)
        if claim == mine or json.dumps(manifest.key).encode() in claim:
            return
        if claim:
            break  # somebody has been quicker, or came later where the server refuses nothing
    holder = _manifest_in(where)
    msg = f"step {manifest.global_step} was saved by somebody else ({holder}); delete it first, or save another step"
    raise CheckpointError(msg, uri=reader.uri, operation="finalize")


def _is_held(reader: CheckpointReader, where: str, manifest: Manifest) -> bool:
    """Tell whether an existing claim holds: it is our own, or its manifest is there.

    One without a manifest is of a writer that is about to put it, or has been killed: it is waited for, and
    taken away when it is old by what it says, or has stood unchanged for as long before our eyes.
    """
    seen, since = b"", time.monotonic()
    while claim := _read_claim(where):
        key, age = _told(claim)
        if key == manifest.key or (key and api.exists(reader.at(key))):
            return True
        if claim != seen:
            seen, since = claim, time.monotonic()
            if age < _CLAIM_S:
                _log.warning("waiting for %s, which was begun by a writer that may have been killed", reader.at(key))
        if max(age, time.monotonic() - since) >= _CLAIM_S:
            if _read_claim(where) == claim:
                removal.delete(where)
            break
        current_token().sleep(_CLAIM_LOOK_S)
    return False


def _told(claim: bytes) -> tuple[str, float]:
    """Return the manifest that a claim is for, and its age in seconds; garbage is as old as can be."""
    try:
        told = json.loads(claim)
        return str(told["manifest"]), time.time() - float(told["wall_time"])
    except (ValueError, KeyError, TypeError):
        return "", _CLAIM_S


def _read_claim(where: str) -> bytes:
    """Return a claim; nothing while somebody else replaces it, which some servers do not do at once."""
    try:
        return bytes(api.get(where))
    except (NotFoundError, ObjectChangedError):
        return b""


def _manifest_in(where: str) -> str:
    try:
        return str(json.loads(bytes(api.get(where)))["manifest"])
    except (S3dlioError, ValueError, KeyError, TypeError):
        return "unknown"


# -- shards whose names the user chooses --------------------------------------------------------------


def save_distributed_shard(
    uri: str | PurePath, shard_data: Any, rank: int, world_size: int, **options: Any
) -> dict[str, Any]:
    """Save one rank's shard under a name of your own; nothing counts before :func:`finalize_distributed_checkpoint`.

    A name that a finished checkpoint uses is overwritten, and that checkpoint is then no longer whole: to keep the
    last one until the next is finished, put the step into the names, or use :class:`s3dlio.CheckpointStore`.

    Args:
        uri: The shard's object, another one for each rank.
        shard_data: What :func:`s3dlio.save_checkpoint` takes.
        rank: This process's.
        world_size: How many ranks there are.
        **options: As of :func:`s3dlio.save_checkpoint`.

    Returns:
        ``uri``, ``size``, ``etag``, ``checksum``, ``rank`` and ``world_size``.

    Raises:
        OptionError: There is no such rank, or something cannot be saved.
        StoreError: It cannot be written.
    """
    rank, world_size = whole("rank", rank), whole("world_size", world_size)
    if not 0 <= rank < world_size:
        msg = f"rank must be from 0 to world_size - 1, not {rank} of {world_size}"
        raise OptionError(msg, uri=str(uri), operation="save_distributed_shard")
    where = from_path_or_uri(uri)
    parse_object(where, "save_distributed_shard")
    beside = where + _BESIDE
    with contextlib.suppress(NotFoundError):  # there is no such bucket, or none yet
        removal.delete(beside)  # from now on what was there before does not count
    shard = write_shard(where, where.rpartition("/")[2], rank, shard_data, options)
    api.put(beside, names.pack_shard(shard, world_size), content_type="application/json")
    told = {"uri": where, "size": shard.size, "etag": shard.etag, "checksum": shard.checksum}
    return {**told, "rank": rank, "world_size": world_size}


_BESIDE = ".shard.json"


def finalize_distributed_checkpoint(
    base_uri: str | PurePath,
    world_size: int,
    *,
    step: int | None = None,
    epoch: int | None = None,
    user_meta: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make a checkpoint of the shards that all ranks have saved below a URI. Called by one rank.

    Args:
        base_uri: Where the shards are, at any depth.
        world_size: How many ranks there are.
        step: The training step; default: one more than that of the last checkpoint there.
        epoch: For the manifest.
        user_meta: Likewise: plain JSON values.

    Returns:
        The manifest, for :class:`CheckpointReader`.

    Raises:
        IncompleteCheckpointError: Shards are missing or are not whole; it names the ranks.
        CheckpointError: Somebody else has saved this step.
    """
    world_size = whole("world_size", world_size, 1)
    step = None if step is None else whole("step", step, 0)
    reader = CheckpointReader(base_uri)
    shards = []
    for uri in [found for found in list_uris(reader.uri) if found.endswith(_BESIDE)]:
        (shard,) = read_shards([uri], world_size)
        key = uri.removeprefix(reader.uri).removesuffix(_BESIDE)
        shards.append(ShardInfo(**{**_fields(shard), "key": key}))
    ids = reader.manifest_ids()
    step = (max(found for _, found in ids) + 1 if ids else 0) if step is None else step
    manifest = Manifest(
        global_step=step, timestamp=names.new_timestamp(), world_size=world_size,
        shards=tuple(sorted(shards, key=lambda shard: shard.rank)), epoch=epoch, wall_time=time.time(),
        user_meta=names.check_meta(user_meta),
    )  # fmt: skip
    commit(reader, manifest)
    removal.delete([reader.at(shard.key) + _BESIDE for shard in shards])
    return manifest


def _fields(shard: ShardInfo) -> dict[str, Any]:
    return {name: getattr(shard, name) for name in ("rank", "key", "size", "etag", "checksum", "content")}
