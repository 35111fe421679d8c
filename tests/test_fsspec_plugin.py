"""Room card: the fsspec file systems beyond fsspec's own suite: files, bulk reads, and the libraries that stand on it.

Knows how many requests things should take.  Must not test paths and directories: `test_fsspec_suite` does.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import zarr
import zarr.storage

import s3dlio
from s3dlio import fsspec_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin

_ROOT = Path(__file__).parent.parent
_ENTRY_POINTS = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fsspec.specs"]
_MIB = 1 << 20


@pytest.fixture(autouse=True)
def registered() -> None:
    """The entry points, also where the library runs without being installed."""
    for protocol, place in _ENTRY_POINTS.items():
        fsspec.register_implementation(protocol, place.replace(":", "."), clobber=True)


@pytest.fixture
def fs() -> Iterator[Any]:
    fs = fsspec.filesystem("s3dlio+memory")
    fs.makedirs("plugin", exist_ok=True)
    yield fs
    fs.rm("plugin", recursive=True)


@pytest.fixture(params=["memory", "file", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place to write to, with its protocol."""
    if request.param == "file":
        yield f"s3dlio+file://{tmp_path}"
        return
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("rclone")
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
    fs = fsspec.filesystem(f"s3dlio+{request.param}")
    fs.makedirs("users", exist_ok=True)
    yield f"s3dlio+{request.param}://users"
    fs.rm("users", recursive=True)


def _remote(origin: FaultOrigin, path: str, data: bytes) -> Any:
    origin.objects[path] = data
    return fsspec_plugin.S3(
        endpoint_url=origin.endpoint_url, anon=True, chunk_size=_MIB, min_split_size=_MIB, skip_instance_cache=True
    )


def _got(origin: FaultOrigin) -> list[str]:
    return [f"{request.method} {request.headers.get('range', '')}".strip() for request in origin.requests]


# -- registration ---------------------------------------------------------------------------------------


