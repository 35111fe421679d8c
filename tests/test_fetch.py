"""Room card: many reads at once over the wire: sweeps, lanes and parts give the right bytes in the right place.

The origin is the fault-injecting one, serving rightly unless told otherwise.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from s3dlio.buffers import KIB
from s3dlio.cancel import CancellationToken
from s3dlio.errors import CancelledError, NotFoundError, OptionError
from s3dlio.fetch import Fetcher, Read
from s3dlio.options import StoreOptions
from s3dlio.stores.base import Store
from s3dlio.stores.s3 import S3Store
from s3dlio.uri import Uri
from s3dlio.wire.connection import Connection
from tests.servers.faults import FaultOrigin, Latency, ResetInBody, ShortBody, s3_error

SIZES = (1, 100, 5_000, 70_000)


@pytest.fixture
def store(origin: FaultOrigin) -> Iterator[Store]:
    """A store whose objects of more than 64 KiB are read in parts."""
    options = StoreOptions(
        endpoint_url=origin.endpoint_url, access_key_id="key", secret_access_key="secret", region="us-east-1",
        chunk_size=64 * KIB, min_split_size=0, retry_base_s=0.001,
    )  # fmt: skip
    made = S3Store(options)
    yield made
    made.close()


def fill(origin: FaultOrigin, sizes: list[int], bucket: str = "bucket") -> list[Uri]:
    """Put objects of the given sizes into the origin; each has contents of its own."""
    for number, size in enumerate(sizes):
        origin.objects[f"/{bucket}/{number}"] = random.Random(number).randbytes(size)
    return [Uri("s3", bucket, str(number)) for number in range(len(sizes))]


def truth(origin: FaultOrigin, uris: list[Uri]) -> list[bytes]:
    return [origin.objects[f"/{uri.container}/{uri.key}"] for uri in uris]


@pytest.mark.parametrize("in_flight", [1, 2, 7, 64])
def test_whole_objects_come_in_order_again_and_again(origin: FaultOrigin, store: Store, in_flight: int) -> None:
    uris = fill(origin, [100 + n for n in range(150)])
    fetcher = Fetcher(store, max_in_flight=in_flight)
    for _ in range(3):  # cold connections first, then a window of warm ones
        assert fetcher.read_whole(uris) == truth(origin, uris)


def test_small_objects_cost_one_request_each(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [1000] * 60)
    fetcher = Fetcher(store, max_in_flight=8)
    fetcher.read_whole(uris)
    before = len(origin.requests)
    fetcher.read_whole(uris)
    assert len(origin.requests) - before == len(uris)


def test_objects_of_all_sizes_are_mixed_rightly(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [random.Random(n).choice((0, *SIZES, 200_000)) for n in range(80)])
    fetcher = Fetcher(store, max_in_flight=16)
    for _ in range(3):
        assert fetcher.read_whole(uris) == truth(origin, uris)


def test_large_objects_are_not_swept_again_and_again(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [300_000] * 12)
    fetcher = Fetcher(store, max_in_flight=4)
    fetcher.read_whole(uris)
    before = len(origin.requests)
    assert fetcher.read_whole(uris) == truth(origin, uris)
    assert len(origin.requests) - before == 12 * 5  # parts of 64 KiB, and nothing twice


def test_several_buckets_in_one_batch(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [500] * 40) + fill(origin, [700] * 40, "other")
    random.Random(0).shuffle(uris)
    fetcher = Fetcher(store, max_in_flight=8)
    for _ in range(3):
        assert fetcher.read_whole(uris) == truth(origin, uris)


@pytest.mark.parametrize("fault", [lambda: s3_error(503, "SlowDown"), lambda: ResetInBody(50), lambda: ShortBody(7)])
def test_a_fault_in_a_sweep_costs_one_more_try(origin: FaultOrigin, store: Store, fault: Callable[[], object]) -> None:
    uris = fill(origin, [2000] * 64)
    fetcher = Fetcher(store, max_in_flight=16)
    fetcher.read_whole(uris)
    for position in (0, 9, 30, 63):
        origin.plan(f"/bucket/{position}", fault())
    assert fetcher.read_whole(uris) == truth(origin, uris)


def test_a_late_origin_is_seen_to_be_late(origin: FaultOrigin, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a sweep whose sends take so long that its first answer is there when it looks."""
    uris = fill(origin, [100] * 200)
    fetcher = Fetcher(store, max_in_flight=64)
    ask = Connection.ask

    def ask_slowly(connection: Connection, request: bytes) -> None:
        ask(connection, request)
        time.sleep(0.01)

    monkeypatch.setattr(Connection, "ask", ask_slowly)
    for _ in range(4):
        origin.plan_all(*[Latency(0.02)] * len(uris))
        fetcher.read_whole(uris)
    assert (store.latency_s(uris[0]) or 0) > 0.01
    assert fetcher.useful_width(uris[0]) == 64


