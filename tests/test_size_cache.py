"""Room card: the memory of objects' sizes: bounded, and not older than it says.

Knows `s3dlio.stores.base.SizeCache` alone; what the verbs make of it is in `tests.contract`.
"""

from __future__ import annotations

import pytest

from s3dlio.stores.base import ObjectInfo, SizeCache
from s3dlio.uri import parse
from s3dlio.wire.transport import Version

_URI = parse("s3://bucket/x")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may change."""
    now = [1000.0]
    monkeypatch.setattr("s3dlio.stores.objects.time.monotonic", lambda: now[0])
    return now


def test_what_was_seen_is_known_until_it_is_forgotten() -> None:
    cache = SizeCache()
    assert cache.get(_URI) is None
    cache.remember(_URI, ObjectInfo(5, etag="tag"))
    assert cache.get(_URI) == Version(5, '"tag"')
    cache.forget(_URI)
    cache.forget(_URI)
    assert cache.get(_URI) is None


def test_what_was_seen_long_ago_is_not_known(clock: list[float]) -> None:
    cache = SizeCache()
    cache.remember(_URI, ObjectInfo(5))
    clock[0] += SizeCache.TTL_S - 1
    assert cache.get(_URI) == Version(5, "")
    clock[0] += 2
    assert cache.get(_URI) is None


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizeCache, "MOST", 10)
    cache = SizeCache()
    uris = [parse(f"s3://bucket/{number}") for number in range(25)]
    for number, uri in enumerate(uris):
        cache.remember(uri, ObjectInfo(number))
        assert cache.get(uri) == Version(number, "")
    assert sum(cache.get(uri) is not None for uri in uris) <= 10
