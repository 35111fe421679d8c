"""Room card: what users of other fsspec file systems are used to, and expect here too.

Knows s3fs's words and habits.  Must not test open files: `test_fsspec_plugin` does.
"""

from __future__ import annotations

import datetime as dt
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from s3dlio import fsspec_plugin
from s3dlio.errors import AlreadyExistsError, ClosedError, NotFoundError, OptionError, UriError
from tests.servers.faults import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer

_BUCKET = "habits"


@pytest.fixture
def s3(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server with one empty bucket; what else a test makes is removed."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    fs = fsspec_plugin.S3(skip_instance_cache=True)
    fs.makedirs(_BUCKET, exist_ok=True)
    before = set(fs.ls("", detail=False)) - {_BUCKET}
    yield fs
    for bucket in set(fs.ls("", detail=False)) - before:
        fs.rm(bucket, recursive=True)


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec_plugin.Memory()
    fs.makedirs(_BUCKET, exist_ok=True)
    yield fs
    fs.rm(_BUCKET, recursive=True)


def test_a_leading_slash_before_the_bucket_is_no_part_of_its_name(memory: Any) -> None:
    memory.pipe(f"/{_BUCKET}/a/x", b"x")
    assert memory.cat(f"{_BUCKET}/a/x") == b"x"
    assert memory.ls(f"/{_BUCKET}/a", detail=False) == [f"{_BUCKET}/a/x"]
    assert memory.info(f"s3dlio+memory:///{_BUCKET}/a/x")["name"] == f"{_BUCKET}/a/x"
    assert fsspec_plugin.File._strip_protocol("/etc") == "/etc"


def test_a_bucket_is_not_read_as_an_object(s3: Any) -> None:
    """A server answers a GET of a bucket with its listing, which is nobody's data."""
    s3.pipe(f"{_BUCKET}/x", b"x")
    with pytest.raises(UriError, match="names a container"):
        s3.cat_file(_BUCKET)
    with pytest.raises(UriError, match="names a container"):
        s3.open(_BUCKET)
    found = s3.cat_ranges([f"{_BUCKET}/x", _BUCKET], 0, None)
    assert found[0] == b"x"
    assert isinstance(found[1], UriError)


def test_an_object_that_is_missing_spoils_no_other_range(memory: Any) -> None:
    memory.pipe(f"{_BUCKET}/x", b"0123")
    found = memory.cat_ranges([f"{_BUCKET}/none", f"{_BUCKET}/x", f"{_BUCKET}/x"], [-2, -2, 0], None)
    assert isinstance(found[0], NotFoundError)
    assert found[1:] == [b"23", b"0123"]
    with pytest.raises(NotFoundError):
        memory.cat_ranges([f"{_BUCKET}/none", f"{_BUCKET}/x"], -2, None, on_error="raise")


def test_a_directory_in_a_new_bucket_makes_the_bucket(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        s3.mkdir("habits-1/a/b", create_parents=False)
    assert not s3.exists("habits-1")
    s3.mkdir("habits-1/a/b")
    s3.makedirs("habits-2/a", exist_ok=True)
    s3.makedirs("habits-2/a", exist_ok=True)
    assert {"habits-1", "habits-2"} <= set(s3.ls("", detail=False))
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b", "inner/c"):
        (tmp_path / name).write_text(name)
    s3.put(f"{tmp_path}/", "habits-3", recursive=True)
    assert s3.find("habits-3") == ["habits-3/a", "habits-3/inner/b", "habits-3/inner/c"]
    s3.copy("habits-3/", "habits-4", recursive=True)
    assert len(s3.find("habits-4")) == 3


def test_a_directory_that_holds_something_exists(memory: Any) -> None:
    memory.pipe(f"{_BUCKET}/a/x", b"x")
    memory.makedirs(f"{_BUCKET}/a", exist_ok=True)
    with pytest.raises(AlreadyExistsError):
        memory.makedirs(f"{_BUCKET}/a")
    with pytest.raises(AlreadyExistsError):
        memory.mkdir(f"{_BUCKET}/a")
    memory.mkdir(f"{_BUCKET}/b")


def test_who_may_not_list_may_still_write(origin: FaultOrigin) -> None:
    fs = fsspec_plugin.S3(endpoint_url=origin.endpoint_url, anon=True, skip_instance_cache=True)
    origin.plan_all(*[Status(403)] * 8)
    fs.makedirs("bucket/a", exist_ok=True)
    assert {request.method for request in origin.requests} == {"GET"}
    with pytest.raises(PermissionError):
        fs.makedirs("bucket", exist_ok=True)


def test_an_object_goes_together_with_a_directory_of_its_name(s3: Any) -> None:
    s3.pipe({f"{_BUCKET}/a": b"1", f"{_BUCKET}/a/b": b"2", f"{_BUCKET}/ab": b"3"})
    s3.rm(f"{_BUCKET}/a", recursive=True)
    assert s3.find(_BUCKET) == [f"{_BUCKET}/ab"]


def test_what_is_not_there_cannot_be_removed_and_nothing_else_is_then(s3: Any) -> None:
    s3.pipe({f"{_BUCKET}/a": b"1", f"{_BUCKET}/d/b": b"2"})
    for missing in (f"{_BUCKET}/none", [f"{_BUCKET}/a", f"{_BUCKET}/none"], f"{_BUCKET}/none*", f"{_BUCKET}/d"):
        with pytest.raises(FileNotFoundError):
            s3.rm(missing)
    with pytest.raises(FileNotFoundError):
        s3.rm(f"{_BUCKET}/none", recursive=True)
    assert s3.find(_BUCKET) == [f"{_BUCKET}/a", f"{_BUCKET}/d/b"]
    s3.rm_file(f"{_BUCKET}/none")  # as s3fs: one request, which does not tell
    s3.rm([f"{_BUCKET}/a", f"{_BUCKET}/d/*"])
    assert s3.find(_BUCKET) == []


def test_removing_a_missing_local_file_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsspec_plugin.File().rm(f"{tmp_path}/none")


@pytest.mark.parametrize(
    "words", [("ContentType", "Metadata", "StorageClass"), ("content_type", "metadata", "storage_class")]
)
def test_how_an_object_is_kept_is_told_by_s3fs_words_or_ours(s3: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    how = dict(zip(words, ("text/csv", {"made-by": "us"}, "STANDARD_IA"), strict=True))
    (tmp_path / "x").write_bytes(b"x")
    with s3.open(f"{_BUCKET}/opened", "wb", **how) as file:
        file.write(b"x")
    s3.pipe(f"{_BUCKET}/piped", b"x", **how)
    s3.pipe({f"{_BUCKET}/one": b"x", f"{_BUCKET}/two": b"x"}, **how)
    s3.put(str(tmp_path / "x"), f"{_BUCKET}/put", **how)
    names = s3.find(_BUCKET)
    assert len(names) == 5
    for name in names:
        info = s3.info(name)
        assert (info["content_type"], info["metadata"]) == ("text/csv", {"made-by": "us"}), name
        assert s3._verbs.stat(f"s3://{name}")["storage_class"] == "STANDARD_IA"
        assert s3.cat(name) == b"x"


def test_what_a_file_system_is_given_holds_for_its_files_unless_the_call_says_else(s3: Any) -> None:
    fs = fsspec_plugin.S3(
        skip_instance_cache=True, s3_additional_kwargs={"ContentType": "text/csv"}, default_block_size=1 << 20,
        default_cache_type="bytes", default_fill_cache=False, use_ssl=True, version_aware=False,
        config_kwargs={"read_timeout": 7, "s3": {"addressing_style": "path"}, "retries": {"max_attempts": 3}},
    )  # fmt: skip
    assert (fs.options.read_timeout_s, fs.options.addressing_style, fs.options.max_attempts) == (7, "path", 3)
    fs.pipe(f"{_BUCKET}/a", b"a")
    fs.pipe({f"{_BUCKET}/b": b"b"})
    fs.pipe(f"{_BUCKET}/c", b"c", ContentType="text/plain")
    assert [fs.info(f"{_BUCKET}/{name}")["content_type"] for name in "abc"] == ["text/csv", "text/csv", "text/plain"]
    with fs.open(f"{_BUCKET}/a") as file:
        assert (file.blocksize, type(file.cache).name) == (1 << 20, "bytes")
        assert file.read() == b"a"
    with fs.open(f"{_BUCKET}/a", block_size=2 << 20, cache_type="readahead") as file:
        assert (file.blocksize, file.cache) == (2 << 20, None)


@pytest.mark.parametrize("name", ["ACL", "ServerSideEncryption", "acl", "version_id", "Tagging"])
def test_what_would_change_an_object_and_has_no_counterpart_is_refused(memory: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    calls: list[Any] = [
        lambda: memory.open(f"{_BUCKET}/x", "wb", **{name: "some"}),
        lambda: memory.pipe(f"{_BUCKET}/x", b"", **{name: "some"}),
        lambda: memory.pipe({f"{_BUCKET}/x": b""}, **{name: "some"}),
        lambda: memory.put(str(tmp_path / "x"), f"{_BUCKET}/x", **{name: "some"}),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=f"{name} has no counterpart"):
            call()
    assert memory.find(_BUCKET) == []
    memory.pipe(f"{_BUCKET}/x", b"x", acl="", version_id=None)
    with pytest.raises(OptionError, match="version_id"):
        memory.open(f"{_BUCKET}/x", version_id="7")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"version_aware": True}, "version_aware has no counterpart"), ({"use_ssl": False}, "http://"),
        ({"s3_additional_kwargs": {"ACL": "private"}}, "ACL has no counterpart"),
        ({"config_kwargs": {"proxies": {}}}, "'proxies' has no counterpart"), ({"config_kwargs": 5}, "must be a mapping"),
        ({"default_block_size": "1"}, "default_block_size must be"), ({"default_blok_size": 1}, "default_blok_size"),
    ],
)  # fmt: skip
def test_options_of_a_file_system_that_have_no_counterpart_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        fsspec_plugin.S3(skip_instance_cache=True, **options)


