"""Room card: the JAX room on eight CPU devices: batches, memory, shardings, prefetch, states, errors.

The tests run in one process of their own (`in_jax`): JAX's threads do not survive the forks of other tests,
and the number of devices must be chosen before JAX starts. There every warning is an error, and so is a fork.
"""

from __future__ import annotations

import functools
import io
import json
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio.buffers import POOL
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import FormatError, NotFoundError, OptionError
from s3dlio.formats.example_writing import encode_example
from s3dlio.stacking import stack
from s3dlio.testing import S3Server
from s3dlio.tfrecords import TFRecordWriter
from tests.patience import PROGRAM_S, eventually, is_readable

_CHILD = "S3DLIO_TEST_HAS_JAX"
if TYPE_CHECKING or _CHILD in os.environ:
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from s3dlio.jax import S3JaxIterable, world
    from s3dlio.jax.convert import to_jax
    from s3dlio.jax.relay import Relay

_ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 60.0
COUNT = 103


# -- the process that has JAX -------------------------------------------------------------------------


class JaxProcess:
    """Runs tests by name, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-P", "-c", "import tests.test_jax_dataset as t; t.serve()"]
        flags = "--xla_force_host_platform_device_count=8"
        env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", _CHILD: "1", "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            command, env=env, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, test: str, given: dict[str, Any]) -> None:
        """Run one test; fail as it does."""
        cloud = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "STORAGE_"))}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([test, given, cloud]) + "\n")
        self._process.stdin.flush()
        if not is_readable(self._process.stdout, _TIMEOUT_S):
            self.end()
            pytest.fail(f"{test} has not ended after {_TIMEOUT_S} s")
        answer = self._process.stdout.readline()
        if not answer:
            pytest.fail(f"the process ended with code {self._process.wait()}")
        if json.loads(answer):
            pytest.fail(json.loads(answer), pytrace=False)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Answer with a traceback or nothing for each test asked for."""
    forks: list[str] = []
    os.register_at_fork(before=lambda: forks.append("".join(traceback.format_stack())))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        test, given, cloud = json.loads(line)
        os.environ.update(cloud)
        try:
            _BODIES[test](**given)
            assert forks == []
            assert "torch" not in sys.modules
        except BaseException:  # noqa: BLE001 - whatever it is goes to the other process
            answers.write(json.dumps(traceback.format_exc()[-4000:]) + "\n")
        else:
            answers.write('""\n')
        answers.flush()


_BODIES: dict[str, Callable[..., None]] = {}
_RUNNING: list[JaxProcess] = []


def in_jax(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in the process that has JAX; its fixtures are values that JSON can carry."""
    _BODIES[test.__name__] = test

    @functools.wraps(test)
    def ask(**given: Any) -> None:
        if not _RUNNING:
            _RUNNING.append(JaxProcess())
        _RUNNING[0].run(test.__name__, given)

    return ask


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """Ends the process with the last test."""
    yield
    while _RUNNING:
        _RUNNING.pop().end()


@pytest.fixture
def root(rclone: S3Server) -> Iterator[str]:
    """An empty bucket."""
    with rclone.activate():
        bucket = f"s3://jax-{os.urandom(4).hex()}"
        s3dlio.create_bucket(bucket)
        yield bucket


# -- samples ------------------------------------------------------------------------------------------


def npz(**arrays: Any) -> bytes:
    """Return an NPZ file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def sample(number: int) -> dict[str, Any]:
    """Return what the sample of this number holds."""
    image = np.random.default_rng(number).integers(0, 255, (40, 32, 3), dtype=np.uint8)
    return {"image": image, "label": np.int64(number), "name": f"n{number}"}


def put_images(prefix: str, count: int = COUNT) -> str:
    s3dlio.put_many([(f"{prefix}/{n:04d}.npz", npz(**sample(n))) for n in range(count)])
    return f"{prefix}/"


def put_numbers(prefix: str, count: int = COUNT) -> str:
    s3dlio.put_many([(f"{prefix}/{n:04d}.bin", bytes([n]) * 10) for n in range(count)])
    return f"{prefix}/"


def here() -> str:
    """Return a prefix in memory that is empty."""
    return f"memory://jax-{os.urandom(4).hex()}"


def numbers(batches: Any) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch]


def labels(batches: Any) -> list[int]:
    return [int(label) for batch in batches for label in batch["label"]]


