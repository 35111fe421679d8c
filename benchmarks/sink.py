"""The sink: an S3 server over loopback that takes objects, whole or by parts, and throws their bytes away.

For: measuring what a writer can do when the server costs next to nothing. It counts every byte, refuses parts that
do not fit together, and sums the bytes of objects whose key says that they are to be proved.
Must not know: who writes to it. Run by itself (`python -m benchmarks.sink`) it tells its port and serves until killed.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from benchmarks.processes import die_with_parent, end_process
from benchmarks.put_works import PIECE_BYTES, piece

#: Keys that end in this are received and summed; what others bring is counted only.
PROOF = "-proof"
#: Where the sink itself is asked what came.
TOTALS = "/_totals"
#: Where bytes go that are thrown away: with MSG_TRUNC the kernel does not touch it, so it takes no memory.
_ABYSS_BYTES = 64 << 20
_LEAST_PART_BYTES = 5 << 20
_MOST_LINE_BYTES = 1 << 16
_NUMBER = re.compile(rb"<PartNumber>\s*(\d+)\s*</PartNumber>")
_PLAIN_ERRORS = (ConnectionError, TimeoutError)


class SinkError(Exception):
    """What a client has asked for is wrong: status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Stored:
    """What came: how many bytes, and their CRC-32C if they were summed."""

    size: int
    crc: int = 0
    parts: int = 0

    @property
    def etag(self) -> str:
        """An entity tag of the form that S3 gives."""
        return f'"{self.crc:032x}{f"-{self.parts}" if self.parts else ""}"'


@dataclass
class _Upload:
    path: str
    parts: dict[int, Stored] = field(default_factory=dict)


class _Reader:
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
        view = memoryview(memory)
        done = min(count, len(self._early))
        view[:done] = self._early[:done]
        self._early = self._early[done:]
        while done < count:
            done += self._receive(view[done:], 0)
        return memory

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


class Sink:
    """A running sink, served by threads of this process: `with Sink.started() as sink`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._abyss = memoryview(mmap.mmap(-1, _ABYSS_BYTES, flags=mmap.MAP_PRIVATE))
        self._lock = threading.Lock()
        self._objects: dict[str, Stored] = {}
        self._uploads: dict[str, _Upload] = {}
        self._begun = 0
        self._part_bytes = 0
        self._trouble: list[str] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="sink", daemon=True).start()

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Sink]:
        """Serve for the length of a with block."""
        sink = cls()
        try:
            yield sink
        finally:
            sink._listener.shutdown(socket.SHUT_RDWR)
            sink._listener.close()

    def totals(self) -> dict[str, Any]:
        """What came so far: sizes of objects by path, bytes of parts, open uploads, and what went wrong.

        "right" are the objects that are proved to hold the piece of `put_works` again and again, and nothing else.
        """
        with self._lock:
            return {
                "objects": {path: stored.size for path, stored in self._objects.items()},
                "right": [path for path, stored in self._objects.items() if _is_right(path, stored)],
                "part_bytes": self._part_bytes,
                "pending": len(self._uploads),
                "trouble": list(self._trouble),
            }

    # -- connections ------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the end
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        reader = _Reader(sock, self._abyss)
        with sock:
            try:
                while True:
                    self._exchange(reader)
            except _PLAIN_ERRORS:
                return  # the client has gone: its right
            except Exception:  # noqa: BLE001 - told with the totals, where the run looks
                self._trouble.append(traceback.format_exc(limit=3))

    def _exchange(self, reader: _Reader) -> None:
        method, target, _ = reader.line().decode("latin-1").split(" ", 2)
        fields: dict[str, str] = {}
        while line := reader.line().decode("latin-1"):
            name, _, text = line.partition(":")
            fields[name.strip().lower()] = text.strip()
        if fields.get("expect", "").lower() == "100-continue":
            reader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        address = urlsplit(target)
        asked = _Asked(method, unquote(address.path), dict(parse_qsl(address.query, keep_blank_values=True)), fields)
        try:
            came, body = _body_of(asked, reader)
            is_count = asked.path == TOTALS
            answer = _Answer(200, json.dumps(self.totals()).encode()) if is_count else self._answer(asked, came, body)
        except SinkError as error:
            body = f"<Error><Code>{error.code}</Code><Message>the sink: {error}</Message></Error>".encode()
            answer = _Answer(error.status, body)
        reader.sock.sendall(answer.wire(is_head=method == "HEAD"))

    # -- requests ---------------------------------------------------------------------------------

    def _answer(self, asked: _Asked, came: Stored, body: bytes) -> _Answer:
        with self._lock:
            if "uploads" in asked.query and asked.method == "POST":
                return self._begin(asked)
            if "uploadId" in asked.query:
                return self._of_upload(asked, came, body)
            if asked.method == "PUT":
                self._refuse_existing(asked)
                self._objects[asked.path] = came
                return _Answer(200, b"", {"etag": came.etag})
            if asked.method == "DELETE":
                self._objects.pop(asked.path, None)
                return _Answer(204)
            if asked.method == "HEAD" and asked.path in self._objects:
                found = self._objects[asked.path]
                return _Answer(200, b"", {"etag": found.etag, "content-length": str(found.size)})
        raise SinkError(404 if asked.method in ("HEAD", "GET") else 501, "NoSuchKey")

    def _refuse_existing(self, asked: _Asked) -> None:
        if asked.fields.get("if-none-match") == "*" and asked.path in self._objects:
            raise SinkError(412, "PreconditionFailed")

    def _begin(self, asked: _Asked) -> _Answer:
        self._begun += 1
        self._uploads[str(self._begun)] = _Upload(asked.path)
        told = f"<UploadId>{self._begun}</UploadId>"
        return _Answer(200, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode())

    def _of_upload(self, asked: _Asked, came: Stored, body: bytes) -> _Answer:
        upload = self._uploads.get(asked.query["uploadId"])
        if upload is None or upload.path != asked.path:
            raise SinkError(404, "NoSuchUpload")
        if asked.method == "PUT":
            upload.parts[int(asked.query["partNumber"])] = came
            self._part_bytes += came.size
            return _Answer(200, b"", {"etag": came.etag, **_sums_of(asked.fields)})
        if asked.method == "POST":
            self._refuse_existing(asked)
            self._objects[asked.path] = joined = _join(upload, body)
            told = f"<ETag>{joined.etag}</ETag>"
        elif asked.method != "DELETE":
            raise SinkError(501, "NotImplemented")
        del self._uploads[asked.query["uploadId"]]
        if asked.method == "DELETE":
            return _Answer(204)
        return _Answer(200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode())


@dataclass(frozen=True)
class _Asked:
    method: str
    path: str
    query: Mapping[str, str]
    fields: Mapping[str, str]


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)

    def wire(self, *, is_head: bool) -> bytes:
        fields = {"content-type": "application/xml", "content-length": str(len(self.body)), **self.fields}
        if self.status == 204:
            del fields["content-length"]
        lines = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
        return f"HTTP/1.1 {self.status} Sink\r\n{lines}\r\n".encode() + (b"" if is_head else self.body)


def _sums_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The checksums that a part came with, which some clients want to hear again."""
    return {name: text for name, text in fields.items() if name.startswith("x-amz-checksum-")}


