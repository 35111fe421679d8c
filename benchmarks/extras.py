"""What the origin serves beside the plain objects: NPZ files, images, and TFRecords.

For: one call that makes the bucket whole. Must not know: HTTP, or any client.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import jax_works, npz_works, record_files, record_shards


def write_extras(bucket: Path, say: Callable[[str], None]) -> None:
    """Write, or link, all further objects into the bucket's folder."""
    npz_works.write_npz_objects(bucket)
    jax_works.write_images(bucket)
    # Gigabytes, made once: kept on disk and served out of the page cache.
    (bucket / record_files.KEY).symlink_to(record_files.ensure(say))
    (bucket / record_shards.PREFIX.rstrip("/")).symlink_to(record_shards.ensure(), target_is_directory=True)
