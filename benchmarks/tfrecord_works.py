"""The works that read TFRecord files.

For: declaring them. Must not know: how a contender does its work, or how rounds are run.
"""

from __future__ import annotations

from benchmarks.declare import OURS, Lane, Target, Work

TENSORFLOW = "tensorflow"
PACKAGE = "tfrecord"

RECORDS_LOCAL = Work(
    name="tfrecord_local",
    title="10,486 TFRecords of 100 KiB (1 GiB) in order, a local file in the page cache",
    figure="gib_per_second",
    unit="GiB/s",
    rounds=9,
    about="Checksums are verified, but by the tfrecord package, which knows none and reads every record into the same"
    " buffer; a lane of ours that leaves them out is there to be held against it. The plain read looks at nothing.",
    lanes=(
        Lane("ours", OURS, "records_local", kin="verified"),
        Lane("ours, not verified", OURS, "records_local", kin="not verified", params={"check": False}),
        Lane("tf.data.TFRecordDataset", TENSORFLOW, "records_local", kin="verified"),
        Lane("tfrecord package", PACKAGE, "records_local", kin="not verified", note="verifies nothing"),
        Lane("plain read", OURS, "records_plain", note="one buffer of 1 MiB, used again"),
    ),
    targets=(
        Target("local TFRecords: 3 x TensorFlow", "ours", ("tf.data.TFRecordDataset",), at_least=3),
        Target("local TFRecords: 3 x the tfrecord package", "ours", ("tfrecord package",), at_least=3),
    ),
)

RECORDS_S3 = Work(
    name="tfrecord_s3",
    title="10,486 TFRecords of 100 KiB (1 GiB) in order, from S3",
    figure="gib_per_second",
    unit="GiB/s",
    rounds=9,
    about="Checksums are verified, but by the tfrecord package. The get brings the same object into memory as a whole and"
    " looks at nothing.",
    lanes=(
        Lane("ours", OURS, "records_s3"),
        Lane("ours get", OURS, "records_get"),
        Lane("tfrecord package", PACKAGE, "records_s3", note="boto3's download_file into memory comes first"),
    ),
    targets=(
        Target("TFRecords from S3: 0.85 x a get of the same object", "ours", ("ours get",), at_least=0.85),
        Target("TFRecords from S3: 3 x the tfrecord package", "ours", ("tfrecord package",), at_least=3),
    ),
)

RECORDS_INDEX = Work(
    name="tfrecord_index",
    title="The index of 10,486 TFRecords of 100 KiB (1 GiB), a local file in the page cache",
    figure="milliseconds",
    unit="ms",
    lower_is_better=True,
    rounds=9,
    about="Headers are read and verified, data is skipped. The plain read reads all and looks at nothing.",
    lanes=(
        Lane("ours", OURS, "records_index"),
        Lane("plain read", OURS, "records_plain"),
    ),
)

RECORDS_RANDOM = Work(
    name="tfrecord_random",
    title="The last of 10,486 TFRecords of 100 KiB, a local file in the page cache",
    figure="ops_per_second",
    unit="records/s",
    rounds=7,
    about="By the index, in one range read; or by reading all that come before it.",
    lanes=(
        Lane("ours by index", OURS, "records_last", params={"times": 200}),
        Lane("ours, all before it", OURS, "records_scan"),
        Lane("tf.data.TFRecordDataset, all before it", TENSORFLOW, "records_scan"),
    ),
    targets=(Target("one TFRecord: 1,000 x a scan", "ours by index", ("ours, all before it",), at_least=1000),),
)

TFRECORD_WORKS = (RECORDS_LOCAL, RECORDS_S3, RECORDS_INDEX, RECORDS_RANDOM)