def _body_of(asked: _Asked, reader: _Reader) -> tuple[Stored, bytes]:
    """Take a body: how large it is, its sum if it is to be proved, and itself if it is a request's words."""
    length = int(asked.fields.get("content-length", "0"))
    if asked.method == "POST":
        return Stored(length), bytes(reader.take(length))
    if "transfer-encoding" in asked.fields:
        raise SinkError(501, "NotImplemented")
    if "aws-chunked" not in asked.fields.get("content-encoding", ""):
        return Stored(length, _swallow(asked, reader, length, 0)), b""
    size = crc = 0
    while count := int(reader.line().split(b";")[0], 16):
        crc = _swallow(asked, reader, count, crc)
        size += count
        reader.line()
    while reader.line():  # trailer fields
        pass
    if size != int(asked.fields.get("x-amz-decoded-content-length", size)):
        raise SinkError(400, "IncompleteBody")
    return Stored(size, crc), b""


def _swallow(asked: _Asked, reader: _Reader, count: int, crc: int) -> int:
    if not asked.path.endswith(PROOF):
        reader.drop(count)
        return 0
    from awscrt.checksums import crc32c

    return int(crc32c(reader.take(count), crc))


def _join(upload: _Upload, request: bytes) -> Stored:
    """The object that parts make, if they fit together as S3 asks."""
    numbers = [int(number) for number in _NUMBER.findall(request)]
    if not numbers or numbers != sorted(upload.parts) or numbers != list(range(1, len(numbers) + 1)):
        raise SinkError(400, "InvalidPart")
    parts = [upload.parts[number] for number in numbers]
    if any(part.size < _LEAST_PART_BYTES for part in parts[:-1]):
        raise SinkError(400, "EntityTooSmall")
    size, crc = sum(part.size for part in parts), 0
    if upload.path.endswith(PROOF):
        from awscrt.checksums import combine_crc32c

        for part in parts:
            crc = combine_crc32c(crc, part.crc, part.size)
    return Stored(size, crc, len(parts))


def _is_right(path: str, stored: Stored) -> bool:
    if not path.endswith(PROOF) or stored.size % PIECE_BYTES:
        return False
    from awscrt.checksums import combine_crc32c

    crc = 0
    for _ in range(stored.size // PIECE_BYTES):
        crc = combine_crc32c(crc, _piece_crc(), PIECE_BYTES)
    return crc == stored.crc


@cache
def _piece_crc() -> int:
    from awscrt.checksums import crc32c

    return int(crc32c(piece()))


# -- as a program -----------------------------------------------------------------------------------


@contextlib.contextmanager
def running() -> Iterator[str]:
    """A sink in a process of its own, so that it shares no interpreter lock with anybody: its endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - the run has no threads
    )
    assert process.stdout is not None
    try:
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint:
            raise RuntimeError("the sink did not start")
        yield endpoint
    finally:
        end_process(process, signal.SIGTERM)
        process.stdout.close()


def totals_of(endpoint: str) -> dict[str, Any]:
    """What `Sink.totals` of another process says."""
    with urllib.request.urlopen(endpoint + TOTALS) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


if __name__ == "__main__":
    with Sink.started() as _sink:
        print(_sink.endpoint, flush=True)
        signal.pause()
