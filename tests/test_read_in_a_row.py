"""Room card: a file that is read in a row: what follows comes in the background, and is never wrong, only early.

The origin is the fault-injecting one, serving rightly unless told otherwise.
"""

from __future__ import annotations

import io
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.errors import AccessDeniedError, ObjectChangedError
from s3dlio.range_file import BLOCK_BYTES, RangeFile
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.uri import parse
from tests.patience import SOON_S, eventually
from tests.reading import PATH, URI, impatient, requests_for
from tests.servers.faults import ChangeContent, FaultOrigin, ResetInBody, StallHead, s3_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = random.Random(23).randbytes(64 * BLOCK_BYTES + 7_001)
MIB = 1 << 20


@pytest.fixture
def opened(origin: FaultOrigin) -> Iterator[Callable[..., RangeFile]]:
    """Opens the origin's object as a file; its first 1,000 bytes are there with its size."""
    origin.objects[PATH] = DATA
    store = open_store(parse(URI), impatient(origin.endpoint_url))
    files = []

    def open_it(readahead_bytes: int = 8 * BLOCK_BYTES) -> RangeFile:
        files.append(RangeFile(RemoteObject(store, parse(URI), first_bytes=1000), readahead_bytes=readahead_bytes))
        return files[-1]

    yield open_it
    for file in files:
        file.close()
    store.close()


