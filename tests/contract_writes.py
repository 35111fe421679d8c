"""Room card: what every backend promises about writing: the shared tests of put, delete and mkdir.

Knows the public verbs.  Must not know any backend.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio import AlreadyExistsError, NotFoundError, OptionError, UriError, sender
from tests.contract_base import KIB, Backend, blob

MIB = 1024 * KIB


class Writes(Backend):
    """Writing and deleting."""

    def test_put_replaces(self, root: str) -> None:
        for data in (b"first, and long", b"second", b""):
            s3dlio.put(f"{root}x", data)
            assert s3dlio.get(f"{root}x") == data

    @pytest.mark.parametrize(
        "data",
        [
            bytearray(b"abcdefgh"),
            memoryview(b"--abcdefgh--")[2:-2],
            np.frombuffer(b"abcdefgh", np.float64),
            np.frombuffer(b"abcdefgh", np.uint16).reshape(2, 2),
            s3dlio.BytesView.from_bytes(b"--abcdefgh--")[2:-2],
        ],
        ids=["bytearray", "memoryview", "floats", "2-d", "view"],
    )
    def test_put_takes_anything_bytes_like(self, root: str, data: Any) -> None:
        s3dlio.put(f"{root}x", data)
        assert s3dlio.get(f"{root}x") == b"abcdefgh"
        s3dlio.put_bytes(f"{root}y", data)
        assert s3dlio.get(f"{root}y") == b"abcdefgh"

    def test_put_refuses_what_has_no_bytes_in_a_row(self, root: str) -> None:
        for data in ("text", None, [1, 2], np.zeros(10, np.uint8)[::2]):
            with pytest.raises(OptionError):
                s3dlio.put(f"{root}x", data)
        assert not s3dlio.exists(f"{root}x")

    def test_put_has_copied_or_sent_when_it_returns(self, root: str) -> None:
        data = bytearray(blob(70_000))
        s3dlio.put(f"{root}x", data)
        data[:] = bytes(len(data))
        assert s3dlio.get(f"{root}x") == blob(70_000)

    def test_put_of_a_large_object_arrives_whole(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sender, "_IN_PARTS_FROM", 6 * MIB)
        monkeypatch.setattr(sender, "DEFAULT_PART_BYTES", 5 * MIB)
        data = blob(11 * MIB + 123)
        s3dlio.put(f"{root}x", data)
        assert s3dlio.get(f"{root}x") == data
        if self.refuses_overwrite:
            with pytest.raises(AlreadyExistsError):
                s3dlio.put(f"{root}x", blob(7 * MIB), overwrite=False)
            assert s3dlio.stat(f"{root}x")["size"] == len(data)

    def test_put_many_writes_all(self, root: str) -> None:
        pairs = [(f"{root}dir{n % 3}/{n}", blob(n * 10, n)) for n in range(20)]
        s3dlio.put_many(iter(pairs), 4)
        assert s3dlio.get_many([uri for uri, _ in pairs]) == pairs
        s3dlio.put_many([])

    def test_put_many_refuses_mixed_schemes(self, root: str) -> None:
        with pytest.raises(UriError, match="same scheme"):
            s3dlio.put_many([(f"{root}x", b""), ("other://x/y", b"")])
        assert not s3dlio.exists(f"{root}x")

    def test_put_into_a_missing_container_fails(self, nowhere: str) -> None:
        if self.makes_containers:
            s3dlio.put(f"{nowhere}x", b"made")
            assert s3dlio.get(f"{nowhere}x") == b"made"
            return
        with pytest.raises(NotFoundError) as caught:
            s3dlio.put(f"{nowhere}x", b"")
        assert (caught.value.uri, caught.value.operation) == (f"{nowhere}x", "put")

    def test_put_without_overwrite_keeps_what_is_there(self, root: str) -> None:
        s3dlio.put(f"{root}x", b"first", overwrite=False)
        if self.refuses_overwrite:
            with pytest.raises(AlreadyExistsError) as caught:
                s3dlio.put(f"{root}x", b"second", overwrite=False)
            assert (caught.value.uri, caught.value.operation) == (f"{root}x", "put")
        else:
            s3dlio.put(f"{root}x", b"second", overwrite=False)
        assert s3dlio.get(f"{root}x") == (b"first" if self.refuses_overwrite else b"second")

    def test_of_many_who_create_only_one_succeeds(self, root: str) -> None:
        won: list[int] = []

        def create(number: int) -> None:
            try:
                s3dlio.put(f"{root}x", b"%d" % number, overwrite=False)
            except AlreadyExistsError:
                return
            won.append(number)

        _at_once([lambda n=n: create(n) for n in range(6)])
        assert s3dlio.get(f"{root}x") in [b"%d" % number for number in won]
        assert len(won) == 1 or not self.refuses_overwrite

    def test_a_reader_sees_the_old_or_the_new_object(self, root: str) -> None:
        contents = [bytes([n]) * 50_000 for n in range(4)]
        s3dlio.put(f"{root}x", contents[0])
        seen: list[bytes] = []

        def read() -> None:
            for _ in range(8):
                try:
                    seen.append(bytes(s3dlio.get(f"{root}x")))
                except NotFoundError:
                    if self.replaces_at_once:
                        raise

        _at_once([*(lambda data=data: s3dlio.put(f"{root}x", data) for data in contents), read, read])
        assert all(data in contents for data in seen)
        assert len(seen) == 16 or not self.replaces_at_once
        assert s3dlio.get(f"{root}x") in contents

    # -- deleting -------------------------------------------------------------------------------------

    def test_delete_removes_exactly_the_object(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in ("a", "ab", "b")])
        s3dlio.delete(f"{root}a")
        assert s3dlio.list(root) == [f"{root}ab", f"{root}b"]
        s3dlio.delete([f"{root}ab", f"{root}missing", f"{root}b"])
        assert s3dlio.list(root) == []

    def test_deleting_what_is_not_there_is_fine(self, root: str) -> None:
        s3dlio.delete(f"{root}missing")
        s3dlio.delete([f"{root}missing", f"{root}too"])
        s3dlio.delete([])
        s3dlio.delete(f"{root}nothing/", recursive=True)

    @pytest.mark.parametrize("names", [["x"], ["x", "y"]])
    def test_deleting_in_a_missing_container_fails(self, nowhere: str, names: list[str]) -> None:
        uris = [f"{nowhere}{name}" for name in names]
        if not self.misses_containers:
            s3dlio.delete(uris)
            return
        with pytest.raises(NotFoundError) as caught:
            s3dlio.delete(uris)
        assert str(caught.value.uri).startswith(nowhere)
        assert caught.value.operation == "delete"

    def test_a_prefix_is_deleted_only_recursively(self, root: str) -> None:
        s3dlio.put(f"{root}dir/x", b"")
        with pytest.raises(UriError):
            s3dlio.delete(f"{root}dir/")
        with pytest.raises(UriError):
            s3dlio.delete([f"{root}dir/x", f"{root}dir/"])
        with pytest.raises(OptionError):
            s3dlio.delete(f"{root}dir/x", pattern="*")
        assert s3dlio.exists(f"{root}dir/x")

    @pytest.mark.parametrize("target", ["dir", "dir/"])
    def test_a_recursive_delete_takes_the_directory_and_no_more(self, root: str, target: str) -> None:
        names = ("dir/x", "dir/sub/y", "dir/sub/deep/z", "dir2/x", "dirx")
        s3dlio.put_many([(f"{root}{name}", b"") for name in names])
        s3dlio.mkdir(f"{root}dir/empty")
        s3dlio.delete(f"{root}{target}", recursive=True)
        assert s3dlio.list(root) == [f"{root}dir2/x", f"{root}dirx"]
        assert s3dlio.list(root, recursive=False) == [f"{root}dir2/", f"{root}dirx"]

    def test_a_recursive_delete_can_be_limited_by_a_pattern(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in ("a.tmp", "sub/b.tmp", "sub/c.bin")])
        s3dlio.delete(root, recursive=True, pattern="*.tmp")
        assert s3dlio.list(root) == [f"{root}sub/c.bin"]

    def test_many_objects_are_deleted(self, root: str) -> None:
        uris = [f"{root}{n}" for n in range(40)]
        s3dlio.put_many([(uri, b"") for uri in uris])
        s3dlio.delete(uris)
        assert s3dlio.list(root) == []

    def test_mkdir_makes_what_listings_do_not_show(self, root: str) -> None:
        s3dlio.mkdir(f"{root}dir/sub")
        s3dlio.mkdir(f"{root}dir/sub/")
        assert s3dlio.list(root) == []
        assert s3dlio.list(root, recursive=False) == [f"{root}dir/"]
        assert s3dlio.exists(f"{root}dir/sub/")
        assert s3dlio.stat(f"{root}dir/sub/")["size"] == 0
        s3dlio.put(f"{root}dir/sub/x", blob(5 * KIB))
        assert s3dlio.list(f"{root}dir/") == [f"{root}dir/sub/x"]


def _at_once(works: list[Any]) -> None:
    barrier = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            barrier.wait(60)
            work()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert failures == []
