"""Room card: transfers that something goes wrong with, links, progress, and workers elsewhere.

Knows files of this machine, `memory://` and the S3 servers.  What all backends promise is in `contract_transfers`.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import s3dlio
from s3dlio import (
    AccessDeniedError,
    NotFoundError,
    ObjectStore,
    OptionError,
    StoreError,
    StoreOptions,
    StoreUnavailableError,
    TransferError,
    UriError,
)
from s3dlio.batches import run_batches
from s3dlio.cancel import CancellationToken
from s3dlio.retry import RetryPolicy
from s3dlio.transfer import haul
from s3dlio.transfer.carry import Carrier, Room
from tests.contract_base import blob, unique
from tests.contract_transfers import make_tree, read_tree
from tests.servers.faults import FaultOrigin, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s3dlio.stores.base import Reader
    from s3dlio.testing import S3Server
    from s3dlio.transfer.plan import Move
    from tests.servers.gcs import GcsServer
    from tests.servers.moto import MotoServer


@pytest.fixture
def root() -> str:
    """A prefix in memory."""
    return f"memory://transfers/{unique('t')}/"


@pytest.fixture
def bucket(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a real server, found through the environment."""
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    name = unique("transfers")
    s3dlio.create_bucket(name)
    return f"s3://{name}/"


# -- names ----------------------------------------------------------------------------------------------


def test_a_key_that_leads_out_is_refused(root: str, tmp_path: Path) -> None:
    s3dlio.put_many([(f"{root}a", b""), (f"{root}../../escaped", b"evil"), (f"{root}x/../../y", b"evil")])
    with pytest.raises(UriError, match="leads out"):
        s3dlio.download(root, tmp_path / "down/here")
    assert read_tree(tmp_path) == {}


def test_keys_that_no_file_can_have_do_not_stop_the_others(root: str, tmp_path: Path) -> None:
    bad = ["a//b", "./c", "k" * 300, "a"]
    s3dlio.put_many([(f"{root}{key}", b"x") for key in (*bad, "a/good", "good")])
    result = s3dlio.download(root, tmp_path, errors="return")
    assert (tmp_path / "good").read_bytes() == b"x"
    assert {one.source for one in result.failures} >= {f"{root}{key}" for key in bad[:3]}
    assert result.transferred + result.failed == 6
    with pytest.raises(TransferError, match="of 6 objects failed"):
        s3dlio.download(root, tmp_path / "again")


def test_links_are_followed_or_left_out(root: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {"a": b"a", "sub/b": b"b"})
    (tree / "link").symlink_to("a")
    (tree / "sub/up").symlink_to("..")
    (tree / "other").symlink_to("sub")
    os.mkfifo(tree / "pipe")
    s3dlio.upload(tree, f"{root}1/")
    assert [uri.removeprefix(f"{root}1/") for uri in s3dlio.list(f"{root}1/")] == ["a", "link", "other/b", "sub/b"]
    s3dlio.upload(tree, f"{root}2/", follow_links=False)
    assert [uri.removeprefix(f"{root}2/") for uri in s3dlio.list(f"{root}2/")] == ["a", "sub/b"]
    (tree / "dangling").symlink_to("nowhere")
    result = s3dlio.upload(tree, f"{root}3/", errors="return")
    assert (result.transferred, [type(one.error) for one in result.failures]) == (4, [NotFoundError])


