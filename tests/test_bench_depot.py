"""Room card: does the benchmarks' own S3 server keep what it is given, and do the checkpoint works see a wrong byte?

Asked by the library, by boto3 and by a bare connection: what one client leaves out, another one sends.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import torch
from botocore.exceptions import ClientError

import s3dlio
from benchmarks import dcp_works, depot
from benchmarks.depot import THROWN, Depot
from benchmarks.worker import Job, Manifest, Proof, WrongBytesError
from s3dlio.torch import S3StorageReader, S3StorageWriter
from tests.contract_base import blob

MIB = 1 << 20
_KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A depot that this process's clients find."""
    with Depot.started() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield server.endpoint
        assert server.trouble == []


@pytest.fixture
def client(endpoint: str) -> Iterator[Any]:
    found = boto3.client("s3", endpoint_url=endpoint, **_KEYS)  # type: ignore[call-overload]
    yield found
    found.close()


def _by_parts(client: Any, key: str, parts: list[bytes]) -> None:
    """Send parts, the last one first."""
    number = client.create_multipart_upload(Bucket="bench", Key=key)["UploadId"]
    told = {}
    for at in reversed(range(len(parts))):
        answer = client.upload_part(Bucket="bench", Key=key, UploadId=number, PartNumber=at + 1, Body=parts[at])
        told[at] = {"PartNumber": at + 1, "ETag": answer["ETag"]}
    client.complete_multipart_upload(
        Bucket="bench", Key=key, UploadId=number, MultipartUpload={"Parts": [told[at] for at in range(len(parts))]}
    )


@pytest.mark.usefixtures("endpoint")
def test_what_the_library_puts_comes_back_whole_and_by_ranges() -> None:
    data = blob(40 * MIB)
    s3dlio.put("s3://bench/a/long", data)
    s3dlio.put("s3://bench/a/short & <sweet>", b"short")
    assert bytes(s3dlio.get("s3://bench/a/long")) == data
    assert sorted(s3dlio.list("s3://bench/a/", recursive=True)) == ["s3://bench/a/long", "s3://bench/a/short & <sweet>"]
    assert s3dlio.stat("s3://bench/a/long")["size"] == len(data)
    s3dlio.delete(["s3://bench/a/long", "s3://bench/a/short & <sweet>"])
    assert list(s3dlio.list("s3://bench/a/", recursive=True)) == []


def test_a_range_reaches_over_parts_that_came_in_any_order(client: Any) -> None:
    parts = [blob(5 * MIB + 7), blob(6 * MIB), blob(3)]
    whole = b"".join(parts)
    _by_parts(client, "parts", parts)
    for start, stop in ((0, 1), (5 * MIB, 11 * MIB + 5), (len(whole) - 5, len(whole))):
        answer = client.get_object(Bucket="bench", Key="parts", Range=f"bytes={start}-{stop - 1}")
        assert answer["Body"].read() == whole[start:stop]
        assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert client.get_object(Bucket="bench", Key="parts", Range="bytes=-4")["Body"].read() == whole[-4:]
    with pytest.raises(ClientError, match="InvalidRange"):
        client.get_object(Bucket="bench", Key="parts", Range=f"bytes={len(whole)}-")


def test_parts_that_do_not_fit_make_no_object(client: Any) -> None:
    with pytest.raises(ClientError, match="EntityTooSmall"):
        _by_parts(client, "small-parts", [b"short", b"short"])
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket="bench", Key="small-parts")


def test_a_copy_outlives_what_it_was_made_of(client: Any) -> None:
    client.put_object(Bucket="bench", Key="x/old name", Body=b"content")
    client.copy_object(Bucket="bench", Key="x/new", CopySource={"Bucket": "bench", "Key": "x/old name"})
    client.delete_object(Bucket="bench", Key="x/old name")
    assert client.get_object(Bucket="bench", Key="x/new")["Body"].read() == b"content"
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.copy_object(Bucket="bench", Key="y", CopySource={"Bucket": "bench", "Key": "x/old name"})
    told = client.list_objects_v2(Bucket="bench", Delimiter="/")
    assert [each["Prefix"] for each in told["CommonPrefixes"]] == ["x/"]


def test_a_framed_body_is_kept_without_its_frame(endpoint: str) -> None:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    framed = b"5;chunk-signature=0\r\nfirst\r\n6\r\nsecond\r\n0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n"
    fields = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": "11"}
    connection.request("PUT", "/bench/framed", framed, fields)
    assert connection.getresponse().status == 200
    connection.close()
    with urllib.request.urlopen(f"{endpoint}/bench/framed") as answer:
        assert answer.read() == b"firstsecond"


def test_a_put_that_must_not_replace_is_refused(client: Any) -> None:
    client.put_object(Bucket="bench", Key="once", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="bench", Key="once", Body=b"second", IfNoneMatch="*")
    assert client.get_object(Bucket="bench", Key="once")["Body"].read() == b"first"


def test_what_is_long_can_be_thrown_away_and_is_not_made_up(client: Any) -> None:
    client.put_object(Bucket="bench", Key=f"{THROWN}long", Body=blob(2 * MIB))
    client.put_object(Bucket="bench", Key=f"{THROWN}short", Body=b"kept")
    assert client.get_object(Bucket="bench", Key=f"{THROWN}short")["Body"].read() == b"kept"
    assert client.head_object(Bucket="bench", Key=f"{THROWN}long")["ContentLength"] == 2 * MIB
    connection = http.client.HTTPConnection(client.meta.endpoint_url.removeprefix("http://"))
    connection.request("GET", f"/bench/{THROWN}long")
    answer = connection.getresponse()
    assert (answer.status, b"ThrownAway" in answer.read()) == (500, True)
    connection.close()


def test_after_a_clear_nothing_is_there(client: Any) -> None:
    client.put_object(Bucket="bench", Key="x", Body=b"content")
    depot.clear(client.meta.endpoint_url)
    assert client.list_objects_v2(Bucket="bench")["KeyCount"] == 0


def _job(endpoint: str, does: str) -> Job:
    # A proof is of a quarter: two tensors.
    proof = Proof(Manifest(0, 0, [], 0, 0), 0)
    return Job(endpoint, proof.manifest, {"tensors": 8, "does": does, "on": "s3"}, {}, proof)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("does", ["save", "load"])
def test_a_pass_brings_every_byte_and_leaves_nothing(endpoint: str, client: Any, does: str) -> None:
    job = _job(endpoint, does)
    haul = dcp_works.OURS_WORKS["dcp_ours"](job)()
    assert job.proof is not None
    assert job.proof.whole
    assert (haul.ops, haul.bytes) == (2, 128 * MIB)
    assert haul.extra["baseline_rss_bytes"] >= 128 * MIB  # the tensors were there before the clock
    assert client.list_objects_v2(Bucket="bench")["KeyCount"] == 0


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_pass_that_brings_one_wrong_word_is_refused(endpoint: str) -> None:
    import torch.distributed.checkpoint as dcp

    def load(where: str, state: dict[str, Any]) -> None:
        dcp.load(state, storage_reader=S3StorageReader(where))
        state["layer1"].view(torch.int32)[4095, 4095] += 1

    def save(where: str, state: dict[str, Any]) -> None:
        dcp.save(state, storage_writer=S3StorageWriter(where))

    with pytest.raises(WrongBytesError, match="layer1"):
        dcp_works.prepare(lambda _job: (save, load), _job(endpoint, "load"))()
