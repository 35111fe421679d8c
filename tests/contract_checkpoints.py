"""Room card: what every backend promises about checkpoints; and when two values are the same.

Knows the public functions.  Must not know any backend.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import AlreadyExistsError, CheckpointError, CheckpointStore, CheckpointWriter, IncompleteCheckpointError
from s3dlio.errors import IntegrityError
from tests.contract_base import Backend

MIB = 1024**2


def same(one: Any, other: Any) -> bool:
    """Tells whether two values are the same: types, dtypes, shapes, order of keys, and bits."""
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and _facts(one) == _facts(other) and _bits(one) == _bits(other)
    if isinstance(one, (np.ndarray, np.generic)):
        return _same_arrays(one, other)
    if isinstance(one, Mapping):
        keys = list(zip(one, other, strict=False))
        matches = len(one) == len(other) and all(type(a) is type(b) and (a == b or a != a) for a, b in keys)  # noqa: PLR0124
        return matches and all(same(one[a], other[b]) for a, b in keys)
    if isinstance(one, (list, tuple)):
        fields = getattr(one, "_fields", None) == getattr(other, "_fields", None)
        alike = isinstance(other, (list if isinstance(one, list) else tuple)) and fields
        return alike and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (float, complex)):
        return type(one) is type(other) and repr(one) == repr(other)
    return type(one) is type(other) and one == other


def _facts(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _same_arrays(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.char in "gG":  # of the bytes of these numbers some mean nothing
        return bool(np.array_equal(one, other, equal_nan=True))
    return bool(np.asarray(one).tobytes() == np.asarray(other).tobytes())


def state(seed: int = 0) -> dict[str, Any]:
    """Returns what a small run would save: 18 MB, so that it is sent in two parts."""
    random = np.random.default_rng(seed)
    model = {"w": torch.from_numpy(random.random((1500, 1500))), "b": torch.arange(3, dtype=torch.bfloat16)}
    small = {str(n): random.random(n) for n in range(40)}
    return {"epoch": seed, "model": model, "small": small, "history": [(1, 2.5), None, "x", b"\0"], "n": np.int32(7)}


class Checkpoints(Backend):
    """Checkpoints of one and of many ranks."""

    def test_a_checkpoint_is_what_was_saved(self, root: str) -> None:
        value = state()
        told = s3dlio.save_checkpoint(f"{root}ckpt", value)
        assert told["uri"] == f"{root}ckpt"
        assert told["size"] == s3dlio.stat(f"{root}ckpt")["size"]
        assert same(s3dlio.load_checkpoint(f"{root}ckpt"), value)
        assert s3dlio.list(root) == [f"{root}ckpt"]
        s3dlio.save_checkpoint(f"{root}ckpt", state(1), compress=True)
        assert same(s3dlio.load_checkpoint(f"{root}ckpt"), state(1))

    def test_a_checkpoint_loads_into_what_exists(self, root: str) -> None:
        s3dlio.save_checkpoint(f"{root}ckpt", state())
        target = state(1)
        loaded = s3dlio.load_checkpoint(f"{root}ckpt", into=target)
        assert loaded["model"]["w"] is target["model"]["w"]
        assert same(target["model"], state()["model"])
        assert same(s3dlio.load_checkpoint(f"{root}ckpt", keys="model.b"), {"model": {"b": state()["model"]["b"]}})

    def test_a_checkpoint_may_not_replace_another(self, root: str) -> None:
        s3dlio.save_checkpoint(f"{root}ckpt", {"first": 1})
        if not self.refuses_overwrite:
            s3dlio.save_checkpoint(f"{root}ckpt", {"second": 2}, overwrite=False)
            assert s3dlio.load_checkpoint(f"{root}ckpt") == {"second": 2}
            return
        for value in ({"second": 2}, state()):
            for compress in (False, True):
                with pytest.raises(AlreadyExistsError):
                    s3dlio.save_checkpoint(f"{root}ckpt", value, compress, overwrite=False)
        assert s3dlio.load_checkpoint(f"{root}ckpt") == {"first": 1}

    def test_steps_are_found_again_and_removed(self, root: str) -> None:
        store = CheckpointStore(f"{root}run", keep_last=3)
        assert (store.load_latest(), store.list(), store.names()) == (None, [], [])
        for step in range(1, 6):
            store.save(step=step, data={"step": step, "w": np.arange(step)}, epoch=step // 2, user_meta={"loss": 0.5})
        assert [(info.step, info.epoch, info.user_meta) for info in store.list()] == [
            (step, step // 2, {"loss": 0.5}) for step in (3, 4, 5)
        ]
        assert store.load()["step"] == 5
        target = {"step": 0, "w": np.zeros(3, int)}
        assert store.load(step=3, into=target)["w"] is target["w"]
        assert (store.load(step=3, keys="step"), target["w"].tolist()) == ({"step": 3}, [0, 1, 2])
        with pytest.raises(CheckpointError, match="saved before"):
            store.save(step=5, data=1)
        store.save("best", {"x": 1})
        assert (store.names(), store.load("best")) == (["best"], {"x": 1})
        store.delete(step=5)
        store.delete("best")
        assert store.load()["step"] == 4
        assert store.gc(0) == []
        for step in (3, 4):
            store.delete(step=step)
        assert s3dlio.list(f"{root}run/") == [f"{root}run/latest.json"]

    @pytest.mark.parametrize("strategy", ["flat", "round_robin", "binary"])
    def test_ranks_make_one_checkpoint(self, root: str, strategy: str) -> None:
        writers = [CheckpointWriter(f"{root}run", rank, 3, strategy=strategy) for rank in range(3)]
        when = CheckpointWriter.new_timestamp()
        for rank in (0, 2):
            writers[rank].save_shard(7, {"rank": rank, "w": torch.ones(rank + 1)}, timestamp=when)
        with pytest.raises(IncompleteCheckpointError, match="rank 1: not saved"):
            writers[0].finalize(7, timestamp=when)
        assert CheckpointStore(f"{root}run").load_latest() is None
        writers[1].save_shard(7, b"raw", timestamp=when)
        writers[0].finalize(7, timestamp=when)
        reader = s3dlio.CheckpointReader(f"{root}run")
        manifest = reader.load_latest_manifest()
        assert manifest is not None
        assert reader.load(manifest, 1) == b"raw"
        assert same(reader.load(manifest, 2), {"rank": 2, "w": torch.ones(3)})
        assert len(s3dlio.list(f"{root}run/shards/")) == 3

    def test_one_of_two_saves_a_step(self, root: str) -> None:
        """Also where the server always replaces, if they do not write at the very same moment."""
        when = [f"20260101T00000000000{n}Z" for n in range(4)]
        writer = CheckpointWriter(f"{root}run")
        for time in when:
            writer.save_shard(1, {"time": time}, timestamp=time)
        outcomes: list[object] = []

        def finish(time: str) -> None:
            try:
                outcomes.append(CheckpointWriter(f"{root}run").finalize(1, timestamp=time).timestamp)
            except CheckpointError:
                outcomes.append(None)

        if self.refuses_overwrite:
            threads = [threading.Thread(target=finish, args=(time,)) for time in when]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(200)
        else:
            for time in when:
                finish(time)
        (winner,) = [outcome for outcome in outcomes if outcome is not None]
        assert len(outcomes) == 4
        assert CheckpointStore(f"{root}run").load() == {"time": winner}

    def test_damage_names_the_shard(self, root: str) -> None:
        store = CheckpointStore(f"{root}run")
        store.save(step=1, data={"w": np.arange(1000)})
        (shard,) = [uri for uri in s3dlio.list(f"{root}run/shards/") if "rank-0" in uri]
        whole = bytes(s3dlio.get(shard))
        s3dlio.put(shard, whole[:-1] + bytes([whole[-1] ^ 1]))
        for read in (store.load, store.load_latest):
            with pytest.raises(IntegrityError, match="rank 0") as caught:
                read()
            assert caught.value.uri == shard
        s3dlio.put(shard, whole[:-1])
        assert store.load_latest() is None
        with pytest.raises(IncompleteCheckpointError, match=r"rank 0 has .* bytes, not"):
            store.load(step=1)
        s3dlio.delete(shard)
        with pytest.raises(IncompleteCheckpointError, match="rank 0 is missing"):
            store.load(step=1)
