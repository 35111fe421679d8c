"""Room card: does a checkpoint of one or many ranks exist wholly or not at all, and is the newest whole one found?

Writers at the same moment, servers that fail, processes that are killed at any moment, disks that are full.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio import (
    CheckpointError,
    CheckpointReader,
    CheckpointStore,
    CheckpointWriter,
    IncompleteCheckpointError,
    IntegrityError,
    NotFoundError,
    OptionError,
    StoreError,
    finalize_distributed_checkpoint,
    save_distributed_shard,
)
from s3dlio.checkpoint import manifest as names
from s3dlio.errors import FormatError
from tests.contract_base import blob, in_child, unique
from tests.contract_checkpoints import same
from tests.patience import PROGRAM_S
from tests.reading import impatient, verbs_with
from tests.servers.faults import Midway, ResetInBody, ResetInHead, ShortBody, Status, s3_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.testing import S3Server
    from tests.servers.fault_kinds import Fault
    from tests.servers.faults import FaultOrigin
    from tests.servers.moto import MotoServer

MIB = 1024**2


@pytest.fixture
def root() -> str:
    """Where nothing is yet."""
    return f"memory://{unique('store')}/run/"


def steps(store: CheckpointStore) -> list[int]:
    return [info.step for info in store.list()]


def edit(uri: str, **changes: Any) -> None:
    """Changes fields of a stored manifest or sidecar."""
    s3dlio.put(uri, json.dumps(json.loads(bytes(s3dlio.get(uri))) | changes).encode())


# -- what there is ------------------------------------------------------------------------------------


def test_the_layout_is_the_documented_one(root: str) -> None:
    store = CheckpointStore(root)
    manifest = store.save(step=12, data={"w": np.arange(4)}, epoch=2, framework="numpy", user_meta={"loss": 0.5})
    assert isinstance(manifest, names.Manifest)
    when = manifest.timestamp
    assert s3dlio.list(root) == [f"{root}{key}" for key in (
        "latest.json", "manifests/ckpt-12-" + when + ".json", "manifests/ckpt-12.claim", f"shards/ckpt-12-{when}/rank-0",
    )]  # fmt: skip
    told = json.loads(bytes(s3dlio.get(f"{root}manifests/ckpt-12-{when}.json")))
    shard = told["shards"][0]
    info = s3dlio.stat(f"{root}{shard['key']}")
    assert (shard["rank"], shard["size"], shard["etag"]) == (0, info["size"], info["etag"])
    assert shard["checksum"] == manifest.shards[0].checksum
    assert {key: told[key] for key in ("format_version", "framework", "global_step", "epoch", "world_size", "status")} == {
        "format_version": 1, "framework": "numpy", "global_step": 12, "epoch": 2, "world_size": 1, "status": "complete",
    }  # fmt: skip
    assert json.loads(bytes(s3dlio.get(f"{root}latest.json")))["global_step"] == 12


def test_what_is_kept_and_removed(root: str) -> None:
    store = CheckpointStore(root, keep_last=2)
    for step in (5, 1, 9, 3):
        store.save(step=step, data=step)
    assert steps(store) == [9, 3]
    assert store.load() == 3
    store.save("a/b", [1])
    assert store.names() == ["a/b"]
    assert store.retain(1) == [9]
    for wrong in (0, -1):
        with pytest.raises(OptionError):
            store.retain(wrong)
        with pytest.raises(OptionError):
            CheckpointStore(root, keep_last=wrong)
    assert steps(store) == [3]
    store.delete(step=77)
    store.delete("nothing")
    with pytest.raises(NotFoundError, match="there are steps 3"):
        store.load(step=4)
    assert store.load("a/b") == [1]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../../x", "/x", "a//b", "a/", ".", "x\0"])
def test_a_name_may_not_lead_out(root: str, name: str) -> None:
    store = CheckpointStore(root)
    for use in (lambda: store.save(name, 1), lambda: store.load(name), lambda: store.delete(name)):
        with pytest.raises(OptionError):
            use()


def test_a_step_in_the_place_of_a_name_is_refused_with_the_way_out(root: str) -> None:
    store = CheckpointStore(root)
    calls = (lambda: store.save(1, b"x"), lambda: store.load(1), lambda: store.async_save(1, b"x").result())  # type: ignore[arg-type]
    for call in calls:
        with pytest.raises(OptionError, match="step="):
            call()
    assert store.list() == []
    assert store.names() == []


def test_neither_or_both_of_name_and_step_are_refused(root: str) -> None:
    store = CheckpointStore(root)
    for given in ({}, {"name": "x", "step": 1}):
        with pytest.raises(OptionError, match="either"):
            store.save(data=1, **given)
        with pytest.raises(OptionError, match="either"):
            store.delete(**given)


def test_options_that_bytes_do_not_have_are_refused(root: str) -> None:
    store = CheckpointStore(root)
    with pytest.raises(OptionError, match="compress"):
        store.save(step=1, data=b"raw", compress=True)
    store.save(step=1, data=b"raw")
    with pytest.raises(OptionError, match="into"):
        store.load(step=1, into={})
    assert store.load(step=1) == b"raw" == store.load_latest()


def test_meta_that_is_no_json_is_refused_before_anything_is_sent(root: str) -> None:
    store = CheckpointStore(root)
    for meta in ({"x": np.ones(1)}, {"x": float("nan")}, {1: "x"}, {"x": (1, 2)}):
        with pytest.raises(OptionError, match="user_meta"):
            store.save(step=1, data=1, user_meta=meta)
    with pytest.raises(NotFoundError):
        s3dlio.list(root)
    store.save(step=1, data=1, user_meta={"x": [1, {"y": None}]})


# -- what is not relied on ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latest", [None, b"", b"{}", b"garbage", b'{"manifest":"manifests/ckpt-9-20990101T000000000000Z.json"}']
)
def test_the_hint_is_not_relied_on(root: str, latest: bytes | None) -> None:
    store = CheckpointStore(root)
    for step in (1, 2):
        store.save(step=step, data=step)
    if latest is None:
        s3dlio.delete(f"{root}latest.json")
    else:
        s3dlio.put(f"{root}latest.json", latest)
    assert store.load() == 2


def test_the_newest_whole_one_is_found(root: str) -> None:
    store = CheckpointStore(root)
    shards = [store.save(step=step, data={"step": step}).shards[0] for step in range(5)]  # type: ignore[union-attr]
    s3dlio.delete(f"{root}{shards[4].key}")
    assert store.load()["step"] == 3
    s3dlio.put(f"{root}{shards[3].key}", b"short")
    assert store.load()["step"] == 2
    manifest = store.reader.load_manifest(2)
    s3dlio.put(f"{root}{manifest.key}", b"garbage")
    assert store.load()["step"] == 1
    edit(f"{root}{store.reader.load_manifest(1).key}", status="incomplete")
    assert store.load()["step"] == 0
    with pytest.raises(FormatError) as caught:
        store.list()
    assert manifest.key in str(caught.value) or "ckpt-1" in str(caught.value)
    for step in range(4):
        store.delete(step=step)
    s3dlio.put(f"{root}manifests/readme.txt", b"not ours")
    s3dlio.put(f"{root}manifests/copies/{manifest.id}.json", b"not ours")
    assert store.load_latest() is None
    store.gc(0)
    assert max(uri.removeprefix(root) for uri in s3dlio.list(f"{root}manifests/")) == "manifests/readme.txt"
    assert len(s3dlio.list(f"{root}manifests/copies/")) == 1


def test_a_newest_checkpoint_of_the_future_is_not_passed_over(root: str) -> None:
    store = CheckpointStore(root)
    store.save(step=1, data=1)
    manifest = store.save(step=2, data=2)
    edit(f"{root}{manifest.key}", format_version=2, something="new")  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="update s3dlio"):
        store.load()
    assert store.load(step=1) == 1


def test_folders_above_may_have_any_name() -> None:
    root = f"memory://{unique('store')}/shards/ckpt-3-20260101T000000000000Z/manifests/"
    store = CheckpointStore(root)
    store.save(step=1, data="x")
    assert (store.load(), steps(store), store.gc(0)) == ("x", [1], [])


def test_a_shard_in_anothers_place_is_noticed(root: str) -> None:
    """Whole, of the right size, with sums of its own that are right: only the manifest knows better."""
    writers = [CheckpointWriter(root, rank, 2) for rank in range(2)]
    when = CheckpointWriter.new_timestamp()
    shards = [writer.save_shard(1, {"w": np.full(500, n)}, timestamp=when) for n, writer in enumerate(writers)]
    manifest = writers[0].finalize(1, timestamp=when, shards=shards)
    assert shards[0].size == shards[1].size
    one, other = (bytes(s3dlio.get(f"{root}{shard.key}")) for shard in shards)
    s3dlio.put(f"{root}{shards[0].key}", other)
    s3dlio.put(f"{root}{shards[1].key}", one)
    reader = CheckpointReader(root)
    for rank in range(2):
        with pytest.raises(IntegrityError, match=f"rank {rank}") as caught:
            reader.load(manifest, rank)
        assert caught.value.uri == f"{root}{shards[rank].key}"
        with pytest.raises(IntegrityError, match=f"rank {rank}"):
            reader.read_shard_by_rank(manifest, rank)
    with pytest.raises(OptionError, match="ranks 0 to 1"):
        reader.load(manifest, 2)


def test_a_compressed_shard_is_checked_too(root: str) -> None:
    store = CheckpointStore(root)
    (shard,) = store.save(step=1, data={"w": np.zeros(MIB)}, compress=True).shards  # type: ignore[union-attr]
    assert shard.size < MIB
    assert same(store.load(), {"w": np.zeros(MIB)})
    data = bytearray(s3dlio.get(f"{root}{shard.key}"))
    data[len(data) // 2] ^= 4
    s3dlio.put(f"{root}{shard.key}", data)
    with pytest.raises(IntegrityError, match="rank 0"):
        store.load()


# -- many ranks ---------------------------------------------------------------------------------------


def test_ranks_that_lie_are_refused(root: str) -> None:
    when = CheckpointWriter.new_timestamp()
    writers = [CheckpointWriter(root, rank, 2) for rank in range(2)]
    shards = [writer.save_shard(1, {"rank": rank}, timestamp=when) for rank, writer in enumerate(writers)]
    beside = f"{root}{shards[1].key}.json"
    whole = bytes(s3dlio.get(beside))
    for lie, why in (
        ({"rank": 0}, "speaks of"), ({"rank": 7}, "ranks 0 to 1"), ({"key": shards[0].key}, "speaks of"),
        ({"size": 5}, "bytes, not 5"), ({"world_size": 3}, "one of 3, not of 2"), ({"world_size": 0}, "world_size"),
        ({"key": "../x"}, "leads out"),
    ):  # fmt: skip
        edit(beside, **lie)
        with pytest.raises((IncompleteCheckpointError, FormatError), match=why):
            writers[0].finalize(1, timestamp=when)
        s3dlio.put(beside, whole)
    for given in ([shards[0]], [shards[0], shards[0]], [*shards, shards[1]]):
        with pytest.raises(IncompleteCheckpointError, match=r"rank [01]: (not saved|2 shards)"):
            writers[0].finalize(1, timestamp=when, shards=given)
    assert CheckpointReader(root).load_latest_manifest() is None
    writers[0].finalize(1, timestamp=when)
    assert not [uri for uri in s3dlio.list(f"{root}shards/") if uri.endswith(".json")]


def test_ranks_and_timestamps_are_checked(root: str) -> None:
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(OptionError):
            CheckpointWriter(root, rank, world)
        with pytest.raises(OptionError):
            save_distributed_shard(f"{root}x", 1, rank, world)
    with pytest.raises(OptionError, match="timestamp must look like"):
        CheckpointWriter(root).save_shard(1, 1, timestamp="../x")
    with pytest.raises(OptionError, match="did you mean 'binary'"):
        CheckpointStore(root, strategy="binery")


def test_shards_of_before_do_not_count(root: str) -> None:
    """Names of the user's own are written again and again; a rank that has only begun has not saved."""
    for rank in range(2):
        save_distributed_shard(f"{root}s{rank}", {"turn": 1}, rank, 2)
    save_distributed_shard(f"{root}s0", {"turn": 2}, 0, 2)
    with pytest.raises(OptionError):
        save_distributed_shard(f"{root}s1", {"turn": object()}, 1, 2)
    with pytest.raises(IncompleteCheckpointError, match="rank 1: not saved"):
        finalize_distributed_checkpoint(root, 2)
    save_distributed_shard(f"{root}s1", {"turn": 2}, 1, 2)
    for world in (1, 3):
        with pytest.raises(IncompleteCheckpointError, match=f"one of 2, not of {world}"):
            finalize_distributed_checkpoint(root, world)
    manifest = finalize_distributed_checkpoint(root, 2, epoch=3, user_meta={"a": 1})
    reader = CheckpointReader(root)
    assert [reader.load(manifest, rank) for rank in range(2)] == [{"turn": 2}] * 2
    with pytest.raises(IncompleteCheckpointError, match="rank 0: not saved"):
        finalize_distributed_checkpoint(root, 2)
    save_distributed_shard(f"{root}other", {"turn": 3}, 0, 2)
    save_distributed_shard(f"{root}another", {"turn": 3}, 0, 2)
    save_distributed_shard(f"{root}s1", {"turn": 3}, 1, 2)
    with pytest.raises(IncompleteCheckpointError, match="rank 0: 2 shards"):
        finalize_distributed_checkpoint(root, 2)
    s3dlio.delete(f"{root}another.shard.json")
    assert finalize_distributed_checkpoint(root, 2).global_step == manifest.global_step + 1
    with pytest.raises((IntegrityError, IncompleteCheckpointError), match="rank 1"):
        reader.load(manifest, 1)  # was overwritten by the second turn


