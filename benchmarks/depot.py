"""The depot: an S3 server over loopback that keeps what it is given, in files in memory that nobody else sees.

For: measuring loads of what a client has saved before, and proving saves by loading them again. Below `THROWN` it
keeps short bodies only and throws the long ones away like the sink: a client can save there, with all that it asks
for before and after, and the server costs next to nothing.
Must not know: who writes to it. Run by itself (`python -m benchmarks.depot`) it tells its port and serves until killed;
its files are the kernel's and go with it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import resource
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape, unescape

from benchmarks import serving
from benchmarks.objects import BUCKET
from benchmarks.serving import Answer, Asked, Reader, RefusedError, Server, Stretch, serve_alone, sums_of, take_body

#: A folder of the bucket whose long objects are thrown away.
THROWN = "thrown/"
#: Where the depot itself is asked to forget everything.
CLEAR = "/_clear"
_THROWN_PATH = f"/{BUCKET}/{THROWN}"
_SHORT_BYTES = 1 << 20
_LEAST_PART_BYTES = 5 << 20
_PIECE_BYTES = 1 << 20
_ROOTS = (f"/{BUCKET}", f"/{BUCKET}/")
_NUMBER = re.compile(rb"<PartNumber>\s*(\d+)\s*</PartNumber>")
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class Body:
    """What came with one request, in a file that has no name and goes with this object."""

    def __init__(self) -> None:
        self.size = 0
        self.file = os.memfd_create("depot")
        self.is_thrown = False

    def __del__(self) -> None:
        os.close(self.file)

    def take(self, reader: Reader, count: int) -> None:
        """Append so many bytes."""
        room = memoryview(bytearray(min(count, _PIECE_BYTES)))
        for start in range(0, count, _PIECE_BYTES):
            piece = room[: min(_PIECE_BYTES, count - start)]
            reader.fill(piece)
            while len(piece):
                piece = piece[os.write(self.file, piece) :]
        self.size += count

    def drop(self, reader: Reader, count: int) -> None:
        """Throw so many bytes away; what is left of this is its size."""
        reader.drop(count)
        self.is_thrown = True
        self.size += count


@dataclass(frozen=True)
class Stored:
    """An object: the bodies that it was put together from, in their order."""

    bodies: Sequence[Body]
    etag: str
    modified: float

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(body.size for body in self.bodies)

    def stretches(self, start: int, stop: int) -> Iterator[Stretch]:
        """Where a range of it lies."""
        at = 0
        for body in self.bodies:
            low, high = max(start, at), min(stop, at + body.size)
            if low < high:
                if body.is_thrown:
                    raise RefusedError(500, "ThrownAway")
                yield Stretch(body.file, low - at, high - low)
            at += body.size


@dataclass
class _Upload:
    path: str
    parts: dict[int, Stored] = field(default_factory=dict)


class Depot(Server):
    """A running depot, served by threads of this process: `with Depot.started() as depot`."""

    def __init__(self) -> None:
        super().__init__()
        # Every part is an open file.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._lock = threading.Lock()
        self._objects: dict[str, Stored] = {}
        self._uploads: dict[str, _Upload] = {}
        self._numbers = itertools.count(1)

    def answer(self, asked: Asked, reader: Reader) -> Answer:
        """See `Server.answer`."""
        if asked.method == "POST":
            words = bytes(reader.take(int(asked.fields.get("content-length", "0"))))
            with self._lock:
                return self._post(asked, words)
        if asked.method == "PUT":
            came = self._body_of(asked, reader)
            with self._lock:
                return self._put(asked, came)
        with self._lock:
            if asked.method == "DELETE":
                self._uploads.pop(asked.query.get("uploadId", ""), None)
                if "uploadId" not in asked.query:
                    self._objects.pop(asked.path, None)
                return Answer(204)
            if asked.method in ("GET", "HEAD"):
                return self._listed(asked) if asked.path in _ROOTS else self._get(asked)
        raise RefusedError(501, "NotImplemented")

    def _body_of(self, asked: Asked, reader: Reader) -> Stored:
        """Take a body; what is long and to be thrown away leaves its size alone."""
        body = Body()
        length = int(asked.fields.get("x-amz-decoded-content-length", asked.fields.get("content-length", "0")))
        is_thrown = asked.path.startswith(_THROWN_PATH) and length > _SHORT_BYTES
        take = body.drop if is_thrown else body.take
        take_body(asked, reader, lambda count: take(reader, count))
        return self._stored([body])

    def _stored(self, bodies: Sequence[Body]) -> Stored:
        # A number is enough: no client here holds the tag against its own sum of the bytes.
        words = hashlib.md5(str(next(self._numbers)).encode(), usedforsecurity=False).hexdigest()
        return Stored(bodies, f'"{words}-{len(bodies)}"', time.time())

    # -- what comes in --------------------------------------------------------------------------------

    def _put(self, asked: Asked, came: Stored) -> Answer:
        if source := asked.fields.get("x-amz-copy-source"):
            found = self._objects[self._known("/" + unquote(source).lstrip("/"))]
            self._objects[asked.path] = copied = self._stored(found.bodies)
            return Answer(200, _xml("CopyObjectResult", f"<ETag>{copied.etag}</ETag>{_modified(copied)}"))
        if "uploadId" in asked.query:
            self._upload_of(asked).parts[int(asked.query["partNumber"])] = came
            return Answer(200, fields={"etag": came.etag, **sums_of(asked.fields)})
        self._refuse_existing(asked)
        self._objects[asked.path] = came
        return Answer(200, fields={"etag": came.etag})

    def _post(self, asked: Asked, words: bytes) -> Answer:
        if asked.path == CLEAR:
            self._objects.clear()
            self._uploads.clear()
            return Answer(204)
        if "delete" in asked.query:
            keys = [unescape(key.decode(), {"&quot;": '"', "&apos;": "'"}) for key in _KEY.findall(words)]
            for key in keys:
                self._objects.pop(f"/{BUCKET}/{key}", None)
            return Answer(200, _xml("DeleteResult", ""))
        if "uploads" in asked.query:
            number = str(next(self._numbers))
            self._uploads[number] = _Upload(asked.path)
            return Answer(200, _xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>"))
        if "uploadId" in asked.query:
            return self._complete(asked, words)
        raise RefusedError(501, "NotImplemented")

    def _complete(self, asked: Asked, words: bytes) -> Answer:
        self._refuse_existing(asked)
        parts = self._upload_of(asked).parts
        numbers = [int(number) for number in _NUMBER.findall(words)]
        if not numbers or numbers != sorted(parts):
            raise RefusedError(400, "InvalidPart")
        if any(parts[number].size < _LEAST_PART_BYTES for number in numbers[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        self._objects[asked.path] = made = self._stored([parts[number].bodies[0] for number in numbers])
        del self._uploads[asked.query["uploadId"]]
        return Answer(200, _xml("CompleteMultipartUploadResult", f"<ETag>{made.etag}</ETag>"))

    def _upload_of(self, asked: Asked) -> _Upload:
        upload = self._uploads.get(asked.query["uploadId"])
        if upload is None or upload.path != asked.path:
            raise RefusedError(404, "NoSuchUpload")
        return upload

    def _refuse_existing(self, asked: Asked) -> None:
        if asked.fields.get("if-none-match") == "*" and asked.path in self._objects:
            raise RefusedError(412, "PreconditionFailed")

    def _known(self, path: str) -> str:
        if path not in self._objects:
            raise RefusedError(404, "NoSuchKey")
        return path

    # -- what goes out --------------------------------------------------------------------------------

    def _get(self, asked: Asked) -> Answer:
        found = self._objects[self._known(asked.path)]
        if asked.fields.get("if-match", found.etag) not in (found.etag, found.etag.strip('"'), "*"):
            raise RefusedError(412, "PreconditionFailed")
        fields = {
            "etag": found.etag,
            "last-modified": formatdate(found.modified, usegmt=True),
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
        }
        start, stop = _range(asked.fields.get("range", ""), found.size)
        is_part = "range" in asked.fields
        if is_part:
            fields["content-range"] = f"bytes {start}-{stop - 1}/{found.size}"
        if asked.method == "HEAD":
            return Answer(206 if is_part else 200, fields=fields | {"content-length": str(stop - start)})
        stretches = tuple(found.stretches(start, stop))
        return Answer(206 if is_part else 200, fields=fields, stretches=stretches, owner=found)

    def _listed(self, asked: Asked) -> Answer:
        """All objects below a prefix, in one page; what goes on after the delimiter is told as prefixes."""
        prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "")
        is_url = asked.query.get("encoding-type") == "url"
        encoded = quote if is_url else escape
        entries, folders = [], set()
        for path, found in sorted(self._objects.items()):
            key = path.removeprefix(f"/{BUCKET}/")
            if not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                folders.add(prefix + head + cut)
                continue
            told = f"<Key>{encoded(key)}</Key><Size>{found.size}</Size><ETag>{escape(found.etag)}</ETag>"
            entries.append(f"<Contents>{told}{_modified(found)}</Contents>")
        entries += [
            f"<CommonPrefixes><Prefix>{encoded(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)
        ]
        told = f"<Name>{BUCKET}</Name><Prefix>{encoded(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        told += "<EncodingType>url</EncodingType>" if is_url else ""
        return Answer(200, _xml("ListBucketResult", f"{told}<IsTruncated>false</IsTruncated>{''.join(entries)}"))


def _range(text: str, size: int) -> tuple[int, int]:
    """First byte and end of what is asked for."""
    if not text:
        return 0, size
    found = _RANGE.match(text)
    if found is None or found[1] == found[2] == "":
        raise RefusedError(416, "InvalidRange")
    start = int(found[1]) if found[1] else max(0, size - int(found[2]))
    stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
    if start >= stop:
        raise RefusedError(416, "InvalidRange")
    return start, stop


def _modified(stored: Stored) -> str:
    return f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(stored.modified))}</LastModified>"


def _xml(name: str, told: str) -> bytes:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{space}">{told}</{name}>'.encode()


def running() -> AbstractContextManager[str]:
    """A depot in a process of its own: its endpoint."""
    return serving.running("benchmarks.depot")


def clear(endpoint: str) -> None:
    """Have a depot forget everything."""
    urllib.request.urlopen(urllib.request.Request(endpoint + CLEAR, method="POST", data=b"")).close()


if __name__ == "__main__":
    serve_alone(Depot)