def over_data(*shape: int) -> Any:
    """Return a sharding of the first axis over the first axis of a mesh."""
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return NamedSharding(Mesh(devices, ("data", "model")[: len(shape)]), P("data"))


# -- batches ------------------------------------------------------------------------------------------


@in_jax
def test_npz_objects_become_batches_of_jax_arrays(root: str) -> None:
    batches = S3JaxIterable(put_images(root), pattern="*.npz", batch_size=8)
    assert len(batches) == 13
    seen = 0
    for batch in batches:
        size = min(8, COUNT - seen)
        assert isinstance(batch["image"], jax.Array)
        assert (batch["image"].shape, batch["image"].dtype) == ((size, 40, 32, 3), jnp.uint8)
        assert (batch["label"].dtype, batch["label"].tolist()) == (jnp.int32, list(range(seen, seen + size)))
        assert isinstance(batch["name"], np.ndarray)  # JAX has no text
        for row, (image, name) in enumerate(zip(batch["image"], batch["name"], strict=True)):
            assert np.array_equal(image, sample(seen + row)["image"])
            assert name == f"n{seen + row}"
        seen += size
    assert seen == COUNT
    images = list(S3JaxIterable(root, pattern="*.npz", key="image"))
    assert [image.shape[0] for image in images] == [32, 32, 32, 7]  # 32 unless told otherwise


@in_jax
def test_the_documented_example_runs_on_google_storage(bucket: str) -> None:
    put_images(f"gs://{bucket}/training-data", 40)
    jax_iter = S3JaxIterable(uri=f"gs://{bucket}/training-data/", pattern="*.npz", batch_size=32)
    seen = [batch["label"].shape[0] for batch in jax_iter]
    assert seen == [32, 8]


