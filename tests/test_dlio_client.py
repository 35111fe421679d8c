"""Room card: plays DLIO and MLPerf Storage: every call of theirs, as they spell it.

Knows those clients' sources by their calls.  Must not test what other names of the library do.
"""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import s3dlio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin


@pytest.fixture(params=["s3", "file", "direct"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place, without a slash at its end."""
    if request.param != "s3":
        yield f"{request.param}://{tmp_path}/data"
        return
    server: S3Server = request.getfixturevalue("rclone")
    with server.activate():
        if "s3://dlio" not in s3dlio.list_containers():
            s3dlio.create_bucket("dlio")
        s3dlio.delete("s3://dlio/", recursive=True)
        yield "s3://dlio/data"


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A Parquet file of five row groups of 100 rows."""
    rows = pa.table({"number": range(500), "name": [f"row {n}" for n in range(500)], "half": np.arange(500) / 2})
    pq.write_table(rows, tmp_path / "t.parquet", row_group_size=100)
    return f"file://{tmp_path}/t.parquet"


def _from_origin(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")


# -- objects --------------------------------------------------------------------------------------------


def test_the_storage_layer_lists_reads_writes_and_deletes(root: str) -> None:
    assert s3dlio.list(f"{root}/") == []
    uris = [f"{root}/train/{number}.npz" for number in range(6)]
    for uri in uris:
        s3dlio.put_bytes(uri, memoryview(np.arange(100, dtype=np.uint8)))
    assert s3dlio.list(f"{root}/", recursive=True) == s3dlio.list_full_uris(f"{root}/") == uris
    assert s3dlio.exists(uris[0])
    assert s3dlio.stat(uris[0])["size"] == 100
    view = s3dlio.get_bytes(uris[0])
    assert type(view).__name__ == "BytesView"
    assert len(view) == len(io.BytesIO(view).read()) == np.frombuffer(view, np.uint8).size == 100
    assert s3dlio.get_range(uris[0], 10, 5) == s3dlio.get_range(uris[0], offset=10, length=5) == bytes(range(10, 15))
    assert {uri: len(data) for uri, data in s3dlio.get_many(uris, max_in_flight=3)} == dict.fromkeys(uris, 100)
    s3dlio.delete(uris[0])
    assert not s3dlio.exists(uris[0])


def test_the_asynchronous_loader_gives_every_object_once_in_batches_then_none(root: str) -> None:
    uris = [f"{root}/{number:03d}" for number in range(50)]
    s3dlio.put_many([(uri, b"x" * (number + 1)) for number, uri in enumerate(uris)])
    dataset = s3dlio.PyDataset.from_uris(uris)
    stream = s3dlio.PyBytesAsyncDataLoader(dataset, {"prefetch": 8, "skip_head": True}).items()
    batches = []
    while batch := stream.collect_batch(16):
        batches.append(batch)
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    assert stream.collect_batch(16) == []
    found = {item.uri: len(item) for batch in batches for item in batch}
    assert found == {uri: number + 1 for number, uri in enumerate(uris)}
    item = batches[0][0]
    assert bytes(item) == item.data == item.memoryview() == b"x" * len(item)
    assert (len(dataset), len(s3dlio.PyDataset(f"{root}/")), dataset.get_item(2)) == (50, 50, b"xxx")
    assert sorted(len(data) for data in s3dlio.PyBytesAsyncDataLoader(dataset)) == list(range(1, 51))
    assert [len(batch) for batch in s3dlio.PyBytesAsyncDataLoader(dataset, {"batch_size": 20})] == [20, 20, 10]


def test_the_loader_sends_no_head_and_its_errors_are_raised(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    _from_origin(origin, monkeypatch)
    origin.objects.update({f"/bucket/{number}": b"x" for number in range(5)})
    uris = [f"s3://bucket/{number}" for number in range(6)]
    dataset = s3dlio.PyDataset.from_uris(uris[:5])
    assert len(s3dlio.PyBytesAsyncDataLoader(dataset, {"prefetch": 2}).items().collect_batch(9)) == 5
    assert [request.method for request in origin.requests] == ["GET"] * 5
    loader = s3dlio.PyBytesAsyncDataLoader(s3dlio.PyDataset.from_uris(uris), {"prefetch": 2})
    with pytest.raises(RuntimeError, match="bucket/5"):
        loader.items().collect_batch(9)
    with pytest.raises(s3dlio.OptionError, match="did you mean 'prefetch'"):
        s3dlio.PyBytesAsyncDataLoader(dataset, {"prefech": 2})
    with pytest.raises(s3dlio.OptionError, match="prefetch"):
        s3dlio.PyBytesAsyncDataLoader(dataset, {"prefetch": -2})


def test_the_original_numbers_of_threads_are_taken_and_checked() -> None:
    s3dlio.configure_tokio_threads()
    s3dlio.configure_tokio_threads(0)
    s3dlio.configure_tokio_threads(8)
    s3dlio.configure_for_concurrency(64)
    with pytest.raises(ValueError, match="at least 1"):
        s3dlio.configure_for_concurrency(0)


# -- Parquet --------------------------------------------------------------------------------------------


def test_an_index_of_row_groups_tells_where_they_lie(table: str) -> None:
    index = s3dlio.PyParquetIndex(footer_cap=64 * 1024)
    index.ensure_indexed([table], epoch=0, batch_size=4)
    assert (len(index), index.file_count(), index.file_rg_count(table)) == (5, 1, 5)
    ends = [sum(index.rg_range(table, group)) for group in range(5)]
    assert [index.rg_range(table, group)[0] for group in range(5)] == [4, *ends[:4]]
    groups = {row: index.rg_for_sample(table, row) for row in (0, 99, 100, 499, 500, 10**9)}
    assert groups == {0: 0, 99: 0, 100: 1, 499: 4, 500: 4, 10**9: 4}  # clients probe behind the end
    for row, group in groups.items():
        assert index.rg_lookup(table, row) == (group, *index.rg_range(table, group))
    for wrong in (lambda: index.rg_range(table, 5), lambda: index.rg_lookup(table, -1)):
        with pytest.raises(s3dlio.OptionError, match="there is no row"):
            wrong()
    one = s3dlio.PyParquetIndex(col_indices=[1])
    assert one.rg_range(table, 0)[0] == index.rg_range(table, 0)[0] + s3dlio.PyParquetIndex([0]).rg_range(table, 0)[1]


@pytest.mark.parametrize("columns", [None, ["half"], ["number", "half"], [0, 1]])
def test_a_row_group_is_decoded_to_an_arrow_stream(table: str, columns: Any) -> None:
    wanted = pq.read_table(table.removeprefix("file://"))
    chosen = [wanted.column_names[c] if isinstance(c, int) else c for c in columns or wanted.column_names]
    for group in range(5):
        data = s3dlio.parquet_get_rg(table, group, columns, 4 << 20, "arrow")
        found = pa.ipc.open_stream(data).read_all()
        assert found.select(chosen) == wanted.select(chosen).slice(group * 100, 100)
    with pytest.raises(s3dlio.OptionError, match="did you mean 'number'"):
        s3dlio.parquet_get_rg(table, 0, ["nmber"], 4 << 20, "arrow")
    with pytest.raises(s3dlio.OptionError, match="raw or arrow"):
        s3dlio.parquet_get_rg(table, 0, None, 4 << 20, "torch")


def test_a_row_group_costs_one_request_and_a_replaced_file_is_noticed(
    origin: FaultOrigin, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _from_origin(origin, monkeypatch)
    origin.objects["/bucket/once.parquet"] = bytes(s3dlio.get(table))
    uri = "s3://bucket/once.parquet"
    raw = [s3dlio.parquet_get_rg(uri, group, None, 1000, "raw") for group in range(5)]
    kinds = [request.method for request in origin.requests]
    assert kinds == ["HEAD", "GET", "GET", *["GET"] * 5]  # the footer is longer than was thought
    index = s3dlio.PyParquetIndex()
    assert [len(data) for data in raw] == [index.rg_range(uri, group)[1] for group in range(5)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": range(7)}), sink)
    origin.objects["/bucket/once.parquet"] = sink.getvalue()
    again = s3dlio.parquet_get_rg(uri, 0, None, 1000)
    assert pa.ipc.open_stream(again).read_all()["other"].to_pylist() == list(range(7))
    before = len(origin.requests)
    index.ensure_indexed([uri], epoch=1)
    assert (index.file_rg_count(uri), len(origin.requests)) == (5, before)  # clients count on it in later epochs
    index.invalidate_uri(uri)
    assert not index.is_indexed(uri)
    index.ensure_indexed([uri], epoch=1)
    assert index.file_rg_count(uri) == 1


def test_row_groups_are_marked_by_epoch(table: str) -> None:
    index = s3dlio.PyParquetIndex()
    index.ensure_indexed([table])
    assert [index.check_and_mark(table, 0, epoch) for epoch in (1, 1, 2, 1)] == [False, True, False, True]
    index.mark_fetched(table, 1, 3)
    other = pickle.loads(pickle.dumps(index))
    assert [other.was_fetched(table, group, 3) for group in (0, 1, 2)] == [False, True, False]
    other.invalidate_uri(table)
    assert not other.was_fetched(table, 1, 3)
    index.clear()
    assert (len(index), index.file_count()) == (0, 0)


def test_footers_are_remembered_and_forgotten(table: str) -> None:
    s3dlio.parquet_cache_clear()
    assert s3dlio.parquet_rg_row_offsets(table) == [0, 100, 200, 300, 400, 500]
    assert s3dlio.parquet_cache_len() == 1
    s3dlio.parquet_get_rg(table, 0, footer_cap=1000)
    assert s3dlio.parquet_cache_len() == 1
    s3dlio.parquet_cache_invalidate(table)
    assert s3dlio.parquet_cache_len() == 0


def test_parquet_files_of_numbers_are_made_up(root: str) -> None:
    s3dlio.put(f"{root}/old", b"")
    size = s3dlio.generate_and_write_parquet(f"{root}/n.parquet", 3, 16, 2)
    for data in (s3dlio.get(f"{root}/n.parquet"), s3dlio.generate_parquet_bytes(3, 16, 2)):
        file = pq.ParquetFile(io.BytesIO(data))
        assert (len(data), file.num_row_groups, file.read().num_rows) == (size, 2, 32)
        assert {(field.name, field.type) for field in file.schema_arrow} == {
            (f"col{number}", pa.float32()) for number in range(3)
        }
    of_bytes = pq.ParquetFile(io.BytesIO(s3dlio.generate_parquet_bytes_schema([("image", 10)], 4, 2)))
    assert of_bytes.metadata.row_group(1).num_rows == 4
    with pytest.raises(s3dlio.OptionError, match="at least 1"):
        s3dlio.generate_parquet_bytes(0, 16, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: data[:-1],
        lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda data: data[:-200] + bytes(192) + data[-8:],
        lambda data: data[-1000:],
    ],
    ids=["empty", "magic alone", "cut", "length beyond the file", "zeroed metadata", "beginning lost"],
)
def test_a_damaged_file_is_a_format_error(table: str, damage: Any) -> None:
    s3dlio.put(f"{table}.bad", damage(bytes(s3dlio.get(table))))
    with pytest.raises(s3dlio.FormatError, match="bad"):
        s3dlio.parquet_get_rg(f"{table}.bad", 0, None, 4 << 20, "arrow")


@pytest.mark.parametrize("streaming", [True, False])
def test_parquet_files_are_generated_and_iterated_by_row_group(root: str, streaming: bool) -> None:
    generate = (
        s3dlio.generate_and_write_parquet_schema_streaming if streaming else s3dlio.generate_and_write_parquet_schema
    )
    for number in range(2):
        size = generate(f"{root}/{number}.parquet", [("image", 1000), ("label", 8)], 64, 3)
        assert size == s3dlio.stat(f"{root}/{number}.parquet")["size"]
    found = pq.ParquetFile(io.BytesIO(s3dlio.get(f"{root}/0.parquet")))
    assert (found.metadata.num_row_groups, found.metadata.num_rows) == (3, 192)
    assert found.schema_arrow == pa.schema([("image", pa.binary(1000)), ("label", pa.binary(8))])
    assert len(set(found.read()["image"].to_pylist())) == 192
    loader = s3dlio.create_async_loader(f"{root}/", {"format": "parquet", "prefetch": 4, "batch_size": 1})
    groups = [batch[0] for batch in loader]
    assert len(groups) == 6
    assert groups[1] == s3dlio.parquet_get_rg(f"{root}/0.parquet", 1, decode="raw")
    assert pickle.loads(pickle.dumps(loader.dataset))[5] == groups[5]
    with pytest.raises(s3dlio.OptionError, match="at least 1"):
        generate(f"{root}/none.parquet", [("image", 0)], 64, 3)
    assert not s3dlio.exists(f"{root}/none.parquet")


# -- several addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round_robin", "least_connections"])
def test_work_is_spread_over_several_addresses(tmp_path: Path, strategy: str) -> None:
    uris = [f"file://{tmp_path}/{name}/" for name in "abc"]
    store = s3dlio.create_multi_endpoint_store(uris=uris, strategy=strategy)
    assert (store.endpoint_count, store.strategy) == (3, strategy)

    async def work() -> None:
        await asyncio.gather(*(store.put(f"x/{number}", b"12345") for number in range(9)))
        assert [len(data) for data in await asyncio.gather(*(store.get(f"x/{n}") for n in range(9)))] == [5] * 9
        with pytest.raises(FileNotFoundError):
            await store.get("x/none")
        await asyncio.gather(*(store.delete(f"x/{number}") for number in range(9)))

    asyncio.run(work())
    stats = store.get_endpoint_stats()
    assert [one["uri"] for one in stats] == uris
    assert [one["bytes_written"] for one in stats] == [15, 15, 15]
    total = store.get_total_stats()
    assert (total["bytes_written"], total["bytes_read"], total["error_count"], total["active_requests"]) == (
        45,
        45,
        0,
        0,
    )
    assert total["total_requests"] == sum(one["total_requests"] for one in stats) >= 9 + 9 + 27
    assert s3dlio.list(f"file://{tmp_path}/") == []
    with pytest.raises(s3dlio.OptionError, match="round_robin"):
        s3dlio.create_multi_endpoint_store(uris=uris, strategy="round_robbin")
    with pytest.raises(s3dlio.OptionError, match="at least one"):
        s3dlio.create_multi_endpoint_store(uris=[])


def test_an_address_may_name_its_server_and_failures_are_counted(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.servers.faults import s3_error

    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    origin.objects["/bucket/p/x"] = b"spam"
    store = s3dlio.create_multi_endpoint_store([f"s3://127.0.0.1:{origin.port}/bucket/p"])
    assert asyncio.run(store.get("x")) == b"spam"
    origin.plan("/bucket/p/x", *[s3_error(403, "AccessDenied")] * 2)
    with pytest.raises(PermissionError):
        asyncio.run(store.get("x"))
    assert store.get_total_stats()["error_count"] == 1


# -- logging and settings -------------------------------------------------------------------------------


def test_logging_is_printed_on_standard_output(tmp_path: Path) -> None:
    program = f"""
import s3dlio
s3dlio.init_logging("debug")
s3dlio.init_logging("debug")
s3dlio.put_bytes("file://{tmp_path}/a", b"spam")
import os
os.environ["S3DLIO_PUT_VERIFY"] = "1"
s3dlio.put_bytes("file://{tmp_path}/b", b"spam")
s3dlio.init_logging("warn")
s3dlio.put_bytes("file://{tmp_path}/c", b"spam")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    said = done.stdout
    for line in ("put_bytes: attempt=1/", "skipping HEAD verification", "HEAD verified stored=4"):
        assert said.count(line) == 1, said  # the first of these says that it will be verified
    level = logging.getLogger("s3dlio").level
    with pytest.raises(s3dlio.OptionError, match="did you mean 'debug'"):
        s3dlio.init_logging("debgu")
    assert logging.getLogger("s3dlio").level == level


def test_an_object_that_was_put_otherwise_is_not_verified(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    _from_origin(origin, monkeypatch)
    monkeypatch.setenv("S3DLIO_PUT_VERIFY", "1")
    origin.buckets.add("bucket")
    s3dlio.put_bytes("s3://bucket/x", b"spam")
    assert [request.method for request in origin.requests] == ["PUT", "HEAD"]
    monkeypatch.setattr("s3dlio.api.put", lambda uri, data: None)
    with pytest.raises(s3dlio.IntegrityError, match="5 bytes were sent and 4 are there"):
        s3dlio.put_bytes("s3://bucket/x", b"12345")
