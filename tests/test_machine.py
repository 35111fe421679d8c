"""Room card: a store and a dict, given the same commands for a while, must stay the same.

Hypothesis chooses the commands.  Knows the public verbs; three backends stand for memory, disk and network.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import s3dlio
from s3dlio import NotFoundError, RangeError
from tests.contract_base import SMALL, blob, unique

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s3dlio.testing import S3Server

# No name is a directory of another: the two servers that keep files could not have both.
_KEYS = st.sampled_from(["a", "a b", "b/1", "b/2", "b/c/3", "bb", "é/ü", "x+y"])
_SIZES = st.sampled_from([0, 1, 5, 4096, 70_000, 200_001])
_PREFIXES = st.sampled_from(["", "a", "b", "b/", "b/c/", "é/", "none"])
_OFFSETS = st.integers(0, 8) | st.sampled_from([65_535, 65_536, 200_001, 300_000])


class Machine(RuleBasedStateMachine):
    """Commands for a store below a prefix, and for a dict."""

    base: ClassVar[str]
    has_directories: ClassVar[bool]

    @initialize()
    def begin(self) -> None:
        self.root = f"{self.base}{unique('m')}/"
        self.model: dict[str, bytes] = {}
        self.writes = 0

    def uri(self, key: str) -> str:
        return f"{self.root}{key}"

    @rule(key=_KEYS, size=_SIZES)
    def put(self, key: str, size: int) -> None:
        self.writes += 1
        data = blob(size, self.writes)
        SMALL.put(self.uri(key), data)
        self.model[key] = data

    @rule(key=_KEYS)
    def get(self, key: str) -> None:
        if key not in self.model:
            with pytest.raises(NotFoundError):
                SMALL.get(self.uri(key))
            return
        assert SMALL.get(self.uri(key)) == self.model[key]

    @rule(key=_KEYS, offset=_OFFSETS, length=st.none() | _OFFSETS)
    def get_range(self, key: str, offset: int, length: int | None) -> None:
        if key not in self.model:
            with pytest.raises(NotFoundError):
                SMALL.get_range(self.uri(key), offset, length)
            return
        data = self.model[key]
        if offset > len(data):
            with pytest.raises(RangeError):
                SMALL.get_range(self.uri(key), offset, length)
            return
        expected = data[offset:] if length is None else data[offset : offset + length]
        assert SMALL.get_range(self.uri(key), offset, length) == expected

    @rule(keys=st.lists(_KEYS, max_size=6))
    def get_many(self, keys: list[str]) -> None:
        uris = [self.uri(key) for key in keys]
        if all(key in self.model for key in keys):
            assert SMALL.get_many(uris) == [(self.uri(key), self.model[key]) for key in keys]
            return
        with pytest.raises(NotFoundError):
            SMALL.get_many(uris)

    @rule(keys=st.lists(_KEYS, max_size=6))
    def get_many_stats(self, keys: list[str]) -> None:
        uris = [self.uri(key) for key in keys]
        if all(key in self.model for key in keys):
            assert SMALL.get_many_stats(uris) == (len(keys), sum(len(self.model[key]) for key in keys))
            return
        with pytest.raises(NotFoundError):
            SMALL.get_many_stats(uris)

    @rule(key=_KEYS)
    def stat_and_exists(self, key: str) -> None:
        assert SMALL.exists(self.uri(key)) is (key in self.model)
        if key in self.model:
            assert SMALL.stat(self.uri(key))["size"] == len(self.model[key])
            return
        with pytest.raises(NotFoundError):
            SMALL.stat(self.uri(key))

    @rule(keys=st.lists(_KEYS, max_size=3))
    def delete(self, keys: list[str]) -> None:
        SMALL.delete([self.uri(key) for key in keys])
        for key in keys:
            self.model.pop(key, None)

    @rule(prefix=st.sampled_from(["b", "b/", "b/c", "é/", "none/"]))
    def delete_below(self, prefix: str) -> None:
        SMALL.delete(self.uri(prefix), recursive=True)
        below = prefix.removesuffix("/") + "/"
        self.model = {key: data for key, data in self.model.items() if not key.startswith(below)}

    @rule(prefix=_PREFIXES, recursive=st.booleans())
    def list(self, prefix: str, recursive: bool) -> None:
        found = s3dlio.list(self.uri(prefix), recursive)
        if self.has_directories:
            # A directory's own name lists what is in it; one that has become empty is still there.
            if prefix and not prefix.endswith("/") and os.path.isdir(self.uri(prefix).removeprefix("file://")):
                prefix += "/"
            found = [uri for uri in found if not uri.endswith("/") or s3dlio.list(uri)]
        keys = [key for key in self.model if key.startswith(prefix)]
        if not recursive:
            keys = [prefix + _first_step(key[len(prefix) :]) for key in keys]
        assert found == [self.uri(key) for key in sorted(set(keys))]

    @invariant()
    def same_names(self) -> None:
        assert s3dlio.list(self.root) == [self.uri(key) for key in sorted(self.model)]


def _first_step(rest: str) -> str:
    head, slash, _ = rest.partition("/")
    return head + slash


@pytest.fixture(params=["memory", "file", "rclone"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in one of three stores."""
    if request.param == "memory":
        s3dlio.put("memory://machine/first", b"")
        return "memory://machine/"
    if request.param == "file":
        return f"file://{tmp_path}/"
    return _rclone(request.getfixturevalue("rclone"), monkeypatch)


def _rclone(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    if not s3dlio.exists("s3://machine"):
        s3dlio.create_bucket("machine")
    return "s3://machine/"


def test_a_store_and_a_dict_stay_the_same(base: str) -> None:
    class Bound(Machine):
        """The machine, told where."""

    Bound.base = base
    Bound.has_directories = base.startswith("file:")
    examples = 25 if base.startswith("s3:") else 40
    checks = list(HealthCheck)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Bound,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=checks),
    )


def test_the_machine_finds_a_store_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never fails shows nothing: a store that now and then loses a byte must be found."""

    class Bound(Machine):
        base = "memory://machine/"
        has_directories = False

    s3dlio.put("memory://machine/first", b"")
    monkeypatch.setattr("s3dlio.stores.memory.MemoryStore.put", _forgetful())
    quick = settings(phases=[Phase.generate], report_multiple_bugs=False, deadline=None, database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Bound, settings=quick)  # type: ignore[no-untyped-call]


def _forgetful() -> Callable[..., object]:
    from s3dlio.stores.memory import MemoryStore

    real = MemoryStore.put

    def put(self: MemoryStore, uri: object, data: memoryview, *more: object) -> object:
        return real(self, uri, data[:-1] if len(data) > 5 else data, *more)  # type: ignore[arg-type]

    return put
