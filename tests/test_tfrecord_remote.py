"""Room card: TFRecord files on a server: few requests, bounded memory, never a mixture of two versions.

The servers are a real one for S3 (rclone), and the fault-injecting origin for what goes wrong.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio.buffers import KIB, MIB
from s3dlio.cancel import CancellationToken
from s3dlio.errors import AccessDeniedError, CancelledError, NotFoundError, ObjectChangedError, TFRecordError
from s3dlio.formats.tfrecord import frame_foot, frame_head
from s3dlio.stores import close_stores, open_store
from s3dlio.tfrecords import (
    TFRecordWriter,
    create_tfrecord_index,
    get_tfrecord,
    index_of,
    iter_tfrecords,
    read_tfrecord_index,
)
from s3dlio.uri import parse
from tests.contract_base import unique
from tests.patience import PROGRAM_S
from tests.reading import PATH, URI, impatient, requests_for
from tests.servers.faults import ChangeContent, FaultOrigin, ResetInBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.options import StoreOptions
    from s3dlio.testing import S3Server

SAMPLES = [random.Random(3).randbytes(length) for length in (0, 1, 40_000, 0, 3_000_000, 17, 9_000_000, *[70_000] * 60)]


def framed(samples: list[bytes]) -> bytes:
    return b"".join(frame_head(memoryview(x)) + x + frame_foot(memoryview(x)) for x in samples)


DATA = framed(SAMPLES)


@pytest.fixture
def bucket(rclone: S3Server) -> Iterator[str]:
    """A prefix on a real server."""
    with rclone.activate():
        rclone.make_bucket("tfrecord")
        yield f"s3://tfrecord/{unique('t')}"
        close_stores()


@pytest.fixture
def options(origin: FaultOrigin) -> Iterator[StoreOptions]:
    """How to reach the origin, on which the file lies."""
    origin.objects[PATH] = DATA
    given = impatient(origin.endpoint_url)
    yield given
    open_store(parse(URI), given).close()


# -- a real server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_what_is_written_to_a_server_is_read_from_it(bucket: str, compression: str) -> None:
    with TFRecordWriter(f"{bucket}/x.tfrecord", compression=compression) as writer:
        for sample in SAMPLES:
            writer.write(sample)
    assert [bytes(record) for record in iter_tfrecords(f"{bucket}/x.tfrecord")] == SAMPLES


def test_an_index_leads_to_each_record(bucket: str) -> None:
    s3dlio.put(f"{bucket}/x", DATA)
    assert create_tfrecord_index(f"{bucket}/x") == len(SAMPLES)
    entries = read_tfrecord_index(f"{bucket}/x.idx")
    order = random.Random(4).sample(range(len(SAMPLES)), len(SAMPLES))
    assert all(get_tfrecord(f"{bucket}/x", entries[number]) == SAMPLES[number] for number in order)


def test_an_aborted_writer_leaves_nothing_on_the_server(bucket: str) -> None:
    writer = TFRecordWriter(f"{bucket}/x", index=True)
    writer.write(b"spam")
    writer.abort()
    assert s3dlio.list(f"{bucket}/") == []


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells a process its peak")
def test_a_large_file_passes_through_little_memory(bucket: str) -> None:
    s3dlio.put(f"{bucket}/large", framed([bytes(100_000)]) * 3000)
    program = """
