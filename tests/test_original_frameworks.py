"""Room card: programs written for the original that train with JAX and TensorFlow, on every kind of store.

In a process of their own: TensorFlow's threads do not survive the forks of other tests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import s3dlio
from tests.contract_base import unique
from tests.disks import real_disk
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from s3dlio.testing import S3Server
    from tests.servers.azurite import AzuriteServer

_PROGRAM = """
import io, sys
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import s3dlio
from s3dlio import S3JaxIterable, make_tf_dataset

def archive(number):
    file = io.BytesIO()
    np.savez(file, x=np.full(4, number, np.float32))
    return file.getvalue()

for root in sys.argv[1:]:
    s3dlio.put_many([(f"{root}train/{number}.npz", archive(number)) for number in range(8)])
    with s3dlio.TFRecordWriter(f"{root}train/x.tfrecord") as records:
        for number in range(8):
            records.write(bytes([number]) * 4)
    s3dlio.put(f"{root}tensor", np.arange(8, dtype=np.float32))

    batches = S3JaxIterable(uri=f"{root}train/", pattern="*.npz", batch_size=4)
    assert sorted(value for batch in batches for value in batch["x"][:, 0].tolist()) == list(range(8))

    view = s3dlio.get(f"{root}tensor")
    assert jnp.array(np.frombuffer(view.memoryview(), dtype=np.float32)).sum() == 28
    assert tf.constant(np.frombuffer(view.memoryview(), np.float32), dtype=tf.float32).shape == (8,)
    # TensorFlow takes the memory of a view as a sequence of numbers.
    assert tf.constant(view.memoryview(), dtype=tf.float32).shape == (32,)

    dataset = make_tf_dataset(uri=f"{root}train/", pattern="*.tfrecord", batch_size=4, shuffle=True)
    assert isinstance(dataset, tf.data.Dataset)
    assert sorted(int(tf.io.decode_raw(record, tf.uint8)[0]) if record.dtype == tf.string else int(record[0])
                  for batch in dataset for record in batch) == list(range(8))
    print(root)
"""


def test_jax_and_tensorflow_take_pattern_batch_size_and_shuffle(
    rclone: S3Server, azurite: AzuriteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (rclone.env | azurite.env | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}).items():
        monkeypatch.setenv(name, value)
    name = unique("forms")
    with real_disk(tmp_path) as folder:
        roots = [f"s3://{name}/", f"az://{name}/", f"file://{folder}/file/", f"direct://{folder}/direct/"]
        s3dlio.create_bucket(roots[0])
        s3dlio.create_bucket(roots[1])
        command = [sys.executable, "-c", _PROGRAM, *roots]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    assert done.stdout.split() == roots, done.stderr[-2000:]
