"""Room card: what stands beside tensors in a checkpoint of torch: NumPy's arrays come back without trust, nothing runs.

The oracle is what was saved.  Pickles that lie are written here by hand.
"""

from __future__ import annotations

import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from s3dlio.errors import CheckpointError
from s3dlio.torch import S3StorageReader, S3StorageWriter
from s3dlio.torch.plain import unpickled
from tests.contract_checkpoints import same

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
_reconstruct, _scalar = np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_EMPTY = (np.ndarray, (0,), b"b")
_U1, _F8 = np.dtype("u1"), np.dtype("f8")


def pickled(value: Any) -> io.BytesIO:
    memory = io.BytesIO()
    torch.save(value, memory)
    memory.seek(0)
    return memory


VALUES: dict[str, Any] = {
    "scalar": np.float64(0.1), "bool": np.bool_(True), "complex": np.complex64(1 + 2j),
    "matrix": np.arange(6.0).reshape(2, 3), "turned": np.asfortranarray(np.arange(6).reshape(2, 3)), "text": np.array(["a", "bc"]),
    "empty": np.zeros((0, 3), np.float16), "0-d": np.array(5), "bytes": np.array([b"x"]), "long": np.longdouble(3),
    "dtype": np.dtype("<f4"), "generator": np.random.default_rng(3).bit_generator.state, "nothing": b"",
    "old generator": np.random.RandomState(3).get_state(), "range": range(9, 0, -2),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_arrays_and_scalars_of_numpy_come_back(value: Any) -> None:
    """Once they are pickled again, which is how the planner gets them."""
    found = torch.load(pickled(unpickled(pickled([value]))), weights_only=False)[0]
    assert same(found, value)
    assert type(found) is type(value)


def test_numbers_in_another_order_of_bytes_come_back_as_numpy_itself_returns_them() -> None:
    told = np.arange(3, dtype=">i4")
    assert same(unpickled(pickled(told)).view(np.ndarray), pickle.loads(pickle.dumps(told, 2)))


def test_learning_rates_and_generators_of_numpy_need_no_trust(tmp_path: Path) -> None:
    random = np.random.RandomState(3)
    state = {"lr": np.float64(0.1), "history": np.asfortranarray(np.ones((2, 3))), "random": random.get_state()}
    dcp.save(state, storage_writer=S3StorageWriter(tmp_path))
    target: dict[str, Any] = {"lr": 0.0, "history": None, "random": np.random.RandomState(1).get_state()}
    dcp.load(target, storage_reader=S3StorageReader(tmp_path))
    assert same(target, state)
    assert type(target["history"]) is np.ndarray
    assert target["history"].flags.f_contiguous
    other = np.random.RandomState(1)
    other.set_state(target["random"])
    assert other.randint(1 << 30) == random.randint(1 << 30)


OTHERS = {
    "objects": np.array([Path("x")]), "fields": np.zeros(2, [("a", "<i4")]), "void": np.zeros(2, "V3"),
    "masked": np.ma.masked_array([1]), "date": np.datetime64("2026"), "path": Path("x"),
}  # fmt: skip


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
def test_what_is_more_than_numbers_needs_trust(value: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be unpickled safely"):
        unpickled(pickled(value))


class Told:
    """Pickles as anything that a file may say."""

    def __init__(self, *reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


LIES: dict[str, tuple[Any, ...]] = {
    "memory for nothing": (np.ndarray, (1 << 40,)), "bytes for nothing": (bytes, (1 << 40,)),
    "objects": (np.dtype, ("O8", False, True)), "long text": (np.dtype, ("U99999999", False, True)),
    "more than there is": (_reconstruct, _EMPTY, (1, (1 << 40,), _U1, False, b"abc")),
    "overflow": (_reconstruct, _EMPTY, (1, (1 << 32, 1 << 32), _U1, False, b"")),
    "negative": (_reconstruct, _EMPTY, (1, (-1, -3), _U1, False, b"abc")),
    "list": (_reconstruct, _EMPTY, (1, (3,), _U1, False, [1, 2, 3])), "no dtype": (_reconstruct, _EMPTY, (1, (3,), "u1", False, b"abc")),
    "no state": (_reconstruct, _EMPTY, 7), "short scalar": (_scalar, (_F8, b"1234")), "two scalars": (_scalar, (_F8, b"1" * 16)),
    "scalar of text": (_scalar, ("f8", b"12345678")),
    "field far out": (np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": (_F8, 1 << 40)}, -1, -1, 0)),
    "many in one": (np.dtype, ("f8", False, True), (3, "<", (_F8, (1 << 40,)), None, None, -1, -1, 0)),
    "a program": (os.system, ("true",)),
}  # fmt: skip


@pytest.mark.parametrize("told", LIES.values(), ids=LIES)
def test_a_pickle_that_lies_is_an_error(told: tuple[Any, ...]) -> None:
    with pytest.raises(CheckpointError, match="cannot be unpickled safely"):
        unpickled(pickled(Told(*told)))


class Called:
    """Pickled as a call."""

    def __init__(self, what: Any, *args: Any) -> None:
        self.call = what, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_range_fills_no_memory_with_its_numbers(kind: Any) -> None:
    with pytest.raises(CheckpointError, match="not iterable"):
        unpickled(pickled(Called(kind, range(10**6))))


def test_what_the_user_has_named_safe_is_numpys_own() -> None:
    array = np.zeros(2, [("a", "<i4")])
    with torch.serialization.safe_globals(
        [_reconstruct, np.ndarray, np.dtype, type(array.dtype), type(array["a"].dtype)]
    ):
        found = unpickled(pickled(array))
    assert found["a"].tolist() == [0, 0]


def test_threads_that_load_at_once_leave_torchs_list_of_safe_classes_as_it_was() -> None:
    before = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: unpickled(pickled([np.float64(n), io.BytesIO(b"x")]))[0], range(200)))
    assert found == [float(n) for n in range(200)]
    assert set(torch.serialization.get_safe_globals()) == before
