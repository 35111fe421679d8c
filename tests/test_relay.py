"""Room card: an object of a server nearby, read in order by one thread: the same bytes, whatever the server does.

The origin is the fault-injecting one. It is told to be near: how long it really takes does not matter here.
"""

from __future__ import annotations

import gc
import os
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio import remote as remote_module
from s3dlio.cancel import CancellationToken
from s3dlio.errors import CancelledError, ForkError, ObjectChangedError, StoreError, TFRecordError
from s3dlio.formats.tfrecord import frame_foot, frame_head, records, records_of_growing
from s3dlio.remote import Piece, RemoteObject
from s3dlio.stores import open_store
from s3dlio.stores.rest import RestStore
from s3dlio.tfrecords import iter_tfrecords
from s3dlio.uri import parse
from s3dlio.wire.relay import Relay
from tests.patience import eventually
from tests.reading import PATH, URI, impatient, requests_for
from tests.servers.faults import (
    ChangeContent,
    ChangeEtag,
    Chunked,
    CloseIdle,
    Fault,
    FaultOrigin,
    GarbageHead,
    LowerCaseHeaders,
    PartAs200,
    ResetInBody,
    ResetInHead,
    ShortBody,
    StallHead,
    WholeBodyOn206Asked,
    WrongContentRange,
    s3_error,
)
from tests.servers.reply import End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.servers.reply import Reply, Step

DATA = random.Random(11).randbytes(700_001)
FIRST = 10_000
RANGE, PIECE = 30_000, 100_000
#: Ranges that are missing after the first request: three or four in a piece.
RANGES = 3 + 6 * 4 + 1


@pytest.fixture
def near(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RemoteObject]]:
    """Opens the origin's object, which is near, to be read by ranges of 30,000 bytes into pieces of 100,000."""
    monkeypatch.setattr(remote_module, "_IN_TURN_BYTES", RANGE)
    monkeypatch.setattr(remote_module, "_IN_TURN_PIECE_BYTES", PIECE)
    origin.objects[PATH] = DATA
    store = open_store(parse(URI), impatient(origin.endpoint_url))

    def open_it(**changes: Any) -> RemoteObject:
        opened = RemoteObject(store, parse(URI), **({"first_bytes": FIRST} | changes))
        client_of(store).note_latency(0.0001)
        return opened

    yield open_it
    store.close()


def client_of(store: object) -> Any:
    assert isinstance(store, RestStore)
    return store.quick(parse(URI))[0]


def joined(pieces: Iterator[Piece]) -> bytes:
    """Returns the bytes of an object that came piece by piece, and sees that pieces grow and nothing else."""
    whole, before = bytearray(), b""
    for memory, is_whole in pieces:
        assert len(memory) > len(before)
        assert memory[: len(before)] == before
        before = b"" if is_whole else bytes(memory)
        if is_whole:
            whole += memory
    assert not before
    return bytes(whole)


def until_it_fails(pieces: Iterator[Piece], kind: type[StoreError]) -> tuple[bytes, StoreError]:
    """Returns the bytes that came before an error, and the error."""
    wholes, rest = bytearray(), b""
    try:
        for memory, is_whole in pieces:
            wholes += memory if is_whole else b""
            rest = b"" if is_whole else bytes(memory)
    except kind as error:
        return bytes(wholes) + rest, error
    msg = f"no {kind.__name__} came"
    raise AssertionError(msg)


def ranges_of(requests: Sequence[Any]) -> list[tuple[int, int]]:
    spans = [request.headers["range"].removeprefix("bytes=").split("-") for request in requests]
    return [(int(first), int(last) + 1) for first, last in spans]


# -- how it reads ---------------------------------------------------------------------------------------


