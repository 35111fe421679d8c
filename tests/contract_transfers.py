"""Room card: what every backend promises about upload, download and copy: the shared tests of transfers.

Knows the public verbs and this machine's files.  Must not know any backend.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import NotFoundError, UriError
from s3dlio.transfer import carry
from tests.contract_base import ODD_KEYS, Backend, blob

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
_TREE = {
    "a.bin": b"spam",
    "empty": b"",
    "b.txt": b"text",
    "sub/c.bin": blob(70_000),
    "sub/deep/d.bin": b"d",
    "sub/.hidden": b"h",
}


def make_tree(folder: Path, tree: dict[str, bytes]) -> Path:
    """Writes files below a folder, and returns it."""
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    """Returns all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects_below(root: str) -> dict[str, bytes]:
    """Returns all objects below a prefix."""
    return {uri[len(root) :]: bytes(view) for uri, view in s3dlio.get_many(s3dlio.list(root))}


class Transfers(Backend):
    """Many objects, to and from this machine, and within the backend."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A directory of files."""
        return make_tree(tmp_path / "tree", _TREE)

    def test_a_directory_goes_up_and_comes_down_as_it_is(self, root: str, tree: Path, tmp_path: Path) -> None:
        up = s3dlio.upload(str(tree), f"{root}up/")
        assert (up.transferred, up.skipped, up.failed) == (len(_TREE), 0, 0)
        assert up.total_bytes == sum(map(len, _TREE.values()))
        assert objects_below(f"{root}up/") == _TREE
        down = s3dlio.download(f"{root}up/", str(tmp_path / "down"))
        assert (down.transferred, down.total_bytes) == (up.transferred, up.total_bytes)
        assert read_tree(tmp_path / "down") == _TREE

    def test_a_file_goes_under_its_base_name(self, root: str, tree: Path, tmp_path: Path) -> None:
        s3dlio.upload([str(tree / "a.bin"), tree / "sub/c.bin"], root)
        assert s3dlio.list(root) == [f"{root}a.bin", f"{root}c.bin"]
        s3dlio.download(f"{root}a.bin", tmp_path / "down")
        assert read_tree(tmp_path / "down") == {"a.bin": b"spam"}

    def test_a_prefix_without_slash_is_a_directory_if_it_is_no_object(
        self, root: str, tree: Path, tmp_path: Path
    ) -> None:
        s3dlio.upload(tree, f"{root}up")
        s3dlio.put(f"{root}upper", b"no")
        assert s3dlio.download(f"{root}up", tmp_path / "down").transferred == len(_TREE)
        assert read_tree(tmp_path / "down") == _TREE

    @pytest.mark.parametrize(
        ("path", "names"),
        [
            ("*.bin", {"a.bin"}),
            ("s*", {"sub/c.bin", "sub/deep/d.bin", "sub/.hidden"}),
            ("**/*.bin", {"a.bin", "sub/c.bin", "sub/deep/d.bin"}),
            ("sub/[cd].bin", {"c.bin"}),
            (r".*\.bin$", {"a.bin", "sub/c.bin", "sub/deep/d.bin"}),
            (r"^[ab]\.(bin|txt)$", {"a.bin", "b.txt"}),
        ],
    )
    def test_a_path_may_hold_a_pattern(self, root: str, tree: Path, tmp_path: Path, path: str, names: set[str]) -> None:
        s3dlio.upload([f"{tree}/{path}"], f"{root}some/")
        assert {uri[len(f"{root}some/") :] for uri in s3dlio.list(f"{root}some/")} == names
        s3dlio.upload(tree, f"{root}all/")
        s3dlio.download(f"{root}all/{path}", tmp_path / "down")
        assert set(read_tree(tmp_path / "down")) == names

    def test_by_the_names_of_the_guide(self, root: str, tree: Path, tmp_path: Path) -> None:
        s3dlio.upload(local_dir=f"{tree}/", remote_uri=f"{root}up/", pattern="*.bin")
        names = {"a.bin", "sub/c.bin", "sub/deep/d.bin"}
        assert set(objects_below(f"{root}up/")) == names
        s3dlio.download(remote_uri=f"{root}up/", local_dir=f"{tmp_path}/down/", pattern="regex:^sub/")
        assert set(read_tree(tmp_path / "down")) == names - {"a.bin"}
        s3dlio.download(f"{root}up/", tmp_path / "flat", flatten=True)
        assert set(read_tree(tmp_path / "flat")) == {"a.bin", "c.bin", "d.bin"}
        s3dlio.download(f"{root}up/", tmp_path / "top", recursive=False)
        assert set(read_tree(tmp_path / "top")) == {"a.bin"}

    def test_a_large_object_travels_in_parts(self, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("s3dlio.sender.DEFAULT_PART_BYTES", 5 * MIB)
        data = blob(17 * MIB + 123)
        (tmp_path / "large").write_bytes(data)
        assert s3dlio.upload(tmp_path / "large", root).total_bytes == len(data)
        assert s3dlio.get(f"{root}large") == data
        s3dlio.download(f"{root}large", tmp_path / "down")
        assert (tmp_path / "down/large").read_bytes() == data
        s3dlio.copy(f"{root}large", f"{root}copy")
        assert s3dlio.get(f"{root}copy") == data

    def test_a_copy_within_the_backend_keeps_what_it_keeps(self, root: str) -> None:
        s3dlio.put(f"{root}x/a b+c", b"spam", content_type="text/plain", metadata={"note": "kept"})
        s3dlio.put(f"{root}x/sub/y", b"eggs")
        s3dlio.copy(f"{root}x/a b+c", f"{root}copy")
        assert s3dlio.get(f"{root}copy") == b"spam"
        assert s3dlio.copy(f"{root}x/", f"{root}z/").transferred == 2
        assert objects_below(f"{root}z/") == {"a b+c": b"spam", "sub/y": b"eggs"}
        found = s3dlio.stat(f"{root}copy")
        if self.keeps_content_type:
            assert found["content_type"] == "text/plain"
        if self.keeps_metadata:
            assert found["metadata"]["note"] == "kept"

    def test_a_copy_that_passes_through_here_keeps_it_too(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        s3dlio.put(f"{root}x", b"spam", content_type="text/plain", metadata={"note": "kept"})
        monkeypatch.setattr(carry.Carrier, "_copied", lambda *_: None)
        s3dlio.copy(f"{root}x", f"{root}y")
        found = s3dlio.stat(f"{root}y")
        assert s3dlio.get(f"{root}y") == b"spam"
        assert not self.keeps_content_type or found["content_type"] == "text/plain"
        assert not self.keeps_metadata or found["metadata"]["note"] == "kept"

    def test_an_update_leaves_out_what_is_there(self, root: str, tree: Path, tmp_path: Path) -> None:
        s3dlio.upload(tree, f"{root}up/")
        again = s3dlio.upload(tree, f"{root}up/", update=True)
        assert (again.transferred, again.skipped) == (0, len(_TREE))
        s3dlio.delete(f"{root}up/b.txt")
        (tree / "a.bin").write_bytes(b"longer than before")
        again = s3dlio.upload(tree, f"{root}up/", update=True)
        assert (again.transferred, again.skipped) == (2, len(_TREE) - 2)
        assert s3dlio.get(f"{root}up/a.bin") == b"longer than before"
        s3dlio.download(f"{root}up/", tmp_path / "down")
        again = s3dlio.download(f"{root}up/", tmp_path / "down", update=True)
        assert (again.transferred, again.skipped) == (0, len(_TREE))

    def test_what_is_not_there_cannot_be_fetched(self, root: str, tmp_path: Path) -> None:
        for source in ("missing", "missing/", "missing*", "regex:missing"):
            text = f"regex:{root}missing" if source.startswith("regex:") else root + source
            with pytest.raises(NotFoundError):
                s3dlio.download(text, tmp_path / "down")
            with pytest.raises(NotFoundError):
                s3dlio.upload(tmp_path / source, root)
        assert not (tmp_path / "down").exists()

    def test_a_collision_is_found_before_anything_is_written(self, root: str, tree: Path, tmp_path: Path) -> None:
        make_tree(tree, {"sub/a.bin": b"another"})
        with pytest.raises(UriError, match=r"a\.bin"):
            s3dlio.upload([tree / "b.txt", tree / "a.bin", tree / "sub/a.bin"], root)
        with pytest.raises(UriError, match=r"a\.bin"):
            s3dlio.upload(tree, root, flatten=True)
        assert s3dlio.list(root) == []
        s3dlio.upload(tree, root)
        with pytest.raises(UriError, match=r"a\.bin"):
            s3dlio.download(root, tmp_path / "down", flatten=True)
        assert not (tmp_path / "down").exists()

    def test_odd_names_travel(self, root: str, tmp_path: Path) -> None:
        names = [name for name in ODD_KEYS if name not in self.impossible_keys]
        tree = {name: name.encode() for name in names}
        make_tree(tmp_path / "odd", tree)
        s3dlio.upload(tmp_path / "odd", f"{root}up/")
        s3dlio.copy(f"{root}up/", f"{root}again/")
        s3dlio.download(f"{root}again/", tmp_path / "down")
        assert read_tree(tmp_path / "down") == tree

    def test_a_missing_bucket_is_told_once(self, nowhere: str, tree: Path) -> None:
        if self.makes_containers:
            return
        with pytest.raises(NotFoundError, match="create_bucket"):
            s3dlio.upload(tree, nowhere)
        assert s3dlio.upload(tree, nowhere, create_bucket=True).transferred == len(_TREE)
        assert s3dlio.upload(tree, nowhere, create_bucket=True, update=True).skipped == len(_TREE)

    def test_transfers_can_be_awaited(self, root: str, tree: Path, tmp_path: Path) -> None:
        async def work() -> None:
            assert (await s3dlio.upload_async(tree, f"{root}a/")).transferred == len(_TREE)
            assert (await s3dlio.copy_async(f"{root}a/", f"{root}b/")).transferred == len(_TREE)
            assert (await s3dlio.download_async(f"{root}b/", tmp_path / "down")).transferred == len(_TREE)

        asyncio.run(work())
        assert read_tree(tmp_path / "down") == _TREE
