"""Room card: the TensorFlow room in training: Keras, epochs, ranks, strategies, states.

Tests marked `in_tf` run in a process of their own. What the batches hold is in test_tf_dataset.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio.errors import OptionError
from s3dlio.testing import S3Server
from tests import tf_process
from tests.patience import PROGRAM_S
from tests.tf_process import HAS_TF, in_tf

if TYPE_CHECKING or HAS_TF:
    import keras
    import tensorflow as tf

    from s3dlio.tf import S3TFDataset, make_tf_dataset, world
    from s3dlio.tf.place import LOOK

if HAS_TF:  # one more device for a strategy, before TensorFlow starts
    _CPU = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

COUNT = 60


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """Ends the process with the last test."""
    yield
    tf_process.end()


@pytest.fixture
def root(rclone: S3Server) -> Iterator[str]:
    """An empty bucket."""
    with rclone.activate():
        bucket = f"s3://tf-{os.urandom(4).hex()}"
        s3dlio.create_bucket(bucket)
        yield bucket


def here() -> str:
    """Return a prefix in memory that is empty."""
    return f"memory://tf-{os.urandom(4).hex()}"


def put_numbers(prefix: str, count: int = COUNT) -> str:
    s3dlio.put_many([(f"{prefix}/{n:04d}.bin", bytes([n]) * 10) for n in range(count)])
    return f"{prefix}/"


def numbers(batches: Any) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch]


# -- Keras --------------------------------------------------------------------------------------------


def put_digits(prefix: str) -> Any:
    """Write scikit-learn's digits as NPZ objects, four fifths of them to train with."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    objects = []
    for n, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = io.BytesIO()
        np.savez(file, image=image.astype(np.uint8), label=label)
        objects.append((f"{prefix}/{'test' if n % 5 == 0 else 'train'}/{n:04d}.npz", file.getvalue()))
    s3dlio.put_many(objects)


def network() -> Any:
    layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def as_pair(batch: Any) -> Any:
    return tf.cast(batch["image"], tf.float32) / 16, batch["label"]


@in_tf
def test_keras_learns_digits_in_two_epochs(root: str) -> None:
    put_digits(root)
    keras.utils.set_random_seed(1)
    train = make_tf_dataset(f"{root}/train/", batch_size=16, shuffle=True, seed=1).map(as_pair)
    test = make_tf_dataset(f"{root}/test/", batch_size=64).map(as_pair)
    assert train.cardinality().numpy() == 90
    model = network()
    past = model.fit(train, epochs=2, shuffle=False, verbose=0, validation_data=test)
    assert past.history["loss"][1] < past.history["loss"][0] / 2
    assert past.history["val_accuracy"][-1] > 0.9
    assert model.evaluate(test, verbose=0)[1] == past.history["val_accuracy"][-1]
    assert model.predict(test.map(lambda image, _: image), verbose=0).shape == (360, 10)


