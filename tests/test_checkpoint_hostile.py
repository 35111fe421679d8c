"""Room card: checkpoint files that are damaged, or made to harm: an error of the library, never another value.

Files are written here by hand, with sums that are right where that is needed to get further.  Memory is taken for
bytes that are there, never for what a file merely claims.
"""

from __future__ import annotations

import json
import pickle
import random
import re
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio import CheckpointError, FormatError, IntegrityError, S3dlioError
from s3dlio.checkpoint.manifest import parse_manifest, parse_shard
from s3dlio.checksums import crc32c
from s3dlio.formats import compression
from tests.contract_checkpoints import same

if TYPE_CHECKING:
    from collections.abc import Callable

URI = "memory://hostile/file"
MIB = 1024**2


class Pair(NamedTuple):
    first: Any
    second: Any


VALUE = {
    "epoch": 3, "w": torch.arange(40.0), "t": (np.arange(5, dtype=">i4"), [torch.ones(3, dtype=torch.bfloat16)]),
    "p": Pair(b"x" * 1500, float("nan")), 7: "text", "z": torch.ones(3, dtype=torch.complex128), "s": np.float32(1),
}  # fmt: skip


def saved(value: Any = VALUE, **options: Any) -> bytes:
    s3dlio.save_checkpoint(URI, value, **options)
    return bytes(s3dlio.get(URI))


def load(data: bytes, **options: Any) -> Any:
    s3dlio.put(URI, data)
    return s3dlio.load_checkpoint(URI, **options)


WHOLE = saved()
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")


def file_of(entries: Any, data: bytes = b"", tree: Any = None, *, sums: Any = None, **own: Any) -> bytes:
    """Returns a file with any header, whose own sum is right; a tree makes it one of this library."""
    entries = dict(entries)
    if tree is not None:
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        told = "".join(f"{crc32c(data[start:stop]):08x}" for start, stop in spans) if sums is None else sums
        text = {"version": 1, "header": "0" * 8, "sums": told, "tree": tree, **own}
        entries = {"__metadata__": {"s3dlio": json.dumps(text, separators=(",", ":"))}, **entries}
    return signed(json.dumps(entries, separators=(",", ":")).encode(), data)


def signed(header: bytes, data: bytes = b"") -> bytes:
    place = re.search(rb'\\"header\\":\\"(0{8})\\"', header)
    if place:
        header = header[: place.start(1)] + f"{crc32c(header):08x}".encode() + header[place.end(1) :]
    return len(header).to_bytes(8, "little") + header + data


