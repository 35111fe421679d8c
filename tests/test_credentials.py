"""Room card: who we are to S3: keys, profiles, processes, roles, nobody; and how credentials are kept fresh.

Knows the files and variables that botocore reads, and moto's security token service.  Must not test signatures.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import AccessDeniedError, ObjectStore, OptionError, StoreError, StoreOptions
from s3dlio.stores import credentials, open_store
from s3dlio.stores.credentials import AwsIdentity
from s3dlio.stores.s3 import S3Store
from s3dlio.stores.sigv4 import KeyPair
from s3dlio.uri import parse
from tests.contract_base import in_child

if TYPE_CHECKING:
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer

# Prints what the file named by its first argument says, and notes that it was asked.
_HELPER = """
import sys
with open(sys.argv[1] + ".asked", "a") as log:
    log.write("x")
print(open(sys.argv[1]).read())
"""


class Helper:
    """A program that botocore asks for credentials, as companies give them to their people."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "helper.py"
        self._program.write_text(_HELPER)
        self._answer = folder / "answer.json"
        self._log = folder / "answer.json.asked"

    @property
    def asked(self) -> int:
        """How often it was asked."""
        return len(self._log.read_text()) if self._log.exists() else 0

    @property
    def profile(self) -> str:
        """The profile that names it."""
        return f"[default]\ncredential_process = {sys.executable} {self._program} {self._answer}\n"

    def say(self, access_key: str, secret_key: str, *, minutes: float = 600, token: str = "") -> None:
        """Sets what it answers from now on."""
        until = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
        answer = {"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key}
        answer |= {"SessionToken": token, "Expiration": until.isoformat()}
        self._answer.write_text(json.dumps(answer))


@pytest.fixture
def helper(tmp_path: Path, config: Path) -> Helper:
    """A credential process, named by the default profile."""
    helper = Helper(tmp_path)
    config.write_text(helper.profile)
    return helper


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The AWS configuration file."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def bucket(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with an object ``x`` on a server that checks signatures, and nothing yet to sign with."""
    rclone.make_bucket("identity")
    with rclone.activate():
        s3dlio.put("s3://identity/x", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", rclone.endpoint_url)
    return "s3://identity/"


# -- where they come from -----------------------------------------------------------------------------


def test_given_keys_win_over_everything(bucket: str, rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDeniedError):
        s3dlio.get(f"{bucket}x")
    options = StoreOptions(access_key_id=rclone.access_key, secret_access_key=rclone.secret_key)
    assert ObjectStore(options).get(f"{bucket}x") == b"x"


def test_keys_come_from_the_credentials_file(
    bucket: str, rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = f"aws_access_key_id = {rclone.access_key}\naws_secret_access_key = {rclone.secret_key}\n"
    wrong = "aws_access_key_id = wrong\naws_secret_access_key = wrong\n"
    (tmp_path / "credentials").write_text(f"[default]\n{wrong}[work]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(AccessDeniedError):
        s3dlio.get(f"{bucket}x")
    assert ObjectStore(StoreOptions(profile="work")).get(f"{bucket}x") == b"x"
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert s3dlio.get(f"{bucket}x") == b"x"


def test_a_missing_profile_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="no AWS profile 'nobody'"):
        ObjectStore(StoreOptions(profile="nobody")).get(f"{bucket}x")
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    with pytest.raises(OptionError, match="no AWS profile 'somebody'"):
        s3dlio.get(f"{bucket}x")


def test_a_file_that_cannot_be_read_is_named(bucket: str, config: Path) -> None:
    config.write_text("this is no configuration\n")
    with pytest.raises(OptionError, match="config"):
        s3dlio.get(f"{bucket}x")


@pytest.mark.parametrize("token", ["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", ""])
def test_keys_of_the_environment_are_those_that_botocore_finds(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "spam")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "eggs")
    for name in ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "ham")
        monkeypatch.setenv(token, "bacon")
    frozen = credentials.aws_session(None).get_credentials().get_frozen_credentials()
    monkeypatch.setattr(credentials, "aws_session", None)  # is not asked
    pair = AwsIdentity(StoreOptions()).current()
    assert pair == KeyPair(frozen.access_key, frozen.secret_key, frozen.token or "")
    assert pair == KeyPair("spam", "eggs", "bacon" if token else "")


def test_keys_of_the_environment_that_end_are_left_to_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "spam")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "eggs")
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ended.isoformat())
    with pytest.raises(AccessDeniedError, match="cannot be renewed"):
        AwsIdentity(StoreOptions()).current()


def test_without_files_nobody_looks_for_settings_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with monkeypatch.context() as nobody:
        nobody.setattr(credentials, "aws_session", None)
        assert not any(credentials.aws_settings(None))
    config.write_text("[default]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:1\n")
    assert credentials.aws_settings(None)[:2] == ("eu-north-1", "http://127.0.0.1:1")


