"""Room card: memory: what a `BytesView` promises, and that no memory is used again while anybody can see it.

Knows NumPy, torch and the buffer protocol.  Must not know where bytes come from: that is `tests.contract`.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import io
import pickle
import struct
import subprocess
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import BytesView, OptionError, buffers, memory
from s3dlio.buffers import KIB, MIB, BufferPool, flat_bytes, view_of, writable_bytes
from tests.contract_base import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SPAM = b"spam and eggs"


@pytest.fixture(params=["lease", "wrapped"])
def view(request: pytest.FixtureRequest) -> BytesView:
    """A view as a read returns it, and one of somebody else's memory."""
    return _read(_SPAM) if request.param == "lease" else BytesView.from_bytes(_SPAM)


def _read(data: bytes, pool: BufferPool = buffers.POOL) -> BytesView:
    """Returns what a read of ``data`` returns."""
    lease = pool.take(len(data))
    lease[:] = np.frombuffer(data, np.uint8)
    return view_of(lease)


def _address(thing: Any) -> int:
    if isinstance(thing, torch.Tensor):
        return thing.data_ptr()
    return int(np.frombuffer(thing, np.uint8).__array_interface__["data"][0])


# -- bytes-like -----------------------------------------------------------------------------------------


def test_a_view_behaves_like_bytes(view: BytesView) -> None:
    assert (len(view), bool(view), view[0], view[-1], view[np.int64(2)]) == (13, True, 115, 115, 97)
    assert type(view[0]) is int
    assert list(view) == list(_SPAM)
    assert bytes(view) == view.to_bytes() == _SPAM
    assert view.decode() == "spam and eggs"
    assert view.hex() == _SPAM.hex()
    assert 115 in view
    assert b"and" in view
    assert b"ham" not in view
    assert repr(view) == str(view) == repr(_SPAM)
    assert b"".join([view, view]) == _SPAM * 2
    assert not _read(b"")


@pytest.mark.parametrize("index", [13, -14])
def test_an_index_behind_the_end_is_an_error(view: BytesView, index: int) -> None:
    with pytest.raises(IndexError):
        view[index]


@pytest.mark.parametrize("cut", [slice(2, 6), slice(None), slice(-3, None), slice(0, 0), slice(50, 60)])
def test_a_slice_is_a_view_of_the_same_memory(view: BytesView, cut: slice) -> None:
    part = view[cut]
    assert type(part) is BytesView
    assert part == _SPAM[cut]
    if len(part):
        assert _address(part) == _address(view) + cut.indices(13)[0]
    with pytest.raises(OptionError):
        part.memoryview(writable=True)


@pytest.mark.parametrize("step", [2, -1, -3])
def test_a_slice_may_have_steps(view: BytesView, step: int) -> None:
    part, expected = view[::step], _SPAM[::step]
    assert part == expected
    assert (bytes(part), part.decode(), part.hex(), hash(part)) == (
        expected,
        expected.decode(),
        expected.hex(),
        hash(expected),
    )
    assert pickle.loads(pickle.dumps(part)) == expected
    assert repr(part) == repr(expected)


def test_a_view_equals_what_has_the_same_bytes(view: BytesView) -> None:
    for same in (_SPAM, bytearray(_SPAM), memoryview(_SPAM), np.frombuffer(_SPAM, np.uint8), _read(_SPAM)):
        assert view == same
        assert same == view
        assert not view != same  # noqa: SIM202 - the operator is what is tested
    for other in (b"spam", b"", _SPAM[:-1] + b"!", "spam and eggs", None, 13):
        assert view != other
        assert not view == other  # noqa: SIM201 - as above
    assert hash(view) == hash(_SPAM)
    assert {view: 1}[_SPAM] == 1  # type: ignore[index]


def test_a_long_view_is_shown_short() -> None:
    shown = repr(_read(b"x" * MIB))
    assert len(shown) < 200
    assert f"{MIB} bytes" in shown
    assert repr(_read(b"y" * 100)) == repr(b"y" * 100)


