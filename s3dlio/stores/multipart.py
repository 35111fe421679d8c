"""Uploads by parts as S3 has them, and Google Cloud Storage's XML interface too.

Floor 2. Knows the four requests (begin, part, complete, abort) and what can go wrong with each; must not know
how one provider signs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from s3dlio.cancel import CancellationToken
from s3dlio.checksums import base64_of
from s3dlio.errors import AccessDeniedError, AlreadyExistsError, IntegrityError, NotFoundError, StoreError
from s3dlio.ranges import Span
from s3dlio.stores import xml
from s3dlio.stores.base import ObjectInfo, PutOptions, Version, bare, quoted
from s3dlio.stores.copying import copied, copy_fields
from s3dlio.stores.upload import Limits, Part, Upload
from s3dlio.uri import Uri
from s3dlio.wire.refusals import Refused, to_error

if TYPE_CHECKING:
    from s3dlio.stores.rest import RestStore

_log = logging.getLogger("s3dlio")

#: S3's (and Google's): at least 5 MiB but for the last part, at most 5 GiB, and 10,000 parts.
MULTIPART_LIMITS = Limits(least_bytes=5 * 1024**2, most_bytes=5 * 1024**3, most_parts=10_000)
#: How many parts an object was made of, in its entity tag, where that is of the usual form.
_PARTS_IN_TAG = re.compile(r"[0-9a-f]{32}-(\d{1,5})")


class MultipartUpload(Upload):
    """One upload, begun.

    Args:
        store: Where to.
        uri: The object.
        options: How it is written.
        token: Stops the beginning.
        begin_headers: Further header fields of the request that begins the upload.
    """

    def __init__(
        self,
        store: RestStore,
        uri: Uri,
        options: PutOptions,
        token: CancellationToken,
        *,
        begin_headers: Mapping[str, str],
    ) -> None:
        self._store = store
        self._uri = uri
        self._sums = bool(begin_headers)
        # Some servers that speak S3's interface (rclone's) wait for the first part before they take many others.
        self.any_order = store.options.endpoint_url is None
        self._must_be_new = not options.overwrite
        #: Whether the server can be told not to replace an object when the upload is completed.
        self._is_conditional = store.limits.conditional
        self._tags: dict[int, tuple[str, int | None]] = {}
        self._refuse_existing(token)
        headers = store.put_headers(dataclasses.replace(options, overwrite=True))  # that is asked for at the end
        headers |= {**begin_headers, "content-length": "0"}
        answer = store.ask("POST", uri, {"uploads": ""}, headers, token)
        self._id = xml.upload_id(answer.body)

    def _refuse_existing(self, token: CancellationToken) -> None:
        """Look for an object that must not be replaced: before anything is sent, and before it would be.

        A server that is told the condition may not heed it (Ceph's does for whole objects, not for uploads by parts).
        """
        if not self._must_be_new:
            return
        try:
            self._store.head(self._uri, token)
        except NotFoundError:
            return
        except AccessDeniedError:  # one may be allowed to write and not to look
            if self._is_conditional:
                return
            raise
        msg = "the object exists"
        raise AlreadyExistsError(msg, uri=str(self._uri), operation="put")

    def send(self, part: Part, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.send`."""
        query = {"partNumber": str(part.number + 1), "uploadId": self._id}
        headers = self._store.body_headers(part.pieces, part.crc32c)
        answer = self._store.ask("PUT", self._uri, query, headers, token, part.pieces)
        etag = bare(answer.head.etag)
        if not etag:
            msg = f"the server has not confirmed part {part.number + 1}: its answer has no entity tag"
            raise StoreError(msg, uri=str(self._uri), operation="put")
        self._tags[part.number] = etag, part.crc32c

    def copy(self, number: int, source: Uri, span: Span, version: Version, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.upload.Upload.copy`."""
        letters = self._store.copy_letters
        fields = copy_fields(letters, source, version)
        fields[f"x-{letters}-copy-source-range"] = f"bytes={span.start}-{span.stop - 1}"
        query = {"partNumber": str(number + 1), "uploadId": self._id}
        answer = copied(self._store, self._uri, query, fields, token)
        if answer is None:
            return False
        etag, crc = xml.copied_part(answer.body)
        self._tags[number] = etag, crc
        return True

    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.upload.Upload.complete`."""
        self._refuse_existing(token)
        tags = [self._tags[number] for number in range(parts)]
        etag = self._join(tags, token)
        is_seen = True
        try:
            info = self._store.head(self._uri, token)
        except AccessDeniedError:  # one may be allowed to write and not to look
            is_seen = False
            info = ObjectInfo(length, etag=etag)
        told = _PARTS_IN_TAG.fullmatch(info.etag)
        if info.size != length or (told and int(told[1]) != parts):
            there = f"{info.size} bytes" + (f" in {told[1]} parts" if told else "")
            msg = f"the server has made an object of {there}; {length} bytes in {parts} parts were sent"
            raise IntegrityError(msg, uri=str(self._uri), operation="put")
        if is_seen:
            _log.debug("close: %s: HEAD verified stored=%d", self._uri, info.size)
        return info

    def _join(self, tags: list[tuple[str, int | None]], token: CancellationToken) -> str:
        """Make the object; return its entity tag as far as the server has told it."""
        known = [(quoted(etag), base64_of(crc) if self._sums and crc is not None else "") for etag, crc in tags]
        body = memoryview(xml.complete_request(known))
        headers = {"content-length": str(len(body)), "content-type": "application/xml"}
        if self._must_be_new and self._is_conditional:
            headers["if-none-match"] = "*"
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._store.ask("POST", self._uri, {"uploadId": self._id}, headers, token, [body])
            except StoreError:  # it may have been completed by a request whose answer was lost on the way
                if self._is_there(tags, token):
                    return _joint_tag(tags)
                raise
            fault = xml.fault_in(answer.body)  # S3 answers 200 before it knows how it ends
            if fault is None:
                return xml.joined_tag(answer.body)
            refused = Refused(answer.head, fault)
            if not refused.is_passing or attempt >= self._store.options.max_attempts:
                raise to_error("put", self._uri, refused, attempt)
            token.sleep(min(self._store.options.retry_max_s, self._store.options.retry_base_s * 2**attempt))

    def _is_there(self, tags: list[tuple[str, int | None]], token: CancellationToken) -> bool:
        """Tell whether the object is the one that these parts make, by the entity tag that S3 gives it."""
        try:
            return self._store.head(self._uri, token).etag == _joint_tag(tags)
        except (StoreError, ValueError):
            return False

    def abort(self) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.abort`."""
        try:
            self._store.ask("DELETE", self._uri, {"uploadId": self._id}, {}, CancellationToken())
        except NotFoundError:
            return  # it is completed, or somebody else has aborted it


def _joint_tag(tags: list[tuple[str, int | None]]) -> str:
    """Return the entity tag that S3 gives to what these parts make.

    Raises:
        ValueError: The parts' own are no MD5 sums (they were encrypted with a key of the user's).
    """
    joined = b"".join(bytes.fromhex(etag) for etag, _ in tags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(tags)}"
