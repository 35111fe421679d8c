"""Room card: the contract on S3, against two servers that share no code: rclone (signatures) and moto (conditions).

Knows what each server cannot do, and the rules of S3 that no other backend has.  Must not test signatures or
credentials.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import AccessDeniedError, AlreadyExistsError, ObjectStore, OptionError, StoreOptions, StoreUnavailableError
from s3dlio.retry import RetryPolicy
from tests.contract import StoreContract
from tests.contract_base import unique
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from s3dlio.testing import S3Server
    from tests.servers.moto import MotoServer


_LARGE_MIB = 80
# Reads an object and prints by how many MiB the most memory ever used has grown over what the library itself needs.
_PEAK = """
import sys
import numpy
import s3dlio

def memory(name):  # not ru_maxrss, which a child inherits from its parent
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1])

uri, way = sys.argv[1:]
s3dlio.get_range(uri, 0, 100_000)
before = memory("VmRSS")
if way == "get":
    held = s3dlio.get(uri)
else:
    held = numpy.empty(s3dlio.stat(uri)["size"], numpy.uint8)
    s3dlio.get_into(uri, held)
assert not held[-1]
assert memory("VmHWM") - before >= held.nbytes // 1024, "the measure itself is wrong"
print((memory("VmHWM") - before) // 1024)
"""


class _S3(StoreContract):
    @pytest.fixture(autouse=True)
    def _one_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same settings in all tests, so that they share a store, and with it what is found only once."""
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/nonexistent")

    @pytest.fixture
    def root(self) -> str:
        if not s3dlio.exists("s3://contract"):
            s3dlio.create_bucket("contract")
        return f"s3://contract/{unique('t')}/"

    @pytest.fixture
    def nowhere(self) -> str:
        return f"s3://{unique('nowhere')}/"

    @pytest.fixture
    def fresh_container(self) -> str:
        return f"s3://{unique('fresh')}"

    def test_metadata_keeps_its_blanks(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"", metadata={"note": "two  blanks, \t none lost".replace("\t", "")})
        assert s3dlio.stat(f"{root}x")["metadata"] == {"note": "two  blanks,  none lost"}

    @pytest.mark.parametrize("metadata", [{"a b": "x"}, {"name": "ü"}, {"name": "x\r\nx-evil: 1"}, {"a:b": "x"}])
    def test_metadata_that_no_header_can_carry_is_refused(self, root: str, metadata: dict[str, str]) -> None:
        with pytest.raises(OptionError, match=r"metadata name|value of"):
            s3dlio.put(f"{root}x", b"", metadata=metadata)
        assert not s3dlio.exists(f"{root}x")

    def test_a_bucket_without_scheme_is_one_of_s3(self) -> None:
        name = unique("bare")
        s3dlio.create_bucket(name)
        assert f"s3://{name}" in s3dlio.list_containers()
        s3dlio.delete_bucket(name)
        assert not s3dlio.exists(f"s3://{name}")

    def test_nothing_is_asked_before_a_small_read(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        s3dlio.put(f"{root}x", b"small")
        monkeypatch.setattr("s3dlio.stores.s3.S3Store.head", None)
        assert s3dlio.get(f"{root}x") == b"small"
        assert s3dlio.get_many([f"{root}x"] * 3)[2][1] == b"small"


class TestRclone(_S3):
    """rclone's server, which keeps objects as files and checks signatures."""

    refuses_overwrite = False  # the server ignores If-None-Match
    replaces_at_once = False  # the server's file may be gone for a moment
    has_flat_keys = False  # the server keeps objects as files
    has_markers = False  # the server takes the slash off
    several_pages = 1005

    @pytest.fixture(autouse=True)
    def server(self, rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
        """The server, found through the environment."""
        for name, value in rclone.env.items():
            monkeypatch.setenv(name, value)
        # It answers 500 to what its disk refuses; that is tried again, and need not take long here.
        monkeypatch.setattr(RetryPolicy, "pause_s", lambda *_: 0.05)
        return rclone

    def test_mkdir_makes_what_listings_do_not_show(self, root: str) -> None:
        """The server makes an empty object of it, so that there is something at least."""
        s3dlio.mkdir(f"{root}dir/sub")
        assert s3dlio.list(root, recursive=False) == [f"{root}dir/"]
        assert s3dlio.stat(f"{root}dir/sub")["size"] == 0

    def test_an_empty_object_that_ends_in_a_slash_is_a_directory(self, root: str) -> None:
        """The server takes the slash off."""
        s3dlio.put(f"{root}dir/", b"")
        assert s3dlio.list(root) == [f"{root}dir"]

    def test_wrong_keys_are_denied_whatever_is_asked(self, root: str, server: S3Server) -> None:
        s3dlio.put(f"{root}x", b"x")
        options = StoreOptions(access_key_id=server.access_key, secret_access_key="wrong" * 8)
        store = ObjectStore(options)
        with pytest.raises(AccessDeniedError) as caught:
            store.get(f"{root}x")
        assert caught.value.uri == f"{root}x"
        assert "wrong" not in str(caught.value)
        with pytest.raises(AccessDeniedError):
            store.get_many([f"{root}x"] * 3)

    def test_every_verb_takes_settings_of_ones_own(
        self, root: str, fresh_container: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
        keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
        store = ObjectStore(StoreOptions(endpoint_url=server.endpoint_url, **keys))
        store = pickle.loads(pickle.dumps(store))
        uris = [f"{root}{name}" for name in "abcdef"]
        store.put_many([(uri, b"0123456789") for uri in uris[2:]])
        store.put(uris[0], b"0123456789")
        asyncio.run(store.put_async(uris[1], b"0123456789"))
        assert store.list(root) == uris == asyncio.run(store.list_async(root))
        assert [view for _, view in store.get_many(uris)] == [b"0123456789"] * 6
        assert asyncio.run(store.get_range_async(uris[0], 3, 2)) == b"34" == store.get_range(uris[0], 3, 2)
        assert store.get_into(uris[0], bytearray(10)) == 10
        assert store.get_many_stats(uris) == (6, 60) == asyncio.run(store.get_many_stats_async(uris))
        assert store.stat(uris[0])["size"] == store.stat_many(uris)[5]["size"] == 10
        assert store.exists(uris[0])
        store.delete(uris[:3])
        store.delete(root, recursive=True)
        assert store.list(root) == []
        store.create_bucket(fresh_container)
        assert fresh_container in store.list_containers("s3://")
        store.delete_bucket(fresh_container)
        assert server.secret_key not in repr(store)

    def test_a_large_read_peaks_at_the_objects_size(self, root: str) -> None:
        s3dlio.put(f"{root}large", bytes(_LARGE_MIB << 20))
        for way in ("get", "into"):
            done = subprocess.run(
                [sys.executable, "-c", _PEAK, f"{root}large", way],
                check=True,
                capture_output=True,
                text=True,
                timeout=PROGRAM_S,
            )
            assert int(done.stdout) < _LARGE_MIB + 16

    def test_exists_fails_when_it_cannot_be_known(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
        for ask in (s3dlio.exists, s3dlio.list, s3dlio.stat, s3dlio.delete):
            with pytest.raises(AccessDeniedError):
                ask(f"{root}x")
        with pytest.raises(AccessDeniedError):
            s3dlio.list_containers()

    def test_no_connection_is_no_answer(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        for ask in (s3dlio.exists, s3dlio.list, s3dlio.get):
            with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9"):
                ask(f"{root}x")


class TestMoto(_S3):
    """moto, which knows conditional requests and answers much of the S3 interface."""

    impossible_keys = frozenset({"new\nline"})  # its router knows no line ends
    refuses_second_container = False  # as S3 itself in us-east-1, if the bucket is one's own
    several_pages = 1005

    @pytest.fixture(autouse=True)
    def server(self, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
        """The server, found through the environment."""
        for name, value in moto.env.items():
            monkeypatch.setenv(name, value)
        return moto

    def test_a_bucket_is_made_in_the_region_and_once(
        self, fresh_container: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        s3dlio.create_bucket(fresh_container)
        with pytest.raises(AlreadyExistsError):
            s3dlio.create_bucket(fresh_container)
        s3dlio.put(f"{fresh_container}/x", b"x")
        assert s3dlio.get(f"{fresh_container}/x") == b"x"
