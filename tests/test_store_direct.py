"""Room card: does `direct://` go past the page cache, whatever the alignment of offsets, lengths and memory?

Knows O_DIRECT.  Must not repeat what `tests.contract` shows of every backend.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio import ObjectChangedError, ObjectStore, StoreError, StoreOptions
from s3dlio.cancel import CancellationToken
from s3dlio.stores import direct, open_store
from s3dlio.stores.base import Version
from s3dlio.uri import parse
from tests.contract_base import blob
from tests.disks import real_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK = direct.ALIGNMENT

pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no O_DIRECT; see F_NOCACHE")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[str]:
    """A directory on a disk whose file system takes O_DIRECT."""
    with real_disk(tmp_path) as folder:
        yield f"direct://{folder}/"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The flags of all files opened, except directories."""
    flags: list[int] = []
    real = os.open

    def noted(path: Any, flag: int, *more: Any, **named: Any) -> int:
        if not os.path.isdir(path):
            flags.append(flag)
        return real(path, flag, *more, **named)

    monkeypatch.setattr(os, "open", noted)
    return flags


def _aligned(length: int, offset: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns memory that begins ``offset`` bytes behind a block's beginning."""
    memory = np.zeros(length + 2 * _BLOCK, np.uint8)
    begin = -memory.__array_interface__["data"][0] % _BLOCK + offset
    return memory[begin : begin + length]


def test_every_read_and_write_is_direct(root: str, opened: list[int]) -> None:
    s3dlio.put(f"{root}x", blob(10_000))
    assert s3dlio.get(f"{root}x") == blob(10_000)
    assert s3dlio.get_range(f"{root}x", 100, 50) == blob(10_000)[100:150]
    assert len(opened) == 3
    assert all(flag & os.O_DIRECT for flag in opened)


def test_the_kernel_writes_into_the_callers_memory_where_it_can(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put(f"{root}x", blob(3 * _BLOCK + 5))
    lengths: list[tuple[int, bool]] = []
    target = _aligned(3 * _BLOCK + 5)
    begin = target.__array_interface__["data"][0]
    real = os.preadv

    def noted(descriptor: int, views: list[memoryview], at: int) -> int:
        address = np.frombuffer(views[0], np.uint8).__array_interface__["data"][0]
        lengths.append((len(views[0]), begin <= address < begin + len(target)))
        return real(descriptor, views, at)

    monkeypatch.setattr(os, "preadv", noted)
    assert s3dlio.get_into(f"{root}x", target) == 3 * _BLOCK + 5
    assert target.tobytes() == blob(3 * _BLOCK + 5)
    assert lengths == [(3 * _BLOCK, True), (_BLOCK, False)]


@pytest.mark.parametrize("shift", [0, 1, 512, 4095])
@pytest.mark.parametrize("start", [0, 1, 511, 4095, 4096, 4097, 1_048_575])
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 70_000, 1_100_000])
def test_any_alignment_reads_the_right_bytes(root: str, shift: int, start: int, length: int) -> None:
    data = blob(2_200_001)
    path = root.removeprefix("direct://") + "x"
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(data)
    target = _aligned(length, shift)
    open_store(root).read_into(parse(f"{root}x"), start, memoryview(target), Version(-1, ""), CancellationToken())
    assert target.tobytes() == data[start : start + length]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4095, 4096, 4097, 1_048_576, 1_048_577, 2_100_000])
@pytest.mark.parametrize("shift", [0, 1])
def test_any_length_is_written_exactly(root: str, size: int, shift: int) -> None:
    data = _aligned(size, shift)
    data[:] = np.frombuffer(blob(size), np.uint8)
    s3dlio.put(f"{root}x", data)
    with open(root.removeprefix("direct://") + "x", "rb") as file:
        assert file.read() == blob(size)


def test_odd_parts_of_a_split_read_fit_together(root: str) -> None:
    data = blob(1_000_001)
    s3dlio.put(f"{root}x", data)
    odd = ObjectStore(StoreOptions(chunk_size=65_537, min_split_size=0, max_concurrent_ranges=4))
    assert odd.get(f"{root}x") == data
    assert odd.get_range(f"{root}x", 7, 900_000) == data[7:900_007]


@pytest.mark.parametrize("call", ["open", "preadv"])
def test_a_file_system_that_refuses_is_named_with_the_way_out(
    root: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.put(f"{root}x", b"x")
    monkeypatch.setattr(os, call, _refuse(getattr(os, call)))
    with pytest.raises(StoreError, match="refuses O_DIRECT; use file://") as caught:
        s3dlio.get(f"{root}x")
    assert (caught.value.uri, caught.value.operation) == (f"{root}x", "get")


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_refused_write_leaves_nothing_behind(root: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, call, _refuse(getattr(os, call)))
        with pytest.raises(StoreError, match="refuses O_DIRECT; use file://") as caught:
            s3dlio.put(f"{root}x", b"x")
    assert (caught.value.uri, caught.value.operation) == (f"{root}x", "put")
    assert os.listdir(root.removeprefix("direct://")) == []


def test_a_file_that_got_shorter_is_an_error(root: str) -> None:
    s3dlio.put(f"{root}x", blob(10_000))
    for length in (10_001, 20_000):
        with pytest.raises(ObjectChangedError, match="shorter"):
            open_store(root).read_into(
                parse(f"{root}x"), 0, memoryview(bytearray(length)), Version(-1, ""), CancellationToken()
            )


def _refuse(real: Any) -> Any:
    """What a file system without O_DIRECT says, to files (directories are opened without)."""

    def refuse(*args: Any, **named: Any) -> Any:
        if real is os.open and os.path.isdir(args[0]):
            return real(*args, **named)
        raise OSError(errno.EINVAL, "Invalid argument")

    return refuse
