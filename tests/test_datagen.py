"""Room card: made-up data: as repetitive and as compressible as asked for, the same under a seed, in files that their
own libraries read, and written while they are made.

Judges: hashes of blocks, zstd, `numpy.load`, TensorFlow's frame as `test_tfrecord` knows it, h5py.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.errors import OptionError
from s3dlio.generation import names
from s3dlio.synthetic import Pattern, Recipe
from s3dlio.synthetic_files import file_of
from tests.contract_base import unique

if TYPE_CHECKING:
    from pathlib import Path

    from s3dlio.testing import S3Server
    from tests.servers.moto import MotoServer

KIB, MIB = 1024, 1024**2


def _duplicates(data: bytes, block: int) -> float:
    """Returns how often each block of a size comes, on the average."""
    sums = [hashlib.blake2b(data[at : at + block], digest_size=16).digest() for at in range(0, len(data), block)]
    return len(sums) / len(set(sums))


def _compression(data: bytes) -> float:
    return len(data) / len(zstandard.ZstdCompressor(1).compress(data))


# -- bytes --------------------------------------------------------------------------------------------


def test_bytes_without_factors_are_all_different_and_do_not_compress() -> None:
    data = bytes(s3dlio.generate_data(8 * MIB))
    assert len(data) == 8 * MIB
    assert _duplicates(data, 4 * KIB) == 1
    assert _compression(data) < 1.001
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    assert counts.min() > 0.9 * len(data) / 256


@pytest.mark.parametrize("block", [4 * KIB, 64 * KIB, MIB])
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_the_dedup_factor_holds_for_blocks_of_any_size(factor: int, block: int) -> None:
    data = bytes(s3dlio.generate_data(48 * MIB, dedup_factor=factor, compress_factor=2, seed=3))
    assert _duplicates(data, block) == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize(("size", "factor"), [(64 * KIB, 4), (100_000, 2), (MIB, 3), (5 * MIB, 2.5)])
def test_the_dedup_factor_holds_in_small_objects(size: int, factor: float) -> None:
    data = bytes(s3dlio.generate_data(size, dedup_factor=factor, seed=3))
    assert _duplicates(data, 4 * KIB) == pytest.approx(factor, rel=0.07)


@pytest.mark.parametrize("factor", [1.5, 2, 4, 10, 50])
@pytest.mark.parametrize("size", [128 * KIB, 16 * MIB])
def test_the_compress_factor_holds_and_makes_no_duplicates(size: int, factor: float) -> None:
    data = bytes(s3dlio.generate_data(size, compress_factor=factor))
    assert _compression(data) == pytest.approx(factor, rel=0.12)
    assert _duplicates(data, 4 * KIB) == 1


def test_both_factors_hold_together() -> None:
    data = bytes(s3dlio.generate_data(64 * MIB, dedup_factor=4, compress_factor=4))
    assert _duplicates(data, MIB) == pytest.approx(4, rel=0.05)
    assert _compression(data) == pytest.approx(4, rel=0.03)  # equal blocks are too far apart for zstd


def test_a_seed_makes_the_same_bytes_and_none_makes_others() -> None:
    assert s3dlio.generate_data(3 * MIB, seed=5) == s3dlio.generate_data(3 * MIB, seed=5)
    assert s3dlio.generate_data(3 * MIB, seed=5) != s3dlio.generate_data(3 * MIB, seed=6)
    assert s3dlio.generate_data(3 * MIB) != s3dlio.generate_data(3 * MIB)


def test_the_bytes_of_a_seed_are_these_for_ever() -> None:
    data = bytes(s3dlio.generate_data(3 * MIB + 5, dedup_factor=2, compress_factor=2, seed=7))
    assert hashlib.sha256(data).hexdigest() == "f820fcc550cacfbc784482eaf9b584c7e5ce64cdcc732d1d1fa889930601f087"


@given(
    size=st.integers(0, 5 * MIB),
    dedup=st.sampled_from([1, 1.3, 2, 7]),
    compress=st.sampled_from([1, 1.7, 3]),
    block=st.integers(1000, 3 * MIB),
    threads=st.integers(1, 5),
)
@settings(max_examples=25)
def test_all_ways_make_the_same_bytes(size: int, dedup: float, compress: float, block: int, threads: int) -> None:
    data = s3dlio.generate_data(size, dedup, compress, seed=1)
    assert len(data) == size
    assert s3dlio.generate_data_with_threads(size, dedup, compress, threads=threads, seed=1) == data
    blocks = list(s3dlio.generate_blocks(size, dedup, compress, seed=1, block_size=block))
    assert [len(view) for view in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert b"".join(bytes(view) for view in blocks) == data
    pattern = Pattern(Recipe(size=size, dedup_factor=dedup, compress_factor=compress, seed=1))
    assert pattern.read(size // 3, size) == data.memoryview()[size // 3 :]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": -1}, {"size": 1, "dedup_factor": 0.5}, {"size": 1, "compress_factor": 0},
        {"size": 1, "compress_factor": 257}, {"size": 1, "seed": -1}, {"size": 1, "dedup_factor": float("nan")},
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=str(list(wrong)[-1])):
        s3dlio.generate_data(**wrong)


def _peak_bytes(code: str) -> int:
    """Returns the most memory that a process had in use. (What getrusage tells includes this process's.)"""
    if not sys.platform.startswith("linux"):
        pytest.skip("/proc tells it")
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout) * KIB


