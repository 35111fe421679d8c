"""Room card: one version of one object, read by ranges: the right bytes, few requests, never a mixture.

The origin is the fault-injecting one, serving rightly unless told otherwise; what needs none is in memory.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.buffers import KIB
from s3dlio.cancel import CancellationToken
from s3dlio.errors import (
    CancelledError,
    ForkError,
    NotFoundError,
    ObjectChangedError,
    OptionError,
    RangeError,
    StoreError,
)
from s3dlio.remote import ALIGNMENT, Kept, RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import parse
from tests.patience import SOON_S, eventually
from tests.reading import CHUNK, PATH, URI, impatient, requests_for
from tests.servers.faults import (
    ChangeContent,
    ChangeEtag,
    FaultOrigin,
    Latency,
    ResetInBody,
    StallHead,
    s3_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = random.Random(5).randbytes(1_000_003)
FIRST = 10 * KIB
#: Chunks of this size are one request each.
PIECE = 60_000


@pytest.fixture
def remote(origin: FaultOrigin) -> Iterator[Callable[..., RemoteObject]]:
    """Opens the origin's object, which is read in parts of 64 KiB."""
    origin.objects[PATH] = DATA
    store = open_store(parse(URI), impatient(origin.endpoint_url, chunk_size=CHUNK, min_split_size=CHUNK))

    def open_it(**changes: object) -> RemoteObject:
        return RemoteObject(store, parse(URI), **({"first_bytes": FIRST} | changes))  # type: ignore[arg-type]

    yield open_it
    store.close()


def in_memory(data: bytes, **changes: object) -> RemoteObject:
    s3dlio.put("memory://remote/x", data)
    where = parse("memory://remote/x")
    return RemoteObject(open_store(where), where, **changes)  # type: ignore[arg-type]


def address(memory: memoryview) -> int:
    found: int = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return found


def spans(origin: FaultOrigin) -> list[tuple[int, int]]:
    """Returns the half-open ranges that were asked for."""
    texts = [request.headers["range"].removeprefix("bytes=").split("-") for request in requests_for(origin)]
    return [(int(first), int(last) + 1) for first, last in texts]


# -- ranges -------------------------------------------------------------------------------------------