def test_an_empty_directory_holds_nothing_to_upload(root: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        s3dlio.upload(tmp_path, root)


def test_a_copy_gets_a_name_or_a_directory(root: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    s3dlio.copy(tmp_path / "x", f"{root}name")
    s3dlio.copy(tmp_path / "x", f"{root}dir/")
    s3dlio.copy([tmp_path / "x"], f"{root}several")
    assert s3dlio.list(root) == [f"{root}dir/x", f"{root}name", f"{root}several/x"]
    s3dlio.copy(f"{root}name", tmp_path / "folder")
    s3dlio.copy(f"{root}name", tmp_path / "new")
    assert set(read_tree(tmp_path)) == {"x", "folder/name", "new"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: s3dlio.upload("/tmp"),
        lambda: s3dlio.upload("/tmp", "s3://b/", local_dir="/tmp"),
        lambda: s3dlio.upload(5, "s3://b/"),
        lambda: s3dlio.upload([5], "s3://b/"),
        lambda: s3dlio.upload("/tmp", 5),
        lambda: s3dlio.upload("/tmp", "memory://b/", 0),
        lambda: s3dlio.upload("/tmp", "memory://b/", errors="ignore"),
        lambda: s3dlio.upload(__file__, "memory://b/", executor="processes"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises((OptionError, TypeError)):
        call()


# -- failures -------------------------------------------------------------------------------------------


def test_one_bad_object_does_not_stop_the_rest(tmp_path: Path, origin: FaultOrigin) -> None:
    tree = make_tree(tmp_path / "tree", {f"{n:03}": b"%d" % n for n in range(200)})
    origin.objects["/b/first"] = b""
    origin.plan("/b/up/050", *[Status(403)] * 10, method="PUT")
    store = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True))
    with pytest.raises(TransferError, match=r"1 of 200 objects failed.*up/050") as caught:
        store.upload(tree, "s3://b/up/")
    assert len(store.list("s3://b/up/")) == 199
    (failure,) = caught.value.failures
    assert (failure.source, failure.destination) == (f"file://{tree}/050", "s3://b/up/050")
    assert isinstance(failure.error, AccessDeniedError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.failures[0].source) == (str(caught.value), failure.source)
    assert TransferError("only a message").failures == ()


def test_a_single_object_fails_with_its_own_error(root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}x", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="a file stands where"):
        s3dlio.download(f"{root}x", tmp_path / "file" / "below")


def test_a_server_that_refuses_everything_is_given_up(
    tmp_path: Path, origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree", {f"{n:04}": b"x" for n in range(1000)})
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda *_: 0.0)
    origin.objects["/b/first"] = b""
    store = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True, max_attempts=1))
    origin.plan_all(None, *[Status(503)] * 5000)
    result = store.upload(tree, "s3://b/", 4, errors="return")
    assert (result.transferred, result.failed) == (0, 1000)
    assert 100 <= len(result.failures) <= 104
    assert all(isinstance(one.error, StoreUnavailableError) for one in result.failures)


