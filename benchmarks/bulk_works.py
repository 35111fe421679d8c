"""The works on many objects at once: a long listing, several processes, the operation log, made-up data.

For: declaring them, and what their contenders have in common. Must not know: how rounds are run, or any client.
Imports nothing outside the standard library, because it runs in environments that hold one client each.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.declare import BOTO3, OBSTORE, ORIGINAL, OURS, Lane, Target, Work
from benchmarks.objects import SMALL_PREFIX

GENERATED_BYTES = 4 << 30
LOGGED_PASSES = 20
MANY_PREFIX = "many/"
MANY_TEMPLATE = "{:06d}.bin"
MANY_COUNT = 8000

_ARROW = "obstore as Arrow"
_LAZILY = "ours iter_objects"

_LIST = Work(
    name="list_million",
    title="A listing of a million objects, a thousand a page, no latency",
    figure="ops_per_second",
    unit="objects/s",
    endpoint="listing",
    rounds=5,
    about="The pages lie ready, as files that nginx sends. In the caller's hands at the end are a million strings"
    " (sorted URIs of ours), or with Arrow tables of columns; `iter_objects` gives each object's size, tag and time,"
    " and they are dropped as they come.",
    lanes=(
        Lane("ours list", OURS, "list_all"),
        Lane(_LAZILY, OURS, "list_lazily", kin="lazy"),
        Lane(ORIGINAL, ORIGINAL, "list_all"),
        Lane(OBSTORE, OBSTORE, "list_all"),
        Lane(_ARROW, OBSTORE, "list_arrow"),
        Lane(BOTO3, BOTO3, "list_all", params={"listed": 50_000}, most_rounds=3, note="the first 50,000 objects only"),
    ),
    targets=(
        Target("list: 12 x boto3", "ours list", (BOTO3,), at_least=12),
        Target("list: 1.15 x obstore's dictionaries", "ours list", (OBSTORE,), at_least=1.15),
        Target("list: 2.5 x s3dlio 0.10.0", "ours list", (ORIGINAL,), at_least=2.5),
        Target(
            "list: peak memory over the process's own, GiB",
            "ours list",
            at_most=0.4e9 / (1 << 30),
            figure="peak_over_baseline_gib",
        ),
    ),
)

_ONE, _TWO = "ours, 1 process", "ours, 2 processes"
_PROCESSES = Work(
    name="mp_get_scaling",
    title=f"{MANY_COUNT:,} objects of 128 KiB, each answered 20 ms late, by processes",
    figure="ops_per_second",
    unit="objects/s",
    endpoint="late",
    rounds=5,
    about="64 objects in flight in each process; from the first object to the last, without the processes' start.",
    lanes=(
        Lane(_TWO, OURS, "mp_get", params={"procs": 2}),
        Lane(_ONE, OURS, "mp_get", params={"procs": 1}),
    ),
    targets=(Target("mp_get: 2 processes over one", _TWO, (_ONE,), at_least=1.6),),
)

_OFF, _AGAIN, _ON = "ours, no log", "ours, no log (again)", "ours, log in memory"
_LOG = Work(
    name="oplog",
    title=f"2,000 objects of 128 KiB, {LOGGED_PASSES} times over, with an operation log",
    figure="ops_per_second",
    unit="objects/s",
    rounds=9,
    about="Without a log twice: what these two differ by is noise. The log is finished before the clock stops.",
    lanes=(
        Lane(_ON, OURS, "logged", params={"log": True}),
        Lane(_OFF, OURS, "logged", params={"log": False}),
        Lane(_AGAIN, OURS, "logged", params={"log": False}),
    ),
    targets=(
        Target("operation log: 0.95 x the rate without", _ON, (_OFF,), at_least=0.95),
        Target("operation log: noise of the rate", _AGAIN, (_OFF,), at_least=0.95),
    ),
)

_ALONE = "NumPy's generator alone"
_GENERATE = Work(
    name="generate",
    title="4 GiB of made-up data, block by block",
    figure="gb_per_cpu_second",
    unit="GB per CPU second",
    rounds=5,
    about="No duplicates, not compressible; blocks of 8 MiB. Seconds are those of all threads together.",
    lanes=(
        Lane("ours generate_blocks", OURS, "generate"),
        Lane(ORIGINAL, ORIGINAL, "generate", ({"threads": 1}, {"threads": 2})),
        Lane(_ALONE, OURS, "generate_alone", kin="alone"),
    ),
    targets=(Target("made-up data: GB a second and core", "ours generate_blocks", at_least=2.0),),
)

BULK_WORKS = (_LIST, _PROCESSES, _LOG, _GENERATE)


def link_many(bucket: Path) -> None:
    """Have the small objects many times under further names, without further memory."""
    (bucket / MANY_PREFIX).mkdir()
    small = sorted((bucket / SMALL_PREFIX).iterdir())
    for number in range(MANY_COUNT):
        (bucket / MANY_PREFIX / MANY_TEMPLATE.format(number)).hardlink_to(small[number % len(small)])
