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
#: Two were tried: no peer was quicker with them.
_ONE_THREAD = ({"torch_threads": 1},)
_DOWNLOADS_AHEAD = {"max_pre_download": 10}
#: As many as the other shuffles here mix. By default it mixes all shards: the first batch waits for nearly all of them.
_MIXES_LESS = {"shuffle_block_size": 1000}
_WIDE = {"in_flight": 256}
_KEPT = {"cache": "kept"}
_IN_ORDER = {"shuffled": False}
#: Of a client that reads one object at a time, over the late origin. The map dataset draws whole batches, as many
#: for each of two workers.
_FEW, _FEW_BATCHES = {"count": 100}, {"count": 128}
#: What its own guide would do about latency.
_EIGHT = {"num_workers": 8}
_BY_EIGHT = ", 8 workers"
_FEW_ROUNDS, _ALL_ROUNDS = 3, 99

_ABOUT = (
    "Images of 96 x 96 x 3 random bytes, which nothing compresses, shuffled, in batches of 64. Each client reads the"
    " layout it is made for: 20 files of 100 images, written by its own writer, or an object per image (label and"
    " pixels, decoded by the same lines for all; or NPZ). Ours and WebDataset mix about a thousand images of files,"
    " MosaicML all or a thousand, LitData those of a file; objects are mixed over the whole. A pass is one epoch from"
    " nothing: dataset, listing or index, loader and workers are made within the clock. That weighs more than it would"
    " in a longer epoch; the time to the first batch shows how much."
)
_ABOUT_WORKERS = " Peak memory is of the trainer's process alone."
_ABOUT_LATE = " A lane that reads one object at a time draws 100 or 128."

_EXAMPLES = "ours TFRecord, Examples"
_PACKED = "ours TFRecord, packed"
_ITERABLE = "ours objects, iterable"
_MAP = "ours objects, map"
_ITERABLE_PEER = "s3torchconnector objects, iterable"
_MAP_PEER = "s3torchconnector objects, map"
_PEERS_OF_FILES = ("MosaicML Streaming", "LitData", "WebDataset")


def _ours(settings: tuple[Setting, ...], wide: tuple[Setting, ...] = ()) -> tuple[Lane, ...]:
    packed = "a record is a label and an image, and a batch of images is a view of records"
    return (
        Lane(_EXAMPLES, OURS, "epoch_examples", settings, kin="files"),
        Lane(_PACKED, OURS, "epoch_records", settings, kin="files", note=packed),
        Lane(_ITERABLE, OURS, "epoch_objects_iterable", settings + wide, kin="iterable"),
        Lane(_MAP, OURS, "epoch_objects_map", settings, kin="map"),
    )


def _of_files(settings: tuple[Setting, ...]) -> tuple[Lane, ...]:
    """The peers that keep many images in a file, and read it from the origin."""
    empty = "each epoch begins with an empty cache, in memory"
    mixing = (*settings, settings[0] | _MIXES_LESS)
    ahead = (*settings, settings[0] | _DOWNLOADS_AHEAD)
    return (
        Lane("MosaicML Streaming", MOSAIC, "epoch_shards", mixing, kin="files", note=empty),
        Lane("LitData", LITDATA, "epoch_shards", ahead, kin="files", note=empty),
        Lane("WebDataset", WEBDATASET, "epoch_shards", settings, kin="files", note="by curl, its requests not signed"),
    )


def _of_local_files(settings: tuple[Setting, ...]) -> tuple[Lane, ...]:
    """What peers do with files that are on this machine: they read nothing from the origin, but for an index."""
    filled = "an epoch before filled its cache, in memory; it reads no files from the origin"
    local = "its source of ArrayRecords reads file systems only: the files are in the page cache; it spawns its workers"
    return (
        Lane("MosaicML Streaming, warm cache", MOSAIC, "epoch_shards", settings, _KEPT, note=filled, kin="files"),
        Lane("LitData, warm cache", LITDATA, "epoch_shards", settings, _KEPT, note=filled, kin="files"),
        Lane("Grain, local files", GRAIN, "epoch_shards", ({}, {"num_threads": 0}), kin="files", note=local),
    )