def test_a_small_object_costs_one_request(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    origin.objects[PATH] = DATA[:FIRST]
    it = remote()
    assert (it.size, it.version.etag) == (FIRST, origin.stored(PATH).etag)
    assert it.read(0, FIRST) == DATA[:FIRST]
    assert b"".join(it.chunks(chunk_bytes=999)) == DATA[:FIRST]
    assert [request.method for request in origin.requests] == ["GET"]


def test_the_beginning_is_not_asked_for_again(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    it = remote()
    assert it.read(FIRST - 10, FIRST + 10) == DATA[FIRST - 10 : FIRST + 10]
    assert spans(origin) == [(0, FIRST), (FIRST, FIRST + 10)]


def test_an_empty_object(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    origin.objects[PATH] = b""
    it = remote()
    assert (it.size, bytes(it.read(0, 0)), list(it.chunks())) == (0, b"", [])


@given(st.data(), st.integers(1, 3000))
def test_ranges_are_slices(data: st.DataObject, first_bytes: int) -> None:
    body = DATA[: data.draw(st.sampled_from([0, 1, 63, 64, 1000, 2000]))]
    it = in_memory(body, first_bytes=first_bytes)
    start = data.draw(st.integers(0, len(body)))
    stop = data.draw(st.integers(start, len(body)))
    at = data.draw(st.none() | st.integers(0, len(body)))
    found = it.read(start, stop, align_at=at)
    assert found == body[start:stop]
    if found:
        assert not found.readonly
        assert (address(found) + (start if at is None else at) - start) % ALIGNMENT == 0


@pytest.mark.parametrize("length", [1000, 40_000, 900_000])
def test_numbers_are_aligned_where_they_begin(length: int) -> None:
    it = in_memory(DATA)
    for at in (0, 1, 63, 64, 127):
        assert address(it.read(7, 7 + length, align_at=7 + at)[at:]) % ALIGNMENT == 0


def test_memory_is_the_callers_own() -> None:
    it = in_memory(DATA)
    for start, stop in [(0, 100), (0, len(DATA))]:
        first = it.read(start, stop)
        first[:50] = bytes(50)
        assert it.read(start, stop) == DATA[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, len(DATA) + 1), (len(DATA) + 1, len(DATA) + 1)])
def test_what_does_not_lie_within_is_refused(start: int, stop: int) -> None:
    it = in_memory(DATA)
    for read in (it.read, it.chunks):
        with pytest.raises(RangeError, match=r"1000003 bytes") as caught:
            read(start, stop)
        assert caught.value.uri == "memory://remote/x"


def test_wrong_numbers_are_refused() -> None:
    it = in_memory(DATA)
    with pytest.raises(OptionError, match="chunk_bytes"):
        it.chunks(chunk_bytes=0)
    with pytest.raises(OptionError, match="ahead"):
        it.chunks(ahead=0)
    with pytest.raises(OptionError, match="first_bytes"):
        in_memory(DATA, first_bytes=0)


def test_a_long_range_is_read_in_equal_parts_of_one_version(
    remote: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    it = remote()
    assert it.read(FIRST, FIRST + 5 * CHUNK + 5) == DATA[FIRST : FIRST + 5 * CHUNK + 5]
    parts = sorted(spans(origin)[1:])
    assert [stop for _, stop in parts[:-1]] == [start for start, _ in parts[1:]]
    assert len(parts) == 6
    assert max(stop - start for start, stop in parts) - min(stop - start for start, stop in parts) < 6
    assert all(request.headers["if-match"] == it.version.etag for request in requests_for(origin)[1:])


def test_a_missing_object_is_missing(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    origin.objects["/bucket/other"] = origin.objects.pop(PATH)
    with pytest.raises(NotFoundError) as caught:
        remote()
    assert caught.value.uri == URI


# -- chunks -------------------------------------------------------------------------------------------


@given(st.data())
def test_chunks_are_the_range_in_order(data: st.DataObject) -> None:
    body = DATA[:20_000]
    start = data.draw(st.integers(0, len(body)))
    stop = data.draw(st.integers(start, len(body)))
    step, ahead = data.draw(st.integers(500, 30_000)), data.draw(st.integers(1, 5))
    pieces = list(in_memory(body, first_bytes=1000).chunks(start, stop, chunk_bytes=step, ahead=ahead))
    assert b"".join(pieces) == body[start:stop]
    assert all(len(piece) == step for piece in pieces[:-1])
    assert not any(piece.readonly for piece in pieces)


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_read_ahead_than_was_said(
    remote: Callable[..., RemoteObject], origin: FaultOrigin, ahead: int
) -> None:
    chunks = remote().chunks(chunk_bytes=PIECE, ahead=ahead)
    assert len(origin.requests) == 1  # nothing before the first piece is wanted
    for number in range(1, 5):
        assert len(next(chunks)) == PIECE
        eventually(lambda wanted=1 + number + ahead: len(origin.requests) == wanted)
    chunks.close()
    time.sleep(0.05)
    assert len(origin.requests) == 1 + 4 + ahead


def test_chunks_come_while_later_ones_are_read(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    chunks = remote().chunks(FIRST, chunk_bytes=PIECE, ahead=5)
    origin.plan(PATH, *[Latency(0.3)] * 10)
    before = len(origin.requests)
    assert b"".join(chunks) == DATA[FIRST:]
    came = [request.time_s for request in origin.requests[before:]]
    assert min(after - first for first, after in itertools.pairwise(came)) < 0.3  # before the one before was answered


def test_a_chunk_is_let_go_when_the_consumer_lets_go(remote: Callable[..., RemoteObject]) -> None:
    chunks = remote().chunks(chunk_bytes=PIECE)
    array = np.frombuffer(next(chunks), np.uint8)
    before = array.copy()
    for _ in itertools.islice(chunks, 5):
        assert np.array_equal(array, before)


def test_dropping_the_iterator_stops_the_reads(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    chunks = remote().chunks(FIRST, chunk_bytes=PIECE, ahead=3)
    next(chunks)
    eventually(lambda: len(origin.requests) == 5)
    origin.plan(PATH, StallHead(60))
    next(chunks)
    eventually(lambda: len(origin.requests) == 6)
    before = origin.open_connections
    chunks.close()
    eventually(lambda: origin.open_connections == before - 1)


def test_an_error_comes_in_its_place(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    chunks = remote().chunks(FIRST, chunk_bytes=PIECE, ahead=1)
    origin.plan(PATH, None, None, s3_error(403, "AccessDenied"), s3_error(403, "AccessDenied"))
    assert b"".join(itertools.islice(chunks, 2)) == DATA[FIRST : FIRST + 2 * PIECE]
    with pytest.raises(StoreError) as caught:
        next(chunks)
    assert caught.value.uri == URI
    assert list(chunks) == []


def test_faults_on_the_way_are_mended(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    it = remote()
    origin.plan(PATH, s3_error(503, "SlowDown"), ResetInBody(500), None, ResetInBody(9000))
    assert b"".join(it.chunks(chunk_bytes=130_000)) == DATA


def test_a_token_stops_reads_and_chunks(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    token = CancellationToken()
    it = remote(token=token)
    chunks = it.chunks(FIRST, chunk_bytes=PIECE, ahead=2)
    origin.plan(PATH, *[StallHead(60)] * 2)
    threading.Timer(0.1, token.cancel).start()
    began_s = time.monotonic()
    with pytest.raises(CancelledError):
        next(chunks)
    assert time.monotonic() - began_s < SOON_S
    for read in (it.read, it.under(token).read):
        with pytest.raises(CancelledError):
            read(0, 1)
    assert it.under(CancellationToken()).read(0, 1) == DATA[:1]


# -- one version --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [ChangeContent(DATA[::-1]), ChangeEtag('"another"'), ChangeContent(DATA + b"!")])
@pytest.mark.parametrize("place", [0, 7, 16])
def test_a_replaced_object_is_an_error_in_every_chunk(
    remote: Callable[..., RemoteObject], origin: FaultOrigin, change: ChangeContent | ChangeEtag, place: int
) -> None:
    it = remote()
    origin.plan(PATH, *[None] * place, change)
    chunks = it.chunks(FIRST, chunk_bytes=PIECE, ahead=1)
    for number in range(place):
        assert next(chunks) == DATA[FIRST + number * PIECE : FIRST + (number + 1) * PIECE]
    with pytest.raises(ObjectChangedError):
        next(chunks)
    with pytest.raises(ObjectChangedError):
        it.read(FIRST, FIRST + 1)
    assert it.read(0, FIRST) == DATA[:FIRST]  # what was read at first is still what it was


def test_a_replaced_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    where = parse(f"file://{path}")
    it = RemoteObject(open_store(where), where, first_bytes=FIRST)
    chunks = it.chunks(chunk_bytes=len(DATA) - 10, ahead=1)
    assert it.read(500, 400_000) == DATA[500:400_000]
    assert next(chunks) == DATA[:-10]
    (tmp_path / "y").write_bytes(DATA)
    os.replace(tmp_path / "y", path)
    with pytest.raises(ObjectChangedError):
        it.read(FIRST, FIRST + 1)


# -- processes ----------------------------------------------------------------------------------------


def test_a_forked_child_reads_on_but_not_from_its_parents_chunks(remote: Callable[..., RemoteObject]) -> None:
    it = remote()
    chunks = it.chunks(chunk_bytes=PIECE)
    next(chunks)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert it.read(FIRST, len(DATA)) == DATA[FIRST:]
            assert b"".join(it.chunks(chunk_bytes=PIECE)) == DATA
            with pytest.raises(ForkError):
                next(chunks)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"".join(chunks) == DATA[PIECE:]


def test_threads_may_share_it(remote: Callable[..., RemoteObject]) -> None:
    it = remote()
    wrong: list[int] = []

    def read(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(20):
            start = numbers.randrange(len(DATA))
            stop = numbers.randrange(start, min(start + 200_000, len(DATA)) + 1)
            if it.read(start, stop) != DATA[start:stop]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- keeping -------------------------------------------------------------------------------------------


def test_what_is_kept_asks_nobody(remote: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    kept = Kept(remote(), 100_000, 150_000)
    before = len(origin.requests)
    assert kept.size == len(DATA)
    assert kept.read(100_000, 150_000) == DATA[100_000:150_000]
    assert address(kept.read(100_001, 150_000, align_at=100_005)[4:]) % ALIGNMENT == 0
    assert len(origin.requests) == before
    kept.read(120_000, 120_100)[:] = bytes(100)  # the caller's own: nobody else sees it
    assert kept.read(120_000, 120_100) == DATA[120_000:120_100]
    assert kept.read(99_999, 100_001) == DATA[99_999:100_001]
    assert len(origin.requests) == before + 1
