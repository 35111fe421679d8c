"""The works on NPZ objects: all arrays of one, and a single array out of a large one.

For: declaring them, writing their two objects, and what their contenders have in common: an object becomes a
mapping of arrays, which is read and proved here. Must not know: how rounds are run. Each contender's library is
imported in its own function, since their environments hold one client each.
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from benchmarks.declare import BOTO3, OURS, Lane, Target, Work
from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Haul, Job, WrongBytesError

S3FS = "s3fs"
ARRAYS_KEY = "arrays.npz"
GIGABYTE_KEY = "gigabyte.npz"
ARRAY_COUNT = 10
ARRAY_BYTES = 10_000_000
MEMBER_COUNT = 1000
MEMBER_BYTES = 1_000_000
#: The one member of the large object that is asked for, and is not a hole.
WANTED = 777
_MEGABYTE = 1e6
_PIECE_BYTES = 1 << 20
_HEADER_BYTES = 128

NPZ_ALL = Work(
    name="npz_all",
    title="Ten stored arrays of 10 MB, all of one NPZ object",
    figure="gib_per_second",
    unit="GiB/s",
    about="All arrays are in the caller's hands, their checksums verified, when the clock stops.",
    lanes=(
        Lane("ours dict(read_npz)", OURS, "npz_all"),
        Lane("ours read_npz().load()", OURS, "npz_all", ({"load": True},)),
        Lane("numpy.load over s3fs", S3FS, "npz_all", ({}, {"cache_type": "all"}, {"cache_type": "none"})),
        Lane("numpy.load over boto3", BOTO3, "npz_all", note="the object whole, then BytesIO"),
    ),
    targets=(
        Target(
            "npz, all arrays: 1.5 x numpy.load over s3fs",
            "ours dict(read_npz)",
            ("numpy.load over s3fs",),
            at_least=1.5,
        ),
        Target(
            "npz, all arrays: 1.5 x numpy.load over boto3",
            "ours dict(read_npz)",
            ("numpy.load over boto3",),
            at_least=1.5,
        ),
    ),
)

NPZ_ONE = Work(
    name="npz_one",
    title="One array of 1 MB out of an NPZ object of 1 GB",
    figure="megabytes",
    unit="MB moved",
    lower_is_better=True,
    rounds=5,
    about="Bytes received over the wire, heads included, counted between client and origin; the object is opened anew.",
    lanes=(
        Lane("ours read_npz(uri, name)", OURS, "npz_one"),
        Lane("numpy.load over s3fs", S3FS, "npz_one", ({}, {"cache_type": "none"})),
    ),
    targets=(Target("npz, one array of 1 MB out of 1 GB: MB moved", "ours read_npz(uri, name)", at_most=2.0),),
)


# -- the objects --------------------------------------------------------------------------------------


def write_npz_objects(bucket: Path) -> None:
    """Write both objects as numpy.savez would; what the large one holds beside the wanted array is a hole."""
    with zipfile.ZipFile(bucket / ARRAYS_KEY, "w") as archive:
        for index in range(ARRAY_COUNT):
            with archive.open(f"array{index}.npy", "w", force_zip64=True) as member:
                member.write(_header(ARRAY_BYTES) + contents(index, ARRAY_BYTES))
    with (bucket / GIGABYTE_KEY).open("wb") as file:
        _write_sparse(file)


def contents(index: int, size: int) -> bytes:
    """What the array of this number holds: any process can say it again."""
    return random.Random(index).randbytes(size)


def _header(size: int) -> bytes:
    text = repr({"descr": "|u1", "fortran_order": False, "shape": (size,)}).encode()
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


def _write_sparse(file: BinaryIO) -> None:
    header, hole = _header(MEMBER_BYTES), bytes(MEMBER_BYTES)
    of_hole = zlib.crc32(header + hole)
    body = contents(WANTED, MEMBER_BYTES)
    size, place, listed = len(header) + MEMBER_BYTES, 0, b""
    for index in range(MEMBER_COUNT):
        name = f"array{index}.npy".encode()
        crc = zlib.crc32(header + body) if index == WANTED else of_hole
        common = (20, 0, 0, 0, 0x21, crc, size, size, len(name))
        file.write(struct.pack("<4s5H3L2H", b"PK\3\4", *common, 0) + name + header)
        file.write(body if index == WANTED else b"")
        listed += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *common, 0, 0, 0, 0, 0, place) + name
        place += 30 + len(name) + size
        file.seek(place)
    counts = (0, 0, MEMBER_COUNT, MEMBER_COUNT, len(listed), place, 0)
    file.write(listed + struct.pack("<4s4H2LH", b"PK\5\6", *counts))


# -- the actions --------------------------------------------------------------------------------------

#: Opens an object by its key, at an endpoint, with a setting: a mapping from name to array.
Open = Callable[[str, str, Mapping[str, Any]], Mapping[str, Any]]


def reading_all(job: Job, open_arrays: Open) -> Action:
    """All arrays of the object, one by one or as the setting says."""

    def action() -> Haul:
        found = open_arrays(ARRAYS_KEY, job.endpoint, job.setting)
        arrays = found.load() if job.setting.get("load") else dict(found)  # type: ignore[attr-defined]
        if job.proof:
            for index in range(ARRAY_COUNT):
                _prove(arrays[f"array{index}"], index)
            job.proof.whole = True
        return Haul(len(arrays), sum(array.nbytes for array in arrays.values()))

    return action


def reading_one(job: Job, open_arrays: Open) -> Action:
    """One array of the large object; what comes over the wire for it is counted."""

    def action() -> Haul:
        with counting(job.endpoint) as (endpoint, counted):
            array = open_arrays(GIGABYTE_KEY, endpoint, job.setting)[f"array{WANTED}"]
        if job.proof:
            _prove(array, WANTED)
            job.proof.whole = True
        return Haul(1, sum(counted))

    return action


def _prove(array: Any, index: int) -> None:
    if array.tobytes() != contents(index, array.nbytes) or array.nbytes not in (ARRAY_BYTES, MEMBER_BYTES):
        raise WrongBytesError(f"array {index}: wrong bytes")


@contextmanager
def counting(endpoint: str) -> Iterator[tuple[str, list[int]]]:
    """A way to the origin that counts what comes back: yields its address, and the sizes of the pieces."""
    target = urlsplit(endpoint)
    counted: list[int] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # the listener was closed: the end
                    return
                origin = socket.create_connection((target.hostname or "", target.port or 80))
                for source, sink, sizes in ((client, origin, []), (origin, client, counted)):
                    threading.Thread(target=_pass_on, args=(source, sink, sizes), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", counted
        listener.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, sink: socket.socket, sizes: list[int]) -> None:
    try:
        while piece := source.recv(_PIECE_BYTES):
            sizes.append(len(piece))
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # either side has gone: so does this one
        sink.close()


# -- how each contender opens an object ---------------------------------------------------------------


def open_ours(key: str, endpoint: str, _setting: Mapping[str, Any]) -> Mapping[str, Any]:
    """The lazy mapping of this library."""
    from s3dlio.arrays import read_npz

    os.environ["AWS_ENDPOINT_URL"] = endpoint  # another one is another store
    return read_npz(f"s3://{BUCKET}/{key}")


def open_s3fs(key: str, endpoint: str, setting: Mapping[str, Any]) -> Mapping[str, Any]:
    """NumPy's own lazy mapping, over a file of s3fs."""
    import numpy as np
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=endpoint)
    found: Mapping[str, Any] = np.load(files.open(f"{BUCKET}/{key}", "rb", **setting))
    return found


def open_boto3(key: str, endpoint: str, _setting: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole object in memory, and NumPy's own mapping over it."""
    import boto3
    import numpy as np

    body = boto3.client("s3", endpoint_url=endpoint).get_object(Bucket=BUCKET, Key=key)["Body"].read()
    found: Mapping[str, Any] = np.load(io.BytesIO(body))
    return found
