"""Room card: what goes past the page cache, does it, whatever the alignment of offsets, lengths and memory?

Knows O_DIRECT.  Must not repeat what `tests.contract` shows of every backend.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import s3dlio
from s3dlio import ObjectChangedError, ObjectStore, StoreError, StoreOptions
from s3dlio.cancel import CancellationToken
from s3dlio.stores import open_store, uncached
from s3dlio.stores.base import PutOptions, Version
from s3dlio.stores.upload import Part
from s3dlio.uri import parse
from tests.contract_base import blob
from tests.disks import real_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK = uncached.ALIGNMENT

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


# -- files that nobody reads soon ---------------------------------------------------------------------------------

_PART = 256 * _BLOCK


def _written(folder: Path, data: np.ndarray[Any, np.dtype[np.uint8]], cuts: list[int]) -> bytes:
    """Writes a file in parts, the last one first; each is cut once more, and comes in pieces. Returns what it holds."""
    where = parse(f"file://{folder}/x")
    upload = open_store(where).upload(where, PutOptions(bulk=True), CancellationToken())
    view, starts = memoryview(data), range(0, len(data), _PART)
    for number, start in reversed(list(enumerate(starts))):
        part = view[start : start + _PART]
        edges = [0, *(cut for cut in cuts if cut < len(part)), len(part)]
        pieces = tuple(part[low:high] for low, high in itertools.pairwise(edges))
        upload.send(Part(number, start, pieces, len(part), 0), CancellationToken())
    upload.complete(len(data), len(starts), CancellationToken())
    return (folder / "x").read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk whose file system takes O_DIRECT."""
    with real_disk(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("length", [1, _BLOCK, _PART, 2 * _PART, 2 * _PART + 1, 3 * _PART - 1])
@pytest.mark.parametrize(
    ("shift", "cuts"), [(0, []), (8, []), (512, [4095, 4097]), (1, [1, 70_000, 70_001]), (64, [_PART // 2])]
)
def test_a_file_that_nobody_reads_soon_goes_past_the_cache(
    disk: Path, opened: list[int], length: int, shift: int, cuts: list[int]
) -> None:
    data = _aligned(length, shift)
    data[:] = np.frombuffer(blob(length), np.uint8)
    assert _written(disk, data, cuts) == data.tobytes()
    written = [flag for flag in opened if flag & os.O_CREAT]
    assert len(written) == 1
    assert written[0] & os.O_DIRECT


@pytest.mark.parametrize("way", ["file", "shards"])
def test_large_checkpoints_go_past_the_cache_and_come_back(disk: Path, opened: list[int], way: str) -> None:
    data = {"w": np.arange(10_000_000, dtype=np.float32), "b": np.arange(77, dtype=np.int8)}
    if way == "file":
        s3dlio.save_checkpoint(f"file://{disk}/x", data)
        loaded = s3dlio.load_checkpoint(f"file://{disk}/x")
    else:
        store = s3dlio.CheckpointStore(f"file://{disk}/run")
        store.save(step=1, data=data)
        loaded = store.load(step=1)
    assert sum(1 for flag in opened if flag & os.O_CREAT and flag & os.O_DIRECT) == 1
    assert loaded.keys() == data.keys()
    for name, array in data.items():
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("mode", ["normal", "sequential", "random"])
def test_who_asks_for_the_page_cache_gets_it(disk: Path, opened: list[int], mode: str) -> None:
    where = parse(f"file://{disk}/x")
    upload = open_store(where, StoreOptions(page_cache_mode=mode)).upload(
        where, PutOptions(bulk=True), CancellationToken()
    )
    upload.abort()
    assert not any(flag & os.O_DIRECT for flag in opened)


@pytest.mark.parametrize("refuses", ["open", "open, and makes the file", "first block", "a block in the middle"])
def test_a_file_system_without_o_direct_is_written_through_the_cache(
    disk: Path, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_pwrite = os.open, os.pwrite
    calls = itertools.count()

    def refusing_open(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECT and refuses.startswith("open"):
            if refuses != "open":
                os.close(real_open(path, flags & ~os.O_DIRECT, *more, **named))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *more, **named)

    def refusing_pwrite(descriptor: int, data: memoryview, at: int) -> int:
        is_direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
        if is_direct and next(calls) >= {"first block": 0, "a block in the middle": 2}.get(refuses, 99):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_pwrite(descriptor, data, at)

    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr(os, "pwrite", refusing_pwrite)
    data = _aligned(3 * _PART + 77)
    data[:] = np.frombuffer(blob(len(data)), np.uint8)
    assert _written(disk, data, [5000]) == data.tobytes()
    assert os.listdir(disk) == ["x"]


def test_part_of_a_block_written_is_gone_on_from_through_the_cache(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    calls = itertools.count()

    def stingy(descriptor: int, data: memoryview, at: int) -> int:
        if next(calls) != 1:
            return real(descriptor, data, at)
        _through_cache(descriptor)
        return real(descriptor, data[:1000], at)

    monkeypatch.setattr(os, "pwrite", stingy)
    data = _aligned(2 * _PART, 1)
    data[:] = np.frombuffer(blob(len(data)), np.uint8)
    assert _written(disk, data, []) == data.tobytes()


def test_a_device_that_takes_any_memory_gets_the_callers(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _aligned(2 * _PART, 8)
    data[:] = np.frombuffer(blob(len(data)), np.uint8)
    begin = uncached.address_of(memoryview(data))
    inside: list[bool] = []
    real = os.pwrite

    def easy(descriptor: int, view: memoryview, at: int) -> int:
        inside.append(begin <= uncached.address_of(view) < begin + len(data))
        _through_cache(descriptor)
        return real(descriptor, view, at)

    monkeypatch.setattr(os, "pwrite", easy)
    assert _written(disk, data, []) == data.tobytes()
    assert inside == [True, True]


def test_a_disk_that_is_full_says_so_and_keeps_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: memoryview, _at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = {"w": np.ones(20_000_000, np.uint8)}
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="No space left on device"):
            s3dlio.save_checkpoint(f"file://{disk}/x", data)
    assert os.listdir(disk) == []


def _through_cache(descriptor: int) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
