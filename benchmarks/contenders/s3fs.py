"""s3fs: fsspec's file system for S3, which most of scientific Python reads through.

For: NPZ files by `numpy.load`; and torch's own checkpoints, on files and on this. Must not know: how it is timed.
"""

from __future__ import annotations

from benchmarks import dcp_works
from benchmarks.npz_works import open_s3fs, reading_all, reading_one
from benchmarks.worker import serve

WORKS = {
    "npz_all": lambda job: reading_all(job, open_s3fs),
    "npz_one": lambda job: reading_one(job, open_s3fs),
    **dcp_works.TORCH_WORKS,
}

if __name__ == "__main__":
    serve(WORKS, ("s3fs", "numpy", "torch"))
