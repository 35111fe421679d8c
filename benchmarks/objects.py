"""The objects that the origin serves: random bytes, each numbered, and the checksums to prove them by.

For: writing the data set below a directory, and the manifest that workers check their bytes against.
Must not know: HTTP, nginx, or any client.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

BUCKET = "bench"
SMALL_PREFIX = "small/"
BIG_KEY = "big.bin"
SMALL_SIZE = 128 * 1024
_PIECE = 8 * 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What was written: sizes and the crc32 of every object."""

    small_count: int
    small_size: int
    small_crcs: list[int]
    big_size: int
    big_crc: int


def small_key(index: int) -> str:
    """The key of the small object of this number."""
    return f"{SMALL_PREFIX}{index:06d}.bin"


def write_objects(bucket: Path, small_count: int, big_size: int) -> Manifest:
    """Write the small objects and the big one below `bucket`."""
    (bucket / SMALL_PREFIX).mkdir(parents=True)
    crcs = [_write_small(bucket, index) for index in range(small_count)]
    big_crc = _write_big(bucket / BIG_KEY, big_size)
    return Manifest(small_count, SMALL_SIZE, crcs, big_size, big_crc)


def _write_small(bucket: Path, index: int) -> int:
    # The index in the first eight bytes lets a loader's sample say which object it came from.
    data = index.to_bytes(8, "little") + os.urandom(SMALL_SIZE - 8)
    (bucket / small_key(index)).write_bytes(data)
    return zlib.crc32(data)


def _write_big(path: Path, size: int) -> int:
    crc, left = 0, size
    with path.open("wb") as file:
        while left:
            piece = os.urandom(min(_PIECE, left))
            crc = zlib.crc32(piece, crc)
            file.write(piece)
            left -= len(piece)
    return crc


def write_index(path: Path, bucket: Path) -> None:
    """One line per object, in key order, for the origin's listing: key, size, ETag."""
    files = sorted(file for file in bucket.rglob("*") if file.is_file())
    lines = (_index_line(bucket, file) for file in files)
    path.write_text("".join(lines), encoding="ascii")


def _index_line(bucket: Path, file: Path) -> str:
    # The same ETag that nginx answers a GET with: a client may hold the two against each other.
    stat = file.stat()
    return f"{file.relative_to(bucket)}\t{stat.st_size}\t{int(stat.st_mtime):x}-{stat.st_size:x}\n"


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest where workers are told to look for it."""
    path.write_text(json.dumps(asdict(manifest)), encoding="ascii")


def load_manifest(path: Path) -> Manifest:
    """What `save_manifest` wrote."""
    return Manifest(**json.loads(path.read_text(encoding="ascii")))
