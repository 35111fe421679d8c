"""Room card: the JAX room in several processes: who reads what, what a state carries over, how programs end.

Two processes of `jax.distributed`, with four CPU devices each, go through all scenes in step and report; the
tests look at the reports. What a scene finds out in a process is all that a test knows of it.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio.errors import OptionError
from s3dlio.testing import S3Server
from tests.patience import SOON_S

_CHILD = "S3DLIO_TEST_HAS_JAX"
if TYPE_CHECKING or _CHILD in os.environ:
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from s3dlio.jax import S3JaxIterable

_ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 90
COUNT = 103
Scene = Callable[[str], Any]


# -- processes ----------------------------------------------------------------------------------------


def start(code: str, devices: int, *words: str) -> subprocess.Popen[str]:
    """Start a process that sees so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", _CHILD: "1", "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-W", "error", "-P", "-c", code, *words]
    return subprocess.Popen(command, env=env, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Wait for processes that belong together; return what they have said, on both streams."""
    try:
        said = [process.communicate(timeout=_TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), "\n".join(error[-3000:] for _, error in said)
    return said


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def member(port: str, rank: str, prefix: str) -> None:
    """Play all scenes as one of two processes, and print what each has found."""
    early = S3JaxIterable(f"{prefix}raw/", batch_size=8)
    early.set_epoch(0)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 8, 4)
    found = {"by_default": [numbers(batch) for batch in early]}
    for scene in SCENES:
        found[scene.__name__] = scene(prefix)
    print(json.dumps(found))
    jax.distributed.shutdown()


def alone(prefix: str, state: str, taken: str) -> None:
    """Go on by oneself where a state says, and say so after a few batches again."""
    source = S3JaxIterable(f"{prefix}raw/", global_batch_size=16, shuffle=True, seed=6, drop_last=False)
    source.load_state_dict(json.loads(state))
    batches = iter(source)
    first = [numbers(next(batches)) for _ in range(int(taken))]
    print(json.dumps([first, source.state_dict(), [numbers(batch) for batch in batches]]))


# -- scenes: each runs in both processes, in step -----------------------------------------------------


def numbers(rows: Any) -> list[int]:
    return [int(row[0]) for row in np.asarray(rows)]


def local_numbers(batch: Any) -> list[int]:
    """Return the rows of this process's devices, those on several of them once."""
    rows = {shard.index[0].start or 0: numbers(shard.data) for shard in batch.addressable_shards}
    return [number for start in sorted(rows) for number in rows[start]]


def spread(prefix: str, sharding: Any, **options: Any) -> dict[str, Any]:
    """Return of each batch the rows that are here, their number everywhere, and their sum everywhere."""
    source = S3JaxIterable(f"{prefix}raw/", sharding=sharding, **options)
    local, shapes, sums = [], set(), []
    for batch in source:
        assert batch.sharding == sharding
        shapes.add(batch.shape)
        local.append(local_numbers(batch))
        sums.append(int(jax.jit(lambda rows: rows[:, 0].astype(jnp.int32).sum())(batch)))
    return {"local": local, "shapes": sorted(shapes), "sums": sums, "len": len(source)}


def mesh(*axes: str, turned: bool = False) -> Any:
    devices = np.array(jax.devices())
    if len(axes) == 2:
        devices = devices.reshape(2, 4)
    return Mesh(devices.T if turned else devices, axes)


def uneven(prefix: str) -> Any:
    return [numbers(batch) for batch in S3JaxIterable(f"{prefix}raw/", uneven="uneven", drop_last=False)]


def dropped(prefix: str) -> Any:
    source = S3JaxIterable(f"{prefix}raw/", batch_size=10, uneven="drop", drop_last=False)
    return [numbers(batch) for batch in source]


def all_devices(prefix: str) -> Any:
    return spread(prefix, NamedSharding(mesh("data"), P("data")), batch_size=8, shuffle=True, seed=6)


def processes_by_model(prefix: str) -> Any:
    return spread(prefix, NamedSharding(mesh("data", "model"), P("data")), batch_size=6)


def model_over_processes(prefix: str) -> Any:
    return spread(prefix, NamedSharding(mesh("data", "model", turned=True), P("data")), batch_size=8)


def replicated(prefix: str) -> Any:
    return spread(prefix, NamedSharding(mesh("data"), P()), global_batch_size=50)


def own_devices(prefix: str) -> Any:
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()), ("data",)), P("data"))
    source = S3JaxIterable(f"{prefix}raw/", batch_size=8, sharding=sharding)
    return [local_numbers(batch) for batch in source]