def asked(origin: FaultOrigin) -> list[tuple[int, int]]:
    """Returns the ranges that were asked for after the first request, in blocks, sorted."""
    texts = [request.headers["range"].removeprefix("bytes=").split("-") for request in requests_for(origin)[1:]]
    return sorted((int(first) // BLOCK_BYTES, -(-int(last) // BLOCK_BYTES)) for first, last in texts)


def begin_row(file: RangeFile) -> None:
    """Reads three blocks, by two reads: that brings six, and has eight more under way, by two requests."""
    assert file.read(2 * BLOCK_BYTES) + file.read(BLOCK_BYTES) == DATA[: 3 * BLOCK_BYTES]


def test_the_first_read_brings_what_it_needs(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    assert opened().read(2000) == DATA[:2000]
    assert asked(origin) == [(0, 2)]


def test_reads_in_a_row_have_as_much_under_way_as_was_read(
    opened: Callable[..., RangeFile], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteObject, "is_late", True)
    file = opened()
    came = file.read(2 * BLOCK_BYTES)
    assert asked(origin) == [(0, 2)]
    came += file.read(100)  # the second in a row brings four blocks, and has two times four read
    eventually(lambda: asked(origin) == [(0, 2), (2, 6), (6, 10), (10, 14)])
    came += file.read(20 * BLOCK_BYTES)
    came += file.read()
    assert came == DATA
    spans = asked(origin)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]  # each byte once


def test_no_more_is_under_way_than_four_longest_reads(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    file = opened(readahead_bytes=2 * BLOCK_BYTES)
    for _ in range(20):
        file.read(BLOCK_BYTES)
    read = 20
    eventually(lambda: asked(origin)[-1][1] >= read + 6)
    assert asked(origin)[-1][1] <= read + 2 + 4 * 2


@pytest.mark.parametrize("step", [1000, BLOCK_BYTES, MIB - 1, MIB, 3 * MIB])
@pytest.mark.parametrize("is_late", [True, False])
def test_any_step_reads_the_same(
    opened: Callable[..., RangeFile], monkeypatch: pytest.MonkeyPatch, step: int, is_late: bool
) -> None:
    monkeypatch.setattr(RemoteObject, "is_late", is_late)
    file = opened()
    assert b"".join(iter(lambda: file.read(step), b"")) == DATA
    file.seek(5)
    memory, came = bytearray(step), b""
    while count := file.readinto(memory):
        came += memory[:count]
    assert came == DATA[5:]


@pytest.mark.parametrize("is_late", [True, False])
def test_long_reads_in_a_row_have_others_under_way_where_a_server_is_late(
    opened: Callable[..., RangeFile], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr(RemoteObject, "is_late", is_late)
    file = opened(readahead_bytes=16 * BLOCK_BYTES)
    assert file.read(MIB) + file.read(MIB) == DATA[: 2 * MIB]
    if is_late:
        eventually(lambda: asked(origin)[-1][1] >= 3 * MIB // BLOCK_BYTES)
    else:
        assert asked(origin)[-1][1] == 2 * MIB // BLOCK_BYTES
    assert file.read() == DATA[2 * MIB :]


def test_a_jump_ends_it(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    file = opened()
    origin.plan(PATH, None, None, *[StallHead(60)] * 2)
    begin_row(file)
    eventually(lambda: len(asked(origin)) == 4)
    before = origin.open_connections
    file.seek(60 * BLOCK_BYTES)
    assert file.read(10) == DATA[60 * BLOCK_BYTES :][:10]
    eventually(lambda: origin.open_connections <= before - 1)
    assert len(asked(origin)) == 5


def test_closing_ends_it(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    file = opened()
    origin.plan(PATH, None, None, *[StallHead(60)] * 2)
    begin_row(file)
    eventually(lambda: len(asked(origin)) == 4)
    file.close()
    eventually(lambda: origin.open_connections <= 2)


def test_dropping_ends_it(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    store = open_store(parse(URI), impatient(origin.endpoint_url))
    opened()
    file = RangeFile(RemoteObject(store, parse(URI), first_bytes=1000))
    origin.plan(PATH, None, None, *[StallHead(60)] * 2)
    begin_row(file)
    eventually(lambda: len(requests_for(origin)) == 2 + 4)
    del file
    eventually(lambda: origin.open_connections <= 2)


def test_trouble_in_the_background_is_mended_or_told_in_its_place(
    opened: Callable[..., RangeFile], origin: FaultOrigin
) -> None:
    file = opened()
    origin.plan(PATH, None, ResetInBody(9), s3_error(503, "SlowDown"), ResetInBody(0))
    assert file.read(30 * BLOCK_BYTES) == DATA[: 30 * BLOCK_BYTES]
    origin.plan_all(*[s3_error(403, "AccessDenied")] * 60)
    with pytest.raises(AccessDeniedError):
        list(iter(lambda: file.read(1000), b""))
    place = file.tell()
    assert 30 * BLOCK_BYTES <= place < len(DATA)
    file.seek(place - 1000)
    assert file.read(1000) == DATA[place - 1000 : place]  # what is kept is right


def test_a_replaced_object_is_an_error(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    file = opened()
    begin_row(file)
    origin.plan_all(*[ChangeContent(DATA[::-1])] * 3)
    with pytest.raises(ObjectChangedError):
        file.read()
    file.seek(0)
    assert file.read(100) == DATA[:100]  # what is kept is of the right version


def test_parent_and_forked_child_read_on(opened: Callable[..., RangeFile], origin: FaultOrigin) -> None:
    file = opened()
    begin_row(file)
    eventually(lambda: len(asked(origin)) == 4)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert b"".join(iter(lambda: file.read(1000), b"")) == DATA[3 * BLOCK_BYTES :]
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file.read() == DATA[3 * BLOCK_BYTES :]


def test_a_forked_child_does_not_wait_for_its_parents_threads(
    opened: Callable[..., RangeFile], origin: FaultOrigin
) -> None:
    file = opened()
    origin.plan(PATH, None, None, *[StallHead(60)] * 2)
    begin_row(file)
    eventually(lambda: len(asked(origin)) == 4)
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(int(SOON_S))
            assert b"".join(iter(lambda: file.read(1000), b"")) == DATA[3 * BLOCK_BYTES :]
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_where_no_server_is_waited_for_no_thread_reads() -> None:
    s3dlio.put("memory://row/x", DATA)
    where = parse("memory://row/x")
    source = RemoteObject(open_store(where), where, first_bytes=1000)
    file = RangeFile(source)
    assert source.read_later(0, 5, source.token) is None
    assert b"".join(iter(lambda: file.read(100_000), b"")) == DATA


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 5 * BLOCK_BYTES)),
        st.tuples(st.just("read"), st.integers(MIB - 10, 2 * MIB)),
        st.tuples(st.just("into"), st.integers(0, 20 * BLOCK_BYTES)),
        st.tuples(st.just("seek"), st.integers(0, len(DATA) + 100)),
        st.tuples(st.just("peek"), st.integers(1, 100)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, is_late=st.booleans())
def test_it_is_any_other_file(
    opened: Callable[..., RangeFile], monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]], is_late: bool
) -> None:
    monkeypatch.setattr(RemoteObject, "is_late", is_late)
    file, model = opened(), io.BytesIO(DATA)
    for verb, number in steps:
        if verb == "seek":
            assert file.seek(number) == model.seek(number)
        elif verb == "peek":
            start = model.tell()
            assert DATA[start:].startswith(file.peek(number))
        elif verb == "read":
            assert file.read(number) == model.read(number)
        else:
            ours, theirs = bytearray(number), bytearray(number)
            assert file.readinto(ours) == model.readinto(theirs)
            assert ours == theirs
        assert file.tell() == model.tell()
    file.close()
