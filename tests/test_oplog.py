"""Room card: the operation log: a line for each request and file operation, none lost, and what is read out of it.

Judges: the servers' own lists of requests; a reader of the columns that is this file's own.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

import s3dlio
from s3dlio import recorder
from s3dlio.errors import FormatError, NotFoundError, OptionError, StoreError, UriError
from s3dlio.oplog_reading import Operation
from s3dlio.recorder import Gets, Line, now
from s3dlio.retry import RetryPolicy
from s3dlio.uri import Uri, parse
from tests.contract_base import blob, in_child, unique
from tests.servers.faults import ResetInBody, s3_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin
    from tests.servers.gcs import GcsServer
    from tests.servers.moto import MotoServer

MIB = 1024**2
_COLUMNS = [
    "idx",
    "thread",
    "op",
    "client_id",
    "n_objects",
    "bytes",
    "endpoint",
    "file",
    "error",
    "start",
    "first_byte",
    "end",
    "duration_ns",
]


def _time(text: str) -> int:
    """Returns nanoseconds since 1970, of a time as RFC 3339 has it."""
    second, _, rest = text.partition(".")
    assert rest.endswith("Z")
    assert len(rest) == 10
    return int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()) * 10**9 + int(rest[:-1])


def _rows(path: Path) -> list[dict[str, str]]:
    """Returns the lines by the header's names, and checks what holds for all of them."""
    data = path.read_bytes()
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    reader = csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter="\t")
    rows = list(reader)
    assert reader.fieldnames == _COLUMNS
    for index, row in enumerate(rows):
        assert int(row["idx"]) == index
        assert 0 <= int(row["thread"]) < 1 << 16
        start, end = _time(row["start"]), _time(row["end"])
        assert end - start == int(row["duration_ns"]) >= 0
        assert not row["first_byte"] or start <= _time(row["first_byte"]) <= end
        if row["op"] == "GET" and not row["error"]:
            assert row["first_byte"] or row["bytes"] == "0"
    return rows


def _kinds(rows: list[dict[str, str]]) -> Counter[str]:
    return Counter(row["op"] for row in rows)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Where a log is being written."""
    path = tmp_path / "ops.tsv"
    s3dlio.init_op_log(str(path))
    yield path
    recorder.stop()


@pytest.fixture
def at_origin(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> FaultOrigin:
    """An origin that `s3://bucket/` leads to, without pauses between tries."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-logged")
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda *_: 0.0)
    return origin


# -- requests -----------------------------------------------------------------------------------------


def _asked(origin: FaultOrigin) -> Counter[str]:
    return Counter(request.target.partition("?")[0].lstrip("/") for request in origin.requests)


def test_every_get_is_a_line_on_every_way(at_origin: FaultOrigin, log: Path) -> None:
    sizes = {f"bucket/{number:03d}": 1000 + number for number in range(200)}
    at_origin.objects.update({f"/{name}": blob(size) for name, size in sizes.items()})
    uris = [f"s3://{name}" for name in sizes]
    for _ in range(3):  # lanes while connections are made, sweeps when they are there
        s3dlio.get_many(uris, max_in_flight=16)
    assert sum(1 for _ in s3dlio.create_dataset(uris)) == 200
    for uri in uris[:20]:
        s3dlio.get_range(uri, 10, 20)
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert Counter(row["file"] for row in rows) == _asked(at_origin)
    assert {row["endpoint"] for row in rows} == {at_origin.endpoint_url}
    assert _kinds(rows) == {"GET": len(at_origin.requests)}
    assert {row["error"] for row in rows} == {""}
    assert all(int(row["bytes"]) in (sizes[row["file"]], 20) for row in rows)
    assert sum(row["bytes"] == "20" for row in rows) == 20


def test_a_lane_that_is_closed_sends_nothing_and_logs_nothing(at_origin: FaultOrigin, log: Path) -> None:
    from s3dlio.cancel import CancellationToken
    from s3dlio.stores import open_store

    at_origin.objects["/bucket/a"] = blob(100)
    at_origin.plan_all(*[fault for _ in range(3) for fault in (s3_error(503, "SlowDown"), None)])
    with open_store("s3://bucket/").lane(CancellationToken()) as read:
        for _ in range(6):
            read(parse("s3://bucket/a"), 0, 100, lambda size: memoryview(bytearray(size)))
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert len(rows) == len(at_origin.requests)
    assert sum(not row["error"] for row in rows) == 6


