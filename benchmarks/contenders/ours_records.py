"""This library's TFRecord functions, by default settings.

For: what `ours` offers to the record works. Must not know: how it is timed.
"""

from __future__ import annotations

from collections import deque

from benchmarks.record_files import INDEX, KEY, LAST, PATH, RECORD_BYTES, drained, prove, read_plainly
from benchmarks.worker import BUCKET_URI, Action, Haul, Job

_URI = BUCKET_URI + KEY


def records_local(job: Job) -> Action:
    """All records of the local file."""
    from s3dlio.tfrecords import iter_tfrecords

    return lambda: drained(job, iter_tfrecords(PATH, check=job.params.get("check", True)))


def records_s3(job: Job) -> Action:
    """All records of the object."""
    from s3dlio.tfrecords import iter_tfrecords

    return lambda: drained(job, iter_tfrecords(_URI))


def records_get(_job: Job) -> Action:
    """The object as a whole."""
    import s3dlio

    def action() -> Haul:
        return Haul(1, len(s3dlio.get(_URI)), proved_by_count=False)

    return action


def records_plain(_job: Job) -> Action:
    """The local file, read into one buffer."""
    return lambda: Haul(1, read_plainly(PATH), proved_by_count=False)


def records_index(_job: Job) -> Action:
    """The index of the local file, written beside that which the file came with, and held against it."""
    from s3dlio.tfrecords import create_tfrecord_index

    target = INDEX.with_suffix(".again")

    def action() -> Haul:
        count = create_tfrecord_index(PATH, target)
        return Haul(count, INDEX.stat().st_size, proved_by_count=False)

    action()
    if target.read_bytes() != INDEX.read_bytes():
        raise AssertionError("the index is not that which the writer wrote")
    return action


def records_last(job: Job) -> Action:
    """The last record by its entry, many times."""
    from s3dlio.tfrecords import get_tfrecord

    times = job.params["times"]

    def action() -> Haul:
        for _ in range(times):
            record = get_tfrecord(PATH, LAST)
        prove(-1, record)
        return Haul(times, times * RECORD_BYTES, proved_by_count=False)

    return action


def records_scan(_job: Job) -> Action:
    """The last record by reading all."""
    from s3dlio.tfrecords import iter_tfrecords

    def action() -> Haul:
        prove(-1, deque(iter_tfrecords(PATH), maxlen=1)[0])
        return Haul(1, RECORD_BYTES, proved_by_count=False)

    return action


WORKS = {
    "records_local": records_local,
    "records_s3": records_s3,
    "records_get": records_get,
    "records_plain": records_plain,
    "records_index": records_index,
    "records_last": records_last,
    "records_scan": records_scan,
}
