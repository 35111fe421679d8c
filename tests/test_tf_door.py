"""Room card: how programs that use `s3dlio.make_tf_dataset` begin and end.

Each test is a program of its own. It ends with an iterator half-read, while TensorFlow's threads draw ahead: they
must neither hang nor crash it, nor change its exit status.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.patience import PROGRAM_S

_BEGIN = """
import os, signal, sys, threading, time
import numpy as np
import s3dlio
import tensorflow as tf

for number in range(400):
    s3dlio.put(f"file://{sys.argv[1]}/{number:04d}.bin", bytes([number % 256]) * 100)

def slowly(body):
    time.sleep(0.0005)
    return np.asarray(body)

dataset = s3dlio.make_tf_dataset(f"file://{sys.argv[1]}/", batch_size=4, transform=slowly)
dataset = dataset.map(lambda batch: batch + 1).prefetch(8)
"""


_TRIES = 5


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program; it must end by itself."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S, check=False)


@pytest.mark.parametrize(
    ("end", "status", "last"),
    [
        ("iterator = iter(dataset); next(iterator)", 0, ""),
        ("threading.Thread(target=list, args=(dataset.repeat(),), daemon=True).start(); time.sleep(0.1)", 0, ""),
        ("for number, batch in enumerate(dataset): number < 5 or sys.exit(3)", 3, ""),
        ("for number, batch in enumerate(dataset): 1 / (5 - number)", 1, "ZeroDivisionError: division by zero"),
        (
            """
            going = threading.Event()
            going.set()

            def press():
                while going.is_set():
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)

            threading.Timer(0.05, press).start()
            try:
                for batch in dataset.repeat(): time.sleep(0.001)
            finally:
                going.clear()
            """,
            -signal.SIGINT,
            "KeyboardInterrupt",
        ),
    ],
    ids=["half-read", "another thread", "sys.exit", "exception", "ctrl-c"],
)
def test_a_program_ends_with_an_open_iterator(tmp_path: Path, end: str, status: int, last: str) -> None:
    for _ in range(_TRIES):
        done = run(_BEGIN + textwrap.dedent(end), str(tmp_path))
        if "Executor.__del__" not in done.stderr:  # TensorFlow's own, where Python loses a Ctrl-C that comes just then
            break
    assert done.returncode == status, done.stderr[-3000:]
    assert done.stderr.count("Traceback") == bool(last)  # the program's own
    assert last in done.stderr
    assert "Exception ignored" not in done.stderr


def test_without_tensorflow_the_room_says_what_to_install() -> None:
    done = run(
        textwrap.dedent("""
            import sys
            sys.modules["tensorflow"] = None
            try:
                import s3dlio.tf
            except ModuleNotFoundError as error:
                print(error.name, error)
        """)
    )
    assert done.stdout == "tensorflow this part of s3dlio needs TensorFlow: pip install 's3dlio[tf]'\n"
