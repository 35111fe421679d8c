"""Processes that run functions of this library, and import nothing of the program that started them.

Floor 3. Knows pipes and how a child is started and reaped; must not know what the functions do. The children of
:mod:`multiprocessing` import the script again, which then needs a guard; these do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from types import TracebackType

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LENGTH = struct.Struct("!Q")
#: Instead of a call: there are no more.
_END = b""
#: Seconds that an idle child has to end by itself.
_END_S = 10.0
#: The search path travels as an argument: the library may lie anywhere on it.
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import serve; serve()"


class BareProcesses(Executor):
    """An executor of processes, each started when it first gets work.

    What is submitted must be a function of an importable module, and plain values; they travel pickled, between the
    library's own processes. A child that dies breaks the call that it was at (``BrokenExecutor``); the next call
    starts another one. When the parent dies, children end after the call that they are at.

    Args:
        count: Most processes.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, "s3dlio-process")
        self._own = threading.local()
        self._children: list[_Child] = []
        self._is_given_up = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a process call a function."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as above
        """Wait for what has begun, and for the end of all processes; there is no other way to end them."""
        del wait
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        for child in self._children:
            child.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; when the block raises, what is being done is given up."""
        self._threads.shutdown(wait=False, cancel_futures=kind is not None)
        if kind is not None:
            self._is_given_up = True
            for child in self._children:
                child.kill()
        self.shutdown()

    def _call(self, *call: Any) -> Any:
        child: _Child | None = getattr(self._own, "child", None)
        if child is None or not child.is_alive:
            child = self._own.child = _Child()
            self._children.append(child)
            if self._is_given_up:  # it was begun too late to be among those that were ended
                child.kill()
        return child.call(call)


class _Child:
    """One process; a thread's own."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", _CHILD.format(__name__), json.dumps([str(place) for place in sys.path])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
        self._to = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, call: object) -> Any:
        try:
            _send(self._to, pickle.dumps(call))
            answer = _receive(self._from)
        except OSError:  # a pipe without the other end
            answer = None
        if answer is None:
            msg = f"a process ended early (exit status {self._process.wait()}); see what it has printed"
            raise BrokenExecutor(msg)
        done, value = pickle.loads(answer)  # noqa: S301 - of our own child
        if done:
            return value
        raise value

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Tell it to end, and wait for that. It has nothing to do any more, so one that does not end is ended."""
        with contextlib.suppress(OSError):  # it is dead
            _send(self._to, _END)  # not by the pipe's end, which a forked process may hold open
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):  # what a dead child has not read
                pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    return data if len(data) == length else None


def serve() -> None:
    """Do what comes by standard input, until it ends: the life of a child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the functions print must not get between the answers
    with inlet, outlet:
        while call := _receive(inlet):
            fn, args, kwargs = pickle.loads(call)  # noqa: S301 - from our own parent
            try:
                answer = (True, fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                answer = (False, error)
            _send(outlet, pickle.dumps(answer))
