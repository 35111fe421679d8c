"""Room card: compressed objects: judged by each codec's own library, and proof against damage.

The streams of `s3dlio.formats.compression`, the writers that use them, and `get(decompress=True)`.
"""

from __future__ import annotations

import gzip
import random
import resource
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import FormatError, OptionError, WriterOptions
from s3dlio.formats import compression
from s3dlio.tfrecords import TFRecordWriter
from tests.contract_base import blob, unique
from tests.patience import PROGRAM_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024**2
#: Words, of which a better level makes less.
TEXT = b" ".join(random.Random(1).choices([blob(1 + n % 9, n) for n in range(3000)], k=60_000))


def _by_zstandard(data: bytes) -> bytes:
    whole: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return whole


JUDGES: dict[str, Callable[[bytes], bytes]] = {
    "zstd": _by_zstandard,
    "gzip": gzip.decompress,
    "lz4": lz4.frame.decompress,
}
EXTENSIONS = {"zstd": ".zst", "gzip": ".gz", "lz4": ".lz4"}
every_codec = pytest.mark.parametrize("codec", JUDGES)


def _packed(codec: str, data: bytes, level: int | None = None, step: int = 10_000) -> bytes:
    stream = compression.compressor(codec, level)
    pieces = [stream.compress(memoryview(data)[start : start + step]) for start in range(0, len(data), step)]
    return b"".join([*pieces, stream.flush()])


def _root() -> str:
    return f"memory://{unique('compression')}/"


@every_codec
@pytest.mark.parametrize("data", [b"", b"x", TEXT], ids=["empty", "one", "text"])
def test_its_own_library_reads_it(codec: str, data: bytes) -> None:
    packed = _packed(codec, data)
    assert JUDGES[codec](packed) == data
    assert compression.expanded(packed, codec) == data
    assert len(packed) < max(40, len(data) * 0.8)


@every_codec
def test_levels(codec: str) -> None:
    least, most = {"zstd": (1, 19), "gzip": (0, 9), "lz4": (0, 16)}[codec]
    sizes = []
    for level in (least, most):
        packed = _packed(codec, TEXT, level)
        assert JUDGES[codec](packed) == TEXT
        sizes.append(len(packed))
    assert sizes[0] > sizes[1]
    assert len(_packed(codec, TEXT)) == len(_packed(codec, TEXT, {"zstd": 3, "gzip": 6, "lz4": 0}[codec]))


@every_codec
def test_a_writer_compresses(codec: str) -> None:
    root = _root()
    with s3dlio.create_writer(f"{root}x", WriterOptions(compression=codec)) as writer:
        for start in range(0, len(TEXT), 7777):
            writer.write(TEXT[start : start + 7777])
    assert writer.uri == f"{root}x{EXTENSIONS[codec]}"
    stored = bytes(s3dlio.get(writer.uri))
    assert JUDGES[codec](stored) == TEXT
    assert writer.stats == (len(TEXT), len(stored))
    assert s3dlio.get(writer.uri, decompress=True) == TEXT


@pytest.mark.parametrize(
    ("name", "options", "written", "codec"),
    [
        ("x", {}, "x", "none"),
        ("x.bin", {}, "x.bin", "none"),
        ("x.zst", {}, "x.zst", "zstd"),
        ("x.zstd", {}, "x.zstd", "zstd"),
        ("X.GZ", {}, "X.GZ", "gzip"),
        ("x.tar.lz4", {}, "x.tar.lz4", "lz4"),
        ("x.bin", {"compression": "zstd"}, "x.bin.zst", "zstd"),
        ("x.zst", {"compression": "zstd"}, "x.zst", "zstd"),
        ("x.zst", {"compression": "gzip"}, "x.zst.gz", "gzip"),
        ("x.zst", {"compression": "none"}, "x.zst", "none"),
        ("x", {"compression_level": 5}, "x", "none"),
        ("x.zst", {"compression_level": 19}, "x.zst", "zstd"),
    ],
)
def test_names_and_codecs(name: str, options: dict[str, object], written: str, codec: str) -> None:
    root = _root()
    with s3dlio.create_writer(f"{root}{name}", WriterOptions(**options)) as writer:
        writer.write(TEXT)
    assert writer.uri == f"{root}{written}"
    assert s3dlio.list(root) == [f"{root}{written}"]
    stored = bytes(s3dlio.get(writer.uri))
    assert JUDGES.get(codec, bytes)(stored) == TEXT


def test_a_level_counts_for_the_codec_that_the_name_means() -> None:
    root = _root()
    sizes = []
    for level in (1, 19):
        with s3dlio.create_writer(f"{root}{level}.zst", WriterOptions(compression_level=level)) as writer:
            writer.write(TEXT)
        sizes.append(writer.finalize()["compressed_size"])
    assert sizes[0] > sizes[1]
    with pytest.raises(OptionError, match="gzip must be a whole number from 0 to 9"):
        s3dlio.create_writer(f"{root}x.gz", WriterOptions(compression_level=19))