def test_arithmetic_is_refused(view: BytesView) -> None:
    for calculate in (lambda: view + 1, lambda: 1 + view, lambda: view * 2.0, lambda: np.add(view, 1)):
        with pytest.raises(TypeError):
            calculate()


# -- without a copy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "share",
    [
        memoryview,
        np.asarray,
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: view.memoryview(),
        lambda view: torch.from_numpy(np.asarray(view.memoryview(writable=True))),
        lambda view: torch.frombuffer(view.memoryview(writable=True), dtype=torch.uint8),
        copy.copy,
    ],
    ids=["memoryview", "asarray", "frombuffer", "its own", "from_numpy", "torch.frombuffer", "copy"],
)
def test_its_memory_is_shared(share: Callable[[BytesView], Any]) -> None:
    view = _read(_SPAM)
    assert _address(share(view)) == _address(view)


def test_everything_that_takes_bytes_takes_a_view(view: BytesView, tmp_path: Any) -> None:
    assert hashlib.sha256(view).digest() == hashlib.sha256(_SPAM).digest()
    assert zlib.decompress(zlib.compress(view)) == _SPAM
    assert zlib.crc32(view) == zlib.crc32(_SPAM)
    assert struct.unpack_from("4s", view, 5) == (b"and ",)
    assert io.BytesIO(view).read() == _SPAM
    with open(tmp_path / "file", "wb") as file:
        assert file.write(view) == 13
    assert (tmp_path / "file").read_bytes() == _SPAM
    assert np.frombuffer(view[:12], "<u4").tolist() == np.frombuffer(_SPAM[:12], "<u4").tolist()
    s3dlio.put("memory://buffers/x", view)
    assert s3dlio.get("memory://buffers/x") == _SPAM


def test_a_view_can_be_written_only_when_asked_and_owned() -> None:
    view = _read(_SPAM)
    assert view.memoryview().readonly
    assert memoryview(view).readonly
    assert not np.asarray(view).flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(view)[0] = 1
    with pytest.raises((TypeError, ValueError)):
        view[0] = 1  # type: ignore[index]
    with view.memoryview(writable=True) as memory:
        memory[:4] = b"ham!"
    assert view == b"ham! and eggs"
    for other in (view[:], view[1:], copy.copy(view), BytesView.from_bytes(bytearray(_SPAM))):
        with pytest.raises(OptionError, match="copy it"):
            other.memoryview(writable=True)


def test_copies_are_apart(view: BytesView) -> None:
    for made in (copy.deepcopy(view), pickle.loads(pickle.dumps(view)), pickle.loads(pickle.dumps(view, 5))):
        assert type(made) is BytesView
        assert made == view
        assert _address(made) != _address(view)


# -- memory is used again, and never too early ---------------------------------------------------------------


def test_memory_let_go_is_used_again() -> None:
    pool = BufferPool()
    first = _address(pool.take(MIB))
    gc.collect()
    assert _address(pool.take(MIB)) == first
    assert _address(pool.take(2 * MIB)) != first