def dicts(prefix: str) -> Any:
    sharding = NamedSharding(mesh("data"), P("data"))
    (batch,) = S3JaxIterable(f"{prefix}npz/", batch_size=4, sharding=sharding)
    assert (batch["x"].shape, batch["label"].shape, str(batch["label"].dtype)) == ((8, 3, 2), (8,), "int32")
    assert [x[0, 0] for shard in batch["x"].addressable_shards for x in np.asarray(shard.data)] == [
        label for shard in batch["label"].addressable_shards for label in np.asarray(shard.data)
    ]
    return batch["name"].tolist()


def state(prefix: str) -> Any:
    source = S3JaxIterable(f"{prefix}raw/", global_batch_size=16, shuffle=True, seed=6)
    batches = iter(source)
    return [[numbers(next(batches)) for _ in range(3)], source.state_dict()]


def refused(prefix: str) -> Any:
    sharding = NamedSharding(mesh("data"), P("data"))
    some = jax.devices()
    lopsided = NamedSharding(Mesh(np.array(some[:6]), ("data",)), P("data"))
    foreign = NamedSharding(Mesh(np.array(some[:4] if jax.process_index() else some[4:]), ("data",)), P("data"))
    cases = [
        {"sharding": sharding, "uneven": "uneven"}, {"sharding": sharding, "ragged": "pad"},
        {"sharding": sharding, "process_index": 0, "process_count": 1}, {"sharding": sharding, "batch_size": 3},
        {"sharding": lopsided, "batch_size": 6}, {"sharding": foreign}, {"global_batch_size": 9},
    ]  # fmt: skip
    messages = []
    for case in cases:
        try:
            messages.append(str(len(S3JaxIterable(f"{prefix}raw/", **case))))
        except OptionError as error:
            messages.append(str(error))
    return messages


SCENES: tuple[Scene, ...] = (
    uneven, dropped, all_devices, processes_by_model, model_over_processes, replicated, own_devices, dicts, state,
    refused,
)  # fmt: skip


# -- the tests ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefix(rclone: S3Server) -> Iterator[str]:
    """A bucket folder with numbered samples."""
    with rclone.activate():
        bucket = f"s3://jax-{os.urandom(4).hex()}"
        s3dlio.create_bucket(bucket)
        s3dlio.put_many([(f"{bucket}/raw/{n:04d}.bin", bytes([n]) * 10) for n in range(COUNT)])
        for n in range(8):
            file = io.BytesIO()
            np.savez(file, x=np.full((3, 2), n, np.float32), label=np.int64(n), name=f"n{n}")
            s3dlio.put(f"{bucket}/npz/{n}.npz", file.getvalue())
        yield f"{bucket}/"


@pytest.fixture(scope="module")
def found(rclone: S3Server, prefix: str) -> dict[str, list[Any]]:
    """What both processes have found in each scene."""
    code = "import sys, tests.test_jax_processes as t; t.member(*sys.argv[1:])"
    with rclone.activate():
        port = str(free_port())
        said = finish([start(code, 4, port, str(rank), prefix) for rank in range(2)])
    reports = [json.loads(out.splitlines()[-1]) for out, _ in said]
    return {scene: [report[scene] for report in reports] for scene in reports[0]}


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def test_processes_have_equal_batches_by_default(found: dict[str, list[Any]]) -> None:
    """The iterable was made before jax.distributed was initialised."""
    first, second = found["by_default"]
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [8] * 6
    assert not set(flat(first)) & set(flat(second))
    assert sorted(flat(first) + flat(second)) == list(range(96))


def test_uneven_parts_bring_each_sample_exactly_once(found: dict[str, list[Any]]) -> None:
    first, second = found["uneven"]
    assert (len(flat(first)), len(flat(second))) == (52, 51)
    assert Counter(flat(first) + flat(second)) == Counter(range(COUNT))


def test_a_remainder_can_be_dropped(found: dict[str, list[Any]]) -> None:
    first, second = found["dropped"]
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [10] * 5 + [1]
    assert sorted(flat(first) + flat(second)) == list(range(102))


