"""Room card: the contract on Azure Blob Storage, against azurite, in both forms of an address.

Knows what azurite cannot do, and the rules of Azure that no other backend has.  Must not test credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

import s3dlio
from s3dlio import AccessDeniedError, NotFoundError, ObjectStore, StoreError, StoreOptions, UriError
from s3dlio.retry import RetryPolicy
from s3dlio.stores.azure import AzureStore
from tests.contract import StoreContract
from tests.contract_base import unique

if TYPE_CHECKING:
    from s3dlio.stores.azure import Blob
    from s3dlio.uri import Uri
    from s3dlio.wire.transport import Call, Transport
    from tests.servers.azurite import AzuriteServer


class _Azure(StoreContract):
    lead: ClassVar[str]
    page_size: ClassVar[int] = 7
    # The service itself turns a backslash into a slash; line ends and other control characters break its listings.
    impossible_keys = frozenset({"back\\slash", "new\nline", "carriage\rreturn", "tab\tstop"})

    @pytest.fixture(autouse=True)
    def server(self, azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> AzuriteServer:
        """The server, found through the environment."""
        for name, value in azurite.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(RetryPolicy, "pause_s", lambda *_: 0.0)
        _shorten_pages(monkeypatch, self.page_size)
        return azurite

    @pytest.fixture
    def root(self) -> str:
        if not s3dlio.exists(f"{self.lead}contract"):
            s3dlio.create_bucket(f"{self.lead}contract")
        return f"{self.lead}contract/{unique('t')}/"

    @pytest.fixture
    def nowhere(self) -> str:
        return f"{self.lead}{unique('nowhere')}/"

    @pytest.fixture
    def fresh_container(self) -> str:
        return f"{self.lead}{unique('fresh')}"


class TestContainerFirst(_Azure):
    """`az://container/key`, with the account from the environment."""

    lead = "az://"
    page_size = 400
    several_pages = 1005

    def test_the_style_can_be_set(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        s3dlio.put(f"{root}x", b"x")
        monkeypatch.setenv("S3DLIO_AZURE_URI_STYLE", "account")
        assert s3dlio.get(f"az://devstoreaccount1/{root.removeprefix('az://')}x") == b"x"
        with pytest.raises(StoreError):
            s3dlio.get(f"{root}x")
        monkeypatch.setenv("S3DLIO_AZURE_URI_STYLE", "container")
        assert s3dlio.get(f"{root}x") == b"x"
        assert not s3dlio.exists(f"az://devstoreaccount1/{root.removeprefix('az://')}x")

    def test_a_style_without_its_account_is_refused(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
        monkeypatch.setenv("S3DLIO_AZURE_URI_STYLE", "container")
        with pytest.raises(UriError, match="AZURE_STORAGE_ACCOUNT"):
            s3dlio.get(f"{root}x")
        with pytest.raises(UriError, match="AZURE_STORAGE_ACCOUNT"):
            s3dlio.list_containers("az://")

    def test_a_wrong_key_is_denied(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"x")
        with pytest.raises(AccessDeniedError) as caught:
            ObjectStore(StoreOptions(account_key="d3Jvbmc=")).get(f"{root}x")
        assert "d3Jvbmc" not in str(caught.value)


class TestAccountFirst(_Azure):
    """`az://account/container/key`."""

    lead = "az://devstoreaccount1/"

    def test_a_container_behind_its_account_is_a_directory(self, fresh_container: str) -> None:
        assert not s3dlio.exists(fresh_container)
        s3dlio.create_bucket(fresh_container)
        s3dlio.put(f"{fresh_container}/a.txt", b"a")
        assert s3dlio.exists(fresh_container)
        assert s3dlio.stat(fresh_container)["content_type"] == "application/x-directory"
        assert s3dlio.list(fresh_container) == [f"{fresh_container}/a.txt"] == s3dlio.list(f"{fresh_container}/")
        assert s3dlio.list(fresh_container, pattern="^a") == [f"{fresh_container}/a.txt"]

    def test_an_account_or_container_is_no_object(self, root: str) -> None:
        container = root.rpartition("/t-")[0]
        for uri in (container, "az://devstoreaccount1/"):
            for verb in (s3dlio.get, lambda uri: s3dlio.put(uri, b"")):
                with pytest.raises(UriError, match="not an object"):
                    verb(uri)
        with pytest.raises(UriError, match="container"):
            s3dlio.list("az://devstoreaccount1")

    def test_without_a_configured_account_the_uri_names_it(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        s3dlio.put(f"{root}x", b"x")
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
        assert s3dlio.get(f"{root}x") == b"x"
        assert s3dlio.list(root) == [f"{root}x"]
        with pytest.raises(NotFoundError):
            s3dlio.stat(f"{root}y")


def _shorten_pages(monkeypatch: pytest.MonkeyPatch, page_size: int) -> None:
    """Asks for pages of fewer than 5,000 entries, which would take minutes to fill."""
    real = AzureStore._call_blob

    def short(store: AzureStore, operation: str, uri: Uri, blob: Blob, query: dict[str, str]) -> tuple[Transport, Call]:
        more = {"maxresults": str(page_size)} if query.get("comp") == "list" else {}
        return real(store, operation, uri, blob, {**query, **more})

    monkeypatch.setattr(AzureStore, "_call_blob", short)