@pytest.fixture
def bucket(gcs: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket on a fake Google Cloud Storage."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint_url)
    name = f"jax-{os.urandom(4).hex()}"
    s3dlio.create_bucket(f"gs://{name}")
    return name


@in_jax
def test_other_formats(root: str) -> None:
    raw = S3JaxIterable(put_numbers(f"{root}/raw"), batch_size=10)
    first = next(iter(raw))
    assert (first.shape, first.dtype) == ((10, 10), jnp.uint8)
    assert numbers(raw) == list(range(COUNT))
    for n in range(5):
        file = io.BytesIO()
        np.save(file, np.full((2, 3), n, ">f4"))
        s3dlio.put(f"{root}/npy/{n}.npy", file.getvalue())
    (batch,) = S3JaxIterable(f"{root}/npy/")
    assert (batch.shape, batch.dtype, batch[:, 0, 0].tolist()) == ((5, 2, 3), jnp.float32, [0, 1, 2, 3, 4])
    with TFRecordWriter(f"{root}/r.tfrecord") as writer:
        for n in range(7):
            writer.write(bytes([n]) * 12)
    assert numbers(S3JaxIterable(f"{root}/r.tfrecord", batch_size=3)) == list(range(7))
    with TFRecordWriter(f"{root}/e.tfrecord") as writer:
        for n in range(4):
            writer.write(encode_example({"x": np.array([n, n + 1]), "y": np.array([0.5], np.float32)}))
    (batch,) = S3JaxIterable(f"{root}/e.tfrecord", format="example")
    assert batch["x"].tolist() == [[n, n + 1] for n in range(4)]
    assert (batch["x"].dtype, batch["y"].dtype) == (jnp.int32, jnp.float32)


@in_jax
def test_numpy_batches_are_the_callers_own() -> None:
    source = S3JaxIterable(put_images(here(), 6), batch_size=4, return_type="numpy")
    batches = list(source)
    assert all(type(array) is np.ndarray for batch in batches for array in batch.values())
    assert batches[0]["label"].dtype == np.int64
    batches[0]["image"][...] = 0
    assert np.array_equal(batches[1]["image"][0], sample(4)["image"])


@in_jax
def test_wide_numbers_follow_jax(root: str) -> None:
    arrays = {"i": np.int64(-3), "u": np.uint64(7), "f": np.float64(1e300), "c": np.complex128(1j), "b": np.bool_(1)}
    s3dlio.put(f"{root}/a.npz", npz(**arrays))
    (batch,) = S3JaxIterable(f"{root}/")
    assert {n: str(a.dtype) for n, a in batch.items()} == {
        "i": "int32", "u": "uint32", "f": "float32", "c": "complex64", "b": "bool",
    }  # fmt: skip
    assert (batch["i"][0], batch["f"][0]) == (-3, np.inf)
    with jax.enable_x64(True):  # of this thread: transfers begin in it
        (batch,) = S3JaxIterable(f"{root}/")
    assert (batch["i"].dtype, batch["f"].dtype, np.asarray(batch["f"])[0]) == (np.int64, np.float64, 1e300)


@in_jax
def test_what_jax_has_no_dtype_for_stays_numpy() -> None:
    arrays = {
        "text": np.array(["a", "b"]), "when": np.array(["2020-01-01"], "M8[D]"), "span": np.array([1], "m8[s]"),
        "pair": np.zeros(2, [("a", "i4"), ("b", "f4")]), "long": np.zeros(2, np.longdouble), "raw": np.zeros(2, "V2"),
    }  # fmt: skip
    for array in arrays.values():
        assert to_jax(array) is array
    both = to_jax({"x": [np.arange(3.0), (arrays["text"], np.zeros((0, 2), np.int8))]})
    assert isinstance(both["x"][0], jax.Array)
    assert isinstance(both["x"][1][1], jax.Array)
    assert both["x"][1][0] is arrays["text"]


@in_jax
def test_a_transform_decides_what_a_sample_is(root: str) -> None:
    prefix = put_images(root, 5)
    scaled = S3JaxIterable(prefix, transform=lambda s: (s["image"].astype(np.float32) / 255, int(s["label"])))
    (batch,) = scaled
    assert isinstance(batch, tuple)
    assert (batch[0].dtype, batch[0].shape, batch[1].tolist()) == (jnp.float32, (5, 40, 32, 3), [0, 1, 2, 3, 4])


@in_jax
def test_unequal_samples(root: str) -> None:
    for n in range(1, 5):
        s3dlio.put(f"{root}/{n}.npz", npz(x=np.full(n, n, np.int16)))
    with pytest.raises(OptionError, match="ragged='pad' or ragged='list'"):
        list(S3JaxIterable(root, pattern="*.npz"))
    (padded,) = S3JaxIterable(root, ragged="pad")
    assert padded["x"].tolist() == [[1, 0, 0, 0], [2, 2, 0, 0], [3, 3, 3, 0], [4, 4, 4, 4]]
    reused = np.zeros(4, np.int64)

    def into_reused(taken: dict[str, Any]) -> Any:
        reused[: len(taken["x"])] = taken["x"]
        return reused[: len(taken["x"])]

    (listed,) = S3JaxIterable(root, ragged="list", transform=lambda s: s["x"])
    assert [x.tolist() for x in listed] == [[1], [2, 2], [3, 3, 3], [4, 4, 4, 4]]
    (one,) = S3JaxIterable([f"{root}/2.npz"], ragged="list", transform=into_reused)
    reused[:] = 9  # the transform's own memory is not the array's
    assert one[0].tolist() == [2, 2]


# -- memory -------------------------------------------------------------------------------------------


@in_jax
def test_an_array_takes_over_the_memory_of_a_batch() -> None:
    images = [sample(n)["image"] for n in range(16)]
    batch = stack(images)
    array = to_jax(batch)
    assert array.unsafe_buffer_pointer() == batch.ctypes.data
    over_all = to_jax(batch, over_data(8))
    starts = sorted(shard.data.unsafe_buffer_pointer() for shard in over_all.addressable_shards)
    assert starts == [batch.ctypes.data + n * batch.nbytes // 8 for n in range(8)]


@pytest.mark.parametrize("kind", ["raw", "npz", "sharded"])
@in_jax
def test_batches_that_are_kept_are_never_written_to(kind: str) -> None:
    space = here()
    bodies = [np.random.default_rng(n).integers(0, 255, 40_000, dtype=np.uint8) for n in range(120)]
    for n, body in enumerate(bodies):
        s3dlio.put(f"{space}/{n:04d}.{kind}", body if kind == "raw" else npz(x=body))
    form, key = ("raw", None) if kind == "raw" else ("npz", "x")
    sharding = over_data(2) if kind == "sharded" else None
    batches = S3JaxIterable(f"{space}/", format=form, key=key, batch_size=2, sharding=sharding)
    POOL.clear()
    kept = []
    for turn in range(6):  # memory of batches that were let go is used again beside what is kept
        for number, batch in enumerate(batches):
            if turn == 0 and number < 50:
                kept.append(batch)
                kept.append(batch[1])
    for number in range(50):
        assert np.array_equal(kept[2 * number], bodies[2 * number : 2 * number + 2])
        assert np.array_equal(kept[2 * number + 1], bodies[2 * number + 1])


@in_jax
def test_memory_of_batches_that_were_let_go_is_used_again() -> None:
    space = here()
    for n in range(200):
        s3dlio.put(f"{space}/{n:04d}.bin", bytes(40_000))
    POOL.clear()
    batches = S3JaxIterable(f"{space}/", batch_size=2, prefetch_to_device=2, transform=np.asarray)
    addresses = [batch.unsafe_buffer_pointer() for batch in batches]
    assert len(addresses) == 100
    assert len(set(addresses)) <= 12  # in use, ready, in the making, and on their way back


@in_jax
def test_memory_in_use_by_a_running_computation_is_not_used_again() -> None:
    @jax.jit
    def slowly(x: Any) -> Any:
        return jax.lax.fori_loop(0, 400, lambda _, total: jnp.sin(total) * 0 + x.sum(), x.sum())

    length = 1 << 20
    slowly(jnp.zeros(length)).block_until_ready()
    POOL.clear()
    lease = POOL.take(4 * length)
    batch = np.frombuffer(lease, np.float32)
    batch[:] = 1
    del lease
    array = to_jax(batch)
    assert array.unsafe_buffer_pointer() == batch.ctypes.data
    total = slowly(array)
    del batch, array
    for _ in range(20):
        POOL.take(4 * length)[...] = 255
    assert total == length


@in_jax
def test_a_donated_batch_is_not_written_to() -> None:
    batch = stack([np.full(40_000, n, np.int32) for n in range(4)])
    more = jax.jit(lambda x: x + 1, donate_argnums=0)(to_jax(batch))
    assert more[:, 0].tolist() == [1, 2, 3, 4]
    assert batch[:, 0].tolist() == [0, 1, 2, 3]


# -- shardings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[8], [4, 2], [2, 4], [1, 8]])
@in_jax
def test_a_sharding_spreads_each_batch(root: str, shape: list[int]) -> None:
    sharding = over_data(*shape)
    batches = S3JaxIterable(put_images(root, 35), batch_size=8, sharding=sharding, shuffle=True, seed=4)
    assert len(batches) == 4  # the last three do not fill a batch
    seen = []
    for batch in batches:
        image = batch["image"]
        assert image.sharding == batch["label"].sharding == sharding
        assert len(image.sharding.device_set) == 8
        assert {shard.data.shape for shard in image.addressable_shards} == {(8 // shape[0], 40, 32, 3)}
        for row, number in zip(image, batch["label"].tolist(), strict=True):
            assert np.array_equal(row, sample(number)["image"])
            seen.append(number)
    assert len(seen) == len(set(seen)) == 32
    assert sum(int(jax.jit(jnp.sum)(batch["label"])) for batch in batches) == sum(seen)


@in_jax
def test_more_axes_than_the_first_can_be_divided(root: str) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    both = NamedSharding(mesh, P(("data", "model")))
    (batch,) = S3JaxIterable(put_images(root, 16), batch_size=16, sharding=both)
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 40, 32, 3)}
    wide = NamedSharding(mesh, P("data", "model"))
    (batch,) = S3JaxIterable(root, pattern="*.npz", key="image", batch_size=16, sharding=wide)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(4, 20, 32, 3)}
    with pytest.raises(OptionError, match=r"does not divide by sharding= \(it has 2 axes\).*key="):
        list(S3JaxIterable(root, pattern="*.npz", batch_size=16, sharding=wide))  # a label has one axis


@in_jax
def test_batches_that_do_not_divide_say_which_option_helps(root: str) -> None:
    prefix = put_numbers(root, 19)
    with pytest.raises(OptionError, match="into 8 equal parts: choose another batch_size"):
        S3JaxIterable(prefix, batch_size=12, sharding=over_data(8))
    batches = iter(S3JaxIterable(prefix, batch_size=8, sharding=over_data(8), drop_last=False))
    assert numbers([next(batches), next(batches)]) == list(range(16))
    with pytest.raises(OptionError, match=r"shape \(3, 10\) does not divide .*drop_last=True"):
        next(batches)


@in_jax
def test_one_device_is_a_sharding_too() -> None:
    device = jax.devices()[5]
    place = jax.sharding.SingleDeviceSharding(device)
    batches = list(S3JaxIterable(put_numbers(here(), 9), batch_size=3, sharding=place))
    assert [batch.device for batch in batches] == [device] * 3
    with jax.default_device(jax.devices()[3]):  # of this thread
        assert next(iter(S3JaxIterable(put_numbers(here(), 3)))).device == jax.devices()[3]
    assert world.rows(place) == (world.rank(), 1)


# -- ahead of use -------------------------------------------------------------------------------------


@in_jax
def test_batches_are_made_ahead_and_no_more_than_told() -> None:
    made: list[str] = []

    def count(view: Any) -> Any:
        made.append(threading.current_thread().name)
        return view

    source = S3JaxIterable(put_numbers(here()), batch_size=5, transform=count, prefetch_to_device=3)
    batches = iter(source)
    assert numbers([next(batches)]) == [0, 1, 2, 3, 4]
    eventually(lambda: len(made) == 5 * 5)  # in use, three that are ready, and one
    time.sleep(0.05)
    assert len(made) == 25
    assert set(made) == {"s3dlio-reader"}
    assert source.state_dict()["consumed"] == 5
    assert numbers(batches) == list(range(5, COUNT))
    made.clear()
    batches = iter(S3JaxIterable(source.dataset.get_uris(), batch_size=5, transform=count, prefetch_to_device=0))
    next(batches)
    next(batches)
    assert made == [threading.current_thread().name] * 10


@in_jax
def test_transfers_begin_before_they_are_asked_for() -> None:
    begun: list[int] = []
    relay = Relay((n for n in range(10)), lambda n: begun.append(n) or n, 2, CancellationToken())
    batches = iter(relay)
    assert next(batches) == 0
    eventually(lambda: relay._drawn.qsize() + len(relay._ready) == 3)
    assert next(batches) == 1
    assert begun == [0, 1, 2, 3]
    assert list(batches) == list(range(2, 10))
    assert begun == list(range(10))


@in_jax
def test_an_iteration_that_is_dropped_stops_its_thread() -> None:
    ended = threading.Event()

    def source() -> Any:
        try:
            yield from range(1000)
        finally:
            ended.set()

    batches = iter(Relay(source(), str, 2, CancellationToken(CREW.get().token)))
    assert next(batches) == "0"
    del batches
    assert ended.wait(60)


@in_jax
def test_a_system_without_threads_makes_each_batch_when_asked() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CREW.get(), "start", lambda job: job())
        made = list(Relay((n for n in range(20)), str, 2, CancellationToken()))
    assert made == [str(n) for n in range(20)]


