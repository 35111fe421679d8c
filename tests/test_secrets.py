"""Room card: does any secret, or what is made from one, ever leave by a log, an error, a repr or a pickle?

Operations succeed and fail in every way with secrets that are easily recognized, and all that can be seen of them is
searched.
"""

from __future__ import annotations

import base64
import logging
import pickle
import re
import socket
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import s3dlio
from s3dlio.errors import AccessDeniedError, OptionError, S3dlioError
from s3dlio.options import StoreOptions
from s3dlio.stores import close_stores, open_store
from s3dlio.stores.credentials import AwsIdentity, FixedToken
from s3dlio.stores.rest import RestStore
from s3dlio.stores.sigv4 import KeyPair, RangeSigner
from s3dlio.uri import parse
from s3dlio.wire.transport import Landing
from tests.servers.fault_kinds import (
    Fault,
    GarbageHead,
    ResetInBody,
    ResetInHead,
    StallHead,
    Status,
    redirect,
    s3_error,
)
from tests.servers.rules import error_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.faults import FaultOrigin

SECRET = "OPENSESAME"
SECRET_KEY = f"{SECRET}/secretaccesskey+0123456789"
TOKEN = f"{SECRET}sessiontokenIQoJb3JpZ2luX2VjE"
BEARER = f"ya29.{SECRET}bearer"
ACCOUNT_KEY = base64.b64encode(f"{SECRET}accountkey".encode()).decode()
SAS = f"sv=2021-12-02&sp=rl&sig={SECRET}sassignature%3D"

#: How to open each cloud with secrets, and the object to read there.
CLOUDS: dict[str, tuple[str, dict[str, Any]]] = {
    "s3": (
        "s3://bucket/key",
        {
            "access_key_id": "AKIDVISIBLE",
            "secret_access_key": SECRET_KEY,
            "session_token": TOKEN,
            "region": "eu-west-1",
        },
    ),
    "gs": ("gs://bucket/key", {"bearer_token": BEARER}),
    "az-key": ("az://bucket/key", {"account": "acme", "account_key": ACCOUNT_KEY}),
    "az-sas": ("az://bucket/key", {"account": "acme", "sas_token": SAS}),
    "az-bearer": ("az://bucket/key", {"account": "acme", "bearer_token": BEARER}),
}
every_cloud = pytest.mark.parametrize(("uri", "secrets"), CLOUDS.values(), ids=CLOUDS)

#: A server that tells in its refusal what it has been sent, as some do.
_TELLTALE = Status(
    403, {"Content-Type": "application/xml"}, error_xml("SignatureDoesNotMatch", "no", StringToSign="AWS4")
)
FAULTS: dict[str, Fault] = {
    "400": s3_error(400, "InvalidRequest"),
    "403": _TELLTALE,
    "404": s3_error(404, "NoSuchKey"),
    "500": s3_error(500, "InternalError"),
    "503": s3_error(503, "SlowDown"),
    "garbage": GarbageHead(),
    "reset": ResetInHead(),
    "reset-in-body": ResetInBody(1),
    "stall": StallHead(60.0),
    "redirect": redirect("http://elsewhere.invalid/key?X-Amz-Signature=abc"),
    "moved": s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-north-1"),
}


class Ear:
    """Hears all that the library says."""

    def __init__(self, origin: FaultOrigin, log: pytest.LogCaptureFixture) -> None:
        self._origin = origin
        self._log = log
        self._heard: list[str] = []

    def hear(self, *things: object) -> None:
        """Takes down how things present themselves."""
        for thing in things:
            self._heard += [repr(thing), str(thing), f"{thing}", f"{[thing]}"]
            if isinstance(thing, BaseException):
                self._hear_error(thing)

    def _hear_error(self, error: BaseException) -> None:
        self._heard += traceback.format_exception(error)
        link: BaseException | None = error
        while link is not None:
            self._heard += [repr(link), str(link), repr(link.args), repr(vars(link))]
            if type(link).__module__.startswith("s3dlio"):
                self._heard.append(repr(pickle.dumps(link)))  # as libraries do that send causes to other processes
            link = link.__cause__ or link.__context__

    def heard_no_secret(self) -> None:
        """Checks what was heard, and logged."""
        text = "\n".join([*self._heard, self._log.text, *(repr(vars(it)) for it in self._log.records)])
        derived = [request.headers.get("authorization", "") for request in self._origin.requests]
        signatures = {word for line in derived for word in re.findall(r"[0-9a-f]{64}|[A-Za-z0-9+/]{43}=", line)}
        for word in (SECRET, SECRET_KEY, ACCOUNT_KEY, SAS, "AWS4-HMAC", "SharedKey", "Bearer", *signatures):
            assert word not in text
        assert not re.search(r"(?i)authorization|signature\s*=|[?&]sig=", text.replace("SignatureDoesNotMatch", ""))


