"""From objects to samples: finds, or makes, the index of each object that holds records.

Floor 5. Knows catalogs, formats and the indexes of TFRecord and Parquet files; must not know orders or frameworks.
An index that lies beside its file (``x.tfrecord.idx`` or ``x.idx``) is used; without one the file's
headers are read once, in the process that makes the dataset. A manifest keeps the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from s3dlio.cancel import CancellationToken
from s3dlio.catalog import Catalog
from s3dlio.crew import CREW, map_all
from s3dlio.errors import FormatError, TFRecordError
from s3dlio.formats.samples import OF_RECORDS, Codec
from s3dlio.formats.tfrecord_index import Index
from s3dlio.remote import RemoteObject
from s3dlio.samples import Records, SampleIndex
from s3dlio.stores.base import Store
from s3dlio.tfrecords import index_of
from s3dlio.uri import Uri

#: Files that are looked through at once: each keeps several requests in flight itself.
_FILES_AT_ONCE = 4
#: Indexes beside their files that are read at once: one small request each, so what counts is the latency.
_SIDECARS_AT_ONCE = 32
_SUFFIX = ".idx"

#: Told after each file: files done, files in all.
Progress = Callable[[int, int], object]


class _Task(NamedTuple):
    """A file of records, and the index that lies beside it if there is one."""

    uri: Uri
    size: int
    sidecar: Uri | None
    is_table: bool = False


def index_samples(catalog: Catalog, codec: Codec, store: Store, progress: Progress | None = None) -> SampleIndex:
    """Return the samples in some objects.

    Args:
        catalog: The objects; indexes among them are not samples.
        codec: Says which objects hold records.
        store: Where they are.
        progress: Told after each file that is indexed, from any thread.

    Raises:
        TFRecordError: A file is damaged or compressed, or the index beside it is not its own.
    """
    sidecars = _sidecars(catalog, codec)
    uris = {catalog.uri(number): catalog.uri(beside) for number, beside in sidecars.items()}
    catalog = _without(catalog, set(sidecars.values()))
    tasks = _tasks(catalog, codec, uris)
    if not any(tasks):
        return SampleIndex(catalog)
    wanted = [task for task in tasks if task]
    indexes = iter(_all_indexes(wanted, store, progress))
    parts = [next(indexes) if task else None for task in tasks]
    return SampleIndex(
        catalog, Records.of_parts([(part.offsets, part.sizes) if part is not None else None for part in parts])
    )


def only_samples(catalog: Catalog, codec: Codec, manifest: str = "") -> Catalog:
    """Leave out of a listing what :func:`index_samples` does not take for samples.

    Args:
        catalog: The objects.
        codec: Says which of them hold records.
        manifest: The URI of one that is not a sample either.
    """
    strangers = set(_sidecars(catalog, codec).values())
    return _without(
        catalog, strangers | {number for number in range(len(catalog)) if str(catalog.uri(number)) == manifest}
    )


def _without(catalog: Catalog, strangers: set[int]) -> Catalog:
    if not strangers:
        return catalog
    return catalog.only(np.array([number for number in range(len(catalog)) if number not in strangers], np.int64))


def _sidecars(catalog: Catalog, codec: Codec) -> dict[int, int]:
    """Return, by the number of a file of records, the number of the index that lies beside it."""
    if codec.format not in ("auto", *OF_RECORDS) or codec.format == "parquet":
        return {}
    keys = {catalog.uri(number)[1:]: number for number in range(len(catalog))}
    found = {}
    for (container, key), number in keys.items():
        if key.endswith(_SUFFIX) or codec.format_of(catalog.uri(number)) not in OF_RECORDS:
            continue
        for name in (key + _SUFFIX, key[: key.rfind(".")] + _SUFFIX):
            beside = keys.get((container, name))
            if beside is not None and beside != number:
                found[number] = beside
                break
    return found


def _tasks(catalog: Catalog, codec: Codec, sidecars: dict[Uri, Uri]) -> list[_Task | None]:
    tasks: list[_Task | None] = []
    for number in range(len(catalog)):
        uri = catalog.uri(number)
        records = codec.format_of(uri) in OF_RECORDS
        table = codec.format_of(uri) == "parquet"
        tasks.append(_Task(uri, int(catalog.sizes[number]), sidecars.get(uri), table) if records else None)
    return tasks


def _all_indexes(tasks: list[_Task], store: Store, progress: Progress | None) -> list[Index]:
    done: list[Uri] = []

    def find(task: _Task, token: CancellationToken) -> Index:
        if task.is_table:
            index = _index_of_row_groups(task, store, token)
        else:
            index = _read_sidecar(task, store, token) if task.sidecar else index_of(store, task.uri, token)
        done.append(task.uri)
        if progress is not None:
            progress(len(done), len(tasks))
        return index

    width = _SIDECARS_AT_ONCE if all(task.sidecar or task.is_table for task in tasks) else _FILES_AT_ONCE
    return map_all(find, tasks, width, CREW.get().token)


def _index_of_row_groups(task: _Task, store: Store, token: CancellationToken) -> Index:
    from s3dlio.parquet import read_footer  # noqa: PLC0415 - few need it

    footer = read_footer(store, task.uri, token)
    spans = [footer.span(group) for group in range(len(footer))]
    return Index(
        np.array([span.start for span in spans], np.int64), np.array([span.length for span in spans], np.int64)
    )


def _read_sidecar(task: _Task, store: Store, token: CancellationToken) -> Index:
    assert task.sidecar is not None  # noqa: S101 - for type checkers
    remote = RemoteObject(store, task.sidecar, token=token)
    try:
        index = Index.from_text(remote.read(0, remote.size))
        if task.size >= 0 and len(index) and int((index.offsets + index.sizes).max()) > task.size:
            msg = f"it reaches behind the end of its file ({task.size} bytes): make it anew"
            raise TFRecordError(msg)
    except FormatError as error:
        error.concern(task.sidecar, "read_tfrecord_index")
        raise
    return index
