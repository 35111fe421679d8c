"""This library's streaming writers.

For: the lanes of the works on writing. Must not know: how they are timed.
"""

from __future__ import annotations

import os
import time

import s3dlio
from benchmarks.put_works import PIECE_BYTES, sink_totals, text, writing
from benchmarks.worker import BUCKET_URI, Action, Haul, Job, WrongBytesError

_PACKED_COUNT = 64


def _writer(job: Job, key: str) -> s3dlio.MultipartUploadWriter:
    return s3dlio.MultipartUploadWriter.from_uri(
        BUCKET_URI + key, part_size=PIECE_BYTES, max_in_flight=job.setting["in_flight"]
    )


def put_write(job: Job) -> Action:
    """By `write`, from memory that may change (`bytearray`), or that cannot (`bytes`)."""

    def write(key: str, count: int, memory: memoryview) -> None:
        data = bytes(memory) if job.params.get("frozen") else memory
        with _writer(job, key) as writer:
            for _ in range(count):
                writer.write(data)

    return writing(job, write)


def put_reserve(job: Job) -> Action:
    """By `reserve` and `commit`; whoever makes the bytes would make them in place, so only a proof fills them."""

    def write(key: str, count: int, memory: memoryview) -> None:
        with _writer(job, key) as writer:
            for _ in range(count):
                room = writer.reserve(len(memory))
                if job.proof:
                    room[:] = memory
                writer.commit(len(memory))

    return writing(job, write)


def put_zstd(job: Job) -> Action:
    """Compressible data through a writer that compresses."""
    memory = text()
    options = s3dlio.WriterOptions(compression="zstd", compression_level=3, max_in_flight=4)

    def action() -> Haul:
        with s3dlio.create_writer(f"{BUCKET_URI}packed-{os.getpid()}-{time.monotonic_ns()}", options) as writer:
            for _ in range(_PACKED_COUNT):
                writer.write(memory)
        written, stored = writer.finalize()
        path = "/" + writer.uri.removeprefix("s3://")
        if sink_totals(job.endpoint)["objects"].get(path) != stored:
            raise WrongBytesError("what has come is not what was written")
        if job.proof:
            job.proof.whole = True
        return Haul(1, written)

    return action


def zstd_alone(job: Job) -> Action:
    """The same data through the same library with as many threads, to nowhere."""
    import zstandard

    memory = text()

    def action() -> Haul:
        threads = len(os.sched_getaffinity(0))
        packer = zstandard.ZstdCompressor(level=3, threads=threads, write_checksum=True).compressobj()
        stored = sum(len(packer.compress(memory)) for _ in range(_PACKED_COUNT)) + len(packer.flush())
        if not stored:
            raise WrongBytesError("nothing came of it")
        if job.proof:
            job.proof.whole = True
        return Haul(1, _PACKED_COUNT * PIECE_BYTES)

    return action


WORKS = {"put_write": put_write, "put_reserve": put_reserve, "put_zstd": put_zstd, "zstd_alone": zstd_alone}
