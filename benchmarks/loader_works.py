"""The works that draw batches through torch's DataLoader.

For: declaring them. Must not know: how a contender does its work, or how rounds are run.
"""

from __future__ import annotations

from benchmarks.declare import CONNECTOR, ORIGINAL, OURS, Lane, Target, Work

_THREADS = ({"torch_threads": 1}, {"torch_threads": 2})
_DRAW = {"batch_size": 32, "num_workers": 0}
_FEW = {"count": 100}
_SHUFFLED = {"shuffle": True}
_RUST_BATCHES = tuple(
    {"batch_size": batch, "num_workers": 256, "prefetch": 8, "torch_threads": threads}
    for batch, threads in ((64, 1), (256, 1), (512, 1), (256, 2), (512, 2))
)

LOADER_LATENCY = Work(
    name="loader_latency",
    title="torch DataLoader (no workers, batches of 32) over the late origin",
    figure="ops_per_second",
    unit="samples/s",
    endpoint="late",
    params=_DRAW,
    rounds=5,
    about="Listing is within the clock. A lane that reads one object at a time draws 100.",
    lanes=(
        Lane("ours iterable", OURS, "loader_iterable", _THREADS, kin="iterable"),
        Lane("ours map, sequential", OURS, "loader_map", _THREADS, kin="map, sequential"),
        Lane("ours map, shuffled", OURS, "loader_map", _THREADS, kin="map, shuffled", params=_SHUFFLED),
        Lane("s3dlio-0.10.0 iterable", ORIGINAL, "loader_iterable", _RUST_BATCHES, kin="iterable"),
        Lane(
            "s3dlio-0.10.0 map, sequential",
            ORIGINAL,
            "loader_map",
            kin="map, sequential",
            params=_FEW,
            most_rounds=3,
        ),
        Lane(
            "s3dlio-0.10.0 map, shuffled",
            ORIGINAL,
            "loader_map",
            kin="map, shuffled",
            params=_FEW | _SHUFFLED,
            most_rounds=3,
        ),
        Lane(
            "s3torchconnector iterable",
            CONNECTOR,
            "loader_iterable",
            kin="iterable",
            params=_FEW,
            most_rounds=3,
        ),
        Lane(
            "s3torchconnector iterable, 8 workers",
            CONNECTOR,
            "loader_iterable",
            kin="iterable",
            params={"num_workers": 8},
            most_rounds=3,
            note="what its own guide would do about latency",
        ),
        Lane(
            "s3torchconnector map, sequential",
            CONNECTOR,
            "loader_map",
            kin="map, sequential",
            params=_FEW,
            most_rounds=3,
        ),
        Lane(
            "s3torchconnector map, shuffled",
            CONNECTOR,
            "loader_map",
            kin="map, shuffled",
            params=_FEW | _SHUFFLED,
            most_rounds=3,
        ),
    ),
    targets=(
        Target("late loader, iterable: 3,000 samples/s", "ours iterable", at_least=3000),
        Target("late loader, map shuffled: 1,100 samples/s", "ours map, shuffled", at_least=1100),
        Target("late loader, map sequential: 3,000 samples/s", "ours map, sequential", at_least=3000),
    ),
)

LOADER_FORK = Work(
    name="loader_fork",
    title="torch DataLoader (2 forked workers, batches of 32), no latency, 3 epochs",
    figure="ops_per_second",
    unit="samples/s",
    params={"batch_size": 32, "num_workers": 2, "epochs": 3},
    rounds=5,
    about="Listing, forking and joining are within the clock; the workers persist over the epochs.",
    lanes=(
        Lane("ours iterable", OURS, "loader_iterable", kin="iterable"),
        Lane("ours map", OURS, "loader_map", kin="map"),
        Lane("s3torchconnector iterable", CONNECTOR, "loader_iterable", kin="iterable"),
        Lane("s3torchconnector map", CONNECTOR, "loader_map", kin="map"),
    ),
    targets=(
        Target(
            "forked loader, iterable: 1.5 x s3torchconnector",
            "ours iterable",
            ("s3torchconnector iterable",),
            at_least=1.5,
        ),
        Target("forked loader, map: 1.5 x s3torchconnector", "ours map", ("s3torchconnector map",), at_least=1.5),
    ),
)