_KEEPERS: dict[str, Callable[[BytesView], Any]] = {
    "view": lambda view: view,
    "slice": lambda view: view[10:-10],
    "slice of slice": lambda view: view[5:][5:-10],
    "memoryview": lambda view: memoryview(view)[10:-10],
    "its memoryview": lambda view: view.memoryview(writable=True)[10:-10],
    "cast": lambda view: view.memoryview()[16:-16].cast("I"),
    "array": lambda view: np.asarray(view)[10:-10],
    "frombuffer": lambda view: np.frombuffer(view, np.float64)[2:-2],
    "tensor": lambda view: torch.frombuffer(view.memoryview(writable=True), dtype=torch.uint8)[10:-10],
    "reshaped": lambda view: np.asarray(view).reshape(8, -1)[2:-2],
    "memoryview of array": lambda view: memoryview(np.asarray(view)[10:-10]),
    "stream": lambda view: io.BytesIO(view).getbuffer(),
    "copy": copy.copy,
}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([*_KEEPERS, "drop"]), st.integers(0, 30)), max_size=60), st.data())
def test_memory_is_never_used_again_while_anything_can_see_it(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    pool = BufferPool(4 * MIB)
    alive: list[tuple[Any, int]] = []
    for number, (step, which) in enumerate(steps):
        if step == "drop":
            del alive[which : which + 3]
        else:
            size = data.draw(st.sampled_from([1024, 32 * KIB, 64 * KIB, 2 * MIB]))
            alive.append((_KEEPERS[step](_read(bytes([number]) * size, pool)), number))
        for kept, content in alive:
            assert set(_bytes(kept)[::97]) == {content}


def _bytes(thing: Any) -> bytes:
    return thing.numpy().tobytes() if isinstance(thing, torch.Tensor) else bytes(memoryview(thing).cast("B"))


def test_threads_never_get_the_same_memory() -> None:
    pool = BufferPool(8 * MIB)
    mixed: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            views = [_read(bytes([number]) * 40_000, pool) for _ in range(3)]
            mixed.extend(number for view in views if view[0] != number or view[-1] != number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert mixed == []


@pytest.mark.parametrize(
    "sizes", [[MIB] * 40, [40 * KIB] * 500, [5 * MIB] * 4, [(n % 7 + 1) * 300_000 for n in range(60)]]
)
def test_no_more_free_memory_is_kept_than_the_budget_says(sizes: list[int]) -> None:
    pool = BufferPool(8 * MIB)
    leases = [pool.take(size) for size in sizes]
    assert pool.free_bytes() <= 2 * MIB  # what is left of the last mapping
    leases.clear()
    assert 0 < pool.free_bytes() <= (8 * MIB if len(set(sizes)) == 1 else 16 * MIB)
    pool.clear()
    assert pool.free_bytes() == 0


def test_another_size_gets_its_share_of_the_budget() -> None:
    pool = BufferPool(8 * MIB)
    old = [pool.take(MIB) for _ in range(8)]
    old.clear()
    new = [pool.take(3 * MIB) for _ in range(2)]
    addresses = {_address(lease) for lease in new}
    new.clear()
    assert {_address(pool.take(3 * MIB))} < addresses


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(OptionError, match="budget_bytes"):
        BufferPool(-1)


@pytest.mark.parametrize("length", [0, 1, 4095, 32 * KIB - 1, 32 * KIB, 100_000, MIB, 2 * MIB + 1, 9 * MIB])
def test_a_lease_has_the_length_asked_for_and_little_more(length: int) -> None:
    lease = BufferPool().take(length)
    assert (lease.nbytes, lease.dtype, lease.flags.writeable) == (length, np.uint8, True)
    if length >= 32 * KIB:
        assert _address(lease) % 4096 == 0
        assert len(lease.block) <= max(1.25 * length, length + 4096)


def test_a_child_cannot_change_what_its_parent_sees() -> None:
    view = _read(b"p" * MIB)
    address = _address(view)

    def work() -> None:
        view.memoryview(writable=True)[:] = b"c" * MIB
        assert view == b"c" * MIB

    in_child(work)
    assert (_address(view), view) == (address, b"p" * MIB)


def test_a_read_takes_memory_for_the_object_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = memory._map_private
    monkeypatch.setattr(memory, "_map_private", lambda size: (taken.append(size), real(size))[1])
    buffers.POOL.clear()
    s3dlio.put("memory://buffers/large", bytes(20 * MIB))
    assert len(s3dlio.get("memory://buffers/large")) == 20 * MIB
    assert 20 * MIB <= sum(taken) <= 25 * MIB
    target = bytearray(20 * MIB)
    taken.clear()
    assert s3dlio.get_into("memory://buffers/large", target) == 20 * MIB
    assert taken == []


# -- other people's memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"12345678").cast("H"),
        np.frombuffer(b"12345678", np.float32).reshape(1, 2),
        np.frombuffer(b"12345678", [("a", "u1"), ("b", "<u2"), ("c", "u1")]),
        np.frombuffer(b"12345678", "datetime64[s]"),
        torch.frombuffer(bytearray(b"12345678"), dtype=torch.int16).numpy(),
    ],
    ids=["bytes", "bytearray", "memoryview", "2-d", "structured", "datetime", "tensor"],
)
def test_anything_contiguous_is_seen_as_flat_bytes(data: Any) -> None:
    flat = flat_bytes(data)
    assert (flat.format, flat.ndim, flat) == ("B", 1, b"12345678")
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    assert _address(flat) == array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("text", "bytes-like object, not str"),
        (12, "bytes-like object, not int"),
        (None, "bytes-like object, not NoneType"),
        (np.zeros((4, 4), np.uint8)[:, ::2], "not contiguous"),
        (np.zeros((4, 4), np.uint8).T[1:], "not contiguous|Fortran"),
        (np.asfortranarray(np.zeros((4, 4), np.uint8)), "Fortran"),
    ],
)
def test_what_is_not_is_refused_with_the_reason(data: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        flat_bytes(data)


def test_a_target_must_be_writable_and_near() -> None:
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    writable_bytes(tensor)[:] = b"\x80\x3f" * 4
    assert tensor.tolist() == [1.0] * 4
    assert writable_bytes(torch.zeros(0)).nbytes == 0
    for target, reason in (
        (b"frozen", "read-only"),
        (memoryview(b"frozen"), "read-only"),
        (torch.zeros(4, 4)[:, 1], "not contiguous"),
        (torch.zeros(4, device="meta"), "is on meta"),
    ):
        with pytest.raises(OptionError, match=reason):
            writable_bytes(target)


def test_a_target_keeps_its_tensor_alive() -> None:
    memory = writable_bytes(torch.zeros(1_000_000))
    gc.collect()
    others = [torch.ones(1_000_000) for _ in range(3)]
    assert not any(memory[::1000])
    assert len(others) == 3


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Leaves the common pool as empty as it was found, for the sake of the machine."""
    yield
    buffers.POOL.clear()
    if s3dlio.exists("memory://buffers"):
        s3dlio.delete("memory://buffers", recursive=True)


# -- large blocks beyond the budget ---------------------------------------------------------------------


def test_a_large_block_is_kept_as_long_as_nobody_needs_its_memory() -> None:
    pool = BufferPool(budget_bytes=MIB, lazy_bytes=64 * MIB)
    lease = pool.take(40 * MIB)
    address = lease.ctypes.data
    del lease
    assert pool.free_bytes() == 40 * MIB
    again = pool.take(40 * MIB)
    assert again.ctypes.data == address
    again[:] = 7  # the memory is there, whatever the system has taken of it
    assert int(again.sum()) == 7 * 40 * MIB


def test_no_more_than_was_allowed_is_kept() -> None:
    pool = BufferPool(budget_bytes=MIB, lazy_bytes=64 * MIB)
    leases = [pool.take(40 * MIB) for _ in range(3)]
    del leases
    assert pool.free_bytes() == 40 * MIB


def test_the_system_may_have_the_memory_back() -> None:
    """As the kernel counts it: the pages are marked as free to take."""
    pool = BufferPool(budget_bytes=MIB, lazy_bytes=64 * MIB)
    lease = pool.take(40 * MIB)
    lease[:] = 1
    before = _lazily_free()
    del lease
    assert _lazily_free() - before >= 32 * MIB


def _lazily_free() -> int:
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            (line,) = [line for line in file if line.startswith("LazyFree:")]
    except (OSError, ValueError):
        pytest.skip("the kernel does not tell")
    return int(line.split()[1]) * KIB


def test_few_bytes_need_no_numpy_and_many_bring_it() -> None:
    program = """
import sys
from s3dlio.memory import POOL
few = POOL.take_bytes(100)
few[:4] = b"spam"
assert "numpy" not in sys.modules and bytes(few[:4]) == b"spam" and len(few) == 100
many = POOL.take_bytes(100_000)
many[-1:] = b"x"
assert "numpy" in sys.modules and len(many) == 100_000 and not many.readonly
assert type(POOL.take(100)).__name__ == "Lease" and len(POOL.take_bytes(100)) == 100
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
