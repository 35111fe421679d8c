"""Room card: the ways in which an HTTP origin can go wrong, each as a small value.

Knows how a right reply looks on the wire and how each fault bends what is said or how it is sent.  Must not
know sockets: a fault turns a reply into steps, which the origin carries out.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from tests.servers.reply import End, Pause, Reply, Step
from tests.servers.rules import error_xml

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRICKLE_STEP_S = 0.02


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with one reply; this one does not."""

    def bend(self, reply: Reply) -> Reply:
        """Returns what is said instead of the right reply."""
        return reply

    def steps(self, reply: Reply) -> list[Step]:
        """Returns how the (bent) reply is sent."""
        return [reply.head + reply.payload]


@dataclass(frozen=True)
class Status(Fault):
    """Another status, with these headers and this body, instead of the right reply.

    Attributes:
        acts: Whether what was asked for is done all the same.
    """

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    acts: bool = False

    def bend(self, reply: Reply) -> Reply:
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        return replace(reply, status=self.code, headers=headers, body=self.body)


def s3_error(status: int, code: str, **headers: str) -> Status:
    """Returns an error as S3 tells it, such as ``s3_error(503, "SlowDown", Retry_After="1")``."""
    told = {"Content-Type": "application/xml"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return Status(status, told, error_xml(code, f"{code}, as planned."))


def redirect(location: str, code: int = 307) -> Status:
    """Returns a redirect as S3 tells it."""
    return s3_error(code, "TemporaryRedirect", Location=location)


@dataclass(frozen=True)
class ResetInHead(Fault):
    """A connection reset after some bytes of the head."""

    after_bytes: int = 0

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head[: self.after_bytes], End.RESET]


@dataclass(frozen=True)
class ResetInBody(Fault):
    """A connection reset after some bytes of the body."""

    after_bytes: int = 0

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload[: self.after_bytes], End.RESET]


@dataclass(frozen=True)
class ShortBody(Fault):
    """A clean end of the connection although the head promised more."""

    missing_bytes: int = 1

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload[: -self.missing_bytes], End.CLOSE]


@dataclass(frozen=True)
class Stall(Fault):
    """Silence after some bytes of the body; then, if the client is still there, the rest."""

    after_bytes: int
    seconds: float

    def steps(self, reply: Reply) -> list[Step]:
        sent, rest = reply.payload[: self.after_bytes], reply.payload[self.after_bytes :]
        return [reply.head + sent, Pause(self.seconds), rest]


@dataclass(frozen=True)
class StallHead(Fault):
    """Silence in the middle of the status line; then, if the client is still there, the rest."""

    seconds: float

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head[:9], Pause(self.seconds), reply.head[9:] + reply.payload]


@dataclass(frozen=True)
class Latency(Fault):
    """The right reply, late."""

    seconds: float

    def steps(self, reply: Reply) -> list[Step]:
        return [Pause(self.seconds), reply.head + reply.payload]


@dataclass(frozen=True)
class Trickle(Fault):
    """The right body, slowly."""

    bytes_per_s: int

    def steps(self, reply: Reply) -> list[Step]:
        size = max(1, int(self.bytes_per_s * _TRICKLE_STEP_S))
        steps: list[Step] = [reply.head]
        for start in range(0, len(reply.payload), size):
            slice_ = reply.payload[start : start + size]
            steps += [Pause(len(slice_) / self.bytes_per_s), slice_]
        return steps


@dataclass(frozen=True)
class WrongContentRange(Fault):
    """The right part of the object under a wrong, or without a, Content-Range.

    Attributes:
        shift: Added to the first and the last byte's position.
        total: Told as the object's size; None for the right one.
        missing: Whether to leave the header out.
    """

    shift: int = 0
    total: int | None = None
    missing: bool = False

    def bend(self, reply: Reply) -> Reply:
        told = reply.headers.get("Content-Range")
        if told is None or self.missing:
            return reply.with_headers("Content-Range")
        span, total = told.removeprefix("bytes ").split("/")
        first, last = (int(position) + self.shift for position in span.split("-"))
        size = total if self.total is None else self.total
        return reply.with_headers(Content_Range=f"bytes {first}-{last}/{size}")


