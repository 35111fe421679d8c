"""The images of the epoch works, in the layout that each contender is made for.

For: having every layout written by its own client, once, and laid into the origin's bucket.
Must not know: how a contender reads. Workers import it, so nothing outside the standard library.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.declare import OURS
from benchmarks.jax_works import COUNT, SHAPE, contents
from benchmarks.lanes import environment
from benchmarks.venvs import BENCH, python_of

MOSAIC = "mosaicml-streaming"
WEBDATASET = "webdataset"
LITDATA = "litdata"
GRAIN = "grain"

#: Below it each layout has a folder in the bucket.
PREFIX = "field/"
#: Layouts of many samples in a file have this many files, of 2.8 MB each.
SHARDS = 20
PER_SHARD = COUNT // SHARDS
#: An object per image: its label, then its pixels.
OBJECTS = PREFIX + "objects/"
LABEL_BYTES = 8
HOME = BENCH / "field"

#: By layout: whose writer makes it, in which module.
_WRITERS = {
    "tfrecord": (OURS, "ours_field"),
    "mds": (MOSAIC, "mosaicml_streaming"),
    "tar": (WEBDATASET, "webdataset"),
    "litdata": (LITDATA, "litdata"),
    "arrayrecord": (GRAIN, "grain"),
}
#: Layouts that no client reads from anywhere but a file system.
_LOCAL = ("arrayrecord",)
_RECIPE = f"1: {COUNT} images of {SHAPE} in {SHARDS} shards"


def shards() -> Iterable[range]:
    """The numbers of the images in each file, for layouts of many samples in a file."""
    return (range(first, first + PER_SHARD) for first in range(0, COUNT, PER_SHARD))


def labelled(number: int) -> bytes:
    """The image of this number as plain bytes, behind its label."""
    return number.to_bytes(LABEL_BYTES, "little") + contents(number)


def write_field(bucket: Path, say: Callable[[str], None]) -> None:
    """Lay every layout into the bucket, but for those that are read from a file system."""
    _ensure(say)
    for layout in _WRITERS:
        if layout not in _LOCAL and _is_ready(layout):
            shutil.copytree(HOME / layout, bucket / PREFIX / layout)
    (bucket / OBJECTS).mkdir(parents=True)
    for number in range(COUNT):
        (bucket / f"{OBJECTS}{number:06d}.bin").write_bytes(labelled(number))


def _ensure(say: Callable[[str], None]) -> None:
    """Have each contender that has an environment write its layout there, once.

    A writer that fails is said to have failed; the lanes that read its layout then say what is missing.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    for layout, (contender, module) in _WRITERS.items():
        if not python_of(contender).exists() or _is_ready(layout):
            continue
        say(f"writing {COUNT} images as {layout}")
        _mark(layout).unlink(missing_ok=True)
        if _write(layout, contender, module, say):
            _mark(layout).write_text(_RECIPE, encoding="ascii")


def _mark(layout: str) -> Path:
    return HOME / f"{layout}.ready"


def _is_ready(layout: str) -> bool:
    mark = _mark(layout)
    return mark.exists() and mark.read_text(encoding="ascii") == _RECIPE


def _write(layout: str, contender: str, module: str, say: Callable[[str], None]) -> bool:
    folder = HOME / layout
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    code = f"import pathlib; from benchmarks.contenders.{module} import write; write(pathlib.Path({str(folder)!r}))"
    done = subprocess.run(
        [str(python_of(contender)), "-P", "-c", code],
        env=environment(contender, "", None, {}),
        cwd=BENCH,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        say(f"    {contender} did not write: {done.stderr.strip()[-600:]}")
    return not done.returncode
