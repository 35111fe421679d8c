"""What the servers of our own have in common: connections, HTTP with the bodies that S3 clients send, a process each.

For: `benchmarks/sink.py` and `benchmarks/depot.py`, which say what becomes of a body.
Must not know: S3's verbs, or who asks.
"""

from __future__ import annotations

import abc
import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from benchmarks.processes import die_with_parent, end_process

#: Where bytes go that are thrown away: with MSG_TRUNC the kernel does not touch it, so it takes no memory.
_ABYSS_BYTES = 64 << 20
_MOST_LINE_BYTES = 1 << 16
_PLAIN_ERRORS = (ConnectionError, TimeoutError)


class RefusedError(Exception):
    """What a client has asked for is wrong: status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


class Reader:
    """The bytes of one connection."""

    def __init__(self, sock: socket.socket, abyss: memoryview) -> None:
        self.sock = sock
        self._abyss = abyss
        self._early = b""

    def line(self) -> bytes:
        """A line without its end; empty at the end of the connection."""
        while b"\r\n" not in self._early:
            more = self.sock.recv(_MOST_LINE_BYTES)
            if not more or len(self._early) > 16 * _MOST_LINE_BYTES:
                raise ConnectionResetError
            self._early += more
        found, _, self._early = self._early.partition(b"\r\n")
        return found

    def take(self, count: int) -> bytearray:
        """So many bytes, kept."""
        memory = bytearray(count)
        self.fill(memoryview(memory))
        return memory

    def fill(self, view: memoryview) -> None:
        """The next bytes, into memory."""
        done = min(len(view), len(self._early))
        view[:done] = self._early[:done]
        self._early = self._early[done:]
        while done < len(view):
            done += self._receive(view[done:], 0)

    def drop(self, count: int) -> None:
        """So many bytes, thrown away without a copy."""
        early = min(count, len(self._early))
        self._early = self._early[early:]
        count -= early
        while count:
            count -= self._receive(self._abyss[:count], socket.MSG_TRUNC)

    def _receive(self, target: memoryview, flags: int) -> int:
        got = self.sock.recv_into(target, len(target), flags | socket.MSG_WAITALL)
        if not got:
            raise ConnectionResetError
        return got


@dataclass(frozen=True)
class Asked:
    """The head of a request; names of fields in small letters."""

    method: str
    path: str
    query: Mapping[str, str]
    fields: Mapping[str, str]


class Stretch(NamedTuple):
    """Some bytes of a file, which a body is made of."""

    file: int
    start: int
    count: int


@dataclass(frozen=True)
class Answer:
    """What a client is told: a body of bytes, or stretches of files. `owner` keeps the files open until they are sent."""

    status: int
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)
    stretches: Sequence[Stretch] = ()
    owner: object = None

    def send(self, sock: socket.socket, *, is_head: bool) -> None:
        """Put all of it on the wire; to a HEAD, without the body."""
        length = len(self.body) + sum(stretch.count for stretch in self.stretches)
        fields = {"content-type": "application/xml", "content-length": str(length), **self.fields}
        if self.status == 204:
            del fields["content-length"]
        lines = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
        head = f"HTTP/1.1 {self.status} Benchmark\r\n{lines}\r\n".encode()
        if is_head:
            sock.sendall(head)
            return
        # The head waits in the kernel for the file's first bytes, so that both go in one packet.
        sock.sendall(head + self.body, socket.MSG_MORE if self.stretches else 0)
        for stretch in self.stretches:
            _send_file(sock, stretch)


def _send_file(sock: socket.socket, stretch: Stretch) -> None:
    at, end = stretch.start, stretch.start + stretch.count
    while at < end:
        sent = os.sendfile(sock.fileno(), stretch.file, at, end - at)
        if not sent:
            raise ConnectionResetError
        at += sent


class Server(abc.ABC):
    """Serves on a port of its own by a thread per connection: `with Kind.started() as server`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._abyss = memoryview(mmap.mmap(-1, _ABYSS_BYTES, flags=mmap.MAP_PRIVATE))
        self.trouble: list[str] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @abc.abstractmethod
    def answer(self, asked: Asked, reader: Reader) -> Answer:
        """Take the body of a request, and say what it is told. Raises RefusedError."""

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Self]:
        """Serve for the length of a with block."""
        server = cls()
        threading.Thread(target=server._accept, name=cls.__name__, daemon=True).start()
        try:
            yield server
        finally:
            server._listener.shutdown(socket.SHUT_RDWR)
            server._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the end
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        reader = Reader(sock, self._abyss)
        with sock:
            try:
                while True:
                    self._exchange(reader)
            except _PLAIN_ERRORS:
                return  # the client has gone: its right
            except Exception:  # noqa: BLE001 - told with the totals, where the run looks
                self.trouble.append(traceback.format_exc(limit=3))

    def _exchange(self, reader: Reader) -> None:
        asked = _head(reader)
        if asked.fields.get("expect", "").lower() == "100-continue":
            reader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            answer = self.answer(asked, reader)
        except RefusedError as error:
            body = f"<Error><Code>{error.code}</Code><Message>the benchmark's server: {error}</Message></Error>"
            answer = Answer(error.status, body.encode())
        answer.send(reader.sock, is_head=asked.method == "HEAD")


def _head(reader: Reader) -> Asked:
    method, target, _ = reader.line().decode("latin-1").split(" ", 2)
    fields: dict[str, str] = {}
    while line := reader.line().decode("latin-1"):
        name, _, text = line.partition(":")
        fields[name.strip().lower()] = text.strip()
    address = urlsplit(target)
    return Asked(method, unquote(address.path), dict(parse_qsl(address.query, keep_blank_values=True)), fields)


def take_body(asked: Asked, reader: Reader, take: Callable[[int], None]) -> int:
    """Have a body taken, so many bytes at a time, as it was before it was framed: how long it is in all."""
    length = int(asked.fields.get("content-length", "0"))
    if "transfer-encoding" in asked.fields:
        raise RefusedError(501, "NotImplemented")
    if "aws-chunked" not in asked.fields.get("content-encoding", ""):
        take(length)
        return length
    size = 0
    while count := int(reader.line().split(b";")[0], 16):
        take(count)
        size += count
        reader.line()
    while reader.line():  # trailer fields
        pass
    if size != int(asked.fields.get("x-amz-decoded-content-length", size)):
        raise RefusedError(400, "IncompleteBody")
    return size


def sums_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The checksums that a part came with, which some clients want to hear again."""
    return {name: text for name, text in fields.items() if name.startswith("x-amz-checksum-")}


# -- as a program -----------------------------------------------------------------------------------


@contextlib.contextmanager
def running(module: str) -> Iterator[str]:
    """A server in a process of its own, so that it shares no interpreter lock with anybody: its endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - the run has no threads
    )
    assert process.stdout is not None
    try:
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint:
            raise RuntimeError(f"{module} did not start")
        yield endpoint
    finally:
        end_process(process, signal.SIGTERM)
        process.stdout.close()


def serve_alone(kind: type[Server]) -> None:
    """What such a process does: tell the endpoint, and serve until it is killed."""
    with kind.started() as server:
        print(server.endpoint, flush=True)
        signal.pause()
