"""Room card: the right answers of a small S3 server, for the origin that then bends them.

Knows a dictionary of objects and what S3 answers about them; it checks no signatures.  Must not know sockets,
faults or the library.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, unescape

from tests.servers.multipart import RefusedError, Uploads, check_sum
from tests.servers.reply import Reply
from tests.servers.rules import (
    ListQuery,
    Request,
    StoredObject,
    UnsatisfiableError,
    error_xml,
    etag_of,
    listing_xml,
    parse_range,
    tag_matches,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY = re.compile(r"<Key>([^<]*)</Key>")


class Shelf:
    """Objects by path, such as ``/bucket/key``, and the answers of S3 about them.

    Attributes:
        objects: The bodies by path; tests may change it at any time.
        etags: ETags by path that are told instead of the body's MD5.
        forbidden: Paths that are answered with 403.
        buckets: Names of buckets that exist though they hold nothing.
        page_size: The most entries a page of a listing has.
        uploads: What is being uploaded by parts.
        heeds_last_condition: An upload by parts whose end says so replaces nothing. Ceph's gateway, for one, does not
            listen there, though it does when an object is put whole.
        told_headers: The header fields that an object was written with, by path; some come back with it.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self.buckets: set[str] = set()
        self.page_size = 1000
        self.uploads = Uploads()
        self.heeds_last_condition = True
        self.told_headers: dict[str, dict[str, str]] = {}
        self._born_s = time.time()
        self._known: dict[str, StoredObject] = {}
        self._lock = threading.Lock()

    def reply(self, request: Request) -> Reply:
        """Returns the right reply."""
        bucket, key = request.place
        path = f"/{bucket}/{key}"
        with self._lock:
            if path in self.forbidden:
                return _error(403, "AccessDenied", "Access Denied")
            if not key:
                return self._bucket(request, bucket)
            if request.query.keys() & {"uploads", "uploadId"}:
                return self._multipart(request, bucket, path)
            if request.method == "PUT":
                return self._put(request, bucket, path)
            if request.method == "DELETE":
                self.objects.pop(path, None)
                return Reply(204)
            return self._get(request, bucket, path)

    def stored(self, path: str) -> StoredObject:
        """Returns the object at a path with what S3 would tell about it."""
        body = self.objects[path]
        known = self._known.get(path)
        if known is None or known.body is not body:
            known = StoredObject(body, etag_of(body), modified_s=self._born_s)
            self._known[path] = known
        etag = self.etags.get(path, known.etag)
        return StoredObject(body, etag, modified_s=known.modified_s)

    def _exists(self, bucket: str) -> bool:
        return bucket in self.buckets or any(path.startswith(f"/{bucket}/") for path in self.objects)

    def _bucket(self, request: Request, bucket: str) -> Reply:
        if request.method == "PUT":
            self.buckets.add(bucket)
            return _empty()
        if not self._exists(bucket):
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        if request.method == "POST" and "delete" in request.query:
            return self._delete_many(request, bucket)
        if request.method == "DELETE":
            self.buckets.discard(bucket)
            return Reply(204)
        if "uploads" in request.query:
            return _xml(200, self.uploads.listing(bucket, request.query, self.page_size))
        start = len(f"/{bucket}/")
        paths = [path for path in self.objects if path.startswith(f"/{bucket}/")]
        objects = {path[start:]: self.stored(path) for path in paths}
        body = listing_xml(bucket, objects, ListQuery.from_query(request.query, self.page_size))
        return _xml(200, body)

    def _delete_many(self, request: Request, bucket: str) -> Reply:
        keys = [unescape(key) for key in _KEY.findall(request.body.decode())]
        for key in keys:
            self.objects.pop(f"/{bucket}/{key}", None)
        rows = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _xml(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def _put(self, request: Request, bucket: str, path: str) -> Reply:
        if not self._exists(bucket):
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        if request.headers.get("if-none-match") == "*" and path in self.objects:
            return _error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        try:
            check_sum(request.headers, request.body)
        except RefusedError as refused:
            return _error(refused.status, refused.code, "The request was refused.")
        self._keep(path, request.body, request.headers)
        return _empty(ETag=self.stored(path).etag)

    def _keep(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.objects[path] = body
        self.etags.pop(path, None)
        self.told_headers[path] = dict(headers)

    def _multipart(self, request: Request, bucket: str, path: str) -> Reply:
        if not self._exists(bucket):
            return _error(404, "NoSuchBucket", "The specified bucket does not exist")
        try:
            return self._upload(request, path)
        except RefusedError as refused:
            return _error(refused.status, refused.code, "The request was refused.")

    def _upload(self, request: Request, path: str) -> Reply:
        name = request.query.get("uploadId", "")
        if request.method == "POST" and not name:
            name = self.uploads.begin(path, request.headers)
            return _xml(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        if request.method == "PUT":
            part = self.uploads.add(name, int(request.query["partNumber"]), request.headers, request.body)
            return _empty(ETag=part.etag)
        if request.method == "GET":
            return _xml(200, self.uploads.parts(name, request.query, self.page_size))
        if request.method == "DELETE":
            self.uploads.abort(name)
            return Reply(204)
        return self._complete(request, name)

    def _complete(self, request: Request, name: str) -> Reply:
        must_be_new = self.heeds_last_condition and request.headers.get("if-none-match") == "*"
        joined = self.uploads.complete(name, request.body, dry=must_be_new)
        if must_be_new:
            if joined.path in self.objects:
                return _error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
            self.uploads.abort(name)
        self._keep(joined.path, joined.body, joined.headers)
        self.etags[joined.path] = joined.etag
        return _xml(
            200,
            f"<CompleteMultipartUploadResult><ETag>{escape(joined.etag)}</ETag></CompleteMultipartUploadResult>".encode(),
        )

    def _get(self, request: Request, bucket: str, path: str) -> Reply:
        if path not in self.objects:
            code = "NoSuchKey" if self._exists(bucket) else "NoSuchBucket"
            return _error(404, code, "The specified key does not exist.")
        stored = self.stored(path)
        size = len(stored.body)
        if not tag_matches(request.headers.get("if-match", "*"), stored.etag):
            return _error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        try:
            span = parse_range(request.headers.get("range"), size)
        except UnsatisfiableError:
            error = _error(416, "InvalidRange", "The requested range is not satisfiable")
            return error.with_headers(Content_Range=f"bytes */{size}")
        told = self.told_headers.get(path, {})
        kept = {name: text for name, text in told.items() if name.startswith("x-amz-meta-")}
        kept["Content-Type"] = told.get("content-type", stored.content_type)
        reply = _object_reply(stored, span)
        return replace(reply, headers={**reply.headers, **kept})


def _object_reply(stored: StoredObject, span: tuple[int, int] | None) -> Reply:
    size = len(stored.body)
    start, stop = span or (0, size)
    headers = {
        "Content-Type": stored.content_type,
        "Content-Length": str(stop - start),
        "ETag": stored.etag,
        "Last-Modified": stored.last_modified,
        "Accept-Ranges": "bytes",
    }
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(206 if span else 200, headers, stored.body[start:stop], whole=stored.body)


def _empty(**headers: str) -> Reply:
    return Reply(200, {"Content-Length": "0", **headers})


def _xml(status: int, body: bytes) -> Reply:
    return Reply(status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)


def _error(status: int, code: str, message: str) -> Reply:
    return _xml(status, error_xml(code, message))
