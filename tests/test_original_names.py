"""Room card: names, keywords and classes of the original that its own programs use, beside those of DLIO's.

Each test makes the calls of one topic as such programs make them. What the work below does in every corner is tested
elsewhere; forms of the common verbs are in `test_original_forms`, DLIO's calls in `test_dlio_client`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.testing import S3Server
from tests.contract_base import unique
from tests.servers.faults import FaultOrigin

FLOATS = np.arange(64, dtype=np.float32)


@pytest.fixture(params=["s3", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A bucket or directory, with `/` at its end."""
    if request.param != "s3":
        yield f"file://{tmp_path}/" if request.param == "file" else f"memory://{unique('names')}/"
        return
    server: S3Server = request.getfixturevalue("rclone")
    with server.activate():
        bucket = f"s3://{unique('names')}/"
        s3dlio.create_bucket(bucket)
        yield bucket
        s3dlio.delete(bucket, recursive=True)


# -- keywords -------------------------------------------------------------------------------------------


def test_objects_are_made_up_by_the_original_keywords(root: str) -> None:
    s3dlio.put(
        prefix=f"{root}made/", num=4, template="object-{}.dat", max_in_flight=2, size=5000, object_type="raw",
        dedup_factor=1, compress_factor=1, data_gen_algorithm="prand", data_gen_mode="single-pass", chunk_size=65536,
    )  # fmt: skip
    uris = [f"{root}made/object-{number}.dat" for number in range(4)]
    assert s3dlio.list(f"{root}made/") == uris
    assert s3dlio.get_many_stats(uris, max_in_flight=2) == (4, 20_000)
    assert len(asyncio.run(s3dlio.stat_many_async(uris, max_in_flight=2))) == 4
    with pytest.raises(s3dlio.OptionError, match="did you mean 'random'"):
        s3dlio.put(prefix=root, num=1, template="{}", size=1, data_gen_algorithm="randm")


def test_what_processes_have_read_is_asked_for_by_name(tmp_path: Path) -> None:
    s3dlio.put(prefix=f"file://{tmp_path}/", num=8, template="object_{}.dat", size=1 << 16, object_type="random")
    told = s3dlio.mp_get(uri=f"file://{tmp_path}/", procs=2, num=8, template="object_{}.dat")
    assert sum(worker["bytes"] for worker in told["workers"]) == told["total_bytes"] == 8 << 16
    assert sum(worker["objects"] for worker in told["workers"]) == 8
    for worker in told["workers"]:
        assert worker["worker_id"] == worker.worker
        assert worker["throughput_mb_s"] >= 0
        assert set(worker) == {*dict(worker)} >= {"failed", "seconds"}
    with pytest.raises(KeyError):
        told["workers"][0]["none"]


def test_a_bucket_is_made_when_objects_are_made_up(rclone: S3Server) -> None:
    with rclone.activate():
        bucket = unique("fresh")
        for _ in range(2):
            s3dlio.put(prefix=f"s3://{bucket}/", num=2, template="x{}", size=10, should_create_bucket=True)
        assert len(s3dlio.list(f"s3://{bucket}/")) == 2
        s3dlio.delete(f"s3://{bucket}/", recursive=True)
        s3dlio.delete_bucket(bucket_name=bucket)
        s3dlio.create_bucket(bucket_name=bucket)
        assert s3dlio.list(f"s3://{bucket}/") == []