def test_each_range_is_asked_for_once_and_of_one_version(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    it = near()
    assert joined(it.growing()) == DATA
    first, *others = requests_for(origin)
    spans = sorted(ranges_of(others))
    assert ranges_of([first]) == [(0, FIRST)]
    assert [start for start, _ in spans] == [FIRST, *[stop for _, stop in spans[:-1]]]
    assert spans[-1][1] == len(DATA)
    assert max(stop - start for start, stop in spans) == RANGE
    assert {request.headers["if-match"] for request in others} == {origin.stored(PATH).etag}
    assert origin.connections <= 16


def test_pieces_are_asked_for_while_others_are_looked_at_and_no_more_than_fifteen(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    pieces = near().growing()
    assert next(pieces).memory == DATA[:FIRST]
    assert len(requests_for(origin)) == 1
    assert next(pieces).memory == DATA[: FIRST + RANGE]
    eventually(lambda: len(requests_for(origin)) == 1 + 15)
    for _ in range(4):
        next(pieces)
    assert len(requests_for(origin)) == 1 + 15
    next(pieces)
    eventually(lambda: len(requests_for(origin)) == 1 + 15 + 5)


def test_options_bound_the_ranges_under_way(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    few = open_store(parse(URI), impatient(origin.endpoint_url, max_concurrent_ranges=2))
    it = RemoteObject(few, parse(URI), first_bytes=FIRST)
    client_of(few).note_latency(0.0001)
    pieces = it.growing()
    next(pieces), next(pieces)
    eventually(lambda: len(requests_for(origin)) == 3)
    assert joined(it.growing()) == DATA
    assert origin.connections <= 1 + 2 + 2
    few.close()


def test_a_small_object_costs_nothing_more(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    origin.objects[PATH] = DATA[:FIRST]
    assert joined(near().growing()) == DATA[:FIRST]
    assert len(origin.requests) == 1


@pytest.mark.parametrize("size", [FIRST + 1, PIECE - 1, PIECE, PIECE + 1, PIECE + RANGE, 2 * PIECE])
@pytest.mark.parametrize("first", [1, RANGE, PIECE, PIECE + 7])
def test_any_size_comes_whole(near: Callable[..., RemoteObject], origin: FaultOrigin, size: int, first: int) -> None:
    origin.objects[PATH] = DATA[:size]
    assert joined(near(first_bytes=first).growing()) == DATA[:size]


def test_what_was_handed_out_stays(near: Callable[..., RemoteObject]) -> None:
    wholes = [piece.memory for piece in near().growing() if piece.is_whole]
    assert b"".join(wholes) == DATA


@pytest.mark.parametrize("why", ["far", "unknown", "busy", "tls"])
def test_elsewhere_several_threads_read(
    near: Callable[..., RemoteObject], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    it = near()
    store = open_store(parse(URI), impatient(origin.endpoint_url))
    client = client_of(store)
    if why == "busy":
        client.note_busy()
    elif why == "tls":
        monkeypatch.setattr(client, "origin", client.origin._replace(scheme="https"))
    else:
        monkeypatch.setattr(client, "latency_s", lambda: 0.02 if why == "far" else None)
    assert store.relay(parse(URI), it.version, CancellationToken()) is None


def test_connections_are_kept_for_others(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    it = near()
    assert joined(it.growing()) == DATA
    before = origin.connections
    assert joined(it.growing()) == DATA
    assert it.read(5, 500_000) == DATA[5:500_000]
    assert origin.connections == before


# -- what goes wrong --------------------------------------------------------------------------------------

PASSING: list[Fault] = [
    s3_error(503, "SlowDown"), s3_error(500, "InternalError"), ResetInBody(0), ResetInBody(500), ResetInBody(29_999),
    ResetInHead(10), ShortBody(100), Chunked(), PartAs200(), CloseIdle(), LowerCaseHeaders(), GarbageHead(),
    WholeBodyOn206Asked(), WrongContentRange(),
]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("place", [0, 4, 20])
def test_an_unusual_answer_is_read_otherwise(
    near: Callable[..., RemoteObject], origin: FaultOrigin, fault: Fault, place: int
) -> None:
    it = near()
    origin.plan(PATH, *[None] * place, fault)
    assert joined(it.growing()) == DATA


def test_faults_one_after_the_other_are_mended(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    it = near()
    for number in range(20):
        origin.plan(PATH, ResetInBody(number * 500), None, None)
    assert joined(it.growing()) == DATA


def test_a_server_that_never_answers_as_usual_is_left_to_others(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    it = near()
    origin.plan_all(*[WholeBodyOn206Asked()] * 60)
    assert joined(it.growing(chunk_bytes=50_000)) == DATA
    # Three ranges were read twice, and the others that were under way; what follows, once.
    assert len(requests_for(origin)) <= 1 + 2 * 15 + len(DATA) // 50_000 + 1


class LastAnswer(Fault):
    """The right reply, which says that the connection ends with it, as it does."""

    def bend(self, reply: Reply) -> Reply:
        return reply.with_headers(Connection="close")

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload, End.CLOSE]


def test_a_connection_that_ends_with_its_answer_is_not_used_again(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    origin.plan_all(*[LastAnswer()] * 60)
    it = near()
    assert joined(it.growing()) == DATA
    asked = ranges_of(requests_for(origin))
    assert len(asked) == len(set(asked)) == origin.connections


def test_an_error_comes_in_its_place(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    pieces = near().growing()
    origin.plan(PATH, *[None] * 3, *[s3_error(403, "AccessDenied")] * 60)
    came, error = until_it_fails(pieces, StoreError)
    assert error.uri == URI
    assert DATA.startswith(came)
    assert len(came) < len(DATA)
    assert list(pieces) == []


@pytest.mark.parametrize("change", [ChangeContent(DATA[::-1]), ChangeEtag('"another"'), ChangeContent(DATA + b"!")])
@pytest.mark.parametrize("place", [0, 3, 16])
def test_a_replaced_object_is_an_error(
    near: Callable[..., RemoteObject], origin: FaultOrigin, change: Fault, place: int
) -> None:
    it = near()
    origin.plan(PATH, *[None] * place, change)
    came, _ = until_it_fails(it.growing(), ObjectChangedError)
    assert DATA.startswith(came)


def test_another_size_is_seen_also_where_the_tag_stays(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    origin.etags[PATH] = '"always"'
    it = near()
    origin.objects[PATH] = DATA + b"!"
    with pytest.raises(ObjectChangedError):
        joined(it.growing())


def test_another_tag_is_seen_also_where_the_server_ignores_conditions(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    origin.plan(PATH, ChangeEtag('W/"weak"'), *[ChangeEtag('W/"weak"')] * 9, *[ChangeEtag('W/"other"')] * 99)
    it = near()
    with pytest.raises(ObjectChangedError):
        joined(it.growing())
    assert not any("if-match" in request.headers for request in requests_for(origin)[1:16])


def test_a_token_ends_a_blocked_read(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    token = CancellationToken()
    it = near(token=token)
    origin.plan(PATH, None, *[StallHead(60)] * 20)
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        joined(it.growing())
    timer.join()


def test_dropping_the_iterator_lets_go_of_what_is_under_way(
    near: Callable[..., RemoteObject], origin: FaultOrigin
) -> None:
    it = near()
    pieces = it.growing()
    next(pieces), next(pieces)
    eventually(lambda: len(requests_for(origin)) == 16)
    del pieces
    gc.collect()
    eventually(lambda: origin.open_connections <= 2)
    assert it.read(FIRST, len(DATA)) == DATA[FIRST:]


def test_a_forked_child_may_not_go_on_and_does_no_harm(near: Callable[..., RemoteObject], origin: FaultOrigin) -> None:
    it = near()
    pieces = it.growing()
    came = bytearray()
    for _ in range(4):
        memory, is_whole = next(pieces)
        came = bytearray(memory)
        assert not is_whole or len(came) == PIECE
    child = os.fork()
    if not child:
        status = 1
        try:
            with pytest.raises(ForkError):
                next(pieces)
            del pieces
            gc.collect()
            assert client_of(open_store(parse(URI), impatient(origin.endpoint_url))).idle_count() == 0
            assert joined(it.growing()) == DATA
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    rest = b"".join(piece.memory for piece in pieces if piece.is_whole)
    assert came + rest == DATA


# -- records as they come -----------------------------------------------------------------------------------

SAMPLES = st.lists(st.binary(max_size=80), max_size=25)


def framed(samples: Sequence[bytes]) -> bytes:
    views = [memoryview(sample) for sample in samples]
    return b"".join(b"".join((frame_head(view), view, frame_foot(view))) for view in views)


def grown(data: bytes, steps: Sequence[tuple[int, bool]]) -> Iterator[Piece]:
    """Yields all of ``data``, a step at a time, and after some steps goes on in other memory."""
    at = begin = 0
    for step, is_last in [*steps, (len(data), True)]:
        at = min(at + step, len(data))
        if at > begin:
            yield Piece(memoryview(data)[begin:at], is_last or at == len(data))
            begin = at if is_last or at == len(data) else begin


@given(SAMPLES, st.lists(st.tuples(st.integers(1, 100), st.booleans()), max_size=40), st.booleans())
def test_records_of_growing_pieces_are_those_of_the_file(
    samples: list[bytes], steps: list[tuple[int, bool]], check: bool
) -> None:
    data = framed(samples)
    found = [bytes(record) for record in records_of_growing(grown(data, steps), check=check, size=len(data))]
    assert found == samples == [bytes(record) for record in records([data])]


@given(
    st.lists(st.binary(max_size=80), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 100), st.booleans()), max_size=30),
    st.integers(0, 10_000),
)
def test_damage_is_told_alike_however_the_file_came(
    samples: list[bytes], steps: list[tuple[int, bool]], place: int
) -> None:
    data = bytearray(framed(samples))
    data[place % len(data)] ^= 0x10

    def read(source: Iterator[memoryview]) -> tuple[list[bytes], str]:
        came: list[bytes] = []
        try:
            for record in source:
                came.append(bytes(record))  # noqa: PERF401 - what came before the error counts
        except TFRecordError as error:
            return came, str(error)
        return came, ""

    whole = read(records([bytes(data)], size=len(data)))
    assert whole[1]
    assert read(records_of_growing(grown(bytes(data), steps), size=len(data))) == whole


def test_a_file_nearby_is_read_by_one_thread(
    near: Callable[..., RemoteObject], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    near()
    samples = [DATA[at : at + 7_777] for at in range(0, len(DATA), 7_777)]
    origin.objects[PATH] = framed(samples)
    relays: list[Relay] = []
    made = RestStore.relay

    def relay(*arguments: Any) -> Relay | None:
        relays.append(made(*arguments))  # type: ignore[arg-type]
        return relays[-1]

    monkeypatch.setattr(RestStore, "relay", relay)
    options = impatient(origin.endpoint_url)
    assert [bytes(record) for record in iter_tfrecords(URI, options=options)] == samples
    assert [type(one) for one in relays] == [Relay]


def test_the_operation_log_has_a_line_for_each_range(
    near: Callable[..., RemoteObject], origin: FaultOrigin, tmp_path: Any
) -> None:
    it = near()
    origin.plan(PATH, None, None, ResetInBody(7))
    s3dlio.init_op_log(str(tmp_path / "log.tsv"))
    try:
        assert joined(it.growing()) == DATA
        pieces = it.growing()
        next(pieces), next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    finally:
        s3dlio.finalize_op_log()
    rows = [line.split("\t") for line in (tmp_path / "log.tsv").read_text().splitlines()]
    columns, lines = rows[0], rows[1:]
    size, error = columns.index("bytes"), columns.index("error")
    good = [row for row in lines if not row[error]]
    assert sum(int(row[size]) for row in good) == len(DATA) - FIRST + RANGE
    assert sorted({row[error] for row in lines if row[error]}) == ["given up", "not the usual answer: asked for again"]
    assert sum(row[error] == "given up" for row in lines) == 14
