"""Room card: does the fake Google Cloud Storage behave as its real clients expect?

Asks it by obstore, google-auth and the standard library.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import google.auth.transport.requests
import obstore
import pytest
import requests
from google.oauth2 import service_account
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore

from tests.servers.asking import ODD_KEYS, ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.gcs import GcsServer

_ANY_TOKEN = "while-nobody-asks-for-one"
_OPTIONS: dict[str, Any] = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}


def _gcs_store(gcs: GcsServer, bucket: str, token: str = _ANY_TOKEN) -> GCSStore:
    return GCSStore(bucket, base_url=gcs.endpoint_url, bearer_token=token, **_OPTIONS)


def _make_gcs_bucket(gcs: GcsServer, name: str) -> int:
    return ask(f"{gcs.endpoint_url}/storage/v1/b?project=p", "POST", json.dumps({"name": name}))[0]


def test_gcs_stores_and_lists_objects(gcs: GcsServer) -> None:
    assert _make_gcs_bucket(gcs, "first-1") == 200
    assert _make_gcs_bucket(gcs, "first-1") == 409
    gcs.set_page_size(3)
    store = _gcs_store(gcs, "first-1")
    for key in ODD_KEYS:
        obstore.put(store, key, key.encode(), attributes={"Content-Type": "text/plain", "kind": "odd"})
    got = obstore.get(store, "sp ace")
    assert got.attributes == {"Content-Type": "text/plain", "kind": "odd"}
    assert bytes(got.bytes()) == b"sp ace"
    found = [item["path"] for chunk in obstore.list(store) for item in chunk]
    assert found == sorted(ODD_KEYS)
    assert sum("continuation-token" in request.target for request in gcs.requests) == 2
    obstore.copy(store, "plain", "copy")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "copy", b"", mode="create")
    obstore.delete(store, ["copy", "plain"])
    with pytest.raises(FileNotFoundError, match="NoSuchKey"):
        obstore.get(store, "plain")
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        obstore.get(_gcs_store(gcs, "no-such"), "x")


def test_gcs_joins_parts_and_sends_ranges(gcs: GcsServer) -> None:
    _make_gcs_bucket(gcs, "parts")
    store = _gcs_store(gcs, "parts")
    data = os.urandom(1000)
    obstore.put(store, "joined", data, use_multipart=True, chunk_size=300)
    assert bytes(obstore.get(store, "joined").bytes()) == data
    url = f"{gcs.endpoint_url}/parts/joined"
    status, headers, body = ask(url, Range="bytes=990-2000")
    assert (status, headers["content-range"], body) == (206, "bytes 990-999/1000", data[990:])
    status, headers, _ = ask(url, Range="bytes=1000-")
    assert (status, headers["content-range"]) == (416, "bytes */1000")
    assert ask(url, If_Match=headers.get("etag", '"other"'))[0] == 412
    assert ask(url, x_goog_if_generation_match="1")[0] == 412
    head = ask(url, "HEAD")
    assert (head[0], head[1]["content-length"], head[2]) == (200, "1000", b"")


def test_gcs_removes_empty_buckets_by_both_apis(gcs: GcsServer) -> None:
    url = gcs.endpoint_url
    assert ask(f"{url}/xml-made", "PUT")[0] == 200
    assert b"<Name>xml-made</Name>" in ask(f"{url}/")[2]
    listed = json.loads(ask(f"{url}/storage/v1/b?project=p")[2])
    assert "xml-made" in [item["name"] for item in listed["items"]]
    obstore.put(_gcs_store(gcs, "xml-made"), "x", b"")
    assert ask(f"{url}/storage/v1/b/xml-made", "DELETE")[0] == 409
    obstore.delete(_gcs_store(gcs, "xml-made"), "x")
    assert ask(f"{url}/storage/v1/b/xml-made", "DELETE")[0] == 204
    assert ask(f"{url}/xml-made", "DELETE")[0] == 404


def test_gcs_gives_tokens_to_google_auth_and_asks_for_them(gcs: GcsServer, tmp_path: Path) -> None:
    _make_gcs_bucket(gcs, "private")
    path = gcs.service_account_json(tmp_path / "account.json")
    gcs.require_auth()
    scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
    load: Any = service_account.Credentials.from_service_account_file
    credentials = load(path, scopes=scopes)
    with requests.Session() as session:
        credentials.refresh(google.auth.transport.requests.Request(session))
    assert gcs.token_calls == 1
    store = _gcs_store(gcs, "private", credentials.token)
    obstore.put(store, "x", b"1")
    # With the same file, obstore signs its own claims instead of asking for a token.
    own = GCSStore("private", service_account=str(path), **_OPTIONS)
    assert bytes(obstore.get(own, "x").bytes()) == b"1"
    assert ask(f"{gcs.endpoint_url}/private/x")[0] == 403
    gcs.revoke_tokens()
    with pytest.raises(UnauthenticatedError):
        obstore.get(store, "x")
    gcs.require_auth(forbid=True)
    with pytest.raises(PermissionDeniedError):
        obstore.get(_gcs_store(gcs, "private", gcs.issue_token()), "x")
