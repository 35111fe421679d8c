"""Room card: who we are to Google and Azure: tokens, keys and signatures, and how they are kept fresh.

Knows google-auth and the fake that checks its tokens; azurite checks keys and signatures.  azure-identity is stood
in for: its own sources of tokens lie outside this machine.
"""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import sys
import time
import types
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

import pytest

import s3dlio
from s3dlio import AccessDeniedError, ObjectStore, OptionError, StoreOptions, open_store
from s3dlio.stores import credentials
from s3dlio.stores.credentials import AzureIdentity, GoogleIdentity
from tests.servers.faults import s3_error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin
    from tests.servers.gcs import GcsServer


class _Token(NamedTuple):
    token: str
    expires_on: float


class _ChainError(Exception):
    """Stands in for azure-core's ClientAuthenticationError."""


class _Chain:
    """Stands in for azure-identity's DefaultAzureCredential."""

    lifetime_s = 3600.0
    given = 0

    def get_token(self, scope: str) -> _Token:
        assert scope == "https://storage.azure.com/.default"
        _Chain.given += 1
        return _Token(f"token-{_Chain.given}", time.time() + self.lifetime_s)


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> type[_Chain]:
    """azure-identity, as if it were installed."""
    module = types.ModuleType("azure.identity")
    module.DefaultAzureCredential = _Chain  # type: ignore[attr-defined]
    errors = types.ModuleType("azure.core.exceptions")
    errors.ClientAuthenticationError = _ChainError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure.identity", module)
    monkeypatch.setitem(sys.modules, "azure.core.exceptions", errors)
    monkeypatch.setattr(_Chain, "given", 0)
    return _Chain


# -- Google ---------------------------------------------------------------------------------------------


def test_google_without_credentials_is_denied_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessDeniedError, match="no Google credentials found"):
        s3dlio.get("gs://bucket/x")


def test_google_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(AccessDeniedError, match=r"pip install 's3dlio\[gs\]'"):
        s3dlio.get("gs://bucket/x")


def test_a_google_file_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(AccessDeniedError, match=r"account\.json"):
        s3dlio.get("gs://bucket/x")


def test_a_google_token_is_renewed_before_it_ends(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = gcs.service_account_json(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setattr(credentials, "_RECHECK_S", 0.0)
    identity = GoogleIdentity()
    first = identity.current()
    assert first == identity.current()
    assert gcs.token_calls == 1
    gcs.set_token_lifetime(60)  # google-auth takes less than four minutes for ended
    identity.renew()
    short = identity.current()
    assert short not in (first, identity.current())


def test_a_token_server_that_refuses_is_an_error(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = gcs.service_account_json(tmp_path / "account.json")
    gcs.service_account_json(tmp_path / "newer.json")  # the server forgets the first one's key
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(AccessDeniedError, match="cannot be renewed"):
        GoogleIdentity().current()


# -- Azure ----------------------------------------------------------------------------------------------


def test_a_malformed_azure_key_is_refused_and_not_shown() -> None:
    with pytest.raises(OptionError, match="account key is not base64") as caught:
        open_store("az://account/c", StoreOptions(account_key="no*base64"))
    assert "no*base64" not in str(caught.value)


def test_azure_without_a_key_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(AccessDeniedError, match="AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"):
        s3dlio.get("az://account/container/x")


def test_an_azure_token_is_sent_and_kept(
    chain: type[_Chain], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.objects["/container/x"] = b"x"
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", origin.endpoint_url)
    for _ in range(3):
        assert s3dlio.get("az://account/container/x") == b"x"
    assert {request.headers["authorization"] for request in origin.requests} == {"Bearer token-1"}
    assert chain.given == 1


def test_a_refused_azure_token_is_replaced_once(
    chain: type[_Chain], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.objects["/container/x"] = b"x"
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", origin.endpoint_url)
    origin.plan("/container/x", s3_error(401, "InvalidAuthenticationInfo"))
    assert s3dlio.get("az://account/container/x") == b"x"
    assert [request.headers["authorization"] for request in origin.requests] == ["Bearer token-1", "Bearer token-2"]
    origin.plan("/container/x", s3_error(403, "AuthorizationFailure"), s3_error(403, "AuthorizationFailure"))
    with pytest.raises(AccessDeniedError):
        s3dlio.get("az://account/container/x")
    assert chain.given == 3


def test_an_azure_token_is_renewed_before_it_ends(chain: type[_Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    identity = AzureIdentity()
    assert [identity.current(), identity.current()] == ["token-1", "token-1"]
    monkeypatch.setattr(chain, "lifetime_s", 200.0)
    identity.renew()
    assert [identity.current(), identity.current()] == ["token-2", "token-3"]


def test_an_azure_chain_that_finds_nothing_is_denied(chain: type[_Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(_self: _Chain, _scope: str) -> _Token:
        raise _ChainError("log in first")

    monkeypatch.setattr(chain, "get_token", find_nothing)
    with pytest.raises(AccessDeniedError, match="no Azure credentials found: log in first"):
        s3dlio.get("az://account/container/x")


def test_a_given_token_is_sent_as_it_is(origin: FaultOrigin) -> None:
    origin.objects["/container/x"] = b"x"
    options = StoreOptions(endpoint_url=origin.endpoint_url, bearer_token="mine")
    for uri in ("az://account/container/x", "gs://container/x"):
        assert ObjectStore(options).get(uri) == b"x"
        assert origin.requests[-1].headers["authorization"] == "Bearer mine"


@pytest.mark.parametrize("question_mark", ["", "?"])
def test_a_shared_access_signature_opens(
    azurite: AzuriteServer, question_mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    if not s3dlio.exists("az://shared"):
        s3dlio.create_bucket("az://shared")
    s3dlio.put("az://shared/sp ace", b"x")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", question_mark + _signature(azurite, "rwl"))
    assert s3dlio.get("az://shared/sp ace") == b"x"
    assert s3dlio.list("az://shared") == ["az://shared/sp ace"]
    with pytest.raises(AccessDeniedError) as caught:
        s3dlio.delete("az://shared/sp ace")
    assert "sig=" not in str(caught.value)


def _signature(server: AzuriteServer, permissions: str) -> str:
    """Returns an account's shared access signature, by the documentation's "Create an account SAS"."""
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sv": "2021-12-02", "ss": "b", "srt": "sco", "sp": permissions, "se": until}
    lines = (server.account, permissions, "b", "sco", "", until, "", "", "2021-12-02", "", "")
    digest = hmac.digest(base64.b64decode(server.key), "\n".join(lines).encode(), "sha256")
    return urllib.parse.urlencode({**fields, "sig": base64.b64encode(digest).decode()})
