"""The TFRecord file that the record works read: numbered records of random bytes, and the checksums to prove them by.

For: one file, made once and kept beside the environments; the origin links to it.
Must not know: HTTP, or any client. Workers import it, so nothing outside the standard library, but to make the file.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.worker import Haul, Job, WrongBytesError

RECORD_BYTES = 100 * 1024
COUNT = 10_486  # 1 GiB
#: The key in the bucket.
KEY = "records.tfrecord"
_FRAME_BYTES = 16
_HOME = Path(__file__).resolve().parent.parent / ".bench" / "records"
PATH = _HOME / KEY
INDEX = _HOME / f"{KEY}.idx"
_CRCS = _HOME / "crcs.json"
#: The last record, as an entry of the index.
LAST = ((COUNT - 1) * (RECORD_BYTES + _FRAME_BYTES), RECORD_BYTES + _FRAME_BYTES)
FILE_BYTES = COUNT * (RECORD_BYTES + _FRAME_BYTES)


def ensure(say: Callable[[str], None]) -> Path:
    """Write the file, its index and its checksums unless they are there."""
    if _CRCS.exists() and PATH.exists() and PATH.stat().st_size == FILE_BYTES:
        return PATH
    from s3dlio.tfrecords import TFRecordWriter

    say(f"writing {COUNT} records of {RECORD_BYTES // 1024} KiB")
    crcs = []
    with TFRecordWriter(PATH, index=INDEX) as writer:
        for number in range(COUNT):
            data = number.to_bytes(8, "little") + os.urandom(RECORD_BYTES - 8)
            crcs.append(zlib.crc32(data))
            writer.write(data)
    _CRCS.write_text(json.dumps(crcs), encoding="ascii")
    return PATH


@cache
def _crcs() -> list[int]:
    crcs: list[int] = json.loads(_CRCS.read_text(encoding="ascii"))
    return crcs


def drained(job: Job, records: Iterable[Any]) -> Haul:
    """Take all records, one after the other, and let each go as a training loop would."""
    count = 0
    if job.proof is None:
        for _ in records:
            count += 1
    else:
        for record in records:
            prove(count, record)
            count += 1
        if count != COUNT:
            raise WrongBytesError(f"{count} records came, of {COUNT}")
        job.proof.whole = True
    return Haul(count, count * RECORD_BYTES)


def prove(number: int, record: Any) -> None:
    """Hold one record against what was written."""
    if zlib.crc32(record) != _crcs()[number]:
        raise WrongBytesError(f"record {number}: wrong bytes")


def read_plainly(path: Path) -> int:
    """Read a file into one buffer, again and again, and look at nothing: what the page cache gives."""
    buffer = memoryview(bytearray(1 << 20))
    total = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total