def test_a_bucket_goes_with_recursive_only_and_a_missing_one_is_told(s3: Any) -> None:
    with pytest.raises(NotFoundError):
        s3.rm("habits-none")
    with pytest.raises(UriError, match="recursive=True"):
        s3.rm(_BUCKET)
    assert s3.exists(_BUCKET)


def test_find_and_glob_list_what_begins_alike(s3: Any) -> None:
    names = [f"{_BUCKET}/{name}" for name in ("train-0", "train-1", "train-2/x", "test-0", "train/y/z")]
    s3.pipe(dict.fromkeys(names, b""))
    assert s3.find(_BUCKET, prefix="train-") == names[:3]
    assert s3.find(_BUCKET, prefix="train-", maxdepth=1) == names[:2]
    assert s3.find(_BUCKET, prefix="train-", maxdepth=1, withdirs=True) == [*names[:2], f"{_BUCKET}/train-2"]
    assert s3.find(_BUCKET, prefix="train-", withdirs=True) == [*names[:2], f"{_BUCKET}/train-2", names[2]]
    assert s3.find(_BUCKET, prefix="train-", maxdepth=2) == names[:3]
    assert s3.find(f"{_BUCKET}/train", prefix="y") == [names[4]]
    assert s3.find(_BUCKET, prefix="none") == []
    assert s3.find("habits-none", prefix="a") == []
    assert s3.find("", prefix=_BUCKET) == sorted(names)
    assert s3.glob(f"{_BUCKET}/train-*") == [*names[:2], f"{_BUCKET}/train-2"]
    assert s3.glob(f"{_BUCKET}/train*/*/*") == [names[4]]
    assert s3.glob(f"{_BUCKET}/t*-0") == [names[3], names[0]]
    assert s3.glob(f"{_BUCKET}/*", detail=True)[names[0]]["type"] == "file"
    assert s3.glob(f"{_BUCKET[:-1]}*") == [_BUCKET]