@in_jax
def test_cancelling_wakes_whoever_waits() -> None:
    token = CancellationToken()
    gate: queue.SimpleQueue[int] = queue.SimpleQueue()

    def source() -> Any:
        yield 1
        while not token.is_cancelled:
            time.sleep(0.001)
        token.check()
        yield gate.get()

    batches = iter(Relay(source(), str, 2, token))
    assert next(batches) == "1"
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(s3dlio.CancelledError):
        next(batches)


@pytest.mark.parametrize("ahead", [0, 1, 4])
@in_jax
def test_an_error_comes_where_the_batch_would_have(root: str, ahead: int) -> None:
    prefix = put_numbers(f"{root}/{ahead}", 60)
    source = S3JaxIterable(prefix, batch_size=8, prefetch_to_device=ahead)
    s3dlio.delete(f"{prefix}0050.bin")
    seen = []

    def draw() -> None:
        seen.extend(batch for batch in source)

    with pytest.raises(NotFoundError, match=r"0050\.bin"):
        draw()
    assert len(seen) <= 6  # all reading stops at once: maybe before batches that came first are whole
    assert numbers(seen) == list(range(8 * len(seen)))
    assert source.state_dict()["consumed"] == 8 * len(seen)

    def refuse(view: Any) -> Any:
        if view[0] == 20:
            raise FormatError("not this one")
        return view

    batches = iter(S3JaxIterable(prefix, batch_size=8, prefetch_to_device=ahead, transform=refuse))
    assert numbers([next(batches), next(batches)]) == list(range(16))
    with pytest.raises(FormatError, match="not this one"):
        next(batches)


