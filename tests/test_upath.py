"""Room card: the file systems as paths of universal_pathlib.

Knows its `UPath`.  Must not test the file systems: `test_fsspec_plugin` and its neighbours do.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from upath import UPath
from upath.registry import register_implementation

from s3dlio.integrations.paths import StorePath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.faults import FaultOrigin

_ROOT = Path(__file__).parent.parent
_POINTS = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]


@pytest.fixture(autouse=True)
def registered() -> None:
    """The entry points, also where the library runs without being installed."""
    for protocol, place in _POINTS["fsspec.specs"].items():
        fsspec.register_implementation(protocol, place.replace(":", "."), clobber=True)
    for protocol, place in _POINTS["universal_pathlib.implementations"].items():
        module, _, name = place.partition(":")
        register_implementation(protocol, getattr(importlib.import_module(module), name), clobber=True)


@pytest.fixture(params=["memory", "file"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "file":
        yield UPath(f"s3dlio+file://{tmp_path}")
        return
    fs = fsspec.filesystem("s3dlio+memory")
    fs.makedirs("paths", exist_ok=True)
    yield UPath("s3dlio+memory://paths/base")
    fs.rm("paths", recursive=True)


def test_every_protocol_of_the_file_systems_is_one_of_paths() -> None:
    assert set(_POINTS["universal_pathlib.implementations"]) == set(_POINTS["fsspec.specs"])


def test_upath_finds_the_class_by_its_entry_point_in_a_new_process(tmp_path: Path) -> None:
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {p}\n" for n, p in _POINTS[group].items()) for group in _POINTS]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "x.txt").write_text("spam")
    code = f"""
from upath import UPath
path = UPath("s3dlio+file://{tmp_path}") / "x.txt"
print(type(path).__name__, path.path, path.read_text(), path.parent / "y")
"""
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(_ROOT)])}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["StorePath", f"{tmp_path}/x.txt", "spam", f"s3dlio+file://{tmp_path}/y"]


def test_paths_are_joined_written_listed_and_read(base: Any) -> None:
    path = base / "folder" / "a.txt"
    assert isinstance(path, StorePath)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("spam")
    assert UPath(str(path)) == path
    assert UPath(path).read_bytes() == b"spam"
    assert [found.name for found in base.iterdir()] == ["folder"]
    assert list(base.glob("**/*.txt")) == [path]
    assert path.stat().st_size == 4
    assert path.stat().st_mtime > 0
    assert path.with_suffix(".bin").name == "a.bin"
    assert path.relative_to(base).as_posix() == "folder/a.txt"
    path.rename(base / "b.txt")
    assert not path.exists()
    assert (base / "b.txt").read_text() == "spam"
    with pytest.raises(FileNotFoundError):
        path.read_text()


def test_a_path_keeps_its_options_wherever_it_goes(origin: FaultOrigin) -> None:
    origin.objects["/bucket/a/x"] = b"spam"
    path = UPath("s3dlio+s3://bucket/a", endpoint_url=origin.endpoint_url, anon=True) / "x"
    for same in (path, UPath(path), pickle.loads(pickle.dumps(path)), path.parent / "x", UPath(path.parent, "x")):
        assert str(same) == "s3dlio+s3://bucket/a/x"
        assert same.storage_options == {"endpoint_url": origin.endpoint_url, "anon": True}
        assert same.read_bytes() == b"spam"


def test_paths_of_different_stores_are_not_mixed() -> None:
    path = UPath("s3dlio+memory://bucket/a")
    for other in (UPath("s3dlio+file:///tmp/x"), "s3dlio+file:///tmp/x", "s3://bucket/x"):
        with pytest.raises(ValueError, match="rotocol"):
            _ = StorePath(path, other, protocol="s3dlio+memory")
