"""Room card: streaming writers by all their names: what they take, what they tell, and that bytes come out as they
went in, whatever the steps.

In memory, files, moto and azurite.  What every backend promises is in `contract_streams`, what goes wrong in
`test_writer_faults`, compression in `test_compression`.
"""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from awscrt.checksums import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import (
    MultipartUploadSink,
    MultipartUploadWriter,
    ObjectStore,
    OptionError,
    StoreOptions,
    StreamingMultipartSink,
    UriError,
    WriterOptions,
)
from s3dlio.cancel import CancellationToken
from s3dlio.errors import CancelledError, ClosedError
from s3dlio.outflow import Outflow
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions
from s3dlio.stores.rest import RestStore
from s3dlio.uri import parse
from tests.contract_base import blob, unique
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3dlio.testing import S3Server
    from tests.servers.azurite import AzuriteServer
    from tests.servers.moto import MotoServer

MIB = 1024**2


def _fresh(name: str = "x") -> str:
    return f"memory://{unique('writers')}/{name}"


# -- the multipart writer -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["memory", "file"])
def test_the_anchor(place: str, tmp_path: Path) -> None:
    """65 MiB in writes of 8 MiB, at parts of 32 MiB."""
    uri = _fresh() if place == "memory" else f"file://{tmp_path}/deep/er/x"
    data = blob(65 * MIB)
    with MultipartUploadWriter.from_uri(uri, part_size=32 * MIB) as writer:
        for start in range(0, len(data), 8 * MIB):
            writer.write(memoryview(data)[start : start + 8 * MIB])
    info = writer.info
    assert info is not None
    assert (info.total_bytes, info["parts"]) == (68_157_440, 3)
    assert s3dlio.get(uri) == data


