"""Room card: how many requests are in flight: the controller against simulated servers, and a real busy one.

Knows `s3dlio.pace`, which takes the time as a number, and how the fetcher asks it.  Must not know more of the wire
than that an origin can refuse.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from s3dlio.fetch import Fetcher, Read
from s3dlio.pace import FEW, Brake, Climb, Pace, depth_for
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.s3 import S3Store
from s3dlio.uri import Uri
from tests.reading import impatient
from tests.servers.fault_kinds import Status, s3_error
from tests.servers.faults import FaultOrigin

if TYPE_CHECKING:
    from tests.servers.reply import Step
    from tests.servers.rules import Request

KIB = 1024


# -- a simulated server ---------------------------------------------------------------------------------


@dataclass
class Server:
    """A server, the client that reads from it, and the noise of the client's machine.

    Attributes:
        latency_s: Of an answer that waits for no other.
        at_once: Requests that are worked at; more wait in a queue.
        reads_per_s: What the client can take; a third less with 32 readers than with 6.
        refuses_above: Requests in flight beyond which it says that it is busy.
        noise: How much the rate differs from moment to moment, as a standard deviation.
    """

    latency_s: float
    at_once: float = math.inf
    reads_per_s: float = math.inf
    refuses_above: float = math.inf
    noise: float = 0.0
    seed: int = 0
    refusals: list[float] = field(default_factory=list)

    def run(self, pace: Pace, most: int = 128, seconds: float = 60.0) -> list[tuple[float, int, float]]:
        """Returns the time, the readers and the reads, in steps of 16 reads."""
        chance = random.Random(self.seed)
        now, width, factor, changes_at = 0.0, FEW, 1.0, 0.0
        told: list[tuple[float, int, float]] = []
        pace.join(self)
        while now < seconds:
            if now >= changes_at:
                factor, changes_at = max(0.2, chance.gauss(1.0, self.noise)), now + chance.uniform(0.05, 0.5)
            server_s = self.latency_s * max(1.0, width / self.at_once)
            most_per_s = (
                self.reads_per_s * (1 - 0.33 * max(0, width - FEW) / 26) if width < 60 else self.reads_per_s / 2
            )
            rate = min(width / server_s, most_per_s) * factor
            if width > self.refuses_above:
                self.refusals.append(now)
                pace.note_busy(now)
            now += 16 / rate
            waited_s = max(0.0, width / rate - server_s) * chance.random()  # for the client's own processor
            pace.note_latency(server_s + waited_s)
            pace.note_progress(now, 16, 16 * 128 * KIB, hungry=True)
            width = pace.width(most, now)
            assert 1 <= width <= most
            told.append((now, width, 16.0))
        pace.leave(self)
        return told


def widths(told: list[tuple[float, int, float]], after: float) -> list[int]:
    return [width for now, width, _ in told if now >= after]


def usual(told: list[tuple[float, int, float]], after: float) -> int:
    """Returns the width that most of the reads were made with."""
    found = widths(told, after)
    return max(set(found), key=found.count)


def test_a_late_server_gets_all_there_may_be() -> None:
    assert set(widths(Server(0.020).run(Pace()), 1.0)) == {128}


def test_a_near_server_gets_what_its_latency_says() -> None:
    told = Server(0.0002, reads_per_s=12_000).run(Pace())
    assert usual(told, 1.0) == FEW
    assert max(widths(told, 1.0)) <= 2 * FEW  # when it tries


def test_more_are_in_flight_where_that_brings_more() -> None:
    assert depth_for(0.001, 128) == 20
    told = Server(0.001).run(Pace(), seconds=20.0)
    assert usual(told, 12.0) == 128
    assert usual(Server(0.001).run(Pace(), most=50, seconds=10.0), 8.0) == 50


def test_requests_that_only_queue_are_fewer_before_long() -> None:
    told = Server(0.020, at_once=16).run(Pace())
    assert 16 <= usual(told, 30.0) <= 36
    assert sum(reads for _, _, reads in told) / 60 > 0.97 * 16 / 0.020


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_noise_leads_nowhere(seed: int, noise: float) -> None:
    server = Server(0.0002, reads_per_s=12_000, noise=noise, seed=seed)
    told = server.run(Pace(), seconds=90.0)
    assert usual(told, 1.0) == FEW
    tried = [now for now, width, _ in told if width != FEW]
    assert len(tried) < 0.1 * len(told)


@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_slow_a_late_server(seed: int) -> None:
    told = Server(0.020, noise=0.3, seed=seed).run(Pace())
    assert usual(told, 1.0) == 128


def test_a_refusing_server_is_found_out_and_asked_for_more_slowly() -> None:
    server = Server(0.005, refuses_above=8)
    told = server.run(Pace())
    after = [at for at in server.refusals if at > 2.0]
    assert len(after) < 2 * 60
    assert max(widths(told, 2.0)) <= 9
    assert sum(widths(told, 2.0)) / len(widths(told, 2.0)) > 5


# -- the parts of the controller ------------------------------------------------------------------------


def test_a_brake_halves_once_a_moment_and_comes_back_one_a_second() -> None:
    brake = Brake()
    assert brake.limit == math.inf
    brake.press(10.0, 64, 0.02)
    brake.press(10.05, 64, 0.02)  # of the same moment
    assert brake.limit == 32
    brake.press(10.2, 64, 0.02)
    assert brake.limit == pytest.approx(16.1, abs=0.1)
    brake.ease(14.2)
    assert brake.limit == pytest.approx(20.1, abs=0.1)
    for later in range(20):
        brake.press(15.0 + later / 5, 64, 0.02)
    assert brake.limit == pytest.approx(1.0, abs=0.3)
    brake.ease(38.8)
    assert brake.limit == pytest.approx(21.0, abs=0.3)
    brake.ease(200.0)
    assert brake.limit == math.inf


def test_a_brake_waits_for_answers_that_are_late() -> None:
    brake = Brake()
    brake.press(0.0, 64, 2.0)
    brake.press(3.9, 64, 2.0)
    assert brake.limit == 32
    brake.press(4.2, 64, 2.0)
    assert brake.limit < 20


def test_a_climb_holds_while_something_else_decides() -> None:
    climb = Climb()
    now = 0.0
    for _ in range(2000):
        now += 0.05
        climb.note(now, 16, 1.0, queued=False)
        climb.hold(now)
        assert climb.width(20, 128) == 20


def test_a_consumer_that_is_slow_changes_nothing() -> None:
    pace = Pace()
    pace.note_latency(0.001)
    pace.join(1)
    for step in range(5000):
        pace.note_progress(step * 0.02, 16, 16, hungry=False)
        assert pace.width(128, step * 0.02) == 20


def test_a_cap_is_shared_among_those_who_read() -> None:
    pace = Pace()
    pace.note_latency(0.02)
    assert pace.width(64, 0.0) == 64
    pace.note_busy(0.0)
    assert (pace.is_braked, pace.cap, pace.width(64, 0.0)) == (True, 32, 32)
    parties = [object() for _ in range(4)]
    for party in parties:
        pace.join(party)
    assert pace.width(64, 0.0) == 8
    for _ in range(10):
        pace.leave(parties[0])  # once is enough
    assert pace.width(64, 0.0) == 10
    pace.join(parties[1])  # so is this
    assert pace.width(64, 0.0) == 10
    for step in range(100):
        pace.note_busy(1.0 + step)
    assert pace.width(64, 101.0) == pace.cap == 1
    assert pace.width(64, 1000.0) == 64
    assert not pace.is_braked


def test_an_unknown_latency_bounds_nothing() -> None:
    assert Pace().width(64, 0.0) == 64
    assert Pace().width(1, 0.0) == 1


def test_a_pace_is_safe_in_threads() -> None:
    pace, failures = Pace(), []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for step in range(2000):
                doings: list[Callable[[], object]] = [
                    lambda: pace.note_latency(chance.random() / 100),
                    lambda step=step: pace.note_progress(step / 100, 16, 1000, hungry=True),
                    lambda step=step: pace.note_busy(step / 100),
                    lambda: pace.join(seed),
                    lambda: pace.leave(seed),
                ]
                chance.choice(doings)()
                assert 1 <= pace.width(64, step / 100) <= 64
        except BaseException as error:  # noqa: BLE001 - for the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# -- a real server that is busy --------------------------------------------------------------------------


class BusyOrigin(FaultOrigin):
    """Refuses what is above so many requests at once; every answer takes 10 ms."""

    def __init__(self, most: int, refusal: Status | None = None) -> None:
        super().__init__()
        self.most = most
        self.was_refused: list[bool] = []  # of each request, in the order they came
        self._refusal = refusal or s3_error(503, "SlowDown")
        self._active = 0
        self._counting = threading.Lock()

    def steps_for(self, request: Request) -> list[Step]:
        with self._counting:
            self._active += 1
            refused = self._active > self.most
            self.was_refused.append(refused)
        try:
            if refused:
                return self._refusal.steps(self._refusal.bend(self.reply(request)))
            time.sleep(0.01)
            return super().steps_for(request)
        finally:
            with self._counting:
                self._active -= 1


@pytest.fixture
def busy() -> Iterator[BusyOrigin]:
    """An origin that takes eight requests at once."""
    with BusyOrigin(8) as origin:
        fill(origin)
        yield origin


def fill(origin: FaultOrigin) -> None:
    origin.objects |= {f"/bucket/{n}": random.Random(n).randbytes(2000) for n in range(200)}


def store_at(origin: FaultOrigin, *, adaptive: bool = True) -> S3Store:
    options = impatient(origin.endpoint_url, max_attempts=50, retry_base_s=0.1, retry_max_s=5.0, adaptive=adaptive)
    return S3Store(options)


def uris(count: int) -> list[Uri]:
    return [Uri("s3", "bucket", str(number % 200)) for number in range(count)]


READS: dict[str, Callable[[Fetcher, list[Uri]], list[object]]] = {
    "stream": lambda fetcher, wanted: [view for _, view in fetcher.stream(Read(uri) for uri in wanted)],
    "read_all": lambda fetcher, wanted: list(fetcher.read_all([Read(uri) for uri in wanted])),
    "read_whole": lambda fetcher, wanted: [
        view for at in range(0, len(wanted), 200) for view in fetcher.read_whole(wanted[at : at + 200])
    ],
}


@pytest.mark.parametrize("kind", READS)
def test_a_busy_server_is_spared_and_everything_is_read(busy: BusyOrigin, kind: str) -> None:
    wanted = uris(500)
    store = store_at(busy)
    views = READS[kind](Fetcher(store, max_in_flight=64), wanted)
    assert views == [busy.objects[f"/bucket/{uri.key}"] for uri in wanted]
    assert sum(busy.was_refused) < 300
    # Counted in requests, not in seconds: a busy machine only makes it slower.
    assert sum(busy.was_refused[-250:]) < 50
    assert store.pace(wanted[0]).is_braked or not any(busy.was_refused)  # type: ignore[union-attr]
    store.close()


def test_who_opts_out_gets_what_he_asks_for(busy: BusyOrigin) -> None:
    wanted = uris(300)
    store = store_at(busy, adaptive=False)
    fetcher = Fetcher(store, max_in_flight=64)
    assert fetcher.useful_width(wanted[0]) == 64
    views = READS["stream"](fetcher, wanted)
    assert views == [busy.objects[f"/bucket/{uri.key}"] for uri in wanted]
    assert store.pace(wanted[0]) is None
    assert fetcher.useful_width(wanted[0]) == 64
    assert store.range_width(wanted[0]) == store.options.max_concurrent_ranges
    assert sum(busy.was_refused) > 20
    store.close()


@pytest.mark.parametrize(
    ("refusal", "is_heard"),
    [
        (s3_error(503, "SlowDown"), True),
        (s3_error(503, "ServiceUnavailable"), True),
        (Status(429), True),
        (s3_error(400, "SlowDown"), True),
        (s3_error(500, "InternalError"), False),
        (s3_error(404, "NoSuchKey"), False),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_which_answers_mean_fewer(origin: FaultOrigin, refusal: Status, is_heard: bool) -> None:
    fill(origin)
    store = store_at(origin)
    origin.plan("/bucket/7", refusal)
    try:
        Fetcher(store).read(Read(Uri("s3", "bucket", "7")))
    except FileNotFoundError:
        assert refusal.code == 404
    assert store.pace(Uri("s3", "bucket", "7")).is_braked == is_heard  # type: ignore[union-attr]
    store.close()


def test_a_refusal_in_a_sweep_is_heard(origin: FaultOrigin) -> None:
    fill(origin)
    store = store_at(origin)
    fetcher = Fetcher(store, max_in_flight=16)
    for _ in range(3):
        fetcher.read_whole(uris(64))
    assert store.window(uris(1)[0], 4) > 1
    origin.plan("/bucket/30", s3_error(503, "SlowDown"))
    assert fetcher.read_whole(uris(64)) == [origin.objects[f"/bucket/{n}"] for n in range(64)]
    pace = store.pace(uris(1)[0])
    assert pace is not None
    assert pace.is_braked
    assert store.window(uris(1)[0], 4) == 1  # no more sweeps for now
    assert store.range_width(uris(1)[0]) <= pace.cap
    store.close()


def test_two_streams_share_what_a_busy_server_takes(busy: BusyOrigin) -> None:
    store, wanted, found = store_at(busy), uris(300), []

    def read() -> None:
        found.append(READS["stream"](Fetcher(store, max_in_flight=64), wanted))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[busy.objects[f"/bucket/{uri.key}"] for uri in wanted]] * 2
    assert sum(busy.was_refused) < 300
    assert sum(busy.was_refused[-300:]) < 60
    assert store.pace(wanted[0])._parties == {}  # type: ignore[union-attr]
    store.close()


def test_a_stream_that_is_left_leaves_the_company(origin: FaultOrigin) -> None:
    fill(origin)
    store = store_at(origin)
    stream = Fetcher(store, max_in_flight=8).stream(Read(uri) for uri in uris(2000))
    for _ in range(40):
        next(stream)
    pace = store.pace(uris(1)[0])
    assert pace is not None
    assert len(pace._parties) == 1
    del stream
    assert pace._parties == {}
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_child_has_a_pace_of_its_own(origin: FaultOrigin) -> None:
    fill(origin)
    store, uri = store_at(origin), uris(1)[0]
    origin.plan("/bucket/0", s3_error(503, "SlowDown"))
    Fetcher(store).read(Read(uri))
    assert store.pace(uri).is_braked  # type: ignore[union-attr]
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(store.pace(uri).is_braked)  # type: ignore[union-attr]
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    store.close()


def test_a_store_that_is_no_server_has_no_pace() -> None:
    store = MemoryStore()
    assert store.pace(Uri("memory", "a", "b")) is None
    assert Fetcher(store, max_in_flight=64).useful_width(Uri("memory", "a", "b")) == FEW
