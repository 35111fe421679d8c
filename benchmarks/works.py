"""The table of works: what is measured, by whom, with which settings, and what is aimed at.

For: one place to read, and one place to add to, when there is something new to measure.
Must not know: how a contender does its work, or how rounds are run.
"""

from __future__ import annotations

from benchmarks.bulk_works import BULK_WORKS
from benchmarks.dcp_works import DCP_WORKS
from benchmarks.declare import (
    BOTO3,
    CONNECTOR,
    FLOOR,
    FLOOR_C,
    OBSTORE,
    ORIGINAL,
    OURS,
    Lane,
    Target,
    Work,
    in_flight,
    with_env,
)
from benchmarks.field_works import FIELD_WORKS
from benchmarks.file_works import FILE_WORKS
from benchmarks.jax_works import LOADER_JAX
from benchmarks.loader_works import LOADER_FORK, LOADER_LATENCY
from benchmarks.npz_works import NPZ_ALL, NPZ_ONE
from benchmarks.put_works import PUT_WORKS
from benchmarks.record_loader_works import RECORD_LOADER_WORKS
from benchmarks.tf_works import LOADER_TF
from benchmarks.tfrecord_works import TFRECORD_WORKS
from benchmarks.transfer_works import TRANSFER_WORKS

_MANY = in_flight((4, 8, 16, 32, 64))
_WIDE = in_flight((64, 128, 256))
_TWO_THREADS = {"S3DLIO_RT_THREADS": "2"}

_SMALL = Work(
    name="small",
    title="2,000 objects of 128 KiB, no latency",
    figure="ops_per_second",
    unit="objects/s",
    about="All objects are in the caller's hands when the clock stops (the floors: one buffer per thread).",
    lanes=(
        Lane(OURS, OURS, "small", _MANY),
        Lane(ORIGINAL, ORIGINAL, "small", _MANY[1:] + with_env(_MANY[:4], **_TWO_THREADS)),
        Lane(
            OBSTORE,
            OBSTORE,
            "small",
            in_flight((8, 16, 32, 64), mode="threads") + in_flight((32,), mode="asyncio"),
        ),
        Lane(CONNECTOR, CONNECTOR, "small", in_flight((8, 16, 32), gbps=10) + in_flight((16, 32), gbps=50)),
        Lane(BOTO3, BOTO3, "small", in_flight((1, 2, 4)), most_rounds=5),
        Lane(FLOOR, FLOOR, "small", in_flight((2, 4, 8))),
        Lane(FLOOR_C, FLOOR_C, "small", in_flight((2, 4, 8, 16))),
    ),
    targets=(
        Target("small objects: 1.3 x obstore", OURS, (OBSTORE,), at_least=1.3),
        Target("small objects: 2.5 x s3dlio 0.10.0", OURS, (ORIGINAL,), at_least=2.5),
        Target("small objects: 0.85 x the floor in Python", OURS, (FLOOR,), at_least=0.85),
    ),
)

_BIG = Work(
    name="big",
    title="One object of 1 GiB, into memory of its own",
    figure="gib_per_second",
    unit="GiB/s",
    about="The object is dropped between rounds. A client that keeps a pool may use its memory again; the floors"
    " ask the kernel for fresh memory each time.",
    lanes=(
        Lane("ours get", OURS, "big"),
        Lane("s3dlio-0.10.0 get", ORIGINAL, "big", ({}, *with_env(({},), S3DLIO_RANGE_CONCURRENCY="8"))),
        Lane("s3dlio-0.10.0 get_into_async", ORIGINAL, "big_by_into", note="a fresh buffer each time"),
        Lane("obstore stream", OBSTORE, "big", ({"mode": "stream"},)),
        Lane("obstore ranges", OBSTORE, "big", in_flight((4, 8), mode="ranges")),
        Lane(
            CONNECTOR,
            CONNECTOR,
            "big",
            ({"mode": "read"}, {"mode": "read", "gbps": 50}),
            most_rounds=5,
        ),
        Lane(BOTO3, BOTO3, "big", ({"mode": "stream"},), most_rounds=5),
        Lane(FLOOR, FLOOR, "big", in_flight((2, 4, 8))),
        Lane(FLOOR_C, FLOOR_C, "big", in_flight((2, 4))),
    ),
    targets=(
        Target("big object: 1.5 x s3dlio 0.10.0 get", "ours get", ("s3dlio-0.10.0 get",), at_least=1.5),
        Target("big object: 1.5 x obstore", "ours get", ("obstore stream", "obstore ranges"), at_least=1.5),
        Target(
            "big object: peak memory over the process's own, GiB",
            "ours get",
            at_most=1.1,
            figure="peak_over_baseline_gib",
        ),
    ),
)