def test_find_knows_prefixes_and_depths_on_disks_too(tmp_path: Path) -> None:
    fs = fsspec_plugin.File()
    fs.pipe({f"{tmp_path}/a1": b"", f"{tmp_path}/a2/x": b"", f"{tmp_path}/b": b""})
    assert fs.find(tmp_path, prefix="a") == [f"{tmp_path}/a1", f"{tmp_path}/a2/x"]
    assert fs.glob(f"{tmp_path}/a*") == [f"{tmp_path}/a1", f"{tmp_path}/a2"]


def test_a_pattern_costs_one_listing(origin: FaultOrigin) -> None:
    fs = fsspec_plugin.S3(endpoint_url=origin.endpoint_url, anon=True, skip_instance_cache=True)
    found = b"<CommonPrefixes><Prefix>a/part-1/</Prefix></CommonPrefixes>"
    origin.plan_all(Status(200, body=b"<ListBucketResult>" + found + b"</ListBucketResult>"))
    assert fs.glob("bucket/a/part-*") == ["bucket/a/part-1"]
    (query,) = [urllib.parse.parse_qs(request.target.partition("?")[2]) for request in origin.requests]
    assert query["prefix"] == ["a/part-"]


def test_what_was_thrown_away_cannot_be_committed(memory: Any) -> None:
    with memory.open(f"{_BUCKET}/x", "wb", autocommit=False) as file:
        file.write(b"x")
    file.discard()
    with pytest.raises(ClosedError, match="thrown away"):
        file.commit()
    assert not memory.exists(f"{_BUCKET}/x")


