"""The works on open files: an object of 1 GiB read from its beginning to its end, so many bytes at a time.

For: declaring them, and what their contenders have in common: something opens the object as a file, which is read
and proved here. Must not know: how rounds are run. Imports nothing outside the standard library at its top, because
it runs in environments that hold one client each.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

from benchmarks.declare import BOTO3, CONNECTOR, OBSTORE, OURS, S3FS, Lane, Target, Work
from benchmarks.objects import BIG_KEY, BUCKET
from benchmarks.worker import Action, Haul, Job, WrongBytesError

_KIB = 1024
_PEERS = ("s3fs", "obstore", "s3torchconnector", "boto3")


def _work(name: str, size: int, endpoint: str, where: str) -> Work:
    params = {"read_bytes": size}
    return Work(
        name=name,
        title=f"An object of 1 GiB as a file, {size // _KIB} KiB at a time, {where}",
        figure="gib_per_second",
        unit="GiB/s",
        endpoint=endpoint,
        rounds=5,
        params=params,
        about="Each read's bytes are dropped with the next. Files are as their libraries open them by default.",
        lanes=(
            Lane("ours, by fsspec", OURS, "file_row", params=params),
            Lane("s3fs", S3FS, "file_row", params=params, most_rounds=3),
            Lane("obstore", OBSTORE, "file_row", params=params, note="open_reader", most_rounds=3),
            Lane("s3torchconnector", CONNECTOR, "file_row", params=params, note="its sequential reader"),
            Lane("boto3", BOTO3, "file_row", params=params, note="the answer's body: one request"),
        ),
        targets=(Target(f"{name}: ahead of all", "ours, by fsspec", _PEERS, at_least=1.0),),
    )


FILE_WORKS = (
    _work("file_1MiB_late", 1024 * _KIB, "late", "answered 20 ms late"),
    _work("file_64KiB_late", 64 * _KIB, "late", "answered 20 ms late"),
    _work("file_1MiB", 1024 * _KIB, "plain", "no latency"),
)

#: Opens the object of a key: something with `read(size)`.
Open = Callable[[str], Any]


def reading_in_a_row(job: Job, open_file: Open) -> Action:
    """Read the big object from its beginning to its end."""
    size = int(job.params["read_bytes"])

    def action() -> Haul:
        file, count, crc = open_file(BIG_KEY), 0, 0
        while piece := file.read(size):
            count += len(piece)
            if job.proof:
                crc = zlib.crc32(piece, crc)
        if count != job.manifest.big_size:
            raise WrongBytesError(f"{count} bytes came")
        if job.proof:
            if crc != job.manifest.big_crc:
                raise WrongBytesError("the big object: wrong bytes")
            job.proof.whole = True
        return Haul(1, count)

    return action


# -- how each contender opens an object ---------------------------------------------------------------


def ours(job: Job) -> Action:
    """By this library's file system for fsspec."""
    from s3dlio.fsspec_plugin import S3

    os.environ["AWS_ENDPOINT_URL"] = job.endpoint
    files = S3()
    return reading_in_a_row(job, lambda key: files.open(f"{BUCKET}/{key}", "rb"))


def s3fs(job: Job) -> Action:
    """By s3fs."""
    from s3fs import S3FileSystem

    files = S3FileSystem(endpoint_url=job.endpoint)
    return reading_in_a_row(job, lambda key: files.open(f"{BUCKET}/{key}", "rb"))


def boto3(job: Job) -> Action:
    """By the body of one answer."""
    import boto3 as library

    client = library.client("s3", endpoint_url=job.endpoint)
    return reading_in_a_row(job, lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"])