def test_by_bucket_and_key(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("writers")
    s3dlio.create_bucket(bucket)
    writer = MultipartUploadWriter(bucket, "a key/x", 5 * MIB, 3, "image/png", True, metadata={"a": "b"})
    assert writer.uri == f"s3://{bucket}/a key/x"
    writer.write(blob(6 * MIB))
    info = writer.close()
    told = boto3.client("s3", endpoint_url=moto.endpoint_url).head_object(Bucket=bucket, Key="a key/x")
    assert told["ContentLength"] == 6 * MIB
    assert told["ETag"] == f'"{info.etag}"'
    assert (told["ContentType"], told["Metadata"]) == ("image/png", {"a": "b"})
    assert info.etag.endswith("-2")


def test_the_info_is_a_mapping_with_attributes() -> None:
    with MultipartUploadWriter.from_uri(_fresh()) as writer:
        writer.write(b"spam")
    info = writer.info
    assert isinstance(info, Mapping)
    assert set(info) == {"etag", "e_tag", "total_bytes", "parts", "started_at", "completed_at", "checksum"}
    assert all(getattr(info, name) == info[name] for name in info)
    assert info["etag"] == info["e_tag"]
    assert info["started_at"].tzinfo is not None
    assert len(dict(info)) == len(info) == 7
    assert "total_bytes=4" in repr(info)
    with pytest.raises(KeyError):
        info["size"]
    assert dict(pickle.loads(pickle.dumps(info))) == dict(info)


def test_the_names_of_the_sinks() -> None:
    uri = _fresh()
    sink = MultipartUploadSink.from_uri(uri)
    assert sink.write_blocking(b"a") == sink.write_owned_blocking(bytearray(b"b")) == 1
    assert sink.finish_blocking().total_bytes == 2
    assert s3dlio.get(uri) == b"ab"
    streaming = StreamingMultipartSink.from_uri(uri)
    assert streaming.write_chunk(b"c") == streaming.write_owned_bytes(b"d") == streaming.write(b"e") == 1
    assert streaming.finish()["parts"] == 1
    assert s3dlio.get(uri) == b"cde"
    assert streaming._outflow._part_bytes == 8 * MIB
    assert streaming._outflow._sender._width == 64
    with pytest.raises(TypeError):
        StreamingMultipartSink("bucket", "key", partsize=1)


@pytest.mark.parametrize(
    "data",
    [
        np.arange(6, dtype=np.uint16).reshape(2, 3),
        bytearray(range(12)),
        s3dlio.BytesView.from_bytes(bytes(range(20)))[4:16],
    ],
    ids=["2-d", "bytearray", "view"],
)
def test_anything_bytes_like_is_written(data: Any) -> None:
    uri = _fresh()
    with MultipartUploadWriter.from_uri(uri) as writer:
        assert writer.write(data) == 12
    assert s3dlio.get(uri) == memoryview(data).cast("B").tobytes() if not isinstance(data, s3dlio.BytesView) else data


def test_what_has_no_bytes_in_a_row_is_refused_and_harms_nothing() -> None:
    uri = _fresh()
    wrong: list[Any] = ["text", None, [1], np.zeros(10, np.uint8)[::2]]
    with MultipartUploadWriter.from_uri(uri) as writer:
        for data in wrong:
            with pytest.raises(OptionError):
                writer.write(data)
        writer.write(b"good")
    assert s3dlio.get(uri) == b"good"


def test_options_out_of_bounds() -> None:
    for size in (0, -1, 5 * MIB - 1):
        with pytest.raises(OptionError, match="5 MiB"):
            MultipartUploadWriter.from_uri(_fresh(), part_size=size)
    with pytest.raises(OptionError, match="max_in_flight"):
        MultipartUploadWriter.from_uri(_fresh(), max_in_flight=0)
    with pytest.raises(OptionError, match="multiple"):
        MultipartUploadWriter.from_uri("direct:///nowhere/x", part_size=5 * MIB + 1)
    with pytest.raises(UriError):
        MultipartUploadWriter.from_uri("memory://space/")
    with pytest.raises(UriError):
        MultipartUploadWriter("bucket", "")
    with pytest.raises(OptionError, match="at most"):
        MultipartUploadWriter("bucket", "key", part_size=6 * 1024**3)


def test_settings_of_ones_own(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    keys = {"access_key_id": rclone.access_key, "secret_access_key": rclone.secret_key}
    options = StoreOptions(endpoint_url=rclone.endpoint_url, sign_payload=True, **keys)
    store = ObjectStore(options)
    bucket = unique("writers")
    store.create_bucket(f"s3://{bucket}")
    with MultipartUploadWriter.from_uri(f"s3://{bucket}/x", part_size=5 * MIB, options=options) as writer:
        writer.write(blob(6 * MIB))
    assert store.get(f"s3://{bucket}/x") == blob(6 * MIB)
    with store.create_writer(f"s3://{bucket}/y", WriterOptions(buffer_capacity=5 * MIB)) as other:
        other.write(blob(6 * MIB))
    assert store.get(f"s3://{bucket}/y") == blob(6 * MIB)
    assert rclone.secret_key not in repr(other.stats) + repr(writer.info) + repr(writer) + repr(other)


# -- the object writer --------------------------------------------------------------------------------


def test_all_the_names_of_a_writer(tmp_path: Path) -> None:
    target = f"file://{tmp_path}/a/b"
    writer = s3dlio.create_filesystem_writer(target)
    assert isinstance(writer, s3dlio.PyObjectWriter)
    assert writer.write(b"a") == writer.write_chunk(b"b") == writer.write_owned(b"c") == 1
    assert writer.write_owned_bytes(b"d") == 1
    assert (writer.bytes_written(), writer.stats) == (4, None)
    writer.flush()
    assert list(tmp_path.rglob("b")) == []
    stats = writer.finalize()
    assert writer.finalize() is stats is writer.stats
    written, compressed = stats
    assert (written, compressed, len(stats)) == (4, 4, 2)
    for name in ("bytes_written", "compressed_bytes", "compressed_size"):
        assert stats[name] == getattr(stats, name) == 4
    assert (stats["uri"], stats["parts"], stats[0]) == (target, 1, 4)
    assert stats["checksum"] == f"crc32c:{crc32c(b'abcd'):08x}"
    assert stats["etag"] == s3dlio.stat(target)["etag"]
    assert dict(**stats)["parts"] == 1
    with pytest.raises(KeyError):
        stats["size"]
    for again in (pickle.loads(pickle.dumps(stats)), copy.copy(stats)):
        assert (again, again["uri"], repr(again)) == (stats, target, repr(stats))
    assert writer.finish()["size"] == 4
    writer.cancel()
    assert s3dlio.get(target) == b"abcd"
    with pytest.raises(ClosedError):
        writer.write(b"x")


def test_a_writer_by_a_local_path(tmp_path: Path) -> None:
    with s3dlio.create_writer(str(tmp_path / "x")) as writer:
        writer.write(b"spam")
    assert writer.uri == f"file://{tmp_path}/x"
    assert (tmp_path / "x").read_bytes() == b"spam"


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (s3dlio.create_s3_writer, "s3"),
        (s3dlio.create_gcs_writer, "gs"),
        (s3dlio.create_azure_writer, "az"),
        (s3dlio.create_filesystem_writer, "file"),
        (s3dlio.create_direct_filesystem_writer, "direct"),
    ],
)
def test_a_writer_of_one_backend_refuses_the_others(make: Callable[[str], object], right: str) -> None:
    for scheme in {"s3", "gs", "az", "file", "direct", "memory"} - {right}:
        uri = f"{scheme}:///x" if scheme in {"file", "direct"} else f"{scheme}://container/x"
        with pytest.raises(UriError, match=f"{right}://"):
            make(uri)


