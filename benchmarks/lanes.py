"""A contender's process, from the outside: start it, ask it, end it, and never wait for ever.

For: turning a crash, a hang or an exception in a client into an answer that says so.
Must not know: works, rounds, or what an answer means.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import die_with_parent, end_group
from benchmarks.venvs import BENCH, ROOT, python_of

TIMEOUT_SECONDS = 120.0


class LaneError(RuntimeError):
    """The contender crashed, hung or failed: its result is this message."""


class WrongBytesError(RuntimeError):
    """The contender brought wrong bytes: there is nothing to measure any more."""


def environment(contender: str, endpoint: str, ca_bundle: Path | None, extra: dict[str, str]) -> dict[str, str]:
    """What a client finds in its environment: dummy credentials, the endpoint, no proxy, no profile."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "S3DLIO_", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    paths = [str(BENCH / "path")] + ([str(ROOT)] if contender == "ours" else [])
    trust = {"AWS_CA_BUNDLE": str(ca_bundle)} if ca_bundle and endpoint.startswith("https") else {}
    return (
        kept
        | trust
        | {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PYTHONPATH": os.pathsep.join(paths),
        }
        | extra
    )


class LaneProcess:
    """One running contender. Its first answer is its greeting, with versions."""

    def __init__(self, contender: str, env: dict[str, str], timeout: float = TIMEOUT_SECONDS) -> None:
        module = "benchmarks.contenders." + contender.replace("-", "_").replace(".", "_")
        self._log = BENCH / "logs" / f"{contender}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._timeout = timeout
        self._unread = b""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # -P: the folder of the script does not shadow the client of the same name.
                [str(python_of(contender)), "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                cwd=BENCH,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - the run has no threads
            )
        try:
            self.greeting = self._read_answer()
        except LaneError:
            self.close()
            raise

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command, one answer; raises LaneError or WrongBytesError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise LaneError(self._epitaph("ended")) from error
        answer = self._read_answer()
        if answer.get("wrong_bytes"):
            raise WrongBytesError(answer["error"])
        if "error" in answer:
            raise LaneError(answer["error"])
        return answer

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._timeout
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise LaneError(f"no answer in {self._timeout:.0f} s")
            piece = os.read(pipe, 65536)
            if not piece:
                raise LaneError(self._epitaph("ended"))
            self._unread += piece
        line, self._unread = self._unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _epitaph(self, what: str) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        code = self._process.returncode
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{what} with code {code}: {lines[-1][:300] if lines else 'no words'}"

    def close(self) -> None:
        """End the process with all that it started."""
        end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
