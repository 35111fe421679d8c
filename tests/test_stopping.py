"""Room card: does work stop when it is told to, and do threads, files and memory stay bounded?

In this process, against an origin; what forks, ends or is signalled is in `test_processes`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio.awaitable import awaitable
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, Crew, map_all
from s3dlio.errors import CancelledError, NotFoundError, StoreError
from s3dlio.fetch import Fetcher, Read
from s3dlio.perprocess import PerProcess
from s3dlio.stores import open_store
from s3dlio.uri import parse
from tests.patience import eventually
from tests.reading import CHUNK, impatient, random_bytes, verbs_with
from tests.servers.fault_kinds import ResetInHead, Stall, StallHead, s3_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.faults import FaultOrigin

URIS = [f"s3://bucket/{n}" for n in range(60)]
READS = [Read(parse(uri)) for uri in URIS]
BIG = "s3://bucket/big"


@pytest.fixture
def fetcher(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetcher]:
    """Reads from an origin of small objects and a big one, with a token of its own."""
    origin.objects |= {f"/bucket/{n}": f"{n}".encode() * 1000 for n in range(len(URIS))}
    origin.objects["/bucket/big"] = random_bytes(40 * CHUNK)
    options = impatient(origin.endpoint_url, chunk_size=CHUNK, min_split_size=CHUNK, read_timeout_s=60.0)
    with verbs_with(monkeypatch, options):
        yield Fetcher(open_store(URIS[0], options), token=CancellationToken())


def _all_idle() -> bool:
    crew = CREW.get()
    return len(crew._idle) == len(crew._threads)


def _quiet(origin: FaultOrigin) -> bool:
    """Tells whether the origin gets no more requests."""
    before = len(origin.requests)
    time.sleep(0.1)
    return len(origin.requests) == before


# -- being told to ------------------------------------------------------------------------------------

STALLED: dict[str, Callable[[Fetcher], object]] = {
    "read": lambda fetcher: fetcher.read(READS[0]),
    "big": lambda fetcher: fetcher.read(Read(parse(BIG))),
    "read_all": lambda fetcher: fetcher.read_all(READS),
    "read_whole": lambda fetcher: fetcher.read_whole([read.uri for read in READS]),
    "stream": lambda fetcher: list(fetcher.stream(READS)),
    "stream-as-it-comes": lambda fetcher: list(fetcher.stream(READS, ordered=False)),
}


@pytest.mark.parametrize("read", STALLED.values(), ids=STALLED)
@pytest.mark.parametrize("fault", [StallHead(60.0), Stall(10, 60.0)], ids=["head", "body"])
def test_a_token_stops_reads_from_another_thread(
    origin: FaultOrigin, fetcher: Fetcher, read: Callable[[Fetcher], object], fault: Stall
) -> None:
    origin.plan_all(*[fault] * 500)
    assert fetcher._token is not None
    timer = threading.Timer(0.1, fetcher._token.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        read(fetcher)
    timer.join()
    eventually(_all_idle)
    eventually(lambda: _quiet(origin))
    with pytest.raises(CancelledError):  # it stays cancelled
        read(fetcher)
    origin._plan_all.clear()
    assert s3dlio.get(URIS[7]) == b"7" * 1000


def test_a_token_stops_the_pause_before_another_try(origin: FaultOrigin) -> None:
    origin.plan_all(*[s3_error(503, "SlowDown")] * 100)
    token = CancellationToken()
    options = impatient(origin.endpoint_url, retry_base_s=60.0, retry_max_s=60.0)
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        Fetcher(open_store(URIS[0], options), token=token).read(READS[0])
    timer.join()


def test_a_dropped_iterator_stops_its_readers(origin: FaultOrigin, fetcher: Fetcher) -> None:
    for ordered in (True, False):
        it = fetcher.stream(iter(READS * 100), ordered=ordered, budget_bytes=100_000)
        for _ in range(5):
            next(it)
        del it
        gc.collect()
        eventually(_all_idle)
        eventually(lambda: _quiet(origin))
        assert len(origin.requests) < 1000


def test_a_dropped_iterator_does_not_wait_for_a_stalled_read(origin: FaultOrigin, fetcher: Fetcher) -> None:
    origin.plan_all(None, *[StallHead(60.0)] * 500)
    it = fetcher.stream(READS, ordered=False)
    next(it)
    it.close()  # type: ignore[attr-defined]
    eventually(_all_idle)


def test_a_stream_that_is_cancelled_while_its_readers_rest_ends(origin: FaultOrigin, fetcher: Fetcher) -> None:
    assert fetcher._token is not None
    it = fetcher.stream(READS, budget_bytes=1)
    next(it)
    eventually(_all_idle)  # no room: they have gone to rest
    fetcher._token.cancel()
    with pytest.raises(CancelledError):
        list(it)


def test_a_failure_does_not_wait_for_stalled_neighbours(origin: FaultOrigin, fetcher: Fetcher) -> None:
    origin.plan("/bucket/1", *[s3_error(404, "NoSuchKey")] * 10)
    origin.plan_all(*[StallHead(60.0)] * 1000)
    for read in (STALLED["read_all"], STALLED["stream"]):
        with pytest.raises(NotFoundError) as caught:
            read(fetcher)
        assert caught.value.uri == URIS[1]
        eventually(_all_idle)


def test_a_failed_part_does_not_wait_for_stalled_ones(origin: FaultOrigin, fetcher: Fetcher) -> None:
    origin.plan("/bucket/big", None, *[StallHead(60.0)] * 5, s3_error(404, "NoSuchKey"), *[StallHead(60.0)] * 50)
    with pytest.raises(NotFoundError):
        fetcher.read(Read(parse(BIG)))
    eventually(_all_idle)


def test_a_cancelled_task_ends_when_its_work_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    began, ended = threading.Event(), threading.Event()

    def stubborn() -> None:
        began.set()
        time.sleep(0.2)
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(awaitable(stubborn)())
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())
    eventually(_all_idle)
    assert not caplog.records  # as of a loop that is closed already


# -- tokens -------------------------------------------------------------------------------------------


def test_a_token_follows_all_its_parents_until_it_lets_go() -> None:
    one, two = CancellationToken(), CancellationToken()
    child = CancellationToken(one, two)
    two.cancel()
    assert child.is_cancelled
    assert not one.is_cancelled
    other = CancellationToken(one)
    other.detach()
    one.cancel()
    assert not other.is_cancelled


def test_a_cancelled_token_takes_no_more_work() -> None:
    token = CancellationToken()
    token.cancel()
    token.cancel()
    with pytest.raises(CancelledError):
        token.check()
    with pytest.raises(CancelledError):
        token.sleep(60.0)
    with pytest.raises(CancelledError):
        CancellationToken(token)
    with pytest.raises(CancelledError):
        map_all(lambda *_: None, range(10), 4, token)


# -- threads, files, memory ---------------------------------------------------------------------------


def test_threads_are_used_again() -> None:
    token = CancellationToken()
    map_all(lambda *_: None, range(20), 6, token)
    eventually(_all_idle)
    before = threading.active_count()
    for _ in range(2000):
        map_all(lambda *_: None, range(20), 6, token)
    assert threading.active_count() <= max(before, 6) + 6


def test_each_job_has_a_thread_at_once() -> None:
    # Were one of them to wait for the thread of another, none would come together.
    crew, together = CREW.get(), threading.Barrier(40, timeout=90)
    for _ in range(3):
        met = []
        for _ in range(39):
            crew.start(lambda met=met: met.append(together.wait()))
        met.append(together.wait())
        eventually(lambda met=met: len(met) == 40)


def test_a_thread_that_is_not_needed_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.crew._IDLE_S", 0.05)
    crew, done = Crew(), threading.Event()
    for _ in range(20):
        done.clear()
        crew.start(done.set)
        assert done.wait(90)
        time.sleep(0.002)
    eventually(lambda: not crew._threads)
    assert not crew._idle


def test_without_threads_the_caller_does_the_work(
    origin: FaultOrigin, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        if thread.name != "s3dlio-reader":
            plain(thread)
            return
        refused.append(thread)
        msg = "can't start new thread"
        raise RuntimeError(msg)

    plain, refused = threading.Thread.start, []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("s3dlio.crew.CREW", PerProcess(Crew))
    assert [bytes(view) for view in fetcher.read_all(READS)] == [f"{n}".encode() * 1000 for n in range(60)]
    assert bytes(fetcher.read(Read(parse(BIG)))) == origin.objects["/bucket/big"]
    assert len(list(fetcher.stream(READS))) == 60
    assert refused


def test_failing_reads_leak_no_files(origin: FaultOrigin, fetcher: Fetcher) -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    fetcher.read_all(READS)
    eventually(_all_idle)
    before = files()
    for _ in range(2):
        origin.plan_all(*[ResetInHead(5)] * 2000)
        with pytest.raises(StoreError):
            fetcher.read_all(READS)
        origin._plan_all.clear()
    eventually(lambda: origin.open_connections <= 70)
    assert files() <= before + 140  # the idle ones, and the origin's ends of them


def test_a_failure_lets_the_memory_go(origin: FaultOrigin, fetcher: Fetcher) -> None:
    from s3dlio.buffers import POOL

    POOL.clear()
    origin.plan("/bucket/big", None, *[s3_error(404, "NoSuchKey")] * 100)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(NotFoundError) as caught:
            fetcher.read(Read(parse(BIG)))
        del caught
        eventually(_all_idle)
        # Back on the shelf, without help from the garbage collector.
        eventually(lambda: POOL.free_bytes() >= 40 * CHUNK)
    finally:
        gc.enable()