def test_blocks_come_in_constant_memory() -> None:
    code = """
import s3dlio
total = sum(len(block) for block in s3dlio.generate_blocks(3 << 30, block_size=4 << 20))
assert total == 3 << 30
"""
    assert _peak_bytes(code) < 512 * MIB


# -- files --------------------------------------------------------------------------------------------


def _file(kind: str, size: int, **more: Any) -> bytes:
    return b"".join(bytes(piece) for piece in file_of(kind, Recipe(size=size, seed=2, **more)))


@pytest.mark.parametrize("kind", ["raw", "zeros", "npz", "tfrecord", "hdf5"])
@pytest.mark.parametrize("size", [5000, 65_536, 65_700, 131_072, MIB, 3 * MIB + 777])
def test_a_file_has_exactly_the_size_asked_for_and_is_the_same_under_a_seed(kind: str, size: int) -> None:
    data = _file(kind, size)
    assert len(data) == size
    assert _file(kind, size) == data


def test_numpy_reads_npz() -> None:
    with np.load(io.BytesIO(_file("npz", 3 * MIB))) as archive:
        array = archive["x"]
    assert bytes(array) == s3dlio.generate_data(len(array), seed=2)
    uri = f"memory://{unique('gen')}/a.npz"
    s3dlio.put(uri, _file("npz", 3 * MIB))
    assert np.array_equal(s3dlio.read_npz(uri)["x"], array)


def test_h5py_reads_hdf5() -> None:
    with h5py.File(io.BytesIO(_file("hdf5", 3 * MIB))) as file:
        array = file["x"][:]
    assert bytes(array) == s3dlio.generate_data(len(array), seed=2)


@given(size=st.integers(100, 300_000))
@settings(max_examples=60)
def test_tfrecord_files_of_any_size_hold_examples(size: int) -> None:
    uri = "memory://gen-tfrecord/a.tfrecord"
    data = _file("tfrecord", size)
    assert len(data) == size
    s3dlio.put(uri, data)
    payload = b"".join(s3dlio.decode_example(record)["x"][0] for record in s3dlio.iter_tfrecords(uri))
    assert payload == bytes(s3dlio.generate_data(size, seed=2))[: len(payload)] or size < 4096
    assert len(payload) > size - 100 - size // 500


def test_tensorflow_reads_what_is_added_to_fill_an_example(tmp_path: Path) -> None:
    for size in range(120, 420, 3):  # over the border where a length takes a second byte, several times
        (tmp_path / f"{size}.tfrecord").write_bytes(_file("tfrecord", size))
    (tmp_path / "300000.tfrecord").write_bytes(_file("tfrecord", 300_000))
    code = f"""
import glob, os, tensorflow as tf
for path in glob.glob("{tmp_path}/*.tfrecord"):
    records = [record.numpy() for record in tf.data.TFRecordDataset(path)]
    found = [tf.train.Example.FromString(record).features.feature["x"].bytes_list.value[0] for record in records]
    assert sum(map(len, found)) > os.path.getsize(path) - 60 * len(found), path
    assert len(found) == (4 if "300000" in path else 1)
"""
    # In a process of its own: TensorFlow changes the one it is imported into.
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


def test_npz_files_beyond_two_gib_are_of_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50_000)  # as if two GiB were fifty thousand bytes
    for size in (40_000, 49_700, 50_010, 50_280, 50_300, 90_000):
        data = _file("npz", size)
        assert len(data) == size
        with np.load(io.BytesIO(data)) as archive:
            assert len(archive["x"]) > size - 500


@pytest.mark.parametrize("kind", ["npz", "tfrecord", "hdf5"])
def test_a_file_too_short_for_its_type_is_refused(kind: str) -> None:
    with pytest.raises(OptionError, match="takes more than"):
        file_of(kind, Recipe(size=10))


