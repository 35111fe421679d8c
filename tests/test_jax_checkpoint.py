"""Room card: JAX's arrays in checkpoints: in one file, and sharded over meshes and processes.

Scenes run in processes of their own (the number of devices is chosen before JAX starts), every warning an error:
one process with eight CPU devices goes through all of `ALONE`, two of `jax.distributed` with four each through
`TOGETHER`. What a scene finds out there is all that a test knows of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import s3dlio
from s3dlio.context import store_of
from s3dlio.errors import (
    AlreadyExistsError,
    CheckpointError,
    FormatError,
    IncompleteCheckpointError,
    IntegrityError,
    NotFoundError,
    OptionError,
    StoreError,
)
from s3dlio.testing import S3Server
from s3dlio.uri import parse
from tests.test_jax_processes import finish, free_port, start

if TYPE_CHECKING or "S3DLIO_TEST_HAS_JAX" in os.environ:
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from s3dlio.jax import checkpoint as writing
    from s3dlio.jax import load_sharded, save_sharded

Scene = Callable[[Path], Any]


class Moments(NamedTuple):
    """As optimizers' states are: a named tuple of trees."""

    count: Any
    mu: Any
    nu: Any


def mesh(*lengths: int) -> Any:
    count = int(np.prod(lengths))
    return Mesh(np.array(jax.devices()[:count]).reshape(lengths), ("a", "b")[: len(lengths)])


def numbers(*shape: int, dtype: Any = "float32") -> Any:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def on(array: Any, spec: Any, *lengths: int) -> Any:
    return jax.device_put(array, NamedSharding(mesh(*lengths), spec))


def wanted(array: Any, spec: Any, *lengths: int) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh(*lengths), spec))


def refused(kind: type[Exception], text: str, call: Callable[[], Any]) -> str:
    """Return the message that a call fails with, as it should."""
    try:
        call()
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    assert text in message, message
    return message


def counted(uri: str, call: Callable[[], Any]) -> int:
    """Return the bytes that a call reads by ranges."""
    store: Any = store_of(parse(uri))
    read, lengths = store.read_into, []
    store.read_into = lambda uri, at, target, *rest: (lengths.append(len(target)), read(uri, at, target, *rest))
    try:
        call()
    finally:
        del store.read_into
    return sum(lengths)


def train_state() -> dict[str, Any]:
    """Return what a training run has, on all devices."""
    w = numbers(256, 128)
    return {
        "params": {"w": on(w, P("a"), 8), "b": on(numbers(128), P(), 8), "half": on(w.astype(jnp.bfloat16), P("a"), 8)},
        "opt": (Moments(jnp.zeros((), jnp.int32) + 5, {"w": on(w * 2, P("a"), 8)}, [on(w * 3, P(None, "a"), 8)]), None),
        "key": jax.random.key(7), "keys": jax.random.split(jax.random.key(8, impl="rbg"), 4),
        "small": jnp.arange(5, dtype=jnp.int4), "f8": jnp.ones(9, jnp.float8_e4m3fn), "c": jnp.ones(3) + 1j,
        "step": 7, "name": "run", "rate": 0.5, "host": np.arange(6.0).reshape(2, 3), "one": np.float64(2.5),
        "empty": jnp.zeros((0, 4)), "flag": jnp.array([True, False]),
    }  # fmt: skip


def bits(value: Any) -> Any:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return bits(jax.random.key_data(value))
    return np.asarray(value)


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = jax.tree.flatten(one), jax.tree.flatten(other)
    assert ours[1] == theirs[1]
    for left, right in zip(ours[0], theirs[0], strict=True):
        assert type(left) is type(right)
        if hasattr(left, "dtype"):
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert bits(left).tobytes() == bits(right).tobytes()
        else:
            assert left == right


# -- eight devices of one process -----------------------------------------------------------------------


def one_file(folder: Path) -> None:
    state = train_state()
    where = f"file://{folder}/one.ckpt"
    s3dlio.save_checkpoint(where, state)
    found = s3dlio.load_checkpoint(where)
    assert type(found["opt"][0]).__name__ == "Moments"
    assert_same({**state, "opt": list(state["opt"][0])}, {**found, "opt": list(found["opt"][0])})
    del state["one"]  # a scalar of NumPy, which cannot be filled
    s3dlio.save_checkpoint(where, state)
    again = s3dlio.load_checkpoint(where, into=state)
    assert again["params"]["w"].sharding == state["params"]["w"].sharding
    assert again["params"]["w"] is not state["params"]["w"]
    assert_same(state["params"], again["params"])
    assert isinstance(s3dlio.load_checkpoint(where, keys="params.w", framework="numpy")["params"]["w"], np.ndarray)


