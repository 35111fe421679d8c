"""TensorFlow's own reader of TFRecord files, as its guide uses it.

For: what most people read these files with. Must not know: how it is timed.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.record_files import COUNT, PATH, RECORD_BYTES, drained, prove
from benchmarks.worker import Action, Haul, Job, serve


def records_local(job: Job) -> Action:
    """All records, as the bytes that NumPy gets."""
    return lambda: drained(job, tf.data.TFRecordDataset(str(PATH)).as_numpy_iterator())


def records_scan(_job: Job) -> Action:
    """The last record: the file has no other way to it."""

    def action() -> Haul:
        dataset = tf.data.TFRecordDataset(str(PATH)).skip(COUNT - 1)
        (record,) = dataset.as_numpy_iterator()
        prove(-1, record)
        return Haul(1, RECORD_BYTES, proved_by_count=False)

    return action


WORKS = {"records_local": records_local, "records_scan": records_scan}

if __name__ == "__main__":
    serve(WORKS, (), {"tensorflow": tf.__version__})
