"""Room card: what `file://` does with a real file system: atomic writes, links, refusals, odd names.

Knows the disk.  Must not repeat what `tests.contract` shows of every backend.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio import AccessDeniedError, NotFoundError, StoreError, UriError
from s3dlio.cancel import CancellationToken
from s3dlio.errors import IntegrityError
from s3dlio.stores import local
from s3dlio.stores.draft import Draft, FileUpload
from s3dlio.uri import parse
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65534
# Ends itself by SIGKILL when the new content is written and not yet in its place.
_KILLED = """
import os, signal, sys
import s3dlio
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
s3dlio.put(sys.argv[1], bytes(3_000_000))
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A directory, as a prefix."""
    return f"file://{tmp_path}/"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextlib.contextmanager
def _nobody() -> Iterator[None]:
    """Gives up the right to read everything that root has."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if mine == 0:
            os.seteuid(mine)


# -- writing ------------------------------------------------------------------------------------------


def test_nothing_can_be_seen_of_an_object_that_is_being_written(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.put(f"{root}x", b"old")
    seen: list[object] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        if not seen:
            seen.extend([s3dlio.list(root), s3dlio.list(root, recursive=False), bytes(s3dlio.get(f"{root}x"))])
            seen.append(len(os.listdir(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    s3dlio.put(f"{root}x", b"new")
    assert seen == [[f"{root}x"], [f"{root}x"], b"old", 2]
    assert os.listdir(tmp_path) == ["x"]


def test_an_object_is_on_the_disk_before_it_is_in_its_place(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real = {"fsync": os.fsync, "replace": os.replace}
    for name, call in real.items():
        monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (done.append(name), call(*args)))
    s3dlio.put(f"{root}x", b"new")
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the directory that holds the name


def test_a_writer_killed_on_the_way_leaves_the_old_object(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}x", b"old")
    ended = subprocess.run([sys.executable, "-c", _KILLED, f"{root}x"], check=False, timeout=PROGRAM_S)
    assert ended.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    assert s3dlio.get(f"{root}x") == b"old"
    assert s3dlio.list(root) == [f"{root}x"]
    s3dlio.delete(root, recursive=True)
    assert not tmp_path.exists()


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_a_failed_write_leaves_nothing_behind(
    root: str, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.put(f"{root}x", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StoreError, match="No space left") as caught:
            s3dlio.put(f"{root}x", b"new")
    assert (caught.value.uri, caught.value.operation) == (f"{root}x", "put")
    assert os.listdir(tmp_path) == ["x"]
    assert s3dlio.get(f"{root}x") == b"old"


def test_a_file_of_another_length_gets_no_name(tmp_path: Path) -> None:
    draft = Draft(parse(f"file://{tmp_path}/x"))
    draft.write(0, [memoryview(b"abc")], CancellationToken())
    upload = FileUpload(parse(f"file://{tmp_path}/x"), draft, overwrite=True)
    with pytest.raises(IntegrityError, match="3 bytes, 4 were written"):
        upload.complete(4, 1, CancellationToken())
    assert not (tmp_path / "x").exists()
    upload.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_short_write_is_continued(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: real(descriptor, data[:7], place))
    s3dlio.put(f"{root}x", b"0123456789" * 5)
    assert s3dlio.get(f"{root}x") == b"0123456789" * 5


def test_a_short_read_is_continued(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put(f"{root}x", b"0123456789" * 5)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, at: real(descriptor, [views[0][:7]], at))
    assert s3dlio.get(f"{root}x") == b"0123456789" * 5


def test_new_files_have_the_usual_permissions(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}dir/x", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "dir/x").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["n" * 255, "漢" * 85, "😀" * 63], ids=["1 byte", "3 bytes", "4 bytes"])
def test_a_name_may_be_as_long_as_the_file_system_allows(root: str, name: str) -> None:
    s3dlio.put(f"{root}{name}", b"x")
    assert s3dlio.list(root) == [f"{root}{name}"]
    with pytest.raises(StoreError, match="too long"):
        s3dlio.put(f"{root}{name}nnnn", b"x")


# -- what is not a plain file -------------------------------------------------------------------------


def test_a_directory_is_no_object(root: str) -> None:
    s3dlio.mkdir(f"{root}dir")
    assert s3dlio.exists(f"{root}dir")
    assert s3dlio.stat(f"{root}dir")["content_type"] == "application/x-directory"
    with pytest.raises(NotFoundError, match="is a directory"):
        s3dlio.get(f"{root}dir")
    with pytest.raises(UriError):
        s3dlio.put(f"{root}dir/", b"")
    for write in (s3dlio.delete, lambda uri: s3dlio.put(uri, b"")):
        with pytest.raises(StoreError) as caught:
            write(f"{root}dir")
        assert caught.value.uri == f"{root}dir"
    assert s3dlio.list(root, recursive=False) == [f"{root}dir/"]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("below", ["file/x", "file/x/y"])
def test_nothing_can_be_written_below_a_file(root: str, below: str, overwrite: bool) -> None:
    s3dlio.put(f"{root}file", b"kept")
    with pytest.raises(StoreError, match="a file stands where a directory is needed") as caught:
        s3dlio.put(f"{root}{below}", b"", overwrite=overwrite)
    assert (type(caught.value), caught.value.uri) == (StoreError, f"{root}{below}")
    assert not s3dlio.exists(f"{root}{below}")


def test_a_pipe_is_refused_and_not_waited_for(root: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="not a regular file"):
        s3dlio.get(f"{root}pipe")
    assert s3dlio.list(root) == []


def test_links_are_followed_by_reads_and_listings(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}real/x", b"x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").symlink_to("real/x")
    (tmp_path / "broken").symlink_to("nowhere")
    assert s3dlio.get(f"{root}link/x") == s3dlio.get(f"{root}file") == b"x"
    assert s3dlio.list(root) == [f"{root}file", f"{root}link/x", f"{root}real/x"]
    assert s3dlio.list(f"{root}link") == [f"{root}link/x"]
    assert not s3dlio.exists(f"{root}broken")


def test_a_write_replaces_a_link_and_not_what_it_leads_to(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}real", b"kept")
    (tmp_path / "link").symlink_to("real")
    s3dlio.put(f"{root}link", b"new")
    assert (s3dlio.get(f"{root}real"), s3dlio.get(f"{root}link")) == (b"kept", b"new")


def test_a_recursive_delete_does_not_follow_links(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}precious/x", b"kept")
    s3dlio.put(f"{root}waste/y", b"")
    (tmp_path / "waste/link").symlink_to("../precious")
    (tmp_path / "waste/broken").symlink_to("nowhere")
    s3dlio.delete(f"{root}waste", recursive=True)
    assert s3dlio.list(root) == [f"{root}precious/x"]
    assert os.listdir(tmp_path) == ["precious"]


def test_links_in_a_circle_are_an_error_and_not_an_endless_listing(root: str, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(".")
    s3dlio.put(f"{root}x", b"")
    with pytest.raises(StoreError, match="symbolic links"):
        s3dlio.list(root)


# -- refusals -----------------------------------------------------------------------------------------


def test_without_permission_nothing_is_taken_for_missing(open_folder: Path) -> None:
    root = f"file://{open_folder}/closed/"
    s3dlio.put(f"{root}x", b"x")
    (open_folder / "closed").chmod(0o000)
    verbs = (s3dlio.get, s3dlio.exists, s3dlio.stat, s3dlio.delete, lambda uri: s3dlio.put(uri, b""))
    with _nobody():
        for verb in verbs:
            with pytest.raises(AccessDeniedError) as caught:
                verb(f"{root}x")
            assert caught.value.uri == f"{root}x"
        with pytest.raises(AccessDeniedError):
            s3dlio.list(root)
    (open_folder / "closed").chmod(0o755)
    assert s3dlio.get(f"{root}x") == b"x"


def test_the_root_directory_is_never_deleted() -> None:
    for uri in ("file:///", "direct:///"):
        with pytest.raises(UriError, match="root directory"):
            s3dlio.delete(uri, recursive=True)


def test_a_directory_with_something_new_in_it_stays(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put(f"{root}dir/x", b"")
    real = local.LocalStore.prune

    def late(*args: object) -> None:
        (tmp_path / "dir/new").write_bytes(b"kept")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(local.LocalStore, "prune", late)
    with contextlib.suppress(StoreError):
        s3dlio.delete(f"{root}dir", recursive=True)
    assert s3dlio.list(root) == [f"{root}dir/new"]


# -- names --------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_can_be_used(root: str, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"latin-\xe9")).write_bytes(b"x")
    found = s3dlio.list(root)
    assert s3dlio.get(found[0]) == b"x"
    s3dlio.delete(found)
    assert s3dlio.list(root) == []


def test_a_deep_tree_is_listed_in_order(root: str) -> None:
    names = ["a/" * depth + "x" for depth in range(40)] + ["a.b", "a/a-", "b"]
    s3dlio.put_many([(f"{root}{name}", b"") for name in names])
    assert s3dlio.list(root) == [f"{root}{name}" for name in sorted(names)]


def test_a_relative_or_odd_path_is_taken_as_the_system_takes_it(root: str) -> None:
    s3dlio.put(f"{root}dir//sub/../x", b"x")
    assert s3dlio.get(f"{root}dir/x") == b"x"
    assert s3dlio.list(f"{root}dir//") == [f"{root}dir//x"]
