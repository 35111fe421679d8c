"""Room card: fsspec's own tests of a file system, on files, in memory and on an S3 server.

Knows which fixtures that suite asks for.  Must not test anything itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fsspec.tests import abstract

from s3dlio import fsspec_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3dlio.fsspec_plugin import S3dlioFileSystem
    from tests.servers.moto import MotoServer


class MemoryFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self) -> Iterator[S3dlioFileSystem]:
        fs = fsspec_plugin.Memory()
        fs.mkdir("suite")
        yield fs
        fs.rm("suite", recursive=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "suite"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class FileFixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self) -> S3dlioFileSystem:
        return fsspec_plugin.File()

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        folder = tmp_path / "suite"
        folder.mkdir()
        return str(folder)


class S3Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3dlioFileSystem]:
        """rclone knows no conditional puts, and keeps empty folders when objects of a new one come together."""
        for name, value in moto.env.items():
            monkeypatch.setenv(name, value)
        fs = fsspec_plugin.S3()
        fs.makedirs("suite", exist_ok=True)
        yield fs
        for path in fs.ls("suite", detail=False):
            fs.rm(path, recursive=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "suite"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopyInMemory(abstract.AbstractCopyTests, MemoryFixtures): ...


class TestGetFromMemory(abstract.AbstractGetTests, MemoryFixtures): ...


class TestPutIntoMemory(abstract.AbstractPutTests, MemoryFixtures): ...


class TestOpenInMemory(abstract.AbstractOpenTests, MemoryFixtures): ...


class TestPipeIntoMemory(abstract.AbstractPipeTests, MemoryFixtures): ...


class TestCopyOfFiles(abstract.AbstractCopyTests, FileFixtures): ...


class TestGetFromFiles(abstract.AbstractGetTests, FileFixtures): ...


class TestPutIntoFiles(abstract.AbstractPutTests, FileFixtures): ...


class TestOpenFiles(abstract.AbstractOpenTests, FileFixtures): ...


class TestPipeIntoFiles(abstract.AbstractPipeTests, FileFixtures): ...


class TestCopyOnS3(abstract.AbstractCopyTests, S3Fixtures): ...


class TestGetFromS3(abstract.AbstractGetTests, S3Fixtures): ...


class TestPutIntoS3(abstract.AbstractPutTests, S3Fixtures): ...


class TestOpenOnS3(abstract.AbstractOpenTests, S3Fixtures): ...


class TestPipeIntoS3(abstract.AbstractPipeTests, S3Fixtures): ...
