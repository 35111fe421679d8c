"""Room card: the loader of batches of bytes: what is in a batch, in which order, and how loops end.

Knows `s3dlio.async_loader` and its loops, in memory and against an origin that misbehaves.  Must not repeat
what a batch is (`test_packed_batch`) nor which options there are (`test_loader_options`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.async_loader import PackedLoader, create_async_loader
from s3dlio.buffers import Lease
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import (
    CancelledError,
    ClosedError,
    ForkError,
    NotFoundError,
    ObjectChangedError,
    OptionError,
    StoreTimeoutError,
)
from s3dlio.loader_options import PyLoaderOptions
from s3dlio.options import StoreOptions
from tests.patience import SOON_S, eventually
from tests.reading import impatient
from tests.servers.fault_kinds import Latency, StallHead, s3_error
from tests.servers.faults import FaultOrigin

COUNT = 50
PREFIX = "s3://bucket/data/"
Take = Callable[[PackedLoader], list[Any]]


def body(number: int) -> bytes:
    """Returns the contents of an object: each has a size of its own, one is empty."""
    return bytes([number]) * (number * 7 % 90)


BODIES = [body(number) for number in range(COUNT)]


@pytest.fixture
def space() -> Iterator[str]:
    """A memory space with fifty objects."""
    prefix = f"memory://loader-{threading.get_native_id()}/"
    s3dlio.put_many([(f"{prefix}{number:03d}.bin", data) for number, data in enumerate(BODIES)])
    yield prefix
    s3dlio.delete(prefix, recursive=True)


@pytest.fixture
def stored(origin: FaultOrigin) -> FaultOrigin:
    """The same objects at an origin."""
    origin.objects |= {f"/bucket/data/{number:03d}": data for number, data in enumerate(BODIES)}
    return origin


def load(origin: FaultOrigin, uri: Any = PREFIX, **options: Any) -> PackedLoader:
    return create_async_loader(uri, store_options=impatient(origin.endpoint_url, read_timeout_s=60.0), **options)


def take_in_for(loader: PackedLoader) -> list[Any]:
    return list(loader)


def take_in_async_for(loader: PackedLoader) -> list[Any]:
    async def main() -> list[Any]:
        return [batch async for batch in loader]

    return asyncio.run(main())


both_loops = pytest.mark.parametrize("take", [take_in_for, take_in_async_for], ids=["for", "async-for"])


def samples(batches: list[Any]) -> list[bytes]:
    return [bytes(view) for batch in batches for view in batch]


def all_idle() -> bool:
    crew = CREW.get()
    return len(crew._idle) == len(crew._threads)


def quiet(origin: FaultOrigin) -> bool:
    """Tells whether the origin gets no more requests."""
    before = len(origin.requests)
    time.sleep(0.05)
    return len(origin.requests) == before


def gets(origin: FaultOrigin) -> list[str]:
    return [request.target for request in origin.requests if request.method == "GET" and "?" not in request.target]


# -- what is in a batch ---------------------------------------------------------------------------------


@both_loops
def test_batches_come_in_order_and_the_last_is_short(space: str, take: Take) -> None:
    loader = create_async_loader(space, batch_size=8)
    batches = take(loader)
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert len(loader) == 7
    assert samples(batches) == BODIES
    assert [bytes(batch) for batch in batches] == [b"".join(BODIES[at : at + 8]) for at in range(0, COUNT, 8)]
    assert batches[1].uris == loader.dataset.get_uris()[8:16]
    assert np.frombuffer(batches[2], np.uint8).sum() == sum(sum(data) for data in BODIES[16:24])


def test_the_last_batch_may_be_left_out(space: str) -> None:
    loader = create_async_loader(space, batch_size=8, drop_last=True)
    assert [len(batch) for batch in loader] == [8] * 6
    assert len(loader) == 6


def test_samples_are_read_in_their_places(space: str) -> None:
    for batch in create_async_loader(space, batch_size=8):
        assert isinstance(batch.base, Lease)
        assert len(batch.base) == batch.nbytes


def test_a_list_of_uris_is_neither_listed_nor_asked_for_sizes(stored: FaultOrigin) -> None:
    uris = [f"{PREFIX}{number:03d}" for number in (7, 3, 3, 40, 1)]
    batches = list(load(stored, uris, batch_size=2))
    assert samples(batches) == [body(number) for number in (7, 3, 3, 40, 1)]
    assert sorted(gets(stored)) == sorted(f"/bucket/data/{number:03d}" for number in (7, 3, 3, 40, 1))
    assert len(stored.requests) == 5


def test_a_prefix_costs_a_listing_and_one_request_each(stored: FaultOrigin) -> None:
    assert samples(list(load(stored, batch_size=16))) == BODIES
    read = [target for target in gets(stored) if not target.endswith("/000")]  # an empty object may cost two
    assert len(set(read)) == len(read) == COUNT - 1
    assert sum("list-type" in request.target for request in stored.requests) == 1
    assert all(request.method == "GET" for request in stored.requests)


def test_a_pattern_selects(space: str) -> None:
    assert samples(list(create_async_loader(space, pattern="00*.bin"))) == BODIES[:10]


def test_objects_stay_as_they_are_unless_told(space: str) -> None:
    s3dlio.put(f"{space}n/a.npy", data := b"\x93NUMPY nonsense")
    assert samples(list(create_async_loader(f"{space}n/"))) == [data]
    with pytest.raises(OptionError, match="format must be one of"):
        create_async_loader(space, format="arrow")


def test_records_are_samples_if_told(space: str) -> None:
    from s3dlio.formats.tfrecord import frame_foot, frame_head

    records = [b"one", b"", b"three" * 50]
    framed = [frame_head(memoryview(record)) + record + frame_foot(memoryview(record)) for record in records]
    s3dlio.put(f"{space}t/a.tfrecord", b"".join(framed))
    batches = list(create_async_loader(f"{space}t/", format="tfrecord", batch_size=2))
    assert samples(batches) == records
    assert bytes(batches[0]) == b"one"


def test_a_transform_makes_bytes_of_bytes(space: str) -> None:
    loader = create_async_loader(space, transform=lambda view: bytes(view)[::-1] + b"!", batch_size=20)
    assert samples(list(loader)) == [data[::-1] + b"!" for data in BODIES]
    with pytest.raises(OptionError, match="a sample is dict"):
        list(create_async_loader(space, transform=lambda view: {"x": view}))


def test_missing_samples_are_skipped_if_told(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5, on_error="skip")
    for number in (0, 7, *range(20, 25)):
        del stored.objects[f"/bucket/data/{number:03d}"]
    batches = list(loader)
    assert samples(batches) == [data for n, data in enumerate(BODIES) if n not in (0, 7, *range(20, 25))]
    assert [len(batch) for batch in batches] == [4, 4, 5, 5, 5, 5, 5, 5, 5]  # none that is empty
    assert loader.dataset.skipped == 7


# -- in which order, and whose -----------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, "global", "block"])
def test_an_order_depends_on_the_seed_and_the_epoch(space: str, shuffle: Any) -> None:
    def order(seed: int, epoch: int, **options: Any) -> list[bytes]:
        loader = create_async_loader(space, shuffle=shuffle, seed=seed, shuffle_buffer=8, **options)
        loader.set_epoch(epoch)
        return samples(list(loader))

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(sorted(found) == sorted(BODIES) for found in orders)
    assert len({tuple(found) for found in [*orders, BODIES]}) == 4
    assert order(1, 0, batch_size=3) == orders[2]
    assert order(0, 0, generator_seed=1) == orders[2]


def test_random_sampling_shuffles_and_may_draw_again(space: str) -> None:
    options = PyLoaderOptions(seed=3)
    without = samples(list(create_async_loader(space, options.random_sampling(replacement=False))))
    assert without == samples(list(create_async_loader(space, options.shuffle(True))))
    drawing = create_async_loader(space, options.random_sampling(replacement=True), batch_size=7)
    drawn = samples(list(drawing))
    assert len(drawn) == COUNT
    assert len(set(drawn)) < 45
    assert samples(list(drawing)) == drawn
    drawing.set_epoch(1)
    assert samples(list(drawing)) != drawn
    with pytest.raises(OptionError, match="shuffle"):
        drawing.load_state_dict(create_async_loader(space, options.shuffle(True)).state_dict())


def test_drawing_draws_evenly(space: str) -> None:
    uris = [f"{space}{number:03d}.bin" for number in (1, 2, 3, 4)] * 50
    loader = create_async_loader(uris, sampler_replacement=True, batch_size=200)
    counts = [0] * 5
    for epoch in range(5):
        loader.set_epoch(epoch)
        for sample in samples(list(loader)):
            counts[sample[0]] += 1
    assert sum(counts) == 1000
    assert all(180 < count < 320 for count in counts[1:])


@pytest.mark.parametrize(("uneven", "expected"), [(None, 51), ("pad", 51), ("drop", 48), ("uneven", 50)])
def test_ranks_share_an_epoch(space: str, uneven: str | None, expected: int) -> None:
    found: list[bytes] = []
    for rank in range(3):
        options = PyLoaderOptions(batch_size=4, uneven=uneven).distributed_sampling(rank, 3)
        found += samples(list(create_async_loader(space, options)))
    assert len(found) == expected
    assert set(found) <= set(BODIES)
    if uneven == "uneven":
        assert sorted(found) == sorted(BODIES)


# -- options -----------------------------------------------------------------------------------------------


def test_options_come_in_any_form(space: str) -> None:
    forms = [
        create_async_loader(space, PyLoaderOptions(batch_size=4)),
        create_async_loader(space, {"batch_size": 4}),
        create_async_loader(space, {"batch_size": 9, "pattern": "*.bin"}, batch_size=4),
        create_async_loader(
            uri=space, options=PyLoaderOptions(batch_size=9, timeout_seconds=9), batch_size=4, timeout=5
        ),
    ]
    assert [len(loader) for loader in forms] == [13] * 4
    assert forms[3].options.timeout_seconds == 5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batchsize": 4}, "create_async_loader has no option 'batchsize'; did you mean 'batch_size'"),
        ({"patern": "*"}, "did you mean 'pattern'"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"format": "rwa"}, "did you mean 'raw'"),
        ({"on_error": "ignore"}, "on_error must be one of"),
    ],
)
def test_a_wrong_option_is_refused(space: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        create_async_loader(space, options)
    with pytest.raises(OptionError, match=named):
        create_async_loader(space, **options)
    with pytest.raises(OptionError, match="options must be PyLoaderOptions"):
        create_async_loader(space, 5)  # type: ignore[arg-type]


def test_options_of_the_store_are_handed_on(space: str) -> None:
    loader = create_async_loader(space, page_cache_mode="dontneed", adaptive=False)
    options = loader.dataset._store().options
    assert (options.page_cache_mode, options.adaptive) == ("dontneed", False)
    mine = StoreOptions(page_cache_mode="random", max_attempts=3)
    options = create_async_loader(space, store_options=mine).dataset._store().options
    assert (options.page_cache_mode, options.max_attempts, options.adaptive) == ("random", 3, True)


@pytest.mark.parametrize(("options", "most"), [({"prefetch": 1}, 5), ({"prefetch": 3}, 15), ({"num_workers": 1}, 2)])
def test_reading_ahead_is_bounded(stored: FaultOrigin, options: dict[str, int], most: int) -> None:
    loader = load(stored, [f"{PREFIX}{number:03d}" for number in range(1, COUNT)], batch_size=5, **options)
    loop = iter(loader)
    for taken in range(1, 4):
        next(loop)
        eventually(lambda: quiet(stored))
        assert 5 * taken <= len(gets(stored)) <= 5 * taken + most + 1


# -- ends --------------------------------------------------------------------------------------------------


@both_loops
def test_an_error_is_raised_and_is_not_the_end(stored: FaultOrigin, take: Take) -> None:
    loader = load(stored, batch_size=5)
    del stored.objects["/bucket/data/023"]
    with pytest.raises(NotFoundError) as caught:
        take(loader)
    assert caught.value.uri == f"{PREFIX}023"
    loop = iter(loader)
    got = []
    with pytest.raises(NotFoundError):
        got.extend(loop)
    assert samples(got) == BODIES[: 5 * len(got)]
    for _ in range(2):
        with pytest.raises(ClosedError, match="NotFoundError"):
            next(loop)


def test_an_object_of_another_size_than_listed_is_an_error(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5)
    stored.objects["/bucket/data/011"] += b"?"
    with pytest.raises(ObjectChangedError):
        list(loader)


@both_loops
@pytest.mark.parametrize("fault", [StallHead(60.0), s3_error(503, "SlowDown")], ids=["silence", "refusals"])
def test_a_batch_that_does_not_come_in_time_is_an_error(stored: FaultOrigin, take: Take, fault: Any) -> None:
    slow = impatient(stored.endpoint_url, read_timeout_s=60.0, max_attempts=100, retry_base_s=0.5, retry_max_s=9.0)
    loader = create_async_loader(PREFIX, store_options=slow, batch_size=5, timeout=0.2)
    stored.plan_all(*[fault] * 500)
    began = time.monotonic()
    with pytest.raises(StoreTimeoutError, match=r"no batch came within 0.2 s"):
        take(loader)
    assert time.monotonic() - began < SOON_S
    eventually(all_idle)
    eventually(lambda: quiet(stored))


def test_a_slow_consumer_is_not_late(space: str) -> None:
    count = 0
    for batch in create_async_loader(space, batch_size=25, timeout=0.2):
        time.sleep(0.3)
        count += len(batch)
    assert count == COUNT


def test_who_goes_on_after_a_timeout_is_told(stored: FaultOrigin) -> None:
    loop = iter(load(stored, batch_size=5, timeout=0.1))
    stored.plan_all(*[StallHead(60.0)] * 500)
    with pytest.raises(StoreTimeoutError):
        next(loop)
    with pytest.raises(ClosedError):
        next(loop)


@both_loops
@pytest.mark.parametrize("how", ["token", "loader"])
def test_cancelling_stops_promptly_from_any_thread(stored: FaultOrigin, take: Take, how: str) -> None:
    token = CancellationToken()
    loader = load(stored, batch_size=5, token=token)
    stored.plan_all(*[StallHead(60.0)] * 500)
    timer = threading.Timer(0.1, token.cancel if how == "token" else loader.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        take(loader)
    timer.join()
    assert time.monotonic() - began < SOON_S
    eventually(all_idle)
    with pytest.raises(CancelledError):  # for good
        take(loader)


def test_a_finished_loop_leaves_nothing_with_its_token(space: str) -> None:
    token = CancellationToken()
    loader = create_async_loader(space, token=token)
    for _ in range(3):
        list(loader)
        next(iter(loader))
    assert not token._blocked.get()


def test_leaving_a_loop_stops_its_readers(stored: FaultOrigin) -> None:
    loader = load(stored, [f"{PREFIX}{n % COUNT:03d}" for n in range(5000)], batch_size=5, prefetch=4)
    for _batch in loader:
        break
    eventually(all_idle)
    eventually(lambda: quiet(stored))
    assert len(stored.requests) < 100

    async def main() -> None:
        async for _batch in loader:
            break
        await asyncio.to_thread(eventually, lambda: quiet(stored))

    asyncio.run(main())
    assert len(stored.requests) < 200
    eventually(all_idle)


def test_leaving_a_loop_does_not_wait_for_a_stalled_read(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5)
    for number in range(10, COUNT):
        stored.plan(f"/bucket/data/{number:03d}", *[StallHead(60.0)] * 9)
    began = time.monotonic()
    for _batch in loader:
        break
    assert time.monotonic() - began < SOON_S
    eventually(all_idle)


def test_a_loop_can_be_closed(stored: FaultOrigin) -> None:
    loop = iter(load(stored, batch_size=5, prefetch=1))
    next(loop)
    loop.close()
    eventually(all_idle)
    with pytest.raises(ClosedError, match="it was stopped"):
        next(loop)


def test_an_epoch_is_over_once(space: str) -> None:
    loader = create_async_loader(space, batch_size=8)
    loop = iter(loader)
    assert len(list(loop)) == 7
    assert list(loop) == []
    assert loader.state_dict()["epoch"] == 1


# -- in an event loop --------------------------------------------------------------------------------------


def test_the_event_loop_goes_on_meanwhile(stored: FaultOrigin) -> None:
    stored.plan_all(*[Latency(0.1)] * 500)
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def main() -> int:
        ticker = asyncio.create_task(tick())
        loader = load(stored, batch_size=5, num_workers=5)
        assert stored.requests == []  # it has not even listed
        count = sum([len(batch) async for batch in loader])
        ticker.cancel()
        return count

    assert asyncio.run(main()) == COUNT
    gaps = np.diff(ticks)
    assert len(ticks) > 20
    assert np.median(gaps) < 0.05


def test_outside_of_one_it_lists_at_once(stored: FaultOrigin) -> None:
    loader = load(stored)
    assert len(stored.requests) == 1
    assert len(loader) == 2
    with pytest.raises(NotFoundError, match="no objects match"):
        load(stored, pattern="*.png")


def test_in_one_the_first_batch_tells_that_nothing_is_there(stored: FaultOrigin) -> None:
    async def main() -> None:
        loader = load(stored, pattern="*.png")
        with pytest.raises(NotFoundError, match="no objects match"):
            await anext(aiter(loader))

    asyncio.run(main())


def test_cancelling_the_task_stops_the_reading(stored: FaultOrigin, caplog: pytest.LogCaptureFixture) -> None:
    loader = load(stored, batch_size=5)
    stored.plan_all(*[StallHead(60.0)] * 500)

    async def consume() -> None:
        async for _batch in loader:
            pass

    async def main() -> None:
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.1)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < SOON_S
    eventually(all_idle)
    eventually(lambda: quiet(stored))
    assert not caplog.records


def test_a_cancelled_batch_comes_again(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5, num_workers=1)

    async def main() -> list[Any]:
        loop = aiter(loader)
        got = [await anext(loop) for _ in range(3)]
        stored.plan_all(*[Latency(0.05)] * 200)
        task = asyncio.create_task(anext(loop))
        await asyncio.sleep(0.06)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rest = load(stored, batch_size=5)
        rest.load_state_dict(loader.state_dict())
        return got + [batch async for batch in rest]

    assert samples(asyncio.run(main())) == BODIES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_event_loop_that_is_closed_half_way_leaves_nothing_behind(
    stored: FaultOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    loader = load(stored, batch_size=5)
    stored.plan_all(*[Latency(0.2)] * 50, *[StallHead(60.0)] * 500)

    async def consume() -> None:
        async for _batch in loader:
            pass

    event_loop = asyncio.new_event_loop()
    task = event_loop.create_task(consume())
    event_loop.call_later(0.1, event_loop.stop)
    event_loop.run_forever()
    event_loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is the test's own fault
    del task
    gc.collect()
    eventually(all_idle)
    eventually(lambda: quiet(stored))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_two_loops_at_once_are_independent(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5)
    assert all(a == b for a, b in zip(loader, loader, strict=True))

    async def take() -> list[Any]:
        return [batch async for batch in loader]

    async def main() -> list[list[Any]]:
        return await asyncio.gather(*[take() for _ in range(3)])

    assert [samples(batches) for batches in asyncio.run(main())] == [BODIES] * 3

    async def fresh() -> list[list[Any]]:
        nonlocal loader
        loader = load(stored, batch_size=5)
        return await asyncio.gather(*[take() for _ in range(3)])

    assert [samples(batches) for batches in asyncio.run(fresh())] == [BODIES] * 3
    assert sum("list-type" in request.target for request in stored.requests) == 2  # once by each loader


def test_a_loop_is_for_one_task(stored: FaultOrigin) -> None:
    stored.plan_all(*[Latency(0.1)] * 100)

    async def main() -> None:
        loop = aiter(load(stored, batch_size=5))
        first = asyncio.create_task(anext(loop))
        await asyncio.sleep(0)
        with pytest.raises(OptionError, match="another task waits"):
            await anext(loop)
        assert samples([await first]) == BODIES[:5]

    asyncio.run(main())


def test_an_async_loop_can_be_closed(stored: FaultOrigin) -> None:
    async def main() -> None:
        loop = aiter(load(stored, batch_size=5))
        await anext(loop)
        await loop.aclose()
        with pytest.raises(ClosedError, match="it was stopped"):
            await anext(loop)

    asyncio.run(main())
    eventually(all_idle)


# -- where it stands ---------------------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("shuffle", [False, True, "block"])
def test_an_epoch_is_resumed_in_its_midst(space: str, take: Take, shuffle: Any) -> None:
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "seed": 2, "shuffle_buffer": 8}
    whole = samples(list(create_async_loader(space, **options)))
    loader = create_async_loader(space, **options)
    loop = iter(loader)
    got = samples([next(loop) for _ in range(5)])
    again = create_async_loader(space, **options)
    again.load_state_dict(loader.state_dict())
    got += samples(take(again))
    assert got == whole
    assert again.state_dict() == {**loader.state_dict(), "epoch": 1, "consumed": 0}


def test_ranks_resume_as_another_number_of_ranks(space: str) -> None:
    got, states = [], []
    for rank in range(2):
        loader = create_async_loader(space, batch_size=4, shard_rank=rank, shard_world_size=2)
        loop = iter(loader)
        got += samples([next(loop) for _ in range(3)])
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert states[0]["consumed"] == 24
    rest = create_async_loader(space)
    rest.load_state_dict(states[0])
    assert sorted(got + samples(list(rest))) == sorted(BODIES)
    with pytest.raises(OptionError, match="seed"):
        create_async_loader(space, seed=1).load_state_dict(states[0])


def test_an_epoch_is_chosen_before_the_samples_are_known(space: str) -> None:
    async def main() -> list[Any]:
        loader = create_async_loader(space, shuffle=True)
        loader.set_epoch(3)
        assert repr(loader).startswith("PackedLoader(not listed yet")
        return [batch async for batch in loader]

    loader = create_async_loader(space, shuffle=True)
    loader.set_epoch(3)
    assert samples(asyncio.run(main())) == samples(list(loader))
    with pytest.raises(OptionError, match="epoch"):
        loader.set_epoch(-1)


# -- processes and memory ------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_begins_its_own_loops(stored: FaultOrigin) -> None:
    loader = load(stored, batch_size=5)
    loop = iter(loader)
    next(loop)
    child = os.fork()
    if not child:
        code = 1
        try:
            with pytest.raises(ForkError):
                next(loop)
            code = 0 if samples(list(loader)) == BODIES else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert samples(list(loop)) == BODIES[5:]


def _first_of(loader: PackedLoader) -> tuple[Any, Any]:
    """Begins a loop that will fail, as often as it takes to see a batch before the failure is known."""
    for _ in range(100):
        loop = iter(loader)
        with contextlib.suppress(NotFoundError):
            return loop, next(loop)
    pytest.fail("no batch came before the failure")


def test_a_loop_that_failed_lets_the_memory_go(stored: FaultOrigin) -> None:
    loader = load(stored, [f"{PREFIX}{number:03d}" for number in range(COUNT)], batch_size=5)
    del stored.objects["/bucket/data/023"]
    gc.collect()
    gc.disable()
    try:
        before = {id(it) for it in gc.get_objects() if type(it) is Lease}
        loop, seen = _first_of(loader)
        with pytest.raises(NotFoundError) as caught:
            list(loop)
        del caught, loop
        eventually(all_idle)
        assert samples([seen]) == BODIES[:5]
        held = {id(it) for it in gc.get_objects() if type(it) is Lease} - before
        assert len(held) == 1  # the batch that was seen
    finally:
        gc.enable()


def test_memory_stays_near_what_may_be_read_ahead(space: str) -> None:
    s3dlio.put_many([(f"{space}big/{number:02d}", bytes(100_000)) for number in range(60)])
    loader = create_async_loader(f"{space}big/", batch_size=4, read_ahead_bytes=400_000)
    next(iter(loader))
    tracemalloc.start()
    try:
        count = sum(len(batch) for batch in loader)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60
    assert peak < 3_000_000
