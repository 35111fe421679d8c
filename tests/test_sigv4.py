"""Room card: our signature against botocore's, on generated requests.

Knows botocore's signer as the oracle.  That real servers accept the signature is shown by the contract on rclone.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, unquote

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.stores.sigv4 import (
    UNSIGNED,
    KeyPair,
    RangeSigner,
    Target,
    presigned_query,
    quote_key,
    quote_query,
    signed_headers,
)

_NOW = 1_700_000_000
_PAYER = {"x-amz-request-payer": "requester"}
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
_WORDS = st.text("abcXYZ019-_", min_size=1, max_size=12)
_TOKENS = st.just("") | st.text("abcXYZ019+/=", min_size=1, max_size=40)
_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_PAIRS = st.builds(KeyPair, st.just("AKIDEXAMPLE"), _VALUES, _TOKENS)
_EXTRA = st.dictionaries(st.from_regex(r"x-amz-meta-[a-z0-9-]{1,8}", fullmatch=True), _VALUES, max_size=3)
_QUERIES = st.dictionaries(_KEYS.filter(lambda name: "\0" not in name), _KEYS, max_size=3)


class _Unsigned(S3SigV4Auth):
    """botocore's signer, told what hash of the payload to use and what time it is."""

    def __init__(self, pair: KeyPair, region: str, payload: str) -> None:
        super().__init__(Credentials(pair.access_key, pair.secret_key, pair.token or None), "s3", region)
        self._payload = payload

    def payload(self, _request: Any) -> str:
        return self._payload

    def authorization(self, method: str, url: str, headers: dict[str, str]) -> str:
        request = AWSRequest(method=method, url=url, headers=headers)
        now = dt.datetime.fromtimestamp(_NOW, dt.UTC)
        with mock.patch("botocore.auth.get_current_datetime", return_value=now):
            self.add_auth(request)
        return str(request.headers["Authorization"])


@settings(deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=_KEYS,
    query=_QUERIES,
    extra=_EXTRA,
    region=_WORDS,
    pair=_PAIRS,
)
def test_the_signature_is_botocores(
    method: str, key: str, query: dict[str, str], extra: dict[str, str], region: str, pair: KeyPair
) -> None:
    target = Target(method, "bucket.example.test:9000", f"/base/{quote_key(key)}", quote_query(query))
    ours = signed_headers(pair, region, target, extra, _NOW)
    url = f"http://{target.host}{target.path}{'?' if target.query else ''}{target.query}"
    theirs = _Unsigned(pair, region, UNSIGNED).authorization(method, url, extra)
    assert _fields(ours)["authorization"] == theirs


@settings(deadline=None)
@given(key=_KEYS, region=_WORDS, pair=_PAIRS, expires_s=st.integers(1, 604_800), extra=st.sampled_from([{}, _PAYER]))
def test_an_address_that_is_given_away_is_botocores(
    key: str, region: str, pair: KeyPair, expires_s: int, extra: dict[str, str]
) -> None:
    target = Target("GET", "bucket.example.test:9000", f"/base/{quote_key(key)}")
    query = presigned_query(pair, region, target, expires_s, _NOW, extra)
    request = AWSRequest(method="GET", url=f"http://{target.host}{target.path}", params=dict(extra))
    keys = Credentials(pair.access_key, pair.secret_key, pair.token or None)
    now = dt.datetime.fromtimestamp(_NOW, dt.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        S3SigV4QueryAuth(keys, "s3", region, expires=expires_s).add_auth(request)
    assert dict(parse_qsl(query)) == dict(parse_qsl(request.url.partition("?")[2]))


@pytest.mark.parametrize("payload", ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"])
def test_a_signed_payload_is_signed(payload: str) -> None:
    pair = KeyPair("AKIDEXAMPLE", "secret")
    ours = signed_headers(pair, "r", Target("PUT", "h.test", "/b/k"), {}, _NOW, payload)
    theirs = _Unsigned(pair, "r", payload).authorization("PUT", "http://h.test/b/k", {})
    assert _fields(ours)["authorization"] == theirs
    assert _fields(ours)["x-amz-content-sha256"] == payload


def test_all_that_is_signed_is_sent() -> None:
    pair = KeyPair("AKIDEXAMPLE", "secret", "token")
    extra = {"x-amz-meta-b": "two  blanks", "x-amz-acl": "private"}
    lines = signed_headers(pair, "r", Target("PUT", "h.test", "/b/k"), extra, _NOW)
    fields = _fields(lines)
    signed = re.search(r"SignedHeaders=([^,]+)", fields["authorization"])
    assert signed is not None
    assert signed[1].split(";") == sorted({*fields} - {"authorization"})
    assert fields["x-amz-meta-b"] == "two  blanks"
    assert fields["x-amz-security-token"] == "token"
    assert fields["host"] == "h.test"
    assert lines.endswith("\r\n")


@settings(deadline=None)
@given(key=_KEYS, token=_TOKENS, path=st.sampled_from(["", "/bucket", "/base/bucket"]), extra=_EXTRA)
def test_the_quick_signer_makes_the_same_request(key: str, token: str, path: str, extra: dict[str, str]) -> None:
    pair = KeyPair("AKIDEXAMPLE", "secret", token)
    extra = {**{name: " ".join(value.split()) for name, value in extra.items()}, **_PAYER}
    signer = RangeSigner(pair, "eu-west-1", ("h.test:1", path), _NOW, "user-agent: x\r\n", extra)
    head = signer.request(key, "bytes=5-9").decode("latin-1")
    target = Target("GET", "h.test:1", f"{path}/{quote_key(key)}")
    lines = signed_headers(pair, "eu-west-1", target, extra, _NOW)
    assert head == f"GET {target.path} HTTP/1.1\r\nuser-agent: x\r\n{lines}range: bytes=5-9\r\n\r\n"


@given(_KEYS)
def test_a_quoted_key_is_plain_and_can_be_undone(key: str) -> None:
    quoted = quote_key(key)
    assert unquote(quoted) == key
    assert re.fullmatch(r"(?:[A-Za-z0-9/_.~-]|%[0-9A-F]{2})+", quoted)


def test_a_key_pair_does_not_show_its_secrets() -> None:
    shown = repr(KeyPair("AKIDEXAMPLE", "very-secret", "the-token"))
    assert "very-secret" not in shown
    assert "the-token" not in shown
    assert "AKIDEXAMPLE" not in shown


def _fields(lines: str) -> dict[str, str]:
    return dict((part.strip() for part in line.split(":", 1)) for line in lines.split("\r\n") if line)