def one_file_of_others(folder: Path) -> None:
    """NumPy's file as JAX's arrays; numbers are never changed on the way."""
    s3dlio.save_checkpoint(f"file://{folder}/np.ckpt", {"f": numbers(3, 4), "i": np.arange(3, dtype="i4")})
    found = s3dlio.load_checkpoint(f"file://{folder}/np.ckpt", framework="jax")
    assert all(isinstance(value, jax.Array) for value in found.values())
    s3dlio.save_checkpoint(f"file://{folder}/long.ckpt", {"i": np.arange(3)})
    refused(
        FormatError,
        "jax_enable_x64",
        lambda: s3dlio.load_checkpoint(f"file://{folder}/long.ckpt", framework="jax"),
    )


@dataclasses.dataclass
class TrainState:
    step: int = 0


def one_file_refused(folder: Path) -> None:
    where = f"file://{folder}/x.ckpt"
    jax.jit(lambda x: refused(OptionError, "traced", lambda: s3dlio.save_checkpoint(where, {"x": x})) and x)(1.0)
    gone = jnp.ones(3)
    gone.delete()
    refused(OptionError, "deleted", lambda: s3dlio.save_checkpoint(where, {"gone": gone}))
    refused(OptionError, "gone", lambda: save_sharded(f"file://{folder}/x", {"gone": gone}))
    refused(OptionError, "['what']", lambda: save_sharded(f"file://{folder}/x", {"what": object()}))
    refused(OptionError, "datetime64", lambda: save_sharded(f"file://{folder}/x", {"d": np.array(["2020"], "M8[s]")}))
    refused(OptionError, "save_sharded saves any pytree", lambda: s3dlio.save_checkpoint(where, TrainState()))
    refused(OptionError, "/x/: the value is", lambda: save_sharded(f"file://{folder}/x", object()))
    assert not list(folder.rglob("*.*"))


def another_store_snapshot(folder: Path) -> None:
    store = s3dlio.CheckpointStore(f"file://{folder}/run")
    state = {"w": on(numbers(64, 8), P("a"), 8)}
    future = store.async_save(step=1, data=state)
    expected = np.asarray(state["w"]).copy()
    state["w"].delete()
    future.result()
    assert (np.asarray(store.load(step=1)["w"]) == expected).all()


def a_state(folder: Path) -> None:
    state = train_state()
    base = f"file://{folder}/c"
    save_sharded(base, state)
    found = load_sharded(base, state)
    assert_same(state, found)
    assert found["params"]["w"].sharding == state["params"]["w"].sharding
    everything = load_sharded(base)
    assert everything["['step']"] == 7
    assert isinstance(everything["['params']['w']"], jax.Array)
    assert isinstance(everything["['host']"], np.ndarray)


