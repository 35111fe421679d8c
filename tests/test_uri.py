"""Room card: how addresses are split, printed and joined.

Knows `s3dlio.uri` alone: no backend and, but for the current directory, no disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio import NotFoundError, S3dlioError, UriError, get
from s3dlio.uri import Uri, from_path_or_uri, join, parse, parse_object, relative

_SCHEMES = ("s3", "gs", "gcs", "az", "memory")
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://bucket/key", ("s3", "bucket", "key")),
        ("s3://bucket", ("s3", "bucket", "")),
        ("s3://bucket/", ("s3", "bucket", "")),
        ("s3://bucket//key", ("s3", "bucket", "/key")),
        ("s3://bucket/a//b/./c/../d/", ("s3", "bucket", "a//b/./c/../d/")),
        ("s3://b/per%41cent+plus?query#hash", ("s3", "b", "per%41cent+plus?query#hash")),
        ("s3://b/key://with://schemes", ("s3", "b", "key://with://schemes")),
        ("S3://Bucket/Key", ("s3", "Bucket", "Key")),
        ("gs://bucket/key", ("gs", "bucket", "key")),
        ("gcs://bucket/key", ("gcs", "bucket", "key")),
        ("az://account/container/key", ("az", "account", "container/key")),
        ("memory://space/é", ("memory", "space", "é")),
        ("file:///a/b", ("file", "", "/a/b")),
        ("file:///", ("file", "", "/")),
        ("direct:///a//b", ("direct", "", "/a//b")),
        ("https://host:80/path?a=b#c", ("https", "", "host:80/path?a=b#c")),
        ("hf://datasets/me/x", ("hf", "", "datasets/me/x")),
    ],
)
def test_a_uri_is_split_and_never_decoded(text: str, parts: tuple[str, str, str]) -> None:
    assert parse(text) == Uri(*parts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plain/path", "no scheme"),
        ("/absolute/path", "no scheme"),
        ("", "no scheme"),
        ("://x", "no scheme"),
        ("s3:/bucket/key", "no scheme"),
        ("s3://", "no bucket"),
        ("s3:///key", "no bucket"),
        ("file://relative/path", "three slashes: 'file:///relative/path'"),
        ("direct://relative", "three slashes"),
        ("s3://b/nul\0", "NUL"),
        ("s3://b/\ud800", "surrogate"),
        (None, "must be a str, not NoneType"),
        (b"s3://b/k", "must be a str, not bytes"),
        (Path("/a"), "must be a str, not PosixPath"),
        (3, "must be a str, not int"),
    ],
)
def test_what_is_no_uri_is_refused_with_the_reason(text: Any, reason: str) -> None:
    with pytest.raises(UriError, match=reason):
        parse(text)


@given(st.sampled_from(_SCHEMES), st.text("abc-.9", min_size=1, max_size=9), _TEXT)
def test_printing_undoes_parsing(scheme: str, container: str, key: str) -> None:
    text = f"{scheme}://{container}/{key}"
    assert str(parse(text)) == text
    assert parse(text) == (scheme, container, key)


@given(st.sampled_from(["file", "direct"]), _TEXT)
def test_printing_undoes_parsing_of_paths(scheme: str, path: str) -> None:
    assert str(parse(f"{scheme}:///{path}")) == f"{scheme}:///{path}"


@given(st.text(max_size=30))
def test_any_text_is_a_uri_or_a_uri_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Uri)
    except UriError as error:
        str(error).encode(errors="backslashreplace")


@pytest.mark.parametrize("text", ["s3://bucket", "s3://bucket/", "az://account", "file:///", "memory://space"])
def test_a_container_is_no_object(text: str) -> None:
    with pytest.raises(UriError, match="not an object") as caught:
        parse_object(text, "get")
    assert (caught.value.uri, caught.value.operation) == (text, "get")


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UriError, match="did you mean 'direct'"):
        get("drect:///x")
    with pytest.raises(UriError, match=r"unknown scheme 'zzzz' \(known here: az, direct, file"):
        get("zzzz://x/y")


def test_another_key_keeps_the_container() -> None:
    assert str(parse("gcs://b/x").with_key("y/z")) == "gcs://b/y/z"
    assert str(parse("file:///x").with_key("/y")) == "file:///y"


@pytest.mark.parametrize("text", [Path("s3://bucket/run") / "x", Path("file:///tmp/x"), "gs:/bucket/x", "az:/c/x/"])
def test_an_address_that_has_lost_a_slash_is_no_path(text: Any) -> None:
    """It named a directory here, so that a job's checkpoints went with its machine."""
    with pytest.raises(UriError, match="Two slashes begin an address") as caught:
        from_path_or_uri(text)
    assert "://" in str(caught.value)
    for fine in ("c:/x", "./s3:/x", "/tmp/s3:/x", "a:b", "10:/x"):
        assert from_path_or_uri(fine).startswith("file:///")


def test_a_local_path_becomes_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_path_or_uri("s3://b/k") == "s3://b/k"
    assert from_path_or_uri("/a/b") == "file:///a/b"
    assert from_path_or_uri(Path("/a/b")) == "file:///a/b"
    assert from_path_or_uri("x/../y") == f"file://{tmp_path}/y"
    assert from_path_or_uri("dir/") == f"file://{tmp_path}/dir/"
    assert from_path_or_uri("/") == "file:///"
    assert from_path_or_uri(".") == f"file://{os.getcwd()}"
    with pytest.raises(NotFoundError):
        get(from_path_or_uri("nothing"))


@pytest.mark.parametrize(
    ("prefix", "names", "whole"),
    [
        ("s3://b", ["x"], "s3://b/x"),
        ("s3://b/", ["x"], "s3://b/x"),
        ("s3://b/p/", ["x", "y/"], "s3://b/p/x/y"),
        ("file:///", ["x"], "file:///x"),
        ("s3://b/p", ["/x"], "s3://b/p/x"),
    ],
)
def test_joining_puts_one_slash_between(prefix: str, names: list[str], whole: str) -> None:
    assert join(prefix, *names) == whole


def test_a_name_relative_to_a_prefix_is_what_was_joined_to_it() -> None:
    for prefix in ("s3://b/p", "s3://b/p/", "file:///p"):
        assert relative(join(prefix, "x", "y"), prefix) == "x/y"
    with pytest.raises(UriError, match="does not lie under"):
        relative("s3://b/q", "s3://b/p")


def test_uri_errors_are_value_errors() -> None:
    assert issubclass(UriError, ValueError)
    assert issubclass(UriError, S3dlioError)
