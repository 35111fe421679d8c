"""Room card: the XML API of the fake Google Cloud Storage: buckets, objects, uploads in parts.

Knows what Google answers to which request, as documented, as values (`Request` in, `Answer` out).  Must not
know sockets, tokens or the library.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.sax.saxutils import escape

from tests.servers.rules import (
    ListQuery,
    PendingRow,
    Request,
    StoredObject,
    UnsatisfiableError,
    error_xml,
    etag_of,
    listing_xml,
    parse_range,
    parts_xml,
    tag_matches,
    uploads_xml,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMESPACE = "http://doc.s3.amazonaws.com/2006-03-01"
_XML = "application/xml; charset=UTF-8"
_PART = re.compile(r"<Part>.*?</Part>", re.DOTALL)
_FIELD = re.compile(r"<(PartNumber|ETag)>([^<]*)</")
_KEPT_HEADERS = ("cache-control", "content-disposition", "content-encoding", "content-language")


@dataclass(frozen=True)
class Answer:
    """An answer; for HEAD it has the body of the answer to GET, which is then not sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """An error as Google tells it."""

    def __init__(self, status: int, code: str, message: str, details: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = {"Details": details} if details else {}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(self) -> Answer:
        """Returns the answer of the XML API."""
        body = error_xml(self.code, self.message, **self.details)
        return Answer(self.status, body, {"Content-Type": _XML, **self.headers})


@dataclass
class _Upload:
    bucket: str
    key: str
    request: Request
    parts: dict[int, bytes] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.time)
    times_s: dict[int, float] = field(default_factory=dict)


