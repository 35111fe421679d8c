"""Room card: what the system is told about reads of files, and what is left of them in the page cache.

Knows `posix_fadvise` and, of Linux, `mincore`.  Must not repeat what `tests.contract` shows of the bytes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import s3dlio
from s3dlio import ObjectStore, StoreOptions
from tests.disks import real_disk
from tests.reading import random_bytes

KIB = 1024
MIB = 1024 * KIB
CHUNK = 2 * MIB
Told = list[tuple[int, int, int]]

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="a system that takes no advice")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What the system is told: offset, length and advice, in order."""
    told: Told = []
    real = os.posix_fadvise

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        told.append((offset, length, advice))
        real(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return told


def store_for(mode: str) -> ObjectStore:
    return ObjectStore(StoreOptions(page_cache_mode=mode, chunk_size=CHUNK, min_split_size=CHUNK))


def make(folder: Path, size: int) -> tuple[str, bytes]:
    data = random_bytes(size)
    (folder / f"{size}.bin").write_bytes(data)
    return f"file://{folder}/{size}.bin", data


READS: dict[str, tuple[int, Callable[[ObjectStore, str], object], slice]] = {
    "small": (100_000, lambda store, uri: store.get(uri), slice(None)),
    "large": (3 * CHUNK + 7, lambda store, uri: store.get(uri), slice(None)),
    "small-range": (3 * CHUNK, lambda store, uri: store.get_range(uri, 5000, 100), slice(5000, 5100)),
    "large-range": (3 * CHUNK, lambda store, uri: store.get_range(uri, 5000, MIB), slice(5000, 5000 + MIB)),
    "end": (100_000, lambda store, uri: store.get_range(uri, 90_000), slice(90_000, None)),
    "empty": (0, lambda store, uri: store.get(uri), slice(None)),
}


@pytest.mark.parametrize(
    ("mode", "read", "expected"),
    [
        ("auto", "small", []),
        ("auto", "large", ["SEQUENTIAL"] * 3 + ["RANDOM"]),  # the last part is a small one
        ("auto", "small-range", ["RANDOM"]),
        ("auto", "large-range", ["SEQUENTIAL"]),
        ("auto", "end", ["RANDOM"]),
        ("auto", "empty", []),
        ("sequential", "small", ["SEQUENTIAL"]),
        ("sequential", "small-range", ["SEQUENTIAL"]),
        ("random", "small", ["RANDOM"]),
        ("random", "large", ["RANDOM"] * 4),
        ("normal", "large", []),
        ("normal", "small-range", []),
        ("dontneed", "small", ["DONTNEED"]),
        ("dontneed", "small-range", ["RANDOM", "DONTNEED"]),
        ("dontneed", "empty", []),
    ],
)
def test_the_system_is_told_what_comes(tmp_path: Path, told: Told, mode: str, read: str, expected: list[str]) -> None:
    size, verb, span = READS[read]
    uri, data = make(tmp_path, size)
    assert verb(store_for(mode), uri) == data[span]
    names = {getattr(os, f"POSIX_FADV_{name}"): name for name in ("SEQUENTIAL", "RANDOM", "DONTNEED")}
    assert sorted(names[advice] for _, _, advice in told) == sorted(expected)


def test_whole_pages_are_forgotten_after_they_were_read(tmp_path: Path, told: Told) -> None:
    uri, _ = make(tmp_path, 100 * KIB)
    store_for("dontneed").get_range(uri, 5000, 100)
    page = mmap.PAGESIZE
    first = 5000 // page * page
    assert told[-1] == (first, -(-5100 // page) * page - first, os.POSIX_FADV_DONTNEED)


def test_reads_past_the_page_cache_take_no_advice(told: Told, tmp_path: Path) -> None:
    with real_disk(tmp_path) as folder:
        uri, data = make(folder, 3 * CHUNK)
        for mode in ("sequential", "dontneed"):
            assert store_for(mode).get(uri.replace("file:", "direct:")) == data
    assert told == []


@pytest.mark.parametrize("mode", ["auto", "sequential", "dontneed"])
def test_a_system_without_advice_reads_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    uri, data = make(tmp_path, 3 * CHUNK)
    monkeypatch.delattr(os, "posix_fadvise")
    assert store_for(mode).get(uri) == data


def test_advice_that_a_file_system_refuses_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        refused.append(1)
        raise OSError(22, "Invalid argument")

    refused: list[int] = []
    uri, data = make(tmp_path, 3 * CHUNK)
    monkeypatch.setattr(os, "posix_fadvise", refuse)
    assert store_for("dontneed").get(uri) == data
    assert refused


def test_a_misspelt_mode_is_refused() -> None:
    with pytest.raises(s3dlio.OptionError, match=r"page_cache_mode must be one of auto, .*did you mean 'random'"):
        StoreOptions(page_cache_mode="randm")


# -- what is really there -----------------------------------------------------------------------------


def cached_pages(path: Path) -> int:
    """Returns how many pages of a file are in the page cache."""
    size = path.stat().st_size
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as region:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        memory = np.frombuffer(region, np.uint8)
        address = ctypes.c_void_p(memory.ctypes.data)
        failed = libc.mincore(address, ctypes.c_size_t(size), pages)
        del memory
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in pages)


@pytest.fixture
def disk_file(tmp_path: Path) -> Iterator[tuple[Path, bytes]]:
    """A file on a real disk, written out and not in the page cache."""
    if sys.platform != "linux":
        pytest.skip("mincore tells of one's own mappings only")
    with real_disk(tmp_path) as folder:
        uri, data = make(folder, 3 * CHUNK)
        path = Path(uri.removeprefix("file://"))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert cached_pages(path) == 0
        yield path, data


def test_what_is_not_needed_any_more_leaves_the_page_cache(disk_file: tuple[Path, bytes]) -> None:
    path, data = disk_file
    assert store_for("dontneed").get(f"file://{path}") == data
    assert store_for("dontneed").get_range(f"file://{path}", 5000, 100) == data[5000:5100]
    assert cached_pages(path) == 0
    assert store_for("normal").get(f"file://{path}") == data
    assert cached_pages(path) == len(data) // mmap.PAGESIZE


def test_a_random_read_brings_nothing_beside_itself(disk_file: tuple[Path, bytes]) -> None:
    path, data = disk_file
    assert store_for("auto").get_range(f"file://{path}", 0, 100) == data[:100]
    assert cached_pages(path) == 1
