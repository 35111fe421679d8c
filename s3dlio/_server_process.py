"""Room card: runs a server program on this machine and ends it for sure.

Knows how to start a program, learn from its log that it listens, and stop and reap it.  Must not know which
server it is, nor the rest of the library: it imports the standard library only, because the same file is also
run, by its path, as the small program that keeps a server.

A server must never outlive the process that started it, not even when that process is killed with SIGKILL.
So the server is not our child but the child of a keeper: this file, run by a bare interpreter, which ends the
server when told to (SIGTERM) and when it sees that its own parent is gone.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

__all__ = ["ServerProcess"]

_POLL_S = 0.02
_KEEPER_POLL_S = 0.2
_GRACE_S = 3.0  # how long a server may take to end before it is killed
_LOG_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG = 1


class ServerProcess:
    """A server program on this machine that is always ended, and reaped, by the process that started it.

    The program's stdout and stderr go to ``log_path``.  It counts as started when its log matches ``ready``.
    A forked copy of the owner can call `stop` (or exit) without harm: only the owner ends the server.

    The program runs in the folder of its log.

    Args:
        command: The program and its arguments.
        ready: What the program logs once it listens.
        log_path: The file that gets the program's output.
        env: The program's whole environment; None means a copy of ours.
        start_timeout_s: How long the program may take until it listens.
    """

    def __init__(
        self,
        command: Sequence[str],
        ready: re.Pattern[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        self._command = list(command)
        self._ready = ready
        self._log_path = log_path
        self._env = dict(os.environ if env is None else env)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()

    @property
    def pid(self) -> int | None:
        """The keeper's process id, None when nothing runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> re.Match[str]:
        """Starts the program and returns the match of ``ready`` in its log.

        Raises:
            RuntimeError: It is running already, ended at once or did not listen in time; quotes the log.
        """
        if self._process is not None:
            msg = "the server is running already"
            raise RuntimeError(msg)
        self._owner_pid = os.getpid()
        # -I -S: no site packages, no user settings; the keeper starts in a few milliseconds.
        keeper = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*keeper, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._log_path.parent,
                start_new_session=True,  # Ctrl-C at the terminal must reach us first, not the server
            )
        atexit.register(self.stop)
        try:
            return self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the program: asks, waits, kills; does nothing when it is not ours or not running."""
        if self._process is None or os.getpid() != self._owner_pid:
            return
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        # The keeper needs the grace time for the server, so it gets more.
        _end(process, 2 * _GRACE_S)

    def log_tail(self) -> str:
        """Returns the last lines the program wrote."""
        if not self._log_path.exists():
            return ""
        return self._log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> re.Match[str]:
        deadline = time.monotonic() + self._start_timeout_s
        trouble = f"did not listen in {self._start_timeout_s} s"
        while time.monotonic() < deadline:
            ended = process.poll()  # before the look at the log, which is then known to be complete
            found = self._ready.search(self._log_path.read_text(errors="replace"))
            if found:
                return found
            if ended is not None:
                trouble = f"ended at once (exit status {ended})"
                break
            time.sleep(_POLL_S)
        msg = f"{self._command[0]} {trouble}; its log says:\n{self.log_tail()}"
        raise RuntimeError(msg)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _death_with_parent() -> Callable[[], None] | None:
    """Returns what a child runs so that it is killed with its parent (Linux); loaded before the fork."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _keep(owner_pid: int, command: list[str]) -> int:
    """Runs a server until it ends, until SIGTERM, or until the owner is gone; returns an exit status."""
    signal.signal(signal.SIGTERM, _leave)
    # Safe here, though not in the owner: the keeper has one thread, which lives as long as the keeper.
    server = subprocess.Popen(command, preexec_fn=_death_with_parent())  # noqa: PLW1509
    try:
        # A changed parent id means that the owner is dead.  A pipe would not tell: the owner's forked
        # copies would hold its other end open.
        while server.poll() is None and os.getppid() == owner_pid:
            time.sleep(_KEEPER_POLL_S)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(server, _GRACE_S)
    return 128 - server.returncode if server.returncode < 0 else server.returncode


if __name__ == "__main__":
    sys.exit(_keep(int(sys.argv[1]), sys.argv[2:]))
