"""Room card: code written for s3torchconnector, with nothing changed but the import.

Knows s3torchconnector's signatures and what its documents show.  Must not import it.
"""

from __future__ import annotations

import inspect
import io
import os
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.cancel import CancellationToken
from s3dlio.compat.s3torchconnector import (
    S3Checkpoint,
    S3Client,
    S3ClientConfig,
    S3Exception,
    S3IterableDataset,
    S3MapDataset,
    S3Reader,
    S3ReaderConstructor,
    S3Writer,
    _BytesViewIO,
)
from s3dlio.stores import open_store
from s3dlio.uri import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer

_CONTENTS = {f"set/{number:02d}": b"%02d " % number * 50 for number in range(20)}


@pytest.fixture(params=["s3", "file"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place with twenty objects."""
    if request.param == "file":
        s3dlio.put_many([(f"file://{tmp_path}/{key}", data) for key, data in _CONTENTS.items()])
        yield f"file://{tmp_path}/set/"
        return
    server: S3Server = request.getfixturevalue("rclone")
    with server.activate():
        if "s3://connector" not in s3dlio.list_containers():
            s3dlio.create_bucket("connector")
        s3dlio.delete("s3://connector/", recursive=True)
        s3dlio.put_many([(f"s3://connector/{key}", data) for key, data in _CONTENTS.items()])
        yield "s3://connector/set/"


def _name_and_bytes(item: S3Reader) -> tuple[str, bytes]:
    return item.key.rpartition("/")[2], item.read()


def _as_is(batch: Any) -> Any:
    return batch


_WANTED = [(key.partition("/")[2], data) for key, data in _CONTENTS.items()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [None, S3ReaderConstructor.sequential(), S3ReaderConstructor.range_based()])
def test_a_map_dataset_gives_readers_by_number_and_in_a_dataloader(prefix: str, workers: int, kind: Any) -> None:
    dataset = S3MapDataset.from_prefix(prefix, region="us-east-1", transform=_name_and_bytes, reader_constructor=kind)
    assert len(dataset) == 20
    assert dataset[3] == dataset[-17] == _WANTED[3]
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=_as_is)
    assert [one for batch in loader for one in batch] == _WANTED
    with pytest.raises(IndexError):
        dataset[20]


@pytest.mark.parametrize("kind", [None, S3ReaderConstructor.range_based(1 << 20)])
def test_an_iterable_dataset_gives_readers_in_order_to_everyone_or_in_shares(prefix: str, kind: Any) -> None:
    whole = S3IterableDataset.from_prefix(
        prefix, region="us-east-1", transform=_name_and_bytes, reader_constructor=kind
    )
    assert list(whole) == _WANTED
    assert sorted(DataLoader(whole, batch_size=None, num_workers=2, collate_fn=_as_is)) == sorted(_WANTED * 2)
    shared = S3IterableDataset.from_prefix(
        prefix, region="us-east-1", transform=_name_and_bytes, reader_constructor=kind, enable_sharding=True
    )
    assert sorted(DataLoader(shared, batch_size=None, num_workers=3, collate_fn=_as_is)) == _WANTED
    assert list(DataLoader(shared, batch_size=None, num_workers=2, collate_fn=_as_is))[:2] == _WANTED[:2]


def test_named_objects_come_in_their_order_without_a_transform(prefix: str) -> None:
    uris = [f"{prefix}{number:02d}" for number in (7, 3, 7)]
    for dataset in (S3MapDataset.from_objects(uris), S3IterableDataset.from_objects(uris)):
        items = [dataset[n] for n in range(3)] if isinstance(dataset, S3MapDataset) else list(dataset)
        assert [item.read() for item in items] == [_CONTENTS[f"set/{number:02d}"] for number in (7, 3, 7)]
        assert [item.uri for item in items] == uris
    only = S3MapDataset.from_objects(uris[0])
    assert len(only) == 1
    assert only[0].bucket == ("connector" if prefix.startswith("s3") else "")
    assert only[0].key.endswith("set/07")


def test_a_spawned_worker_has_what_it_needs(prefix: str) -> None:
    dataset = S3MapDataset.from_prefix(prefix, transform=_name_and_bytes)
    again = pickle.loads(pickle.dumps(dataset))
    assert again[5] == _WANTED[5]
    assert pickle.loads(pickle.dumps(S3IterableDataset.from_prefix(prefix)))._objects().uri(0).key.endswith("00")


def test_a_reader_is_a_binary_file(prefix: str) -> None:
    data = _CONTENTS["set/07"]
    with S3MapDataset.from_objects([f"{prefix}07"])[0] as item:
        assert isinstance(item, io.BufferedIOBase)
        assert (item.readable(), item.seekable(), item.writable()) == (True, True, False)
        assert (item.read(5), item.tell()) == (data[:5], 5)
        memory = bytearray(10)
        assert item.readinto(memory) == 10
        assert memory == data[5:15]
        assert item.seek(-3, os.SEEK_END) == len(data) - 3
        assert item.read() == data[-3:]
        assert item.read() == b""
        assert item.seek(10_000) == len(data)
        assert item.seek(0) == 0
        assert bytes(item.read_bytes()) == data
        assert item.tell() == 0
        item.seek(4)
        assert pickle.loads(pickle.dumps(item)).read(3) == data[4:7]
        with pytest.raises(ValueError, match="seek"):
            item.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        item.read()
    assert item.tell() == 4  # where it was
    view = s3dlio.get(f"{prefix}07")
    file = _BytesViewIO(view)
    assert (file.read(3), file.seek(0), file.read(), file.size) == (data[:3], 0, data, len(data))


def test_nothing_is_asked_for_before_the_first_read_and_then_once(origin: FaultOrigin) -> None:
    origin.objects["/bucket/x"] = b"spam" * 1000
    item = S3MapDataset.from_objects(
        ["s3://bucket/x"],
        region="eu-west-1",
        endpoint=origin.endpoint_url,
        s3client_config=S3ClientConfig(unsigned=True),
    )[0]
    assert origin.requests == []
    assert item.read(4) == b"spam"
    assert item.read() == b"spam" * 999
    assert [request.method for request in origin.requests] == ["GET"]
    missing = S3MapDataset.from_objects(
        ["s3://bucket/none"], endpoint=origin.endpoint_url, s3client_config=S3ClientConfig(unsigned=True)
    )
    with pytest.raises(S3Exception, match="none"):
        missing[0].read()


def test_a_batch_is_read_with_one_request_for_each_object(origin: FaultOrigin) -> None:
    uris = [f"s3://bucket/{number}" for number in range(8)]
    origin.objects.update({f"/bucket/{number}": b"%d" % number for number in range(8)})
    config = S3ClientConfig(unsigned=True)
    dataset = S3MapDataset.from_objects(uris, endpoint=origin.endpoint_url, s3client_config=config)
    assert [item.read() for item in dataset.__getitems__(range(8))] == [b"%d" % number for number in range(8)]
    assert len(origin.requests) == 8


def test_an_empty_prefix_is_an_empty_dataset_and_a_missing_bucket_an_error(rclone: S3Server) -> None:
    with rclone.activate():
        if "s3://connector" not in s3dlio.list_containers():
            s3dlio.create_bucket("connector")
        assert len(S3MapDataset.from_prefix("s3://connector/nothing/", region="us-east-1")) == 0
        missing = S3MapDataset.from_prefix("s3://no-such-bucket/", region="us-east-1")
        with pytest.raises(S3Exception):
            len(missing)


def test_a_checkpoint_is_saved_and_loaded_by_torch(prefix: str) -> None:
    state = {"weight": torch.arange(300_000.0), "step": 7, "name": "spam"}
    checkpoint = S3Checkpoint(region="us-east-1") if prefix.startswith("s3") else S3Checkpoint()
    with checkpoint.writer(f"{prefix}epoch0.ckpt") as writer:
        torch.save(state, writer)
        assert not s3dlio.exists(f"{prefix}epoch0.ckpt")
    with checkpoint.reader(f"{prefix}epoch0.ckpt") as reader:
        loaded = torch.load(reader, weights_only=True)
    assert torch.equal(loaded["weight"], state["weight"])
    assert (loaded["step"], loaded["name"]) == (7, "spam")
    with pytest.raises(ZeroDivisionError), checkpoint.writer(f"{prefix}torn") as writer:  # noqa: PT012
        writer.write(b"half")
        _ = 1 / 0
    writer = checkpoint.writer(f"{prefix}torn")
    writer.write(b"half")
    del writer
    assert not s3dlio.exists(f"{prefix}torn")


def test_a_client_does_what_its_verbs_say(prefix: str) -> None:
    scheme = prefix.partition(":")[0]
    where = s3dlio.uri.parse(prefix)
    client = S3Client("us-east-1", scheme=scheme)
    with client.put_object(where.container, f"{where.key}new") as writer:
        assert isinstance(writer, S3Writer)
        assert writer.write(b"spam") == writer.tell() == 4
    head = client.head_object(where.container, f"{where.key}new")
    assert (head.size, head.last_modified > 0, bool(head.etag)) == (4, True, True)
    client.copy_object(where.container, f"{where.key}new", where.container, f"{where.key}deep/er")
    pages = list(client.list_objects(where.container, where.key, "/", max_keys=10))
    assert [info.key for page in pages for info in page.object_info][-1] == f"{where.key}new"
    assert [name for page in pages for name in page.common_prefixes] == [f"{where.key}deep/"]
    assert [len(page.object_info) + len(page.common_prefixes) for page in pages] == [10, 10, 2]
    client.delete_object(where.container, f"{where.key}new")
    with pytest.raises(FileNotFoundError):
        client.head_object(where.container, f"{where.key}new")
    with pytest.raises(ValueError, match="storage_class"):
        client.put_object(where.container, "x", storage_class="in line\r\n")


def test_a_copy_is_made_by_the_server_and_keeps_what_is_said_of_the_object(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    if "s3://connector-copies" not in s3dlio.list_containers():
        s3dlio.create_bucket("connector-copies")
    s3dlio.put("s3://connector-copies/a b+c", b"spam", content_type="text/x-spam", metadata={"eggs": "two"})
    client = S3Client("us-east-1")
    with pytest.raises(FileNotFoundError):
        client.copy_object("connector-copies", "a", "connector-copies", "d")  # not what begins alike
    client.copy_object("connector-copies", "a b+c", "connector-copies", "deep/er")
    where = parse("s3://connector-copies/deep/er")
    copied = open_store(where).head(where, CancellationToken())
    assert (copied.size, copied.content_type, copied.metadata) == (4, "text/x-spam", {"eggs": "two"})


@pytest.mark.parametrize("length", [4, 6 << 20])
def test_an_object_is_written_in_the_storage_class_that_is_asked_for(
    length: int, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    if "s3://connector-classes" not in s3dlio.list_containers():
        s3dlio.create_bucket("connector-classes")
    client = S3Client("us-east-1", s3client_config=S3ClientConfig(part_size=5 << 20))
    for key, storage_class in (("cold", "STANDARD_IA"), ("plain", None)):
        with client.put_object("connector-classes", key, storage_class=storage_class) as writer:
            writer.write(bytes(length))
        assert client.head_object("connector-classes", key).storage_class == storage_class
        assert s3dlio.get(f"s3://connector-classes/{key}") == bytes(length)


class _Named(NamedTuple):
    """How users' own functions name an object."""

    bucket: str
    key: str


def _every_third(client: S3Client) -> Iterator[_Named]:
    for page in client.list_objects("connector", "set/"):
        yield from (_Named("connector", info.key) for info in page.object_info[::3])


class _Labelled(S3MapDataset):
    """A dataset of a user's own, which is told more."""

    def __init__(self, *settings: Any, label: str = "spam", **more: Any) -> None:
        super().__init__(*settings, **more)
        self.label = label


def test_users_own_functions_and_classes_find_objects_by_s3torchconnectors_arguments(rclone: S3Server) -> None:
    with rclone.activate():
        if "s3://connector" not in s3dlio.list_containers():
            s3dlio.create_bucket("connector")
        s3dlio.delete("s3://connector/", recursive=True)
        s3dlio.put_many([(f"s3://connector/{key}", data) for key, data in _CONTENTS.items()])
        keys = sorted(_CONTENTS)[::3]
        some = S3MapDataset(region="us-east-1", get_dataset_objects=_every_third, transform=_name_and_bytes)
        assert [some[number] for number in range(len(some))] == _WANTED[::3]
        assert pickle.loads(pickle.dumps(some))[1] == _WANTED[3]
        own = S3IterableDataset("us-east-1", _every_third, None, _name_and_bytes, None, True)
        assert list(own) == _WANTED[::3]
        labelled = _Labelled.from_objects([f"s3://connector/{key}" for key in keys], region="us-east-1")
        assert (labelled.label, labelled[0].key) == ("spam", keys[0])


def test_settings_mean_what_they_say() -> None:
    config = S3ClientConfig(part_size=16 << 20, force_path_style=True, max_attempts=3, profile="me", unsigned=True)
    options = config.options("eu-west-1", "http://127.0.0.1:1")
    assert (options.chunk_size, options.addressing_style, options.max_attempts) == (16 << 20, "path", 3)
    assert (options.profile, options.anonymous, options.region) == ("me", True, "eu-west-1")
    assert (options.put_part_size, options.requester_pays) == (16 << 20, False)
    assert S3ClientConfig(part_size=1000).options(None, None).chunk_size == 65536
    assert S3ClientConfig(part_size=1000).options(None, None).put_part_size == 5 << 20
    assert S3ClientConfig().options(None, None).put_part_size is None
    in_flight = [S3ClientConfig(part_size=size << 20).options(None, None).put_in_flight for size in (5, 64, 1024)]
    assert in_flight == [16, 4, 2]  # so many bytes are in memory
    assert S3ClientConfig(requester_pays=True).options(None, None).requester_pays
    assert S3ReaderConstructor.get_reader_type_string(S3ReaderConstructor.range_based(0)) == "range_based"
    assert S3ReaderConstructor.get_reader_type_string(S3ReaderConstructor.dcp_optimized()) == "dcp_optimized"
    assert S3ReaderConstructor.get_reader_type_string(None) == "sequential"
    with pytest.raises(TypeError, match="S3ReaderConstructor"):
        S3MapDataset.from_objects(["s3://b/x"], reader_constructor="sequential")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (S3MapDataset.from_prefix, "s3_uri region endpoint transform s3client_config reader_constructor"),
        (S3MapDataset.from_objects, "object_uris region endpoint transform s3client_config reader_constructor"),
        (
            S3IterableDataset.from_prefix,
            "s3_uri region endpoint transform s3client_config enable_sharding reader_constructor",
        ),
        (
            S3IterableDataset.from_objects,
            "object_uris region endpoint transform s3client_config enable_sharding reader_constructor",
        ),
        (S3MapDataset, "region get_dataset_objects endpoint transform s3client_config reader_constructor"),
        (
            S3IterableDataset,
            "region get_dataset_objects endpoint transform s3client_config enable_sharding reader_constructor",
        ),
        (S3Checkpoint, "region endpoint s3client_config"),
        (S3Client.get_object, "self bucket key object_info reader_constructor"),
        (S3Client.put_object, "self bucket key storage_class"),
        (S3Client.list_objects, "self bucket prefix delimiter max_keys"),
        (
            S3ClientConfig,
            "throughput_target_gbps part_size unsigned force_path_style max_attempts profile requester_pays",
        ),
    ],
)
def test_arguments_have_s3torchconnectors_names_and_order(function: Any, names: str) -> None:
    assert " ".join(inspect.signature(function).parameters) == names