def test_a_missing_object_in_a_sweep_is_raised(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [2000] * 64)
    fetcher = Fetcher(store, max_in_flight=16)
    fetcher.read_whole(uris)
    del origin.objects["/bucket/40"]
    with pytest.raises(NotFoundError) as caught:
        fetcher.read_whole(uris)
    assert caught.value.uri == "s3://bucket/40"


def test_ranges_and_targets_in_one_batch(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [200_000] * 6)
    target = bytearray(150_000)
    reads = [
        Read(uris[0], 10, 20),
        Read(uris[1], 100_000),
        Read(uris[2], 50_000, 10**9, memoryview(target)),
        Read(uris[3], 200_000),
        Read(uris[4], 5, 5),
    ]
    data = truth(origin, uris)
    views = Fetcher(store).read_all(reads)
    assert views == [data[0][10:20], data[1][100_000:], data[2][50_000:], b"", b""]
    assert target == data[2][50_000:]


def test_a_target_that_is_too_small_names_both_sizes(origin: FaultOrigin, store: Store) -> None:
    (uri,) = fill(origin, [5000])
    with pytest.raises(OptionError, match=r"100 bytes.*5000"):
        Fetcher(store).read(Read(uri, into=memoryview(bytearray(100))))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("budget", [1, 100_000, 1 << 30])
def test_a_stream_gives_everything_once(origin: FaultOrigin, store: Store, ordered: bool, budget: int) -> None:
    uris = fill(origin, [SIZES[n % 4] for n in range(100)])
    reads = [Read(uri) for uri in uris]
    fetcher = Fetcher(store, max_in_flight=8)
    found = list(fetcher.stream(iter(reads), budget_bytes=budget, ordered=ordered))
    if ordered:
        assert [read for read, _ in found] == reads
    assert sorted((read.uri.key, bytes(view)) for read, view in found) == sorted(
        (uri.key, data) for uri, data in zip(uris, truth(origin, uris), strict=True)
    )


def test_a_failing_source_is_an_error_and_not_the_end(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [10] * 5)

    def source() -> Iterator[Read]:
        yield from (Read(uri) for uri in uris)
        message = "source"
        raise ArithmeticError(message)

    with pytest.raises(ArithmeticError, match="source"):
        list(Fetcher(store).stream(source()))


def test_a_cancelled_token_stops_everything(origin: FaultOrigin, store: Store) -> None:
    uris = fill(origin, [10] * 50)
    token = CancellationToken()
    fetcher = Fetcher(store, max_in_flight=4, token=token)
    stream = fetcher.stream(Read(uri) for uri in uris)
    next(stream)
    token.cancel()
    with pytest.raises(CancelledError):
        list(stream)
    with pytest.raises(CancelledError):
        fetcher.read_whole(uris)
    with pytest.raises(CancelledError):
        fetcher.read(Read(uris[0]))


def test_an_empty_batch_is_empty(store: Store) -> None:
    assert Fetcher(store).read_whole([]) == Fetcher(store).read_all([]) == []
    assert list(Fetcher(store).stream([])) == []
