"""Room card: the contract on Google Cloud Storage, against the fake of its XML interface.

Knows both spellings of the scheme, and who may come in: everybody (as to an emulator), who brings a token, a service
account.  The real service is not there to be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

import s3dlio
from s3dlio import AccessDeniedError, ObjectStore, OptionError, StoreOptions
from tests.contract import StoreContract
from tests.contract_base import unique

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.gcs import GcsServer


@pytest.fixture(scope="module")
def account(gcs_program: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a service account."""
    return gcs_program.service_account_json(tmp_path_factory.mktemp("gcs") / "account.json")


class _Gcs(StoreContract):
    scheme: ClassVar[str] = "gs"
    impossible_keys = frozenset({"carriage\rreturn", "new\nline"})  # the service forbids line ends
    several_pages = 30

    @pytest.fixture(autouse=True)
    def server(self, gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
        """The server, which gives seven entries per page."""
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint_url)
        gcs.set_page_size(7)
        return gcs

    @pytest.fixture
    def root(self) -> str:
        if not s3dlio.exists(f"{self.scheme}://contract"):
            s3dlio.create_bucket(f"{self.scheme}://contract")
        return f"{self.scheme}://contract/{unique('t')}/"

    @pytest.fixture
    def nowhere(self) -> str:
        return f"{self.scheme}://{unique('nowhere')}/"

    @pytest.fixture
    def fresh_container(self) -> str:
        return f"{self.scheme}://{unique('fresh')}"


class TestGs(_Gcs):
    """`gs://`, as an emulator."""

    def test_a_listing_comes_in_pages(self, root: str, server: GcsServer) -> None:
        s3dlio.put_many([(f"{root}{n}", b"") for n in range(15)])
        server.clear_requests()
        assert len(s3dlio.list(root)) == 15
        assert len(server.requests) == 3

    def test_both_spellings_name_the_same_object(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"x")
        other = root.replace("gs://", "gcs://")
        assert s3dlio.get(f"{other}x") == b"x"
        assert s3dlio.list(other) == [f"{other}x"]

    def test_a_token_opens(self, root: str, server: GcsServer) -> None:
        s3dlio.put(f"{root}x", b"x")
        server.require_auth()
        store = ObjectStore(StoreOptions(bearer_token=server.issue_token()))
        assert store.get(f"{root}x") == b"x"
        assert store.get_many([f"{root}x"] * 3)[2][1] == b"x"
        for token in (None, "stolen"):
            with pytest.raises(AccessDeniedError) as caught:
                ObjectStore(StoreOptions(bearer_token=token)).get(f"{root}x")
            assert "stolen" not in str(caught.value)

    def test_a_token_that_is_forbidden_is_denied(self, root: str, server: GcsServer) -> None:
        s3dlio.put(f"{root}x", b"x")
        server.require_auth(forbid=True)
        store = ObjectStore(StoreOptions(bearer_token=server.issue_token()))
        with pytest.raises(AccessDeniedError):
            store.get(f"{root}x")


class TestGcs(_Gcs):
    """`gcs://`, the other spelling."""

    scheme = "gcs"


class TestServiceAccount(_Gcs):
    """`gs://` as the service itself: every request brings a token that google-auth has got for a service account."""

    @pytest.fixture(autouse=True)
    def server(self, gcs: GcsServer, account: Path, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
        """The server in the place of Google's."""
        monkeypatch.setattr("s3dlio.stores.gcs._ENDPOINT", gcs.endpoint_url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test-project")
        gcs.require_auth()
        gcs.set_page_size(7)
        return gcs

    def test_one_token_serves_many_requests(self, root: str, server: GcsServer) -> None:
        server.clear_requests()
        s3dlio.put_many([(f"{root}{n}", b"") for n in range(5)])
        assert len(s3dlio.get_many(s3dlio.list(root))) == 5
        assert server.token_calls == 0  # the fixture has needed one already

    def test_a_refused_token_is_replaced_once(self, root: str, server: GcsServer) -> None:
        s3dlio.put(f"{root}x", b"x")
        server.revoke_tokens()
        server.clear_requests()
        assert s3dlio.get(f"{root}x") == b"x"
        assert server.token_calls == 1
        server.require_auth(forbid=True)
        with pytest.raises(AccessDeniedError):
            s3dlio.get(f"{root}x")

    def test_buckets_need_a_project(self, fresh_container: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
        with pytest.raises(OptionError, match="GOOGLE_CLOUD_PROJECT"):
            s3dlio.create_bucket(fresh_container)
