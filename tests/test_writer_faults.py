"""Room card: is an object whole or not there at all, whatever happens while it is written?

Servers that fail, lie or stall, disks that are full, processes that are signalled, forked or ended.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from awscrt.checksums import crc32c

import s3dlio
from s3dlio import (
    AccessDeniedError,
    AlreadyExistsError,
    MultipartUploadWriter,
    OptionError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    WriterOptions,
    context,
    sender,
)
from s3dlio.errors import CancelledError, ForkError, IntegrityError
from s3dlio.stores import multipart
from s3dlio.stores.s3 import S3Store
from s3dlio.stores.upload import Limits
from tests.contract_base import blob, in_child, unique
from tests.disks import real_disk
from tests.reading import impatient, verbs_with
from tests.servers.fault_kinds import (
    CloseIdle,
    GarbageHead,
    InterimResponse,
    Latency,
    ResetInBody,
    ResetInHead,
    ShortBody,
    StallHead,
    Status,
    s3_error,
)
from tests.servers.reply import Midway
from tests.servers.rules import error_xml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.fault_kinds import Fault
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer

MIB = 1024**2
URI, PATH = "s3://bucket/key", "/bucket/key"
PART = 1000
BODY = blob(2 * PART + 345)
HANG_S = 150

#: Answers that cost a try.
PASSING: dict[str, Fault] = {
    "400-timeout": s3_error(400, "RequestTimeout"),
    "500": s3_error(500, "InternalError"),
    "503": s3_error(503, "SlowDown"),
    "503-retry-after": s3_error(503, "SlowDown", Retry_After="1"),
    "garbage": GarbageHead(),
    "idle-closed": CloseIdle(),
    "interim": InterimResponse(103),
    "late": Latency(0.05),
    "reset-at-once": ResetInHead(),
    "reset-in-head": ResetInHead(30),
    "stall": StallHead(30),
}
#: What only an answer with a body can suffer.
CUT: dict[str, Fault] = {"reset-in-body": ResetInBody(20), "short": ShortBody(5)}
FOR_GOOD = 40


@pytest.fixture
def small(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultOrigin]:
    """An origin that takes small parts, and patience that ends soon."""
    origin.buckets.add("bucket")
    origin.uploads.least_part_bytes = 1
    monkeypatch.setattr(S3Store, "limits", Limits(most_parts=10_000))
    with verbs_with(monkeypatch, impatient(origin.endpoint_url, read_timeout_s=0.5, max_attempts=3)):
        # Writers look their stores up by a name of their own.
        monkeypatch.setattr("s3dlio.object_writer.store_of", context.shared_store)
        yield origin


def write(uri: str = URI, body: bytes = BODY, **options: Any) -> s3dlio.ObjectWriter:
    """Writes an object by small parts, one at a time."""
    given = {"buffer_capacity": PART, "max_in_flight": 1, **options}
    with s3dlio.create_writer(uri, WriterOptions(**given)) as writer:
        for start in range(0, len(body), 300):
            writer.write(body[start : start + 300])
    return writer


def nothing_is_left(origin: FaultOrigin) -> None:
    """Checks that neither the object nor a part of it is there."""
    assert PATH not in origin.objects
    assert origin.uploads.pending == {}


# -- a server that fails for a while ------------------------------------------------------------------


@pytest.mark.parametrize("fault", [*PASSING.values(), *CUT.values()], ids=[*PASSING, *CUT])
def test_the_beginning_is_tried_again(small: FaultOrigin, fault: Fault) -> None:
    small.plan(PATH, fault, method="POST")
    write()
    assert small.objects[PATH] == BODY


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("which", [0, 2])
def test_a_part_is_tried_again(small: FaultOrigin, fault: Fault, which: int) -> None:
    small.plan(PATH, *[None] * which, fault, method="PUT")
    stats = write().finalize()
    assert small.objects[PATH] == BODY
    assert stats["parts"] == 3
    assert small.uploads.pending == {}


@pytest.mark.parametrize("fault", [*PASSING.values(), *CUT.values()], ids=[*PASSING, *CUT])
@pytest.mark.parametrize("overwrite", [True, False])
def test_the_end_is_tried_again(small: FaultOrigin, fault: Fault, overwrite: bool) -> None:
    """Where the answer was lost the object is there, and the upload is not any more: the writer sees that."""
    small.plan(PATH, None, fault, method="POST")
    stats = write(overwrite=overwrite).finalize()
    assert small.objects[PATH] == BODY
    assert small.uploads.pending == {}
    assert stats["etag"] == small.etags[PATH].strip('"')


@pytest.mark.parametrize("fault", [ResetInHead(), StallHead(30)], ids=["reset", "stall"])
def test_an_end_whose_answer_never_comes(small: FaultOrigin, fault: Fault) -> None:
    """The object is made: to call that a failure would be wrong."""
    small.plan(PATH, None, *[fault] * FOR_GOOD, method="POST")
    stats = write().finalize()
    assert small.objects[PATH] == BODY
    assert stats["etag"] == small.etags[PATH].strip('"')


@pytest.mark.parametrize("fault", [it for name, it in PASSING.items() if name != "400-timeout"])
def test_the_look_at_the_end_is_tried_again(small: FaultOrigin, fault: Fault) -> None:
    small.plan(PATH, fault, method="HEAD")
    write()
    assert small.objects[PATH] == BODY


@pytest.mark.parametrize("acts", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_an_error_behind_status_200_is_tried_again(small: FaultOrigin, acts: bool, count: int) -> None:
    """S3 answers 200 while it is still at work, and tells of a failure in the body."""
    told = Status(200, {"Content-Type": "application/xml"}, error_xml("InternalError", "Please try again."), acts)
    small.plan(PATH, None, *[told] * count, method="POST")
    write()
    assert small.objects[PATH] == BODY
    assert small.uploads.pending == {}


def test_parts_that_fail_out_of_order(small: FaultOrigin) -> None:
    """Many at once, some of which come again behind others: all bytes are in their places."""
    # Two faults, since the same part may suffer both, and three tries are made.
    busy, reset = s3_error(503, "SlowDown"), ResetInHead()
    small.plan_all(*[None] * 4, busy, *[None] * 7, reset, method="PUT")
    body = blob(30 * PART + 7)
    write(body=body, max_in_flight=8)
    assert small.objects[PATH] == body


@pytest.mark.parametrize("trouble", [Midway(MIB, 0, True), Midway(0, 0, True), Midway(MIB, 30)])
def test_a_part_that_breaks_off_on_its_way_is_sent_again(small: FaultOrigin, trouble: Midway) -> None:
    small.plan_midway("PUT", trouble)
    body = blob(16 * MIB + 1)  # more than fits into the sockets' buffers
    write(body=body, buffer_capacity=16 * MIB)
    assert small.objects[PATH] == body


# -- a server that fails for good ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "after"), [("POST", 0), ("PUT", 0), ("PUT", 2), ("POST", 1)], ids=["begin", "part", "last", "end"]
)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (s3_error(403, "AccessDenied"), AccessDeniedError),
        (s3_error(503, "SlowDown"), StoreUnavailableError),
        (s3_error(408, "RequestTimeout"), StoreTimeoutError),
        (GarbageHead(), StoreUnavailableError),
        (s3_error(400, "InvalidPart"), StoreError),
    ],
    ids=["denied", "busy", "late", "garbage", "bad"],
)
def test_what_fails_for_good_leaves_nothing(
    small: FaultOrigin, method: str, after: int, fault: Fault, kind: type[StoreError]
) -> None:
    small.plan(PATH, *[None] * after, *[fault] * FOR_GOOD, method=method)
    if (method, after) == ("POST", 1) and kind in {StoreUnavailableError, StoreTimeoutError}:
        small.plan(PATH, *[s3_error(404, "NoSuchKey")] * FOR_GOOD, method="HEAD")
    with pytest.raises(kind) as caught:
        write()
    assert type(caught.value) is kind
    assert (caught.value.uri, caught.value.operation) == (URI, "put")
    assert caught.value.__cause__ is not None
    assert "example-secret" not in str(caught.value)
    assert "AKID" not in str(caught.value)
    if (method, after) != ("POST", 0):
        assert small.uploads.pending == {}


def test_a_failed_part_stops_the_next_call_and_the_end(small: FaultOrigin) -> None:
    small.plan(PATH, None, None, *[s3_error(403, "AccessDenied")] * FOR_GOOD, method="PUT")
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, max_in_flight=2))
    writer.write(blob(3 * PART + 1))
    with pytest.raises(AccessDeniedError) as caught:
        _write_nothing_for_long(writer)
    nothing_is_left(small)
    for call in (lambda: writer.write(b"x"), writer.flush, writer.finalize):
        with pytest.raises(AccessDeniedError) as again:
            call()
        assert again.value is caught.value
    writer.cancel()
    deletes = [request for request in small.requests if request.method == "DELETE"]
    assert len(deletes) == 1


def _write_nothing_for_long(writer: s3dlio.ObjectWriter) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        writer.write(b"")
        time.sleep(0.01)


def test_a_final_error_behind_status_200(small: FaultOrigin) -> None:
    told = Status(200, {"Content-Type": "application/xml"}, error_xml("AccessDenied", "No."))
    small.plan(PATH, None, told, method="POST")
    with pytest.raises(StoreError, match="AccessDenied: No") as caught:
        write()
    assert caught.value.uri == URI
    nothing_is_left(small)


def test_an_error_behind_status_200_that_does_not_end(small: FaultOrigin) -> None:
    told = Status(200, {"Content-Type": "application/xml"}, error_xml("InternalError", "Please try again."))
    small.plan(PATH, None, *[told] * FOR_GOOD, method="POST")
    with pytest.raises(StoreUnavailableError, match="tried 3 times"):
        write()
    nothing_is_left(small)


@pytest.mark.parametrize("body", [b"", b"<what", b"<InitiateMultipartUploadResult/>", b"\xff" * 100])
def test_a_beginning_without_a_name(small: FaultOrigin, body: bytes) -> None:
    small.plan(PATH, *[Status(200, {"Content-Type": "application/xml"}, body)] * FOR_GOOD, method="POST")
    with pytest.raises(StoreError) as caught:
        write()
    assert caught.value.uri == URI
    assert PATH not in small.objects


def test_a_part_without_an_entity_tag(small: FaultOrigin) -> None:
    small.plan(PATH, *[Status(200)] * FOR_GOOD, method="PUT")
    with pytest.raises(StoreError, match=r"part 1.*no entity tag"):
        write()
    nothing_is_left(small)


@pytest.mark.parametrize("length", [len(BODY) - 1, len(BODY) + 1, 0])
def test_another_size_than_was_written(small: FaultOrigin, length: int) -> None:
    small.plan(PATH, Status(200, {"Content-Length": str(length)}), method="HEAD")
    with pytest.raises(IntegrityError, match=f"{length} bytes; {len(BODY)} bytes in 3 parts were sent") as caught:
        write()
    assert (caught.value.uri, caught.value.operation) == (URI, "put")


def test_another_number_of_parts_than_was_sent(small: FaultOrigin) -> None:
    told = {"Content-Length": str(len(BODY)), "ETag": f'"{"0" * 32}-2"'}
    small.plan(PATH, Status(200, told), method="HEAD")
    with pytest.raises(IntegrityError, match="in 2 parts"):
        write()


def test_who_may_write_and_not_look(small: FaultOrigin) -> None:
    """A look at the object needs a permission of its own, which writers often do not have."""
    small.plan(PATH, *[s3_error(403, "AccessDenied")] * FOR_GOOD, method="HEAD")
    stats = write().finalize()
    assert small.objects[PATH] == BODY
    assert stats["etag"] == small.etags[PATH].strip('"')


@pytest.mark.parametrize("heeds", [True, False])
def test_what_is_there_is_found_before_anything_is_sent(small: FaultOrigin, heeds: bool) -> None:
    small.heeds_last_condition = heeds
    small.objects[PATH] = b"theirs"
    with pytest.raises(AlreadyExistsError):
        write(overwrite=False)
    assert small.objects[PATH] == b"theirs"
    assert {request.method for request in small.requests} == {"HEAD"}


@pytest.mark.parametrize("heeds", [True, False])
def test_what_has_come_meanwhile_is_found_at_the_end(small: FaultOrigin, heeds: bool) -> None:
    """Also on a server that does not heed the condition, but for the moment between the look and the end."""
    small.heeds_last_condition = heeds
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, overwrite=False))
    writer.write(BODY)
    writer.flush()
    small.objects[PATH] = b"theirs"
    with pytest.raises(AlreadyExistsError):
        writer.finalize()
    assert small.objects[PATH] == b"theirs"
    assert small.uploads.pending == {}


def test_who_may_not_look_leaves_it_to_the_condition(small: FaultOrigin) -> None:
    small.objects[PATH] = b"theirs"
    small.plan(PATH, *[s3_error(403, "AccessDenied")] * FOR_GOOD, method="HEAD")
    with pytest.raises(AlreadyExistsError):
        write(overwrite=False)
    assert small.objects[PATH] == b"theirs"
    assert small.uploads.pending == {}


def test_somebody_else_has_aborted(small: FaultOrigin) -> None:
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, max_in_flight=1))
    writer.write(BODY)
    writer.flush()
    small.uploads.pending.clear()
    with pytest.raises(StoreError, match="NoSuchUpload"):
        writer.finalize()
    nothing_is_left(small)


def test_an_abort_that_fails_is_told(small: FaultOrigin) -> None:
    small.plan(PATH, *[s3_error(403, "AccessDenied")] * FOR_GOOD, method="DELETE")
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART))
    writer.write(BODY)
    with pytest.raises(AccessDeniedError):
        writer.cancel()
    with (
        pytest.raises(ZeroDivisionError) as caught,
        s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART)) as writer,
    ):
        _write_and_fail(writer)
    assert "could not be thrown away" in caught.value.__notes__[0]
    assert PATH not in small.objects


def _write_and_fail(writer: s3dlio.ObjectWriter) -> None:
    writer.write(BODY)
    raise ZeroDivisionError


# -- too many parts, sums, signatures -----------------------------------------------------------------


def test_more_parts_than_there_may_be(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Store, "limits", Limits(most_parts=4))
    write(body=blob(4 * PART))
    assert len(small.objects.pop(PATH)) == 4 * PART
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, max_in_flight=1))
    writer.write(blob(4 * PART))
    with pytest.raises(OptionError, match=r"more than 4 parts of 1,000 bytes; choose a larger part_size, e\.g\. 1 MiB"):
        writer.write(blob(PART + 1))
    # Who goes on nevertheless must not get an object that lacks what was refused.
    for call in (lambda: writer.write(b"x"), writer.finalize):
        with pytest.raises(OptionError, match="larger part_size"):
            call()
    nothing_is_left(small)


def test_ten_thousand_parts_of_the_usual_size() -> None:
    assert S3Store.limits == multipart.MULTIPART_LIMITS
    assert (S3Store.limits.most_parts, S3Store.limits.least_bytes) == (10_000, 5 * MIB)


def test_sums_are_sent_and_checked(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    told = [request.headers["x-amz-checksum-crc32c"] for request in small.requests if request.method == "PUT"]
    pieces = [BODY[start : start + PART] for start in range(0, len(BODY), PART)]
    assert told == [base64.b64encode(crc32c(piece).to_bytes(4, "big")).decode() for piece in pieces]
    monkeypatch.setattr("s3dlio.sender.crc32c_of_pieces", lambda *_: 7)
    del small.objects[PATH]
    for body in (BODY, b"small"):
        with pytest.raises(StoreError, match="BadDigest"):
            write(body=body)
        if body is BODY:
            nothing_is_left(small)
        monkeypatch.setattr("s3dlio.stores.rest.crc32c", lambda _data: 7)
    nothing_is_left(small)


def test_the_origin_is_one_for_boto3_too(small: FaultOrigin) -> None:
    """Else the tests here would hold the library against its own understanding of S3."""
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client(
        "s3", endpoint_url=small.endpoint_url, region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b",
    )  # fmt: skip
    place = {"Bucket": "bucket", "Key": "key"}
    name = client.create_multipart_upload(**place, ChecksumAlgorithm="CRC32C")["UploadId"]
    assert client.list_multipart_uploads(Bucket="bucket")["Uploads"][0]["UploadId"] == name
    told = {**place, "UploadId": name}
    with pytest.raises(ClientError, match="BadDigest"):
        client.upload_part(**told, PartNumber=1, Body=BODY[:PART], ChecksumCRC32C="AAAAAA==")
    parts = []
    for number, start in enumerate(range(0, len(BODY), PART), 1):
        piece = BODY[start : start + PART]
        known = base64.b64encode(crc32c(piece).to_bytes(4, "big")).decode()
        answer = client.upload_part(**told, PartNumber=number, Body=piece, ChecksumCRC32C=known)
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32C": known})
    for wrong in (parts[::-1], [{**parts[0], "ETag": '"0"'}], [{**parts[0], "ChecksumCRC32C": "AAAAAA=="}]):
        with pytest.raises(ClientError, match="InvalidPart"):
            client.complete_multipart_upload(**told, MultipartUpload={"Parts": wrong})
    client.complete_multipart_upload(**told, MultipartUpload={"Parts": parts})
    assert client.get_object(**place)["Body"].read() == BODY
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.abort_multipart_upload(**told)


def test_without_sums(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.buckets.add("bucket")
    options = impatient(origin.endpoint_url, upload_checksum=False)
    with MultipartUploadWriter.from_uri(URI, part_size=5 * MIB, options=options) as writer:
        writer.write(blob(6 * MIB))
    assert origin.objects[PATH] == blob(6 * MIB)
    assert not any("checksum" in name for request in origin.requests for name in request.headers)


@pytest.mark.parametrize("sign_payload", [True, False])
def test_signatures_are_right(rclone: S3Server, sign_payload: bool) -> None:
    import boto3

    bucket = unique("faults")
    client = boto3.client(
        "s3", endpoint_url=rclone.endpoint_url, region_name="us-east-1",
        aws_access_key_id=rclone.access_key, aws_secret_access_key=rclone.secret_key,
    )  # fmt: skip
    client.create_bucket(Bucket=bucket)
    keys = {"access_key_id": rclone.access_key, "region": "us-east-1", "endpoint_url": rclone.endpoint_url}
    options = s3dlio.StoreOptions(secret_access_key=rclone.secret_key, sign_payload=sign_payload, **keys)
    with MultipartUploadWriter.from_uri(f"s3://{bucket}/x y", part_size=5 * MIB, options=options) as writer:
        writer.write(blob(6 * MIB))
    assert client.get_object(Bucket=bucket, Key="x y")["Body"].read() == blob(6 * MIB)
    wrong = s3dlio.StoreOptions(secret_access_key="wrong" * 8, sign_payload=sign_payload, **keys)
    with pytest.raises(AccessDeniedError) as caught:
        _write_through(f"s3://{bucket}/z", wrong)
    assert "wrong" not in str(caught.value) + repr(pickle.dumps(caught.value))


def _write_through(uri: str, options: s3dlio.StoreOptions) -> None:
    with MultipartUploadWriter.from_uri(uri, part_size=5 * MIB, options=options) as writer:
        writer.write(blob(6 * MIB))


def test_nothing_is_pending_on_moto(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("faults")
    client = boto3.client("s3", endpoint_url=moto.endpoint_url)
    client.create_bucket(Bucket=bucket)
    uri = f"s3://{bucket}/x"
    writer = MultipartUploadWriter.from_uri(uri, part_size=5 * MIB)
    writer.write(blob(11 * MIB))
    writer.flush()
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    writer.abort()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert not s3dlio.exists(uri)


# -- this process -------------------------------------------------------------------------------------


def test_an_interrupted_call_aborts(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who catches Ctrl-C and goes on does not get an object with a hole."""
    small.plan(PATH, Latency(5), method="PUT")
    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, max_in_flight=1))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            writer.write(BODY)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for call in (lambda: writer.write(b"x"), writer.flush, writer.finalize):
        with pytest.raises(CancelledError, match="interrupted"):
            call()
    nothing_is_left(small)


