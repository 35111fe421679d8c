"""Room card: what every backend promises about reading: the shared tests of get, its siblings, stat and exists.

Knows the public verbs and the seam below them.  Must not know any backend.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import NotFoundError, ObjectChangedError, ObjectStore, OptionError, RangeError, StoreOptions, UriError
from s3dlio.cancel import CancellationToken
from s3dlio.stores import open_store
from s3dlio.uri import parse
from tests.contract_base import KIB, SMALL, SMALL_PARTS, Backend, blob, unique

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3dlio import Store

_DIGITS = b"0123456789"
_VERBS: dict[str, Callable[[str], object]] = {
    "get": s3dlio.get,
    "get_range": lambda uri: s3dlio.get_range(uri, 2, 3),
    "empty get_range": lambda uri: s3dlio.get_range(uri, 0, 0),
    "get_into": lambda uri: s3dlio.get_into(uri, bytearray(10)),
    "get_many": lambda uri: s3dlio.get_many([uri, uri]),
    "get_many_stats": lambda uri: s3dlio.get_many_stats([uri]),
    "stat": s3dlio.stat,
    "stat_many": lambda uri: s3dlio.stat_many([uri, uri]),
}


class Reads(Backend):
    """Reading."""

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1024 * KIB + 3])
    def test_get_returns_what_was_put(self, root: str, size: int) -> None:
        data = blob(size)
        s3dlio.put(f"{root}x", data)
        assert s3dlio.get(f"{root}x") == data
        assert s3dlio.stat(f"{root}x")["size"] == size

    @pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, 2048 * KIB - 1, 3072 * KIB + 17])
    def test_a_large_object_is_read_in_parts(self, root: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        data = blob(size)
        s3dlio.put(f"{root}x", data)
        parts = _count_calls(monkeypatch, open_store(root, SMALL_PARTS), "read_into")
        assert SMALL.get(f"{root}x") == data
        assert len(parts) == -(-size // (64 * KIB)) - 1

    @pytest.mark.parametrize(
        ("offset", "length"),
        [
            (0, None),
            (3, None),
            (3, 4),
            (3, 100),
            (9, 1),
            (10, None),
            (10, 5),
            (10, 0),
            (0, 0),
            (4, 0),
            (0, 10),
            (0, 11),
        ],
    )
    def test_a_range_is_a_slice(self, root: str, offset: int, length: int | None) -> None:
        s3dlio.put(f"{root}digits", _DIGITS)
        expected = _DIGITS[offset:] if length is None else _DIGITS[offset : offset + length]
        assert s3dlio.get_range(f"{root}digits", offset, length) == expected

    @pytest.mark.parametrize(("offset", "length"), [(11, None), (11, 0), (11, 1), (1 << 40, 1), (-1, None), (0, -1)])
    def test_a_range_behind_the_end_or_negative_is_refused(self, root: str, offset: int, length: int | None) -> None:
        s3dlio.put(f"{root}digits", _DIGITS)
        with pytest.raises(RangeError):
            s3dlio.get_range(f"{root}digits", offset, length)

    def test_an_empty_object_has_empty_ranges(self, root: str) -> None:
        s3dlio.put(f"{root}empty", b"")
        for length in (None, 0, 5):
            assert s3dlio.get_range(f"{root}empty", 0, length) == b""
        assert s3dlio.get_into(f"{root}empty", bytearray(3)) == 0
        with pytest.raises(RangeError):
            s3dlio.get_range(f"{root}empty", 1)

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(1, None), (0, 65537), (65535, 65538), (65536, 65536), (70001, 130_002), (199_999, 99), (200_003, None)],
    )
    def test_a_large_range_is_read_in_parts(self, root: str, offset: int, length: int | None) -> None:
        data = blob(200_003)
        s3dlio.put(f"{root}x", data)
        expected = data[offset:] if length is None else data[offset : offset + length]
        assert SMALL.get_range(f"{root}x", offset, length) == expected

    # -- into the caller's memory --------------------------------------------------------------

    @pytest.mark.parametrize(
        "make",
        [
            lambda: np.zeros(1000, np.uint8),
            lambda: np.zeros((25, 10), np.float32),
            lambda: bytearray(1000),
            lambda: memoryview(bytearray(1000)).cast("i"),
            lambda: torch.zeros(10, 25, dtype=torch.float32),
            lambda: torch.zeros(500, dtype=torch.bfloat16),
            lambda: torch.zeros(1000, dtype=torch.float8_e4m3fn),
        ],
        ids=["bytes", "2-d", "bytearray", "memoryview", "tensor", "bfloat16", "float8"],
    )
    def test_get_into_fills_any_writable_memory(self, root: str, make: Callable[[], Any]) -> None:
        data = blob(1000)
        s3dlio.put(f"{root}x", data)
        buffer = make()
        assert s3dlio.get_into(f"{root}x", buffer) == 1000
        assert _raw(buffer) == data

    def test_get_into_leaves_alone_what_it_does_not_need(self, root: str) -> None:
        s3dlio.put(f"{root}digits", _DIGITS)
        buffer = bytearray(b"-" * 8)
        assert s3dlio.get_into(f"{root}digits", buffer, offset=6) == 4
        assert buffer == b"6789----"
        with pytest.raises(RangeError):
            s3dlio.get_into(f"{root}digits", buffer, offset=11)

    def test_get_into_reads_a_large_object_in_parts(self, root: str) -> None:
        data = blob(1024 * KIB + 5)
        s3dlio.put(f"{root}x", data)
        buffer = bytearray(len(data) + 8)
        assert SMALL.get_into(f"{root}x", memoryview(buffer)[8:]) == len(data)
        assert buffer == bytes(8) + data

    def test_get_into_names_both_sizes_when_there_is_too_little_room(self, root: str) -> None:
        s3dlio.put(f"{root}x", blob(1234))
        with pytest.raises(OptionError, match=r"\b777\b.*\b1234\b"):
            s3dlio.get_into(f"{root}x", bytearray(777))

    def test_get_into_refuses_memory_it_cannot_fill(self, root: str) -> None:
        s3dlio.put(f"{root}digits", _DIGITS)
        frozen = np.zeros(10, np.uint8)
        frozen.setflags(write=False)
        strided = (np.zeros(20, np.uint8)[::2], torch.zeros(20, dtype=torch.uint8)[::2])
        for buffer in (b"0" * 10, frozen, *strided, "text", None):
            with pytest.raises(OptionError):
                s3dlio.get_into(f"{root}digits", buffer)

    # -- many at once -----------------------------------------------------------------------------

    @pytest.mark.parametrize("width", [1, 3, 64])
    def test_get_many_keeps_order_and_duplicates(self, root: str, width: int) -> None:
        s3dlio.put_many([(f"{root}{n}", blob(100 * n, n)) for n in range(7)])
        uris = [f"{root}{n}" for n in (3, 1, 3, 0, 6, 5, 1, 2, 4)]
        found = s3dlio.get_many(iter(uris), width)
        assert [uri for uri, _ in found] == uris
        assert all(view == s3dlio.get(uri) for uri, view in found)
        assert s3dlio.get_many(uris[:2], workers=2) == found[:2] == s3dlio.get_many(uris[:2], concurrency=1)

    def test_get_many_splits_large_objects(self, root: str) -> None:
        sizes = (10, 300_001, 0, 65_536, 200_000)
        s3dlio.put_many([(f"{root}{size}", blob(size, size)) for size in sizes])
        found = SMALL.get_many([f"{root}{size}" for size in sizes])
        assert [view == blob(size, size) for size, (_, view) in zip(sizes, found, strict=True)] == [True] * 5

    def test_get_many_of_nothing_is_nothing(self) -> None:
        assert s3dlio.get_many([]) == []
        assert s3dlio.get_many_stats([]) == (0, 0)

    def test_get_many_refuses_mixed_schemes_and_no_width(self, root: str) -> None:
        with pytest.raises(UriError, match="same scheme"):
            s3dlio.get_many([f"{root}x", "other://x/y"])
        scheme, _, rest = root.partition("://")
        s3dlio.put(f"{root}x", b"x")
        assert [view for _, view in s3dlio.get_many([f"{root}x", f"{scheme.upper()}://{rest}x"])] == [b"x", b"x"]
        with pytest.raises(OptionError):
            s3dlio.get_many([f"{root}x", f"{root}y"], 0)

    def test_get_many_stops_at_the_first_failure(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        uris = [f"{root}{n}" for n in range(8)]
        s3dlio.put_many([(uri, b"x") for uri in uris])
        missing = f"{root}missing"
        begun = _slow_down(monkeypatch, open_store(root))
        with pytest.raises(NotFoundError) as caught:
            s3dlio.get_many([missing, *uris * 50], 4)
        assert caught.value.uri == missing
        assert len(begun) < 100

    def test_get_many_stats_adds_up(self, root: str) -> None:
        s3dlio.put_many([(f"{root}a", b"12"), (f"{root}b", b"345")])
        found = s3dlio.get_many_stats([f"{root}a", f"{root}b", f"{root}a"], concurrency=2)
        assert (found.count, found.total_bytes) == found == (3, 7)

    # -- what is known of sizes, and changes --------------------------------------------------------

    def test_get_many_stats_lets_all_parts_begin_at_once(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_store(root, SMALL_PARTS)
        data = blob(200_000)
        s3dlio.put(f"{root}x", data)
        SMALL.get_many_stats([f"{root}x"])
        firsts = _count_calls(monkeypatch, store, "read_first")
        parts = _count_calls(monkeypatch, store, "read_into")
        assert SMALL.get(f"{root}x") == data
        assert (len(firsts), len(parts)) == (0, 4)

    @pytest.mark.parametrize("size", [200_000, 100_000, 300_000])
    def test_a_remembered_size_never_spoils_a_read(self, root: str, size: int) -> None:
        s3dlio.put(f"{root}x", blob(200_000))
        SMALL.get_many_stats([f"{root}x"])
        stranger = ObjectStore(StoreOptions(max_connections=7))
        stranger.put(f"{root}x", blob(size, 1))
        assert SMALL.get(f"{root}x") == blob(size, 1)

    def test_a_write_or_delete_forgets_the_size(self, root: str) -> None:
        store = open_store(root, SMALL_PARTS)
        for change in (SMALL.delete, lambda uri: SMALL.put(uri, b""), lambda uri: SMALL.put_many([(uri, b"")])):
            SMALL.put(f"{root}x", blob(200_000))
            SMALL.get_many_stats([f"{root}x"])
            assert store.sizes.get(parse(f"{root}x")) is not None
            change(f"{root}x")
            assert store.sizes.get(parse(f"{root}x")) is None

    @pytest.mark.parametrize("size", [200_000, 150_000, 250_000])
    def test_an_object_that_changes_while_it_is_read_is_an_error(self, root: str, size: int) -> None:
        uri, store, token = parse(f"{root}x"), open_store(root, SMALL_PARTS), CancellationToken()
        s3dlio.put(f"{root}x", blob(200_000))
        begin = memoryview(bytearray(64 * KIB))
        version = store.read_first(uri, 0, 64 * KIB, lambda _size: begin, token)
        assert (version.size, begin) == (200_000, blob(200_000)[: 64 * KIB])
        s3dlio.put(f"{root}x", blob(size, 1))
        with pytest.raises(ObjectChangedError):
            store.read_into(uri, 64 * KIB, memoryview(bytearray(64 * KIB)), version, token)

    # -- what is not there ----------------------------------------------------------------------------

    @pytest.mark.parametrize("verb", _VERBS)
    def test_a_missing_object_is_named(self, root: str, verb: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            _VERBS[verb](f"{root}missing")
        assert (caught.value.uri, bool(caught.value.operation)) == (f"{root}missing", True)

    @pytest.mark.parametrize("verb", _VERBS)
    def test_an_object_in_a_missing_container_is_missing(self, nowhere: str, verb: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            _VERBS[verb](f"{nowhere}x")
        assert (caught.value.uri, bool(caught.value.operation)) == (f"{nowhere}x", True)

    def test_exists_tells_what_is_there(self, root: str, nowhere: str) -> None:
        s3dlio.put(f"{root}a", b"")
        assert s3dlio.exists(f"{root}a")
        assert not s3dlio.exists(f"{root}missing")
        assert not s3dlio.exists(f"{root}a/b")
        assert not s3dlio.exists(f"{nowhere}a")

    def test_stat_tells_what_is_known(self, root: str) -> None:
        name = unique("x")
        s3dlio.put(f"{root}{name}", b"one", content_type="text/x-test", metadata={"colour": "deep blue", "N": "1"})
        known = s3dlio.stat(f"{root}{name}")
        fields = {"size", "last_modified", "etag", "content_type", "metadata", "version_id", "storage_class"}
        assert set(known) == fields
        assert known["size"] == 3
        age = dt.datetime.now(dt.UTC) - known["last_modified"]
        assert dt.timedelta(seconds=-5) < age < dt.timedelta(minutes=2)
        assert (known["content_type"] == "text/x-test") is self.keeps_content_type
        assert known["metadata"] == ({"colour": "deep blue", "n": "1"} if self.keeps_metadata else {})

    def test_an_entity_tag_names_the_content(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"one")
        before = s3dlio.stat(f"{root}x")["etag"]
        s3dlio.put(f"{root}x", b"two")
        after = s3dlio.stat(f"{root}x")["etag"]
        assert before
        assert before != after == s3dlio.stat(f"{root}x")["etag"]
        assert '"' not in after


def _raw(buffer: Any) -> bytes:
    if isinstance(buffer, torch.Tensor):
        return buffer.reshape(-1).view(torch.uint8).numpy().tobytes()
    return memoryview(buffer).tobytes()


def _count_calls(monkeypatch: pytest.MonkeyPatch, store: Store, name: str) -> list[object]:
    calls: list[object] = []
    real = getattr(store, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[1])
        return real(*arguments, **options)

    monkeypatch.setattr(store, name, counted)
    return calls


def _slow_down(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[object]:
    """Makes readers take 10 ms for each object that is there; returns what they begin."""
    begun: list[object] = []
    real = store.lane

    @contextlib.contextmanager
    def lane(token: CancellationToken) -> Iterator[Any]:
        with real(token) as read:

            def slow(*arguments: Any) -> Any:
                begun.append(arguments[0])
                found = read(*arguments)
                time.sleep(0.01)
                return found

            yield slow

    monkeypatch.setattr(store, "lane", lane)
    return begun