def test_fsspec_finds_every_protocol_by_its_entry_point(tmp_path: Path) -> None:
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in _ENTRY_POINTS.items()]
    (info / "entry_points.txt").write_text("\n".join(["[fsspec.specs]", *lines]) + "\n")
    program = f"""
import fsspec, sys
for name in {sorted(_ENTRY_POINTS)!r}:
    fs = fsspec.filesystem(name)
    assert fs.protocol[0] == name and fs.scheme == name.partition("+")[2], name
with fsspec.open("s3dlio+memory://demo/x", "wb") as file:
    file.write(b"spam")
print(fsspec.open("s3dlio+memory://demo/x").open().read())
"""
    path = os.pathsep.join([str(tmp_path), str(_ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.stdout.strip() == "b'spam'", done.stderr


def test_the_base_class_asks_for_a_store() -> None:
    with pytest.raises(s3dlio.OptionError, match=r"s3dlio\+s3"):
        fsspec_plugin.S3dlioFileSystem()


def test_options_go_to_the_store_by_both_names_and_misspelt_ones_are_refused() -> None:
    fs = fsspec.filesystem("s3dlio+s3", key="who", secret="knows", endpoint_url="http://127.0.0.1:1", chunk_size=_MIB)
    assert (fs.options.access_key_id, fs.options.secret_access_key) == ("who", "knows")
    assert fs.options.chunk_size == _MIB
    assert "knows" not in repr(fs)
    with pytest.raises(s3dlio.OptionError, match="chunk_size"):
        fsspec.filesystem("s3dlio+s3", chunk_sise=1)


def test_a_file_system_pickles_as_its_options_and_works_in_a_forked_child(rclone: S3Server) -> None:
    fs = fsspec_plugin.S3(endpoint_url=rclone.endpoint_url, key=rclone.access_key, secret=rclone.secret_key)
    fs.makedirs("forked", exist_ok=True)
    fs.pipe("forked/a", b"spam")
    assert pickle.loads(pickle.dumps(fs)) == fs
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if fs.cat("forked/a") == b"spam" and fs.ls("forked", detail=False) == ["forked/a"] else 1)
        except BaseException:  # noqa: BLE001 - the child ends here whatever happens
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- reading --------------------------------------------------------------------------------------------


def test_a_small_object_costs_one_request_whatever_is_done_with_its_file(origin: FaultOrigin) -> None:
    fs = _remote(origin, "/bucket/lines", b"".join(b"line %d\n" % number for number in range(1000)))
    with fs.open("bucket/lines") as file:
        assert file.readline() == b"line 0\n"
        assert file.read(5) == b"line "
        file.seek(-9, io.SEEK_END)
        assert file.readlines() == [b"line 999\n"]
        assert file.peek(1) == b""
        file.seek(0)
        assert sum(1 for _ in file) == 1000
    assert len(_got(origin)) == 1


def test_reads_in_a_row_take_ever_fewer_requests_and_jumps_bring_one_block(origin: FaultOrigin) -> None:
    data = np.random.default_rng(1).bytes(9 * _MIB)
    fs = _remote(origin, "/bucket/large", data)
    with fs.open("bucket/large", block_size=_MIB) as file:
        assert b"".join(iter(lambda: file.read(10_000), b"")) == data
        in_a_row = len(_got(origin))
        assert in_a_row <= 1 + 4 + 9  # the beginning, doubling to 1 MiB, then 1 MiB each
        file.seek(_MIB)
        assert file.read(10) == data[_MIB : _MIB + 10]
    with fs.open("bucket/large") as file:
        origin.requests.clear()
        file.seek(5 * _MIB + 7)
        assert file.read(3) == data[5 * _MIB + 7 : 5 * _MIB + 10]
    assert _got(origin) == [f"GET bytes={5 * _MIB}-{5 * _MIB + 65535}"]


def test_a_large_read_goes_straight_into_the_readers_memory(origin: FaultOrigin) -> None:
    data = np.random.default_rng(2).bytes(4 * _MIB)
    fs = _remote(origin, "/bucket/large", data)
    target = np.zeros(3 * _MIB, np.uint8)
    with fs.open("bucket/large") as file:
        file.seek(_MIB)
        assert file.readinto(target) == len(target)
        assert file.tell() == 4 * _MIB
        assert file.readinto(bytearray(1)) == 0
    assert target.tobytes() == data[_MIB:]
    read = sum(int(r.rpartition("-")[2]) - int(r.partition("=")[2].partition("-")[0]) + 1 for r in _got(origin)[1:])
    assert read == 3 * _MIB


@pytest.mark.parametrize("cache_type", ["readahead", "none", "blockcache", "bytes", "all"])
def test_any_of_fsspecs_caches_gives_the_same_bytes(fs: Any, cache_type: str) -> None:
    data = np.random.default_rng(3).bytes(700_000)
    fs.pipe("plugin/x", data)
    with fs.open("plugin/x", cache_type=cache_type, block_size=100_000) as file:
        file.seek(123_456)
        assert file.read(300_000) == data[123_456:423_456]
        assert file.peek(1)[:1] == data[423_456:423_457]
        assert file.read() == data[423_456:]
    with pytest.raises(s3dlio.OptionError, match="did you mean 'readahead'"):
        fs.open("plugin/x", cache_type="readahaed")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # MMapCache
@pytest.mark.parametrize("layer", ["blockcache", "filecache", "simplecache"])
def test_a_local_cache_of_fsspecs_keeps_what_was_read(base: str, tmp_path: Path, layer: str) -> None:
    uri, data = f"{base}/kept", np.random.default_rng(7).bytes(300_000)
    with fsspec.open(uri, "wb") as file:
        file.write(data)
    how = {layer: {"cache_storage": str(tmp_path / "cache")}}
    for _ in range(2):
        with fsspec.open(f"{layer}::{uri}", "rb", **how) as file:
            assert file.seek(200_000) == 200_000
            assert file.read(1000) == data[200_000:201_000]
            file.seek(0)
            assert file.read() == data
        assert file.closed
    assert any((tmp_path / "cache").iterdir())


def test_an_open_file_pickles_with_its_place_unless_the_object_was_replaced(fs: Any) -> None:
    fs.pipe("plugin/x", b"spam and eggs")
    file = fs.open("plugin/x")
    file.seek(5)
    packed = pickle.dumps(file)
    assert pickle.loads(packed).read() == b"and eggs"
    fs.pipe("plugin/x", b"eggs and spam")
    with pytest.raises(s3dlio.ObjectChangedError):
        pickle.loads(packed)


def test_a_closed_file_says_so(fs: Any) -> None:
    fs.pipe("plugin/x", b"spam")
    file = fs.open("plugin/x")
    file.close()
    for use in (file.read, file.tell, lambda: file.seek(0), lambda: file.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_ranges_are_read_as_one_batch_with_negative_places_from_the_end(fs: Any) -> None:
    fs.pipe({f"plugin/{n}": b"%03d" % n * 10 for n in range(50)})
    paths = [f"plugin/{n}" for n in range(50)]
    assert fs.cat_ranges(paths, 0, 3) == [b"%03d" % n for n in range(50)]
    assert fs.cat_ranges(paths[:2], [-3, None], [None, -27]) == [b"000", b"001"]
    assert fs.cat_file("plugin/7", -6, -3) == b"007"
    assert fs.cat_file("plugin/7", 4, 2) == b""
    found = fs.cat_ranges([*paths[:1], "plugin/none"], 0, 3)
    assert found[0] == b"000"
    assert isinstance(found[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["plugin/none"], 0, 3, on_error="raise")


def test_cat_reads_lists_patterns_and_trees(fs: Any) -> None:
    fs.pipe({"plugin/a/x": b"1", "plugin/a/y": b"2", "plugin/b": b"3"})
    assert fs.cat("plugin/b") == b"3"
    assert fs.cat(["plugin/b"]) == {"plugin/b": b"3"}
    assert fs.cat("plugin/a/*") == {"plugin/a/x": b"1", "plugin/a/y": b"2"}
    assert fs.cat("plugin", recursive=True) == {"plugin/a/x": b"1", "plugin/a/y": b"2", "plugin/b": b"3"}
    assert fs.cat(["plugin/b", "plugin/none"], on_error="omit") == {"plugin/b": b"3"}
    assert isinstance(fs.cat(["plugin/none"], on_error="return")["plugin/none"], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat(["plugin/none"])


def test_a_failure_to_find_out_is_never_no(origin: FaultOrigin) -> None:
    from tests.servers.faults import s3_error

    fs = _remote(origin, "/bucket/x", b"")
    for ask in (fs.exists, fs.isfile, fs.isdir, fs.ls, fs.find, lambda path: list(fs.walk(path)), fs.glob):
        origin.plan_all(*[s3_error(403, "AccessDenied")] * 2)
        with pytest.raises(PermissionError):
            ask("bucket/x/*" if ask == fs.glob else "bucket/x")


# -- what is told ---------------------------------------------------------------------------------------


def test_listings_tell_sizes_versions_and_times(base: str) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    fs.pipe({f"{root}/d/x": b"12345", f"{root}/d/e/y": b"1"})
    described = {info["name"]: (info["type"], info["size"]) for info in fs.ls(f"{root}/d")}
    assert described == {f"{root}/d/x": ("file", 5), f"{root}/d/e": ("directory", 0)}
    assert fs.find(root) == [f"{root}/d/e/y", f"{root}/d/x"]
    assert set(fs.find(root, withdirs=True)) >= {f"{root}/d", f"{root}/d/e", f"{root}/d/e/y", f"{root}/d/x"}
    assert fs.glob(f"{root}/**/y") == [f"{root}/d/e/y"]
    assert [place for place, _, _ in fs.walk(root)] == [root, f"{root}/d", f"{root}/d/e"]
    assert fs.du(root) == 6
    assert fs.modified(f"{root}/d/x").tzinfo is not None
    assert fs.created(f"{root}/d/x") == fs.modified(f"{root}/d/x")
    before = fs.ukey(f"{root}/d/x"), fs.checksum(f"{root}/d/x")
    fs.pipe(f"{root}/d/x", b"67890!")
    assert fs.ukey(f"{root}/d/x") != before[0]
    assert fs.checksum(f"{root}/d/x") != before[1]
    fs.invalidate_cache()
    fs.invalidate_cache(f"{root}/d/x")
    assert fs.cat(f"{root}/d/x") == b"67890!"
    fs.mv(f"{root}/d/x", f"{root}/z")
    assert fs.find(root) == [f"{root}/d/e/y", f"{root}/z"]
    fs.rm([f"{root}/z", f"{root}/d/e/y"])
    assert fs.find(root) == []


def test_directories_are_made_and_removed_where_there_are_any(tmp_path: Path) -> None:
    fs = fsspec_plugin.File()
    fs.mkdir(f"{tmp_path}/a/b")
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{tmp_path}/a/b")
    with pytest.raises(FileNotFoundError):
        fs.mkdir(f"{tmp_path}/x/y", create_parents=False)
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{tmp_path}/a")
    fs.rmdir(f"{tmp_path}/a/b")
    assert fs.ls(f"{tmp_path}/a") == []
    fs.rm(f"{tmp_path}/a", recursive=True)
    assert not fs.exists(f"{tmp_path}/a")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{tmp_path}/a")


def test_touch_makes_and_empties_but_sets_no_times(fs: Any) -> None:
    fs.touch("plugin/x")
    assert fs.size("plugin/x") == 0
    fs.pipe("plugin/x", b"spam")
    with pytest.raises(NotImplementedError):
        fs.touch("plugin/x", truncate=False)
    fs.touch("plugin/x")
    assert fs.size("plugin/x") == 0


# -- writing --------------------------------------------------------------------------------------------


def test_nothing_is_seen_until_the_file_is_closed_nor_when_its_block_raises(base: str) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    with fs.open(f"{root}/x", "wb") as file:
        file.write(b"spam" * 1000)
        file.flush()
        assert fs.find(root) == []
    assert fs.cat(f"{root}/x") == b"spam" * 1000
    for mode, how in (("wb", {}), ("wb", {"compression": "gzip"}), ("w", {}), ("wt", {"compression": "gzip"})):
        with pytest.raises(ZeroDivisionError), fs.open(f"{root}/y", mode, **how) as file:  # noqa: PT012
            file.write("eggs" if "b" not in mode else b"eggs")
            _ = 1 / 0
    file = fs.open(f"{root}/z", "wb")
    file.write(b"eggs")
    del file  # let go without being closed
    text = fs.open(f"{root}/z", "w", compression="gzip")
    text.write("eggs")
    del text
    assert fs.find(root) == [f"{root}/x"]


def test_text_and_compression_are_layers_on_the_bytes(base: str) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    with fs.open(f"{root}/x.gz", "w", compression="infer", encoding="latin-1") as file:
        file.write("späm\n" * 3)
    assert gzip.decompress(fs.cat(f"{root}/x.gz")) == "späm\n".encode("latin-1") * 3
    with fs.open(f"{root}/x.gz", compression="infer") as file:
        file.seek(5)
        assert file.read() == "späm\n".encode("latin-1") * 2
    with fs.open(f"{root}/x.gz", "r", compression="gzip", encoding="latin-1") as file:
        assert list(file) == ["späm\n"] * 3
    with fsspec.open(f"{base}/y.bz2", "wt", compression="infer") as file:
        file.write("eggs")
    with fsspec.open(f"{base}/y.bz2", "rt", compression="infer") as file:
        assert file.read() == "eggs"


def test_a_file_is_appended_to_and_one_that_exists_is_not_replaced_by_x(base: str) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    for piece in (b"spam", b" and", b" eggs"):
        with fs.open(f"{root}/x", "ab") as file:
            assert file.tell() == (fs.size(f"{root}/x") if fs.exists(f"{root}/x") else 0)
            file.write(piece)
    assert fs.cat(f"{root}/x") == b"spam and eggs"
    with pytest.raises(FileExistsError):
        fs.open(f"{root}/x", "xb")
    with pytest.raises(ValueError, match="r\\+b"):
        fs.open(f"{root}/x", "r+b")


def test_many_files_are_copied_at_once_and_the_first_failure_is_raised(base: str, tmp_path: Path) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    source = tmp_path / "local"
    (source / "sub").mkdir(parents=True)
    for number in range(40):
        (source / "sub" / f"{number}").write_bytes(b"%d" % number * 100)
    fs.put(str(source), f"{root}/up", recursive=True)
    fs.copy(f"{root}/up/", f"{root}/copy/", recursive=True)
    fs.get(f"{root}/copy/sub/", f"{tmp_path}/down/", recursive=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "down").iterdir()} == {
        f"{number}": b"%d" % number * 100 for number in range(40)
    }
    with pytest.raises(FileNotFoundError):
        fs.get([f"{root}/up/sub/1", f"{root}/none"], [f"{tmp_path}/1", f"{tmp_path}/none"])
    with pytest.raises(FileNotFoundError):
        fs.copy([f"{root}/none"], [f"{root}/other"])
    fs.copy([f"{root}/none"], [f"{root}/other"], on_error="ignore")
    told = fsspec.callbacks.Callback()
    fs.get(f"{root}/up/sub/", f"{tmp_path}/told/", recursive=True, callback=told)
    assert told.value == told.size >= 40


def test_copies_are_under_way_at_once(origin: FaultOrigin, tmp_path: Path) -> None:
    fs = _remote(origin, "/bucket/0", b"x")
    origin.objects.update({f"/bucket/{number}": b"%d" % number for number in range(16)})
    fs.get([f"bucket/{number}" for number in range(16)], [f"{tmp_path}/{number}" for number in range(16)])
    assert sorted(_got(origin)) == sorted(["GET bytes=0-262143"] * 16)
    assert (tmp_path / "7").read_bytes() == b"7"


def test_a_transaction_is_seen_at_its_end_or_not_at_all(fs: Any) -> None:
    with fs.transaction:
        for name in "ab":
            with fs.open(f"plugin/{name}", "wb") as file:
                file.write(b"spam")
        assert fs.find("plugin") == []
    assert fs.find("plugin") == ["plugin/a", "plugin/b"]
    with pytest.raises(ZeroDivisionError), fs.transaction:  # noqa: PT012
        with fs.open("plugin/c", "wb") as file:
            file.write(b"spam")
        _ = 1 / 0
    assert fs.find("plugin") == ["plugin/a", "plugin/b"]


# -- the libraries that stand on it ---------------------------------------------------------------------


def test_pandas_reads_and_writes_tables(base: str) -> None:
    frame = pd.DataFrame({"number": range(1000), "name": [f"row {n}" for n in range(1000)]})
    for name in ("t.csv", "t.csv.gz"):
        frame.to_csv(f"{base}/{name}", index=False)
        pd.testing.assert_frame_equal(pd.read_csv(f"{base}/{name}"), frame)
    frame.to_parquet(f"{base}/t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(f"{base}/t.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{base}/t.parquet", columns=["number"]), frame[["number"]])


def test_pyarrow_reads_and_writes_datasets(base: str) -> None:
    fs, root = fsspec.core.url_to_fs(base)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    table = pa.table({"part": [n % 3 for n in range(900)], "value": np.arange(900.0)})
    ds.write_dataset(table, f"{root}/set", filesystem=arrow, format="parquet", partitioning=["part"])
    found = ds.dataset(f"{root}/set", filesystem=arrow, format="parquet", partitioning=["part"])
    assert found.count_rows() == 900
    assert found.to_table(filter=ds.field("part") == 1)["value"].to_pylist() == table["value"].to_pylist()[1::3]
    pq.write_table(table, f"{root}/one.parquet", filesystem=fs)
    assert pq.read_table(f"{root}/one.parquet", filesystem=arrow) == table
    infos = arrow.get_file_info(pafs.FileSelector(f"{root}/set", recursive=True))
    assert sum(info.is_file for info in infos) == 3
    arrow.delete_dir(f"{root}/set")
    assert arrow.get_file_info(f"{root}/set").type == pafs.FileType.NotFound


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_reads_and_writes_arrays(base: str, version: Any) -> None:
    numbers = np.arange(10_000).reshape(100, 100)
    store = zarr.storage.FsspecStore.from_url(f"{base}/a.zarr")
    array = zarr.create_array(store, shape=numbers.shape, chunks=(30, 30), dtype=numbers.dtype, zarr_format=version)
    array[:] = numbers
    again = zarr.open_array(zarr.storage.FsspecStore.from_url(f"{base}/a.zarr", read_only=True), mode="r")
    assert np.array_equal(again[:], numbers)
    assert np.array_equal(again[17:50, 29], numbers[17:50, 29])


def test_what_is_mapped_behaves_as_a_mapping(fs: Any) -> None:
    mapper = fs.get_mapper("plugin/map")
    mapper["a"] = b"1"
    mapper.setitems({"b/c": b"2"})
    assert sorted(mapper) == ["a", "b/c"]
    assert mapper.getitems(["a", "b/c", "none"], on_error="omit") == {"a": b"1", "b/c": b"2"}
    with pytest.raises(KeyError):
        mapper["none"]
    del mapper["a"]
    assert sorted(mapper) == ["b/c"]