def test_half_a_key_pair_is_refused(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = half\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(AccessDeniedError, match="aws_secret_access_key"):
        s3dlio.get(f"{bucket}x")


def test_without_credentials_the_error_says_what_to_set(bucket: str) -> None:
    for verb in (s3dlio.get, s3dlio.exists, s3dlio.list, lambda uri: s3dlio.get_many([uri, uri])):
        with pytest.raises(AccessDeniedError, match=r"AWS_ACCESS_KEY_ID.*AWS_PROFILE.*anonymous=True"):
            verb(f"{bucket}x")


@pytest.mark.parametrize("by", ["option", "variable"])
def test_an_anonymous_request_is_not_signed(by: str, origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.objects["/b/x"] = b"x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    if by == "variable":
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = ObjectStore(StoreOptions(anonymous=by == "option"))
    assert store.get("s3://b/x") == b"x"
    assert store.get_many(["s3://b/x"] * 2)[1][1] == b"x"
    assert len(origin.requests) == 3
    for request in origin.requests:
        assert "authorization" not in request.headers
        assert "host" in request.headers


@pytest.mark.parametrize("by", ["option", "variable"])
def test_who_asks_pays_when_told_to(by: str, origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.objects.update({f"/b/{number}": b"x" * 100 for number in range(40)})
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    if by == "variable":
        monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    keys = {"access_key_id": "spam", "secret_access_key": "eggs"}
    store = ObjectStore(StoreOptions(requester_pays=by == "option", max_attempts=1, **keys))
    store.get("s3://b/0")
    assert store.exists("s3://b/1")
    assert [data for _, data in store.get_many([f"s3://b/{number}" for number in range(40)])] == [b"x" * 100] * 40
    for verb in (store.list, store.delete, lambda uri: store.put(uri, b"spam")):
        with contextlib.suppress(StoreError):
            verb("s3://b/2")
    assert {"GET", "HEAD", "PUT", "DELETE"} <= {request.method for request in origin.requests}
    for request in origin.requests:
        assert request.headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in request.headers["authorization"]
    where = parse("s3://b/0")
    assert "x-amz-request-payer=requester" in open_store(where, store.options).presigned(where, 60)


def test_nobody_pays_unless_told_to(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.objects["/b/x"] = b"x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    store = ObjectStore(StoreOptions(access_key_id="spam", secret_access_key="eggs"))
    assert store.get_many(["s3://b/x"] * 3)[2][1] == b"x"
    assert not [request for request in origin.requests if "x-amz-request-payer" in request.headers]


# -- how they are kept fresh ----------------------------------------------------------------------------


def test_lasting_credentials_are_asked_for_once(bucket: str, rclone: S3Server, helper: Helper) -> None:
    helper.say(rclone.access_key, rclone.secret_key)
    for _ in range(3):
        assert s3dlio.get_many([f"{bucket}x"] * 20)[-1][1] == b"x"
    assert helper.asked == 1


def test_credentials_are_renewed_before_they_end(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "_RECHECK_S", 0.0)
    identity = AwsIdentity(StoreOptions())
    helper.say("first", "secret", minutes=5, token="t1")
    assert identity.current() == KeyPair("first", "secret", "t1")
    helper.say("second", "secret", token="t2")
    assert identity.current() == KeyPair("second", "secret", "t2")
    assert identity.current() == KeyPair("second", "secret", "t2")
    assert helper.asked == 3  # botocore asks twice for what ends soon
    assert "secret" not in caplog.text


def test_credentials_are_looked_at_once_a_second(helper: Helper) -> None:
    identity = AwsIdentity(StoreOptions())
    helper.say("first", "secret", minutes=5)
    identity.current()
    asked = helper.asked
    assert {identity.current() for _ in range(50)} == {KeyPair("first", "secret")}
    assert helper.asked == asked


def test_threads_that_begin_at_once_ask_once(helper: Helper) -> None:
    helper.say("first", "secret")
    identity = AwsIdentity(StoreOptions())
    barrier = threading.Barrier(12)
    found: list[KeyPair | None] = []

    def work() -> None:
        barrier.wait(60)
        found.append(identity.current())
        barrier.wait(60)
        identity.renew()
        found.append(identity.current())

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert found == [KeyPair("first", "secret")] * 24
    assert helper.asked == 2


def test_refused_credentials_are_renewed_once(bucket: str, rclone: S3Server, helper: Helper) -> None:
    helper.say(rclone.access_key, "wrong" * 8)
    with pytest.raises(AccessDeniedError):
        s3dlio.get(f"{bucket}x")
    assert helper.asked == 2
    helper.say(rclone.access_key, rclone.secret_key)
    assert s3dlio.get(f"{bucket}x") == b"x"
    assert helper.asked == 3


def test_a_batch_goes_on_with_renewed_credentials(bucket: str, rclone: S3Server, helper: Helper) -> None:
    store = open_store(bucket)
    assert isinstance(store, S3Store)
    helper.say(rclone.access_key, "ended" * 8)
    assert store._identity.current() == KeyPair(rclone.access_key, "ended" * 8)
    helper.say(rclone.access_key, rclone.secret_key)
    assert [view for _, view in s3dlio.get_many([f"{bucket}x"] * 50)] == [b"x"] * 50
    assert helper.asked == 2


def test_credentials_that_cannot_be_renewed_are_an_error(bucket: str, config: Path) -> None:
    config.write_text(f"[default]\ncredential_process = {sys.executable} -c exit(3)\n")
    with pytest.raises(AccessDeniedError, match="cannot be renewed"):
        s3dlio.get(f"{bucket}x")


def test_a_role_is_assumed(moto: MotoServer, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        "[profile base]\naws_access_key_id = base\naws_secret_access_key = base\n"
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint_url)
    pair = AwsIdentity(StoreOptions(profile="role")).current()
    assert pair is not None
    assert pair.access_key not in ("", "base")
    assert pair.token


def test_a_forked_child_finds_its_own_credentials(bucket: str, rclone: S3Server, helper: Helper) -> None:
    helper.say(rclone.access_key, rclone.secret_key)
    assert s3dlio.get(f"{bucket}x") == b"x"

    def work() -> None:
        assert s3dlio.get(f"{bucket}x") == b"x"
        assert AwsIdentity(StoreOptions()).current() is not None

    in_child(work)