_BIG_INTO = Work(
    name="big_into",
    title="One object of 1 GiB, into the caller's buffer, used again every round",
    figure="gib_per_second",
    unit="GiB/s",
    lanes=(
        Lane("ours get_into", OURS, "big_into"),
        Lane("s3dlio-0.10.0 get_into_async", ORIGINAL, "big_into"),
        Lane(FLOOR, FLOOR, "big_into", in_flight((2, 4, 8))),
        Lane(FLOOR_C, FLOOR_C, "big_into", in_flight((2, 4))),
    ),
    targets=(Target("into a buffer: 0.85 x the floor in Python", "ours get_into", (FLOOR,), at_least=0.85),),
)

_LATENCY = Work(
    name="latency",
    title="2,000 objects of 128 KiB, each answered 20 ms late",
    figure="ops_per_second",
    unit="objects/s",
    endpoint="late",
    rounds=7,
    about="256 in flight at 20 ms cannot exceed 12,800/s, however good the client.",
    lanes=(
        Lane(OURS, OURS, "small", _WIDE),
        Lane(ORIGINAL, ORIGINAL, "small", _WIDE + with_env(_WIDE[2:], **_TWO_THREADS)),
        Lane(OBSTORE, OBSTORE, "small", in_flight((64, 128, 256), mode="threads")),
        Lane(CONNECTOR, CONNECTOR, "small", in_flight((128, 256), gbps=50) + in_flight((256,), gbps=100)),
        Lane(BOTO3, BOTO3, "small", in_flight((32, 64)), most_rounds=3),
        Lane(FLOOR, FLOOR, "small", _WIDE),
        Lane(FLOOR_C, FLOOR_C, "small", _WIDE),
    ),
    targets=(
        Target("late origin: 4,000 objects/s", OURS, at_least=4000),
        Target("late origin: 2.5 x s3dlio 0.10.0 at its best", OURS, (ORIGINAL,), at_least=2.5),
    ),
)

_IMPORT = Work(
    name="import",
    title="Import, over a bare Python",
    figure="milliseconds",
    unit="ms",
    params={"pairs": 4},
    rounds=5,
    lower_is_better=True,
    about="Each round starts `python -c pass` and `python -c 'import ...'` four times each, by turns.",
    lanes=tuple(Lane(name, name, "import") for name in (OURS, ORIGINAL, OBSTORE, CONNECTOR, BOTO3)),
    targets=(
        Target("import: 60 ms over a bare Python", OURS, at_most=60),
        Target("import: heavy modules loaded", OURS, at_most=0, figure="heavy_module_count"),
    ),
)

_SMALL_TLS = Work(
    name="small_tls",
    title="2,000 objects of 128 KiB over TLS, no latency",
    figure="ops_per_second",
    unit="objects/s",
    endpoint="tls",
    rounds=5,
    about="s3torchconnector is left out: it takes no certificate authority of one's own.",
    lanes=(
        Lane(OURS, OURS, "small", _MANY[:4]),
        Lane(ORIGINAL, ORIGINAL, "small", _MANY[1:4] + with_env(_MANY[1:3], **_TWO_THREADS)),
        Lane(OBSTORE, OBSTORE, "small", in_flight((8, 16, 32), mode="threads")),
        Lane(BOTO3, BOTO3, "small", in_flight((2, 4)), most_rounds=3),
    ),
)

_BIG_TLS = Work(
    name="big_tls",
    title="One object of 1 GiB over TLS",
    figure="gib_per_second",
    unit="GiB/s",
    endpoint="tls",
    rounds=5,
    lanes=(
        Lane("ours get", OURS, "big"),
        Lane("s3dlio-0.10.0 get", ORIGINAL, "big"),
        Lane("obstore ranges", OBSTORE, "big", in_flight((4, 8), mode="ranges")),
        Lane(BOTO3, BOTO3, "big", ({"mode": "stream"},), most_rounds=3),
    ),
)

WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        _SMALL,
        _BIG,
        _BIG_INTO,
        _LATENCY,
        LOADER_LATENCY,
        LOADER_FORK,
        _IMPORT,
        _SMALL_TLS,
        _BIG_TLS,
        NPZ_ALL,
        NPZ_ONE,
        *PUT_WORKS,
        *DCP_WORKS,
        *TFRECORD_WORKS,
        *RECORD_LOADER_WORKS,
        LOADER_JAX,
        LOADER_TF,
        *FILE_WORKS,
        *FIELD_WORKS,
        *BULK_WORKS,
        *TRANSFER_WORKS,
    )
}
