"""Room card: every notebook runs from top to bottom in a fresh kernel, shows a picture, and leaves nothing behind.

Knows Jupyter: a program of its own starts the kernel, as a person's Jupyter would, and fills in the outputs.
Must not know what any notebook is about.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nbformat
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT_S = 150  # for one notebook, the start of its kernel included
ENDED_S = 20

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


# -- what a notebook does -----------------------------------------------------------------------------

# Sockets in a folder and not ports: nobody else can take them meanwhile, nor listen.
_RUNNER = """
import os, sys
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

source, folder, target, look = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell(look))
sockets = {"transport": "ipc", "connection_file": os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "k.json")}
client = NotebookClient(
    notebook,
    timeout=None,  # whoever has started this program ends it
    startup_timeout=120,
    kernel_name="python3",
    force_raise_errors=True,
    resources={"metadata": {"path": folder}},
    config=Config({"KernelManager": sockets}),
    on_cell_execute=lambda cell, cell_index: print(f"running cell {cell_index} ({cell.id})", flush=True),
)
try:
    client.execute()
finally:
    nbformat.write(notebook, target)
"""

# Runs as the last cell. Helpers of multiprocessing stay until the kernel ends, and so do their folders; torch
# makes one for what it may compile, and keeps it. TensorFlow writes what it makes of Python functions into files,
# which it takes away when the kernel ends.
_LOOK = """
import json, os, tempfile, psutil

def _command(process):
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:  # it has ended meanwhile, or nobody has asked yet how it ended
        return ""

_programs = [_command(child) for child in psutil.Process().children(recursive=True)]
_helpers = ("resource_tracker", "forkserver")
_caches = ("pymp-", "torchinductor_", "__autograph_generated_file", "__pycache__")
print(json.dumps({
    "programs": [name for name in _programs if name and not any(helper in name for helper in _helpers)],
    "files": [name for name in os.listdir(tempfile.gettempdir()) if not name.startswith(_caches)],
}))
"""


class Running(NamedTuple):
    """A notebook that is being executed."""

    process: subprocess.Popen[bytes]
    log: Path
    target: Path

    def finish(self, limit_s: float = LIMIT_S) -> nbformat.NotebookNode:
        """Wait until it has run through; return it with its outputs."""
        try:
            status: int | str = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = f"none after {limit_s} s"
        if status != 0:
            text = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))
            pytest.fail(f"exit status {status}\n{text[-8000:]}", pytrace=False)
        return nbformat.read(self.target, as_version=4)


@contextlib.contextmanager
def running(path: Path, *, within: Path = FOLDER) -> Iterator[Running]:
    """Start to execute a notebook in a folder; in the end nothing of it runs any more."""
    with tempfile.TemporaryDirectory(prefix="nb-") as home:  # short, since the paths of sockets have to be
        folders = {name: Path(home) / name.lower() for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
        folders |= {"JUPYTER_DATA_DIR": Path(home) / "data", "JUPYTER_CONFIG_DIR": Path(home) / "config"}
        for folder in folders.values():
            folder.mkdir(mode=0o700)
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        env |= {name: str(folder) for name, folder in folders.items()}
        log, target = Path(home) / "log", Path(home) / "executed.ipynb"
        command = [sys.executable, "-c", _RUNNER, str(path), str(within), str(target), _LOOK]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield Running(process, log, target)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it has started, which may be in groups and sessions of their own."""
    if process.poll() is not None:
        return  # it has ended its kernel, and its number may be another's by now
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=ENDED_S)


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@each_notebook
def test_a_notebook_runs_shows_a_picture_and_cleans_up(path: Path) -> None:
    with running(path) as run:
        executed = run.finish()
    assert pictures(executed), "no figure was shown"
    assert json.loads(executed.cells[-1].outputs[0].text) == {"programs": [], "files": []}


# -- what a notebook is -------------------------------------------------------------------------------