class XmlApi:
    """Buckets of objects in memory, behind the XML API."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, StoredObject]] = {}
        self.page_size = 1000
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        """Answers a request to /, /BUCKET or /BUCKET/KEY."""
        bucket, key = request.place
        with self._lock:
            try:
                if not bucket:
                    return self._service(request)
                if not key:
                    return self._bucket(request, bucket)
                return self._object(request, bucket, key)
            except ApiError as error:
                return error.answer()

    def make_bucket(self, name: str) -> None:
        """Makes a bucket (409 when it is there)."""
        if name in self.buckets:
            msg = "Your previous request to create the named bucket succeeded and you already own it."
            raise ApiError(409, "BucketAlreadyOwnedByYou", msg)
        self.buckets[name] = {}

    def remove_bucket(self, name: str) -> None:
        """Removes a bucket (404 when it is not there, 409 when it is not empty)."""
        if self.objects_of(name):
            raise ApiError(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
        del self.buckets[name]

    def objects_of(self, bucket: str) -> dict[str, StoredObject]:
        """Returns the objects of a bucket (404 when it is not there)."""
        if bucket not in self.buckets:
            raise ApiError(404, "NoSuchBucket", "The specified bucket does not exist.")
        return self.buckets[bucket]

    def _service(self, request: Request) -> Answer:
        _allow(request, "GET")
        rows = "".join(f"<Bucket><Name>{escape(name)}</Name></Bucket>" for name in sorted(self.buckets))
        name = "ListAllMyBucketsResult"
        body = f"<{name} xmlns='{_NAMESPACE}'><Buckets>{rows}</Buckets></{name}>".encode()
        return Answer(200, body, {"Content-Type": _XML})

    def _bucket(self, request: Request, bucket: str) -> Answer:
        _allow(request, "GET", "HEAD", "PUT", "DELETE")
        if request.method == "PUT":
            self.make_bucket(bucket)
            return Answer()
        if request.method == "DELETE":
            self.remove_bucket(bucket)
            return Answer(204)
        objects = self.objects_of(bucket)
        if "uploads" in request.query:
            rows = [PendingRow(it.key, name, it.begun_s) for name, it in self._uploads.items() if it.bucket == bucket]
            return Answer(200, uploads_xml(rows, request.query, self.page_size, _NAMESPACE), {"Content-Type": _XML})
        body = listing_xml(bucket, objects, ListQuery.from_query(request.query, self.page_size), _NAMESPACE)
        return Answer(200, body, {"Content-Type": _XML})

    def _object(self, request: Request, bucket: str, key: str) -> Answer:
        _allow(request, "GET", "HEAD", "PUT", "POST", "DELETE")
        objects = self.objects_of(bucket)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._parts(request, bucket, key)
        if request.method == "PUT":
            return self._put(request, bucket, key)
        if request.method == "POST":
            raise ApiError(400, "InvalidRequest", "POST of an object is for uploads in parts.")
        stored = _find(objects, bucket, key)
        if request.method == "DELETE":
            _check_generation(request, stored)
            del objects[key]
            return Answer(204)
        return _send(request, stored)

    def _put(self, request: Request, bucket: str, key: str) -> Answer:
        old = self.buckets[bucket].get(key)
        _check_generation(request, old)
        unless = request.headers.get("if-none-match", "")
        if old is not None and unless and tag_matches(unless, old.etag):
            raise _precondition_failed()
        source = request.headers.get("x-goog-copy-source")
        if source is not None:
            return self._copy(source, bucket, key)
        sum_sent = request.headers.get("content-md5")
        if sum_sent is not None and sum_sent != _md5_base64(request.body):
            raise ApiError(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        stored = self._store(request, bucket, key, request.body, etag_of(request.body))
        return Answer(200, b"", {"ETag": stored.etag, "x-goog-generation": str(stored.generation)})

    def _copy(self, source: str, bucket: str, key: str) -> Answer:
        from_bucket, _, from_key = unquote(source).removeprefix("/").partition("/")
        found = _find(self.objects_of(from_bucket), from_bucket, from_key)
        stored = StoredObject(found.body, found.etag, found.content_type, _new_generation(), found.metadata)
        self.buckets[bucket][key] = stored
        body = f"<CopyObjectResult><ETag>{escape(stored.etag)}</ETag></CopyObjectResult>".encode()
        return Answer(200, body, {"Content-Type": _XML, "x-goog-generation": str(stored.generation)})

    def _store(self, request: Request, bucket: str, key: str, body: bytes, etag: str) -> StoredObject:
        metadata = {
            name: value
            for name, value in request.headers.items()
            if name.startswith("x-goog-meta-") or name in _KEPT_HEADERS
        }
        content_type = request.headers.get("content-type", "application/octet-stream")
        stored = StoredObject(body, etag, content_type, _new_generation(), metadata)
        self.buckets[bucket][key] = stored
        return stored

    def _parts(self, request: Request, bucket: str, key: str) -> Answer:
        if request.method == "POST" and "uploads" in request.query:
            upload_id = uuid.uuid4().hex
            self._uploads[upload_id] = _Upload(bucket, key, request)
            return Answer(200, _upload_xml("Initiate", bucket, key, f"<UploadId>{upload_id}</UploadId>"))
        upload = self._uploads.get(request.query.get("uploadId", ""))
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise ApiError(404, "NoSuchUpload", "The requested upload was not found.")
        if request.method == "PUT":
            number = int(request.query["partNumber"])
            upload.parts[number], upload.times_s[number] = request.body, time.time()
            return Answer(200, b"", {"ETag": etag_of(request.body)})
        if request.method == "GET":
            return Answer(200, parts_xml(upload.times_s, request.query, self.page_size, _NAMESPACE))
        answer = Answer(204) if request.method == "DELETE" else self._complete(request, upload)
        del self._uploads[request.query["uploadId"]]
        return answer

    def _complete(self, request: Request, upload: _Upload) -> Answer:
        named = [dict(_FIELD.findall(part)) for part in _PART.findall(request.body.decode())]
        parts = [upload.parts.get(int(part["PartNumber"]), b"") for part in named]
        tags = [part["ETag"].replace("&quot;", '"') for part in named]
        if not parts or [etag_of(part) for part in parts] != tags:
            raise ApiError(400, "InvalidPart", "One or more of the specified parts could not be found.")
        body = b"".join(parts)
        # As at Google, the tag of an object made of parts is not the MD5 of anything.
        etag = f'"{uuid.uuid4().hex}"'
        stored = self._store(upload.request, upload.bucket, upload.key, body, etag)
        result = _upload_xml("Complete", upload.bucket, upload.key, f"<ETag>{escape(etag)}</ETag>")
        return Answer(200, result, {"x-goog-generation": str(stored.generation)})


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise ApiError(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")


def _find(objects: Mapping[str, StoredObject], bucket: str, key: str) -> StoredObject:
    if key not in objects:
        details = f"No such object: {bucket}/{key}"
        raise ApiError(404, "NoSuchKey", "The specified key does not exist.", details)
    return objects[key]


def _send(request: Request, stored: StoredObject) -> Answer:
    _check_generation(request, stored)
    wanted = request.query.get("generation")
    if wanted is not None and wanted != str(stored.generation):
        raise ApiError(404, "NoSuchKey", "The specified key does not exist.")
    condition, unless = request.headers.get("if-match", "*"), request.headers.get("if-none-match")
    if not tag_matches(condition, stored.etag):
        raise _precondition_failed()
    headers = _headers_of(stored)
    if unless is not None and tag_matches(unless, stored.etag):
        return Answer(HTTPStatus.NOT_MODIFIED, b"", headers)
    size = len(stored.body)
    try:
        span = parse_range(request.headers.get("range"), size)
    except UnsatisfiableError:
        msg = "The requested range cannot be satisfied."
        raise ApiError(416, "InvalidRange", msg, Content_Range=f"bytes */{size}") from None
    start, stop = span or (0, size)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206 if span else 200, stored.body[start:stop], headers)


def _headers_of(stored: StoredObject) -> dict[str, str]:
    return {
        "ETag": stored.etag,
        "Last-Modified": stored.last_modified,
        "Content-Type": stored.content_type,
        "Accept-Ranges": "bytes",
        "x-goog-generation": str(stored.generation),
        "x-goog-metageneration": "1",
        "x-goog-stored-content-length": str(len(stored.body)),
        "x-goog-hash": f"md5={_md5_base64(stored.body)}",
        **stored.metadata,
    }


def _check_generation(request: Request, stored: StoredObject | None) -> None:
    wanted = request.headers.get("x-goog-if-generation-match")
    actual = "0" if stored is None else str(stored.generation)
    if wanted is not None and wanted != actual:
        raise _precondition_failed()


def _precondition_failed() -> ApiError:
    msg = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, "PreconditionFailed", msg)


def _new_generation() -> int:
    return time.time_ns() // 1000


def _md5_base64(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _upload_xml(step: str, bucket: str, key: str, inside: str) -> bytes:
    name = f"{step}MultipartUploadResult"
    place = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
    return f"<?xml version='1.0'?><{name} xmlns='{_NAMESPACE}'>{place}{inside}</{name}>".encode()