@pytest.mark.parametrize(("scene", "size", "batches"), [("all_devices", 16, 6), ("processes_by_model", 12, 8)])
def test_a_global_array_holds_each_sample_once(
    found: dict[str, list[Any]], scene: str, size: int, batches: int
) -> None:
    first, second = found[scene]
    assert first["shapes"] == second["shapes"] == [[size, 10]]
    assert first["len"] == len(first["local"]) == len(second["local"]) == batches
    rows = [mine + theirs for mine, theirs in zip(first["local"], second["local"], strict=True)]
    assert first["sums"] == second["sums"] == [sum(row) for row in rows]
    assert len(set(flat(rows))) == len(flat(rows)) == size * batches


@pytest.mark.parametrize(("scene", "size", "batches"), [("model_over_processes", 8, 12), ("replicated", 50, 2)])
def test_processes_that_hold_the_same_rows_read_the_same_samples(
    found: dict[str, list[Any]], scene: str, size: int, batches: int
) -> None:
    first, second = found[scene]
    assert first == second
    assert first["shapes"] == [[size, 10]]
    assert flat(first["local"]) == list(range(size * batches))
    assert first["sums"] == [sum(batch) for batch in first["local"]]


def test_a_sharding_of_ones_own_devices_gives_each_process_its_own_batches(found: dict[str, list[Any]]) -> None:
    assert found["own_devices"] == found["by_default"]


def test_dicts_of_arrays_over_processes(found: dict[str, list[Any]]) -> None:
    first, second = found["dicts"]
    assert sorted(first + second) == [f"n{n}" for n in range(8)]  # text stays with the process that read it


def test_one_process_goes_on_where_two_have_stopped(rclone: S3Server, prefix: str, found: dict[str, list[Any]]) -> None:
    (first, saved), (second, same) = found["state"]
    assert saved == same
    assert (saved["epoch"], saved["consumed"]) == (0, 48)
    code = "import sys, tests.test_jax_processes as t; t.alone(*sys.argv[1:])"
    with rclone.activate():
        ((out, _),) = finish([start(code, 1, prefix, json.dumps(saved), "2")])
    middle, later, rest = json.loads(out)
    assert later["consumed"] == 80
    assert [len(batch) for batch in middle + rest] == [16, 16, 16, 7]
    assert Counter(flat(first) + flat(second) + flat(middle) + flat(rest)) == Counter(range(COUNT))


def test_what_processes_cannot_share_is_refused(found: dict[str, list[Any]]) -> None:
    told, also = found["refused"]
    words = [
        "does not go with uneven='uneven'", "does not go with ragged='pad'", "does not go with process_index=",
        "batches of 6 do not divide by sharding=, into 8 equal parts", "unequal or overlapping rows",
        "has no device of this process", "global_batch_size=9 does not divide among 2 processes",
    ]  # fmt: skip
    for messages in (told, also):
        assert [word for word, message in zip(words, messages, strict=True) if word not in message] == []


def run(script: str) -> tuple[str, str]:
    """Run a program with the room at hand."""
    before = """
        import os, sys, time, warnings
        import s3dlio
        from s3dlio.jax import S3JaxIterable
        def numbers(batches):
            return [int(row[0]) for batch in batches for row in batch]
        for n in range(60):
            s3dlio.put(f"memory://m/{n:04d}", bytes([n]) * 10)
    """
    ((out, error),) = finish([start(textwrap.dedent(before) + textwrap.dedent(script), 1)])
    return out, error


def test_an_iterator_knows_the_process_it_was_begun_in() -> None:
    """Batches of NumPy: JAX itself does not work in forked children, and says so."""
    out, _ = run("""
        source = S3JaxIterable("memory://m/", batch_size=8, return_type="numpy")
        batches = iter(source)
        next(batches)
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        pid = os.fork()
        if not pid:
            try:
                next(batches)
            except s3dlio.ForkError:
                assert numbers(source) == list(range(60))
                os._exit(3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        print(numbers(batches) == list(range(8, 60)))
    """)
    assert out == "True\n"


def test_a_program_ends_at_once_with_batches_under_way() -> None:
    begun = time.monotonic()
    out, error = run("""
        def slowly(view):
            time.sleep(0.02)
            return view
        batches = iter(S3JaxIterable("memory://m/", batch_size=5, transform=slowly))
        full = iter(S3JaxIterable("memory://m/", batch_size=5))
        print(numbers([next(batches), next(full)]))
    """)
    assert (out, error) == (f"{[0, 1, 2, 3, 4] * 2}\n", "")
    assert time.monotonic() - begun < SOON_S
