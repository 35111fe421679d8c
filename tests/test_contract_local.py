"""Room card: the contract on this machine: memory, files, files past the page cache, and fsspec.

Knows where each of these keeps its objects and what a file system cannot do.  Must not test anything else.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import pytest

import s3dlio
from s3dlio import AlreadyExistsError, ObjectChangedError
from s3dlio.stores.fsspec import FsspecStore
from tests.contract import StoreContract
from tests.contract_base import unique
from tests.disks import real_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestMemory(StoreContract):
    """`memory://`."""

    makes_containers = True  # a space comes into being with its first object; all else needs one that exists
    is_shared = False  # each process has its own

    @pytest.fixture
    def root(self) -> str:
        return f"memory://contract/{unique('t')}/"

    @pytest.fixture
    def nowhere(self) -> str:
        return f"memory://{unique('nowhere')}/"

    @pytest.fixture
    def fresh_container(self) -> str:
        return f"memory://{unique('fresh')}"

    @pytest.fixture(autouse=True)
    def _space(self) -> None:
        s3dlio.put("memory://contract/first", b"")


class _Directories(StoreContract):
    scheme: ClassVar[str]
    keeps_content_type = False  # a file has a name, which tells as much
    keeps_metadata = False  # a file has nowhere to put it
    makes_containers = True  # directories above an object are made
    misses_containers = False  # a directory that is not there is an empty prefix
    has_flat_keys = False  # a path's dots and doubled slashes mean something, and a file has nothing below it
    has_markers = False  # directories are real

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Where the objects lie."""
        return tmp_path

    @pytest.fixture
    def root(self, folder: Path) -> str:
        (folder / "objects").mkdir()
        return f"{self.scheme}://{folder}/objects/"

    @pytest.fixture
    def nowhere(self, folder: Path) -> str:
        return f"{self.scheme}://{folder}/nowhere/"

    @pytest.fixture
    def fresh_container(self, folder: Path) -> str:
        return f"{self.scheme}://{folder}/fresh"

    def test_a_directorys_own_name_lists_what_is_in_it(self, root: str) -> None:
        s3dlio.put_many([(f"{root}{name}", b"") for name in ("data/x", "data/sub/y", "data2/z", "database")])
        assert s3dlio.list(f"{root}data") == [f"{root}data/sub/y", f"{root}data/x"]
        assert s3dlio.list(f"{root}data", recursive=False) == [f"{root}data/sub/", f"{root}data/x"]
        assert s3dlio.list(f"{root}dat", recursive=False) == [
            f"{root}{name}" for name in ("data/", "data2/", "database")
        ]


class TestFile(_Directories):
    """`file://`."""

    scheme = "file"


class TestDirect(_Directories):
    """`direct://`, on a disk whose file system takes O_DIRECT."""

    scheme = "direct"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        with real_disk(tmp_path) as folder:
            yield folder


class TestFsspec(_Directories):
    """A scheme that only fsspec speaks; its local file system shows what gets lost on the way through it."""

    scheme = "local"

    def test_a_reader_sees_the_old_or_the_new_object(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """fsspec writes in place; what is promised here is that a file cut short is an error."""
        s3dlio.put(f"{root}x", b"long enough")
        looked = FsspecStore._look
        monkeypatch.setattr(FsspecStore, "_look", lambda *args: dataclasses.replace(looked(*args), size=12))
        with pytest.raises(ObjectChangedError, match="got 11 bytes where 12"):
            s3dlio.get(f"{root}x")

    def test_of_many_who_create_only_one_succeeds(self, root: str) -> None:
        """fsspec cannot create exclusively: of two at the same time both may succeed, one after the other not."""
        s3dlio.put(f"{root}x", b"1", overwrite=False)
        with pytest.raises(AlreadyExistsError):
            s3dlio.put(f"{root}x", b"2", overwrite=False)
