"""Room card: the work of many objects done by the workers of a Dask cluster: two processes of one machine.

In a program of their own, as Dask's threads and warnings are nobody else's business.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import s3dlio
from tests.contract_base import unique
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from pathlib import Path

    from s3dlio.testing import S3Server

_PROGRAM = """
import os, sys
import s3dlio
from distributed import Client, LocalCluster

if __name__ == "__main__":
    bucket, folder = sys.argv[1:]
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        client.get_executor() as pool,
    ):
        assert s3dlio.copy(f"{bucket}a/", f"{bucket}b/", executor=pool).transferred == 41
        assert s3dlio.download(f"{bucket}b/", folder, executor=pool).total_bytes > 40
        assert s3dlio.copy(f"file://{folder}/", f"file://{folder}-2/", executor=pool).transferred == 41
        assert s3dlio.upload(folder, f"{bucket}c/", executor=pool).transferred == 41
        read = s3dlio.mp_get(f"{bucket}c/", num=1000, jobs=8, executor=pool)
        assert (read.total_objects, read.failed) == (41, 0)
        assert not {worker.worker.split(":")[-1] for worker in read.workers} & {str(os.getpid())}
        assert s3dlio.create_tfrecord_index([f"{bucket}c/x.tfrecord"], executor=pool) == 2
    print("done")
"""


def test_a_dask_cluster_does_the_work(rclone: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{unique('cluster')}/"
    s3dlio.create_bucket(bucket)
    s3dlio.put_many([(f"{bucket}a/{number}", bytes([number])) for number in range(40)])
    with s3dlio.TFRecordWriter(f"{bucket}a/x.tfrecord") as records:
        records.write(b"one")
        records.write(b"two")
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    command = [sys.executable, str(program), bucket, str(tmp_path / "folder")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    assert done.stdout.endswith("done\n"), done.stderr[-2000:]
    assert s3dlio.read_tfrecord_index(f"{bucket}c/x.tfrecord.idx") == [(0, 19), (19, 19)]
