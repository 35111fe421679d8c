"""Room card: checkpoints of torch.distributed, written and read by s3torchconnector's names.

Knows torch's checkpoints and the names of files below them.  Must not import s3torchconnector.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import s3dlio
from s3dlio.compat.s3torchconnector import S3Client, S3IterableDataset, S3MapDataset, S3Reader, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.dcp import (
    BinaryPrefixStrategy,
    DefaultPrefixStrategy,
    HexPrefixStrategy,
    RoundRobinPrefixStrategy,
    S3FileSystem,
    S3StorageReader,
    S3StorageWriter,
)
from s3dlio.compat.s3torchconnector.s3reader import (
    DCPOptimizedS3Reader,
    ItemRange,
    RangedS3Reader,
    SequentialS3Reader,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin


#: torch says so of every checkpoint that a single process saves.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def place(rclone: S3Server) -> Iterator[str]:
    """An empty place on S3."""
    with rclone.activate():
        if "s3://dcp" not in s3dlio.list_containers():
            s3dlio.create_bucket("dcp")
        s3dlio.delete("s3://dcp/", recursive=True)
        yield "s3://dcp/run/step 1"


def _state() -> dict[str, Any]:
    return {f"layer{number}": torch.arange(200.0) * number for number in range(12)} | {"step": 7}


_KINDS = [
    None,
    S3ReaderConstructor.sequential(),
    S3ReaderConstructor.range_based(0),
    S3ReaderConstructor.dcp_optimized(0),
]


@pytest.mark.parametrize("kind", _KINDS)
def test_what_torch_saves_it_loads_by_every_way_to_read(place: str, kind: Any) -> None:
    strategy = RoundRobinPrefixStrategy(["one", "two"], epoch_num=3)
    dcp.save(
        _state(),
        storage_writer=S3StorageWriter("us-east-1", place, prefix_strategy=strategy, thread_count=2),
        no_dist=True,
    )
    names = sorted(uri.removeprefix(place) for uri in s3dlio.list("s3://dcp/"))
    assert names == ["/.metadata", "/one/epoch_3/__0_0.distcp", "/one/epoch_3/__0_1.distcp"]
    loaded = {f"layer{number}": torch.empty(200) for number in range(0, 12, 3)} | {"step": 0}
    dcp.load(loaded, storage_reader=S3StorageReader("us-east-1", place, reader_constructor=kind))
    assert all(torch.equal(loaded[name], _state()[name]) for name in loaded if name != "step")
    assert loaded["step"] == 7


def test_a_checkpoint_may_lie_on_any_backend() -> None:
    dcp.save(_state(), storage_writer=S3StorageWriter(None, "memory://dcp/here"))
    loaded = {"layer5": torch.empty(200)}
    dcp.load(loaded, storage_reader=S3StorageReader(None, "memory://dcp/here"))
    assert torch.equal(loaded["layer5"], _state()["layer5"])


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        (DefaultPrefixStrategy(), ["__0_", "__1_", "__2_"]),
        (RoundRobinPrefixStrategy(["a", "b"]), ["a/__0_", "b/__1_", "a/__2_"]),
        (BinaryPrefixStrategy(min_prefix_length=1, prefix_count=3), ["00/__0_", "10/__1_", "01/__2_"]),
        (BinaryPrefixStrategy(4, 3, 2), ["000/epoch_4/__0_", "100/epoch_4/__1_", "000/epoch_4/__2_"]),
        (HexPrefixStrategy(prefix_count=17), ["0000000000/__0_", "1000000000/__1_", "2000000000/__2_"]),
        (HexPrefixStrategy(), ["0000000000/__0_", "0000000000/__1_", "0000000000/__2_"]),
    ],
)
def test_ranks_write_below_prefixes_of_their_own(strategy: Any, names: list[str]) -> None:
    assert [strategy(rank) for rank in range(3)] == names


@pytest.mark.parametrize(
    "wrong",
    [
        partial(RoundRobinPrefixStrategy, []),
        partial(BinaryPrefixStrategy, "one"),
        partial(BinaryPrefixStrategy, 1, 0),
        partial(HexPrefixStrategy, prefix_count=0),
    ],
)
def test_prefixes_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        wrong()


def test_the_file_system_does_what_torch_asks(place: str) -> None:
    files = S3FileSystem("us-east-1")
    old, new = files.concat_path(place, "old"), files.concat_path(place, "new")
    with files.create_stream(old, "wb") as stream:
        stream.write(b"spam")
    files.rename(old, new)
    assert (files.exists(old), files.exists(new)) == (False, True)
    with files.create_stream(new, "rb") as stream:
        assert stream.read() == b"spam"
    files.rm_file(new)
    assert not files.exists(new)
    with pytest.raises(ZeroDivisionError), files.create_stream(new, "wb") as stream:  # noqa: PT012
        stream.write(b"half")
        _ = 1 / 0
    assert not files.exists(new)
    with pytest.raises(ValueError, match="mode"), files.create_stream(new, "ab"):
        pass
    with pytest.raises(ValueError, match="buckets"):
        files.rename(old, "s3://elsewhere/new")
    assert S3StorageWriter.validate_checkpoint_id(place)
    assert not S3StorageReader.validate_checkpoint_id("s3://")


def test_items_that_were_announced_come_with_few_requests(origin: FaultOrigin) -> None:
    data = bytes(range(256)) * 8192
    origin.objects["/bucket/x"] = data
    client = S3Client(endpoint=origin.endpoint_url, s3client_config=_unsigned())
    step = 300_000
    items = [ItemRange(at, at + 1000) for at in range(0, len(data) - step, step)]

    def requests(gap: float) -> int:
        before = len(origin.requests)
        with client.get_object("bucket", "x", reader_constructor=partial(_optimized, items, gap)) as reader:
            for start, end in items:
                reader.seek(start)
                assert reader.read(10) == data[start : start + 10]
                assert reader.read(end - start - 10) == data[start + 10 : end]
            reader.seek(-5, io.SEEK_END)
            assert reader.read() == data[-5:]
            reader.seek(0)
            assert reader.read() == data
        return len(origin.requests) - before

    assert requests(float("inf")) < requests(0)


def _unsigned() -> Any:
    from s3dlio.compat.s3torchconnector import S3ClientConfig

    return S3ClientConfig(unsigned=True)


def _optimized(items: Any, gap: float, bucket: str, key: str, get_object_info: Any, get_stream: Any) -> S3Reader:
    return DCPOptimizedS3Reader(bucket, key, items, get_object_info, get_stream, gap)


class _Shouting(SequentialS3Reader):
    def read(self, size: int | None = None, /) -> bytes:
        return super().read(size).upper()


@pytest.mark.parametrize("kind", [_Shouting, partial(_Shouting)])
def test_users_may_bring_readers_of_their_own(kind: Any) -> None:
    s3dlio.put_many([(f"memory://own/{number}", b"spam %d" % number) for number in range(3)])
    mapped = S3MapDataset.from_prefix("memory://own/", reader_constructor=kind)
    iterated = S3IterableDataset.from_prefix("memory://own/", reader_constructor=kind)
    for items in ([mapped[number] for number in range(3)], list(iterated), mapped.__getitems__([0, 1, 2])):
        assert [item.read() for item in items] == [b"SPAM 0", b"SPAM 1", b"SPAM 2"]
    assert S3ReaderConstructor.get_reader_type_string(kind) == "unknown"
    seen: list[Any] = []

    def function(bucket: str, key: str, get_object_info: Any, get_stream: Any) -> io.BytesIO:
        seen.append((bucket, key, get_object_info().size))
        return io.BytesIO(b"".join(get_stream(1, 4)))

    assert S3MapDataset.from_objects("memory://own/1", reader_constructor=function)[0].read() == b"pam"  # type: ignore[arg-type]
    assert seen == [("own", "1", 6)]


@pytest.mark.parametrize("kind", [SequentialS3Reader, RangedS3Reader])
def test_a_reader_takes_its_bytes_from_any_function(kind: Any) -> None:
    data = b"0123456789" * 20_000

    class Info:
        size = len(data)

    def pieces(start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        part = data[start or 0 : end]
        return iter([part[at : at + 7777] for at in range(0, len(part), 7777)])

    reader = kind("bucket", "key", Info, pieces)
    assert (reader.bucket, reader.key, reader.uri) == ("bucket", "key", "s3://bucket/key")
    assert (reader.read(5), reader.seek(100_003), reader.read(4)) == (b"01234", 100_003, b"3456")
    assert (reader.seek(9, io.SEEK_END), reader.read()) == (len(data), b"")
    assert (reader.seek(0), reader.read(), bytes(reader.read_bytes())) == (0, data, data)
    with pytest.raises(ValueError, match="Bucket"):
        kind("", "key", Info, pieces)


def test_what_is_no_number_is_refused_before_anything_is_asked_for() -> None:
    reader = S3Client(scheme="memory").get_object("nowhere", "nothing")
    for wrong in (lambda: reader.read(1.5), lambda: reader.seek("1"), lambda: reader.seek(0, 2.0)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="integer"):
            wrong()
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 5)


def test_a_dataset_is_made_without_asking_and_travels_with_its_listing(origin: FaultOrigin) -> None:
    dataset = S3MapDataset.from_prefix("s3://bucket/x", endpoint=origin.endpoint_url, s3client_config=_unsigned())
    named = S3IterableDataset.from_objects([], endpoint=origin.endpoint_url)
    assert list(named) == []
    assert origin.requests == []
    s3dlio.put("memory://travels/1", b"spam")
    dataset = S3MapDataset.from_prefix("memory://travels/")
    packed = pickle.dumps(dataset)
    s3dlio.put("memory://travels/2", b"eggs")
    assert len(pickle.loads(packed)) == len(dataset) == 1


def test_readers_of_checkpoints_pickle_as_what_they_are() -> None:
    s3dlio.put("memory://travels/file", b"spam and eggs")
    client = S3Client(scheme="memory")
    for make in (partial(_optimized, [ItemRange(0, 4)], 0), S3ReaderConstructor.range_based(70_000), None):
        reader = client.get_object("travels", "file", reader_constructor=make)
        reader.seek(5)
        again = pickle.loads(pickle.dumps(reader))
        assert type(again) is type(reader)
        assert (again.read(), again.uri) == (b"and eggs", "memory://travels/file")
    assert repr(again) == "SequentialS3Reader('memory://travels/file')"


@pytest.mark.parametrize(("gap", "items"), [(-1, []), ("1", []), (None, []), (0, [(-1, 10)]), (0, [(0, 5), (10, 5)])])
def test_items_that_cannot_be_are_refused(gap: Any, items: list[tuple[int, int]]) -> None:
    ranges = [ItemRange(*item) for item in items]
    with pytest.raises(ValueError, match="max_gap_size" if gap != 0 else "item"):
        DCPOptimizedS3Reader("bucket", "key", ranges, lambda: None, lambda start=None, end=None: iter(()), gap)
    if gap != 0:
        with pytest.raises(ValueError, match="max_gap_size"):
            S3ReaderConstructor.dcp_optimized(gap)


def test_who_asks_pays_and_nobody_pays_unsigned(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.compat.s3torchconnector import S3ClientConfig

    with pytest.raises(ValueError, match="requester_pays"):
        S3ClientConfig(requester_pays=True, unsigned=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "spam")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "eggs")
    origin.objects.update({"/bucket/a": b"spam", "/bucket/b": b"eggs"})
    dataset = S3MapDataset.from_objects(
        ["s3://bucket/a", "s3://bucket/b"],
        region="us-east-1",
        endpoint=origin.endpoint_url,
        s3client_config=S3ClientConfig(requester_pays=True),
    )
    assert dataset[0].read() + b"".join(item.read() for item in dataset.__getitems__([0, 1])) == b"spamspameggs"
    assert {request.headers["x-amz-request-payer"] for request in origin.requests} == {"requester"}


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What plays Lightning: the interface of its checkpoints has abstract methods alone."""
    modules = {
        name: types.ModuleType(name)
        for name in ("lightning", "lightning.pytorch", "lightning.pytorch.plugins", "lightning.pytorch.plugins.io")
    }
    modules["lightning"].__version__ = "2.6.0"  # type: ignore[attr-defined]
    modules["lightning.pytorch.plugins.io"].CheckpointIO = object  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["lightning"]