@pytest.fixture
def ear(origin: FaultOrigin, caplog: pytest.LogCaptureFixture) -> Iterator[Ear]:
    """What is said while a test runs; that it holds no secret is checked at the end."""
    caplog.set_level(logging.DEBUG, "s3dlio")
    ear = Ear(origin, caplog)
    yield ear
    ear.heard_no_secret()
    close_stores()


def _options(origin: FaultOrigin, secrets: dict[str, Any]) -> StoreOptions:
    timing = {"retry_base_s": 0.0, "max_attempts": 2, "read_timeout_s": 0.02}
    return StoreOptions(endpoint_url=origin.endpoint_url, **timing, **secrets)


def _use(store: s3dlio.ObjectStore, uri: str, ear: Ear) -> None:
    """Does everything once, and hears of what fails."""
    works = [
        lambda: store.get(uri),
        lambda: store.get_many([uri, uri + "2", uri + "3"]),
        lambda: store.get_range(uri, 1, 2),
        lambda: store.stat(uri),
        lambda: store.put(uri + "4", b"data"),
        lambda: store.list(uri.rpartition("/")[0] + "/"),
        lambda: store.delete(uri + "4"),
    ]
    for work in works:
        try:
            ear.hear(work())
        except S3dlioError as error:
            ear.hear(error)


@every_cloud
def test_nothing_is_told_when_all_is_well(origin: FaultOrigin, ear: Ear, uri: str, secrets: dict[str, Any]) -> None:
    for n in ("", "2", "3"):
        origin.objects[f"/bucket/key{n}"] = b"body"
    _use(s3dlio.ObjectStore(_options(origin, secrets)), uri, ear)
    assert any(request.headers.get("authorization") or "sig=" in request.target for request in origin.requests)


@every_cloud
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_told_when_a_server_fails(
    origin: FaultOrigin, ear: Ear, uri: str, secrets: dict[str, Any], fault: Fault
) -> None:
    origin.objects["/bucket/key"] = b"body"
    origin.plan_all(*[fault] * 200)
    _use(s3dlio.ObjectStore(_options(origin, secrets)), uri, ear)


