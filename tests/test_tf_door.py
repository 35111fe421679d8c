"""Room card: `s3dlio.make_tf_dataset` as a program uses it: whole batches, true specs, Keras, TensorFlow's own reader.

Each test is a program of its own: TensorFlow's threads and the forks of other tests do not go together.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_BEGIN = """
import io, sys
import numpy as np
import s3dlio
import tensorflow as tf

root = sys.argv[1]

def write_npz(count):
    for number in range(count):
        file = io.BytesIO()
        np.savez(file, image=np.full((8, 8), number, np.float32), label=np.int64(number % 2))
        s3dlio.put(f"file://{root}/npz/{number:03d}.npz", file.getvalue())

def numbers(batches):
    return [int(value) for batch in batches for value in batch["image"][:, 0, 0].numpy()]
"""


def run(program: str, root: Path) -> str:
    """Runs a program and returns what it prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + textwrap.dedent(program), str(root)],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_sample_comes_once_in_batches_of_a_true_spec(tmp_path: Path) -> None:
    run(
        """
        write_npz(100)
        dataset = s3dlio.make_tf_dataset(f"file://{root}/npz/", batch_size=32, shuffle=True, seed=1)
        assert isinstance(dataset, tf.data.Dataset)
        assert dataset.element_spec == {
            "image": tf.TensorSpec((None, 8, 8), tf.float32), "label": tf.TensorSpec((None,), tf.int64)}
        assert dataset.cardinality().numpy() == 4
        first, second = numbers(dataset), numbers(dataset)
        assert sorted(first) == sorted(second) == list(range(100))
        assert first != second and first != sorted(first)
        again = s3dlio.make_tf_dataset(f"file://{root}/npz/", batch_size=32, shuffle=True, seed=1)
        assert numbers(again) == first
        whole = s3dlio.make_tf_dataset(f"file://{root}/npz/", batch_size=32, drop_last=True)
        assert whole.element_spec["image"].shape == (32, 8, 8)
        assert numbers(whole) == list(range(96))
        ranks = [s3dlio.make_tf_dataset(f"file://{root}/npz/", rank=rank, world_size=2) for rank in range(2)]
        assert sorted(numbers(ranks[0]) + numbers(ranks[1])) == list(range(100))
        """,
        tmp_path,
    )


def test_records_are_those_of_tensorflows_own_reader(tmp_path: Path) -> None:
    run(
        """
        for shard in range(3):
            with s3dlio.TFRecordWriter(f"{root}/{shard}.tfrecord") as writer:
                for number in range(shard * 20, shard * 20 + 20):
                    writer.write(s3dlio.encode_example({"x": [number], "y": np.float32([number, 0.5])}))
        ours = s3dlio.make_tf_dataset(uri=f"file://{root}/", pattern="*.tfrecord", batch_size=16)
        assert ours.element_spec == tf.TensorSpec((None,), tf.string)
        theirs = tf.data.TFRecordDataset([f"{root}/{shard}.tfrecord" for shard in range(3)])
        assert [bytes(r) for batch in ours for r in batch.numpy()] == list(theirs.as_numpy_iterator())
        features = {"x": tf.io.FixedLenFeature([], tf.int64), "y": tf.io.FixedLenFeature([2], tf.float32)}
        parsed = ours.map(lambda batch: tf.io.parse_example(batch, features))
        assert [int(x) for batch in parsed for x in batch["x"]] == list(range(60))
        """,
        tmp_path,
    )


def test_keras_learns_from_it(tmp_path: Path) -> None:
    run(
        """
        write_npz(64)
        dataset = s3dlio.make_tf_dataset(f"file://{root}/npz/", batch_size=16, shuffle=True)
        model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(2)])
        model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        history = model.fit(dataset.map(lambda b: (b["image"] / 64, b["label"])), epochs=3, shuffle=False, verbose=0)
        assert len(history.history["loss"]) == 3
        assert all(np.isfinite(history.history["loss"]))
        """,
        tmp_path,
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_goes_on_where_it_stood(tmp_path: Path, ranks: int) -> None:
    run(
        f"""
        from s3dlio.tf import S3TFDataset
        write_npz(60)
        one = S3TFDataset(f"file://{{root}}/npz/", batch_size=10, shuffle=True, seed=2)
        batches = iter(one.dataset())
        seen = numbers([next(batches) for _ in range(2)])
        state = one.state_dict(batches=2)
        for rank in range({ranks}):
            other = S3TFDataset(f"file://{{root}}/npz/", batch_size=10, shuffle=True, seed=2, rank=rank,
                                world_size={ranks})
            other.load_state_dict(state)
            seen += numbers(other.dataset())
        assert sorted(seen) == list(range(60))
        """,
        tmp_path,
    )


def test_an_error_reaches_the_loop_with_its_uri(tmp_path: Path) -> None:
    run(
        """
        write_npz(40)
        dataset = s3dlio.make_tf_dataset(f"file://{root}/npz/", batch_size=8)
        s3dlio.delete(f"file://{root}/npz/030.npz")
        try:
            numbers(dataset)
        except Exception as error:
            assert "030.npz" in str(error), error
        else:
            raise SystemExit("no error")
        """,
        tmp_path,
    )
