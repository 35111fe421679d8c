"""A checkpoint of many shards, as plain data: its manifest, and the names of its objects.

Floor 4. Pure. What is written is the contract, not these classes: ``format_version`` says which one it is.

::

    manifests/ckpt-{step}-{time}.json      written last, with one put: the checkpoint exists from then on
    manifests/ckpt-{step}.claim            who may write it
    shards/ckpt-{step}-{time}/rank-{rank}  and ``.json`` beside it, until the manifest is written
    latest.json                            a hint for people and other programs

``round_robin`` and ``binary`` put a prefix before ``ckpt-``, so that the requests of many ranks spread over the
partitions that a bucket is divided into by prefix.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from s3dlio.bounds import is_a, whole
from s3dlio.errors import CheckpointError, FormatError, OptionError, suggest

FORMAT_VERSION = 1
STRATEGIES = ("flat", "round_robin", "binary")
#: Prefixes that ``round_robin`` goes round, and digits that ``binary`` has.
_ROUND = 16
_BINARY_DIGITS = 8
_TIME = "%Y%m%dT%H%M%S%fZ"
_ID = re.compile(r"ckpt-([0-9]{1,18})-([0-9]{8}T[0-9]{12}Z)")
_CHECKSUM = re.compile(r"crc32c:[0-9a-f]{8}")
MANIFESTS = "manifests/"
SHARDS = "shards/"
_MANIFEST = re.compile(rf"{MANIFESTS}{_ID.pattern}\.json")
_SHARD = re.compile(rf"{SHARDS}(?:[01]{{8}}/|[0-9a-f]/)?{_ID.pattern}/rank-[0-9]+(?:\.json)?")
LATEST = "latest.json"
#: What a shard is: a file of :mod:`s3dlio.checkpoint`, or just bytes.
CONTENTS = ("value", "bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One rank's part of a checkpoint.

    Attributes:
        rank: Whose.
        key: Its object, below the checkpoints' own URI.
        size: Bytes.
        etag: Entity tag.
        checksum: Of its bytes: ``crc32c:`` and eight hexadecimal digits.
        content: ``value``: a file as :func:`s3dlio.save_checkpoint` writes it; ``bytes``: the user's own.
    """

    rank: int
    key: str
    size: int
    etag: str
    checksum: str
    content: str = "value"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        global_step: The training step.
        timestamp: Of the checkpoint, the same for all ranks.
        world_size: How many shards.
        shards: One for each rank, in their order.
        framework: Whose arrays are in it, or empty.
        epoch: Or ``None``.
        wall_time: Seconds since 1970, when the manifest was written.
        status: ``complete``.
        user_meta: The user's own.
        format_version: Of this form.
    """

    global_step: int
    timestamp: str
    world_size: int
    shards: tuple[ShardInfo, ...]
    framework: str = ""
    epoch: int | None = None
    wall_time: float = 0.0
    status: str = "complete"
    user_meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def id(self) -> str:
        """``ckpt-{step}-{time}``."""
        return checkpoint_id(self.global_step, self.timestamp)

    @property
    def key(self) -> str:
        """The manifest's object, below the checkpoints' own URI."""
        return f"{MANIFESTS}{self.id}.json"

    @property
    def size(self) -> int:
        """Bytes of all shards together."""
        return sum(shard.size for shard in self.shards)

    def shard(self, rank: int) -> ShardInfo:
        """Return the part of a rank.

        Raises:
            OptionError: There is no such rank.
        """
        rank = whole("rank", rank)
        if not 0 <= rank < len(self.shards):
            msg = f"{self.id} has ranks 0 to {len(self.shards) - 1}, not {rank}"
            raise OptionError(msg)
        return self.shards[rank]

    def to_json(self) -> bytes:
        """Return the manifest as it is stored."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


def new_timestamp() -> str:
    """Return the time now, in UTC, as checkpoints' names have it."""
    return datetime.now(UTC).strftime(_TIME)


def check_timestamp(timestamp: str) -> str:
    """Return a timestamp that is of the form of :func:`new_timestamp`.

    Raises:
        OptionError: It is not.
    """
    if not _ID.fullmatch(f"ckpt-0-{timestamp}"):
        msg = (
            f"timestamp must look like {new_timestamp()!r} (s3dlio.CheckpointWriter.new_timestamp()), not {timestamp!r}"
        )
        raise OptionError(msg)
    return timestamp


def checkpoint_id(step: int, timestamp: str) -> str:
    """Return ``ckpt-{step}-{time}``."""
    return f"ckpt-{step}-{timestamp}"


def claim_key(step: int) -> str:
    """Return the object by which a writer claims a step."""
    return f"{MANIFESTS}ckpt-{step}.claim"


def id_of(key: str) -> tuple[int, str] | None:
    """Return step and timestamp of a manifest's or shard's key, or ``None`` for another object's.

    Args:
        key: Below the checkpoints' own URI.
    """
    found = _MANIFEST.fullmatch(key) or _SHARD.fullmatch(key)
    return (int(found[1]), found[2]) if found else None