def test_what_is_stored_is_what_get_returns(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(TEXT))
    assert s3dlio.get(f"file://{path}") == path.read_bytes()
    assert s3dlio.get(f"file://{path}", decompress=True) == TEXT
    plain = tmp_path / "x.bin"
    plain.write_bytes(path.read_bytes())
    assert s3dlio.get(f"file://{plain}", decompress=True) == path.read_bytes()


@every_codec
def test_several_streams_one_behind_the_other(codec: str) -> None:
    packed = _packed(codec, TEXT) + _packed(codec, b"") + _packed(codec, b"more")
    assert compression.expanded(packed, codec) == TEXT + b"more"


def test_other_writers_frames() -> None:
    """Frames as the libraries make them at once, with a size and without."""
    for packed in (
        zstandard.ZstdCompressor().compress(TEXT),
        zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    ):
        assert compression.expanded(packed, "zstd") == TEXT
    assert compression.expanded(lz4.frame.compress(TEXT), "lz4") == TEXT


@every_codec
@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_an_error_or_harmless(codec: str, data: st.DataObject) -> None:
    """Whatever is done to the bytes: the right content, or FormatError; nothing else."""
    packed = bytearray(_packed(codec, TEXT[:40_000] + TEXT[-20_000:]))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "append"]))
    at = data.draw(st.integers(0, len(packed) - 1))
    if kind == "flip":
        packed[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del packed[at:]
    else:
        where = at if kind == "insert" else len(packed)
        packed[where:where] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        got = compression.expanded(bytes(packed), codec)
    except FormatError:
        return
    if at or kind != "cut":
        assert got == TEXT[:40_000] + TEXT[-20_000:]
    else:
        assert got == b""


@every_codec
def test_a_damaged_object_names_itself(codec: str) -> None:
    uri = f"{_root()}x{EXTENSIONS[codec]}"
    s3dlio.put(uri, _packed(codec, TEXT)[:-3])
    with pytest.raises(FormatError, match="cut short") as caught:
        s3dlio.get(uri, decompress=True)
    assert (caught.value.uri, caught.value.operation) == (uri, "get")


@every_codec
def test_too_much_is_refused(codec: str) -> None:
    packed = _packed(codec, bytes(3 * MIB), step=MIB)
    assert len(compression.expanded(packed, codec, 3 * MIB)) == 3 * MIB
    with pytest.raises(FormatError, match="more than"):
        compression.expanded(packed, codec, 3 * MIB - 1)


_BOMB = """
import sys, resource
from s3dlio.formats import compression
from s3dlio.errors import FormatError
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    compression.expanded(data, sys.argv[2], 1 << 20)
except FormatError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@every_codec
def test_a_bomb_is_refused_in_little_memory(codec: str, tmp_path: Path) -> None:
    """2 GiB of zeros in little space."""
    bomb = tmp_path / "bomb"
    stream = compression.compressor(codec)
    zeros = bytes(16 * MIB)
    count = {"zstd": 128, "gzip": 16, "lz4": 16}[codec]
    bomb.write_bytes(b"".join([*(stream.compress(zeros) for _ in range(count)), stream.flush()]))
    done = subprocess.run(
        [sys.executable, "-c", _BOMB, str(bomb), codec], check=True, capture_output=True, text=True, timeout=PROGRAM_S
    )
    assert int(done.stdout) < 200  # MiB; there are 64 KiB of zstd


def test_memory_of_a_compressed_stream_stays_small() -> None:
    """What a single huge write makes is sent step by step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    noise = random.Random(1).randbytes(MIB) * 64
    with s3dlio.create_writer(f"{_root()}x.zst", WriterOptions(buffer_capacity=MIB, max_in_flight=2)) as writer:
        writer.write(noise)
    assert writer.finalize()["compressed_size"] < 64 * MIB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024 < 300


def test_record_files_are_still_right(tmp_path: Path) -> None:
    """TFRecords have their own compression, inside; the writers' codecs do not meddle with it."""
    for name, packing in (("x.gz", "GZIP"), ("y", ""), ("z", "ZLIB")):
        with TFRecordWriter(f"file://{tmp_path}/{name}", compression=packing) as writer:
            for number in range(100):
                writer.write(b"%d" % number * 100)
        raw = (tmp_path / name).read_bytes()
        plain = {"GZIP": gzip.decompress, "ZLIB": zlib.decompress, "": bytes}[packing](raw)
        assert len(plain) == sum(16 + len(b"%d" % number) * 100 for number in range(100))