@every_cloud
def test_nothing_is_told_when_nobody_is_there(origin: FaultOrigin, ear: Ear, uri: str, secrets: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    _use(s3dlio.ObjectStore(_options(origin, secrets).replace(endpoint_url=url)), uri, ear)


@every_cloud
def test_nothing_is_told_by_a_proxy_with_a_password(
    origin: FaultOrigin, ear: Ear, uri: str, secrets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = origin.endpoint_url.replace("http://", f"http://user:{SECRET}@")
    monkeypatch.setenv("http_proxy", proxy)
    options = _options(origin, secrets).replace(endpoint_url="http://storage.invalid", max_attempts=1)
    store = s3dlio.ObjectStore(options)
    ear.hear(store)
    _use(store, uri, ear)
    assert any(request.method == "CONNECT" for request in origin.requests)


@every_cloud
def test_nothing_presents_itself_with_a_secret(
    origin: FaultOrigin, ear: Ear, uri: str, secrets: dict[str, Any]
) -> None:
    options = _options(origin, secrets)
    where = parse(uri)
    store = open_store(where, options)
    assert isinstance(store, RestStore)
    transport, call = store._call("get", where)
    client, quick = store.quick(where)
    ear.hear(options, store, s3dlio.ObjectStore(options), transport, call, client, quick)
    ear.hear(Landing(call, 0, 1, lambda _size: memoryview(b"")), store._identity)


def test_no_identity_presents_itself_with_a_secret(ear: Ear) -> None:
    pair = KeyPair("AKIDVISIBLE", SECRET_KEY, TOKEN)
    options = StoreOptions(access_key_id="AKIDVISIBLE", secret_access_key=SECRET_KEY, session_token=TOKEN)
    identity = AwsIdentity(options)
    ear.hear(pair, {"pair": pair}, identity, identity.current(), FixedToken(BEARER))
    ear.hear(RangeSigner(pair, "us-east-1", ("host", "/bucket"), 0, ""))


def test_the_environment_s_secrets_are_not_told(origin: FaultOrigin, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "AWS_ENDPOINT_URL": origin.endpoint_url, "AWS_ACCESS_KEY_ID": "AKIDVISIBLE", "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_SESSION_TOKEN": TOKEN, "AZURE_STORAGE_ACCOUNT": "acme", "AZURE_STORAGE_KEY": ACCOUNT_KEY,
        "AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_ENDPOINT": origin.endpoint_url,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    origin.plan_all(*[_TELLTALE] * 200)
    for uri in ("s3://bucket/key", "az://bucket/key"):
        ear.hear(open_store(uri), StoreOptions.from_env())
        for verb in (s3dlio.get, s3dlio.stat, s3dlio.list):
            with pytest.raises(AccessDeniedError) as caught:
                verb(uri)
            ear.hear(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret_access_key": SECRET_KEY},
        {"account_key": f"{SECRET} is not base64", "account": "acme"},
        {"secret_key": SECRET_KEY},
        {"endpoint_url": "ftp://x", "bearer_token": BEARER},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_option_is_told_without_its_secret(ear: Ear, wrong: dict[str, str]) -> None:
    with pytest.raises(OptionError) as caught:
        open_store("az://container/key", StoreOptions(**wrong))
    ear.hear(caught.value)


@pytest.mark.parametrize("variable", ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"])
def test_a_wrong_variable_is_told_without_its_secret(ear: Ear, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "acme")
    monkeypatch.setenv(variable, f"{SECRET} is not base64")
    with pytest.raises(OptionError, match=variable) as caught:
        s3dlio.get("az://container/key")
    ear.hear(caught.value)


@pytest.mark.parametrize("odd", ["…", "é", "\r\nx-evil: 1", "\n"], ids=["dots", "accent", "field", "line-end"])
@pytest.mark.parametrize("name", ["session_token", "access_key_id", "bearer_token"])
def test_a_secret_that_cannot_be_sent_is_refused_unseen(origin: FaultOrigin, ear: Ear, name: str, odd: str) -> None:
    given = {"access_key_id": "AKID", "secret_access_key": SECRET_KEY, name: f"{SECRET}{odd}"}
    with pytest.raises((OptionError, AccessDeniedError)) as caught:
        s3dlio.ObjectStore(_options(origin, given)).get("gs://b/k" if name == "bearer_token" else "s3://b/k")
    ear.hear(caught.value)
    assert not origin.requests


# -- pickles ------------------------------------------------------------------------------------------


def test_a_pickled_store_holds_what_the_user_gave_it_and_no_more(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    origin.objects["/bucket/key"] = b"body"
    options = StoreOptions(endpoint_url=origin.endpoint_url, region="eu-west-1")
    store = open_store("s3://bucket/key", options)
    assert s3dlio.ObjectStore(options).get("s3://bucket/key") == b"body"
    for thing in (store, options, s3dlio.ObjectStore(options)):
        assert SECRET.encode() not in pickle.dumps(thing)
    # The workers of a loader need the secrets that a program has set by hand: those do travel.
    given = StoreOptions(access_key_id="AKID", secret_access_key=SECRET_KEY)
    assert pickle.loads(pickle.dumps(open_store("s3://bucket/key", given))).options.secret_access_key == SECRET_KEY
    close_stores()


def test_a_pickled_store_leaves_the_environment_s_secrets_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "acme")
    monkeypatch.setenv("AZURE_STORAGE_KEY", ACCOUNT_KEY)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    assert SECRET.encode() not in pickle.dumps(open_store("az://container/key"))
    assert ACCOUNT_KEY.encode() not in pickle.dumps(open_store("az://container/key"))
    close_stores()
