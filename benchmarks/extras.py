"""What the origin serves beside the plain objects: NPZ files, images in several layouts, and TFRecords.

For: one call that makes the bucket whole. Must not know: HTTP, or any client.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import bulk_works, field_data, jax_works, npz_works, record_files, record_shards

#: What is written beside the plain objects, at most; what is linked is not counted.
WRITTEN_BYTES = 512 << 20


def write_extras(bucket: Path, say: Callable[[str], None]) -> None:
    """Write, or link, all further objects into the bucket's folder."""
    bulk_works.link_many(bucket)
    npz_works.write_npz_objects(bucket)
    jax_works.write_images(bucket)
    field_data.write_field(bucket, say)
    # Gigabytes, made once: kept on disk and served out of the page cache.
    (bucket / record_files.KEY).symlink_to(record_files.ensure(say))
    (bucket / record_shards.PREFIX.rstrip("/")).symlink_to(record_shards.ensure(), target_is_directory=True)
