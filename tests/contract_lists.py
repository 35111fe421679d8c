"""Room card: what every backend promises about names: the shared tests of keys, list and containers.

Knows the public verbs.  Must not know any backend.
"""

from __future__ import annotations

import re

import pytest

import s3dlio
from s3dlio import AlreadyExistsError, NotFoundError, OptionError, S3dlioError, StoreError
from s3dlio.cancel import CancellationToken
from s3dlio.listing import find
from tests.contract_base import ODD_KEYS, UNPATHLIKE_KEYS, Backend

_NAMES = ("b", "a/2", "a/1", "a.b", "a/c/deep", "A", "é")
_FILES = ("train_1.npz", "train_2.npz", "val_1.npz", "notes.txt", "sub/train_3.npz", "sub/notes.txt", "a+b.txt")


class Listings(Backend):
    """Keys and listings."""

    @pytest.fixture
    def files(self, root: str) -> str:
        """A prefix with `_FILES` below it."""
        s3dlio.put_many([(f"{root}{name}", name.encode()) for name in _FILES])
        return root

    def test_a_listing_is_sorted_and_in_the_callers_form(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in _NAMES])
        assert s3dlio.list(root) == [f"{root}{name}" for name in sorted(_NAMES)]
        assert s3dlio.list(root, recursive=True) == s3dlio.list(root.removesuffix("/"))

    def test_a_flat_listing_shows_deeper_prefixes_once(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in _NAMES])
        expected = ["A", "a.b", "a/", "b", "é"]
        assert s3dlio.list(root, recursive=False) == [f"{root}{name}" for name in expected]
        assert s3dlio.list(f"{root}a/", recursive=False) == [f"{root}a/{name}" for name in ("1", "2", "c/")]

    def test_a_prefix_may_end_inside_a_name(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in ("data1/x", "data2", "dat", "other")])
        assert s3dlio.list(f"{root}data") == [f"{root}data1/x", f"{root}data2"]
        assert s3dlio.list(f"{root}data", recursive=False) == [f"{root}data1/", f"{root}data2"]

    def test_what_is_listed_can_be_used(self, files: str) -> None:
        found = s3dlio.list(files)
        assert [bytes(view).decode() for _, view in s3dlio.get_many(found)] == sorted(_FILES)
        assert [s3dlio.stat(uri)["size"] for uri in found] == [len(name) for name in sorted(_FILES)]
        s3dlio.delete(found)
        assert s3dlio.list(files) == []

    def test_a_listing_knows_what_stat_knows(self, files: str) -> None:
        for item in find(files, None, CancellationToken()):
            known = s3dlio.stat(str(item.uri))
            assert (item.size, item.etag) == (known["size"], known["etag"])
            assert item.last_modified is not None
            assert abs((item.last_modified - known["last_modified"]).total_seconds()) < 2

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.npz", ["sub/train_3.npz", "train_1.npz", "train_2.npz", "val_1.npz"]),
            ("train_?.npz", ["sub/train_3.npz", "train_1.npz", "train_2.npz"]),
            ("glob:*.txt", ["a+b.txt", "notes.txt", "sub/notes.txt"]),
            ("sub/*", ["sub/notes.txt", "sub/train_3.npz"]),
            (r"^train_[12]\.npz$", ["train_1.npz", "train_2.npz"]),
            ("regex:val|notes", ["notes.txt", "sub/notes.txt", "val_1.npz"]),
            (re.compile("^sub/.*z$"), ["sub/train_3.npz"]),
            ("a+b.txt", ["a+b.txt"]),
            ("notes.txt", ["notes.txt", "sub/notes.txt"]),
            ("*.none", []),
        ],
    )
    def test_a_pattern_chooses(self, files: str, pattern: str | re.Pattern[str], expected: list[str]) -> None:
        assert s3dlio.list(files, pattern=pattern) == [f"{files}{name}" for name in expected]

    def test_a_pattern_is_relative_to_the_directory(self, files: str) -> None:
        below = [f"{files}sub/notes.txt", f"{files}sub/train_3.npz"]
        assert s3dlio.list(f"{files}sub", pattern="^[nt]") == below == s3dlio.list(f"{files}sub/", pattern="^[nt]")
        assert s3dlio.list(f"{files}tr", pattern="^train_1") == [f"{files}train_1.npz"]
        assert s3dlio.list(files, recursive=False, pattern="s*") == [f"{files}sub/"]

    def test_a_pattern_that_is_no_regex_is_refused(self, root: str) -> None:
        with pytest.raises(OptionError, match="regular expression"):
            s3dlio.list(root, pattern="regex:(")

    def test_an_empty_prefix_lists_nothing(self, root: str) -> None:
        assert s3dlio.list(root) == []
        assert s3dlio.list(f"{root}deeper/still/", recursive=False) == []
        assert s3dlio.list(f"{root}name") == []

    def test_a_listing_of_a_missing_container_fails(self, nowhere: str) -> None:
        if not self.misses_containers:
            assert s3dlio.list(nowhere) == []
            return
        for recursive in (True, False):
            with pytest.raises(NotFoundError) as caught:
                s3dlio.list(nowhere, recursive)
            assert caught.value.operation == "list"
            assert nowhere.startswith(str(caught.value.uri).rstrip("/"))

    def test_a_listing_of_several_pages_is_whole(self, root: str) -> None:
        uris = [f"{root}{n:05d}" for n in range(self.several_pages)]
        self.fill(root, [uri.removeprefix(root) for uri in uris])
        assert s3dlio.list(root) == uris
        assert s3dlio.list(root, recursive=False) == uris
        s3dlio.delete(root, recursive=True)
        assert s3dlio.list(root) == []

    def fill(self, root: str, names: list[str]) -> None:
        """Makes many empty objects; a subclass may know a faster way."""
        s3dlio.put_many([(f"{root}{name}", b"") for name in names])

    def test_common_prefixes_come_in_pages_too(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{n:02d}/{m}", b"") for n in range(12) for m in range(2)])
        assert s3dlio.list(root, recursive=False) == [f"{root}{n:02d}/" for n in range(12)]

    # -- keys -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_a_key_means_itself(self, root: str, key: str) -> None:
        if key in self.impossible_keys:
            _check_not_mistaken(root, key)
            return
        _check_key(root, key)

    @pytest.mark.parametrize("key", UNPATHLIKE_KEYS, ids=lambda key: key[:8])
    def test_a_key_is_not_a_path(self, root: str, key: str) -> None:
        if not self.has_flat_keys or key in self.impossible_keys:
            _check_not_mistaken(root, key)
            return
        room = 1024 - len(root.partition("://")[2].partition("/")[2])
        if len(key.encode()) == 1024:  # with the prefix the longest that there may be
            key = key[: room if key.isascii() else room // 2]
        _check_key(root, key)

    def test_a_key_may_be_long(self, root: str) -> None:
        room = self.longest_key - len(root.partition("://")[2].partition("/")[2])
        key = "/".join("k" * 200 for _ in range(6))[:room]
        _check_key(root, key.rstrip("/"))

    def test_a_key_may_lie_below_another(self, root: str) -> None:
        s3dlio.put(f"{root}a", b"file")
        if not self.has_flat_keys:
            with pytest.raises(StoreError):
                s3dlio.put(f"{root}a/b", b"below")
            return
        s3dlio.put(f"{root}a/b", b"below")
        assert s3dlio.get(f"{root}a") == b"file"
        assert s3dlio.list(root) == [f"{root}a", f"{root}a/b"]
        assert s3dlio.list(root, recursive=False) == [f"{root}a", f"{root}a/"]

    def test_an_empty_object_that_ends_in_a_slash_is_a_directory(self, root: str) -> None:
        if not self.has_markers:
            with pytest.raises(S3dlioError):
                s3dlio.put(f"{root}dir/", b"")
            return
        s3dlio.put(f"{root}dir/", b"")
        s3dlio.put(f"{root}dir/x", b"")
        assert s3dlio.list(root) == [f"{root}dir/x"]
        assert s3dlio.list(f"{root}dir/", recursive=False) == [f"{root}dir/x"]

    @pytest.mark.parametrize("bad", ["\ud800", "nul\0"])
    def test_a_key_without_a_utf8_form_is_refused(self, root: str, bad: str) -> None:
        with pytest.raises(S3dlioError):
            s3dlio.put(f"{root}{bad}", b"")


class Containers(Backend):
    """Buckets, Azure's containers, directories."""

    def test_a_container_can_be_made_listed_and_deleted(self, fresh_container: str) -> None:
        everywhere = fresh_container.rpartition("/")[0] + "/"
        assert fresh_container not in s3dlio.list_containers(everywhere)
        s3dlio.create_bucket(fresh_container)
        found = s3dlio.list_containers(everywhere)
        assert fresh_container in found
        assert found == sorted(found)
        assert s3dlio.list(fresh_container) == []
        assert s3dlio.exists(fresh_container)
        s3dlio.delete_bucket(fresh_container)
        assert fresh_container not in s3dlio.list_containers(everywhere)
        assert not s3dlio.exists(fresh_container)

    def test_a_container_is_made_once(self, fresh_container: str) -> None:
        s3dlio.create_bucket(fresh_container)
        if self.refuses_second_container:
            with pytest.raises(AlreadyExistsError) as caught:
                s3dlio.create_bucket(fresh_container)
            assert caught.value.operation == "create_bucket"
        else:
            s3dlio.create_bucket(fresh_container)
        s3dlio.delete_bucket(fresh_container)

    def test_a_container_with_objects_is_not_deleted(self, fresh_container: str) -> None:
        s3dlio.create_bucket(fresh_container)
        s3dlio.put(f"{fresh_container}/dir/x", b"kept")
        with pytest.raises(StoreError) as caught:
            s3dlio.delete_bucket(fresh_container)
        assert caught.value.operation == "delete_bucket"
        assert s3dlio.get(f"{fresh_container}/dir/x") == b"kept"
        s3dlio.delete(f"{fresh_container}/", recursive=True)
        if s3dlio.exists(fresh_container):
            s3dlio.delete_bucket(fresh_container)

    def test_a_missing_container_cannot_be_deleted(self, fresh_container: str) -> None:
        with pytest.raises(NotFoundError):
            s3dlio.delete_bucket(fresh_container)


def _check_key(root: str, key: str) -> None:
    data = f"content of {key}".encode()
    s3dlio.put(f"{root}{key}", data)
    assert s3dlio.get(f"{root}{key}") == data
    assert s3dlio.stat(f"{root}{key}")["size"] == len(data)
    assert s3dlio.list(root) == [f"{root}{key}"]
    assert s3dlio.list(f"{root}{key}") == [f"{root}{key}"]
    s3dlio.put(f"{root}other", b"")
    s3dlio.delete([f"{root}{key}", f"{root}other"])
    assert s3dlio.list(root) == []
    s3dlio.put(f"{root}{key}", b"")
    s3dlio.delete(f"{root}{key}")
    assert not s3dlio.exists(f"{root}{key}")


def _check_not_mistaken(root: str, key: str) -> None:
    """A key that the backend cannot keep is refused, or read back; never is another object taken for it."""
    s3dlio.put(f"{root}witness", b"kept")
    try:
        s3dlio.put(f"{root}{key}", b"content")
    except S3dlioError:
        assert s3dlio.list(root) == [f"{root}witness"]
    else:
        assert s3dlio.get(f"{root}{key}") == b"content"
        s3dlio.delete(f"{root}{key}")
    assert s3dlio.get(f"{root}witness") == b"kept"
