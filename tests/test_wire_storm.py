"""Room card: many objects, many readers, random faults: is every result the truth?

The short run is part of every test run; ``-m soak`` takes minutes, and objects of up to 40 MiB.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.buffers import BytesView
from s3dlio.errors import ObjectChangedError, StoreError
from s3dlio.fetch import Fetcher, Read
from s3dlio.stores import close_stores, open_store
from s3dlio.uri import parse
from tests.reading import CHUNK, KIB, impatient, random_bytes, verbs_with
from tests.servers.fault_kinds import (
    ChangeContent,
    Chunked,
    CloseIdle,
    ExtraBytes,
    Fault,
    GarbageHead,
    HugeHead,
    InterimResponse,
    Latency,
    LowerCaseHeaders,
    NoContentLength,
    PartAs200,
    ResetInBody,
    ResetInHead,
    ShortBody,
    Stall,
    StallHead,
    Status,
    WholeBodyOn206Asked,
    WrongContentRange,
    s3_error,
)
from tests.servers.faults import FaultOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = KIB * KIB
#: Fewer than there are tries, so that every read of an object that stays the same must succeed.
MOST_FAULTS = 5
TRIES = 8

#: Faults of an answer, given where in its body they strike.
KINDS: list[Callable[[int], Fault]] = [
    ResetInBody,
    lambda at: ShortBody(at + 1),
    lambda _at: ResetInHead(),
    lambda _at: ResetInHead(30),
    lambda at: Chunked(1 + at % 5000),
    lambda _at: CloseIdle(),
    lambda at: ExtraBytes(1 + at % 100),
    lambda _at: GarbageHead(),
    lambda _at: HugeHead(100_000),
    lambda _at: InterimResponse(),
    lambda _at: Latency(0.01),
    lambda _at: LowerCaseHeaders(),
    lambda _at: NoContentLength(),
    lambda _at: PartAs200(),
    lambda _at: WholeBodyOn206Asked(),
    lambda _at: WrongContentRange(missing=True),
    lambda _at: s3_error(500, "InternalError"),
    lambda _at: s3_error(503, "SlowDown", Retry_After="1"),
    lambda _at: Status(502),
]
STALLS: list[Callable[[int], Fault]] = [lambda at: Stall(at, 60.0), lambda _at: StallHead(60.0)]


class Storm(NamedTuple):
    """How bad it gets."""

    objects: int
    largest: int
    stalls: int
    changes: int


class Weather:
    """An origin full of objects that are hard to get."""

    def __init__(self, origin: FaultOrigin, storm: Storm, chance: random.Random) -> None:
        self.origin = origin
        self.chance = chance
        self.truth: dict[str, set[bytes]] = {}
        for n in range(storm.objects):
            self._add(n, storm)

    def _add(self, n: int, storm: Storm) -> None:
        chance = self.chance
        # Most are small, some just about the size of a chunk, few large.
        size = chance.choice([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, int(storm.largest ** chance.random())])
        path, body = f"/bucket/{n}", random_bytes(size)
        self.origin.objects[path] = body
        self.truth[f"s3://bucket/{n}"] = {body}
        faults = [chance.choice(KINDS)(chance.randrange(size + 1)) for _ in range(chance.randrange(MOST_FAULTS))]
        if n < storm.stalls:
            faults.append(chance.choice(STALLS)(chance.randrange(size + 1)))
        elif n < storm.stalls + storm.changes:
            body = random_bytes(chance.choice([size, size + 1]))
            self.truth[f"s3://bucket/{n}"].add(body)
            faults.append(ChangeContent(body))
        elif chance.random() < 0.1:
            faults.append(s3_error(403, "ExpiredToken"))
        chance.shuffle(faults)
        self.origin.plan(path, *faults, method="GET")

    def check(self, uri: str, got: BytesView, start: int = 0, stop: int | None = None) -> None:
        assert any(got == body[start:stop] for body in self.truth[uri]), uri

    def read_all(self) -> None:
        """Reads everything, each object in some way; those that change may fail for that."""
        uris = [*self.truth]
        self.chance.shuffle(uris)
        while uris:
            count = self.chance.choice([1, 1, 1, 50])
            some, uris = uris[:count], uris[count:]
            steady = [uri for uri in some if len(self.truth[uri]) == 1]
            self._read(steady)
            for uri in set(some) - set(steady):
                try:
                    self._read([uri])
                except ObjectChangedError:
                    continue

    def _read(self, uris: list[str]) -> None:
        if len(uris) > 1:
            reader = self.chance.choice([self._get_many, self._stream])
            reader(uris)
        elif uris:
            reader_of_one = self.chance.choice([self._get, self._get_range, self._get_into])
            reader_of_one(uris[0])

    def _get(self, uri: str) -> None:
        self.check(uri, s3dlio.get(uri))

    def _get_range(self, uri: str) -> None:
        size = min(len(body) for body in self.truth[uri])
        start = self.chance.randrange(size + 1)
        length = self.chance.randrange(size + 1)
        self.check(uri, s3dlio.get_range(uri, start, length), start, start + length)

    def _get_into(self, uri: str) -> None:
        buffer = bytearray(max(len(body) for body in self.truth[uri]))
        count = s3dlio.get_into(uri, buffer)
        self.check(uri, BytesView.from_bytes(memoryview(buffer)[:count]))

    def _get_many(self, uris: list[str]) -> None:
        for uri, got in s3dlio.get_many(uris):
            self.check(uri, got)

    def _stream(self, uris: list[str]) -> None:
        from s3dlio import context

        reads = [Read(parse(uri)) for uri in uris]
        fetcher = Fetcher(context.shared_store(reads[0].uri))
        ordered = self.chance.random() < 0.5
        seen = 0
        for read, got in fetcher.stream(reads, budget_bytes=4 * MIB, ordered=ordered):
            self.check(str(read.uri), got)
            seen += 1
        assert seen == len(uris)


def _weather(storm: Storm, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    with FaultOrigin() as origin:
        size = chance.choice([CHUNK, 2 * CHUNK, MIB])
        options = impatient(
            origin.endpoint_url, chunk_size=size, min_split_size=size, max_attempts=TRIES, read_timeout_s=0.3
        )
        with verbs_with(monkeypatch, options):
            Weather(origin, storm, chance).read_all()


@pytest.mark.parametrize("seed", range(2))
def test_every_byte_survives_a_storm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _weather(Storm(objects=120, largest=2 * MIB, stalls=3, changes=10), seed, monkeypatch)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_byte_survives_a_long_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    first = int(os.environ.get("STORM_SEED", random.SystemRandom().randrange(1 << 30)))
    for seed in range(first, first + 5):
        print(f"STORM_SEED={seed}")
        _weather(Storm(objects=600, largest=40 * MIB, stalls=20, changes=60), seed, monkeypatch)


# -- plans that hypothesis makes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lasting_origin() -> Iterator[FaultOrigin]:
    """One origin for all examples."""
    with FaultOrigin() as origin:
        yield origin
    close_stores()


_FAULTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 150_000)), max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 150_000), _FAULTS), min_size=1, max_size=6), st.integers(1, 8))
def test_any_plan_ends_in_the_truth_or_in_an_error(
    lasting_origin: FaultOrigin, plans: list[tuple[int, list[tuple[Callable[[int], Fault], int]]]], tries: int
) -> None:
    origin = lasting_origin
    reads = []
    for n, (size, faults) in enumerate(plans):
        path = f"/bucket/{len(origin.requests)}-{n}"
        origin.objects[path] = random_bytes(size)
        origin.plan(path, *[kind(at) for kind, at in faults])
        reads.append(Read(parse(f"s3:/{path}")))
    options = impatient(origin.endpoint_url, chunk_size=CHUNK, min_split_size=CHUNK, max_attempts=tries)
    fetcher = Fetcher(open_store(reads[0].uri, options))
    try:
        views = fetcher.read_all(reads)
    except StoreError as error:
        assert error.uri in {str(read.uri) for read in reads}  # noqa: PT017 - an error is as good
        assert max(len(faults) for _, faults in plans) >= tries
        return
    for read, view in zip(reads, views, strict=True):
        assert view == origin.objects[f"/bucket/{read.uri.key}"]