class _Taker:
    def place(self, _size: int) -> memoryview:
        return memoryview(bytearray(50))


def test_sweeps_and_flows_are_logged_as_such(at_origin: FaultOrigin, log: Path) -> None:
    from s3dlio.cancel import CancellationToken
    from s3dlio.stores import open_store
    from s3dlio.stores.base import Wanted

    at_origin.objects.update({f"/bucket/{number}": blob(500) for number in range(30)})
    at_origin.plan("/bucket/7", s3_error(403, "AccessDenied"))
    store = open_store("s3://bucket/")
    uris = [parse(f"s3://bucket/{number}") for number in range(30)]
    landed: list[int] = []
    left = store.sweep(iter(list(enumerate(uris))), 4, lambda number, _: landed.append(number), CancellationToken())
    assert 7 in left
    flow = store.flow(CancellationToken())
    assert flow is not None
    with flow as stretch:
        stretch.ask([Wanted(_Taker(), uri, 100, 50, is_all=True) for uri in uris[:5]])
        come: list[Any] = []
        while not come:
            come = stretch.receive()
        assert all(isinstance(outcome, tuple) for _, outcome in come)
        assert stretch.pending == 5 - len(come)
        unread = stretch.pending - stretch.waiting  # what waits for a connection was never sent
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert Counter(row["file"] for row in rows) == _asked(at_origin)
    errors = {row["file"]: row["error"] for row in rows if row["error"]}
    assert "bucket/7" in errors
    assert Counter(errors.values())["given up"] == unread
    assert sum(int(row["bytes"]) for row in rows) == 500 * len(landed) + 50 * len(come)


def test_each_try_is_a_line_with_its_error(at_origin: FaultOrigin, log: Path) -> None:
    at_origin.objects["/bucket/a"] = blob(100_000)
    at_origin.plan("/bucket/a", s3_error(503, "SlowDown"), ResetInBody(30_000))
    assert s3dlio.get_range("s3://bucket/a", 0) == blob(100_000)
    with pytest.raises(NotFoundError):
        s3dlio.stat("s3://bucket/missing")
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert len(rows) == len(at_origin.requests)
    gets = [row for row in rows if row["op"] == "GET"]
    assert "503 SlowDown" in "".join(row["error"] for row in gets)
    assert sum(int(row["bytes"]) for row in gets) == 100_000
    assert gets[-1]["error"] == ""
    assert [row["op"] for row in rows if "404" in row["error"]] == ["STAT"]


def test_the_parts_of_a_large_object_are_lines(at_origin: FaultOrigin, log: Path) -> None:
    at_origin.objects["/bucket/big"] = blob(20 * MIB)
    s3dlio.get("s3://bucket/big")
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert sorted(int(row["bytes"]) for row in rows) == [4 * MIB, 8 * MIB, 8 * MIB]
    assert len(at_origin.requests) == 3


def test_nothing_secret_is_logged(at_origin: FaultOrigin, log: Path) -> None:
    at_origin.plan_all(*[s3_error(403, "AccessDenied")] * 10)
    with pytest.raises(PermissionError):
        s3dlio.get("s3://bucket/a")
    s3dlio.finalize_op_log()
    assert "403" in log.read_text()
    for secret in ("not-to-be-logged", "Signature", "Credential"):
        assert secret not in log.read_text()


def _work(root: str) -> None:
    """Does everything once."""
    uris = [f"{root}d/{number}" for number in range(5)]
    s3dlio.put_many([(uri, blob(1000)) for uri in uris])
    s3dlio.get_many(uris)
    s3dlio.stat(uris[0])
    assert len(s3dlio.list(f"{root}d/")) == 5
    with s3dlio.MultipartUploadWriter.from_uri(f"{root}big", part_size=5 * MIB) as writer:
        for _ in range(2):
            writer.write(blob(5 * MIB + 7))
    s3dlio.delete(uris)


def _check_work(rows: list[dict[str, str]], name: str) -> None:
    assert {row["error"] for row in rows} == {""}
    moved = Counter[str]()
    for row in rows:
        moved[row["op"]] += int(row["bytes"])
    kinds = _kinds(rows)
    assert (kinds["PUT"], moved["PUT"]) == (5, 5000)
    assert (kinds["GET"], moved["GET"]) == (5, 5000)
    assert (kinds["PUTPART"], moved["PUTPART"]) == (3, 10 * MIB + 14)
    assert kinds["STAT"] >= 1
    assert kinds["COMPLETEUPLOAD"] == 1
    assert sum(int(row["n_objects"]) for row in rows if row["op"] == "LIST") == 5
    assert sum(int(row["n_objects"]) for row in rows if row["op"] == "DELETE") == 5
    assert {row["file"] for row in rows if row["op"] == "LIST"} == {f"{name}d/"}
    gets = {row["file"] for row in rows if row["op"] == "GET"}
    assert gets == {f"{name}d/{number}" for number in range(5)}
    assert all(not row["first_byte"] for row in rows if row["op"] != "GET")