def tensor(start: int, stop: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def test_the_files_made_here_are_read() -> None:
    """Or nothing else in this file would say anything."""
    found = load(file_of({"x": tensor(0, 3)}, b"abc", {"t": [{"a": "x", "k": "numpy"}, 5]}))
    assert same(found, (np.frombuffer(b"abc", np.uint8), 5))
    assert same(load(file_of({"x": tensor(0, 3)}, b"abc")), {"x": np.frombuffer(b"abc", np.uint8)})


# -- damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_an_error_wherever_it_is(bit: int) -> None:
    into = load(WHOLE)
    for at in range(len(WHOLE)):
        data = bytearray(WHOLE)
        data[at] ^= 1 << bit
        with pytest.raises((IntegrityError, FormatError)):
            load(bytes(data), **({"into": into} if at % 2 else {}))


def test_a_flipped_bit_in_a_compressed_file_gives_no_other_value() -> None:
    whole = saved(compress=True)
    wrong = 0
    for at in range(8 * len(whole)):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        try:
            assert same(load(bytes(data)), VALUE)  # a bit that means nothing
        except S3dlioError:
            wrong += 1
    assert wrong > 7.9 * len(whole)


def test_a_file_that_is_cut_or_longer_is_an_error() -> None:
    for length in [*range(0, HEADER + 3, 7), *range(HEADER, len(WHOLE))]:
        with pytest.raises(FormatError):
            load(WHOLE[:length])
    for more in (b"\0", b"more", WHOLE):
        with pytest.raises(FormatError):
            load(WHOLE + more)
    compressed = saved(compress=True)
    for length in range(len(compressed)):
        with pytest.raises(FormatError):
            load(compressed[:length])


def test_damage_in_what_is_not_wanted_does_not_matter() -> None:
    data = saved({"a": np.zeros(100), "b": np.ones(MIB)})
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    assert same(load(damaged, keys="a"), {"a": np.zeros(100)})
    with pytest.raises(IntegrityError, match="tensor 'b' is damaged"):
        load(damaged, keys="b")


@pytest.mark.parametrize("length", [0, 1, 2, len(WHOLE), 100_000_001, 1 << 40, (1 << 64) - 1])
def test_a_header_whose_length_lies(length: int) -> None:
    with pytest.raises(FormatError):
        load(length.to_bytes(8, "little") + WHOLE[8:])


@given(st.data())
@settings(max_examples=400)
def test_a_mutated_file_is_an_error_or_the_same(data: st.DataObject) -> None:
    file = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file)))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "copy"]))
        if kind == "set":
            file[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del file[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            file[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            start = data.draw(st.integers(0, len(file)))
            file[at : at + 20] = file[start : start + 20]
    _error_or(bytes(file), VALUE)


def _error_or(file: bytes, value: Any, **options: Any) -> None:
    try:
        found = load(file, **options)
    except S3dlioError:
        return
    assert same(found, value)


# -- headers that lie ---------------------------------------------------------------------------------

X = {"x": tensor(0, 4)}
BAD_HEADERS: dict[str, Any] = {
    "gap": {"x": tensor(0, 2), "y": tensor(3, 4)}, "overlap": {"x": tensor(0, 3), "y": tensor(2, 4)}, "short": {"x": tensor(0, 3)},
    "beyond": {"x": tensor(0, 5)}, "far": {"x": tensor(0, 1 << 50)}, "reversed": {"x": tensor(4, 0)},
    "negative": {"x": tensor(-4, 0)}, "twice-the-same": {"x": tensor(0, 4), "y": tensor(0, 4)},
    "overflow": {"x": tensor(0, 4, [1 << 32, 1 << 32])}, "overflow-to-0": {"x": tensor(0, 0, [1 << 61, 1 << 61, 0])},
    "big-times-0": {"x": tensor(0, 4), "y": tensor(4, 4, [0, 1 << 62])}, "negative-axes": {"x": tensor(0, 4, [-2, -2])},
    "axes": {"x": tensor(0, 4, [4] + [1] * 64)}, "shape": {"x": tensor(0, 4, [2])}, "float": {"x": tensor(0, 4, [4.0])},
    "true": {"x": tensor(0, 4, [4, True])}, "text": {"x": tensor(0, 4, "4")}, "none": {"x": None}, "list": {"x": []},
    "dtype": {"x": tensor(0, 4, dtype="F3")}, "half-bytes": {"x": tensor(0, 4, [9], dtype="F4")},
    "six-bits": {"x": tensor(0, 4, [5], dtype="F6_E2M3")}, "dtype-list": {"x": tensor(0, 4, dtype=["U8"])}, "fields": {"x": {"dtype": "U8"}},
    "one-offset": {"x": X["x"] | {"data_offsets": [4]}}, "nan": {"x": tensor(0, 4, [float("nan")])},
    "metadata": {"__metadata__": [], **X}, "metadata-text": {"__metadata__": "s3dlio", **X},
}  # fmt: skip


@pytest.mark.parametrize("entries", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_that_lies(entries: Any) -> None:
    file = file_of(entries, b"abcd")
    for options in ({}, {"into": {"x": np.zeros(4, np.uint8)}}, {"keys": "x"}, {"framework": "torch"}):
        with pytest.raises(FormatError):
            load(file, **options)


def test_no_metadata_may_be_written_as_null() -> None:
    assert same(load(file_of({"__metadata__": None, **X}, b"abcd")), {"x": np.frombuffer(b"abcd", np.uint8)})


BOMBS: dict[str, bytes] = {
    "deep-lists": b"[" * 100_000, "deep-dicts": b'{"a":' * 100_000, "closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "twice": b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "digits": b'{"x":' + b"9" * 100_000 + b"}", "nan": b"NaN", "text": b'"text"', "utf-8": b'{"\xff":1}', "utf-16": "{}".encode("utf-16"), "bom": b"\xef\xbb\xbf{}", "empty": b"  ",
    "many-axes": b'{"x":{"dtype":"U8","shape":[' + b"9," * 500_000 + b'9],"data_offsets":[0,0]}}',
}  # fmt: skip


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_json_that_bursts(header: bytes) -> None:
    with pytest.raises(FormatError):
        load(signed(header))


# -- trees that lie -----------------------------------------------------------------------------------

A = {"a": "x", "k": "numpy"}


def _deep(depth: int) -> Any:
    node: Any = 1
    for _ in range(depth):
        node = {"l": [node]}
    return node


BAD_TREES: dict[str, Any] = {
    "missing": {"d": {"y": {"a": "y", "k": "numpy"}}}, "kind": {"a": "x", "k": "evil"}, "kind-module": {"a": "x", "k": "os"},
    "name": {"a": ["x"], "k": "numpy"}, "two-kinds": {"l": [A, {"a": "x", "k": "bytes"}]}, "mark": {"q": 1},
    "fields": {"l": [], "t": []}, "no-fields": {}, "list": [1], "l": {"l": 5}, "l-dict": {"l": {}}, "d": {"d": [1]}, "m": {"m": [[1]]},
    "m-int": {"m": 5}, "m-key": {"m": [[{"l": []}, 1]]}, "m-array-key": {"m": [[A, 1]]}, "o": {"o": "ab"}, "set": {"s": [{"l": []}]},
    "n": {"n": []}, "n-dict": {"n": {}}, "y-dict": {"y": {}}, "n-name": {"n": ["a b"]}, "n-class": {"n": ["class"]}, "n-code": {"n": ["A", ["x); import os; (", 1]]},
    "n-twice": {"n": ["A", ["x", 1], ["x", 2]]}, "n-int": {"n": [5]}, "n-private": {"n": ["A", ["_x", 1]]},
    "y": {"y": []}, "f": {"f": "1e5"}, "f-list": {"f": []}, "c": {"c": [1, 2, 3]}, "c-array": {"c": [A, A]}, "b": {"b": "!!!"},
    "b-int": {"b": 5}, "i": {"i": "zz"}, "i-int": {"i": 5}, "deep": _deep(400), "extra-array": {"b": A},
}  # fmt: skip


@pytest.mark.parametrize("tree", BAD_TREES.values(), ids=BAD_TREES)
def test_a_tree_that_lies(tree: Any) -> None:
    file = file_of({"x": tensor(0, 4)}, b"abcd", tree)
    for options in ({}, {"into": {"x": np.zeros(4, np.uint8)}}, {"keys": "x.y"}):
        with pytest.raises((FormatError, CheckpointError)):
            load(file, **options)


EXTRAS: dict[str, tuple[str, Any]] = {
    "shape": ("numpy", {"dtype": "<f8", "shape": [1 << 40]}), "overflow": ("numpy", {"dtype": "<f8", "shape": [1 << 61, 8]}),
    "dtype": ("numpy", {"dtype": "|V2000000000", "shape": [1]}), "no-shape": ("numpy", {"dtype": "<f4"}), "text": (
        "numpy", {"dtype": "<f4", "shape": "1"}), "object": ("numpy", {"dtype": "|O", "shape": [1]}),
    "eval": ("numpy", {"dtype": "(1000000000,)f4", "shape": []}), "brackets": ("numpy", {"dtype": "(" * 1000, "shape": [1]}),
    "objects": ("numpy", {"dtype": [["a", "|O"]], "shape": [1]}), "nested": ("numpy", {"dtype": [["a", [["b", 5]]]], "shape": [1]}),
    "wide": ("numpy", {"dtype": [["a", "<f4", [1 << 40]]], "shape": [1]}), "no-items": ("numpy", {"dtype": "<U0", "shape": [1 << 40]}),
    "no-bytes": ("numpy", {"dtype": "|S0", "shape": [1 << 40]}), "negative": ("numpy", {"dtype": "<f4", "shape": [-1]}),
    "number": ("numpy", {"dtype": 5, "shape": [1]}), "none": ("numpy", {"dtype": None, "shape": [4]}),
    "module": ("numpy", {"dtype": "ml_dtypes.finfo", "shape": [4]}), "private": ("numpy", {"dtype": "ml_dtypes.__name__", "shape": [4]}),
    "torch": ("torch", {"dtype": "complex128", "shape": [1 << 40]}), "torch-dtype": ("torch", {"dtype": "load", "shape": [1]}),
    "torch-list": ("torch", {"dtype": ["complex128"], "shape": [1]}), "torch-0": ("torch", {"dtype": "complex128", "shape": [0, 1 << 62]}),
    "zero-items": ("numpy", {"dtype": "<f4", "shape": [0, 1 << 62]}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "extra"), EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("length", [0, 4])
def test_what_is_said_of_an_array_may_not_make_memory(kind: str, extra: Any, length: int) -> None:
    file = file_of({"x": tensor(0, length)}, bytes(length), {"d": {"x": {"a": "x", "k": kind, "x": extra}}})
    tracemalloc.start()
    try:
        for options in ({}, {"into": {"x": np.zeros(1, np.float32)}}):
            with pytest.raises((FormatError, CheckpointError)):
                load(file, **options)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_a_number_is_not_taken_for_a_length() -> None:
    """`bytes(array)` of a lone integer makes as many bytes as it says."""
    entries = {"x": tensor(0, 8, [], "I64")}
    found = load(file_of(entries, struct.pack("<q", 1 << 40), {"a": "x", "k": "bytes"}))
    assert found == struct.pack("<q", 1 << 40)


def test_bytes_that_are_named_often_are_made_once() -> None:
    entries = {"x": tensor(0, MIB)}
    tracemalloc.start()
    try:
        found = load(file_of(entries, bytes(MIB), {"l": [{"a": "x", "k": "bytes"}] * 2000}))
        assert tracemalloc.get_traced_memory()[1] < 30 * MIB
    finally:
        tracemalloc.stop()
    assert len(found) == 2000
    assert found[0] is found[-1]


def test_a_header_of_many_classes_takes_no_time() -> None:
    tree = {"l": [{"n": ["A", ["x", n]]} for n in range(30_000)]}
    found = load(file_of({}, b"", tree))
    assert type(found[0]) is type(found[-1])


def test_sums_and_version_are_checked() -> None:
    entries, tree = {"x": tensor(0, 4)}, {"a": "x", "k": "numpy"}
    for sums in ("", "0" * 16, "0" * 7, 5, None, ["00000000"], "0000000G"):
        with pytest.raises(FormatError):
            load(file_of(entries, b"abcd", tree, sums=sums if sums is not None else {}))
    with pytest.raises(IntegrityError):
        load(file_of(entries, b"abcd", tree, sums="0" * 8))
    with pytest.raises(FormatError, match="newer; update"):
        load(file_of(entries, b"abcd", tree, version=2))
    with pytest.raises(S3dlioError):
        load(file_of(entries, b"abcd", tree, header="none"))


def test_nothing_is_unpickled_unasked() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[object, ...]]:
            return pytest.fail, ("code of a file was run",)

    code = pickle.dumps(Evil())
    file = file_of({"x": tensor(0, len(code))}, code, {"d": {"x": {"p": "x"}, "y": 1}})
    for options in ({}, {"into": {}}, {"keys": "x"}):
        with pytest.raises(CheckpointError, match="allow_pickle=True"):
            load(file, **options)
    assert load(file, keys="y") == {"y": 1}


def test_a_bomb_of_zeros_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_half_of_memory", lambda: 64 * MIB)
    packed = zstandard.ZstdCompressor().compress(bytes(512 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="expands to more than"):
            load(packed)
        assert tracemalloc.get_traced_memory()[1] < 300 * MIB
    finally:
        tracemalloc.stop()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([A, {"a": "x"}, {"p": "x"}, {"a": "y"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ltszdmonyfcbipakx"), inner, max_size=2),
    max_leaves=10,
))  # fmt: skip
@settings(max_examples=400)
def test_any_tree_is_a_value_or_an_error(tree: Any) -> None:
    file = file_of({"x": tensor(0, 4)}, b"abcd", tree)
    for options in ({}, {"into": {"x": np.zeros(4, np.uint8)}}, {"keys": "*x*"}, {"framework": "torch"}):
        try:
            load(file, **options)
        except S3dlioError:
            continue


@given(st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({
    "dtype": st.sampled_from(["U8", "F64", "BF16", "C64", "F4", 5]), "shape": st.lists(st.integers(-1, 5), max_size=3),
    "data_offsets": st.lists(st.integers(-1, 60), min_size=2, max_size=2),
}), max_size=3))  # fmt: skip
@settings(max_examples=300)
def test_any_foreign_header_is_a_dict_or_an_error(entries: Any) -> None:
    try:
        found = load(file_of(entries, bytes(8)))
    except S3dlioError:
        return
    assert sum(array.nbytes for array in found.values()) == 8


# -- manifests ----------------------------------------------------------------------------------------

SHARD = {"rank": 0, "key": "shards/a/rank-0", "size": 5, "etag": "x", "checksum": "crc32c:00000000", "content": "value"}
MANIFEST = {"global_step": 1, "timestamp": "20260101T000000000000Z", "world_size": 1, "shards": [SHARD], "framework": "",
            "epoch": None, "wall_time": 1.5, "status": "complete", "user_meta": {}, "format_version": 1}  # fmt: skip
KEYS = ("../x", "/etc/passwd", "a/../../x", "", "a/", "a//b", "./x", "s3://other/x", "..", "a\0b", 5, None)
BAD_SHARDS = [*({"key": key} for key in KEYS), {"size": -1}, {"size": 1.5}, {"size": True}, {"rank": -1}, {"rank": "0"}, {"etag": None},
              {"checksum": "md5:1"}, {"checksum": "crc32c:0000000G"}, {"content": "pickle"}, {"more": 1}]  # fmt: skip
BAD_MANIFESTS = [{"world_size": 2}, {"world_size": 1 << 40}, {"world_size": "1"}, {"shards": []}, {"shards": [SHARD, SHARD]}, {"shards": {}},
                 {"shards": [None]}, {"shards": [[]]}, {"status": "incomplete"}, {"global_step": -1}, {"global_step": True},
                 {"timestamp": "now"}, {"timestamp": "../x"}, {"user_meta": []}, {"format_version": "1"}, {"epoch": "x"},
                 {"wall_time": "x"}, {"framework": 5}, {"more": 1}]  # fmt: skip


def test_the_manifest_made_here_is_read() -> None:
    assert parse_manifest(json.dumps(MANIFEST).encode()).shard(0).size == 5
    assert parse_shard(json.dumps(SHARD | {"world_size": 3}).encode())[1] == 3


@pytest.mark.parametrize("change", BAD_SHARDS, ids=str)
def test_a_shard_that_lies(change: Any) -> None:
    with pytest.raises(FormatError):
        parse_manifest(json.dumps(MANIFEST | {"shards": [SHARD | change]}).encode())
    with pytest.raises(FormatError):
        parse_shard(json.dumps(SHARD | {"world_size": 3} | change).encode())


@pytest.mark.parametrize("change", BAD_MANIFESTS, ids=str)
def test_a_manifest_that_lies(change: Any) -> None:
    with pytest.raises(FormatError):
        parse_manifest(json.dumps(MANIFEST | change).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 9999 + b"}"], ids=len
)
def test_garbage_is_no_manifest(data: bytes) -> None:
    for parse in (parse_manifest, parse_shard):
        with pytest.raises(FormatError):
            parse(data)


def test_a_manifest_of_the_future_says_so() -> None:
    with pytest.raises(CheckpointError, match="update s3dlio"):
        parse_manifest(json.dumps(MANIFEST | {"format_version": 2, "more": 1}).encode())


def test_mutated_manifests_are_manifests_or_errors() -> None:
    dice, whole = random.Random(5), json.dumps(MANIFEST).encode()
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.choice(b'0123456789"{}[],:truenlx./\xff')
        for parse in (parse_manifest, parse_shard):
            try:
                parse(bytes(data))
            except S3dlioError:
                continue
