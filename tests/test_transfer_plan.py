"""Room card: what goes where: patterns in paths, names at the destination, what is there already.

Everything here is pure.  Must not need a server.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio import OptionError, UriError
from s3dlio.batches import cut
from s3dlio.transfer.finding import Source
from s3dlio.transfer.paths import deepest_folder, first_folder, is_pattern, marked, path_pattern
from s3dlio.transfer.plan import Layout, Move, lay_out
from s3dlio.transfer.present import Known, is_equal
from s3dlio.uri import parse

_FILES = parse("file:///there")
_BUCKET = parse("s3://there/below")
_NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def _source(name: str, uri: str = "") -> Source:
    return Source(parse(uri or f"s3://from/dir/{name}"), name, 1)


@pytest.mark.parametrize(
    ("rest", "matching", "others"),
    [
        ("*.log", {"a.log", "dir.log/x"}, {"a.log.gz", "sub/a.log", ".a.log"}),
        ("*", {"a", "sub/a", "sub/.b"}, {".a", ".git/x"}),
        ("**", {"a", "sub/deep/a"}, {".a", "sub/.a"}),
        ("**/*.log", {"a.log", "sub/a.log", "a/b/c.log"}, {"a.txt", ".git/a.log"}),
        ("sub/*/x?", {"sub/1/xa", "sub/2/xb/more"}, {"sub/xa", "sub/1/x", "other/1/xa"}),
        (".g*", {".git/x"}, {"git"}),
        ("[ab].bin", {"a.bin"}, {"c.bin", "[ab].bin"}),
        (r".*\.log$", {"a.log", "sub/a.log"}, {"a.log.gz"}),
        (r"file_[0-9]+\.txt", {"file_12.txt"}, {"file_.txt", "file_1_txt"}),
        ("(a|b)", {"a", "cab"}, {"x"}),
    ],
)
def test_a_path_with_a_pattern_means(rest: str, matching: set[str], others: set[str]) -> None:
    pattern = path_pattern(f"/data/{rest}", len("/data/"), "")
    assert pattern.folder == "/data/"
    assert {name for name in matching | others if pattern.matches(name)} == matching
    for name in matching:
        folders = name.split("/")[:-1]
        assert all(pattern.may_hold("/".join(folders[: count + 1])) for count in range(len(folders)))
        assert name.startswith(pattern.lead)


def test_a_mark_says_what_a_pattern_is() -> None:
    assert marked("glob:/a/b") == ("glob", "/a/b")
    assert marked("regex:s3://b/x+") == ("regex", "s3://b/x+")
    assert marked("s3://b/glob:x") == ("", "s3://b/glob:x")
    assert path_pattern("/d/a+", 3, "glob").matches("a+")
    assert path_pattern("/d/a+", 3, "").matches("aa")
    with pytest.raises(OptionError, match="not a regular expression"):
        path_pattern("/d/(", 3, "regex")


def test_the_directory_of_a_pattern() -> None:
    assert [is_pattern(text) for text in ("a/b.c", "a*", "a?", "a[b", "a.+")] == [False, True, True, True, True]
    assert "data/x/y[1]"[: first_folder("data/x/y[1]")] == "data/x/"
    assert first_folder("*.bin") == 0
    there = {"/data", "/data/a(b)"}
    assert deepest_folder("/data/a(b)/c*/d", there.__contains__) == len("/data/a(b)/")
    assert deepest_folder("/no/where*", there.__contains__) == 1


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_every_object_gets_the_place_that_its_name_says(names: list[str]) -> None:
    sources = [_source(name, f"s3://from/{number}") for number, name in enumerate(names)]
    plan = lay_out(sources, Layout(_BUCKET))
    assert [move.target.key for move in plan.moves] == [f"below/{name}" for name in names]
    assert plan.refused == []


@given(st.lists(st.text("ab./\0\\", min_size=1), unique=True))
def test_no_name_leads_out_of_a_directory(names: list[str]) -> None:
    sources = [Source(parse("s3://from/x"), name, 1) for name in names]
    leading_out = any(".." in name.split("/") for name in names)
    try:
        plan = lay_out(
            [source._replace(uri=parse(f"s3://from/{n}")) for n, source in enumerate(sources)], Layout(_FILES)
        )
    except UriError:
        assert leading_out
        return
    assert not leading_out
    assert len(plan.moves) + len(plan.refused) == len(names)
    for move in plan.moves:
        assert move.target.key.startswith("/there/")
        assert not {"", ".", ".."} & set(move.target.key[1:].split("/"))


def test_two_objects_of_one_name_are_refused() -> None:
    with pytest.raises(UriError, match=r"a/x.*b/x.*nothing was written"):
        lay_out([_source("a/x"), _source("b/x")], Layout(_BUCKET, flatten=True))
    lay_out([_source("A"), _source("a")], Layout(_FILES))
    with pytest.raises(UriError, match="both become"):
        lay_out([_source("A"), _source("a")], Layout(_FILES, folds_case=True))


def test_one_object_named_twice_goes_once() -> None:
    assert len(lay_out([_source("x"), _source("x")], Layout(_BUCKET)).moves) == 1


def test_nothing_goes_where_it_is() -> None:
    with pytest.raises(UriError, match="the same"):
        lay_out([_source("x", "s3://there/below/x")], Layout(_BUCKET))


def test_a_name_that_is_no_text_stays_where_it_is() -> None:
    source = Source(parse("file:///x\udcff"), "x\udcff", 1)
    assert [type(one.error) for one in lay_out([source], Layout(_BUCKET)).refused] == [UriError]
    assert len(lay_out([source], Layout(_FILES)).moves) == 1


@pytest.mark.parametrize(
    ("etag", "there", "age_s", "equal"),
    [
        ("a" * 32, "a" * 32, 100, True),
        ("a" * 32, "b" * 32, -100, False),
        ("x-1", "y-2", 0, True),
        ("x-1", "y-2", 0.9, True),
        ("x-1", "y-2", 1, False),
        ("x-1", "y-2", -1, True),
        ("x-1", "x-1", 100, True),
    ],
)
def test_what_is_equal_needs_no_second_journey(etag: str, there: str, age_s: float, equal: bool) -> None:
    move = Move(parse("s3://a/x"), parse("s3://b/x"), 5, etag, _NOW + timedelta(seconds=age_s))
    assert is_equal(move, Known(5, there, _NOW)) == equal
    assert not is_equal(move, Known(6, there, _NOW))


def test_what_has_no_time_is_not_known_to_be_equal() -> None:
    assert not is_equal(Move(parse("s3://a/x"), parse("s3://b/x"), 5), Known(5, "", _NOW))


@given(st.lists(st.integers(0, 30)))
def test_batches_hold_all_in_order_and_not_too_much(weights: list[int]) -> None:
    batches = list(cut(weights, lambda weight: weight, most_items=4, most_weight=20))
    assert [weight for batch in batches for weight in batch] == weights
    assert all(len(batch) == 1 or (len(batch) <= 4 and sum(batch) <= 20) for batch in batches)