def _of_objects(settings: tuple[Setting, ...], params: Setting, name: str = "") -> tuple[Lane, ...]:
    """The peer that reads an object per image."""
    in_order = "in the order of the keys: it has no shuffle"
    rounds = _FEW_ROUNDS if params else _ALL_ROUNDS
    of_map = _FEW_BATCHES if params == _FEW else params
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
        Lane(_MAP_PEER + name, CONNECTOR, "epoch_objects_map", settings, of_map, rounds, kin="map"),
    )


def _of_archives(settings: tuple[Setting, ...]) -> tuple[Lane, ...]:
    numpy = "parsed by numpy.load, in the order of the keys"
    return (
        Lane("ours NPZ, iterable", OURS, "epoch_objects_npz", settings, kin="npz"),
        Lane(
            "s3torchconnector NPZ, iterable",
            CONNECTOR,
            "epoch_objects_npz",
            settings,
            _IN_ORDER,
            kin="npz",
            note=numpy,
        ),
    )


def _targets(where: str, name: str = "") -> tuple[Target, ...]:
    """What ours is held against reads from the origin too, without a warm cache."""
    return (
        Target(f"{where}, Examples: 1.5 x the best peer of files", _EXAMPLES, _PEERS_OF_FILES, at_least=1.5),
        Target(f"{where}, packed: 1.5 x the best peer of files", _PACKED, _PEERS_OF_FILES, at_least=1.5),
        Target(f"{where}, objects: 1.5 x s3torchconnector iterable", _ITERABLE, (_ITERABLE_PEER + name,), at_least=1.5),
        Target(f"{where}, objects: 1.5 x s3torchconnector map", _MAP, (_MAP_PEER + name,), at_least=1.5),
    )


EPOCH = Work(
    name="epoch",
    title="An epoch of 2,000 images, no workers",
    figure="ops_per_second",
    unit="samples/s",
    params=_NO_WORKERS,
    rounds=5,
    about=_ABOUT,
    lanes=(
        *_ours(_ONE_THREAD),
        *_of_files(_ONE_THREAD),
        *_of_local_files(_ONE_THREAD),
        *_of_objects(_ONE_THREAD, {}),
        *_of_archives(_ONE_THREAD),
    ),
    targets=_targets("epoch"),
)

EPOCH_WORKERS = Work(
    name="epoch_workers",
    title="An epoch of 2,000 images, 2 workers",
    figure="ops_per_second",
    unit="samples/s",
    params=_WORKERS,
    rounds=5,
    about=_ABOUT + _ABOUT_WORKERS,
    lanes=(
        *_ours(_ALONE),
        *_of_files(_ALONE),
        *_of_local_files(_ALONE),
        *_of_objects(_ALONE, {}),
        *_of_archives(_ALONE),
    ),
    targets=_targets("epoch with workers"),
)

EPOCH_LATE = Work(
    name="epoch_late",
    title="An epoch of 2,000 images, no workers, over the late origin",
    figure="ops_per_second",
    unit="samples/s",
    endpoint="late",
    params=_NO_WORKERS,
    rounds=3,
    about=_ABOUT + _ABOUT_LATE,
    lanes=(*_ours(_ONE_THREAD, (_ONE_THREAD[0] | _WIDE,)), *_of_files(_ONE_THREAD), *_of_objects(_ONE_THREAD, _FEW)),
    targets=_targets("late epoch"),
)

EPOCH_LATE_WORKERS = Work(
    name="epoch_late_workers",
    title="An epoch of 2,000 images, 2 workers, over the late origin",
    figure="ops_per_second",
    unit="samples/s",
    endpoint="late",
    params=_WORKERS,
    rounds=3,
    about=_ABOUT + _ABOUT_WORKERS + _ABOUT_LATE,
    lanes=(
        *_ours(_ALONE, (_WIDE,)),
        *_of_files(_ALONE),
        *_of_objects(_ALONE, _FEW),
        *_of_objects(_ALONE, _EIGHT, _BY_EIGHT),
    ),
    targets=_targets("late epoch with workers", _BY_EIGHT),
)

FIELD_WORKS = (EPOCH, EPOCH_WORKERS, EPOCH_LATE, EPOCH_LATE_WORKERS)