def test_every_verb_is_logged_on_s3(moto: MotoServer, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("oplog")
    s3dlio.create_bucket(bucket)
    _work(f"s3://{bucket}/")
    s3dlio.finalize_op_log()
    rows = _rows(log)
    assert rows[0]["op"] == "CREATE_BUCKET"
    assert {row["endpoint"] for row in rows} == {moto.endpoint_url}
    _check_work(rows, f"{bucket}/")
    assert _kinds(rows)["BEGINUPLOAD"] == 1


def test_every_verb_is_logged_on_azure(azurite: AzuriteServer, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    container = unique("oplog")
    s3dlio.create_bucket(f"az://{container}")
    _work(f"az://{container}/")
    s3dlio.finalize_op_log()
    _check_work(_rows(log), f"{container}/")


def test_every_verb_is_logged_on_google(gcs: GcsServer, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gcs.env.items():
        monkeypatch.setenv(name, value)
    s3dlio.create_bucket("gs://oplog-bucket")
    _work("gs://oplog-bucket/")
    s3dlio.finalize_op_log()
    rows = _rows(log)
    _check_work(rows, "oplog-bucket/")
    assert len(rows) == len(gcs.requests)


@pytest.mark.parametrize("scheme", ["file", "memory", "local"])
def test_every_verb_is_logged_without_a_server(scheme: str, log: Path, tmp_path: Path) -> None:
    root = f"memory://{unique('oplog')}/" if scheme == "memory" else f"{scheme}://{tmp_path}/there/"
    _work(root)
    with pytest.raises(NotFoundError):
        s3dlio.get(f"{root}nothing")
    s3dlio.finalize_op_log()
    *rows, last = _rows(log)
    uri = parse(root)
    _check_work(rows, f"{uri.container}/{uri.key}" if uri.container else uri.key)
    assert {row["endpoint"] for row in rows} == {f"{scheme}://"}
    assert (last["op"], last["bytes"]) == ("GET", "0")
    assert last["error"]


# -- the file -----------------------------------------------------------------------------------------


def test_a_log_begins_and_ends_and_begins_again(tmp_path: Path) -> None:
    assert not s3dlio.is_op_log_active()
    s3dlio.finalize_op_log()
    for name in ("a.tsv", "deep/b.tsv.zst"):
        path = tmp_path / name
        s3dlio.init_op_log(f"file://{path}")
        assert s3dlio.is_op_log_active()
        with pytest.raises(OptionError, match="finalize_op_log"):
            s3dlio.init_op_log(str(tmp_path / "other"))
        s3dlio.put("memory://oplog/a", b"abc")
        s3dlio.finalize_op_log()
        assert not s3dlio.is_op_log_active()
        s3dlio.put("memory://oplog/a", b"abc")
        assert [row["op"] for row in _rows(path)] == ["PUT"]
    assert (tmp_path / "deep/b.tsv.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UriError, match="local file"):
        s3dlio.init_op_log("s3://bucket/log")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        s3dlio.init_op_log(str(tmp_path / "file" / "log"))
    assert not s3dlio.is_op_log_active()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_is_told_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = open("/dev/full", "wb", 0)  # noqa: SIM115 - the log closes it
    monkeypatch.setattr(recorder, "_MOST_LINES", 10)
    monkeypatch.setattr(recorder, "_WAKE_LINES", 1)
    monkeypatch.setattr(recorder.Recorder, "open", lambda self: setattr(self, "_file", full))
    s3dlio.init_op_log("/tmp/never-made")
    for _ in range(100):
        s3dlio.put("memory://oplog/a", b"abc")
    with pytest.raises(StoreError, match="No space left"):
        s3dlio.finalize_op_log()
    assert "cannot be written any more" in caplog.text


def test_names_and_errors_of_any_kind_fit_into_a_line(log: Path) -> None:
    key = 'a\tb\n"c" d\r#'
    s3dlio.put(f"memory://oplog/{key}", b"x")
    s3dlio.finalize_op_log()
    assert [row["file"] for row in _rows(log)] == [f"oplog/{key}"]
    assert [one.file for one in s3dlio.read_op_log(log)] == [f"oplog/{key}"]


def _line(start: int = 0) -> Line:
    return Line("GET", "memory://", parse("memory://a/b"), start or now(), 0, now())


def test_no_line_is_lost_while_threads_are_faster_than_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MOST_LINES", 50)
    monkeypatch.setattr(recorder, "_WAKE_LINES", 20)
    path = tmp_path / "ops.tsv"
    most = 0
    plain = recorder.Recorder._put

    def slow(self: recorder.Recorder, taken: list[tuple[int, Line]]) -> None:
        nonlocal most
        most = max(most, len(taken))
        threading.Event().wait(0.002)
        plain(self, taken)

    monkeypatch.setattr(recorder.Recorder, "_put", slow)
    s3dlio.init_op_log(path)
    threads = [threading.Thread(target=lambda: [_add() for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s3dlio.finalize_op_log()
    rows = _rows(path)
    assert len(rows) == 4000
    assert len({row["thread"] for row in rows}) == 8
    assert most <= 50 + 8


def _add() -> None:
    assert recorder.active is not None
    recorder.active.add(_line())


def test_a_lossy_log_leaves_lines_out_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "_MOST_LINES", 5)
    monkeypatch.setattr(recorder, "_WAKE_LINES", 5)
    written = threading.Event()
    plain = recorder.Recorder._write
    monkeypatch.setattr(recorder.Recorder, "_write", lambda self: written.wait(60) and plain(self))
    s3dlio.init_op_log(tmp_path / "ops.tsv", lossy=True)
    for _ in range(20):
        _add()
    written.set()
    s3dlio.finalize_op_log()
    assert len(_rows(tmp_path / "ops.tsv")) == 5
    assert "lacks 15 lines" in caplog.text


def test_a_forked_child_writes_a_log_of_its_own(log: Path) -> None:
    s3dlio.put("memory://oplog/a", blob(10))

    def child() -> None:
        s3dlio.get("memory://oplog/a")
        s3dlio.finalize_op_log()

    in_child(child)
    s3dlio.get("memory://oplog/a")
    s3dlio.finalize_op_log()
    assert [row["op"] for row in _rows(log)] == ["PUT", "GET"]
    (other,) = log.parent.glob("ops.tsv.*")
    (row,) = _rows(other)
    assert row["op"] == "GET"
    assert row["client_id"].endswith(other.suffix[1:])
    assert len(s3dlio.read_op_log(log)) == 2
    assert len(s3dlio.read_op_log(log, children=True)) == 3


def test_children_of_multiprocessing_finish_their_logs(tmp_path: Path) -> None:
    code = f"""
import multiprocessing, s3dlio
s3dlio.init_op_log("{tmp_path}/ops.tsv.zst")
s3dlio.put("memory://oplog/a", b"abc")
def work():
    for _ in range(10):
        s3dlio.get("memory://oplog/a")
children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
[child.start() for child in children]
[child.join() for child in children]
assert [child.exitcode for child in children] == [0, 0]
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)
    found = s3dlio.read_op_log(tmp_path / "ops.tsv.zst", children=True)
    assert Counter(one.op for one in found) == {"PUT": 1, "GET": 20}
    assert len({one.client for one in found}) == 3
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0", "signal.raise_signal(signal.SIGINT)"])
def test_the_end_of_the_interpreter_finishes_the_log(end: str, tmp_path: Path) -> None:
    code = f"""
import signal, sys, s3dlio
s3dlio.init_op_log("{tmp_path}/ops.tsv.zst")
for number in range(1000):
    s3dlio.put(f"memory://oplog/{{number}}", b"abc")
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=100, capture_output=True, text=True)
    expected = {"": 0, "sys.exit(3)": 3, "1 / 0": 1}.get(end, -signal.SIGINT)
    assert done.returncode == expected, done.stderr
    assert len(_rows(tmp_path / "ops.tsv.zst")) == 1000


def test_a_killed_process_leaves_what_it_had_written(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, time, s3dlio
s3dlio.init_op_log("{tmp_path}/ops.tsv.zst")
s3dlio.put("memory://oplog/a", b"abc")
deadline = time.monotonic() + 60
size = os.path.getsize("{tmp_path}/ops.tsv.zst")
while os.path.getsize("{tmp_path}/ops.tsv.zst") == size and time.monotonic() < deadline:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert [one.op for one in s3dlio.read_op_log(tmp_path / "ops.tsv.zst")] == ["PUT"]


# -- reading ------------------------------------------------------------------------------------------


def _operation(start_s: float, end_s: float, **more: object) -> Operation:
    plain = Operation("GET", "b/k", 0, 1, int(start_s * 1e9), None, int(end_s * 1e9), "", "", 0, "")
    return plain._replace(**more)  # type: ignore[arg-type]


def test_a_log_of_warp_is_read(tmp_path: Path) -> None:
    path = tmp_path / "warp.csv.zst"
    text = (
        "idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"
        "0\t3\tGET\tXy\t1\t4096\thttp://h:9000\ta/b.rnd\t\t2024-02-29T23:59:59.5+01:00\t"
        "2024-02-29T22:59:59.75Z\t2024-02-29T23:00:00Z\t500000000\n"
        "# a remark\n"
        "1\t3\tSTAT\tXy\t1\t0\thttp://h:9000\ta/b.rnd\t\t2024-02-29T23:00:0"
    )
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    (one,) = s3dlio.read_op_log(path)
    assert (one.op, one.bytes, one.file, one.thread, one.duration_s) == ("GET", 4096, "a/b.rnd", 3, 0.5)
    assert one.start_ns == int(datetime(2024, 2, 29, 22, 59, 59, tzinfo=UTC).timestamp()) * 10**9 + 500_000_000
    assert one.first_byte_ns == one.start_ns + 250_000_000


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for text in ("", "a\tb\n1\t2\n", "op\tstart\tend\nGET\tnow\tthen\n"):
        path.write_text(text)
        with pytest.raises(FormatError):
            s3dlio.read_op_log(path)
    with pytest.raises(NotFoundError):
        s3dlio.read_op_log(tmp_path / "missing")


def test_a_summary_has_percentiles_and_throughput_over_time() -> None:
    found = [_operation(number / 100, number / 100 + number / 1000, bytes=MIB) for number in range(1, 101)]
    found.append(_operation(0.5, 3.0, op="PUT", bytes=4 * MIB))
    found.append(_operation(1.0, 1.1, op="PUT", error="HTTP 503"))
    summary = s3dlio.summarize_op_log(found, interval_s=0.25)
    get, put = summary.ops["GET"], summary.ops["PUT"]
    assert (get.operations, get.bytes, get.errors) == (100, 100 * MIB, 0)
    assert get.p50_s == pytest.approx(0.0505)
    assert get.p90_s == pytest.approx(0.0901)
    assert get.p99_s == pytest.approx(0.09901)
    assert (put.operations, put.errors, put.longest_s) == (2, 1, 2.5)
    assert put.mib_per_s == pytest.approx(4 / 2.5)
    assert summary.errors == 1
    assert summary.duration_s == pytest.approx(2.99)
    assert len(summary.intervals) == 12
    assert sum(one.operations for one in summary.intervals) == 102
    assert sum(one.bytes for one in summary.intervals) == pytest.approx(104 * MIB)
    assert summary.intervals[8].bytes == pytest.approx(0.1 * 4 * MIB)  # the put alone
    assert s3dlio.summarize_op_log([]).ops == {}
    with pytest.raises(OptionError):
        s3dlio.summarize_op_log(found, interval_s=0)


def test_a_summary_can_be_drawn(tmp_path: Path, log: Path) -> None:
    for number in range(20):
        s3dlio.put(f"memory://oplog/{number}", blob(1000))
    s3dlio.finalize_op_log()
    s3dlio.plot_op_log(s3dlio.summarize_op_log(log), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# -- replay -------------------------------------------------------------------------------------------


def test_a_log_is_done_again_with_the_same_sizes(log: Path, tmp_path: Path) -> None:
    _work(f"file://{tmp_path}/there/")
    s3dlio.finalize_op_log()
    second = tmp_path / "second.tsv"
    target = f"memory://{unique('replay')}"
    s3dlio.init_op_log(second)
    done = s3dlio.replay_op_log(log, target, speed=float("inf"), prepare=True)
    s3dlio.finalize_op_log()
    assert (done.operations, done.errors, done.bytes) == (20, 0, 10_000 + 10 * MIB + 14)
    assert done.skipped == 1  # the upload's completion
    before, after = _rows(log), _rows(second)
    for op in ("GET", "STAT", "LIST", "DELETE"):
        wanted = Counter(f"{row['file']} {row['bytes']}" for row in before if row["op"] == op)
        came = Counter(f"{row['file'].partition('/')[2]} {row['bytes']}" for row in after if row["op"] == op)
        assert Counter({name.lstrip("/"): count for name, count in wanted.items()}) == came
    assert any(".part-" in uri for uri in s3dlio.list(f"{target}/"))


def test_a_replay_keeps_the_times_of_the_log() -> None:
    found = [_operation(100 + number, 100.1 + number, op="PUT", bytes=10, file=f"k{number}") for number in range(3)]
    done = s3dlio.replay_op_log(found, f"memory://{unique('replay')}", speed=10.0)
    assert done.duration_s >= 0.2
    assert (done.operations, done.errors) == (3, 0)


def test_a_replay_counts_failures_and_stays_within_its_target() -> None:
    found = [_operation(0, 0.1, file="missing", bytes=10), _operation(0, 0.1, file="bad", error="HTTP 404")]
    target = f"memory://{unique('replay')}"
    done = s3dlio.replay_op_log(found, target, prepare=False)
    assert (done.operations, done.errors, done.skipped) == (1, 1, 1)
    assert "memory" in done.first_error
    with pytest.raises(FormatError, match="leads out"):
        s3dlio.replay_op_log([_operation(0, 0.1, file="a/../../b")], target)
    with pytest.raises(OptionError):
        s3dlio.replay_op_log(found, target, speed=0)


def test_lines_are_written_as_csv_writes_them_with_and_without_need_of_quotes(tmp_path: Path) -> None:
    start = now()
    ends = [start + n * 300_000_000 for n in range(12)]  # over some seconds, and back
    plain = [
        Line("GET", "http://h", Uri("s3", "b", f"k{n}"), at - 9, at - 5 if n % 3 else 0, at, n)
        for n, at in enumerate(ends + ends[::-1])
    ]
    odd = [line._replace(uri=Uri("file", "", '/a\tb"c\nd\re'), error='no "x"') for line in plain[:3]]
    for lines in (plain, plain + odd):
        log = recorder.Recorder(str(tmp_path / "log.tsv"))
        log.open()
        log._put([(7, line) for line in lines])
        log.finish()
        with open(log.path, newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
        assert rows[1:] == [[str(field) for field in log._fields(n, 7, line)] for n, line in enumerate(lines)]


def _gets(starts: list[int], names: list[str], container: str = "b") -> Gets:
    gets = Gets("http://h/%d", {n: Uri("s3", container, name) for n, name in enumerate(names)})
    for number, start in enumerate(starts):
        gets.note(number, start, start + 7, 10 * number)
        gets.noted[-2] = start + 1_000 * number + 9
    return gets


@pytest.mark.parametrize("step", [1_000, 300_000_000], ids=["within a second", "over some"])
@pytest.mark.parametrize("odd", ["", '"\t', "%d"], ids=["plain", "with need of quotes", "like a format"])
@pytest.mark.parametrize("container", ["b%s", ""])
def test_gets_that_come_together_are_written_as_single_ones(
    tmp_path: Path, step: int, odd: str, container: str
) -> None:
    begun = now() // 10**9 * 10**9
    gets = _gets([begun + n * step for n in range(12)], [f"k{odd}{n}" for n in range(12)], container)
    single = Line("STAT", "http://h/%d", Uri("s3", "b", "x"), begun, 0, begun + 5)
    texts = []
    for entries in ([single, gets, single], [single, *gets.lines(), single]):
        log = recorder.Recorder(str(tmp_path / "log.tsv"))
        log._offset = 0
        log.open()
        log._put([(7, entry) for entry in entries])
        log.finish()
        texts.append((tmp_path / "log.tsv").read_text())
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 15


@pytest.mark.parametrize("lossy", [False, True])
def test_no_get_is_lost_untold_however_many_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lossy: bool
) -> None:
    monkeypatch.setattr(recorder, "_MOST_LINES", 50)
    monkeypatch.setattr(recorder, "_WAKE_LINES", 20)
    s3dlio.init_op_log(tmp_path / "ops.tsv", lossy=lossy)
    log = recorder.active
    assert log is not None

    def add() -> None:
        for _ in range(50):
            log.add_gets(_gets([now()] * 10, ["k"] * 10))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s3dlio.finalize_op_log()
    assert len(_rows(tmp_path / "ops.tsv")) + log.lost == 4000
    assert lossy or not log.lost
