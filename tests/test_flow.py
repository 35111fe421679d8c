"""Room card: streams over the wire: answers are read as they come, and no trouble with one keeps the others waiting.

The origin is the fault-injecting one. What is late is so late that everything else comes first on any machine.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from s3dlio.buffers import KIB
from s3dlio.cancel import CancellationToken
from s3dlio.fetch import Fetcher, Read
from s3dlio.remote import RemoteObject
from s3dlio.stores.base import Wanted
from s3dlio.stores.s3 import S3Store
from s3dlio.uri import Uri
from tests.patience import eventually
from tests.reading import impatient
from tests.servers.faults import CloseIdle, Latency, s3_error
from tests.test_wire_faults import HARMLESS, PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.fault_kinds import Fault
    from tests.servers.faults import FaultOrigin

SIZE = 20 * KIB
#: Longer than everything else takes.
VERY_LATE = Latency(6.0)


@pytest.fixture
def open_store(origin: FaultOrigin) -> Iterator[Callable[..., S3Store]]:
    """A function that opens a store with other options."""
    made: list[S3Store] = []

    def opened(**changes: object) -> S3Store:
        made.append(S3Store(impatient(origin.endpoint_url, **changes)))
        return made[-1]

    yield opened
    for store in made:
        store.close()


def fill(origin: FaultOrigin, count: int) -> list[Uri]:
    """Puts objects into the origin, each late a little and with contents of its own."""
    for number in range(count):
        origin.objects[f"/bucket/{number}"] = random.Random(number).randbytes(SIZE)
    origin.plan_all(*[Latency(0.01)] * (count // 2))
    return [Uri("s3", "bucket", str(number)) for number in range(count)]


def come_in(origin: FaultOrigin, store: S3Store, uris: list[Uri], in_flight: int = 16) -> list[str]:
    """Reads the middle of each object; returns their keys as they come, after a look at the bytes."""
    reads = [Read(uri, 100, SIZE - 100) for uri in uris]
    keys = []
    for read, view in Fetcher(store, max_in_flight=in_flight).stream(reads, ordered=False):
        assert view == origin.objects[f"/bucket/{read.uri.key}"][100:-100]
        keys.append(read.uri.key)
    assert sorted(keys) == sorted(uri.key for uri in uris)
    return keys


def times_asked(origin: FaultOrigin, key: str) -> int:
    return sum(request.target == f"/bucket/{key}" for request in origin.requests)


def test_a_late_answer_keeps_nobody_waiting(origin: FaultOrigin, open_store: Callable[..., S3Store]) -> None:
    uris = fill(origin, 100)
    origin.plan("/bucket/40", VERY_LATE)
    assert come_in(origin, open_store(), uris)[-1] == "40"
    assert times_asked(origin, "40") == 1


def test_who_is_read_anew_keeps_nobody_waiting(origin: FaultOrigin, open_store: Callable[..., S3Store]) -> None:
    uris = fill(origin, 100)
    origin.plan("/bucket/40", s3_error(500, "InternalError"), VERY_LATE)
    assert come_in(origin, open_store(), uris)[-1] == "40"
    assert times_asked(origin, "40") == 2


def test_an_answer_that_never_comes_is_given_up(origin: FaultOrigin, open_store: Callable[..., S3Store]) -> None:
    uris = fill(origin, 200)
    origin.plan("/bucket/40", Latency(600.0))
    come_in(origin, open_store(read_timeout_s=0.5), uris, in_flight=8)
    assert times_asked(origin, "40") >= 2


def test_an_answer_that_never_comes_is_given_up_while_others_do(
    origin: FaultOrigin, open_store: Callable[..., S3Store]
) -> None:
    uris = fill(origin, 600)
    origin.plan_all(*[Latency(0.02)] * 600)
    origin.plan("/bucket/10", Latency(600.0))
    keys = come_in(origin, open_store(read_timeout_s=0.5), uris, in_flight=6)
    assert keys.index("10") < len(keys) - 100
    assert times_asked(origin, "10") >= 2


def test_many_troubles_at_once_are_all_overcome(origin: FaultOrigin, open_store: Callable[..., S3Store]) -> None:
    uris = fill(origin, 200)
    for number in range(20, 120):
        origin.plan(f"/bucket/{number}", s3_error(500, "InternalError"))
    come_in(origin, open_store(), uris)
    assert len(origin.requests) == 300


@pytest.mark.timeout(120)
def test_ranges_of_objects_that_are_known_already_come_among_others(
    origin: FaultOrigin, open_store: Callable[..., S3Store]
) -> None:
    uris, store = fill(origin, 300), open_store()
    origin.plan_all(*[Latency(0.01)] * 300)
    known = [
        RemoteObject(store, uri, token=CancellationToken()).version if n % 7 else None for n, uri in enumerate(uris)
    ]
    reads = [Read(uri, 100, 1100, known=version) for uri, version in zip(uris, known, strict=True)]
    views = [view for _, view in Fetcher(store, max_in_flight=16).stream(reads)]
    assert views == [origin.objects[f"/bucket/{uri.key}"][100:1100] for uri in uris]


@pytest.mark.parametrize("in_flight", [1, 3, 32])
def test_as_many_connections_as_requests_may_be_under_way(
    origin: FaultOrigin, open_store: Callable[..., S3Store], in_flight: int
) -> None:
    uris = fill(origin, 400)
    come_in(origin, open_store(), uris, in_flight)
    # Six readers of one request each find out how late the store is; what they used is used again.
    assert origin.connections <= max(in_flight, 6)


def test_a_late_store_gets_as_many_connections_as_are_of_use(
    origin: FaultOrigin, open_store: Callable[..., S3Store]
) -> None:
    uris = fill(origin, 1500)
    origin.plan_all(*[Latency(0.03)] * 1500)
    come_in(origin, open_store(), uris, in_flight=32)
    assert 16 <= origin.connections <= 32


def test_connections_are_not_made_in_vain_where_few_are_kept(
    origin: FaultOrigin, open_store: Callable[..., S3Store]
) -> None:
    uris = fill(origin, 600)
    origin.plan_all(*[Latency(0.03)] * 600)
    come_in(origin, open_store(max_connections=1), uris, in_flight=16)
    assert origin.connections <= 2 * 16


def test_connections_that_the_server_closes_meanwhile_are_replaced(
    origin: FaultOrigin, open_store: Callable[..., S3Store]
) -> None:
    uris = fill(origin, 100)
    for number in range(0, 100, 3):
        origin.plan(f"/bucket/{number}", CloseIdle())
    come_in(origin, open_store(), uris)


def test_a_window_in_use_ends_with_its_token(origin: FaultOrigin, open_store: Callable[..., S3Store]) -> None:
    uris = fill(origin, 4)
    token = CancellationToken()
    store = open_store()
    window = store.flow(token)
    assert window is not None
    for uri in uris:
        origin.plan(f"/bucket/{uri.key}", Latency(600.0))
    with window as stretch:
        stretch.ask([Wanted(_Owner(), uri, 0, 100, is_all=True) for uri in uris])
        token.cancel()
        assert [outcome for _, outcome in stretch.receive()] == [None]
    eventually(lambda: not origin.open_connections)


class _Owner:
    def place(self, _size: int) -> memoryview:
        return memoryview(bytearray(100))


@pytest.mark.parametrize("fault", [*HARMLESS.values(), *PASSING.values()], ids=[*HARMLESS, *PASSING])
def test_any_answer_is_dealt_with_among_others(
    origin: FaultOrigin, open_store: Callable[..., S3Store], fault: Fault
) -> None:
    uris = fill(origin, 60)
    for number in range(20, 60, 4):
        origin.plan(f"/bucket/{number}", fault)
        origin.plan(f"/bucket/{number + 1}", fault)
    come_in(origin, open_store(), uris)