@in_jax
def test_skipped_samples_leave_shorter_batches() -> None:
    def refuse(view: Any) -> Any:
        if view[0] in (3, 8, 9, 10, 11):
            raise FormatError("not this one")
        return view

    source = S3JaxIterable(put_numbers(here(), 20), batch_size=4, transform=refuse, on_error="skip")
    assert [len(batch) for batch in source] == [3, 4, 4, 4]
    assert source.skipped == 5
    assert source.state_dict()["epoch"] == 1


# -- epochs and states --------------------------------------------------------------------------------


@in_jax
def test_the_order_depends_on_seed_and_epoch_only() -> None:
    prefix = put_numbers(here())
    source = S3JaxIterable(prefix, shuffle=True, seed=3)
    first = numbers(source)
    assert sorted(first) == list(range(COUNT)) != first
    assert numbers(source) == first
    assert numbers(S3JaxIterable(prefix, shuffle=True, seed=3, batch_size=7, prefetch_to_device=0)) == first
    source.set_epoch(1)
    assert sorted(numbers(source)) == list(range(COUNT))
    assert numbers(source) != first != numbers(S3JaxIterable(prefix, shuffle=True, seed=4))


@pytest.mark.parametrize("ahead", [0, 2])
@in_jax
def test_an_epoch_goes_on_where_a_state_says(ahead: int) -> None:
    prefix = put_numbers(here())
    options = {"batch_size": 8, "shuffle": True, "seed": 1, "prefetch_to_device": ahead}
    following = S3JaxIterable(prefix, **options)
    following.set_epoch(5)
    whole = numbers(following)
    following.set_epoch(6)
    for taken in (0, 1, 4, 11, 13):
        source = S3JaxIterable(prefix, **options)
        source.set_epoch(5)
        batches = iter(source)
        before = numbers([next(batches) for _ in range(taken)])
        state = json.loads(json.dumps(source.state_dict()))
        other = S3JaxIterable(prefix, **options)
        other.load_state_dict(state)
        assert other.state_dict() == state
        if taken == 13:
            assert (state["epoch"], state["consumed"]) == (6, 0)
            assert numbers(other) == numbers(following)
        else:
            again = iter(other)
            middle = numbers([next(again)])
            last = S3JaxIterable(prefix, **options)
            last.load_state_dict(other.state_dict())
            assert before + middle + numbers(last) == whole
    with pytest.raises(OptionError, match="seed"):
        S3JaxIterable(prefix, seed=2, shuffle=True).load_state_dict(state)


