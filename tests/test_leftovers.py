"""Room card: what killed writers leave behind: is it found and removed, and is nothing else?

Knows uploads by parts that were never ended, on three kinds of servers, and the hidden files of drafts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import (
    AccessDeniedError,
    CheckpointStore,
    MultipartUploadWriter,
    NotFoundError,
    OptionError,
    StoreError,
    StoreUnavailableError,
)
from s3dlio.cli.app import run
from tests.contract_base import blob, in_child, unique
from tests.disks import real_disk, takes_direct
from tests.patience import eventually
from tests.reading import impatient, verbs_with
from tests.servers.fault_kinds import Status, s3_error
from tests.servers.multipart import Pending, StoredPart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.testing import S3Server
    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin
    from tests.servers.gcs import GcsServer
    from tests.servers.moto import MotoServer

MIB = 1024**2
DAY_S = 86_400.0
HANG_S = 150

_DOOMED = """
import os, signal, sys
import s3dlio
writer = s3dlio.MultipartUploadWriter.from_uri(sys.argv[1], part_size=5 << 20, max_in_flight=2)
writer.write(bytes(11 << 20))
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_at(uri: str) -> None:
    """Has a process write at a URI that is killed in the midst of it."""
    done = subprocess.run([sys.executable, "-c", _DOOMED, uri], check=False, timeout=HANG_S, capture_output=True)
    assert done.returncode == -9, done.stderr


def left_open(uri: str) -> MultipartUploadWriter:
    """Begins to write at a URI, and sends two parts."""
    writer = MultipartUploadWriter.from_uri(uri, part_size=5 * MIB, abort_on_drop=False)
    writer.write(blob(11 * MIB))
    writer.flush()
    return writer