def test_files_go_up_and_down_by_the_original_keywords(root: str, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    for number in range(3):
        (tmp_path / f"local/f{number}.bin").write_bytes(bytes([number]) * 10)
    s3dlio.upload(
        src_patterns=[f"{tmp_path}/local/*.bin"], dest_prefix=f"{root}up/", max_in_flight=2, create_bucket=False
    )
    s3dlio.download(src_uri=f"{root}up/", dest_dir=f"{tmp_path}/down", max_in_flight=2, recursive=True)
    assert sorted(path.read_bytes()[0] for path in (tmp_path / "down").iterdir()) == [0, 1, 2]
    with pytest.raises(s3dlio.OptionError, match="src_uri is another name of src"):
        s3dlio.download(src=root, src_uri=root, dest_dir=tmp_path)


def test_arrays_and_indexes_are_read_by_the_original_keywords(root: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=FLOATS)
    s3dlio.put(f"{root}a.npz", (tmp_path / "a.npz").read_bytes())
    assert np.array_equal(s3dlio.read_npz(f"{root}a.npz", array_name="x"), FLOATS)
    with s3dlio.TFRecordWriter(f"{root}r.tfrecord") as writer:
        for record in (b"first", b"second record"):
            writer.write(record)
    data = bytes(s3dlio.get(f"{root}r.tfrecord"))
    assert s3dlio.index_tfrecord_bytes(data) == "0 21\n21 29\n"
    assert list(s3dlio.get_tfrecord_index_entries(tfrecord_bytes=data)) == [(0, 21), (21, 29)]
    assert list(s3dlio.get_tfrecord_index_entries(b"0 21\n21 29\n")) == [(0, 21), (21, 29)]
    assert s3dlio.create_tfrecord_index(tfrecord_path=f"{root}r.tfrecord", index_path=f"{root}r.idx") == 2
    assert len(s3dlio.read_tfrecord_index(index_path=f"{root}r.idx")) == 2
    with pytest.raises(s3dlio.TFRecordError, match="byte 21"):
        s3dlio.index_tfrecord_bytes(data[:-1])


# -- made-up data ---------------------------------------------------------------------------------------


def test_existing_memory_is_filled_with_made_up_bytes() -> None:
    for buffer in (bytearray(3 << 20), np.zeros((3, 1 << 18), np.float32), memoryview(bytearray(3 << 20))):
        assert s3dlio.generate_into_buffer(buffer, dedup=1, compress=1, threads=2) == 3 << 20
        assert len(np.unique(np.frombuffer(buffer, np.uint8))) == 256
    buffer = bytearray(100_000)
    s3dlio.generate_into_buffer(buffer, seed=3, compress=4)
    assert buffer == s3dlio.generate_data(100_000, compress=4, dedup=1, seed=3)
    with pytest.raises(s3dlio.OptionError, match="read-only"):
        s3dlio.generate_into_buffer(b"fixed")
    with pytest.raises(s3dlio.OptionError, match="compress_factor"):
        s3dlio.generate_into_buffer(buffer, compress=0)


def test_a_generator_fills_one_buffer_after_the_other_and_begins_anew() -> None:
    generator = s3dlio.Generator(size=5_000_000, dedup=2, compress=2, threads=2, chunk_size=1 << 20, seed=5)
    whole = s3dlio.generate_data(5_000_000, dedup=2, compress=2, seed=5)
    for _ in range(2):
        buffer, found = bytearray(generator.chunk_size + 5), b""
        while count := generator.fill_chunk(buffer):
            found += buffer[:count]
        assert generator.is_complete()
        assert found == whole
        generator.reset()
        assert not generator.is_complete()
    assert s3dlio.Generator(size=1).chunk_size == 32 << 20
    assert s3dlio.py_total_cpus() >= s3dlio.py_default_data_gen_threads() >= 1


# -- verbs ----------------------------------------------------------------------------------------------


class _OnlyBytes:
    def __bytes__(self) -> bytes:
        return b"told by itself"


def test_what_only_tells_its_bytes_is_put(root: str) -> None:
    s3dlio.put_bytes(f"{root}x", _OnlyBytes())  # type: ignore[arg-type]
    assert s3dlio.get(f"{root}x") == b"told by itself"
    asyncio.run(s3dlio.put_bytes_async(f"{root}y", _OnlyBytes()))  # type: ignore[arg-type]
    assert s3dlio.get(f"{root}y") == b"told by itself"
    for wrong in ("text", 7, None):
        with pytest.raises(s3dlio.OptionError, match="bytes-like"):
            s3dlio.put_bytes(f"{root}z", wrong)  # type: ignore[arg-type]


def test_keys_are_what_follows_the_prefix(root: str) -> None:
    for name in ("p/a", "p/q/b", "pq/c"):
        s3dlio.put(f"{root}{name}", b"x")
    assert s3dlio.list_keys(f"{root}p/") == s3dlio.list_keys(f"{root}p") == ["a", "q/b"]
    assert s3dlio.get(f"{root}p/" + s3dlio.list_keys(f"{root}p/")[1]) == b"x"


def test_objects_are_asked_for_by_bucket_and_key_with_a_warning(rclone: S3Server) -> None:
    with rclone.activate():
        bucket = unique("names")
        s3dlio.create_bucket(bucket)
        s3dlio.put(f"s3://{bucket}/a/b", b"spam")
        with pytest.deprecated_call():
            assert s3dlio.get_by_key(bucket, "a/b") == b"spam"
        with pytest.deprecated_call():
            assert s3dlio.stat_key(bucket, "a/b")["size"] == 4
        with pytest.raises(s3dlio.ObjectNotFoundError):
            s3dlio.get(f"s3://{bucket}/none")


def test_an_uri_is_taken_apart() -> None:
    assert s3dlio.parse_s3_uri_full("s3://b/a/k") == {"endpoint": None, "bucket": "b", "key": "a/k"}
    parts = s3dlio.parse_s3_uri_full("s3://127.0.0.1:9000/b/a/k")
    assert parts == {"endpoint": "127.0.0.1:9000", "bucket": "b", "key": "a/k"}
    with pytest.raises(s3dlio.UriError, match="no s3"):
        s3dlio.parse_s3_uri_full("file:///b/a")


# -- settings -------------------------------------------------------------------------------------------


def test_s3_is_where_configure_s3_says_whatever_was_said_before(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**rclone.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_CA_BUNDLE": "/old.pem"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    monkeypatch.setenv("AWS_REGION", "nowhere")
    s3dlio.configure_s3(endpoint_url=rclone.endpoint_url, region=rclone.region, ca_bundle=None)
    assert (os.environ["AWS_REGION"], os.environ["AWS_CA_BUNDLE"]) == (rclone.region, "/old.pem")
    s3dlio.configure_s3(ca_bundle="")
    bucket = unique("names")
    s3dlio.create_bucket(bucket)
    s3dlio.put(f"s3://{bucket}/x", b"spam")
    assert s3dlio.get(f"s3://{bucket}/x") == b"spam"


def test_the_numbers_of_grpc_are_taken_and_told_back(caplog: pytest.LogCaptureFixture) -> None:
    s3dlio.gcs_set_channel_count(64)
    assert s3dlio.gcs_get_channel_count() == 64
    with pytest.raises(s3dlio.OptionError, match="at least 1"):
        s3dlio.gcs_set_channel_count(0)
    s3dlio.gcs_set_rapid_mode(None)
    assert (s3dlio.gcs_get_rapid_mode(), caplog.text) == (None, "")
    s3dlio.gcs_set_rapid_mode(True)
    assert s3dlio.gcs_get_rapid_mode() is True
    assert "no effect" in caplog.text


def test_builders_of_writer_options_change_them_and_can_be_chained(tmp_path: Path) -> None:
    options = s3dlio.PyWriterOptions()
    options.with_compression("zstd", 3)
    options.with_buffer_size(64 * 1024)
    assert (options.compression, options.compression_level, options.buffer_capacity) == ("zstd", 3, 65536)
    with s3dlio.create_filesystem_writer(f"file://{tmp_path}/x", options) as writer:
        writer.write_owned_bytes(b"A" * 8192)
    assert (tmp_path / "x.zst").stat().st_size < 800
    assert options.with_compression("gzip", 9).with_buffer_size(1) is options
    with pytest.raises(s3dlio.OptionError):
        options.with_compression("gzip", 22)
    assert (options.compression, options.compression_level) == ("gzip", 9)
    kept = s3dlio.WriterOptions()
    assert kept.with_buffer_size(1) != kept


# -- writers --------------------------------------------------------------------------------------------


def test_a_writer_that_was_given_nothing_is_not_closed_but_a_block_makes_an_empty_object(root: str) -> None:
    writer = s3dlio.MultipartUploadWriter.from_uri(f"{root}none")
    with pytest.raises(RuntimeError, match="nothing was written"):
        writer.close()
    assert not s3dlio.exists(f"{root}none")
    writer.abort()
    with pytest.raises(s3dlio.ClosedError):
        writer.close()
    with s3dlio.MultipartUploadWriter.from_uri(f"{root}block"):
        pass
    asked = s3dlio.MultipartUploadWriter.from_uri(f"{root}asked")
    asked.write(b"")
    assert asked.close().total_bytes == s3dlio.stat(f"{root}asked")["size"] == s3dlio.stat(f"{root}block")["size"] == 0


def test_what_one_request_has_written_is_looked_at_when_asked(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    origin.buckets.add("bucket")
    caplog.set_level("DEBUG", "s3dlio")
    for told, methods, said in (
        ("", ["PUT"], "skipping HEAD verification"),
        ("true", ["PUT", "HEAD"], "HEAD verified stored=4"),
    ):
        monkeypatch.setenv("S3DLIO_MPU_PUT_VERIFY", told)
        origin.requests.clear()
        caplog.clear()
        with s3dlio.MultipartUploadWriter.from_uri("s3://bucket/x") as writer:
            writer.write(b"spam")
        assert [request.method for request in origin.requests] == methods
        assert said in caplog.text


# -- several addresses ----------------------------------------------------------------------------------


def test_addresses_come_from_templates_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = s3dlio.create_multi_endpoint_store_from_template(uri_template=f"file://{tmp_path}/{{1...3}}/{{7...8}}")
    assert [one["uri"].removeprefix(f"file://{tmp_path}/") for one in made.get_endpoint_stats()] == [
        "1/7", "1/8", "2/7", "2/8", "3/7", "3/8",
    ]  # fmt: skip
    (tmp_path / "list").write_text("# two\n\nfile:///a\n  file:///b  \n")
    store = s3dlio.create_multi_endpoint_store_from_file(file_path=f"{tmp_path}/list", strategy="least_connections")
    assert (store.endpoint_count(), store.endpoint_count, store.strategy()) == (2, 2, "least_connections")
    monkeypatch.setenv("S3_ENDPOINT_URIS", "file:///a, file:///b,file:///c")
    assert s3dlio.create_multi_endpoint_store_from_env().endpoint_count == 3
    monkeypatch.delenv("S3_ENDPOINT_URIS")
    with pytest.raises(s3dlio.OptionError, match="S3_ENDPOINT_URIS"):
        s3dlio.create_multi_endpoint_store_from_env()
    for wrong in ("file:///{3...1}", "file:///{0...99999999}", "file:///{0...999}/{0...999}"):
        with pytest.raises(s3dlio.OptionError, match="must run upwards"):
            s3dlio.create_multi_endpoint_store_from_template(wrong)
    with pytest.raises(s3dlio.UriError, match="same scheme"):
        s3dlio.create_multi_endpoint_store(["file:///a", "s3://b/"])


def test_one_of_several_addresses_can_be_meant(tmp_path: Path) -> None:
    store = s3dlio.create_multi_endpoint_store([f"file://{tmp_path}/{name}/" for name in "abc"])

    async def work() -> None:
        await store.put_to_endpoint(1, "p/one", b"0123456789")
        assert (tmp_path / "b/p/one").read_bytes() == await store.get_from_endpoint(1, "p/one")
        with pytest.raises(s3dlio.NotFoundError):
            await store.get_from_endpoint(0, "p/one")
        assert await store.get_range("p/one", 2, 3) == b"234"
        await store.put_all_endpoints("p/all", b"x")
        assert sum((tmp_path / name / "p/all").exists() for name in "abc") == 3
        found = await store.list_all_endpoints("p/", recursive=True)
        assert len(found) == 4
        assert len(await store.list(f"file://{tmp_path}/b/p/", recursive=False)) == 2
        await store.delete_from_endpoint(0, "p/all")
        assert [(tmp_path / name / "p/all").exists() for name in "abc"] == [False, True, True]
        with pytest.raises(s3dlio.OptionError, match="addresses 0 to 2"):
            await store.put_to_endpoint(3, "p/one", b"")

    asyncio.run(work())


def test_servers_are_named_by_their_http_addresses(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with rclone.activate():
        bucket = unique("names")
        s3dlio.create_bucket(bucket)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        store = s3dlio.create_multi_endpoint_store(uris=[rclone.endpoint_url, rclone.endpoint_url])

        async def work() -> None:
            await store.put(f"s3://{bucket}/x", b"spam")
            assert await store.get(f"{bucket}/x") == b"spam"

        asyncio.run(work())
        assert [one["total_requests"] for one in store.get_endpoint_stats()] == [1, 1]


# -- datasets and loaders -------------------------------------------------------------------------------


def test_datasets_take_options_as_a_mapping(root: str) -> None:
    for number in range(4):
        s3dlio.put(f"{root}d/{number}.txt", bytes([number]))
    options = {"batch_size": 32, "shuffle": True, "num_workers": 2, "prefetch": 4}
    for opts in (options, {}, None, {"format": "raw"}):
        dataset = s3dlio.create_dataset(f"{root}d/", opts)
        assert [bytes(dataset[number]) for number in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
    with pytest.raises(TypeError, match="mapping"):
        s3dlio.create_dataset(f"{root}d/", ["invalid", "options"])  # type: ignore[arg-type]
    with pytest.raises(s3dlio.UriError, match="empty path"):
        s3dlio.create_dataset("")
    with pytest.raises(s3dlio.OptionError, match="batch_size"):
        s3dlio.create_dataset(f"{root}d/", {"batchsize": 3})
    listed = s3dlio.PyS3Dataset(f"{root}d/", {"prefetch": 2})
    assert listed.uris() == s3dlio.list(f"{root}d/")


def test_loaders_are_awaited(root: str) -> None:
    uris = [f"{root}d/{number}.txt" for number in range(5)]
    s3dlio.put_many([(uri, uri[-5:].encode()) for uri in uris])

    async def batches(loader: Any) -> list[list[bytes]]:
        return [[bytes(item) for item in batch] async for batch in loader]

    dataset = s3dlio.PyDataset.from_uris(uris, {"batch_size": 2})
    found = asyncio.run(batches(s3dlio.PyBytesAsyncDataLoader(dataset, opts={"batch_size": 2, "prefetch": 4})))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert sorted(item for batch in found for item in batch) == [b"%d.txt" % number for number in range(5)]
    single = asyncio.run(batches(s3dlio.PyBytesAsyncDataLoader(dataset)))
    assert [len(batch) for batch in single] == [1] * 5
    packed = asyncio.run(batches(s3dlio.PyS3AsyncDataLoader(f"{root}d/", opts={"batch_size": 3})))
    assert [len(batch) for batch in packed] == [3, 2]


def test_values_in_memory_are_loaded_in_batches() -> None:
    values = s3dlio.PyVecDataset([10, 20, 30, 40, 50])
    assert (len(values), values[1], list(values)) == (5, 20, [10, 20, 30, 40, 50])

    async def batches(options: dict[str, Any] | None) -> list[list[int]]:
        return [batch async for batch in s3dlio.PyAsyncDataLoader(values, options)]

    assert asyncio.run(batches({"batch_size": 2, "drop_last": False})) == [[10, 20], [30, 40], [50]]
    assert asyncio.run(batches({"batch_size": 2, "drop_last": True})) == [[10, 20], [30, 40]]
    shuffled = {"batch_size": 5, "shuffle": True, "seed": 42}
    assert asyncio.run(batches(shuffled)) == asyncio.run(batches(shuffled)) != [list(values)]
    assert asyncio.run(batches(None)) == [list(values)]


def test_datasets_have_their_later_names() -> None:
    assert s3dlio.ObjectStoreMapDataset is s3dlio.S3MapDataset
    assert s3dlio.ObjectStoreIterableDataset is s3dlio.S3IterableDataset
    assert s3dlio.JaxIterable is s3dlio.S3JaxIterable


def test_items_tell_how_long_they_are(root: str) -> None:
    from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset

    for name, data in (("empty", b""), ("full", b"0123456789")):
        s3dlio.put(f"{root}i/{name}", data)
    for items in (list(S3IterableDataset.from_prefix(f"{root}i/")), list(S3MapDataset.from_prefix(f"{root}i/"))):
        assert [(len(item), bool(item)) for item in items] == [(0, True), (10, True)]
        assert items[1].read(4) == b"0123"
        assert items[1].readall() == items[1].read_all() == items[1].read_bytes() == b"0123456789"


# -- checkpoints ----------------------------------------------------------------------------------------


def test_a_checkpoint_of_one_rank_is_saved_by_position(root: str) -> None:
    store = s3dlio.PyCheckpointStore(f"{root}ck", None, None)
    store.save(100, 1, "torch", b"state", {"note": "x"})
    store.save(step=200, data=b"later")
    store.save("best", b"named")
    assert (store.load_latest(), store.load("best"), store.load(step=100)) == (b"later", b"named", b"state")
    assert isinstance(store, s3dlio.CheckpointStore)
    first, second = store.list_checkpoints()
    assert (first.step, first.epoch, first.framework, first.user_meta) == (100, 1, "torch", {"note": "x"})
    assert (first.total_size, first.size_mb, first.size_gb) == (5, 5 / 2**20, 5 / 2**30)
    assert (first.is_complete, first.is_single_rank, first.status) == (True, True, "complete")
    store.delete_checkpoint(second.step)
    assert [found.step for found in store.list_checkpoints()] == [100]


def test_values_are_compressed_when_a_level_is_given(root: str) -> None:
    value = {"zeros": np.zeros(100_000)}
    small = s3dlio.PyCheckpointStore(f"{root}small", compression_level=9)
    assert small.save(1, 0, "numpy", value).size < 50_000
    assert np.array_equal(small.load()["zeros"], value["zeros"])
    small.save(2, 0, "numpy", b"bytes stay as they are")
    assert small.load_latest() == b"bytes stay as they are"
    with pytest.raises(s3dlio.OptionError):
        s3dlio.PyCheckpointStore(f"{root}small", "binry", multipart_threshold=1 << 20)


def test_ranks_save_and_one_of_them_finalizes(root: str) -> None:
    store = s3dlio.PyCheckpointStore(f"{root}dist", strategy="round_robin", multipart_threshold=1 << 20)
    assert store.reader().load_latest_manifest() is None
    metas = [store.writer(3, 0).save_distributed_shard(step=7, epoch=2, framework="jax", data=b"rank 0")]
    metas.append(store.writer(rank=1, world_size=3).save_distributed_shard(7, 2, "jax", {"x": FLOATS}))
    stream = store.writer(world_size=3, rank=2).get_distributed_shard_stream(7, 2, "jax")
    assert [stream.write_chunk(piece) for piece in (b"in ", b"pieces")] == [3, 6]
    assert stream.bytes_written() == 9
    writer = store.writer(3, 0)
    with pytest.raises(s3dlio.IncompleteCheckpointError, match="rank 2"):
        writer.finalize_distributed_checkpoint(7, 2, "jax", metas)
    metas.append(stream.finalize())
    key = writer.finalize_distributed_checkpoint(7, 2, "jax", metas, user_meta=None)
    assert s3dlio.exists(f"{root}dist/{key}")
    manifest = store.reader().load_latest_manifest()
    assert manifest is not None
    assert (manifest["epoch"], manifest["framework"], len(manifest["shards"])) == (2, "jax", 3)
    assert store.reader().read_shard_by_rank(manifest, 0) == b"rank 0"
    assert store.reader().read_shard_by_rank(manifest, 2) == b"in pieces"
    assert np.array_equal(store.load(rank=1)["x"], FLOATS)
    assert store.gc(0) == []
    store.delete_checkpoint(7)
    assert [uri for uri in s3dlio.list(f"{root}dist/") if "rank-" in uri] == []


def test_a_description_that_lacks_something_is_refused(root: str) -> None:
    writer = s3dlio.PyCheckpointStore(f"{root}lack").writer(1, 0)
    with pytest.raises(s3dlio.CheckpointError, match="checksum"):
        writer.finalize_distributed_checkpoint(1, 0, "x", [{"rank": 0, "key": "k", "size": 1}])
    writer.get_distributed_shard_stream(1).cancel()
    s3dlio.put(f"{root}other", b"")
    assert s3dlio.list(f"{root}") == [f"{root}other"]