@in_jax
def test_an_older_iteration_that_still_reads_ahead_does_not_move_the_state() -> None:
    source = S3JaxIterable(put_numbers(here()), batch_size=8)
    older = iter(source)
    next(older)
    state = source.state_dict()
    next(older)
    source.load_state_dict(state)
    time.sleep(0.05)  # its thread goes on
    assert source.state_dict() == state
    assert numbers(source) == list(range(8, COUNT))


@in_jax
def test_an_iteration_left_in_the_middle_can_be_begun_again() -> None:
    source = S3JaxIterable(put_numbers(here()), batch_size=4)
    for _ in range(5):
        assert numbers([next(iter(source))]) == [0, 1, 2, 3]
    assert numbers(source) == list(range(COUNT))


@in_jax
def test_several_processes_need_not_be_jax_s() -> None:
    prefix = put_numbers(here(), 21)
    ranks = [S3JaxIterable(prefix, batch_size=2, process_index=r, process_count=4) for r in range(4)]
    assert [len(rank) for rank in ranks] == [3] * 4  # padded to 24
    assert sorted(set(numbers(batch for rank in ranks for batch in rank))) == list(range(21))
    ranks = [
        S3JaxIterable(prefix, global_batch_size=8, process_index=r, process_count=4, uneven="uneven", drop_last=False)
        for r in range(4)
    ]
    assert sorted(numbers(batch for rank in ranks for batch in rank)) == list(range(21))
    with pytest.raises(OptionError, match="global_batch_size=10 does not divide among 4 processes"):
        len(S3JaxIterable(prefix, global_batch_size=10, process_index=0, process_count=4))


# -- constructors and options -------------------------------------------------------------------------


