"""Room card: one process for the tests that need TensorFlow, which run in it one at a time, by name.

TensorFlow's threads do not survive the forks of other tests, so it is never imported into pytest's own
process; and it takes seconds to start, so not every test can have a process of its own. Knows processes; must
not know what is tested.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import is_readable

_CHILD = "S3DLIO_TEST_HAS_TF"
#: Whether this is that process.
HAS_TF = _CHILD in os.environ
_ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 90.0
_BODIES: dict[str, Callable[..., None]] = {}
_RUNNING: list[TfProcess] = []


class TfProcess:
    """Runs tests by name, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-c", "import tests.tf_process as process; process.serve()"]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        env = {**os.environ, **quiet, _CHILD: "1", "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            command, env=env, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, test: Callable[..., None], given: dict[str, Any]) -> None:
        """Run one test; fail as it does."""
        cloud = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "STORAGE_"))}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([test.__module__, test.__name__, given, cloud]) + "\n")
        self._process.stdin.flush()
        if not is_readable(self._process.stdout, _TIMEOUT_S):
            end()
            pytest.fail(f"{test.__name__} has not ended after {_TIMEOUT_S} s")
        answer = self._process.stdout.readline()
        if not answer:
            _RUNNING.remove(self)
            pytest.fail(f"the process ended with code {self._process.wait()}")
        if json.loads(answer):
            pytest.fail(json.loads(answer), pytrace=False)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def in_tf(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in the process that has TensorFlow; its fixtures are values that JSON can carry."""
    _BODIES[test.__module__ + "." + test.__name__] = test

    @functools.wraps(test)
    def ask(**given: Any) -> None:
        if not _RUNNING:
            _RUNNING.append(TfProcess())
        _RUNNING[0].run(test, given)

    return ask


def end() -> None:
    """End the process, if there is one."""
    while _RUNNING:
        _RUNNING.pop().end()


def serve() -> None:
    """Answer with a traceback or nothing for each test asked for."""
    forks: list[str] = []
    os.register_at_fork(before=lambda: forks.append("".join(traceback.format_stack())))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        module, test, given, cloud = json.loads(line)
        os.environ.update(cloud)
        try:
            importlib.import_module(module)
            _BODIES[f"{module}.{test}"](**given)
            assert forks == []
            assert "torch" not in sys.modules
        except BaseException:  # noqa: BLE001 - whatever it is goes to the other process
            answers.write(json.dumps(traceback.format_exc()[-4000:]) + "\n")
        else:
            answers.write('""\n')
        answers.flush()