def test_a_cancelled_writer(tmp_path: Path) -> None:
    writer = s3dlio.create_writer(f"file://{tmp_path}/x.zst")
    writer.write(b"spam")
    writer.cancel()
    writer.cancel()
    for _ in range(2):
        for call in (lambda: writer.write(b""), writer.finalize, writer.finish, writer.flush):
            with pytest.raises(ClosedError, match="aborted"):
                call()
    assert list(tmp_path.iterdir()) == []


def test_buffers_are_made_to_fit() -> None:
    """A small buffer is one that S3 can take, and one past the cache whole blocks."""
    store = open_store("s3://bucket/x", StoreOptions(region="us-east-1"))
    writer = s3dlio.create_writer(_fresh(), WriterOptions(buffer_capacity=100, max_in_flight=1))
    writer.write(blob(1001))
    assert writer.finalize()["parts"] == 11
    from s3dlio.object_writer import _part_bytes

    assert _part_bytes(store, 1) == 5 * MIB
    assert _part_bytes(open_store("direct:///x"), 5000) == 8192


def test_options_and_their_builders() -> None:
    given = {
        "compression": "gzip",
        "compression_level": 9,
        "buffer_capacity": 1000,
        "max_in_flight": 3,
        "content_type": "text/plain",
        "metadata": {"a": "b"},
        "overwrite": False,
        "storage_class": "STANDARD_IA",
    }
    built = (
        s3dlio.PyWriterOptions()
        .with_compression("gzip", 9)
        .with_buffer_size(1000)
        .with_max_in_flight(3)
        .with_content_type("text/plain")
        .with_metadata({"a": "b"})
        .with_overwrite(False)
        .with_storage_class("STANDARD_IA")
    )
    assert built == WriterOptions(**given)
    assert {name: getattr(built, name) for name in given} == given
    plain = WriterOptions()
    assert plain != built
    assert plain.with_buffer_capacity(7).buffer_capacity == 7
    assert (plain.buffer_capacity, plain.compression, plain.max_in_flight) == (16 * MIB, None, 16)
    assert eval(repr(built)) == built
    assert copy.deepcopy(built) == built == pickle.loads(pickle.dumps(built))
    changed = copy.copy(built)
    changed.compression_level = 1
    assert built.compression_level == 9