@in_jax
def test_constructors(root: str) -> None:
    prefix = put_numbers(root)
    assert numbers(S3JaxIterable.from_prefix(prefix, pattern="000*")) == list(range(10))
    uris = [f"{prefix}0002.bin", f"{prefix}0001.bin"]
    assert numbers(S3JaxIterable.from_uris(iter(uris))) == numbers(S3JaxIterable(uris)) == [2, 1]
    S3JaxIterable(prefix).save_manifest(f"{root}/manifest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s3dlio.listing.scan", lambda *_, **__: pytest.fail("it lists"))
        saved = S3JaxIterable.from_manifest(f"{root}/manifest", batch_size=50, key=None, loader_opts={"seed": 1})
    assert [len(batch) for batch in saved] == [50, 50, 3]
    assert "103 samples" in repr(saved)


@in_jax
def test_options_may_come_as_a_mapping_and_keywords_win() -> None:
    prefix = put_numbers(here())
    both = {"batch_size": 10, "drop_last": True, "shuffle": True, "seed": 1, "num_workers": 4, "prefetch": 2}
    source = S3JaxIterable(prefix, loader_opts=both, shuffle=False)
    assert numbers(source) == list(range(100))
    assert [len(batch) for batch in source] == [10] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 2}, "no option 'batchsize'; did you mean 'batch_size'"),
        ({"patern": "*"}, "did you mean 'pattern'"),
        ({"loader_opts": {"sed": 2}}, "did you mean 'seed'"),
        ({"return_type": "jx"}, "return_type must be one of jax, numpy.*did you mean 'jax'"),
        ({"format": "npzz"}, "did you mean 'npz'"),
        ({"shuffle": "blok"}, "did you mean 'block'"),
        ({"ragged": "pads"}, "did you mean 'pad'"),
        ({"uneven": "dropp"}, "did you mean 'drop'"),
        ({"on_error": "skipp"}, "did you mean 'skip'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 8, "global_batch_size": 8}, "give one of them"),
        ({"prefetch_to_device": -1}, "prefetch_to_device must be at least 0"),
        ({"process_index": 0}, "process_index and process_count go together"),
        ({"process_index": 2, "process_count": 2}, "shard index 2"),
        ({"sharding": "data"}, "sharding must be a jax.sharding.Sharding"),
        ({"sharding": True, "return_type": "numpy"}, "does not go with return_type='numpy'"),
        ({"sharding": True, "ragged": "list"}, "does not go with ragged='list'"),
        ({"sharding": True, "on_error": "skip"}, "does not go with on_error='skip'"),
    ],
)
@in_jax
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    prefix = put_numbers(here(), 2)
    if options.get("sharding") is True:
        options["sharding"] = over_data(8)
    with pytest.raises(OptionError, match=message):
        len(S3JaxIterable(prefix, **options))


# -- training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[], [8]])
@in_jax
def test_a_network_learns(root: str, shape: list[int]) -> None:
    truth = np.random.default_rng(0).normal(size=(6, 1)).astype(np.float32)
    for n in range(128):
        x = np.random.default_rng(n).normal(size=6).astype(np.float32)
        s3dlio.put(f"{root}/{n:03d}.npz", npz(x=x, y=x @ truth))
    batches = S3JaxIterable(
        root, pattern="*.npz", batch_size=16, shuffle=True, sharding=over_data(*shape) if shape else None
    )

    @jax.jit
    def step(weights: Any, batch: Any) -> Any:
        def error(w: Any) -> Any:
            return ((batch["x"] @ w - batch["y"]) ** 2).mean()

        value, slope = jax.value_and_grad(error)(weights)
        return weights - 0.1 * slope, value

    weights, losses = jnp.zeros((6, 1)), []
    for epoch in range(4):
        batches.set_epoch(epoch)
        for batch in batches:
            weights, loss = step(weights, batch)
            losses.append(float(loss))
    assert len(losses) == 32
    assert losses[-1] < losses[0] / 20
    assert np.allclose(weights, truth, atol=0.1)


# -- without JAX --------------------------------------------------------------------------------------


def test_without_jax_the_room_says_what_to_install() -> None:
    script = textwrap.dedent("""
        import sys
        sys.modules["jax"] = None
        try:
            import s3dlio.jax
        except ModuleNotFoundError as error:
            print(error.name, error)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PROGRAM_S, check=True)
    assert done.stdout == "jax this part of s3dlio needs JAX: pip install 's3dlio[jax]'\n"
