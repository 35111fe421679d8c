"""Reading the head of an HTTP response.

Floor 2. Pure: bytes in, a value out. Must not know sockets. Hostile input may make it raise
:class:`ProtocolError` and nothing else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from s3dlio.errors import StoreUnavailableError

#: A head longer than this is refused; S3's are below 2 KiB (user metadata included: 4 KiB).
MAX_HEAD_BYTES = 64 * 1024


class ProtocolError(StoreUnavailableError):
    """The far side does not speak HTTP as it should; the connection cannot be used further."""


class ContentRange(NamedTuple):
    """A parsed ``Content-Range``: half-open, ``total`` is ``None`` when the server said ``*``.

    For an unsatisfied range (``bytes */N``) start and stop are both -1.
    """

    start: int
    stop: int
    total: int | None


_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_MOST_DIGITS = 19  # what fits into 64 bits
_RANGE = re.compile(rb"bytes (?:(\d{1,19})-(-1|\d{1,19})|\*)/(\d{1,19}|\*)", re.IGNORECASE)


class Head:
    """The head of one response.

    Attributes:
        status: Status code.
        length: Bytes of the body by ``Content-Length``, or ``None``.
        chunked: The body comes in chunks.
        keep_alive: The connection may be used again after the body.
        etag: The entity tag, quotes included, or an empty string.
        content_range: The parsed ``Content-Range``, or ``None``.
    """

    __slots__ = ("_folded", "_raw", "chunked", "content_range", "etag", "keep_alive", "length", "status")

    def __init__(self, raw: bytes) -> None:
        start = _STATUS.match(raw)
        if start is None:
            msg = f"not the head of an HTTP/1 response: {raw[:60]!r}"
            raise ProtocolError(msg)
        self._raw = raw
        self._folded = folded = raw.lower()
        self.status = int(start[2])
        # Only the fields that every answer is asked for, by searching: a dict of all fields costs five
        # times as much, and at 25,000 answers a second that is a tenth of a core.
        length = self._find(b"\ncontent-length:", single=True)
        self.length = _to_length(length) if length else None
        self.etag = self._find(b"\netag:").decode("latin-1")
        part = self._find(b"\ncontent-range:")
        self.content_range = parse_content_range(part) if part else None
        coding = b"\ntransfer-encoding:" in folded and self._find(b"\ntransfer-encoding:").lower()
        self.chunked = bool(coding) and coding != b"identity"
        words = b"\nconnection:" in folded and self._find(b"\nconnection:").lower()
        self.keep_alive = start[1] == b"1" or b"keep-alive" in (words or b"")
        if words and b"close" in words:
            self.keep_alive = False

    def _find(self, name: bytes, *, single: bool = False) -> bytes:
        """Return the value of a field, named with the line end before and the colon behind, or nothing."""
        at = self._folded.find(name)
        if at < 0:
            return b""
        begin = at + len(name)
        if single and self._folded.find(name, begin) >= 0:
            values = {value.strip() for value in self.field(name[1:-1].decode()).split(",")}
            if len(values) > 1:
                msg = f"contradictory {name[1:-1].decode()}: {sorted(values)}"
                raise ProtocolError(msg)
        return self._raw[begin : self._raw.find(b"\r", begin)].strip()

    def fields(self) -> dict[str, str]:
        """Return all header fields, names in lower case; repeated ones are joined by commas."""
        found: dict[str, str] = {}
        # Not by one regular expression: on hostile blanks it would take time by their square or cube.
        for line in self._raw.decode("latin-1").split("\r\n")[1:]:
            name, colon, rest = line.partition(":")
            key = name.rstrip(" \t").lower()
            if colon and _NAME.fullmatch(key):
                value = rest.strip(" \t")
                found[key] = f"{found[key]}, {value}" if key in found else value
        return found

    def field(self, name: str) -> str:
        """Return one header field (any case), or an empty string."""
        return self.fields().get(name.lower(), "")


def _to_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _MOST_DIGITS:
        msg = f"bad Content-Length: {value[:40]!r}"
        raise ProtocolError(msg)
    return int(value)


def parse_content_range(value: bytes) -> ContentRange:
    """Parse the value of a ``Content-Range`` field.

    Raises:
        ProtocolError: It is not of the form ``bytes first-last/total``, or contradicts itself.
    """
    match = _RANGE.fullmatch(value)
    if match is None:
        msg = f"bad Content-Range: {value[:60]!r}"
        raise ProtocolError(msg)
    first, last, size = match.groups()
    total = None if size == b"*" else int(size)
    if first is None:
        return ContentRange(-1, -1, total)
    start, stop = int(first), int(last) + 1
    # "bytes 0--1/0" is how azurite calls the empty range at the end of an object.
    if (stop == start and total != start) or stop < start or (total is not None and stop > total):
        msg = f"contradictory Content-Range: {value[:60]!r}"
        raise ProtocolError(msg)
    return ContentRange(start, stop, total)


def find_end(data: bytes | bytearray, filled: int, searched: int) -> int:
    """Return the position behind the blank line that ends a head, or -1 while it is not there.

    Args:
        data: The buffer.
        filled: Bytes of it that hold data.
        searched: Bytes that an earlier call has already looked at.
    """
    found = data.find(b"\r\n\r\n", max(0, searched - 3), filled)
    return -1 if found < 0 else found + 4