_ABSOLUTE = re.compile(r"""(?:^|[\s"'(\[{=,`])(?:~?/\w|[A-Za-z]:\\)|\bfile:/+\w""", re.MULTILINE)
_SECRETS = re.compile(
    r"""
    \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                               # AWS's key ids
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | (?i:secret|passw(?:or)?d|token|access_?key|account_?key|api_?key|signature)\w*["']?\ *[=:]\ *[rbf]?["'][^"']{6}
    | \b[0-9a-f]{32,}\b
    | (?=[\w+/-]*[a-z])(?=[\w+/-]*[A-Z])(?=[\w+/-]*[0-9])[\w+/-]{36,}   # random letters and digits
    """,
    re.VERBOSE,
)


def test_the_first_notebooks_are_there() -> None:
    assert {"01_read", "02_torch", "03_jax", "04_tf", "05_checkpoint"} <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert not cell.get("attachments"), cell["id"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


@each_notebook
def test_a_notebook_names_no_place_of_one_machine_and_no_secret(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        for sought in (_ABSOLUTE, _SECRETS):
            found = sought.search(cell.source)
            assert found is None, f"cell {cell.id}: {found[0]!r}"


@each_notebook
def test_the_page_on_notebooks_knows_each(path: Path) -> None:
    assert f"({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


# -- whether these tests would notice -----------------------------------------------------------------


def test_what_is_sought_in_the_cells_is_found() -> None:
    places = ["open('/tmp/a')", "/home/me/data", "cd ~/work", r'x = "C:\data"', "get('file:///srv/a')"]
    assert all(map(_ABSOLUTE.search, places))
    fine = ["image / 16", "1/2", "s3://bucket/a/b.npz", "https://host/a/b", "and/or", 'f"file://{folder}/"', "</b>"]
    assert not any(map(_ABSOLUTE.search, fine))
    secrets = ["AKIA" + "A1" * 8, "secret_key='" + "s" * 6, 'token: "' + "t" * 6, "0123456789abcdef" * 2, "aB3/" * 10]
    assert all(map(_SECRETS.search, secrets))
    fine = ["server.secret_key", "tokens = read()", "token=''", "nn.functional.cross_entropy(model(batch))", "=" * 80]
    assert not any(map(_SECRETS.search, fine))


def write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source), id=f"c{n}") for n, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_failure_tells_the_cell_and_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.ipynb", "divisor = 0", "quotient = 1 / divisor")
    with running(path, within=tmp_path) as run, pytest.raises(pytest.fail.Exception) as failure:
        run.finish()
    message = str(failure.value)
    assert "running cell 1 (c1)" in message
    assert "quotient = 1 / divisor" in message
    assert "ZeroDivisionError" in message


def test_what_a_notebook_leaves_behind_is_seen(tmp_path: Path) -> None:
    path = write(
        tmp_path / "untidy.ipynb",
        """
        import subprocess, tempfile
        folder = tempfile.mkdtemp(prefix="left-")
        sleeper = subprocess.Popen(["sleep", "300"], start_new_session=True)
        """,
    )
    with running(path, within=tmp_path) as run:
        executed = run.finish()
        left = json.loads(executed.cells[-1].outputs[0].text)
    assert left["programs"] == ["sleep 300"]
    assert [name[:5] for name in left["files"]] == ["left-"]


def test_a_notebook_that_hangs_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    path = write(
        tmp_path / "hangs.ipynb",
        """
        import os, subprocess, threading
        sleeper = subprocess.Popen(["sleep", "300"], start_new_session=True)
        with open("pids", "w") as file:
            file.write(f"{os.getpid()} {sleeper.pid}.")
        threading.Event().wait()
        """,
    )
    note = tmp_path / "pids"
    with running(path, within=tmp_path) as run:
        deadline = time.monotonic() + LIMIT_S
        while not (note.exists() and note.read_text().endswith(".")):
            assert time.monotonic() < deadline
            assert run.process.poll() is None, run.log.read_text()
            time.sleep(0.05)
        pids = [int(text) for text in note.read_text().rstrip(".").split()]
        assert all(map(is_running, pids))
        with pytest.raises(pytest.fail.Exception, match=r"none after 0.1 s[^\0]*running cell 0 \(c0\)"):
            run.finish(limit_s=0.1)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