def _lightning_room(monkeypatch: pytest.MonkeyPatch) -> Any:
    room = importlib.import_module("s3dlio.compat.s3torchconnector.lightning")
    monkeypatch.delitem(sys.modules, room.__name__)
    return room


def test_what_an_old_lightning_saved_is_loaded_as_it_loaded_it(
    lightning: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = _lightning_room(monkeypatch).S3LightningCheckpoint()
    keeper.save_checkpoint(
        {"where": Path("spam")}, "memory://lightning/whole.ckpt"
    )  # torch allows no Path among weights
    with pytest.raises(pickle.UnpicklingError):
        keeper.load_checkpoint("memory://lightning/whole.ckpt")
    lightning.__version__ = "2.5.6.post1"  # type: ignore[attr-defined]
    assert keeper.load_checkpoint("memory://lightning/whole.ckpt") == {"where": Path("spam")}
    with pytest.raises(pickle.UnpicklingError):
        keeper.load_checkpoint("memory://lightning/whole.ckpt", weights_only=True)


@pytest.mark.usefixtures("lightning")
def test_lightning_keeps_checkpoints_by_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = _lightning_room(monkeypatch).S3LightningCheckpoint()
    keeper.save_checkpoint({"weight": torch.ones(3), "step": 2}, "memory://lightning/a.ckpt")
    assert keeper.load_checkpoint("memory://lightning/a.ckpt", weights_only=True)["step"] == 2
    # Lightning hands on what its ModelCheckpoint was given, which fsspec has to know as well.
    assert keeper.load_checkpoint("s3dlio+memory://lightning/a.ckpt", weights_only=True)["step"] == 2
    keeper.remove_checkpoint("s3dlio+memory://lightning/a.ckpt")
    assert not s3dlio.exists("memory://lightning/a.ckpt")
    with pytest.raises(TypeError, match="string"):
        keeper.load_checkpoint(Path("a.ckpt"))