def test_a_full_disk_leaves_no_piece_of_a_file(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put_many([(f"{root}{n}", bytes(1000 * n)) for n in range(10)])
    s3dlio.put(f"{root}large", bytes(20_000_000))
    real = os.pwrite

    def full(descriptor: int, data: memoryview, start: int) -> int:
        if len(data) >= 8000:
            real(descriptor, data[: len(data) // 2], start)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, start)

    monkeypatch.setattr(os, "pwrite", full)
    result = s3dlio.download(root, tmp_path, errors="return")
    assert (result.transferred, result.failed) == (8, 3)
    assert all("No space left" in str(one.error) for one in result.failures)
    assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(8)}
    monkeypatch.undo()
    assert s3dlio.download(root, tmp_path, update=True).transferred == 3


@pytest.mark.parametrize("where", ["memory", "server"])
def test_an_object_that_grows_meanwhile_arrives_whole(
    root: str, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    uri = f"{root if where == 'memory' else bucket}x"
    s3dlio.put(uri, bytes(100))
    data = blob(9_000_000)
    planned = s3dlio.transfers._planned

    def late(*args: Any) -> Any:
        found = planned(*args)
        s3dlio.put(uri, data)
        return found

    monkeypatch.setattr(s3dlio.transfers, "_planned", late)
    assert s3dlio.download(uri, tmp_path).total_bytes == len(data)
    assert (tmp_path / "x").read_bytes() == data


def test_a_failed_large_object_leaves_no_upload_behind(tmp_path: Path, origin: FaultOrigin) -> None:
    (tmp_path / "large").write_bytes(bytes(40_000_000))
    store = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True, max_attempts=1))
    origin.objects["/b/first"] = b""
    origin.plan("/b/large", None, *[Status(403)] * 9, method="PUT")
    with pytest.raises(AccessDeniedError):
        store.upload(tmp_path / "large", "s3://b/")
    assert [one.method for one in origin.requests][-1] == "DELETE"
    assert store.list("s3://b/") == ["s3://b/first"]


_INTERRUPTED = """
import itertools, sys, time
import s3dlio
from s3dlio.stores.draft import Draft

write, numbers = Draft.write, itertools.count(1)

def slow(self, start, pieces, token):
    number = next(numbers)
    if number <= 20:
        return write(self, start, pieces, token)
    write(self, start, [piece[: len(piece) // 2] for piece in pieces], token)
    if number == 24:  # all four are here, and what came before has its name
        print("half", flush=True)
    while True:
        token.check()
        time.sleep(0.01)

Draft.write = slow
s3dlio.download(sys.argv[1], sys.argv[2], 4)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_download_leaves_whole_files_and_goes_on(
    bucket: str, tmp_path: Path, how: signal.Signals
) -> None:
    tree = {f"{n:02}": blob(50_000, n) for n in range(60)}
    s3dlio.put_many([(f"{bucket}{name}", data) for name, data in tree.items()])
    program = [sys.executable, "-c", _INTERRUPTED, bucket, str(tmp_path / "down")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "half\n"
            child.send_signal(how)
            _, shown = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode != 0
    assert how == signal.SIGKILL or "KeyboardInterrupt" in shown
    there = read_tree(tmp_path / "down")
    whole = {name: data for name, data in there.items() if not name.startswith(".")}
    assert len(whole) == 20
    assert all(data == tree[name] for name, data in whole.items())
    assert how == signal.SIGKILL or there == whole
    assert len(s3dlio.list(f"file://{tmp_path}/down/")) == 20
    again = s3dlio.download(bucket, tmp_path / "down", update=True)
    assert (again.transferred, again.skipped) == (40, 20)
    assert {name: data for name, data in read_tree(tmp_path / "down").items() if name in tree} == tree


# -- the far side copies ----------------------------------------------------------------------------------


def test_a_copy_within_google_is_made_there(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint_url)
    name = unique("copies")
    s3dlio.create_bucket(f"gs://{name}")
    s3dlio.put(f"gs://{name}/x", b"spam")
    gcs.clear_requests()
    s3dlio.copy(f"gs://{name}/x", f"gs://{name}/y")
    assert not any(one.method == "GET" and one.target.endswith("/x") for one in gcs.requests)
    assert s3dlio.get(f"gs://{name}/y") == b"spam"


def test_a_large_copy_within_s3_is_made_there_in_stretches(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("s3dlio.stores.s3.S3Store.copy_bytes", 6 << 20)
    monkeypatch.setattr("s3dlio.transfer.carry._COPIED_PART_BYTES", 6 << 20)
    monkeypatch.setattr("s3dlio.stores.s3.S3Store.read_into", None)  # not a byte comes here
    monkeypatch.setattr("s3dlio.sender.DEFAULT_PART_BYTES", 5 << 20)
    name = unique("stretches")
    s3dlio.create_bucket(name)
    data = blob(14 << 20)
    s3dlio.put(f"s3://{name}/x", data, content_type="text/plain", metadata={"note": "kept"})
    s3dlio.copy(f"s3://{name}/x", f"s3://{name}/y")
    monkeypatch.undo()
    for key, value in moto.env.items():
        monkeypatch.setenv(key, value)
    assert s3dlio.get(f"s3://{name}/y") == data
    assert s3dlio.stat(f"s3://{name}/y")["metadata"] == {"note": "kept"}


def test_a_server_without_copies_gets_the_bytes_from_here(origin: FaultOrigin) -> None:
    origin.objects["/b/x"] = b"spam"
    store = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, anonymous=True, max_attempts=1))
    origin.plan("/b/y", Status(501), method="PUT")
    store.copy("s3://b/x", "s3://b/y")
    assert store.get("s3://b/y") == b"spam"


# -- telling --------------------------------------------------------------------------------------------


def test_a_function_is_told_the_bytes(root: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {f"{n}": bytes(1000) for n in range(20)})
    told: list[tuple[int, int]] = []
    s3dlio.upload(tree, root, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (20_000, 20_000)
    assert told == sorted(told)


def test_nobody_is_told_off_a_terminal(root: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "tree", {"a": b"a"})
    s3dlio.upload(tree, root, progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_is_told_the_objects(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rich: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("s3dlio.progress._LINE_EVERY_S", 0.0)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    s3dlio.upload(make_tree(tmp_path / "tree", {"a": b"a", "b": b"b"}), root, progress=True)
    shown = capsys.readouterr().err
    assert "upload to memory://" in shown
    assert rich or ("100 %, 2/2 objects" in shown and "MiB/s" in shown)


# -- memory ---------------------------------------------------------------------------------------------


def test_memory_is_shared_and_one_large_thing_is_let_in_alone() -> None:
    room, token = Room(100), CancellationToken()
    held: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def hold(length: int) -> None:
        with room.held(length, token):
            with lock:
                held.append(length)
                most.append(sum(held))
            with lock:
                held.remove(length)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, [30, 60, 500, 10, 90] * 40))
    assert all(total <= 100 or total == 500 for total in most)


# -- threads --------------------------------------------------------------------------------------------


def _copied_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread_time: Callable[[], float]) -> set[int]:
    """Copy a hundred files, with the clock of a thread's own work as told; return which threads carried them."""
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    for number in range(100):
        (source / f"{number:02d}").write_bytes(b"spam")
    seen: set[int] = set()
    enough = threading.Event()
    carry = Carrier.carry

    def watched(carrier: Carrier, move: Move, read: Reader, token: CancellationToken) -> int:
        seen.add(threading.get_ident())
        if len(seen) == 8:
            enough.set()
        if thread_time() == 0.0 and int(move.source.key[-2:]) >= 80:
            assert enough.wait(60)  # those that are there are all busy now
        time.sleep(0.001)  # whoever else is there gets a turn
        return carry(carrier, move, read, token)

    monkeypatch.setattr(Carrier, "carry", watched)
    clock = itertools.count().__next__
    monkeypatch.setattr(haul, "time", SimpleNamespace(perf_counter=clock, thread_time=thread_time))
    s3dlio.copy(f"file://{source}/", f"file://{target}/", max_in_flight=8)
    assert len(list(target.iterdir())) == 100
    return seen


def test_files_that_are_waited_for_get_as_many_threads_as_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(_copied_by(tmp_path, monkeypatch, lambda: 0.0)) == 8


def test_files_that_are_in_memory_get_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thread_time = itertools.count(1.0, 1e6).__next__  # they always compute
    assert len(_copied_by(tmp_path, monkeypatch, thread_time)) <= 2


def test_large_files_have_all_their_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel carries them, and the interpreter has next to nothing to do."""
    monkeypatch.setattr(haul, "WHOLE_BYTES", 3)
    monkeypatch.setattr(haul, "_WAITING", 1e9)
    meeting = threading.Barrier(4)
    carry = Carrier.carry

    def watched(carrier: Carrier, move: Move, read: Reader, token: CancellationToken) -> int:
        meeting.wait(60)
        return carry(carrier, move, read, token)

    monkeypatch.setattr(Carrier, "carry", watched)
    for number in range(4):
        (tmp_path / f"{number}").write_bytes(b"spam")
    assert s3dlio.copy(f"file://{tmp_path}/", f"file://{tmp_path}/to/").transferred == 4


# -- workers elsewhere ----------------------------------------------------------------------------------


def _cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haul, "_BATCH_OBJECTS", 5)


def test_processes_do_it_in_batches(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cut_small(monkeypatch)
    files = {f"{n:02}": blob(1000, n) for n in range(23)}
    tree = make_tree(tmp_path / "tree", files)
    told: list[tuple[int, int]] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = s3dlio.upload(tree, bucket, executor=pool, progress=lambda *done: told.append(done))
        assert (result.transferred, result.total_bytes) == (23, 23_000)
        assert told[-1] == (23_000, 23_000)
        s3dlio.delete(f"{bucket}03")
        again = s3dlio.upload(tree, bucket, executor=pool, update=True)
        assert (again.transferred, again.skipped) == (1, 22)
        (tree / "05").unlink()
        (tree / "05").symlink_to("nowhere")
        with pytest.raises(TransferError) as caught:
            s3dlio.upload(tree, bucket, executor=pool)
    assert [type(one.error) for one in caught.value.failures] == [NotFoundError]


def test_the_memory_of_other_processes_is_refused(root: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {"a": b"a"})
    with ProcessPoolExecutor(1) as pool, pytest.raises(OptionError, match="one process"):
        s3dlio.upload(tree, root, executor=pool)
    with ThreadPoolExecutor(1) as threads:
        assert s3dlio.upload(tree, root, executor=threads).transferred == 1


def _die_once(path: str) -> str:
    try:
        os.close(os.open(f"{path}.seen", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return path
    os._exit(1)


def _die(path: str) -> str:
    os._exit(1)


def test_a_lost_worker_costs_its_batch(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a", "b")]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        done = dict(run_batches(pool, _die_once, names[:1], CancellationToken()))
        assert done == {names[0]: names[0]}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ((_, error),) = run_batches(pool, _die, names[1:], CancellationToken())
        assert isinstance(error, Exception)


def _refuse(number: int) -> int:
    if number == 2:
        msg = "two"
        raise StoreError(msg)
    return number


def _fail(calls: list[int]) -> int:
    calls.append(1)
    msg = "no error of the library"
    raise ValueError(msg)


def test_what_the_work_itself_refuses_is_not_done_twice() -> None:
    with ThreadPoolExecutor(2) as threads:
        done = dict(run_batches(threads, _refuse, [1, 2, 3], CancellationToken()))
        assert (done[1], done[3], str(done[2])) == (1, 3, "two")
        calls: list[int] = []
        ((_, error),) = run_batches(threads, _fail, [calls], CancellationToken())
        assert (len(calls), type(error)) == (2, ValueError)


def test_a_cluster_does_it(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cut_small(monkeypatch)
    tree = make_tree(tmp_path / "tree", {f"{n:02}": blob(1000, n) for n in range(12)})
    done = subprocess.run(
        [sys.executable, "-c", _CLUSTER, str(tree), bucket],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout == "12 12000\n", done.stderr[-2000:]
    assert len(s3dlio.list(bucket)) == 12


_CLUSTER = """
import sys
import s3dlio
from s3dlio.transfer import haul
from distributed import Client, LocalCluster

if __name__ == "__main__":
    haul._BATCH_OBJECTS = 5
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        with Client(cluster) as client, client.get_executor() as executor:
            result = s3dlio.upload(sys.argv[1], sys.argv[2], executor=executor)
    print(result.transferred, result.total_bytes)
"""
