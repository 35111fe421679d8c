"""Room card: the original's names do what its documents say, by this library's means."""

from __future__ import annotations

import pickle

import pytest

import s3dlio
from s3dlio.errors import OptionError
from s3dlio.testing import S3Server


@pytest.fixture
def bucket(rclone: S3Server) -> object:
    with rclone.activate():
        if "s3://original" not in s3dlio.list_containers():
            s3dlio.create_bucket("original")
        s3dlio.put("s3://original/dir/a.bin", b"0123456789")
        yield "original"


def test_deprecated_verbs_take_bucket_and_key_or_one_uri(bucket: str) -> None:
    with pytest.warns(DeprecationWarning, match=r"use s3dlio\.get\("):
        assert s3dlio.get_object(bucket, "dir/a.bin") == b"0123456789"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert s3dlio.get_object(f"s3://{bucket}/dir/a.bin", offset=2, length=3) == b"234"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert s3dlio.stat_object(bucket, "dir/a.bin")["size"] == 10
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert s3dlio.list_objects(f"s3://{bucket}/dir/") == ["dir/a.bin"]
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert s3dlio.list_objects(bucket, "dir/") == ["dir/a.bin"]


def test_a_stores_own_settings_reach_its_reads(bucket: str) -> None:
    engine = s3dlio.RangeEngineConfig(chunk_size=64 * 1024, min_split_size=0, max_concurrent_ranges=3)
    store = s3dlio.S3ObjectStore.with_config(s3dlio.S3Config(range_engine=engine))
    assert (store.options.chunk_size, store.options.max_concurrent_ranges) == (64 * 1024, 3)
    data = bytes(range(256)) * 2000
    store.put(f"s3://{bucket}/large", data)
    assert store.get(f"s3://{bucket}/large") == data
    assert pickle.loads(pickle.dumps(store)).options == store.options


def test_open_store_gives_the_verbs_with_its_settings(bucket: str, rclone: S3Server) -> None:
    store = s3dlio.open_store("s3://", s3dlio.StoreOptions(access_key_id="wrong", secret_access_key="x" * 20))
    with pytest.raises(PermissionError):
        store.get(f"s3://{bucket}/dir/a.bin")
    assert s3dlio.get(f"s3://{bucket}/dir/a.bin") == b"0123456789"


async def read_twice(store: s3dlio.ObjectStore, uri: str) -> list[bytes]:
    return [bytes(await store.get_async(uri)), bytes(await s3dlio.get_async(uri))]


def test_the_awaitable_verbs_of_a_store_use_its_settings(bucket: str) -> None:
    import asyncio

    found = asyncio.run(read_twice(s3dlio.ObjectStore(), f"s3://{bucket}/dir/a.bin"))
    assert found == [b"0123456789"] * 2


def test_a_misspelt_setting_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'chunk_size'"):
        s3dlio.RangeEngineConfig(chunksize=1)  # type: ignore[call-arg]