@pytest.mark.parametrize("length", [4, 100_000])
def test_a_blob_is_written_in_the_access_tier_that_is_asked_for(
    length: int, azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    if not s3dlio.exists("az://tiers"):
        s3dlio.create_bucket("az://tiers")
    where = parse(f"az://tiers/{unique('t')}")
    with s3dlio.create_writer(str(where), WriterOptions(storage_class="Cool", buffer_capacity=50_000)) as writer:
        writer.write(bytes(length))
    found = open_store(where).head(where, CancellationToken())
    assert (found.size, found.storage_class) == (length, "Cool")


def test_google_cloud_is_told_the_storage_class_by_its_own_field() -> None:
    store = open_store(parse("gs://b/x"), StoreOptions(anonymous=True))
    assert isinstance(store, RestStore)
    assert store.put_headers(PutOptions(storage_class="NEARLINE"))["x-goog-storage-class"] == "NEARLINE"
    assert "x-goog-storage-class" not in store.put_headers(PutOptions())


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"compresion": "zstd"}, "compression"),
        ({"buffer_size": 1}, "buffer"),
        ({"compression": "zip"}, "one of none, zstd, gzip, lz4"),
        ({"compression": "zstd", "compression_level": 23}, "1 to 22"),
        ({"compression": "zstd", "compression_level": 0}, "1 to 22"),
        ({"compression": "gzip", "compression_level": 10}, "0 to 9"),
        ({"compression": "gzip", "compression_level": 2.5}, "whole number"),
        ({"buffer_capacity": 0}, "at least 1"),
        ({"max_in_flight": True}, "at least 1"),
        ({"storage_class": "IA\r\nx-amz-acl: public-read"}, "STANDARD_IA"),
        ({"storage_class": None}, "STANDARD_IA"),
    ],
)
def test_wrong_options_say_what_is_right(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(OptionError, match=hint):
        WriterOptions(**options)
    right = WriterOptions()
    with pytest.raises(OptionError, match=hint):
        [setattr(right, name, value) for name, value in options.items()]


# -- any steps ----------------------------------------------------------------------------------------

_PART = 1000
_SIZES = st.one_of(st.integers(0, 40), st.sampled_from([_PART - 1, _PART, _PART + 1]), st.integers(0, 5 * _PART))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _SIZES, st.just(0)),
        st.tuples(st.just("commit"), _SIZES, st.integers(0, 100)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS, st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_steps_give_the_bytes_that_were_written(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, int]], width: int, dice: Any
) -> None:
    monkeypatch.setattr("s3dlio.outflow._BORROWED_BYTES", 30)
    monkeypatch.setattr("s3dlio.outflow._LARGE_COPY_BYTES", 20)
    monkeypatch.setattr("s3dlio.outflow._STEP_BYTES", 7)
    uri = parse("memory://writers/any")
    store, token = open_store(uri), CancellationToken()
    outflow = Outflow(store, uri, PutOptions(), part_bytes=_PART, width=width, parent=token)
    expected = bytearray()
    for name, size, percent in steps:
        if name == "flush":
            outflow.flush()
            continue
        data = dice.randbytes(size)
        if name == "write":
            outflow.write(memoryview(data if size % 2 else bytearray(data)))
        else:
            room = outflow.reserve(size)
            assert len(room) == size
            room[:] = data
            data = data[: size * percent // 100]
            outflow.commit(len(data))
        expected += data
        assert outflow.bytes_written == len(expected)
    sent = outflow.close()
    assert s3dlio.get(str(uri)) == expected
    assert (sent.total_bytes, sent.crc32c) == (len(expected), crc32c(bytes(expected)))
    assert sent.parts == max(1, -(-len(expected) // _PART))


def test_large_reservations_of_which_little_is_used_do_not_pile_up() -> None:
    """Else each few bytes would keep the memory of a whole reservation until their part is full."""
    outflow = Outflow(
        open_store("memory://writers/x"), parse("memory://writers/x"), PutOptions(),
        part_bytes=4 * MIB, width=1, parent=CancellationToken(),
    )  # fmt: skip
    for _ in range(300):
        room = outflow.reserve(5 * MIB)
        room[:10] = b"0123456789"
        outflow.commit(10)
    assert sum(piece.nbytes for piece in outflow._pieces) < 4 * MIB
    assert len(outflow._pieces) <= 1
    assert outflow.close().total_bytes == 3000
    assert s3dlio.get("memory://writers/x") == b"0123456789" * 300


def test_large_bytes_are_not_copied_and_small_ones_between_them_take_no_memory_of_their_own() -> None:
    uri = parse(_fresh())
    outflow = Outflow(
        open_store(uri), uri, PutOptions(), part_bytes=64 * MIB, width=1, parent=CancellationToken()
    )  # fmt: skip
    large = blob(MIB)
    expected = bytearray()
    for number in range(20):
        for data in (b"head %d" % number, large, memoryview(large), memoryview(large)[10:20]):
            outflow.write(memoryview(data))
            expected += data
    owners = [piece.obj for piece in outflow._pieces]
    assert sum(owner is large for owner in owners) == 40
    rooms = {id(owner) for owner in owners if owner is not large}
    assert len(rooms) <= 1
    outflow.close()
    assert s3dlio.get(str(uri)) == expected


def test_a_little_of_large_bytes_does_not_keep_them() -> None:
    uri = parse(_fresh())
    outflow = Outflow(open_store(uri), uri, PutOptions(), part_bytes=64 * MIB, width=1, parent=CancellationToken())
    outflow.write(memoryview(bytes(8 * MIB))[: 2 * MIB])
    assert outflow._pieces == []
    assert outflow.close().total_bytes == 2 * MIB


def test_memory_reserved_is_recycled() -> None:
    uri = _fresh()
    with MultipartUploadWriter.from_uri(uri, part_size=5 * MIB, max_in_flight=1) as writer:
        tracemalloc.start()
        for _ in range(8):
            writer.reserve(5 * MIB)
            writer.commit(5 * MIB)
            writer.flush()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 60 * MIB  # the copies that memory:// keeps, and no more


# -- stopping -----------------------------------------------------------------------------------------


def test_a_token_stops_a_stream() -> None:
    token = CancellationToken()
    uri = parse(_fresh())
    outflow = Outflow(open_store(uri), uri, PutOptions(), part_bytes=10, width=1, parent=token)
    outflow.write(memoryview(bytes(25)))
    token.cancel()
    with pytest.raises(CancelledError):
        outflow.write(memoryview(bytes(100)))
    with pytest.raises(CancelledError):
        outflow.close()
    assert not s3dlio.exists(str(uri))


def test_a_dropped_stream_is_aborted_though_garbage_is_collected_by_its_own_thread(tmp_path: Path) -> None:
    """A part's thread that collects the writer must not wait for itself."""
    uri = parse(f"file://{tmp_path}/x")
    outflow = Outflow(open_store(uri), uri, PutOptions(), part_bytes=10, width=2, parent=CancellationToken())
    gone = weakref.ref(outflow)
    entered, may_go = threading.Event(), threading.Event()
    upload = outflow._sender._upload
    assert upload is not None

    def send(*_: object) -> None:
        entered.set()
        may_go.wait(90)
        gc.collect()

    upload.send = send  # type: ignore[method-assign]
    outflow.write(memoryview(bytes(11)))
    assert entered.wait(90)
    ring: list[object] = [outflow]
    ring.append(ring)
    del outflow, ring, upload
    may_go.set()
    deadline = time.monotonic() + 20
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert gone() is None


def test_importing_the_writers_is_light() -> None:
    code = (
        "import sys, s3dlio; s3dlio.MultipartUploadWriter, s3dlio.WriterOptions, s3dlio.create_writer;"
        "print([name for name in ('zstandard', 'lz4', 'boto3', 'fsspec', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=PROGRAM_S)
    assert done.stdout.strip() == "[]"