import re, sys
from s3dlio.tfrecords import create_tfrecord_index, get_tfrecord, iter_tfrecords
uri = sys.argv[1]
get_tfrecord(uri, (0, 100_016))
def peak():  # not ru_maxrss, which a child inherits from its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
assert sum(len(record) for record in iter_tfrecords(uri)) == 300_000_000
assert create_tfrecord_index(uri) == 3000
print((peak() - before) // 1024)
"""
    command = [sys.executable, "-c", program, f"{bucket}/large"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PROGRAM_S)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150  # fourteen pieces of 8 MiB, and a few more in the pool


# -- an origin that counts and misbehaves ---------------------------------------------------------------


def test_one_record_is_one_request_for_its_bytes(origin: FaultOrigin, options: StoreOptions) -> None:
    offset = DATA.index(SAMPLES[4]) - 12
    assert get_tfrecord(URI, (offset, 3_000_016), options=options) == SAMPLES[4]
    (request,) = requests_for(origin)
    assert request.headers["range"] == f"bytes={offset}-{offset + 3_000_016 - 1}"


def test_a_file_comes_in_pieces_and_each_once(origin: FaultOrigin, options: StoreOptions) -> None:
    assert [bytes(record) for record in iter_tfrecords(URI, options=options)] == SAMPLES
    spans = sorted(tuple(map(int, re.findall(r"\d+", each.headers["range"]))) for each in requests_for(origin))
    assert spans[0][0] == 0
    assert all(behind[0] == before[1] + 1 for before, behind in itertools.pairwise(spans))
    assert max(stop - start for start, stop in spans) < 8 * MIB


def test_a_file_that_is_dropped_midway_is_not_read_on(origin: FaultOrigin, options: StoreOptions) -> None:
    origin.objects[PATH] = framed([bytes(90_000)] * 3_000)
    source = iter_tfrecords(URI, options=options)
    next(source)
    source.close()  # type: ignore[attr-defined]
    asked = len(requests_for(origin))
    assert asked <= 14
    assert len(requests_for(origin)) == asked


def test_a_file_that_is_replaced_is_never_mixed(origin: FaultOrigin, options: StoreOptions) -> None:
    other = framed([sample[::-1] for sample in SAMPLES])
    source = iter_tfrecords(URI, options=options)
    origin.objects[PATH] = other
    found = []
    with pytest.raises(ObjectChangedError):
        found.extend(bytes(record) for record in source)
    assert found == SAMPLES[: len(found)]


def test_a_broken_connection_is_taken_up_again(origin: FaultOrigin, options: StoreOptions) -> None:
    origin.plan(PATH, ResetInBody(100 * KIB), ResetInBody(300 * KIB), method="GET")
    assert [bytes(record) for record in iter_tfrecords(URI, options=options)] == SAMPLES
    assert index_of(open_store(parse(URI), options), parse(URI), CancellationToken())[4].size == 3_000_016


def test_damage_names_the_file_and_the_byte(origin: FaultOrigin, options: StoreOptions) -> None:
    damaged = bytearray(DATA)
    damaged[DATA.index(SAMPLES[6]) + 8_000_000] ^= 1
    origin.objects[PATH] = bytes(damaged)
    found = []
    with pytest.raises(TFRecordError, match=f"record at byte {DATA.index(SAMPLES[6]) - 12} is wrong") as caught:
        found.extend(bytes(record) for record in iter_tfrecords(URI, options=options))
    assert (caught.value.uri, caught.value.operation) == (URI, "iter_tfrecords")
    assert len(found) == 6


def test_what_cannot_be_read_is_said_at_once(origin: FaultOrigin, options: StoreOptions) -> None:
    with pytest.raises(NotFoundError):
        iter_tfrecords("s3://bucket/none", options=options)
    origin.forbidden.add(PATH)
    for verb in (iter_tfrecords, create_tfrecord_index, read_tfrecord_index):
        with pytest.raises(AccessDeniedError):
            verb(URI, options=options)


def test_an_index_for_a_dataset_insists_on_the_listed_size(options: StoreOptions) -> None:
    store, where = open_store(parse(URI), options), parse(URI)
    index = index_of(store, where, CancellationToken(), size=len(DATA))
    assert [size - 16 for _, size in index] == [len(sample) for sample in SAMPLES]
    with pytest.raises(ObjectChangedError, match="list again"):
        index_of(store, where, CancellationToken(), size=len(DATA) - 1)


def test_a_cancelled_token_stops_the_search(options: StoreOptions) -> None:
    token = CancellationToken()
    token.cancel()
    with pytest.raises(CancelledError):
        index_of(open_store(parse(URI), options), parse(URI), token)


def test_a_version_that_changes_while_it_is_indexed_is_refused(origin: FaultOrigin, options: StoreOptions) -> None:
    origin.plan(PATH, None, ChangeContent(framed([b"other"] * 1000)), method="GET")
    with pytest.raises(ObjectChangedError):
        create_tfrecord_index(URI, "memory://tfrecord-remote/x.idx", options=options)
    assert s3dlio.exists("memory://tfrecord-remote/x.idx") is False