@in_tf
def test_each_epoch_of_fit_is_the_next_epoch_of_the_dataset() -> None:
    source = S3TFDataset(put_numbers(here(), 200), batch_size=10, shuffle=True, seed=4)
    wanted = []
    for epoch in range(3):
        source.set_epoch(epoch)
        wanted.append(numbers(source))
    source.set_epoch(0)
    seen: list[int] = []

    class Note(keras.layers.Layer):  # type: ignore[misc]
        def call(self, batch: Any) -> Any:
            tf.py_function(lambda rows: seen.extend(rows.numpy().tolist()), [batch[:, 0]], [])
            return tf.cast(batch[:, :1], tf.float32)

    model = keras.Sequential([Note(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model(tf.zeros((1, 10), tf.uint8))
    del seen[:]
    pairs = source.dataset().map(lambda batch: (batch, tf.zeros((tf.shape(batch)[0], 1))))
    model.fit(pairs, epochs=3, shuffle=False, verbose=0)
    assert [seen[begin : begin + 200] for begin in (0, 200, 400)] == wanted
    assert len(seen) == 600


@in_tf
def test_an_error_ends_fit_with_its_text() -> None:
    uri = put_numbers(here(), 200)
    dataset = make_tf_dataset(uri, batch_size=10)
    s3dlio.delete(f"{uri}0150.bin")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(tf.errors.OpError, match=rf"NotFoundError[^\0]*{uri}0150\.bin"):
        model.fit(dataset.map(lambda b: (tf.cast(b, tf.float32), tf.zeros((tf.shape(b)[0], 1)))), verbose=0)


# -- epochs -------------------------------------------------------------------------------------------


@in_tf
def test_each_iteration_is_an_epoch_and_orders_depend_on_the_seed_only() -> None:
    uri = put_numbers(here())
    options: dict[str, Any] = {"batch_size": 16, "shuffle": True}
    dataset = make_tf_dataset(uri, seed=5, **options)
    first, second, third = (numbers(dataset) for _ in range(3))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(COUNT))
    assert len({tuple(order) for order in (first, second, third, range(COUNT))}) == 4
    again = make_tf_dataset(uri, seed=5, **options)
    assert numbers(again.repeat(3).prefetch(2)) == first + second + third
    assert numbers(make_tf_dataset(uri, seed=6, **options)) != first
    source = S3TFDataset(uri, seed=5, **options)
    for epoch, order in ((2, third), (0, first), (0, first), (1, second)):
        source.set_epoch(epoch)
        assert numbers(source) == order
    assert source.dataset() is source.dataset()
    source.set_epoch(0)
    assert [numbers(source.dataset()), numbers(iter(source))] == [first, second]  # each iterator begins anew
    blocks = make_tf_dataset(uri, batch_size=16, shuffle="block", shuffle_buffer=8)
    assert sorted(numbers(blocks)) == list(range(COUNT)) != numbers(blocks)


@in_tf
def test_a_look_at_the_first_batches_is_no_epoch_but_more_is() -> None:
    uri = put_numbers(here(), 200)
    dataset = make_tf_dataset(uri, batch_size=5, shuffle=True, seed=5)
    assert numbers(dataset.take(2)) == numbers(dataset.take(2))
    first = numbers(dataset)
    assert numbers(make_tf_dataset(uri, batch_size=5, shuffle=True, seed=5)) == first
    broken = numbers(dataset.take(LOOK + 2))
    assert broken != first[: len(broken)]
    assert numbers(dataset)[: len(broken)] != broken


# -- ranks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uneven", "count"), [("pad", 63), ("drop", 60), ("uneven", 61)])
@in_tf
def test_ranks_share_the_samples(uneven: str, count: int) -> None:
    uri = put_numbers(here(), 61)
    parts = []
    for rank in range(3):
        dataset = make_tf_dataset(uri, batch_size=8, shuffle=True, rank=rank, world_size=3, uneven=uneven)
        assert dataset.cardinality().numpy() == 3
        policy = dataset.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.OFF
        parts.append(numbers(dataset))
    together = [number for part in parts for number in part]
    assert len(together) == count
    assert len(set(together)) == min(count, 61)
    assert max(map(len, parts)) - min(map(len, parts)) == (uneven == "uneven")


@in_tf
def test_ranks_are_tensorflows() -> None:
    assert world.rank().count == 1
    cluster = {"chief": ["localhost:1"], "worker": ["localhost:2", "localhost:3"], "evaluator": ["localhost:4"]}
    uri = put_numbers(here())
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        for kind, index, place in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
            patch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
            assert (world.rank().index, world.rank().count) == (place, 3)
            seen += numbers(make_tf_dataset(uri))
        patch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "evaluator", "index": 0}}))
        assert numbers(make_tf_dataset(uri)) == list(range(COUNT))
        assert len(numbers(make_tf_dataset(uri, rank=0, world_size=2))) == COUNT / 2
        patch.setenv("TF_CONFIG", "{not json")
        with pytest.raises(OptionError, match=r"TF_CONFIG.*rank= and world_size="):
            make_tf_dataset(uri)
    assert sorted(seen) == list(range(COUNT))


@in_tf
def test_a_strategy_spreads_each_batch_over_its_devices() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    dataset = make_tf_dataset(put_numbers(here()), batch_size=16, shuffle=True)
    for _ in range(2):
        shared = strategy.experimental_distribute_dataset(dataset)
        parts = [strategy.experimental_local_results(batch) for batch in shared]
        assert sorted(numbers(part for batch in parts for part in batch)) == list(range(COUNT))
        assert {len(batch) for batch in parts} == {2}
        assert {len(part) for part in parts[0]} == {8}


@in_tf
def test_keras_fits_under_a_strategy(root: str) -> None:
    put_digits(root)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = network()
    train = make_tf_dataset(f"{root}/train/", batch_size=16, shuffle=True, drop_last=True).map(as_pair)
    assert model.fit(train, epochs=2, shuffle=False, verbose=0).history["accuracy"][-1] > 0.85