@pytest.mark.parametrize("dtype", ["float32", "<f8", "float16", "complex64", "int16", ">i4", "uint8", "bool", ">f4"])
def test_generated_npz_bytes_are_valid_numbers(dtype: str) -> None:
    data = s3dlio.generate_npz_bytes((5, 6, 7), dtype, num_samples=3, seed=1)
    with np.load(io.BytesIO(bytes(data))) as archive:
        assert (archive["x"].shape, archive["x"].dtype) == ((5, 6, 7), np.dtype(dtype))
        assert np.isfinite(archive["x"]).all()
        assert len(np.unique(archive["x"])) > 1
        assert archive["y"].tolist() == [0, 0, 0]
    assert data == s3dlio.generate_npz_bytes((5, 6, 7), dtype, num_samples=3, seed=1)


@pytest.mark.parametrize("dtype", ["object", "nothing", "U5", "datetime64[s]"])
def test_npz_bytes_of_what_are_no_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(OptionError, match="dtype"):
        s3dlio.generate_npz_bytes((2,), dtype)


# -- put ----------------------------------------------------------------------------------------------


def test_put_writes_numbered_objects(rclone: S3Server, tmp_path: Path) -> None:
    rclone.make_bucket("made-up")
    with rclone.activate():
        s3dlio.put("s3://made-up/test-data-{}.bin", num=5, size=300_000, data_gen_mode="streaming", seed=4)
        found = s3dlio.list("s3://made-up/")
        assert found == [f"s3://made-up/test-data-{number}.bin" for number in range(5)]
        views = [view for _, view in s3dlio.get_many(found)]
    assert {len(view) for view in views} == {300_000}
    assert len({bytes(view) for view in views}) == 5
    s3dlio.put(f"file://{tmp_path}/{{:06d}}-of-{{}}.npz", 2, size=5000, object_type="npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000-of-2.npz", "000001-of-2.npz"]


def test_put_takes_prefix_number_and_template() -> None:
    space = f"memory://{unique('gen')}"
    s3dlio.put(f"{space}/deep/", 3, "obj_{}_of_{}.dat", size=10)
    assert s3dlio.list(space + "/") == [f"{space}/deep/obj_{number}_of_3.dat" for number in range(3)]


@pytest.mark.parametrize("kind", ["raw", "zeros", "npz", "tfrecord", "hdf5"])
def test_put_sends_large_objects_in_parts(moto: MotoServer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    bucket = unique("gen")
    s3dlio.create_bucket(bucket)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    s3dlio.put(f"s3://{bucket}/big-{{}}", num=2, size=40 * MIB, object_type=kind, seed=9, progress=tell)
    assert s3dlio.stat(f"s3://{bucket}/big-1")["etag"].endswith("-3")
    expected = b"".join(bytes(piece) for piece in file_of(kind, Recipe(size=40 * MIB, seed=9, number=1)))
    assert s3dlio.get(f"s3://{bucket}/big-1") == expected
    assert told[-1] == (80 * MIB, 80 * MIB)
    assert sorted(told) == told


def test_an_object_is_sent_while_it_is_made(tmp_path: Path) -> None:
    code = f"""
import s3dlio
s3dlio.put("file://{tmp_path}/big-{{}}", num=1, size=(3 << 29) + 1, object_type="hdf5")
"""
    assert _peak_bytes(code) < 700 * MIB
    assert (tmp_path / "big-0").stat().st_size == (3 << 29) + 1


def test_put_in_both_forms_at_once_is_a_type_error() -> None:
    for arguments, options in [
        ((b"x",), {"num": 3, "size": 5}),
        ((b"x",), {"progress": True}),
        ((b"x", "obj-{}"), {}),
        ((3,), {"num": 3, "size": 5}),
        ((), {}),
        ((), {"num": 3}),
        ((), {"size": 3}),
        ((True,), {"size": 3}),
    ]:
        with pytest.raises(TypeError):
            s3dlio.put("memory://nowhere/{}", *arguments, **options)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"dedup_facto": 2}, "did you mean 'dedup_factor'"),
        ({"object_type": "tfrecords"}, "did you mean 'tfrecord'"),
        ({"data_gen_mode": "fast"}, "streaming"),
        ({"max_in_flight": 0}, "max_in_flight"),
    ],
)
def test_put_names_what_it_was_told_wrongly(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(OptionError, match=hint):
        s3dlio.put("memory://nowhere/{}", num=1, size=100, **options)


@pytest.mark.parametrize("template", ["same", "{}{}{}", "{name}", "{", "{1}"])
def test_templates_that_cannot_name_several_objects_are_refused(template: str) -> None:
    with pytest.raises(OptionError, match="template"):
        names(template, 2)


async def _put_made_up(uri: str) -> None:
    await s3dlio.put_async(uri, num=2, size=10)


def test_put_async_makes_objects_up_too() -> None:
    import asyncio

    uri = f"memory://{unique('gen')}/{{}}"
    asyncio.run(_put_made_up(uri))
    assert len(s3dlio.list(uri.removesuffix("{}"))) == 2
    assert inspect.iscoroutinefunction(s3dlio.put_async)
