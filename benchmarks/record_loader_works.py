"""The works that draw TFRecords through torch's DataLoader, and the order of a hundred million samples.

For: declaring them. Must not know: how a contender does its work, or how rounds are run.
"""

from __future__ import annotations

from benchmarks.declare import OURS, Lane, Target, Work, with_env

#: torch's batches of 3.2 MB come from malloc, which in one process keeps them and in the next gives each back to the
#: kernel (35 us a record for fresh pages), as chance has it: here it keeps them in all.
_KEPT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 26)}
_AHEAD = with_env(({"num_workers": 128}, {"num_workers": 256}), **_KEPT)

RECORD_LOADER = Work(
    name="tfrecord_loader",
    title="torch DataLoader (no workers, batches of 32) over TFRecord shards of 64 MiB, 100 KiB records",
    figure="ops_per_second",
    unit="records/s",
    endpoint="late",
    params={"batch_size": 32},
    rounds=5,
    about="The origin answers 20 ms late, but for the first lane. Indexes lie beside the shards; reading them and making"
    " the dataset is not in the clock. Every record's checksum is verified. One at a time draws 60. malloc is told"
    " to keep what is freed (MALLOC_TRIM_THRESHOLD_), since by itself it does so in some processes and not in others.",
    lanes=(
        Lane("ours in order, no latency", OURS, "record_loader", _AHEAD, endpoint="plain"),
        Lane("ours in order, no latency, packed", OURS, "record_loader", _AHEAD, {"packed": True}, endpoint="plain"),
        Lane("ours, global shuffle", OURS, "record_loader", _AHEAD, {"shuffle": True}),
        Lane("ours, global shuffle, packed", OURS, "record_loader", _AHEAD, {"shuffle": True, "packed": True}),
        Lane("ours, block shuffle", OURS, "record_loader", _AHEAD, {"shuffle": "block"}),
        Lane("ours, one record at a time", OURS, "record_one_by_one", params={"draws": 60}, most_rounds=3),
    ),
    targets=(
        Target("TFRecord loader, global shuffle: 20 x one at a time", "ours, global shuffle",
               ("ours, one record at a time",), at_least=20),
        Target("TFRecord loader, global shuffle: 0.45 x in order without latency", "ours, global shuffle",
               ("ours in order, no latency",), at_least=0.45),
        Target("TFRecord loader, global shuffle, packed: 0.45 x in order without latency, packed",
               "ours, global shuffle, packed", ("ours in order, no latency, packed",), at_least=0.45),
        Target("TFRecord loader, block shuffle: 0.8 x in order without latency", "ours, block shuffle",
               ("ours in order, no latency",), at_least=0.8),
    ),
)  # fmt: skip

EPOCH_ORDER = Work(
    name="epoch_order",
    title="The first batch of a shuffled epoch of 100 million records, once the listing is known",
    figure="milliseconds",
    unit="ms",
    lower_is_better=True,
    rounds=3,
    about="The index of 100 million records in 1,000 objects is made beforehand; the clock covers the order of the"
    " epoch and the place of each of the first 256 samples. The peak includes the index.",
    lanes=(
        Lane("ours, global shuffle", OURS, "epoch_order", params={"shuffle": "global"}),
        Lane("ours, block shuffle", OURS, "epoch_order", params={"shuffle": "block"}),
        Lane("numpy permutation", OURS, "epoch_order", params={"shuffle": "numpy"}, note="what is stored instead"),
    ),
    targets=(
        Target("first batch of 100 million: 1 s", "ours, global shuffle", at_most=1000),
        Target("first batch of 100 million: 4 GiB", "ours, global shuffle", at_most=4, figure="peak_over_baseline_gib"),
    ),
)

RECORD_LOADER_WORKS = (RECORD_LOADER, EPOCH_ORDER)