def test_ctrl_c_between_the_parts_of_a_put_leaves_nothing(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_IN_PARTS_FROM", PART)
    monkeypatch.setattr(sender, "part_size", lambda _length, _limits: PART)
    send, sent = sender.Sender.send, []

    def interrupted(this: sender.Sender, *args: Any, **kwargs: Any) -> None:
        send(this, *args, **kwargs)
        sent.append(this)
        if len(sent) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sender.Sender, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        s3dlio.put(URI, BODY)
    assert len(sent) == 2
    nothing_is_left(small)


def test_a_thread_that_cannot_be_had_is_done_without(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.crew.Crew.start", lambda _self, job: job())
    write(max_in_flight=4)
    assert small.objects[PATH] == BODY


def test_ctrl_c_while_a_part_is_handed_over_does_not_hang(small: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: object, _job: object) -> None:
        raise KeyboardInterrupt

    writer = s3dlio.create_writer(URI, WriterOptions(buffer_capacity=PART, max_in_flight=1))
    monkeypatch.setattr("s3dlio.crew.Crew.start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write(BODY)
    nothing_is_left(small)


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_a_forked_child_can_neither_write_nor_abort(small: FaultOrigin, tmp_path: Path, scheme: str) -> None:
    uri = URI if scheme == "s3" else f"file://{tmp_path}/x"
    with s3dlio.create_writer(uri, WriterOptions(buffer_capacity=PART, max_in_flight=2)) as writer:
        writer.write(BODY[:-10])

        def work() -> None:
            nonlocal writer
            for call in (lambda: writer.write(b"x"), writer.flush, writer.finalize):
                with pytest.raises(ForkError, match="process that made it"):
                    call()
            writer.cancel()
            writer = s3dlio.create_writer(f"{uri}-child", WriterOptions(buffer_capacity=PART))
            writer.write(BODY)
            writer.finalize()

        in_child(work)
        writer.write(BODY[-10:])
    assert s3dlio.get(uri) == BODY == s3dlio.get(f"{uri}-child")
    assert small.uploads.pending == {}


# -- other processes ----------------------------------------------------------------------------------


def run(code: str, *words: str, **env: str) -> subprocess.Popen[str]:
    """Starts a program."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for a program's end: its exit status, and what it printed."""
    try:
        out, err = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    return process.returncode, out, err


_WRITING = """
import sys, time
import s3dlio
writer = s3dlio.MultipartUploadWriter.from_uri(sys.argv[1], part_size=5 << 20, max_in_flight=2)
writer.write(bytes(11 << 20))
writer.flush()
print("written", flush=True)
"""


@contextlib.contextmanager
def _pending(moto: MotoServer) -> Iterator[tuple[str, Callable[[], int]]]:
    import boto3

    bucket = unique("faults")
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("s3", endpoint_url=moto.endpoint_url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    yield f"s3://{bucket}/x", lambda: len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "1 / 0",
        "import weakref; raise SystemExit",
        "del writer; import gc; gc.collect()",
    ],
    ids=["end", "exit", "error", "system-exit", "dropped"],
)
def test_the_interpreters_end_aborts(moto: MotoServer, end: str) -> None:
    # A finalizer of somebody else's, made first, lets finalizers run after the library's own exit hook.
    first = "import weakref\nclass Thing: pass\nthing = Thing()\nweakref.finalize(thing, print)\n"
    with _pending(moto) as (uri, count):
        code, out, err = finished(run(first + _WRITING + end, uri, **moto.env))
        assert out.startswith("written")
        assert code == {"sys.exit(3)": 3, "1 / 0": 1}.get(end, 0), err
        assert count() == 0


@pytest.mark.parametrize("as_context", [True, False])
def test_ctrl_c_aborts(moto: MotoServer, as_context: bool) -> None:
    block = "with writer:\n    while True:\n        writer.write(bytes(1 << 20))\n        time.sleep(0.01)\n"
    loose = "while True:\n    writer.write(bytes(1 << 20))\n    time.sleep(0.01)\n"
    with _pending(moto) as (uri, count):
        process = run(_WRITING + (block if as_context else loose), uri, **moto.env)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert count() == 1
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        code, _, err = finished(process)
        assert code == -signal.SIGINT, err
        assert err.strip().endswith("KeyboardInterrupt")
        assert count() == 0


def test_without_abort_on_drop_the_upload_stays(moto: MotoServer) -> None:
    import boto3

    code = _WRITING.replace("max_in_flight=2", "abort_on_drop=False")
    bucket = unique("faults")
    client = boto3.client(
        "s3", endpoint_url=moto.endpoint_url, region_name="us-east-1",
        aws_access_key_id="testing", aws_secret_access_key="testing",
    )  # fmt: skip
    client.create_bucket(Bucket=bucket)
    assert finished(run(code, f"s3://{bucket}/x", **moto.env))[0] == 0
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    client.abort_multipart_upload(Bucket=bucket, Key="x", UploadId=left["UploadId"])


def test_a_kill_leaves_no_object(moto: MotoServer, tmp_path: Path) -> None:
    with _pending(moto) as (uri, _):
        for target, env in ((uri, moto.env), (f"file://{tmp_path}/x", {})):
            process = run(_WRITING + "time.sleep(60)", target, **env)
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            process.kill()
            finished(process)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.")
    assert s3dlio.list(f"file://{tmp_path}/") == []


_FILLING = """
import resource, sys
import s3dlio
resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, 12 << 20))
try:
    with s3dlio.MultipartUploadWriter.from_uri(sys.argv[1], part_size=5 << 20, max_in_flight=2) as writer:
        for _ in range(20):
            writer.write(bytes(1 << 20))
except s3dlio.StoreError as error:
    assert error.uri == sys.argv[1] and error.operation == "put", error
    print(error)
"""


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, scheme: str) -> None:
    with real_disk(tmp_path) as folder:
        code, out, err = finished(run(_FILLING, f"{scheme}://{folder}/sub/x"))
        assert (code, err) == (0, "")
        assert "File too large" in out
        assert list((folder / "sub").iterdir()) == []


_STREAMING = """
import sys, time
import s3dlio

def memory(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) // 1024

uri, total = sys.argv[1], int(sys.argv[2])
source = bytes(range(256)) * 4096
with s3dlio.create_writer(uri + "-first") as writer:
    writer.write(b"x")
before = memory("VmRSS")
writer = s3dlio.MultipartUploadWriter.from_uri(uri, part_size=16 << 20, max_in_flight=4)
with writer:
    for number in range(total):
        writer.write(source)
        if number == total // 20:
            writer.flush()
            print("begun", flush=True)
            sys.stdin.readline()
assert writer.info.total_bytes == total << 20
print(memory("VmHWM") - before, flush=True)
"""


def test_a_long_stream_needs_little_memory(tmp_path: Path) -> None:
    """A GiB at parts of 16 MiB, four of them at once; what is written leaves before a twentieth of it was."""
    from benchmarks.sink import Sink

    with Sink.started() as sink:
        env = {"AWS_ENDPOINT_URL": sink.endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        process = run(_STREAMING, "s3://bench/x", "1024", AWS_REGION="us-east-1", **env)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "begun\n"
        assert sink.totals()["part_bytes"] >= 48 * MIB
        code, out, err = finished(process)
        assert (code, err) == (0, "")
        assert int(out) <= 16 * 5 + 64
        assert sink.totals()["objects"]["/bench/x"] == 1024 * MIB