@dataclass(frozen=True)
class ChangeContent(Fault):
    """From this request on the object has other content, and so another ETag; the reply is right."""

    body: bytes


@dataclass(frozen=True)
class ChangeEtag(Fault):
    """From this request on the object has another ETag; the reply is right."""

    etag: str = '"changed"'


@dataclass(frozen=True)
class CloseIdle(Fault):
    """The right reply, after which the connection is closed without a word.

    Attributes:
        after_s: How long the connection stays open after the reply.
    """

    after_s: float = 0.0

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload, Pause(self.after_s), End.CLOSE]


@dataclass(frozen=True)
class Chunked(Fault):
    """The right body in chunks, without a Content-Length."""

    chunk_bytes: int = 1000

    def bend(self, reply: Reply) -> Reply:
        return reply.with_headers("Content-Length", Transfer_Encoding="chunked")

    def steps(self, reply: Reply) -> list[Step]:
        if reply.head_only:
            return [reply.head]
        starts = range(0, len(reply.body), self.chunk_bytes)
        chunks = [reply.body[start : start + self.chunk_bytes] for start in starts]
        coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        return [reply.head + coded + b"0\r\n\r\n"]


@dataclass(frozen=True)
class NoContentLength(Fault):
    """The right body, whose end is the end of the connection, as in HTTP/1.0."""

    def bend(self, reply: Reply) -> Reply:
        return replace(reply.with_headers("Content-Length"), version="HTTP/1.0")

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload, End.CLOSE]


@dataclass(frozen=True)
class GarbageHead(Fault):
    """Something that is not HTTP."""

    data: bytes = b"\x16\x03\x01 SSH-2.0-what\r\n\r\n"

    def steps(self, reply: Reply) -> list[Step]:
        return [self.data, End.CLOSE]


@dataclass(frozen=True)
class HugeHead(Fault):
    """A head of so many bytes that is still not at its end."""

    size: int = 1 << 20

    def steps(self, reply: Reply) -> list[Step]:
        start = reply.head.removesuffix(b"\r\n") + b"X-Filler: "
        return [start + b"a" * (self.size - len(start)), End.CLOSE]


@dataclass(frozen=True)
class WholeBodyOn206Asked(Fault):
    """The whole object with status 200, as if no Range had been sent."""

    def bend(self, reply: Reply) -> Reply:
        whole = reply.with_headers("Content-Range", Content_Length=str(len(reply.whole)))
        return replace(whole, status=200, body=reply.whole)


@dataclass(frozen=True)
class PartAs200(Fault):
    """The right part under its Content-Range, but with status 200, as some small S3 servers have it."""

    def bend(self, reply: Reply) -> Reply:
        return replace(reply, status=200)


@dataclass(frozen=True)
class ExtraBytes(Fault):
    """More bytes after the body than the Content-Length says."""

    count: int = 10

    def steps(self, reply: Reply) -> list[Step]:
        return [reply.head + reply.payload + b"!" * self.count]


@dataclass(frozen=True)
class InterimResponse(Fault):
    """An interim response before the real one."""

    code: int = 103

    def steps(self, reply: Reply) -> list[Step]:
        hints = {} if self.code == HTTPStatus.CONTINUE else {"Link": "</style.css>; rel=preload"}
        interim = Reply(self.code, hints)
        return [interim.head + reply.head + reply.payload]


@dataclass(frozen=True)
class LowerCaseHeaders(Fault):
    """The right reply with its header names in lower case and no space after the colon."""

    def steps(self, reply: Reply) -> list[Step]:
        first, *lines = reply.head.decode("latin-1").split("\r\n")
        parts = [line.partition(": ") for line in lines]
        lower = [name.lower() + colon.strip() + value for name, colon, value in parts]
        return ["\r\n".join([first, *lower]).encode("latin-1") + reply.payload]


@dataclass(frozen=True)
class ContentEncodingGzip(Fault):
    """The right body compressed, and saying so."""

    def bend(self, reply: Reply) -> Reply:
        body = gzip.compress(reply.body)
        coded = reply.with_headers(Content_Length=str(len(body)), Content_Encoding="gzip")
        return replace(coded, body=body)