def test_a_signed_address_opens_without_credentials_and_no_other(s3: Any) -> None:
    key = f"{_BUCKET}/a b/ü+%41?.bin"
    s3.pipe(key, b"spam")
    address = s3.sign(key, expiration=60)
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"spam"
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
    assert query["X-Amz-Expires"] == "60"
    for wrong in (0, 8 * 24 * 3600, 1.5):
        with pytest.raises(OptionError, match="expiration"):
            s3.sign(key, expiration=wrong)
    with pytest.raises(UriError, match="container"):
        s3.sign(_BUCKET)
    with pytest.raises(NotImplementedError, match="memory"):
        fsspec_plugin.Memory().sign(key)


def test_a_signed_address_is_good_for_one_object_only(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """This server checks signatures."""
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    fs = fsspec_plugin.S3(skip_instance_cache=True)
    fs.makedirs(_BUCKET, exist_ok=True)
    fs.pipe({f"{_BUCKET}/a b+ü": b"spam", f"{_BUCKET}/c": b"eggs"})
    with urllib.request.urlopen(fs.sign(f"{_BUCKET}/a b+ü")) as answer:
        assert answer.read() == b"spam"
    place, _, query = fs.sign(f"{_BUCKET}/a b+ü").partition("?")
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(f"{place.rpartition('/')[0]}/c?{query}")
    refused.value.close()
    fs.rm(_BUCKET, recursive=True)


def test_s3fs_words_for_the_client_are_understood(origin: FaultOrigin) -> None:
    client = {"endpoint_url": origin.endpoint_url, "region_name": "eu-west-1", "aws_access_key_id": "AKID"}
    fs = fsspec_plugin.S3(client_kwargs=client, secret="x", skip_instance_cache=True)
    assert fs.options.endpoint_url == origin.endpoint_url
    assert (fs.options.region, fs.options.access_key_id) == ("eu-west-1", "AKID")
    with pytest.raises(OptionError, match="endpoint_url"):
        fsspec_plugin.S3(client_kwargs={"endpont_url": "http://h.test"}, skip_instance_cache=True)


def test_times_go_by_s3fs_name_too(memory: Any) -> None:
    memory.pipe(f"{_BUCKET}/x", b"x")
    for info in (memory.info(f"{_BUCKET}/x"), memory.ls(f"{_BUCKET}")[0]):
        assert isinstance(info["LastModified"], dt.datetime)


def test_a_file_is_read_until_some_bytes_wherever_they_lie(memory: Any) -> None:
    memory.pipe(f"{_BUCKET}/x", b"one--two--three")
    with memory.open(f"{_BUCKET}/x") as file:
        assert file.readuntil(b"--", blocks=4) == b"one--"
        assert file.readuntil(b"--", blocks=1) == b"two--"
        assert file.tell() == 10
        assert file.readuntil(b"--") == b"three"
        assert file.readuntil(b"--") == b""
    memory.pipe(f"{_BUCKET}/x", b"a\nb")
    with memory.open(f"{_BUCKET}/x") as file:
        assert file.readuntil() == b"a\n"
