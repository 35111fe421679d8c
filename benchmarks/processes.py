"""Child processes that never outlive the run.

For: starting a child that dies with its parent, and ending one for certain.
Must not know: what the children do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel ends this child when its parent dies, even by SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_process(process: subprocess.Popen[bytes], how: signal.Signals, grace: float = 5.0) -> None:
    """Ask, wait, then kill; the child is reaped when this returns."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_group(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a child started in a session of its own, with every process that it started."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)