# -- states -------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 2}


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (1, 3), (3, 1), (2, 4)])
@in_tf
def test_an_epoch_goes_on_without_repeat_or_gap(before: int, after: int) -> None:
    uri = put_numbers(here())
    seen, states = [], []
    for rank in range(before):
        one = S3TFDataset(uri, rank=rank, world_size=before, **SETTINGS)
        batches = iter(one.dataset().prefetch(5))
        seen += numbers([next(batches) for _ in range(3)])
        states.append(json.loads(json.dumps(one.state_dict(batches=3))))
    assert all(state == states[0] for state in states)
    for rank in range(after):
        other = S3TFDataset(uri, rank=rank, world_size=after, **SETTINGS)
        other.load_state_dict(states[0])
        seen += numbers(other.dataset())
    assert sorted(seen) == list(range(COUNT))


@in_tf
def test_states_over_several_epochs_and_at_their_ends() -> None:
    uri = put_numbers(here())
    whole = [numbers([batch]) for batch in make_tf_dataset(uri, **SETTINGS).repeat(3)]
    source = S3TFDataset(uri, **SETTINGS)
    batches = iter(source.dataset().repeat().prefetch(7))
    for used in range(40):
        if used % 5 == 0:
            state = source.state_dict(batches=used)
            assert (state["epoch"], state["consumed"]) == divmod(used * 4, COUNT)
            rest = make_tf_dataset(uri, state=state, **SETTINGS)
            assert [numbers([batch]) for batch in rest] == whole[used : used - used % 15 + 15]
        next(batches)


@in_tf
def test_a_second_resume_within_an_epoch() -> None:
    uri = put_numbers(here())
    whole = numbers(make_tf_dataset(uri, **SETTINGS))
    seen: list[int] = []
    state = None
    for used in (2, 5, 100):
        source = S3TFDataset(uri, **SETTINGS)
        if state is not None:
            source.load_state_dict(state)
            assert source.state_dict() == state
        drawn = numbers(source.dataset().take(used))
        seen += drawn
        state = source.state_dict(batches=len(drawn) // 4)
    assert seen == whole
    assert (state["epoch"], state["consumed"]) == (1, 0)


@in_tf
def test_without_a_count_a_state_is_of_what_was_handed_out() -> None:
    source = S3TFDataset(put_numbers(here()), **SETTINGS)
    assert source.state_dict()["consumed"] == 0
    seen = numbers(source)
    state = source.state_dict()
    assert (len(seen), state["epoch"], state["consumed"]) == (COUNT, 1, 0)
    batches = iter(source.dataset())
    next(batches)
    assert 4 <= source.state_dict()["consumed"] <= 16  # of which some are ready, and not used
    assert len(json.dumps(state)) < 300


@in_tf
def test_single_samples_are_counted_one_by_one() -> None:
    uri = put_numbers(here())
    options = {**SETTINGS, "batch_size": None}
    whole = [int(sample[0]) for sample in make_tf_dataset(uri, **options)]
    source = S3TFDataset(uri, **options)
    seen = [int(sample[0]) for sample in source.dataset().take(17)]
    source.load_state_dict(source.state_dict(batches=17))
    seen += [int(sample[0]) for sample in source.dataset()]
    assert seen == whole


@in_tf
def test_a_state_of_other_samples_is_refused() -> None:
    state = S3TFDataset(put_numbers(here()), **SETTINGS).state_dict()
    with pytest.raises(OptionError):
        make_tf_dataset(put_numbers(here(), 59), state=state, **SETTINGS)
    with pytest.raises(OptionError):
        make_tf_dataset(put_numbers(here()), state={}, **SETTINGS)
    source = S3TFDataset(put_numbers(here()), **SETTINGS)
    with pytest.raises(OptionError, match="at least 0"):
        source.set_epoch(-1)


@in_tf
def test_a_state_is_taken_up_by_another_program(root: str) -> None:
    uri = put_numbers(root)
    source = S3TFDataset(uri, **SETTINGS)
    batches = iter(source.dataset().prefetch(3))
    seen = numbers([next(batches) for _ in range(6)])
    program = textwrap.dedent("""
        import json, sys
        from s3dlio.tf import make_tf_dataset
        uri, state, settings = sys.argv[1], *map(json.loads, sys.argv[2:])
        rest = make_tf_dataset(uri, state=state, **settings)
        print(json.dumps([int(row[0]) for batch in rest for row in batch]))
    """)
    given = [uri, json.dumps(source.state_dict(batches=6)), json.dumps(SETTINGS)]
    command = [sys.executable, "-c", program, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert seen + json.loads(done.stdout) == numbers(make_tf_dataset(uri, **SETTINGS))
