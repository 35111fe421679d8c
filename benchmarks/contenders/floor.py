"""The floor: bare sockets, `recv_into` with MSG_WAITALL, one recycled buffer per thread, no signing.

For: what Python could do at best if there were no S3 client at all.
Must not know: S3 beyond the path of an object.
"""

from __future__ import annotations

import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from benchmarks.crowd import share
from benchmarks.memory import fresh, touched
from benchmarks.objects import BIG_KEY, BUCKET
from benchmarks.put_works import writing
from benchmarks.worker import Action, Haul, Job, held_whole, serve

PART = 8 * 1024 * 1024
_HEAD_ROOM = 4096
_LOCAL = threading.local()


def _socket(endpoint: str) -> socket.socket:
    """This thread's connection, kept from one round to the next."""
    if not hasattr(_LOCAL, "sock"):
        parts = urlsplit(endpoint)
        _LOCAL.sock = socket.create_connection((parts.hostname, parts.port))
        _LOCAL.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _LOCAL.scratch = bytearray(_HEAD_ROOM)
    sock: socket.socket = _LOCAL.sock
    return sock


def request_text(key: str, extra: str = "") -> bytes:
    """The least that nginx takes for a request."""
    return f"GET /{BUCKET}/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode()


def receive(sock: socket.socket, request: bytes, target: memoryview) -> None:
    """One response: the body into `target`, whatever of it came along with the head included."""
    sock.sendall(request)
    scratch = _LOCAL.scratch
    got = sock.recv_into(scratch)
    end = scratch.find(b"\r\n\r\n", 0, got) + 4
    if end < 4 or not scratch.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"the origin answered {bytes(scratch[:80])!r}")
    early = got - end
    target[:early] = memoryview(scratch)[end:got]
    left = target[early:]
    if len(left) and sock.recv_into(left, 0, socket.MSG_WAITALL) != len(left):
        raise RuntimeError("the origin closed the connection in the middle of a body")


def small(job: Job) -> Action:
    """All objects through N threads, each with its own connection and its own recycled buffer."""
    requests = [request_text(key) for key in job.object_keys()]
    threads, size = job.setting["in_flight"], job.manifest.small_size

    def take(index: int) -> None:
        sock = _socket(job.endpoint)
        if len(getattr(_LOCAL, "view", b"")) != size:
            _LOCAL.view = memoryview(bytearray(size))
        receive(sock, requests[index], _LOCAL.view)
        if job.proof:
            job.proof.small(index, _LOCAL.view)

    def action() -> Haul:
        count = len(share(take, job.indices(), threads))
        return Haul(count, count * size)

    return action


def _fill(job: Job, target: memoryview) -> None:
    """The big object by ranges, each straight to its place."""
    threads, size = job.setting["in_flight"], job.manifest.big_size

    def part(start: int) -> None:
        stop = min(start + PART, size)
        request = request_text(BIG_KEY, f"Range: bytes={start}-{stop - 1}\r\n")
        receive(_socket(job.endpoint), request, target[start:stop])

    share(part, range(0, size, PART), threads)


def big(job: Job) -> Action:
    """Into fresh memory, as a `get` has to."""

    def action() -> Haul:
        memory = fresh(job.manifest.big_size)
        _fill(job, memoryview(memory))
        return held_whole(memory)

    return action


def big_into(job: Job) -> Action:
    """Into the same memory every round."""
    memory: Any = touched(job.manifest.big_size)

    def action() -> Haul:
        _fill(job, memoryview(memory))
        return held_whole(memory)

    return action


def put(job: Job) -> Action:
    """Parts by threads, each summed and sent from the one buffer, without any other header field."""
    from awscrt.checksums import crc32c

    def write(key: str, count: int, memory: memoryview) -> None:
        upload = _told(job, f"POST /{BUCKET}/{key}?uploads", b"").split(b"<UploadId>")[1].split(b"<")[0].decode()

        def send(number: int) -> None:
            total = crc32c(memory)
            _told(job, f"PUT /{BUCKET}/{key}?partNumber={number}&uploadId={upload}", memory, f"x-sum: {total}\r\n")

        share(send, range(1, count + 1), job.setting["in_flight"])
        parts = "".join(f"<PartNumber>{number}</PartNumber>" for number in range(1, count + 1)).encode()
        _told(job, f"POST /{BUCKET}/{key}?uploadId={upload}", parts)

    return writing(job, write)


def _told(job: Job, request: str, body: Any, extra: str = "") -> bytes:
    sock = _socket(job.endpoint)
    sock.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode())
    if len(body):
        sock.sendall(body)
    answer = sock.recv(_HEAD_ROOM)
    if not answer.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"the sink answered {answer[:80]!r}")
    return answer


WORKS = {"put": put, "small": small, "big": big, "big_into": big_into}

if __name__ == "__main__":
    serve(WORKS)
