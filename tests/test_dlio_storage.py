"""Room card: the storage for DLIO, on a stand-in for the parts of DLIO that it builds on.

Knows DLIO's interface for storages. DLIO itself needs MPI and is not installed here.
"""

from __future__ import annotations

import enum
import importlib
import io
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.integrations import dlio
from s3dlio.testing import S3Server
from tests.contract_base import unique

_STORAGE = "s3dlio.integrations.dlio.s3dlio_storage"
_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")


class _Metadata(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"


class _Names(enum.Enum):
    FLAT = "flat"


def _stand_in(args: types.SimpleNamespace) -> dict[str, types.ModuleType]:
    """Returns modules named as DLIO's, with what the storage takes from them."""

    class DataStorage:
        def __init__(self, framework: Any = None) -> None:
            self._args = args
            self.framework = framework

    class Namespace:
        def __init__(self, name: str, kind: _Names) -> None:
            self.name, self.type = name, kind

    names = ("", ".common", ".common.enumerations", ".storage", ".storage.storage_handler")
    modules: dict[str, Any] = {f"dlio_benchmark{name}": types.ModuleType(f"dlio_benchmark{name}") for name in names}
    modules["dlio_benchmark.common.enumerations"].MetadataType = _Metadata
    modules["dlio_benchmark.common.enumerations"].NamespaceType = _Names
    modules["dlio_benchmark.storage.storage_handler"].DataStorage = DataStorage
    modules["dlio_benchmark.storage.storage_handler"].Namespace = Namespace
    return modules


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a storage of a root and of DLIO's arguments; the environment is as it was afterwards."""
    for name in (*_VARIABLES, "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)

    def make(root: str, **given: Any) -> Any:
        for name, module in _stand_in(types.SimpleNamespace(**given)).items():
            monkeypatch.setitem(sys.modules, name, module)
        sys.modules.pop(_STORAGE, None)
        return importlib.import_module(_STORAGE).S3dlioStorage(root, "pytorch")

    yield make
    sys.modules.pop(_STORAGE, None)
    for name in _VARIABLES:
        os.environ.pop(name, None)


def _options(server: S3Server) -> dict[str, str]:
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    return {**keys, "endpoint_url": server.endpoint_url, "region": server.region}


def _check(store: Any) -> None:
    assert store.create_namespace(exist_ok=True)
    assert store.create_node("data/train", exist_ok=True)
    for number in range(3):
        store.put_data(f"data/train/{number}.npz", io.BytesIO(b"0123456789"))
    large = bytes(33 << 20)
    store.put_data("data/large", large)
    assert len(store.get_data("data/large")) == len(large)
    assert store.get_uri("data/large") == store.get_uri(store.get_uri("data/large"))
    assert sorted(store.walk_node("data")) == ["large", "train"]
    assert store.walk_node("data/train") == ["0.npz", "1.npz", "2.npz"]
    assert store.walk_node("data/train/*.npz", use_pattern=True) == [
        store.get_uri(f"data/train/{number}.npz") for number in range(3)
    ]
    assert store.walk_node("none") == []
    assert store.get_data("data/train/1.npz", None) == b"0123456789"
    assert store.get_data("data/train/1.npz", None, offset=2, length=3) == b"234"
    kinds = [store.get_node(path) for path in ("data/train", "data/train/", "data/train/1.npz", "data/none")]
    assert kinds == [_Metadata.DIRECTORY, _Metadata.DIRECTORY, _Metadata.FILE, None]
    assert store.get_namespace() is _Metadata.DIRECTORY
    assert (store.isfile("data/large"), store.get_basename("data/large")) == (True, "large")
    assert store.delete_node("data/large")
    assert not store.isfile("data/large")
    with pytest.raises(s3dlio.NotFoundError):
        store.get_data("data/large")


def test_objects_are_kept_on_a_server(storage: Callable[..., Any], rclone: S3Server) -> None:
    bucket = unique("dlio")
    rclone.make_bucket(bucket)
    _check(storage(bucket, storage_options=_options(rclone)))


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_objects_are_kept_in_files(storage: Callable[..., Any], tmp_path: Path, scheme: str) -> None:
    _check(storage(f"{scheme}://{tmp_path}/root"))


def test_each_rank_takes_one_of_several_servers(storage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "5")
    storage("s3://b", storage_options={}, endpoint_uris=[f"http://10.0.0.{number}" for number in range(4)])
    assert os.environ["AWS_ENDPOINT_URL"] == "http://10.0.0.1"
    storage("s3://b", storage_options={"endpoint_url": "http://other"})
    assert os.environ["AWS_ENDPOINT_URL"] == "http://10.0.0.1"  # what is set stays


def test_a_dlio_is_led_to_the_storage(storage: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    old = tmp_path / "storage/s3_torch_storage.py"
    old.write_text("old = 1\n")
    for _ in range(2):
        path = dlio.install_dropin_replacement(tmp_path)
    assert (path, (tmp_path / "storage/s3_torch_storage.py.original.bak").read_text()) == (str(old), "old = 1\n")
    made = type(storage("file:///tmp"))
    written = {path: "S3PyTorchConnectorStorage", dlio.install_s3dlio_storage(tmp_path): "S3dlioStorage"}
    for file, name in written.items():
        found: dict[str, Any] = {}
        exec(compile(Path(file).read_text(), file, "exec"), found)
        assert found[name] is made
    assert Path(dlio.get_s3dlio_storage_path()).is_file()
    with pytest.raises(s3dlio.OptionError, match="no folder"):
        dlio.install_s3dlio_storage(tmp_path / "none")
