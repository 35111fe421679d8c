"""The tfrecord package: TFRecord files without TensorFlow, in Python.

For: the nearest peer of our own reader. Must not know: how it is timed.
"""

from __future__ import annotations

from tfrecord.reader import tfrecord_iterator

from benchmarks.record_files import PATH, drained
from benchmarks.worker import Action, Job, serve


def records_local(job: Job) -> Action:
    """All records, each in the buffer of the one before."""
    return lambda: drained(job, tfrecord_iterator(str(PATH)))


WORKS = {"records_local": records_local}

if __name__ == "__main__":
    serve(WORKS, ("tfrecord",))
