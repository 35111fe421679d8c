"""Room card: programs written for the original: names, forms of arguments and what comes back, on every kind of store.

Each test makes the calls of one topic as such programs make them. That they do the right thing in every corner is
tested elsewhere. Frameworks other than torch are in `test_original_frameworks`.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.cli.app import run
from tests.contract_base import unique
from tests.disks import real_disk

MIB = 1 << 20
FLOATS = np.arange(64, dtype=np.float32)


@pytest.fixture(params=["s3", "az", "file", "direct"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, container or directory, with `/` at its end."""
    scheme = request.param
    if scheme in {"file", "direct"}:
        with real_disk(tmp_path) as folder:
            yield f"{scheme}://{folder}/bucket/"
        return
    server = request.getfixturevalue("rclone" if scheme == "s3" else "azurite")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"{scheme}://{unique('forms')}/"
    s3dlio.create_bucket(bucket)
    yield bucket
    s3dlio.delete(bucket, recursive=True)


@pytest.fixture
def s3(rclone: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a bucket."""
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("forms")
    s3dlio.create_bucket(bucket)
    return bucket


def floats(view: s3dlio.BytesView) -> list[float]:
    """Look at what was read as programs do."""
    found: list[float] = np.frombuffer(view.memoryview(), dtype=np.float32).tolist()
    return found


def test_one_object_is_put_read_listed_and_deleted(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    s3dlio.init_logging("error")
    s3dlio.put(f"{root}a/data.bin", b"some text")
    print(s3dlio.get(f"{root}a/data.bin"))
    assert capsys.readouterr().out == "b'some text'\n"
    assert s3dlio.list(f"{root}a/") == [f"{root}a/data.bin"]
    facts = s3dlio.stat(f"{root}a/data.bin")
    assert facts["size"] == 9
    assert f"{facts['last_modified']}".startswith("20")
    assert facts["etag"]
    assert s3dlio.get_range(f"{root}a/data.bin", offset=5, length=4096) == b"text"
    assert s3dlio.get_range(f"{root}a/data.bin", 5, None) == b"text"
    for uri in s3dlio.list(f"{root}a/"):
        s3dlio.delete(uri)
    assert s3dlio.list(f"{root}a/") == []


async def _awaited(root: str) -> None:
    await s3dlio.put_async(f"{root}k1", b"one")
    await s3dlio.put_async(f"{root}k2", b"second")
    uris = [f"{root}k1", f"{root}k2"]
    assert [(uri, bytes(view)) for uri, view in await s3dlio.get_many_async(uris)] == [
        (uris[0], b"one"),
        (uris[1], b"second"),
    ]
    assert [facts["size"] for facts in await s3dlio.stat_many_async(uris)] == [3, 6]
    assert (await s3dlio.stat_async(uris[0]))["size"] == 3


def test_verbs_are_awaited(root: str) -> None:
    asyncio.run(_awaited(root))


def test_many_objects_are_read_at_once(root: str) -> None:
    uris = [f"{root}file{number}.bin" for number in range(20)]
    s3dlio.put_many([(uri, FLOATS + number) for number, uri in enumerate(uris)])
    listed = s3dlio.list(root)
    assert s3dlio.get_many_stats(listed, concurrency=100).total_bytes == 20 * FLOATS.nbytes
    for results in (s3dlio.get_many(uris, max_in_flight=32), s3dlio.get_many(uris, workers=64)):
        assert [uri for uri, _ in results] == uris
        assert [floats(view)[0] for _, view in results] == list(range(20))


def test_a_view_is_numpys_and_torchs_memory(root: str) -> None:
    s3dlio.put(f"{root}t", FLOATS)
    view = s3dlio.get(f"{root}t")
    memory = view.memoryview()
    array = np.frombuffer(memory, dtype=np.float32).reshape((8, 8))
    assert (memory[0], len(view)) == (0, 256)
    assert view.to_bytes() == bytes(view) == FLOATS.tobytes()
    assert np.shares_memory(array, np.frombuffer(view, np.uint8))
    assert torch.tensor(np.array(np.frombuffer(memory, dtype=np.float32))).sum() == FLOATS.sum()


def test_old_names_take_bucket_and_key_and_warn(s3: str) -> None:
    s3dlio.put(f"s3://{s3}/p/file", FLOATS)
    with pytest.deprecated_call():
        assert floats(s3dlio.get_object(s3, "p/file")) == FLOATS.tolist()
    with pytest.deprecated_call():
        assert s3dlio.list_objects(f"s3://{s3}/p/") == ["p/file"]
    with pytest.deprecated_call():
        assert s3dlio.stat_object(f"s3://{s3}/p/file")["size"] == 256


def test_a_bucket_is_made_and_removed_by_its_name(s3: str) -> None:
    fresh = unique("forms")
    s3dlio.create_bucket(fresh)
    assert s3dlio.list(f"s3://{fresh}/") == []
    s3dlio.delete_bucket(fresh)
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.list(f"s3://{fresh}/")


def test_processes_read_what_a_template_names(root: str) -> None:
    s3dlio.put(f"{root}m/obj_{{}}.dat", num=12, size=1000, data_gen_mode="streaming")
    result = s3dlio.mp_get(uri=f"{root}m/", procs=2, jobs=64, num=12, template="obj_{}.dat")
    assert (result["total_bytes"], result["total_objects"]) == (12_000, 12)
    assert min(result["duration_seconds"], result["throughput_mb_s"], result["ops_per_sec"]) > 0


def _writer_of(root: str) -> Callable[..., s3dlio.ObjectWriter]:
    return {
        "s3": s3dlio.create_s3_writer,
        "az": s3dlio.create_azure_writer,
        "file": s3dlio.create_filesystem_writer,
        "direct": s3dlio.create_direct_filesystem_writer,
    }[root.partition(":")[0]]


def test_writers_compress_and_tell_what_they_wrote(root: str) -> None:
    options = s3dlio.PyWriterOptions()
    options.compression = "zstd"
    options.compression_level = 3
    options.chunk_size = 6 * MIB
    assert options.chunk_size == options.buffer_capacity == options.with_chunk_size(6 * MIB).buffer_capacity
    data = b"abc" * MIB
    writer = _writer_of(root)(f"{root}data.zst", options)
    for _ in range(3):
        writer.write_chunk(data)
    stats = writer.finalize()
    bytes_written, compressed_bytes = stats
    assert stats["bytes_written"] == bytes_written == 9 * MIB
    assert stats["compressed_size"] == compressed_bytes == s3dlio.stat(f"{root}data.zst")["size"]
    assert s3dlio.get(f"{root}data.zst", decompress=True) == data * 3

    by_extension = _writer_of(root)(f"{root}large.bin.zst", options=s3dlio.PyWriterOptions())
    by_extension.write(data)
    assert by_extension.finalize()["compressed_size"] < len(data)


def test_a_chunk_size_out_of_bounds_is_refused() -> None:
    with pytest.raises(s3dlio.OptionError, match="at least 1"):
        s3dlio.PyWriterOptions().chunk_size = 0
    with pytest.raises(s3dlio.OptionError, match="did you mean"):
        s3dlio.PyWriterOptions(chunk_sise=1)


def test_the_direct_writer_takes_a_path(tmp_path: Path) -> None:
    with real_disk(tmp_path) as folder, s3dlio.create_direct_filesystem_writer(f"{folder}/x") as writer:
        writer.write(b"x" * 5000)
        writer.finalize()
        assert writer.uri == f"direct://{folder}/x"
        assert s3dlio.get(f"file://{folder}/x") == b"x" * 5000


def test_a_multipart_writer_is_filled_in_all_ways(root: str) -> None:
    writer = s3dlio.MultipartUploadWriter.from_uri(f"{root}d/c.bin", part_size=5 << 20, max_in_flight=16)
    memory = writer.reserve(8 * MIB)
    memory[:] = b"\xab" * (8 * MIB)
    writer.commit(8 * MIB)
    del memory
    writer.write(b"\xcd" * MIB)
    writer.write(memoryview(np.zeros(MIB, dtype=np.uint8)))
    tensor = torch.full((MIB,), 0xEE, dtype=torch.uint8, device="cpu").contiguous()
    writer.write(memoryview(tensor.numpy()))
    info = writer.close()
    assert (info.total_bytes, info["parts"], info.e_tag) == (11 * MIB, 3, info["etag"])
    assert s3dlio.get_range(f"{root}d/c.bin", 8 * MIB - 1, 2) == b"\xab\xcd"
    assert s3dlio.get_range(f"{root}d/c.bin", 10 * MIB, 1) == b"\xee"


def test_sinks_take_bucket_and_key(s3: str) -> None:
    sink = s3dlio.MultipartUploadSink(s3, "a", part_size=5 * MIB)
    sink.write_blocking(bytes(3 * MIB))
    sink.write_owned_blocking(bytes(3 * MIB))
    assert sink.finish_blocking().parts == 2
    stream = s3dlio.StreamingMultipartSink(s3, "b")
    assert stream.part_size == 8 * MIB
    assert stream.write_chunk(bytes(8 * MIB)) + stream.write_owned_bytes(b"x") == 8 * MIB + 1
    assert stream.finish().parts == 2


def test_parts_are_as_large_as_the_environment_says(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("S3DLIO_PUT_PART_SIZE", str(6 * MIB))
    monkeypatch.setenv("S3DLIO_PUT_INFLIGHT", "2")
    monkeypatch.setenv("S3DLIO_PUT_BUFFER_CAPACITY", "16777216")
    with s3dlio.MultipartUploadWriter.from_uri(f"{root}a") as writer:
        writer.write(bytes(13 * MIB))
    assert (writer.part_size, writer.info and writer.info.parts) == (6 * MIB, 3)
    with s3dlio.MultipartUploadWriter.from_uri(f"{root}a", 7 * MIB) as given:
        given.write(bytes(13 * MIB))
    assert given.info is not None
    assert given.info.parts == 2
    with s3dlio.create_writer(f"{root}b") as streamed:
        streamed.write(bytes(13 * MIB))
    assert streamed.finalize()["parts"] == 3
    (tmp_path / "large").write_bytes(bytes(13 * MIB))
    assert run(["put-streaming", f"{root}c", str(tmp_path / "large"), "--json"]) == 0
    assert '"parts": 3' in capfd.readouterr().out
    with s3dlio.StreamingMultipartSink.from_uri(f"{root}d") as sink:
        assert sink.part_size == 6 * MIB


def _npz(number: int) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.full(4, number, np.float32))
    return file.getvalue()


def _double(sample: Any) -> Any:
    return {name: array * 2 for name, array in sample.items()}


def test_torch_datasets_take_pattern_transform_shuffle_and_workers(root: str) -> None:
    s3dlio.put_many([(f"{root}train/{number}.npz", _npz(number)) for number in range(12)])
    s3dlio.put(f"{root}train/notes.txt", b"not a sample")
    dataset = s3dlio.S3MapDataset(uri=f"{root}train/", pattern="*.npz", transform=_double)
    assert sorted(float(dataset[at]["x"][0]) for at in range(len(dataset))) == [2.0 * number for number in range(12)]
    stream = s3dlio.S3IterableDataset(uri=f"{root}train/", pattern="*.npz", shuffle=True, num_workers=4)
    batches = [batch["x"][:, 0] for batch in DataLoader(stream, batch_size=5)]
    assert sorted(torch.cat(batches).tolist()) == list(range(12))

    s3dlio.put_many([(f"{root}raw/{number}", bytes([number]) * 4) for number in range(12)])
    from s3dlio.torch import S3IterableDataset

    plain = DataLoader(S3IterableDataset(f"{root}raw/", loader_opts={}), batch_size=4)
    assert sorted(int(sample[0]) for batch in plain for sample in batch) == list(range(12))


def test_datasets_without_a_framework(root: str) -> None:
    s3dlio.put_many([(f"{root}data/{number:02d}", FLOATS + number) for number in range(10)])
    dataset = s3dlio.create_dataset(f"{root}data/")
    assert np.frombuffer(dataset.get_item(3), dtype=np.float32)[0] == 3
    assert sum(1 for _ in dataset) == 10
    assert [floats(view)[0] for _, view in s3dlio.get_many(dataset.get_uris(), max_in_flight=4)] == list(range(10))

    def firsts(loader: Any) -> list[float]:
        return [value for batch in loader for value in np.frombuffer(batch, np.float32)[::64].tolist()]

    for loader in (
        s3dlio.create_async_loader(uri=f"{root}data/", options=s3dlio.PyLoaderOptions()),
        s3dlio.create_async_loader(f"{root}data/", {"batch_size": 4}),
        s3dlio.create_async_loader(f"{root}data/", batch_size=4),
    ):
        assert firsts(loader) == list(range(10))

    async def count() -> int:
        return sum([len(batch) async for batch in s3dlio.create_async_loader(f"{root}data/", batch_size=4)])

    assert asyncio.run(count()) == 10


def test_checkpoints_hold_what_torch_trains(root: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {"epoch": 10, "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict(), "loss": 0.5}
    s3dlio.save_checkpoint(uri=f"{root}c/10.bin", data=state, compress=True)
    assert s3dlio.load_checkpoint(f"{root}c/10.bin")["epoch"] == 10
    loaded = s3dlio.load_checkpoint_with_validation(
        uri=f"{root}c/10.bin", expected_keys=["epoch", "model_state", "optimizer_state"]
    )
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(loaded["model_state"])
    torch.optim.Adam(other.parameters()).load_state_dict(loaded["optimizer_state"])
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(s3dlio.CheckpointError, match="scaler"):
        s3dlio.load_checkpoint_with_validation(uri=f"{root}c/10.bin", expected_keys=["scaler"])
    s3dlio.save_checkpoint(f"{root}c/plain", {"a": 1})
    assert len(s3dlio.load_checkpoint_with_validation(f"{root}c/plain")) > 0


def test_checkpoints_of_several_ranks(root: str) -> None:
    for rank in range(2):
        s3dlio.save_distributed_shard(
            uri=f"{root}c/shard_{rank}.bin", shard_data={"rank": rank}, rank=rank, world_size=2
        )
    s3dlio.finalize_distributed_checkpoint(base_uri=f"{root}c/", world_size=2)
    reader = s3dlio.CheckpointReader(f"{root}c/")
    manifest = reader.load_latest_manifest()
    assert manifest is not None
    assert manifest.world_size == 2
    assert len(reader.read_shard_by_rank(manifest, rank=0)) > 0


def test_a_store_keeps_bytes_and_named_values(root: str) -> None:
    store = s3dlio.CheckpointStore(f"{root}run/")
    assert store.load_latest() is None
    store.save(step=1, data=FLOATS.tobytes())
    view = store.load_latest()
    assert view is not None
    assert floats(view) == FLOATS.tolist()
    reader = s3dlio.CheckpointReader(f"{root}run/")
    manifest = reader.load_latest_manifest()
    assert manifest is not None
    assert floats(reader.read_shard_by_rank(manifest, rank=0)) == FLOATS.tolist()
    named = s3dlio.PyCheckpointStore(f"{root}named/")
    named.save("model_state", {"w": 1})
    assert named.load("model_state") == {"w": 1}


def test_archives_and_record_files_are_read(root: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, FLOATS, FLOATS + 1)
    s3dlio.put(f"{root}data.npz", file.getvalue())
    arrays = s3dlio.read_npz(f"{root}data.npz")
    assert list(arrays.keys()) == ["arr_0", "arr_1"]
    assert arrays["arr_1"][0] == 1
    with s3dlio.TFRecordWriter(f"{root}d.tfrecord") as records:
        for number in range(3):
            records.write(bytes(number))
    s3dlio.create_tfrecord_index(input_path=f"{root}d.tfrecord", output_path=f"file://{tmp_path}/d.idx")
    entries = s3dlio.get_tfrecord_index_entries(f"{tmp_path}/d.idx")
    assert [(entry["offset"], entry["size"]) for entry in entries] == [(0, 16), (16, 17), (33, 18)]


def test_operations_are_written_down(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_OPLOG_LEVEL", "2")
    for path in (f"file://{tmp_path}/operations.log", f"{tmp_path}/operations.tsv.zst"):
        s3dlio.init_op_log(path)
        s3dlio.put(f"{root}key", b"data")
        s3dlio.get(f"{root}key")
        assert s3dlio.is_op_log_active()
        s3dlio.finalize_op_log()
        assert not s3dlio.is_op_log_active()
    assert "GET" in (tmp_path / "operations.log").read_text()


def test_many_files_go_up_and_come_down(root: str, tmp_path: Path) -> None:
    here, there = tmp_path / "files", tmp_path / "output"
    here.mkdir()
    for name in ("a.dat", "b.dat", "c.log"):
        (here / name).write_bytes(name.encode())
    s3dlio.upload(local_dir=f"{here}/", remote_uri=f"{root}uploads/", pattern="*.dat")
    assert s3dlio.list(f"{root}uploads/") == [f"{root}uploads/a.dat", f"{root}uploads/b.dat"]
    s3dlio.upload([f"{here}/c.log"], f"{root}one/")
    s3dlio.upload([f"{here}/*.dat"], f"{root}some/")
    assert len(s3dlio.list(f"{root}one/") + s3dlio.list(f"{root}some/")) == 3
    s3dlio.download(remote_uri=f"{root}uploads/", local_dir=f"{there}/", pattern="a*.dat")
    assert os.listdir(there) == ["a.dat"]
    s3dlio.download(f"{root}some/", f"{there}/")
    assert sorted(os.listdir(there)) == ["a.dat", "b.dat"]


def test_commands_take_patterns_of_both_kinds(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("a.log", "b.log", "file_12.txt", "file_x.txt"):
        (tmp_path / "data" / name).write_bytes(b"12")
    for words in (
        f"upload {tmp_path}/data/a.log {tmp_path}/data/b.log {root}shell/",  # as a shell expands data/*.log
        f"upload {tmp_path}/data/*.log {root}glob/",
        rf"upload {tmp_path}/data/.*\.log$ {root}regex/",
        rf"upload {tmp_path}/data/file_[0-9]+\.txt {root}digits/",
        f"download {root}glob/ ./local-data/",
        f"put-streaming {root}large-file.bin {tmp_path}/data/a.log",
        f"put {root}small-file.bin {tmp_path}/data/a.log",
    ):
        assert run(words.split()) == 0
    assert sorted(os.listdir("local-data")) == ["a.log", "b.log"]
    assert [uri.removeprefix(root) for uri in s3dlio.list(root)] == [
        "digits/file_12.txt", "glob/a.log", "glob/b.log", "large-file.bin", "regex/a.log", "regex/b.log",
        "shell/a.log", "shell/b.log", "small-file.bin",
    ]  # fmt: skip
