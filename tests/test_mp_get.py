"""Room card: reading with many processes: every object once, bytes as they arrived, failures counted.

Against an origin that keeps a list of its requests.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import s3dlio
from s3dlio.bare_processes import BareProcesses
from s3dlio.errors import OptionError
from tests.contract_base import blob, unique

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s3dlio.testing import S3Server


@pytest.fixture
def prefix(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty objects of different sizes, `obj_0.dat` to `obj_39.dat`."""
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("mp-get")
    rclone.make_bucket(bucket)
    s3dlio.put_many([(f"s3://{bucket}/d/obj_{number}.dat", blob(1000 + number)) for number in range(40)])
    return f"s3://{bucket}/d/"


_TOTAL = sum(1000 + number for number in range(40))


def test_processes_read_every_object_once(prefix: str, tmp_path: Path) -> None:
    s3dlio.init_op_log(tmp_path / "ops.tsv.zst")
    try:
        result = s3dlio.mp_get(uri=prefix, procs=2, jobs=8, num=40, template="obj_{}.dat")
    finally:
        s3dlio.finalize_op_log()
    assert (result["total_objects"], result["total_bytes"], result["failed"]) == (40, _TOTAL, 0)
    assert result["duration_seconds"] > 0
    assert result["throughput_mb_s"] == pytest.approx(_TOTAL / 2**20 / result["duration_seconds"])
    assert result["ops_per_sec"] == pytest.approx(40 / result.duration_seconds)
    assert sum(one.objects for one in result.workers) == 40
    assert sum(one.bytes for one in result.workers) == _TOTAL
    assert {*result} >= {"total_objects", "workers", "failed"}
    assert len(result) == len(dict(result))
    assert multiprocessing.active_children() == []
    found = s3dlio.read_op_log(tmp_path / "ops.tsv.zst", children=True)
    assert Counter(one.file.rpartition("/")[2] for one in found if one.op == "GET") == Counter(
        f"obj_{number}.dat" for number in range(40)
    )


def test_a_prefix_without_a_template_is_listed(prefix: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        whole = s3dlio.mp_get(prefix, procs=2, executor=threads)
        some = s3dlio.mp_get(prefix, procs=2, num=5, executor=threads)
    assert (whole.total_objects, whole.total_bytes) == (40, _TOTAL)
    assert some.total_objects == 5


def test_failures_are_counted_and_the_first_is_told(prefix: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        result = s3dlio.mp_get(prefix, procs=2, jobs=4, num=50, template="obj_{}.dat", executor=threads)
    assert (result.total_objects, result.failed) == (40, 10)
    assert "obj_4" in result.first_error


class _Remote(Executor):
    """Does what it is handed from a pickle, twice, as a cluster that has lost a machine does."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        sent = pickle.dumps((work, args, kwargs))
        for _ in range(2):
            there, its_args, its_kwargs = pickle.loads(sent)
            result = pickle.loads(pickle.dumps(there(*its_args, **its_kwargs)))
        future.set_result(result)
        return future


def test_any_executor_does_the_work(prefix: str) -> None:
    result = s3dlio.mp_get(prefix, procs=3, jobs=4, num=40, template="obj_{}.dat", executor=_Remote())
    assert (result.total_objects, result.total_bytes) == (40, _TOTAL)


class _LosesOne(_Remote):
    """Loses the worker that does the first piece."""

    lost = 0

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.lost:
            return super().submit(work, *args, **kwargs)
        self.lost += 1
        future: Future[Any] = Future()
        future.set_exception(RuntimeError("the worker is gone"))
        return future


def test_a_lost_worker_costs_its_piece_alone(prefix: str) -> None:
    cluster = _LosesOne()
    result = s3dlio.mp_get(prefix, procs=3, jobs=4, num=40, template="obj_{}.dat", executor=cluster)
    assert (result.total_objects, result.total_bytes, result.failed, cluster.lost) == (40, _TOTAL, 0, 1)


def test_numbers_out_of_range_are_refused(prefix: str) -> None:
    for wrong in ({"procs": 0}, {"jobs": 0}, {"num": 0}):
        with pytest.raises(OptionError, match="at least 1"):
            s3dlio.mp_get(prefix, template="{}", **wrong)
    with pytest.raises(OptionError, match="nothing to read"):
        s3dlio.mp_get(f"{prefix}nothing/")


def test_a_script_needs_no_guard_and_runs_once(prefix: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    template = "obj_{}.dat"
    script.write_text(
        f"import s3dlio\nprint('begun')\ndone = s3dlio.mp_get({prefix!r}, procs=2, num=40, template={template!r})\n"
        "print(done['total_bytes'], len(done.workers))\n"
    )
    done = subprocess.run([sys.executable, str(script)], check=True, timeout=100, capture_output=True, text=True)
    assert done.stdout == f"begun\n{_TOTAL} 2\n"


def test_a_process_that_dies_breaks_its_call_and_not_the_next(capfd: pytest.CaptureFixture[str]) -> None:
    with BareProcesses(1) as pool:
        first = pool.submit(os.getpid).result()
        with pytest.raises(BrokenExecutor, match="exit status 3"):
            pool.submit(os._exit, 3).result()
        second = pool.submit(os.getpid).result()
        assert len({first, second, os.getpid()}) == 3
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
        assert pool.submit(os.getpid).result() == second
        pool.submit(print, "said by a child").result()
    assert "said by a child" in capfd.readouterr().err
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_processes_do_is_given_up_when_the_block_raises() -> None:
    def begin_and_fail() -> None:
        with BareProcesses(1) as pool:
            begun.append(pool.submit(os.getpid).result())
            pool.submit(time.sleep, 3600)
            raise KeyboardInterrupt

    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        begin_and_fail()
    with pytest.raises(ProcessLookupError):
        os.kill(begun[0], 0)