def described(state: Any) -> Any:
    """Return a state as :func:`jax.eval_shape` does, with shardings; numbers and NumPy's arrays as they are."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        sharding = leaf.sharding if len(leaf.sharding.device_set) > 1 else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, state)


def one_file_by_descriptions(folder: Path) -> None:
    where = f"file://{folder}/one.ckpt"
    state = train_state()
    del state["one"]  # a scalar of NumPy, which cannot be filled
    state["host"] = state["host"].copy()
    s3dlio.save_checkpoint(where, state)
    found = s3dlio.load_checkpoint(where, into=described(state))
    assert_same(state, found)  # Moments too: as a tree it is what was given
    for name in ("w", "b", "half"):
        assert found["params"][name].sharding == state["params"][name].sharding
    plain = jax.eval_shape(
        lambda: {"w": jnp.zeros((256, 128)), "b": jnp.zeros(128), "half": jnp.zeros((256, 128), "bfloat16")}
    )
    params = s3dlio.load_checkpoint(where, into={"params": plain}, keys="params")["params"]
    assert_same(state["params"], params)
    assert {len(array.devices()) for array in params.values()} == {1}
    store = s3dlio.CheckpointStore(f"file://{folder}/run")
    store.save(step=1, data=state["params"])
    by_columns = {**plain, "w": wanted(plain["w"], P(None, "a"), 4)}
    again = store.load(step=1, into=by_columns)
    assert_same(state["params"], again)
    assert again["w"].sharding == by_columns["w"].sharding
    keys = jax.ShapeDtypeStruct((4,), state["keys"].dtype, sharding=NamedSharding(mesh(4), P("a")))
    spread = s3dlio.load_checkpoint(where, into={"keys": keys}, keys="keys")["keys"]
    assert_same(state["keys"], spread)
    assert len(spread.devices()) == 4
    refused(OptionError, "ShapeDtypeStruct", lambda: s3dlio.save_checkpoint(where, {"w": keys}))


def descriptions_that_do_not_fit(folder: Path) -> None:
    where = f"file://{folder}/one.ckpt"
    s3dlio.save_checkpoint(
        where, {"w": jnp.ones((2, 3)), "b": jnp.ones(3), "step": 7, "c": jnp.ones(3), "d": jnp.ones(3)}
    )
    like = jax.eval_shape(
        lambda: {"w": jnp.ones((3, 3)), "b": jnp.ones(3, jnp.bfloat16), "step": 7, "more": jnp.ones(1)}
    )
    like |= {"c": wanted(jnp.ones(3), P("a"), 2), "d": jax.ShapeDtypeStruct((3,), np.float64)}
    text = refused(CheckpointError, "6 differences", lambda: s3dlio.load_checkpoint(where, into=like))
    for part in (
        "w: shape [3, 3], and [2, 3]", "b: dtype BF16, and 'F32'", "step: is an array here", "more: is not in",
        "c: the sharding does not fit", "d: JAX would make float32",
    ):  # fmt: skip
        assert part in text, text
    base = f"file://{folder}/c"
    save_sharded(base, {"c": jnp.ones(3)})
    refused(CheckpointError, "['c']: the sharding does not fit", lambda: load_sharded(base, {"c": like["c"]}))


def descriptions_of_what_is_one_array(folder: Path) -> None:
    where = f"file://{folder}/one.ckpt"
    tied = jnp.arange(8)
    s3dlio.save_checkpoint(where, {"a": tied, "b": tied})
    like = jax.ShapeDtypeStruct((8,), jnp.int32)
    found = s3dlio.load_checkpoint(where, into={"a": like, "b": jax.ShapeDtypeStruct((8,), jnp.int32)})
    assert found["a"] is found["b"]
    other = {"a": like, "b": wanted(tied, P("a"), 2)}
    refused(CheckpointError, "b: is one array with another", lambda: s3dlio.load_checkpoint(where, into=other))
    s3dlio.save_checkpoint(where, {"a": tied})
    refused(CheckpointError, "b: is not in", lambda: s3dlio.load_checkpoint(where, into={"a": like, "b": like}))


def descriptions_over_abstract_meshes(folder: Path) -> None:
    """What ``eval_shape`` says of arrays on a mesh with explicit axes names no devices but those of the mesh in use."""
    where, base = f"file://{folder}/one.ckpt", f"file://{folder}/c"
    explicit = jax.make_mesh((4,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])
    state = {"w": jax.device_put(numbers(8, 4), NamedSharding(explicit, P("a")))}
    s3dlio.save_checkpoint(where, state)
    save_sharded(base, state)
    like = jax.eval_shape(lambda tree: tree, state)
    for load in (lambda: s3dlio.load_checkpoint(where, into=like), lambda: load_sharded(base, like)):
        refused(CheckpointError, "jax.set_mesh", load)
        with jax.set_mesh(explicit):
            found = load()
        assert_same(state, found)
        assert found["w"].sharding.is_equivalent_to(state["w"].sharding, 2)


def sharded_keys(folder: Path) -> None:
    base = f"file://{folder}/c"
    state = {"keys": jax.random.split(jax.random.key(8), 4)}
    save_sharded(base, state)
    like = {"keys": jax.ShapeDtypeStruct((4,), state["keys"].dtype, sharding=NamedSharding(mesh(4), P("a")))}
    found = load_sharded(base, like)
    assert_same(state, found)
    assert len(found["keys"].devices()) == 4


def other_meshes(folder: Path) -> None:
    """8 -> 4x2 -> 1 -> 2x4, and each time the values and no byte too much."""
    w = numbers(4096, 512)
    base = f"file://{folder}/c"
    tree = {"w": on(w, P("a"), 8)}
    for spec, lengths in (
        (P("a", "b"), (4, 2)),
        (P(), (1,)),
        (P("b", "a"), (2, 4)),
        (P("a"), (8,)),
        (P(None, "a"), (8,)),
    ):
        save_sharded(base, tree)
        like = {"w": wanted(w, spec, *lengths)}
        tree = load_sharded(base, like)
        assert (np.asarray(tree["w"]) == w).all()
        assert tree["w"].sharding == like["w"].sharding


def bytes_read(folder: Path) -> list[int]:
    """By one process with all rows, with half of them, with an uneven part."""
    w = numbers(4096, 512)
    base = f"file://{folder}/c"
    save_sharded(base, {"w": on(w, P("a"), 8)})
    whole = counted(base, lambda: load_sharded(base, {"w": wanted(w, P("a"), 4)}))
    copies = counted(base, lambda: load_sharded(base, {"w": wanted(w, P(), 8)}))
    from s3dlio.checkpoint.places import base_of
    from s3dlio.jax.checkpoint import read_manifest
    from s3dlio.jax.checkpoint_reader import _Arrival

    saved = read_manifest(base_of(base)).arrays["['w']"]

    class Part:
        def addressable_devices_indices_map(self, shape: Any) -> Any:
            return {"one": (slice(100, 1700), slice(0, 512))}

    class Files:
        def require(self, pieces: Any) -> None:
            pass

    arrival: Any = _Arrival("w", saved, None)
    arrival._sharding = Part()
    arrival._devices = arrival._devices_of_boxes()
    arrival.prepare(Files())
    part = sum(block.stop - block.start for block in arrival.blocks)
    return [whole, copies, w.nbytes, part, 1600 * 512 * 4]


def misfits(folder: Path) -> None:
    base = f"file://{folder}/c"
    save_sharded(base, {"w": jnp.ones((2, 3)), "k": jax.random.key(1), "n": 1})
    like = {"w": jnp.ones((3, 3)), "k": jnp.ones(2), "n": jnp.ones(1), "more": 1}
    text = refused(CheckpointError, "4 differences", lambda: load_sharded(base, like))
    for part in ("['w']: shape [3, 3], and [2, 3]", "['k']: random keys", "['n']: is no array", "['more']: is not in"):
        assert part in text, text
    refused(CheckpointError, "['n']: is in the checkpoint only", lambda: load_sharded(base, {"w": jnp.ones((2, 3))}))
    refused(CheckpointError, "dtype bfloat16", lambda: load_sharded(base, {"w": jnp.ones((2, 3), jnp.bfloat16)}))
    found = load_sharded(base, {"w": jnp.zeros((2, 3))}, partial=True)
    assert found["w"].tolist() == [[1, 1, 1], [1, 1, 1]]
    place = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    assert load_sharded(base, {"w": place}, partial=True)["w"].devices() == {jax.devices()[3]}
    refused(NotFoundError, "no checkpoint", lambda: load_sharded(f"file://{folder}/none", {}))


def replaced(folder: Path) -> None:
    base = f"file://{folder}/c"
    for step in range(3):
        save_sharded(base, {"w": jnp.full(3, step)})
        assert load_sharded(base, {"w": jnp.zeros(3, jnp.int32)})["w"].tolist() == [step] * 3
    assert len(list(folder.rglob("*.*"))) == 2  # one file, one manifest
    refused(AlreadyExistsError, "overwrite", lambda: save_sharded(base, {"w": jnp.zeros(3)}, overwrite=False))
    assert len(list(folder.rglob("*.*"))) == 2
    real, writing._commit = writing._commit, unable
    try:
        refused(StoreError, "on purpose", lambda: save_sharded(base, {"w": jnp.full(3, 9)}))
    finally:
        writing._commit = real
    assert load_sharded(base, {"w": jnp.zeros(3, jnp.int32)})["w"].tolist() == [2] * 3


def unable(*_: Any, **__: Any) -> None:
    raise StoreError("on purpose")


def damage(folder: Path) -> None:
    base = f"file://{folder}/c"
    state = {"a": on(numbers(1024, 64), P("a"), 8), "b": jnp.ones(4)}
    save_sharded(base, state)
    (file,) = folder.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    text = refused(IntegrityError, "['a']", lambda: load_sharded(base, state))
    assert file.name in text
    load_sharded(base, {"b": state["b"]}, partial=True)
    file.write_bytes(content[:-5])
    refused(IncompleteCheckpointError, "it is cut", lambda: load_sharded(base, state))
    file.unlink()
    refused(IncompleteCheckpointError, file.name, lambda: load_sharded(base, state))
    manifest = folder / "c" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"float32", b"float64"))
    refused(IntegrityError, "manifest.json", lambda: load_sharded(base, state))


def lies(folder: Path) -> None:
    """Manifests that are summed rightly and claim what is not so."""
    from s3dlio.checkpoint.places import pack_summed

    base = f"file://{folder}/c"
    state = {"a": on(numbers(64, 64), P("a"), 8)}
    save_sharded(base, state)
    manifest = folder / "c" / "manifest.json"
    told = json.loads(manifest.read_bytes())

    def refuse(kind: type[Exception], **changes: Any) -> None:
        other = json.loads(json.dumps(told))
        del other["crc32c"]
        leaf = other["leaves"][0][1]
        for name, value in changes.items():
            (leaf if name in leaf else leaf["pieces"][0][1])[name] = value
        manifest.write_bytes(pack_summed(other))
        refused(kind, "", lambda: load_sharded(base))

    refuse(FormatError, file="../x")
    refuse(FormatError, dtype="object")
    refuse(FormatError, dtype="int8")
    refuse(FormatError, shape=[-1])
    refuse(FormatError, pieces=[[[60, 0], told["leaves"][0][1]["pieces"][0][1]]])
    refuse(FormatError, pieces=[[["x", 0], told["leaves"][0][1]["pieces"][0][1]]])
    refuse(IncompleteCheckpointError, pieces=told["leaves"][0][1]["pieces"][:7])
    refuse(IncompleteCheckpointError, at=1 << 40)
    refuse(IncompleteCheckpointError, shape=[1 << 40, 1 << 10])


def to_s3(folder: Path) -> None:
    state = train_state()
    save_sharded("s3://jax-ckpt/alone", state)
    assert_same(state, load_sharded("s3://jax-ckpt/alone", state))


ALONE: tuple[Scene, ...] = (
    one_file, one_file_of_others, one_file_refused, one_file_by_descriptions, descriptions_that_do_not_fit,
    descriptions_of_what_is_one_array, descriptions_over_abstract_meshes, sharded_keys, another_store_snapshot, a_state, other_meshes, bytes_read, misfits,
    replaced, damage, lies, to_s3,
)  # fmt: skip


# -- two processes with four devices each -----------------------------------------------------------------


def over_processes(folder: Path) -> list[int]:
    w = numbers(1024, 256)

    def made(sharding: Any) -> Any:
        return jax.make_array_from_callback(w.shape, sharding, lambda index: w[index])

    rows = NamedSharding(mesh(8), P("a"))
    both = NamedSharding(mesh(2, 4), P("b", "a"))
    found = []
    for base in (f"file://{folder}/c", "s3://jax-ckpt/together"):
        tree = {"w": made(rows), "both": made(both), "all": made(NamedSharding(mesh(8), P())), "step": 3}
        save_sharded(base, {**tree, "step": 2})
        save_sharded(base, tree)
        back = load_sharded(base, {**tree, "w": jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=both)})
        assert back["step"] == 3
        for name in ("w", "both", "all"):
            for shard in back[name].addressable_shards:
                assert (np.asarray(shard.data) == w[shard.index]).all()
        found.append(counted(base, lambda tree=tree, base=base: load_sharded(base, {"w": tree["w"]}, partial=True)))
    return found


def one_file_for_all(folder: Path) -> None:
    """Each process reads one file, and gives its own devices their part."""
    w, where = numbers(64, 8), f"file://{folder}/all.ckpt"
    if jax.process_index() == 0:
        s3dlio.save_checkpoint(where, {"w": w})
    multihost_utils.sync_global_devices("one file")
    sharding = NamedSharding(mesh(8), P("a"))
    found = s3dlio.load_checkpoint(where, into={"w": jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=sharding)})["w"]
    assert found.sharding == sharding
    for shard in found.addressable_shards:
        assert (np.asarray(shard.data) == w[shard.index]).all()


def one_cannot(folder: Path) -> str:
    """Process 1 cannot write: both are told, nobody waits for ever, and the checkpoint before stays."""
    base = f"file://{folder}/d"
    save_sharded(base, {"w": jnp.ones(3)})
    real = writing.write_pieces
    tree = {"w": jax.make_array_from_callback((8,), NamedSharding(mesh(8), P("a")), lambda i: np.ones(8, "f4")[i])}
    if jax.process_index() == 1:
        writing.write_pieces = unable
    try:
        save_sharded(base, tree)
    except (StoreError, IncompleteCheckpointError) as error:
        text = str(error)
    writing.write_pieces = real
    assert load_sharded(base, {"w": jnp.zeros(3)})["w"].tolist() == [1, 1, 1]
    return text


def not_together(folder: Path) -> None:
    """An array of all processes has no one file."""
    array = jax.make_array_from_callback((8,), NamedSharding(mesh(8), P("a")), lambda i: np.ones(8, "f4")[i])
    refused(OptionError, "save_sharded", lambda: s3dlio.save_checkpoint(f"file://{folder}/x", {"w": array}))


TOGETHER: tuple[Scene, ...] = (over_processes, one_file_for_all, one_cannot, not_together)


# -- running them -------------------------------------------------------------------------------------------


def play(scenes: tuple[Scene, ...], folder: str) -> None:
    """Play scenes, and print what each has found or how it has failed."""
    found: dict[str, Any] = {}
    for scene in scenes:
        place = Path(folder) / scene.__name__
        place.mkdir(exist_ok=True)
        try:
            found[scene.__name__] = ["ok", scene(place)]
        except BaseException:  # noqa: BLE001 - the report is all that the test sees
            found[scene.__name__] = ["failed", traceback.format_exc()]
    print(json.dumps(found))


def member(port: str, rank: str, folder: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    play(TOGETHER, folder)
    jax.distributed.shutdown()


@pytest.fixture(scope="module")
def cloud(rclone: S3Server) -> Iterator[None]:
    rclone.make_bucket("jax-ckpt")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in rclone.env.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def alone(cloud: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    code = "import sys, tests.test_jax_checkpoint as t; t.play(t.ALONE, sys.argv[1])"
    ((said, _),) = finish([start(code, 8, str(tmp_path_factory.mktemp("alone")))])
    return json.loads(said)


@pytest.fixture(scope="module")
def together(cloud: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    code = "import sys, tests.test_jax_checkpoint as t; t.member(*sys.argv[1:])"
    folder, port = str(tmp_path_factory.mktemp("together")), str(free_port())
    return [
        json.loads(said.splitlines()[-1])
        for said, _ in finish([start(code, 4, port, str(rank), folder) for rank in range(2)])
    ]


@pytest.mark.parametrize("scene", [scene.__name__ for scene in ALONE])
def test_eight_devices(alone: dict[str, list[Any]], scene: str) -> None:
    outcome, found = alone[scene]
    assert outcome == "ok", found


def test_only_what_devices_need_is_read(alone: dict[str, list[Any]]) -> None:
    whole, copies, needed, part, part_needed = alone["bytes_read"][1]
    assert whole == copies == needed
    assert part_needed <= part <= 1.05 * part_needed


@pytest.mark.parametrize("scene", [scene.__name__ for scene in TOGETHER])
def test_two_processes(together: list[dict[str, list[Any]]], scene: str) -> None:
    for report in together:
        outcome, found = report[scene]
        assert outcome == "ok", found


def test_each_process_reads_its_own_part(together: list[dict[str, list[Any]]]) -> None:
    for report in together:
        assert report["over_processes"][1] == [1024 * 256 * 4 // 2] * 2


def test_each_process_says_what_it_knows_of_a_failure(together: list[dict[str, list[Any]]]) -> None:
    first, second = (report["one_cannot"][1] for report in together)
    assert "process 1 has not written its part" in first
    assert "on purpose" in second
