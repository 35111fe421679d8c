"""Room card: the doctor: does it name the right step, the right cause and the right remedy?

Every way in which a set-up goes wrong is set up, on servers that misbehave on demand.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

import s3dlio
from s3dlio.cli import checks, diagnosis
from s3dlio.cli.app import run
from s3dlio.cli.doctor import without_password
from s3dlio.errors import StoreTimeoutError
from s3dlio.options import StoreOptions
from s3dlio.stores.whose import masked, whose
from tests.servers.fault_kinds import GarbageHead, Status, s3_error

if TYPE_CHECKING:
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin
    from tests.servers.gcs import GcsServer
    from tests.servers.tls import Ca

SECRET = "OPENSESAMEsecret"
KEY_ID = "AKIDEXAMPLE1WXYZ"


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def examine(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Returns exit code, steps, and settings by name."""
    code = run(["doctor", "--json", *words])
    told = json.loads(capfd.readouterr().out)
    assert SECRET not in json.dumps(told)
    return code, told["steps"], {part["name"]: part for part in told["settings"]}


def steps_of(origin_url: str, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    return examine(capfd, "s3://bucket/p/", "--endpoint-url", origin_url, *words)[:2]


# -- all is well --------------------------------------------------------------------------------------


def test_a_healthy_server_passes_every_step(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://doctor-{os.urandom(6).hex()}"
    s3dlio.create_bucket(bucket)
    code, steps, settings = examine(capfd, f"{bucket}/p/", "--write")
    assert [step["step"] for step in steps] == [
        "settings",
        "resolve",
        "connect",
        "answer",
        "list",
        "put",
        "get",
        "delete",
    ]
    assert (code, {step["ok"] for step in steps}, {step["advice"] for step in steps}) == (0, {True}, {""})
    assert s3dlio.list(f"{bucket}/") == []
    assert settings["s3:// endpoint"] == {
        "name": "s3:// endpoint", "value": rclone.endpoint_url, "source": "AWS_ENDPOINT_URL"
    }  # fmt: skip
    assert settings["s3:// region"]["source"] == "AWS_REGION"
    credentials = settings["s3:// credentials"]
    assert credentials["source"] == "environment variables"
    assert credentials["value"] == masked(rclone.access_key)


def test_a_healthy_azure_passes_every_step(
    azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    s3dlio.create_bucket("az://doctor")
    code, steps, settings = examine(capfd, "az://doctor/", "--write")
    assert (code, [step["advice"] for step in steps if step["advice"]]) == (0, [])
    assert settings["az:// credentials"]["source"] == "shared key"
    assert azurite.key not in json.dumps(settings)


def test_a_healthy_gcs_passes_every_step(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint_url)
    s3dlio.create_bucket("gs://doctor")
    code, steps, settings = examine(capfd, "gs://doctor/", "--write")
    assert (code, [step for step in steps if not step["ok"]]) == (0, [])
    assert settings["gs:// endpoint"]["source"] == "STORAGE_EMULATOR_HOST"


def test_a_directory_passes_its_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, steps, _ = examine(capfd, str(tmp_path), "--write")
    assert (code, [step["step"] for step in steps]) == (0, ["settings", "list", "put", "get", "delete"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_uri_it_shows_what_is_in_effect(capfd: pytest.CaptureFixture[str]) -> None:
    code, steps, settings = examine(capfd)
    assert (code, steps) == (0, [])
    assert settings["s3dlio"]["value"] == s3dlio.__version__
    assert "click" in settings["extras"]["value"]
    assert "MISSING" not in settings["needs"]["value"]
    assert {
        f"{family}:// {what}" for family in ("s3", "gs", "az") for what in ("endpoint", "proxy", "credentials")
    } <= {*settings}


def test_people_are_shown_steps_and_advice(origin: FaultOrigin, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "s3://bucket/", "--endpoint-url", origin.endpoint_url]) == 1
    out, err = capfd.readouterr()
    assert "ok      connect" in out
    assert "FAILED  list" in out
    assert "-> there is no such bucket" in out
    assert not err


# -- what goes wrong on the way -----------------------------------------------------------------------


def failure(done: tuple[int, list[dict[str, Any]]]) -> tuple[str, str]:
    """Returns the step that failed, which must be the last, and its advice."""
    code, steps = done
    assert code == 1
    assert [step["ok"] for step in steps[:-1]] == [True] * (len(steps) - 1)
    assert steps[-1]["ok"] is False
    return steps[-1]["step"], steps[-1]["advice"]


def test_a_host_without_address(capfd: pytest.CaptureFixture[str]) -> None:
    step, advice = failure(steps_of("http://nowhere..invalid", capfd))
    assert step == "resolve"
    assert "no such host" in advice


def test_a_port_that_nobody_listens_on(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    step, advice = failure(steps_of(f"http://127.0.0.1:{port}", capfd))
    assert step == "connect"
    assert "nothing listens there" in advice


def test_a_certificate_of_a_stranger(
    tls_origin: FaultOrigin, ca: Ca, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_origin.buckets.add("bucket")
    url = tls_origin.endpoint_url.replace("127.0.0.1", "localhost")
    step, advice = failure(steps_of(url, capfd))
    assert step == "TLS"
    assert "AWS_CA_BUNDLE" in advice
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.ca_path))
    code, steps = steps_of(url, capfd)
    assert (code, steps[3]["detail"][:3]) == (0, "TLS")


@pytest.mark.parametrize("name", ["rclone", "origin"])
def test_tls_where_there_is_none(
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,  # the one says that it speaks no TLS, the other nothing
) -> None:
    monkeypatch.setattr(checks, "_PATIENCE", StoreOptions(max_attempts=1, connect_timeout_s=0.5))
    server = request.getfixturevalue(name)
    step, advice = failure(steps_of(server.endpoint_url.replace("http:", "https:"), capfd))
    assert step == "TLS"
    assert "http://" in advice


def test_a_server_that_speaks_something_else(origin: FaultOrigin, capfd: pytest.CaptureFixture[str]) -> None:
    origin.plan_all(*[GarbageHead()] * 9)
    step, advice = failure(steps_of(origin.endpoint_url, capfd))
    assert step == "answer"
    assert "not HTTP" in advice


def test_a_server_that_never_answers(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_PATIENCE", StoreOptions(max_attempts=1, read_timeout_s=0.3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        step, advice = failure(steps_of(f"http://127.0.0.1:{server.getsockname()[1]}", capfd))
    assert step == "answer"
    assert "no answer" in advice


@pytest.mark.parametrize(("offset_s", "code", "said"), [(5, 0, ""), (300, 0, "clock"), (-4000, 1, "clock")])
def test_a_clock_that_is_wrong(
    origin: FaultOrigin, capfd: pytest.CaptureFixture[str], offset_s: int, code: int, said: str
) -> None:
    origin.buckets.add("bucket")
    there = format_datetime(datetime.now(UTC) + timedelta(seconds=offset_s), usegmt=True)
    origin.plan_all(Status(403, {"Date": there}), method="HEAD")
    done, steps = steps_of(origin.endpoint_url, capfd)
    (answer,) = [step for step in steps if step["step"] == "answer"]
    assert (done, answer["ok"]) == (code, code == 0)
    assert said in answer["advice"]
    assert bool(said) == bool(answer["advice"])


# -- what the server says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "have expired"),
        (403, "InvalidAccessKeyId", "does not know the key id"),
        (403, "SignatureDoesNotMatch", "secret does not belong"),
        (403, "AccessDenied", "forbids this"),
        (404, "NoSuchBucket", "no such bucket"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (301, "PermanentRedirect", "region"),
        (503, "SlowDown", "try again later"),
        (500, "InternalError", "try again later"),
        (405, "", "no object store"),
        (404, "", "no object store"),
        (403, "", "without a reason"),
        (407, "", "the proxy wants"),
    ],
)
def test_what_the_server_refuses(
    origin: FaultOrigin, capfd: pytest.CaptureFixture[str], status: int, code: str, said: str
) -> None:
    fault = s3_error(status, code) if code else Status(status, {}, b"<html>no</html>")
    origin.plan_all(*[fault] * 9, method="GET")
    step, advice = failure(steps_of(origin.endpoint_url, capfd))
    assert step == "list"
    assert said in advice


def test_a_bucket_in_another_region_is_named(origin: FaultOrigin, capfd: pytest.CaptureFixture[str]) -> None:
    origin.buckets.add("bucket")
    origin.plan_all(s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-9"), method="GET")
    code, steps = steps_of(origin.endpoint_url, capfd)
    assert code == 0
    assert "lives in eu-west-9, not us-east-1" in steps[-1]["advice"]


def test_who_may_read_and_not_write(origin: FaultOrigin, capfd: pytest.CaptureFixture[str]) -> None:
    origin.buckets.add("bucket")
    origin.plan_all(*[s3_error(403, "AccessDenied")] * 9, method="PUT")
    step, advice = failure(steps_of(origin.endpoint_url, capfd, "--write"))
    assert step == "put"
    assert "forbids" in advice


def test_bytes_that_come_back_changed_are_noticed_and_taken_away(
    origin: FaultOrigin, capfd: pytest.CaptureFixture[str]
) -> None:
    origin.buckets.add("bucket")
    html = Status(206, {"Content-Range": "bytes 0-12/13"}, b"not your byte")
    origin.plan_all(None, *[html] * 3, method="GET")
    step, _ = failure(steps_of(origin.endpoint_url, capfd, "--write"))
    assert step == "get"
    assert origin.objects == {}


def test_no_credentials_and_no_profile(
    origin: FaultOrigin, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, steps, settings = examine(capfd, "s3://bucket/", "--endpoint-url", origin.endpoint_url)
    assert (code, steps[-1]["step"], settings["s3:// credentials"]["value"]) == (1, "list", "none")
    assert "AWS_ACCESS_KEY_ID" in steps[-1]["detail"]
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    code, steps, _ = examine(capfd, "s3://bucket/", "--endpoint-url", origin.endpoint_url)
    assert (code, steps[-1]["step"]) == (1, "settings")
    assert "'nobody'" in steps[-1]["detail"]


def test_a_malformed_variable_is_named(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_RANGE_CONCURRENCY", "many")
    code, steps, settings = examine(capfd, "s3://bucket/")
    assert (code, steps[-1]["step"]) == (1, "settings")
    assert "S3DLIO_RANGE_CONCURRENCY" in settings["s3:// settings"]["value"]


# -- what is in effect --------------------------------------------------------------------------------


def test_temporary_keys_of_a_profile_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = f"[lab]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\naws_session_token={SECRET}\n"
    (tmp_path / "credentials").write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert whose("s3", StoreOptions()) == ("shared credentials file", "AKID...WXYZ", "profile lab, temporary")


def test_an_azure_signature_tells_its_end_and_nothing_else() -> None:
    options = StoreOptions(account="acme", sas_token=f"sv=1&se=2030-01-01&sig={SECRET}")
    assert whose("az", options) == ("shared access signature", "acme", "until 2030-01-01")


def test_a_proxy_is_shown_without_its_password(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:1")
    code, steps, settings = examine(capfd, "s3://bucket/", "--region", "eu-north-7")
    assert (settings["s3:// proxy"]["value"], settings["s3:// proxy"]["source"]) == (
        "http://***@127.0.0.1:1",
        "HTTPS_PROXY",
    )
    assert settings["s3:// region"] == {"name": "s3:// region", "value": "eu-north-7", "source": "--region"}
    assert (code, steps[-1]["step"]) == (1, "connect")


@pytest.mark.parametrize("text", ["", "AK", "AKIDEXAMPLE", "AKIDEXAMPLE1", KEY_ID])
def test_a_key_id_is_never_shown_whole(text: str) -> None:
    assert text not in masked(text) or not text or len(text) == 2
    assert len(masked(text).replace("...", "")) <= 8


def test_a_password_in_an_address_is_not_shown() -> None:
    assert without_password("http://u:p@h:1/x") == "http://***@h:1/x"
    assert without_password("http://h/a@b") == "http://h/a@b"


def test_a_fault_without_cause_has_an_advice() -> None:
    assert "no answer" in diagnosis.advice(StoreTimeoutError("late"))
    assert diagnosis.advice(ValueError("odd")) == ""