# -- one of two ---------------------------------------------------------------------------------------


def _finalized(root: str, number: int) -> bool:
    try:
        CheckpointWriter(root).finalize(1, timestamp=f"20260101T00000000{number:04d}Z")
    except CheckpointError:
        return False
    return True


def _compete(root: str, folder: Path, count: int = 4) -> list[int]:
    """Lets processes finalize one step at one moment; returns who has won."""
    for number in range(count):
        CheckpointWriter(root).save_shard(1, number, timestamp=f"20260101T00000000{number:04d}Z")
    start = time.time() + 0.4

    def work(number: int) -> None:
        time.sleep(max(0.0, start - time.time()))
        (folder / f"{number}-{_finalized(root, number)}").touch()

    threads = [threading.Thread(target=in_child, args=(lambda n=n: work(n),)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    outcomes = sorted(path.name.split("-") for path in folder.iterdir())
    assert len(outcomes) == count
    return [int(number) for number, won in outcomes if won == "True"]


def test_one_of_several_processes_wins_on_files(tmp_path: Path) -> None:
    for turn in range(3):
        (tmp_path / f"said{turn}").mkdir()
        root = f"file://{tmp_path}/run{turn}/"
        (winner,) = _compete(root, tmp_path / f"said{turn}")
        assert CheckpointStore(root).load() == winner
        assert steps(CheckpointStore(root)) == [1]


def test_one_of_several_processes_wins_on_s3(moto: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("race")
    s3dlio.create_bucket(bucket)
    (winner,) = _compete(f"s3://{bucket}/run/", tmp_path)
    assert CheckpointStore(f"s3://{bucket}/run").load() == winner


def test_without_conditions_a_whole_one_is_found(
    rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that always replaces may let several win at the very same moment, each of them whole.

    One after the other, the second is refused.
    """
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("race")
    s3dlio.create_bucket(bucket)
    root = f"s3://{bucket}/run/"
    winners = _compete(root, tmp_path)
    store = CheckpointStore(root)
    if winners:
        assert store.load() in winners
        assert not any(_finalized(root, number) for number in range(4) if number not in winners)
    assert all(
        not store.reader.faults(store.reader.load_manifest(step, when)) for when, step in store.reader.manifest_ids()
    )


@pytest.mark.parametrize("skew_s", [0, 1e6, -1e6], ids=["same-clock", "ahead", "behind"])
def test_the_claim_of_one_who_died_is_waited_for_and_taken_over(
    root: str, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    """A run that is started again at once saves the step in the midst of which it was killed."""
    monkeypatch.setattr("s3dlio.checkpoint_writer._CLAIM_S", 1.0)
    dead = {"manifest": "manifests/ckpt-1-20200101T000000000000Z.json", "wall_time": time.time() + skew_s}
    s3dlio.put(f"{root}manifests/ckpt-1.claim", json.dumps(dead).encode())
    CheckpointStore(root).save(step=1, data="x")
    assert CheckpointStore(root).load() == "x"


def test_a_claim_is_held_by_one_who_then_puts_the_manifest(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    when, theirs = CheckpointWriter.new_timestamp(), "20200101T000000000000Z"
    writer = CheckpointWriter(root)
    writer.save_shard(1, "x", timestamp=when)
    claim = {"manifest": f"manifests/ckpt-1-{theirs}.json", "wall_time": time.time()}
    s3dlio.put(f"{root}manifests/ckpt-1.claim", json.dumps(claim).encode())
    naps: list[float] = []

    def nap(_token: Any, seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            s3dlio.put(f"{root}{claim['manifest']}", b"{}")

    monkeypatch.setattr("s3dlio.cancel.CancellationToken.sleep", nap)
    with pytest.raises(CheckpointError, match=f"saved by somebody else .*{theirs}"):
        writer.finalize(1, timestamp=when)
    assert len(naps) == 2


def test_a_step_of_which_there_is_only_a_claim_can_be_deleted(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = {"manifest": "manifests/ckpt-1-20200101T000000000000Z.json", "wall_time": time.time()}
    for step in (1, 10):
        s3dlio.put(f"{root}manifests/ckpt-{step}.claim", json.dumps(claim).encode())
    store = CheckpointStore(root)
    store.delete(step=1)
    monkeypatch.setattr("s3dlio.cancel.CancellationToken.sleep", lambda *_: pytest.fail("it has waited"))
    store.save(step=1, data="x")
    assert s3dlio.exists(f"{root}manifests/ckpt-10.claim")


def test_a_claim_that_is_garbage_is_taken_over(root: str) -> None:
    s3dlio.put(f"{root}manifests/ckpt-1.claim", b"garbage")
    CheckpointStore(root).save(step=1, data="x")
    assert CheckpointStore(root).load() == "x"


def test_a_claim_whose_manifest_is_there_holds_for_ever(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointStore(root).save(step=1, data="first")
    later = time.time() + 1e6
    monkeypatch.setattr("s3dlio.checkpoint_writer.time.time", lambda: later)
    when = CheckpointWriter.new_timestamp()
    CheckpointWriter(root).save_shard(1, "second", timestamp=when)
    for lost in (False, True):
        if lost:
            s3dlio.delete(f"{root}manifests/ckpt-1.claim")
        with pytest.raises(CheckpointError, match=r"somebody else|saved before"):
            CheckpointWriter(root).finalize(1, timestamp=when)
    assert CheckpointStore(root).load() == "first"


def test_finalizing_again_changes_nothing(root: str) -> None:
    """As after an answer that was lost."""
    when = CheckpointWriter.new_timestamp()
    writer = CheckpointWriter(root)
    shard = writer.save_shard(1, "x", timestamp=when)
    for _ in range(2):
        writer.finalize(1, timestamp=when, shards=[shard])
    assert steps(CheckpointStore(root)) == [1]


# -- readers beside a writer that keeps one -----------------------------------------------------------


@pytest.mark.parametrize("overtaken", ["_read_manifest", "faults", "load", "read_shard_by_rank"])
def test_the_newest_is_read_though_it_is_removed_meanwhile(
    root: str, monkeypatch: pytest.MonkeyPatch, overtaken: str
) -> None:
    """It was said that there is no checkpoint yet, which makes a run begin from the start."""
    store = CheckpointStore(root, keep_last=1)
    store.save(step=1, data=b"first")
    whole = getattr(CheckpointReader, overtaken)
    left = [2, 3]

    def late(reader: CheckpointReader, *given: Any, **options: Any) -> Any:
        if left:
            with monkeypatch.context() as undone:
                undone.setattr(CheckpointReader, overtaken, whole)
                store.save(step=left[0], data=f"{left.pop(0)}".encode())
        return whole(reader, *given, **options)

    monkeypatch.setattr(CheckpointReader, overtaken, late)
    found = store.load_latest() if overtaken == "read_shard_by_rank" else store.load()
    assert found == b"3"
    assert left == []


def test_a_newest_whose_shard_goes_for_good_is_an_error(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(root)
    manifest = store.save(step=1, data=b"x")
    s3dlio.delete(f"{root}{manifest.shards[0].key}")  # type: ignore[union-attr]
    monkeypatch.setattr(CheckpointReader, "faults", lambda *_: [])  # it goes after it was looked at
    with pytest.raises(IncompleteCheckpointError, match="missing"):
        store.load_latest()


# -- servers that fail --------------------------------------------------------------------------------

PASSING: dict[str, Fault] = {
    "503": s3_error(503, "SlowDown"), "500": Status(500), "reset": ResetInHead(), "reset-in-head": ResetInHead(30),
}  # fmt: skip
STATE = {"w": np.frombuffer(blob(22 * MIB + 123), np.uint8), "small": [np.arange(9), "text"]}


@pytest.fixture
def shaky(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultOrigin]:
    """An origin that is given parts of 5 MiB, and patience that ends soon."""
    origin.buckets.add("bucket")
    monkeypatch.setattr("s3dlio.sender.DEFAULT_PART_BYTES", MIB)
    with verbs_with(monkeypatch, impatient(origin.endpoint_url, read_timeout_s=1.0, max_attempts=3)):
        yield origin


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_fails_for_a_while_is_tried_again(shaky: FaultOrigin, fault: Fault, method: str) -> None:
    shaky.plan("/bucket/x", *[None, fault] * 2, method=method)
    shaky.plan_midway("PUT", Midway(after_bytes=100_000, resets=True))
    s3dlio.save_checkpoint("s3://bucket/x", STATE)
    assert same(s3dlio.load_checkpoint("s3://bucket/x"), STATE)
    assert shaky.uploads.pending == {}


def test_reads_that_fail_for_a_while_are_tried_again(shaky: FaultOrigin) -> None:
    s3dlio.save_checkpoint("s3://bucket/x", STATE)
    target = {"w": np.zeros_like(STATE["w"]), "small": [np.zeros(9, int), ""]}
    shaky.plan("/bucket/x", None, ResetInBody(5000), s3_error(503, "SlowDown"), ShortBody(100), method="GET")
    s3dlio.load_checkpoint("s3://bucket/x", into=target)
    assert same(target["w"], STATE["w"])


@pytest.mark.parametrize(("which", "compress"), [(0, False), (3, False), (0, True), (1, True)])
def test_what_fails_for_good_leaves_what_was_there(shaky: FaultOrigin, which: int, compress: bool) -> None:
    s3dlio.save_checkpoint("s3://bucket/x", "before")
    shaky.plan("/bucket/x", *[None] * which, *[s3_error(503, "SlowDown")] * 60, method="PUT")
    with pytest.raises(StoreError):
        s3dlio.save_checkpoint("s3://bucket/x", STATE, compress)
    assert shaky.uploads.pending == {}
    assert s3dlio.load_checkpoint("s3://bucket/x") == "before"


def test_a_failure_in_the_midst_leaves_the_store_as_it_was(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(root)
    store.save(step=1, data=1)
    whole, broken = s3dlio.api.put, "nothing"

    def put(uri: str, *rest: Any, **options: Any) -> Any:
        if uri.endswith(broken):
            raise StoreError("as planned", uri=uri, operation="put")
        return whole(uri, *rest, **options)

    monkeypatch.setattr("s3dlio.checkpoint_writer.api.put", put)
    for step, broken in enumerate(("rank-0.json", ".claim", "Z.json"), 2):  # noqa: B007 - put() looks at it
        with pytest.raises(StoreError, match="as planned"):
            store.save(step=step, data=step)
        assert store.load() == 1
    monkeypatch.undo()
    assert steps(store) == [1]
    assert len(store.gc(0)) >= 3
    assert len(s3dlio.list(root)) == 4


# -- ends of processes and disks ----------------------------------------------------------------------

_SAVER = """
import sys
import numpy as np
import s3dlio
from s3dlio import CheckpointStore, CheckpointWriter

root, way, step, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = CheckpointStore(root)
print("ready", flush=True)
while True:
    value = {"step": step, "w": np.full(size, step % 251, np.uint8)}
    if way == "single":
        store.save(step=step, data=value)
    elif way == "async":
        store.async_save(step=step, data=value).result()
    else:
        when = CheckpointWriter.new_timestamp()
        writers = [CheckpointWriter(root, rank, 2) for rank in range(2)]
        shards = [writer.save_shard(step, value, timestamp=when) for writer in writers]
        writers[0].finalize(step, timestamp=when)
    print(step, flush=True)
    step += 1
"""


def kill_trials(root: str, env: dict[str, str], count: int) -> int:
    """Kills savers at random moments, and holds what they leave against what they have said.

    Returns:
        How many of them have left something.
    """
    dice, store = random.Random(), CheckpointStore(root)
    seed = dice.randrange(1 << 30)
    dice.seed(seed)
    step = broken = 0
    for trial in range(count):
        way = ("single", "async", "distributed")[trial % 3]
        size = (3 * MIB, 40 * MIB)[trial // 3 % 2]  # one part, and three
        done = _kill_once(root, env, (way, str(step), str(size)), dice.random() * 0.3)
        last = max([step - 1, *done])
        value = store.load() if last >= 0 or store.load_latest() is not None else {"step": -1}
        where = f"trial {trial}, seed {seed}"
        assert value["step"] in (last, last + 1), where  # the one after may have been made, and not been told
        assert value["step"] < 0 or bool((value["w"] == value["step"] % 251).all()), where
        infos = store.list()
        assert [info.step for info in infos][-1:] == ([value["step"]] if infos else []), where
        broken += _sweep(store, where)
        step = value["step"] + 1
        if infos:
            store.retain(1)
    return broken


def _kill_once(root: str, env: dict[str, str], work: tuple[str, str, str], delay_s: float) -> list[int]:
    command = [sys.executable, "-c", _SAVER, root, *work]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    process.kill()
    said, _ = process.communicate(timeout=PROGRAM_S)
    return [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


def _sweep(store: CheckpointStore, where: str) -> bool:
    """Removes what was left, and sees that nothing else goes; tells whether there was something.

    Again for a while, until it is calm: a server still carries out what it was asked for by one who is dead.
    """
    gone, calm, end = store.gc(0), 0, time.monotonic() + 60
    there, known = _there(store), _known(store, where)
    while calm < 3 and time.monotonic() < end:
        time.sleep(0.1)
        gone += store.gc(0)
        there, known = _there(store), _known(store, where)
        calm = calm + 1 if there <= known else 0
    assert there <= known, where
    assert known - there <= {"latest.json"}, where
    return bool(gone)


def _known(store: CheckpointStore, where: str) -> set[str]:
    known = {"latest.json"}
    for when, step in store.reader.manifest_ids():
        manifest = store.reader.load_manifest(step, when)
        assert not store.reader.faults(manifest), where
        known |= {manifest.key, names.claim_key(step), *(shard.key for shard in manifest.shards)}
    return known


def _there(store: CheckpointStore) -> set[str]:
    if store.uri.startswith("file://"):  # where listings hide what is half written
        folder = Path(store.uri[7:])
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {uri.removeprefix(store.uri) for uri in s3dlio.list(store.uri)}


def _bucket_of(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("kill")
    s3dlio.create_bucket(bucket)
    return f"s3://{bucket}/run/"


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_kill_leaves_whole_checkpoints_in_files(tmp_path: Path, count: int) -> None:
    broken = kill_trials(f"file://{tmp_path}/run/", {}, count)
    assert broken > 3 or count < 100


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_kill_leaves_whole_checkpoints_in_s3(rclone: S3Server, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    broken = kill_trials(_bucket_of(rclone, monkeypatch), dict(rclone.env), count)
    assert broken > 3 or count < 100


_FULL = """
import resource, signal, sys
import numpy as np
from s3dlio import CheckpointStore, StoreError

store = CheckpointStore(sys.argv[1])
store.save(step=1, data="before")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, 12 << 20))
for compress in (False, True):
    try:
        store.save(step=2, data={"w": np.random.default_rng(1).bytes(40 << 20)}, compress=compress)
    except StoreError as error:
        print(type(error).__name__, error.uri)
assert store.load() == "before"
assert [info.step for info in store.list()] == [1]
"""


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PROGRAM_S)
    assert len(done.stdout.splitlines()) == 2
    assert "shards/ckpt-2-" in done.stdout
    assert [path for path in tmp_path.rglob("*") if "ckpt-2" in path.name and path.is_file()] == []
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
