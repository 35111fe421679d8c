"""The sink: an S3 server over loopback that takes objects, whole or by parts, and throws their bytes away.

For: measuring what a writer can do when the server costs next to nothing. It counts every byte, refuses parts that
do not fit together, and sums the bytes of objects whose key says that they are to be proved.
Must not know: who writes to it. Run by itself (`python -m benchmarks.sink`) it tells its port and serves until killed.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from benchmarks import serving
from benchmarks.put_works import PIECE_BYTES, piece
from benchmarks.serving import Answer, Asked, Reader, RefusedError, Server, serve_alone, sums_of, take_body

#: Keys that end in this are received and summed; what others bring is counted only.
PROOF = "-proof"
#: Where the sink itself is asked what came.
TOTALS = "/_totals"
_LEAST_PART_BYTES = 5 << 20
_NUMBER = re.compile(rb"<PartNumber>\s*(\d+)\s*</PartNumber>")


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


class Sink(Server):
    """A running sink, served by threads of this process: `with Sink.started() as sink`."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._objects: dict[str, Stored] = {}
        self._uploads: dict[str, _Upload] = {}
        self._begun = 0
        self._part_bytes = 0

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
                "trouble": list(self.trouble),
            }

    # -- requests ---------------------------------------------------------------------------------

    def answer(self, asked: Asked, reader: Reader) -> Answer:
        """See `Server.answer`."""
        came, body = _body_of(asked, reader)
        if asked.path == TOTALS:
            return Answer(200, json.dumps(self.totals()).encode())
        return self._answer(asked, came, body)

    def _answer(self, asked: Asked, came: Stored, body: bytes) -> Answer:
        with self._lock:
            if "uploads" in asked.query and asked.method == "POST":
                return self._begin(asked)
            if "uploadId" in asked.query:
                return self._of_upload(asked, came, body)
            if asked.method == "PUT":
                self._refuse_existing(asked)
                self._objects[asked.path] = came
                return Answer(200, b"", {"etag": came.etag})
            if asked.method == "DELETE":
                self._objects.pop(asked.path, None)
                return Answer(204)
            if asked.method == "HEAD" and asked.path in self._objects:
                found = self._objects[asked.path]
                return Answer(200, b"", {"etag": found.etag, "content-length": str(found.size)})
        raise RefusedError(404 if asked.method in ("HEAD", "GET") else 501, "NoSuchKey")

    def _refuse_existing(self, asked: Asked) -> None:
        if asked.fields.get("if-none-match") == "*" and asked.path in self._objects:
            raise RefusedError(412, "PreconditionFailed")

    def _begin(self, asked: Asked) -> Answer:
        self._begun += 1
        self._uploads[str(self._begun)] = _Upload(asked.path)
        told = f"<UploadId>{self._begun}</UploadId>"
        return Answer(200, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode())

    def _of_upload(self, asked: Asked, came: Stored, body: bytes) -> Answer:
        upload = self._uploads.get(asked.query["uploadId"])
        if upload is None or upload.path != asked.path:
            raise RefusedError(404, "NoSuchUpload")
        if asked.method == "PUT":
            upload.parts[int(asked.query["partNumber"])] = came
            self._part_bytes += came.size
            return Answer(200, b"", {"etag": came.etag, **sums_of(asked.fields)})
        if asked.method == "POST":
            self._refuse_existing(asked)
            self._objects[asked.path] = joined = _join(upload, body)
            told = f"<ETag>{joined.etag}</ETag>"
        elif asked.method != "DELETE":
            raise RefusedError(501, "NotImplemented")
        del self._uploads[asked.query["uploadId"]]
        if asked.method == "DELETE":
            return Answer(204)
        return Answer(200, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode())


def _body_of(asked: Asked, reader: Reader) -> tuple[Stored, bytes]:
    """Take a body: how large it is, its sum if it is to be proved, and itself if it is a request's words."""
    if asked.method == "POST":
        words = bytes(reader.take(int(asked.fields.get("content-length", "0"))))
        return Stored(len(words)), words
    crc = 0

    def take(count: int) -> None:
        nonlocal crc
        crc = _swallow(asked, reader, count, crc)

    size = take_body(asked, reader, take)
    return Stored(size, crc), b""


def _swallow(asked: Asked, reader: Reader, count: int, crc: int) -> int:
    if not asked.path.endswith(PROOF):
        reader.drop(count)
        return 0
    from awscrt.checksums import crc32c

    return int(crc32c(reader.take(count), crc))


def _join(upload: _Upload, request: bytes) -> Stored:
    """The object that parts make, if they fit together as S3 asks."""
    numbers = [int(number) for number in _NUMBER.findall(request)]
    if not numbers or numbers != sorted(upload.parts) or numbers != list(range(1, len(numbers) + 1)):
        raise RefusedError(400, "InvalidPart")
    parts = [upload.parts[number] for number in numbers]
    if any(part.size < _LEAST_PART_BYTES for part in parts[:-1]):
        raise RefusedError(400, "EntityTooSmall")
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


def running() -> AbstractContextManager[str]:
    """A sink in a process of its own: its endpoint."""
    return serving.running("benchmarks.sink")


def totals_of(endpoint: str) -> dict[str, Any]:
    """What `Sink.totals` of another process says."""
    with urllib.request.urlopen(endpoint + TOTALS) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


if __name__ == "__main__":
    serve_alone(Sink)
