"""The records of `record_files` again, in shards of 64 MiB with their indexes: what a training job would have.

For: cutting the shards once, and linking them into the origin. Must not know: HTTP, or any client.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.record_files import COUNT, FILE_BYTES, PATH

#: Records of 100 KiB in a shard of 64 MiB.
PER_SHARD = 655
FRAME_BYTES = FILE_BYTES // COUNT
PREFIX = "shards/"
_HOME = PATH.parent / "shards"


def shard_names() -> list[str]:
    """The shards, in order."""
    return [f"{number:03d}.tfrecord" for number in range(-(-COUNT // PER_SHARD))]


def keys() -> list[str]:
    """The keys of all shards, each followed by that of its index."""
    return [PREFIX + name + suffix for name in shard_names() for suffix in ("", ".idx")]


def ensure() -> Path:
    """Cut the file into shards unless that was done. All records are of one size, so no reader is needed."""
    _HOME.mkdir(parents=True, exist_ok=True)
    for name, first, count in _cuts():
        shard = _HOME / name
        if shard.exists() and shard.stat().st_size == count * FRAME_BYTES:
            continue
        with PATH.open("rb") as file:
            file.seek(first * FRAME_BYTES)
            shard.write_bytes(file.read(count * FRAME_BYTES))
        lines = "".join(f"{number * FRAME_BYTES} {FRAME_BYTES}\n" for number in range(count))
        (_HOME / f"{name}.idx").write_text(lines, encoding="ascii")
    return _HOME


def _cuts() -> Iterator[tuple[str, int, int]]:
    for number, name in enumerate(shard_names()):
        first = number * PER_SHARD
        yield name, first, min(PER_SHARD, COUNT - first)
