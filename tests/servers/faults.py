"""Room card: an HTTP/1.1 origin in threads of the test process that misbehaves on demand, down to the byte.

Knows sockets, threads and plans; what is right is in `shelf`, what is wrong in `fault_kinds`.  Must not know
the library, nor use anybody's HTTP implementation: those would not let every byte be bent.
"""

from __future__ import annotations

import collections
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from tests.servers.connection import Connection, shut
from tests.servers.fault_kinds import (
    ChangeContent,
    ChangeEtag,
    Chunked,
    CloseIdle,
    ContentEncodingGzip,
    ExtraBytes,
    Fault,
    GarbageHead,
    HugeHead,
    InterimResponse,
    Latency,
    LowerCaseHeaders,
    NoContentLength,
    PartAs200,
    ResetInBody,
    ResetInHead,
    ShortBody,
    Stall,
    StallHead,
    Status,
    Trickle,
    WholeBodyOn206Asked,
    WrongContentRange,
    redirect,
    s3_error,
)
from tests.servers.reply import End, Midway, Reply
from tests.servers.shelf import Shelf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Self

    from tests.servers.reply import Step
    from tests.servers.rules import Request

__all__ = [
    "ChangeContent",
    "ChangeEtag",
    "Chunked",
    "CloseIdle",
    "ContentEncodingGzip",
    "ExtraBytes",
    "Fault",
    "FaultOrigin",
    "GarbageHead",
    "HugeHead",
    "InterimResponse",
    "Latency",
    "Logged",
    "LowerCaseHeaders",
    "Midway",
    "NoContentLength",
    "PartAs200",
    "ResetInBody",
    "ResetInHead",
    "ShortBody",
    "Stall",
    "StallHead",
    "Status",
    "Trickle",
    "WholeBodyOn206Asked",
    "WrongContentRange",
    "redirect",
    "s3_error",
]

_CLOSE_TIMEOUT_S = 5.0
_ACCEPT_POLL_S = 0.2  # only where the end of the listening socket does not wake `accept`


class Logged(NamedTuple):
    """A request the origin got; header names are in lower case, the time is `time.monotonic`'s."""

    method: str
    target: str
    headers: Mapping[str, str]
    time_s: float


class _Planned(NamedTuple):
    method: str | None
    fault: Fault | None


class FaultOrigin(Shelf):
    """An origin on 127.0.0.1 that serves `objects` rightly, except where a plan says otherwise.

    Args:
        objects: The bodies by path, such as ``/bucket/key``; see `Shelf` for what else tests can set.
        ssl_context: Makes the origin speak TLS.
        port: Where to listen, for an origin that takes another's place; 0: wherever there is room.

    Attributes:
        requests: The requests so far, in the order of their arrival.
        connections: How many connections were accepted so far.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        super().__init__()
        self.objects.update(objects or {})
        self.requests: list[Logged] = []
        self.connections = 0
        self._closing = threading.Event()
        self._plans: dict[str, collections.deque[_Planned]] = {}
        self._plan_all: collections.deque[_Planned] = collections.deque()
        self._midway: collections.deque[tuple[str, Midway]] = collections.deque()
        self._plan_lock = threading.Lock()
        self._ssl_context = ssl_context
        self._accepted: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._listener.settimeout(_ACCEPT_POLL_S)
        self._acceptor = threading.Thread(target=self._accept, name="origin", daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        """The port the origin listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def endpoint_url(self) -> str:
        """Where the origin listens."""
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open on the origin's side."""
        return sum(not connection.done for connection in list(self._accepted))

    def plan(self, path: str, *faults: Fault | None, method: str | None = None) -> None:
        """Plans the fate of the next requests for a path; each request uses up one fault.

        Args:
            path: The path, decoded and without the query.
            *faults: What goes wrong; None: nothing.
            method: The only method that is meant; None for all.
        """
        with self._plan_lock:
            plan = self._plans.setdefault(path, collections.deque())
            plan.extend(_Planned(method, fault) for fault in faults)

    def plan_all(self, *faults: Fault | None, method: str | None = None) -> None:
        """Plans the fate of the next requests for any path that has no plan of its own left."""
        with self._plan_lock:
            self._plan_all.extend(_Planned(method, fault) for fault in faults)

    def plan_midway(self, method: str, *troubles: Midway) -> None:
        """Plans what befalls the bodies of the next requests of a method, while they are on their way."""
        with self._plan_lock:
            self._midway.extend((method, trouble) for trouble in troubles)

    def _next_midway(self, method: str, _target: str) -> Midway | None:
        with self._plan_lock:
            if self._midway and self._midway[0][0] == method:
                return self._midway.popleft()[1]
        return None

    def steps_for(self, request: Request) -> list[Step]:
        """Logs a request and returns what is to be sent in answer."""
        self.requests.append(Logged(request.method, request.target, request.headers, time.monotonic()))
        path = unquote(request.path)
        fault = self._next_fault(request.method, path)
        if isinstance(fault, ChangeContent):
            self.objects[path] = fault.body
            self.etags.pop(path, None)
        if isinstance(fault, ChangeEtag):
            self.etags[path] = fault.etag
        told = Reply(200) if isinstance(fault, Status) and not fault.acts else self.reply(request)
        reply = replace(told, head_only=request.method == "HEAD")
        steps = fault.steps(fault.bend(reply))
        return [*steps, End.CLOSE] if request.headers.get("connection") == "close" else steps

    def close(self) -> None:
        """Ends all connections and threads.

        Raises:
            ExceptionGroup: The origin itself failed while it served.
        """
        self._closing.set()
        shut(self._listener)
        self._acceptor.join(_CLOSE_TIMEOUT_S)
        self._listener.close()
        for connection in self._accepted:
            connection.close()
        trouble = [it.trouble for it in self._accepted if it.trouble is not None]
        if trouble:
            msg = "the origin failed"
            raise ExceptionGroup(msg, trouble)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _next_fault(self, method: str, path: str) -> Fault:
        with self._plan_lock:
            for plan in (self._plans.get(path), self._plan_all):
                meant = (it for it in plan or () if it.method in {None, method})
                planned = next(meant, None)
                if plan is not None and planned is not None:
                    plan.remove(planned)
                    return planned.fault or Fault()
        return Fault()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the time-out, or the end
                continue
            self.connections += 1
            connection = Connection(self.steps_for, sock, self._ssl_context, self._next_midway)
            self._accepted.append(connection)
            connection.start()