def check_meta(user_meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the user's own fields of a manifest, which must be plain JSON values.

    Raises:
        OptionError: They are not.
    """
    try:
        meta = dict(user_meta or {})
        same = json.loads(json.dumps(meta, allow_nan=False)) == meta
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"user_meta must be plain JSON values: {error}"
        raise OptionError(msg) from error
    if not same:
        msg = "user_meta must be plain JSON values: lists, and dicts whose keys are text"
        raise OptionError(msg)
    return meta


def check_facts(step: int, epoch: int | None, framework: str) -> tuple[int, int | None, str]:
    """Return what else a manifest is told, as plain values: what is written must be readable again.

    Raises:
        OptionError: Something is of another kind, or the step is negative.
    """
    if not is_a(framework, str):
        msg = f"framework must be text, not {framework!r:.80}"
        raise OptionError(msg)
    return whole("step", step, 0), None if epoch is None else whole("epoch", epoch), framework


def shard_key(step: int, timestamp: str, rank: int, strategy: str) -> str:
    """Return the object of a rank's shard.

    Raises:
        OptionError: There is no such strategy.
    """
    return f"{SHARDS}{spread(rank, strategy)}{checkpoint_id(step, timestamp)}/rank-{rank}"


def spread(rank: int, strategy: str) -> str:
    """Return the prefix that spreads the names of ranks, empty or ending in ``/``.

    Raises:
        OptionError: There is no such strategy.
    """
    return {
        "flat": "",
        "round_robin": f"{rank % _ROUND:x}/",
        # Reversed, so that ranks side by side differ at the beginning already.
        "binary": f"{rank % (1 << _BINARY_DIGITS):0{_BINARY_DIGITS}b}"[::-1] + "/",
    }[check_strategy(strategy)]


def check_strategy(strategy: str) -> str:
    """Return a strategy that there is.

    Raises:
        OptionError: There is no such one.
    """
    if strategy not in STRATEGIES:
        msg = f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}{suggest(str(strategy), STRATEGIES)}"
        raise OptionError(msg)
    return strategy


def parse_manifest(data: bytes) -> Manifest:
    """Return a manifest from what is stored, having checked all of it.

    Raises:
        CheckpointError: It is of a later version than this library knows.
        FormatError: It is no manifest.
    """
    fields = _mapping(data, "the manifest")
    version = fields.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        msg = f"the manifest is of format {version}, and this library knows {FORMAT_VERSION}: update s3dlio"
        raise CheckpointError(msg)
    shards = fields.get("shards")
    try:
        parts = tuple(shard_of(shard) for shard in shards) if isinstance(shards, list) else ()
        manifest = Manifest(**(fields | {"shards": parts}))
    except TypeError as error:
        msg = f"the manifest has other fields than it should: {error}"
        raise FormatError(msg) from error
    _check(manifest)
    return manifest


def shard_of(fields: Any) -> ShardInfo:
    """Return a shard from its JSON, checked.

    Raises:
        FormatError: It is none.
    """
    shard: Any
    try:
        shard = ShardInfo(**fields)
    except TypeError as error:
        msg = f"a shard has other fields than it should: {error}"
        raise FormatError(msg) from error
    numbers = type(shard.rank) is int and shard.rank >= 0 and type(shard.size) is int and shard.size >= 0
    texts = isinstance(shard.key, str) and isinstance(shard.etag, str) and isinstance(shard.checksum, str)
    if not numbers or not texts or not _CHECKSUM.fullmatch(shard.checksum) or shard.content not in CONTENTS:
        msg = f"a shard's fields are not as they should be: {fields!r:.200}"
        raise FormatError(msg)
    if leads_out(shard.key):
        msg = f"a shard's key leads out of the checkpoint: {shard.key!r}"
        raise FormatError(msg)
    return shard  # type: ignore[no-any-return]


def leads_out(key: str) -> bool:
    """Tell whether a key, put behind a folder's URI, might name something else than one object in the folder."""
    return not {"", ".", ".."}.isdisjoint(key.split("/")) or "://" in key or "\0" in key


def parse_shard(data: bytes) -> tuple[ShardInfo, int]:
    """Return a shard, and the world's size, from what lies beside it.

    Raises:
        FormatError: It is none.
    """
    fields = _mapping(data, "a shard's description")
    world_size = fields.pop("world_size", None)
    if type(world_size) is not int or world_size < 1:
        msg = f"a shard's world_size is {world_size!r}"
        raise FormatError(msg)
    return shard_of(fields), world_size


def pack_shard(shard: ShardInfo, world_size: int) -> bytes:
    """Return what lies beside a shard until the manifest is written."""
    return json.dumps({**dataclasses.asdict(shard), "world_size": world_size}).encode()


def _mapping(data: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{what} cannot be read: {error}"
        raise FormatError(msg) from error
    if not isinstance(fields, dict):
        msg = f"{what} is not a mapping"
        raise FormatError(msg)
    return fields


def _check(manifest: Any) -> None:
    fine = (
        type(manifest.global_step) is int
        and manifest.global_step >= 0
        and isinstance(manifest.timestamp, str)
        and _ID.fullmatch(manifest.id)
        and type(manifest.world_size) is int
        and isinstance(manifest.user_meta, dict)
        and isinstance(manifest.framework, str)
        and (manifest.epoch is None or type(manifest.epoch) is int)
        and type(manifest.wall_time) in (int, float)
        and manifest.status == "complete"
        and type(manifest.format_version) is int
    )
    if not fine:
        msg = "the manifest's fields are not as they should be"
        raise FormatError(msg)
    # The length first: a world may be said to be of any size.
    ranks = [shard.rank for shard in manifest.shards]
    if len(ranks) != manifest.world_size or ranks != list(range(manifest.world_size)):
        msg = f"the manifest has shards of ranks {ranks!r:.200}, of {manifest.world_size}"
        raise FormatError(msg)
