"""The tfrecord package: TFRecord files without TensorFlow, in Python.

For: the nearest peer of our own reader. Must not know: how it is timed.
"""

from __future__ import annotations

import tempfile

import boto3
from botocore.config import Config
from tfrecord.reader import tfrecord_iterator

from benchmarks.objects import BUCKET
from benchmarks.record_files import KEY, PATH, drained
from benchmarks.worker import Action, Haul, Job, serve

_MEMORY = "/dev/shm"


def records_local(job: Job) -> Action:
    """All records, each in the buffer of the one before."""
    return lambda: drained(job, tfrecord_iterator(str(PATH)))


def records_s3(job: Job) -> Action:
    """All records of the object, after boto3 has brought it into a file in memory: the package reads files only."""
    config = Config(s3={"addressing_style": "path"}, response_checksum_validation="when_required")
    client = boto3.client("s3", endpoint_url=job.endpoint, config=config)

    def action() -> Haul:
        with tempfile.NamedTemporaryFile(dir=_MEMORY, suffix=".tfrecord") as file:
            client.download_file(BUCKET, KEY, file.name)
            return drained(job, tfrecord_iterator(file.name))

    return action


WORKS = {"records_local": records_local, "records_s3": records_s3}

if __name__ == "__main__":
    serve(WORKS, ("tfrecord", "boto3"))