@pytest.fixture(params=["rclone", "moto", "gcs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket on a server that lists uploads."""
    server: S3Server | MotoServer | GcsServer = request.getfixturevalue(request.param)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    uri = f"{'gs' if request.param == 'gcs' else 's3'}://{unique('left')}"
    s3dlio.create_bucket(uri)
    return uri


# -- on servers ---------------------------------------------------------------------------------------


def test_what_a_killed_writer_has_left_is_aborted(bucket: str) -> None:
    killed_at(f"{bucket}/runs/a b/x+y")
    assert s3dlio.list(f"{bucket}/") == []
    assert s3dlio.abort_uploads(bucket) == []  # it is younger than a day, whatever a server says of its beginning
    assert s3dlio.abort_uploads(f"{bucket}/run", older_than_s=0) == []
    assert s3dlio.abort_uploads(f"{bucket}/runs", older_than_s=0) == [f"{bucket}/runs/a b/x+y"]
    assert s3dlio.abort_uploads(bucket, older_than_s=0) == []


def test_one_object_can_be_named(bucket: str) -> None:
    writers = [left_open(f"{bucket}/{key}") for key in ("x", "x", "xy", "y/x")]
    assert s3dlio.abort_uploads(f"{bucket}/x", older_than_s=0) == [f"{bucket}/x"] * 2
    for writer in writers[2:]:
        writer.close()
    assert s3dlio.list(f"{bucket}/") == [f"{bucket}/xy", f"{bucket}/y/x"]


def test_gc_removes_what_a_killed_writer_has_left_and_no_running_upload(bucket: str) -> None:
    store = CheckpointStore(f"{bucket}/run")
    store.save(step=1, data={"step": 1})
    doomed, name = f"{bucket}/run/shards/ckpt-2-20260101T000000000000Z/rank-0.safetensors", f"{bucket}/run/named/best"
    killed_at(doomed)
    killed_at(name)
    with left_open(f"{bucket}/run-2/x") as beside, left_open(f"{bucket}/run/named/other") as running:
        assert store.gc() == []
        running.write(blob(5 * MIB))
    beside.close()
    assert store.gc(0) == sorted([doomed, name])
    assert (store.gc(0), store.load()["step"], store.names()) == ([], 1, ["other"])
    assert s3dlio.exists(f"{bucket}/run-2/x")


def test_a_bucket_that_is_not_there_is_an_error(bucket: str) -> None:
    with pytest.raises(NotFoundError):
        s3dlio.abort_uploads(f"{bucket}-not")
    assert CheckpointStore(f"{bucket}-not/run").gc(0) == []


def test_google_is_asked_page_by_page(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gcs.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"gs://{unique('left')}"
    s3dlio.create_bucket(bucket)
    keys = ["p/a b", "p/a+b", "p/b", "p/b", "p/b", "p/é&<", "q"]
    for key in keys:
        left_open(f"{bucket}/{key}")
    gcs.set_page_size(2)
    gcs.clear_requests()
    assert s3dlio.abort_uploads(f"{bucket}/p/", older_than_s=0) == sorted(f"{bucket}/{key}" for key in keys[:-1])
    asked = [request.target for request in gcs.requests if "uploads=" in request.target]
    assert len([target for target in asked if "encoding-type=url" in target]) == 3
    # Pages with encoded keys are asked for again, as they are: not all servers tell the truth about that.
    assert len(asked) == 5
    assert len(s3dlio.abort_uploads(bucket, older_than_s=0)) == 1


# -- on a server that is told what to say -------------------------------------------------------------


@pytest.fixture
def shelf(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultOrigin]:
    """An origin with a bucket, and patience that ends soon."""
    origin.buckets.add("bucket")
    with verbs_with(monkeypatch, impatient(origin.endpoint_url, max_attempts=2)):
        yield origin


def begun(shelf: FaultOrigin, key: str, ago_s: float, *parts_ago_s: float) -> str:
    """Has an upload been begun, and parts of it been sent, so many seconds ago; returns its id."""
    now = time.time()
    parts = {number: StoredPart(b"", '""', "", sent_s=now - part_s) for number, part_s in enumerate(parts_ago_s, 1)}
    name = f"id+{len(shelf.uploads.pending)}/="
    shelf.uploads.pending[name] = Pending(f"/bucket/{key}", {}, parts, begun_s=now - ago_s)
    return name


def test_what_still_gets_parts_is_left_however_old(shelf: FaultOrigin) -> None:
    shelf.page_size = 2
    day = 2 * DAY_S
    stays = {
        begun(shelf, "late", 60), begun(shelf, "first", day, 60, *[day] * 4), begun(shelf, "last", day, *[day] * 4, 60),
        begun(shelf, "amid", day, day, day, 60, day),
    }  # fmt: skip
    goes = {begun(shelf, "none", day), begun(shelf, "stuck", 2 * day, *[day] * 5), begun(shelf, "none", day, day)}
    assert s3dlio.abort_uploads("s3://bucket") == ["s3://bucket/none", "s3://bucket/none", "s3://bucket/stuck"]
    assert shelf.uploads.pending.keys() == stays
    assert not goes & stays
    assert s3dlio.abort_uploads("s3://bucket/", older_than_s=59) == [
        f"s3://bucket/{it}" for it in ("amid", "first", "last", "late")
    ]


def test_odd_keys_come_whole_and_other_keys_not_at_all(shelf: FaultOrigin) -> None:
    keys = ["p/a\nb", "p/\x01", "p/<&>", "p/100%", "p/a+b c", "p/é漢😀", "p"]
    for key in [*keys, "pp/x", "q/p/x"]:
        begun(shelf, key, DAY_S + 5)
    shelf.page_size = 1
    assert sorted(s3dlio.abort_uploads("s3://bucket/p")) == sorted(f"s3://bucket/{key}" for key in keys)
    assert len(shelf.uploads.pending) == 2


@pytest.mark.parametrize("page_size", [1, 1000])
def test_keys_are_what_they_are_where_the_server_does_not_say_that_it_encodes_them(
    shelf: FaultOrigin, page_size: int
) -> None:
    """As Ceph's gateway: taken by the letter, such a key names another object, and its upload would stay for good."""
    keys = ["a b/100%", "a b/<&>", "a b/a+b c", "a b/per%41cent", "a b/plain", "a b/é漢😀"]
    for key in [*keys, "a%20b/x"]:
        begun(shelf, key, DAY_S + 5)
    shelf.uploads.says_encoding = False
    shelf.page_size = page_size
    assert sorted(s3dlio.abort_uploads("s3://bucket/a b/")) == [f"s3://bucket/{key}" for key in keys]
    assert s3dlio.abort_uploads("s3://bucket/a%20b/") == ["s3://bucket/a%20b/x"]
    assert not shelf.uploads.pending


@pytest.mark.parametrize("page_size", [1, 1000])
def test_keys_are_what_they_are_where_the_server_says_that_it_encodes_them_and_does_not(
    shelf: FaultOrigin, page_size: int
) -> None:
    """As SeaweedFS and LocalStack: decoded, such a key names another object, and its upload would stay for good."""
    keys = ["a b/100%", "a b/<&>", "a b/a+b c", "a b/per%41cent", "a b/plain", "a b/é漢😀"]
    for key in keys:
        begun(shelf, key, DAY_S + 5)
    shelf.uploads.encodes = False
    shelf.page_size = page_size
    assert sorted(s3dlio.abort_uploads("s3://bucket/a b/")) == [f"s3://bucket/{key}" for key in keys]
    assert not shelf.uploads.pending


def test_a_key_that_xml_cannot_carry_is_found_beside_one_that_looks_encoded(shelf: FaultOrigin) -> None:
    for key in ("bell\a", "per%41cent"):
        begun(shelf, key, DAY_S + 5)
    assert sorted(s3dlio.abort_uploads("s3://bucket")) == ["s3://bucket/bell\a", "s3://bucket/per%41cent"]


def test_young_uploads_cost_no_request_each(shelf: FaultOrigin) -> None:
    for number in range(50):
        begun(shelf, f"x{number}", 60)
    assert s3dlio.abort_uploads("s3://bucket") == []
    assert len(shelf.requests) == 1


def test_the_servers_clock_counts(shelf: FaultOrigin) -> None:
    """It is two days behind this machine's, by which a young upload and a young part would be old."""
    begun(shelf, "x", 2 * DAY_S, 2 * DAY_S - 30)
    uploads = shelf.uploads.listing("bucket", {}, 1000)
    parts = shelf.uploads.parts(next(iter(shelf.uploads.pending)), {}, 1000)
    dated = {"Date": formatdate(time.time() - 2 * DAY_S + 60, usegmt=True)}
    shelf.plan("/bucket", *[Status(200, dated, uploads)] * 3)
    shelf.plan("/bucket/x", *[Status(200, dated, parts)] * 2, method="GET")
    assert s3dlio.abort_uploads("s3://bucket", older_than_s=90) == []
    assert len(shelf.requests) == 1
    assert s3dlio.abort_uploads("s3://bucket", older_than_s=45) == []
    assert len(shelf.requests) == 3
    assert s3dlio.abort_uploads("s3://bucket", older_than_s=20) == ["s3://bucket/x"]


def test_what_tells_no_beginning_is_left(shelf: FaultOrigin) -> None:
    row = "<Upload><Key>x</Key><UploadId>1</UploadId></Upload>"
    body = f"<ListMultipartUploadsResult>{row}</ListMultipartUploadsResult>".encode()
    shelf.plan("/bucket", Status(200, body=body))
    assert s3dlio.abort_uploads("s3://bucket", older_than_s=0) == []
    assert len(shelf.requests) == 1


def test_what_is_completed_meanwhile_is_not_counted(shelf: FaultOrigin) -> None:
    for key in ("a", "b", "c"):
        begun(shelf, key, 2 * DAY_S)
    shelf.plan("/bucket/a", s3_error(404, "NoSuchUpload"), method="GET")
    shelf.plan("/bucket/b", s3_error(404, "NoSuchUpload"), method="DELETE")
    assert s3dlio.abort_uploads("s3://bucket") == ["s3://bucket/c"]


_NO_LISTINGS = {
    "501": s3_error(501, "NotImplemented"),
    "405": s3_error(405, "MethodNotAllowed"),
    "another-listing": Status(200, body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"),
    "no-xml": Status(200, body=b"hello"),
    "endless": Status(
        200, body=b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>"
    ),
    "forbidden": s3_error(403, "AccessDenied"),
}


@pytest.mark.parametrize("fault", _NO_LISTINGS.values(), ids=_NO_LISTINGS)
def test_a_server_that_lists_no_uploads_is_an_error_and_no_hindrance(
    shelf: FaultOrigin, fault: Status, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore("s3://bucket/run")
    store.save(step=1, data=1)
    s3dlio.put("s3://bucket/run/manifests/ckpt-7.claim", b"")
    tries = 2 if fault.code == 403 else 1  # a refusal is tried again with new credentials
    shelf.plan("/bucket", *[fault] * tries, method="GET")
    with pytest.raises(StoreError) as caught:
        s3dlio.abort_uploads("s3://bucket")
    assert caught.value.uri == "s3://bucket/"
    assert caught.value.operation == "abort_uploads"
    assert isinstance(caught.value, AccessDeniedError) == (fault.code == 403)
    shelf.plan("/bucket", *[None] * 2, *[fault] * tries, method="GET")  # behind the two listings
    with caplog.at_level(logging.WARNING, "s3dlio"):
        assert store.gc(0) == ["s3://bucket/run/manifests/ckpt-7.claim"]
    assert "may be left" in caplog.text


def test_a_server_that_cannot_be_reached_is_an_error_of_gc(shelf: FaultOrigin) -> None:
    store = CheckpointStore("s3://bucket/run")
    shelf.plan("/bucket", *[None] * 2, *[s3_error(503, "SlowDown")] * 9, method="GET")
    with pytest.raises(StoreUnavailableError):
        store.gc(0)


def test_parts_that_tell_no_time_are_an_error_and_nothing_is_aborted(shelf: FaultOrigin) -> None:
    begun(shelf, "x", 2 * DAY_S)
    shelf.plan(
        "/bucket/x", Status(200, body=b"<ListPartsResult><Part><PartNumber>1</PartNumber></Part></ListPartsResult>")
    )
    with pytest.raises(StoreError, match="when the parts"):
        s3dlio.abort_uploads("s3://bucket")
    assert len(shelf.uploads.pending) == 1


def test_a_page_that_names_itself_ends(shelf: FaultOrigin) -> None:
    mark = b"<IsTruncated>true</IsTruncated><NextKeyMarker>x</NextKeyMarker>"
    page = Status(200, body=b"<ListMultipartUploadsResult>" + mark + b"</ListMultipartUploadsResult>")
    shelf.plan("/bucket", page, page, page)
    with pytest.raises(StoreError, match="same page"):
        s3dlio.abort_uploads("s3://bucket")


def test_every_request_stands_in_the_operation_log(shelf: FaultOrigin, tmp_path: Path) -> None:
    begun(shelf, "x", 2 * DAY_S)
    s3dlio.init_op_log(str(tmp_path / "ops.tsv"))
    try:
        s3dlio.abort_uploads("s3://bucket")
    finally:
        s3dlio.finalize_op_log()
    rows = [line.split("\t") for line in (tmp_path / "ops.tsv").read_text().splitlines()[1:]]
    assert [row[2] for row in rows] == ["LISTUPLOADS", "LISTPARTS", "ABORTUPLOAD"]


def test_many_go_at_once_and_a_failure_is_raised(shelf: FaultOrigin) -> None:
    for number in range(40):
        begun(shelf, f"x{number:02}", 2 * DAY_S)
    shelf.plan("/bucket/x20", *[s3_error(403, "AccessDenied")] * 2, method="DELETE")
    with pytest.raises(AccessDeniedError) as caught:
        s3dlio.abort_uploads("s3://bucket")
    assert caught.value.uri == "s3://bucket/x20"
    left = {f"s3:/{upload.path}" for upload in shelf.uploads.pending.values()}
    gone = set(s3dlio.abort_uploads("s3://bucket"))
    assert "s3://bucket/x20" in gone
    assert gone <= left  # what was asked for before the failure may still be carried out meanwhile
    eventually(lambda: not shelf.uploads.pending)


# -- where there is nothing to find -------------------------------------------------------------------


def test_azure_drops_blocks_by_itself(azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    container = f"az://{unique('left')}"
    s3dlio.create_bucket(container)
    with left_open(f"{container}/x"):
        assert s3dlio.abort_uploads(container, older_than_s=0) == []
        assert CheckpointStore(f"{container}/").gc(0) == []
    assert s3dlio.get(f"{container}/x") == blob(11 * MIB)


def test_memory_keeps_nothing() -> None:
    with left_open("memory://left/x") as writer:
        assert s3dlio.abort_uploads("memory://left", older_than_s=0) == []
        writer.write(b"more")
    assert s3dlio.get("memory://left/x") == blob(11 * MIB) + b"more"


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_an_age_below_nothing_is_refused(wrong: float) -> None:
    with pytest.raises(OptionError, match="older_than_s"):
        s3dlio.abort_uploads("memory://left", older_than_s=wrong)


# -- drafts of files ----------------------------------------------------------------------------------


def drafts(folder: Path) -> list[Path]:
    """Returns the hidden files below a folder, sorted."""
    return sorted(folder.rglob(".*.s3dlio-partial"))


def aged(path: Path, age_s: float = 2 * DAY_S) -> Path:
    """Has a file not been written for a while."""
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_the_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, scheme: str) -> None:
    with real_disk(tmp_path) as folder:
        if scheme == "direct" and not takes_direct(folder):
            pytest.skip("no disk here takes O_DIRECT")
        place = f"{scheme}://{folder}/left"
        killed_at(f"{place}/sub/x")
        (dead,) = drafts(folder)
        assert s3dlio.abort_uploads(place) == []  # younger than a day
        with left_open(f"{place}/y") as running:
            aged(dead)
            (living,) = set(drafts(folder)) - {dead}
            aged(living)
            assert s3dlio.abort_uploads(place) == [f"{scheme}://{dead}"]
            assert s3dlio.abort_uploads(place, older_than_s=0) == []
            running.write(b"end")
        assert s3dlio.get(f"{place}/y") == blob(11 * MIB) + b"end"
        assert drafts(folder) == []


def test_another_process_cannot_take_a_running_draft(tmp_path: Path) -> None:
    with left_open(f"file://{tmp_path}/x") as running:
        aged(*drafts(tmp_path))

        def other() -> None:
            code = (
                "import s3dlio, sys; print(s3dlio.abort_uploads(sys.argv[1]), s3dlio.CheckpointStore(sys.argv[1]).gc())"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, f"file://{tmp_path}"],
                check=True, timeout=HANG_S, capture_output=True, text=True,
            )  # fmt: skip
            assert done.stdout == "[] []\n"

        other()
        in_child(lambda: s3dlio.abort_uploads(f"file://{tmp_path}", older_than_s=0))
        running.write(b"end")
    assert (tmp_path / "x").stat().st_size == 11 * MIB + 3


def test_a_file_can_be_named(tmp_path: Path) -> None:
    names = ["x", "x.y", "long" * 20]
    for name in names:
        killed_at(f"file://{tmp_path}/{name}")
    for path in drafts(tmp_path):
        aged(path)
    for name in names:
        (gone,) = s3dlio.abort_uploads(f"file://{tmp_path}/{name}")
        assert Path(gone.removeprefix("file://")).name.startswith(f".{name[:50]}.")
    assert drafts(tmp_path) == []
    assert s3dlio.abort_uploads(f"file://{tmp_path}/nowhere/x") == []


def test_nothing_but_drafts_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        for name in ("a.bin", ".hidden", ".x.0123456789abcdef.s3dlio-partial"):
            (folder / name).write_bytes(b"x")
            aged(folder / name)
    (here / "link").symlink_to(there)
    (here / ".l.0123456789abcdef.s3dlio-partial").symlink_to(there / "a.bin")
    os.mkfifo(aged_pipe := here / ".p.0123456789abcdef.s3dlio-partial")
    aged(aged_pipe)
    assert len(s3dlio.abort_uploads(f"file://{here}/")) == 1
    assert {".hidden", "a.bin", "link"} < {path.name for path in here.iterdir()}
    assert len(list(here.iterdir())) == 5
    assert len(list(there.iterdir())) == 3


def test_without_locks_the_last_write_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_args: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    s3dlio.put(f"file://{tmp_path}/a", b"works")
    with left_open(f"file://{tmp_path}/x"):
        assert s3dlio.abort_uploads(f"file://{tmp_path}") == []
    left_open(f"file://{tmp_path}/y")
    aged(*drafts(tmp_path))
    assert len(s3dlio.abort_uploads(f"file://{tmp_path}")) == 1


def test_gc_leaves_the_draft_of_a_running_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(step=1, data=1)
    with left_open(f"file://{tmp_path}/named/best"):
        aged(*drafts(tmp_path))
        assert store.gc() == []
    killed_at(f"file://{tmp_path}/named/other")
    (dead,) = drafts(tmp_path)
    assert store.gc() == []
    assert store.gc(0) == [f"file://{dead}"]
    assert store.names() == ["best"]


# -- other doors --------------------------------------------------------------------------------------


def test_settings_and_event_loops_have_it_too(shelf: FaultOrigin) -> None:
    begun(shelf, "x", 2 * DAY_S)
    options = dataclasses.replace(impatient(shelf.endpoint_url), max_attempts=1)
    assert s3dlio.open_store("s3://", options).abort_uploads("s3://bucket") == ["s3://bucket/x"]
    begun(shelf, "y", 2 * DAY_S)
    assert asyncio.run(s3dlio.abort_uploads_async("s3://bucket")) == ["s3://bucket/y"]


def test_the_command_line_tells_what_went(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    killed_at(f"file://{tmp_path}/x")
    (dead,) = drafts(tmp_path)
    assert run(["rm", "--pending", str(tmp_path)]) == 0
    assert capfd.readouterr() == ("", "")
    aged(dead)
    assert run(["rm", "--pending", str(tmp_path)]) == 0
    assert capfd.readouterr().out == f"file://{dead}\n"
    assert run(["rm", "--pending", "--json", str(tmp_path)]) == 0
    assert json.loads(capfd.readouterr().out) == {"aborted": []}
    assert run(["rm", "--pending", "-r", str(tmp_path)]) == 2
    assert "goes without" in capfd.readouterr().err
