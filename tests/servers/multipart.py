"""Room card: uploads by parts as S3 answers them, for the small server in `shelf`.

Knows the requests that begin, fill, complete, abort and list uploads, and S3's rules for each.  Must not know
sockets, faults or the library.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from xml.sax.saxutils import unescape

from awscrt.checksums import crc32c

from tests.servers.rules import PendingRow, etag_of, parts_xml, uploads_xml

if TYPE_CHECKING:
    from collections.abc import Mapping

_PART = re.compile(r"<Part>(.*?)</Part>", re.DOTALL)
_FIELD = re.compile(r"<(PartNumber|ETag|ChecksumCRC32C)>([^<]*)</")
_SUM_FIELD = "x-amz-checksum-crc32c"


class RefusedError(Exception):
    """The server refuses a request, with this status and this code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


_ENCODED = b"<EncodingType>url</EncodingType>"


@dataclass(frozen=True)
class StoredPart:
    """A part of an object that is not complete."""

    body: bytes
    etag: str
    crc32c: str
    sent_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Pending:
    """An upload that was begun.

    Attributes:
        path: Of the object it is to become.
        headers: Of the request that began it, by name in lower case.
        parts: What has arrived, by number.
        begun_s: When it was begun, in seconds since the epoch.
    """

    path: str
    headers: Mapping[str, str]
    parts: dict[int, StoredPart] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Joined:
    """What a completed upload has become."""

    path: str
    body: bytes
    etag: str
    headers: Mapping[str, str]


def check_sum(headers: Mapping[str, str], body: bytes) -> str:
    """Returns a body's CRC-32C as S3 writes it.

    Raises:
        RefusedError: The request names another one.
    """
    known = base64.b64encode(crc32c(body).to_bytes(4, "big")).decode()
    if headers.get(_SUM_FIELD, known) != known:
        raise RefusedError(400, "BadDigest")
    return known


class Uploads:
    """The uploads of a server.

    Attributes:
        pending: What was begun and neither completed nor aborted, by id.
        least_part_bytes: The least bytes of every part but the last.
        says_encoding: Listings whose keys are encoded say so. Ceph's gateway does not.
        encodes: Listings encode keys when they are asked to. SeaweedFS and LocalStack just say so.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Pending] = {}
        self.least_part_bytes = 5 * 1024**2
        self.says_encoding = True
        self.encodes = True
        self._begun = 0

    def begin(self, path: str, headers: Mapping[str, str]) -> str:
        """Begins an upload and returns its id."""
        self._begun += 1
        name = f"upload-{self._begun}"
        self.pending[name] = Pending(path, headers)
        return name

    def add(self, name: str, number: int, headers: Mapping[str, str], body: bytes) -> StoredPart:
        """Takes a part, in place of the one of the same number."""
        upload = self._find(name)
        part = StoredPart(body, etag_of(body), check_sum(headers, body))
        upload.parts[number] = part
        return part

    def complete(self, name: str, request: bytes, *, dry: bool = False) -> Joined:
        """Returns what the parts that a request names make, and forgets the upload unless ``dry``."""
        upload = self._find(name)
        told = [dict(_FIELD.findall(row)) for row in _PART.findall(request.decode())]
        parts = [self._named(upload, fields) for fields in told]
        numbers = [int(fields["PartNumber"]) for fields in told]
        if not parts or numbers != sorted(set(numbers)):
            raise RefusedError(400, "InvalidPartOrder" if parts else "MalformedXML")
        if any(len(part.body) < self.least_part_bytes for part in parts[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        if not dry:
            del self.pending[name]
        sums = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
        etag = f'"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"'
        return Joined(upload.path, b"".join(part.body for part in parts), etag, upload.headers)

    def abort(self, name: str) -> None:
        """Forgets an upload."""
        self._find(name)
        del self.pending[name]

    def listing(self, bucket: str, query: Mapping[str, str], page_size: int) -> bytes:
        """Returns the body of the answer to a request for the uploads that are pending in a bucket."""
        start = f"/{bucket}/"
        rows = [
            PendingRow(upload.path[len(start) :], name, upload.begun_s)
            for name, upload in self.pending.items()
            if upload.path.startswith(start)
        ]
        if query.get("encoding-type") == "url" and not self.encodes:
            body = uploads_xml(rows, {**query, "encoding-type": ""}, page_size)
            return body.replace(b"<Upload>", _ENCODED + b"<Upload>", 1)
        body = uploads_xml(rows, query, page_size)
        return body if self.says_encoding else body.replace(_ENCODED, b"")

    def parts(self, name: str, query: Mapping[str, str], page_size: int) -> bytes:
        """Returns the body of the answer to a request for the parts of an upload."""
        return parts_xml({number: part.sent_s for number, part in self._find(name).parts.items()}, query, page_size)

    def _find(self, name: str) -> Pending:
        if name not in self.pending:
            raise RefusedError(404, "NoSuchUpload")
        return self.pending[name]

    def _named(self, upload: Pending, fields: Mapping[str, str]) -> StoredPart:
        part = upload.parts.get(int(fields["PartNumber"]))
        if part is None or unescape(fields["ETag"], {"&quot;": '"'}).strip('"') != part.etag.strip('"'):
            raise RefusedError(400, "InvalidPart")
        # S3 wants the sums of all parts again where the upload was begun with sums.
        summed = "x-amz-checksum-algorithm" in upload.headers
        if fields.get("ChecksumCRC32C", "" if summed else part.crc32c) != part.crc32c:
            raise RefusedError(400, "InvalidPart")
        return replace(part)
