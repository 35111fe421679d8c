"""The works that draw an epoch of the same images through the field's loaders, each in the layout it is made for.

For: declaring them. Must not know: how a contender does its work, or how rounds are run.
"""

from __future__ import annotations

from benchmarks.declare import CONNECTOR, OURS, Lane, Setting, Target, Work
from benchmarks.field_data import GRAIN, LITDATA, MOSAIC, WEBDATASET

_NO_WORKERS = {"batch_size": 64, "num_workers": 0}
_WORKERS = {"batch_size": 64, "num_workers": 2}
#: Loader processes have one thread each, whatever their parent has.
_ALONE = ({},)
_THREADS = ({"torch_threads": 1}, {"torch_threads": 2})
_DOWNLOADS_AHEAD = {"max_pre_download": 10}
_KEPT = {"cache": "kept"}
_IN_ORDER = {"shuffled": False}
#: Of a client that reads one object at a time, over the late origin.
_FEW = {"count": 100}
#: What its own guide would do about latency.
_EIGHT = {"num_workers": 8}
_BY_EIGHT = ", 8 workers"
_FEW_ROUNDS, _ALL_ROUNDS = 3, 99

_ABOUT = (
    "The pixels are random: nothing compresses them. Each client reads the layout it is made for: an NPZ object per"
    " image, or 20 files of 100 images, by its own writer. A pass is one epoch from nothing: dataset, listing or index,"
    " loader and workers are made within the clock, which weighs more than it would in a longer epoch."
)
_ABOUT_WORKERS = " Peak memory is of the trainer's process alone."
_ABOUT_LATE = " A lane that reads one object at a time draws 100."

_PACKED = "ours TFRecord, packed"
_ITERABLE = "ours NPZ, iterable"
_MAP = "ours NPZ, map"
_ITERABLE_PEER = "s3torchconnector NPZ, iterable"
_MAP_PEER = "s3torchconnector NPZ, map"
_PEERS_OF_FILES = ("MosaicML Streaming", "LitData", "WebDataset")


def _ours(settings: tuple[Setting, ...]) -> tuple[Lane, ...]:
    packed = "a record is a label and an image, and a batch of images is a view of records"
    return (
        Lane(_PACKED, OURS, "epoch_records", settings, kin="files", note=packed),
        Lane("ours TFRecord, Examples", OURS, "epoch_examples", settings, kin="files"),
        Lane(_ITERABLE, OURS, "epoch_objects_iterable", settings, kin="iterable"),
        Lane(_MAP, OURS, "epoch_objects_map", settings, kin="map"),
    )


def _of_files(settings: tuple[Setting, ...]) -> tuple[Lane, ...]:
    """The peers that keep many images in a file, and read it from the origin."""
    empty = "each epoch begins with an empty cache, in memory"
    ahead = (*settings, settings[0] | _DOWNLOADS_AHEAD)
    return (
        Lane("MosaicML Streaming", MOSAIC, "epoch_shards", settings, kin="files", note=empty),
        Lane("MosaicML Streaming, warm cache", MOSAIC, "epoch_shards", settings, kin="files", params=_KEPT),
        Lane("LitData", LITDATA, "epoch_shards", ahead, kin="files", note=empty),
        Lane("LitData, warm cache", LITDATA, "epoch_shards", settings, kin="files", params=_KEPT),
        Lane("WebDataset", WEBDATASET, "epoch_shards", settings, kin="files", note="by curl, its requests not signed"),
    )


def _of_local_files() -> Lane:
    local = "none of its sources reads from S3: its files are in the page cache"
    return Lane("Grain, local files", GRAIN, "epoch_shards", ({}, {"num_threads": 0}), kin="files", note=local)


def _of_objects(settings: tuple[Setting, ...], params: Setting, name: str = "") -> tuple[Lane, ...]:
    """The peer that reads an object per image."""
    in_order = "in the order of the keys: it has no shuffle"
    rounds = _FEW_ROUNDS if params else _ALL_ROUNDS
    return (
        Lane(
            _ITERABLE_PEER + name,
            CONNECTOR,
            "epoch_objects_iterable",
            settings,
            params | _IN_ORDER,
            rounds,
            in_order,
            "iterable",
        ),
        Lane(_MAP_PEER + name, CONNECTOR, "epoch_objects_map", settings, params, rounds, kin="map"),
    )


def _targets(where: str, name: str = "") -> tuple[Target, ...]:
    """What ours is held against reads from the origin too, without a warm cache."""
    return (
        Target(f"{where}, files: 1.5 x the best peer that reads the origin", _PACKED, _PEERS_OF_FILES, at_least=1.5),
        Target(f"{where}, objects: 1.5 x s3torchconnector iterable", _ITERABLE, (_ITERABLE_PEER + name,), at_least=1.5),
        Target(f"{where}, objects: 1.5 x s3torchconnector map", _MAP, (_MAP_PEER + name,), at_least=1.5),
    )


EPOCH = Work(
    name="epoch",
    title="An epoch of 2,000 images of 96 x 96 x 3, shuffled, batches of 64, no workers",
    figure="ops_per_second",
    unit="samples/s",
    params=_NO_WORKERS,
    rounds=7,
    about=_ABOUT,
    lanes=(*_ours(_THREADS), *_of_files(_THREADS), _of_local_files(), *_of_objects(_THREADS, {})),
    targets=_targets("epoch"),
)

EPOCH_WORKERS = Work(
    name="epoch_workers",
    title="An epoch of 2,000 images of 96 x 96 x 3, shuffled, batches of 64, 2 workers",
    figure="ops_per_second",
    unit="samples/s",
    params=_WORKERS,
    rounds=7,
    about=_ABOUT + _ABOUT_WORKERS,
    lanes=(*_ours(_ALONE), *_of_files(_ALONE), _of_local_files(), *_of_objects(_ALONE, {})),
    targets=_targets("epoch with workers"),
)

EPOCH_LATE = Work(
    name="epoch_late",
    title="An epoch of 2,000 images of 96 x 96 x 3, shuffled, batches of 64, no workers, from the late origin",
    figure="ops_per_second",
    unit="samples/s",
    endpoint="late",
    params=_NO_WORKERS,
    rounds=5,
    about=_ABOUT + _ABOUT_LATE,
    lanes=(*_ours(_THREADS), *_of_files(_THREADS), *_of_objects(_ALONE, _FEW)),
    targets=_targets("late epoch"),
)

EPOCH_LATE_WORKERS = Work(
    name="epoch_late_workers",
    title="An epoch of 2,000 images of 96 x 96 x 3, shuffled, batches of 64, 2 workers, from the late origin",
    figure="ops_per_second",
    unit="samples/s",
    endpoint="late",
    params=_WORKERS,
    rounds=5,
    about=_ABOUT + _ABOUT_WORKERS + _ABOUT_LATE,
    lanes=(*_ours(_ALONE), *_of_files(_ALONE), *_of_objects(_ALONE, _FEW), *_of_objects(_ALONE, _EIGHT, _BY_EIGHT)),
    targets=_targets("late epoch with workers", _BY_EIGHT),
)

FIELD_WORKS = (EPOCH, EPOCH_WORKERS, EPOCH_LATE, EPOCH_LATE_WORKERS)
