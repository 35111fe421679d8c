"""The work on writing: one object of 2 GiB, piece by piece, by a multipart upload; and a compressed stream.

For: declaring it, and what its contenders have in common: the memory that is written again and again, and the
question to the sink whether all of it has come. Must not know: how rounds are run, or any client. Imports nothing
outside the standard library at its top, because it runs in environments that hold one client each.
"""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.declare import BOTO3, CONNECTOR, FLOOR, OBSTORE, ORIGINAL, OURS, Lane, Target, Work, in_flight, with_env
from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Haul, Job, WrongBytesError

SINK = "sink"
PIECE_BYTES = 16 << 20
PIECE_COUNT = 128
#: An object whose bytes are proved is smaller: the sink keeps its parts in memory while it sums them.
_PROVED_COUNT = 8
_KEY = "written"
_FLIGHTS = in_flight((4, 8, 16))
#: Without a signature of the payload, where it can do without: its quickest way.
_ORIGINAL_FLIGHTS = _FLIGHTS[:2] + with_env(_FLIGHTS, S3DLIO_UNSIGNED_PAYLOAD="1")
_FROZEN = {"frozen": True}
_ORIGINAL_WRITE = "s3dlio-0.10.0 write"
_ORIGINAL_RESERVE = "s3dlio-0.10.0 reserve/commit"
_BOTO3 = ("boto3 upload_part", "boto3 upload_fileobj")

PUT_WORK = Work(
    name="put",
    title="2 GiB by a multipart writer, 16 MiB parts",
    figure="gib_per_second",
    unit="GiB/s",
    endpoint=SINK,
    rounds=7,
    about="Written from one buffer of 16 MiB, used again and again, to a server that throws all bytes away; with"
    " reserve/commit nothing is copied into the writer. The floor sums each part and sends it, no more.",
    lanes=(
        Lane("ours write", OURS, "put_write", _FLIGHTS),
        Lane("ours reserve/commit", OURS, "put_reserve", _FLIGHTS, kin="reserve"),
        Lane("ours write of bytes", OURS, "put_write", _FLIGHTS, params=_FROZEN, kin="frozen"),
        Lane(
            _ORIGINAL_WRITE, ORIGINAL, "put_write", _ORIGINAL_FLIGHTS, note="copy=True, since the buffer is used again"
        ),
        Lane(_ORIGINAL_RESERVE, ORIGINAL, "put_reserve", _ORIGINAL_FLIGHTS, kin="reserve"),
        Lane(f"{_ORIGINAL_WRITE} of bytes", ORIGINAL, "put_write", _ORIGINAL_FLIGHTS, params=_FROZEN, kin="frozen"),
        Lane(CONNECTOR, CONNECTOR, "put", ({"gbps": 10, "part_mib": 16}, {"gbps": 50, "part_mib": 16}), most_rounds=5),
        Lane(_BOTO3[0], BOTO3, "put_parts", in_flight((2, 4, 8)), most_rounds=5),
        Lane(_BOTO3[1], BOTO3, "put_file", in_flight((4, 8)), most_rounds=5),
        Lane(OBSTORE, OBSTORE, "put", in_flight((4, 8, 12)) + in_flight((8,), unsigned=True), most_rounds=5),
        Lane(FLOOR, FLOOR, "put", in_flight((4, 8))),
    ),
    targets=(
        Target("write: 2 x s3dlio 0.10.0", "ours write", (_ORIGINAL_WRITE,), at_least=2.0),
        Target("reserve/commit: 2 x s3dlio 0.10.0", "ours reserve/commit", (_ORIGINAL_RESERVE,), at_least=2.0),
        Target("write: 2.5 x s3torchconnector", "ours write", (CONNECTOR,), at_least=2.5),
        Target("write: 2.5 x boto3", "ours write", _BOTO3, at_least=2.5),
        Target("write: 0.85 x the floor in Python", "ours write", (FLOOR,), at_least=0.85),
        Target("reserve/commit: 0.85 x the floor in Python", "ours reserve/commit", (FLOOR,), at_least=0.85),
    ),
)

PACKED_WORK = Work(
    name="put_zstd",
    title="1 GiB of compressible data through zstd, level 3",
    figure="gib_per_second",
    unit="GiB/s",
    endpoint=SINK,
    rounds=7,
    about="The library alone compresses the same pieces with as many threads, and drops what comes of it.",
    lanes=(
        Lane("ours write", OURS, "put_zstd"),
        Lane("the zstd library alone", OURS, "zstd_alone", kin="alone"),
    ),
    targets=(Target("zstd: 0.9 x the library alone", "ours write", ("the zstd library alone",), at_least=0.9),),
)
PUT_WORKS = (PUT_WORK, PACKED_WORK)

#: Writes so many pieces, each the same memory, as the object of this key.
Write = Callable[[str, int, memoryview], object]


def piece() -> bytearray:
    """What is written: noise that every process can make again."""
    return bytearray(random.Random(16).randbytes(PIECE_BYTES))


def text() -> bytearray:
    """A piece that zstd makes about a third of: words, in an order of their own."""
    dice = random.Random(3)
    words = [dice.randbytes(dice.randint(3, 9)) for _ in range(5000)]
    return bytearray(b" ".join(dice.choices(words, k=PIECE_BYTES // 4))[:PIECE_BYTES].ljust(PIECE_BYTES))


def writing(job: Job, write: Write) -> Action:
    """Time a way to write the object; after each pass the sink is asked what has come."""
    memory = piece()
    count = _PROVED_COUNT if job.proof else PIECE_COUNT
    key = f"{_KEY}-{time.monotonic_ns()}" + ("-proof" if job.proof else "")

    def action() -> Haul:
        start = time.perf_counter()
        write(key, count, memoryview(memory))
        seconds = time.perf_counter() - start
        _prove(job, key, count)
        return Haul(1, count * PIECE_BYTES, seconds=seconds)

    return action


def _prove(job: Job, key: str, count: int) -> None:
    totals = sink_totals(job.endpoint)
    path = f"/{BUCKET}/{key}"
    if totals["trouble"]:
        raise RuntimeError(f"the sink failed: {totals['trouble'][0]}")
    if totals["objects"].get(path) != count * PIECE_BYTES:
        raise WrongBytesError(f"{count * PIECE_BYTES} bytes were written, {totals['objects'].get(path)} have come")
    if job.proof:
        if path not in totals["right"]:
            raise WrongBytesError("what has come is not what was written")
        job.proof.whole = True


def sink_totals(endpoint: str) -> dict[str, Any]:
    """What the sink says has come."""
    with urllib.request.urlopen(endpoint + "/_totals") as answer:
        told: dict[str, Any] = json.load(answer)
        return told


class Pieces:
    """A file that holds the same piece again and again; threads may not share it."""

    def __init__(self, memory: memoryview, count: int) -> None:
        self._memory = memory
        self._size = count * len(memory)
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, up to the end of the piece that they begin in."""
        place = self._at % len(self._memory)
        left = min(self._size - self._at, len(self._memory) - place)
        count = left if size < 0 else min(size, left)
        self._at += count
        return bytes(self._memory[place : place + count])


def repeated(memory: memoryview, count: int) -> Iterator[bytes]:
    """The same piece, so many times, as objects of their own."""
    for _ in range(count):
        yield bytes(memory)
