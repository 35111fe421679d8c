"""Room card: HDF5 files are read in place: the right numbers, and few bytes.

Knows h5py, which writes the files.  Must not test files open for reading as such.
"""

from __future__ import annotations

import gc
import io
import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import s3dlio
from s3dlio.range_file import RangeFile

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.faults import FaultOrigin

_URI = "s3://bucket/x.h5"
_ROWS = np.arange(4_000_000, dtype=np.int64).reshape(4000, 1000)  # 32 MB
_MIB = 1 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    """A file with a contiguous, a chunked and a compressed dataset, groups and attributes."""
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file["plain"] = _ROWS
        file.create_dataset("chunked", data=_ROWS[:1000], chunks=(100, 100))
        file.create_dataset("deep/er/packed", data=_ROWS[:500], chunks=(50, 1000), compression="gzip")
        file["deep"].attrs["kind"] = "train"
        file.create_dataset("names", data=["spam", "eggs"])
    return sink.getvalue()


@pytest.fixture
def served(origin: FaultOrigin, content: bytes, monkeypatch: pytest.MonkeyPatch) -> FaultOrigin:
    origin.objects["/bucket/x.h5"] = content
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    return origin


def _fetched(origin: FaultOrigin) -> int:
    """Returns how many bytes were asked for since the last time."""
    spans = [request.headers["range"].removeprefix("bytes=").split("-") for request in origin.requests]
    origin.requests.clear()
    return sum(int(stop) - int(start) + 1 for start, stop in spans)


def test_everything_in_a_file_is_read_as_h5py_reads_it(served: FaultOrigin) -> None:
    with s3dlio.open_hdf5(_URI) as file:
        assert sorted(file) == ["chunked", "deep", "names", "plain"]
        assert file["deep"].attrs["kind"] == "train"
        assert [name.decode() for name in file["names"]] == ["spam", "eggs"]
        assert np.array_equal(file["plain"][:], _ROWS)
        assert np.array_equal(file["chunked"][250:750, 33:250], _ROWS[250:750, 33:250])
        assert np.array_equal(file["deep/er/packed"][:], _ROWS[:500])
        assert np.array_equal(file["plain"][::1000, 7], _ROWS[::1000, 7])
        target = np.empty((10, 1000), np.int64)
        file["plain"].read_direct(target, np.s_[70:80])
        assert np.array_equal(target, _ROWS[70:80])


def test_a_slice_fetches_what_it_needs_and_little_more(served: FaultOrigin) -> None:
    with s3dlio.open_hdf5(_URI) as file:
        assert file["plain"].shape == (4000, 1000)
        assert _fetched(served) < _MIB
        rows = file["plain"][2000:2500]  # 4 MB in one piece
        assert np.array_equal(rows, _ROWS[2000:2500])
        assert rows.nbytes <= _fetched(served) < rows.nbytes + 200_000
        assert np.array_equal(file["plain"][3000, :3], _ROWS[3000, :3])
        assert _fetched(served) == 65536
        chunk = file["chunked"][500:600, 300:400]  # one chunk of 80 KB, and the tree that leads to it
        assert np.array_equal(chunk, _ROWS[500:600, 300:400])
        assert _fetched(served) < 600_000


def test_what_was_looked_at_lately_is_not_fetched_again(served: FaultOrigin) -> None:
    with s3dlio.open_hdf5(_URI) as file:
        for _ in range(3):
            assert file["deep"].attrs["kind"] == "train"
            assert file["plain"][3000, 0] == _ROWS[3000, 0]
            assert len(list(file["deep/er"])) == 1
        before = len(served.requests)
        assert file["plain"][3000, 1] == _ROWS[3000, 1]
        assert len(served.requests) == before


def test_a_closed_file_holds_nothing(served: FaultOrigin) -> None:
    with s3dlio.open_hdf5(_URI) as file:
        assert file["plain"][0, 1] == 1
    assert not file
    del file
    gc.collect()
    assert [one for one in gc.get_objects() if type(one) is RangeFile] == []


def test_local_files_and_memory_work_the_same(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    s3dlio.put("memory://hdf5/x.h5", content)
    for place in (f"{tmp_path}/x.h5", f"file://{tmp_path}/x.h5", f"direct://{tmp_path}/x.h5", "memory://hdf5/x.h5"):
        with s3dlio.open_hdf5(place, rdcc_nbytes=_MIB) as file:
            assert np.array_equal(file["plain"][17:19], _ROWS[17:19])


def test_what_cannot_be_opened_says_why(served: FaultOrigin) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        s3dlio.open_hdf5("s3://bucket/none")
    s3dlio.put("memory://hdf5/bad.h5", b"spam" * 1000)
    with pytest.raises(s3dlio.FormatError, match="not an HDF5 file"):
        s3dlio.open_hdf5("memory://hdf5/bad.h5")
    with pytest.raises(s3dlio.OptionError, match="for reading here, not mode='a'"):
        s3dlio.open_hdf5(_URI, mode="a")
    with pytest.raises(s3dlio.OptionError, match="readahead_bytes"):
        s3dlio.open_hdf5(_URI, readahead_bytes=100)


def test_without_h5py_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: Any = sys.modules
    monkeypatch.setitem(modules, "h5py", None)
    with pytest.raises(s3dlio.OptionError, match=r"pip install 's3dlio\[hdf5\]'"):
        s3dlio.open_hdf5("memory://hdf5/x.h5")


def test_a_file_that_is_replaced_meanwhile_is_an_error_not_a_mixture(served: FaultOrigin, content: bytes) -> None:
    with s3dlio.open_hdf5(_URI) as file:
        plain = file["plain"]
        assert plain[0, 1] == 1
        served.objects["/bucket/x.h5"] = content[:-1] + b"!"
        with pytest.raises(s3dlio.ObjectChangedError):
            plain[3000]
