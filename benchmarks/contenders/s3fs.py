"""s3fs: fsspec's file system for S3, which most of scientific Python reads through.

For: NPZ files by `numpy.load`, folders by `put` and `get`; and torch's own checkpoints, on files and on this. Must not
know: how it is timed.
"""

from __future__ import annotations

from typing import Any

import s3fs

from benchmarks import dcp_works, file_works
from benchmarks.npz_works import open_s3fs, reading_all, reading_one
from benchmarks.trees import carrying
from benchmarks.worker import Action, Job, serve


def transfer(job: Job) -> Action:
    """By `put` and `get`, recursive, with its own settings."""
    files: Any = s3fs.S3FileSystem(endpoint_url=job.endpoint, use_listings_cache=False)

    def carry(source: str, target: str) -> None:
        if job.params["way"] == "down":
            files.get(source, f"{target}/", recursive=True)
        else:
            files.put(f"{source}/", target, recursive=True)

    return carrying(job, carry)


WORKS = {
    "file_row": file_works.s3fs,
    "transfer": transfer,
    "npz_all": lambda job: reading_all(job, open_s3fs),
    "npz_one": lambda job: reading_one(job, open_s3fs),
    **dcp_works.TORCH_WORKS,
}

if __name__ == "__main__":
    serve(WORKS, ("s3fs", "numpy", "torch"))
