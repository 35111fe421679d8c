"""Room card: the rules of object stores over HTTP that the hand-written servers obey.

Knows ranges, conditions, listings and their XML, as pure functions over plain values.  Must not know sockets,
any single server, or the library, whose own understanding of the same rules is what the servers test.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
S3_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class UnsatisfiableError(Exception):
    """The range asked for has no byte in common with the object (416)."""


@dataclass(frozen=True)
class Request:
    """A request as a server got it.

    Attributes:
        method: GET, PUT, ...
        target: The path and query as sent.
        headers: By name in lower case.
        body: The whole body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path without the query, still percent-encoded."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query, decoded."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def place(self) -> tuple[str, str]:
        """The bucket and the key, decoded; each may be empty."""
        # Split before decoding: a slash in a key may come as %2F.
        bucket, _, key = self.path.removeprefix("/").partition("/")
        return unquote(bucket), unquote(key)


@dataclass(frozen=True)
class StoredObject:
    """An object as a server keeps it.

    Attributes:
        body: Its bytes.
        etag: Its entity tag, with the quotes.
        content_type: Its media type.
        generation: A number that is greater for every later version.
        metadata: The user's own header values, by full header name.
        modified_s: When it was written, in seconds since the epoch.
    """

    body: bytes
    etag: str
    content_type: str = "application/octet-stream"
    generation: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_s: float = field(default_factory=time.time)

    @property
    def last_modified(self) -> str:
        """The time of writing in the form HTTP headers have."""
        return formatdate(self.modified_s, usegmt=True)

    @property
    def iso_modified(self) -> str:
        """The time of writing in the form listings have."""
        return _iso(int(self.modified_s))


def etag_of(body: bytes) -> str:
    """Returns the entity tag stores give to a body uploaded in one piece."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns the half-open span a Range header asks for, None when the whole object is to be sent.

    A header of another form than the one single byte range is ignored, as RFC 9110 has it.

    Raises:
        UnsatisfiableError: The span lies outside the object.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise UnsatisfiableError
    return start, stop


def tag_matches(condition: str, etag: str) -> bool:
    """Tells whether the value of an If-Match or If-None-Match header covers the tag."""
    return condition.strip() == "*" or etag in [tag.strip() for tag in condition.split(",")]


@dataclass(frozen=True)
class Page:
    """One page of a listing: keys, common prefixes, and the token of the next page if there is one."""

    keys: list[str]
    prefixes: list[str]
    next_token: str | None


@dataclass(frozen=True)
class ListQuery:
    """What a client asks of a listing."""

    prefix: str = ""
    delimiter: str = ""
    start_after: str = ""
    token: str = ""
    max_keys: int = 1000

    @classmethod
    def from_query(cls, query: Mapping[str, str], page_size: int) -> ListQuery:
        """Reads the parameters of a ListObjectsV2 request; no page is longer than ``page_size``."""
        return cls(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start_after=query.get("start-after", ""),
            token=query.get("continuation-token", ""),
            max_keys=min(page_size, int(query.get("max-keys", page_size))),
        )


def list_page(all_keys: Iterable[str], query: ListQuery) -> Page:
    """Returns the page of a listing that a query asks for, in the order of the keys' bytes."""
    after = base64.urlsafe_b64decode(query.token).decode() if query.token else query.start_after
    keys: list[str] = []
    prefixes: list[str] = []
    last = ""
    for key in sorted(all_keys):  # the order of code points is the order of UTF-8 bytes
        entry = _entry(key, query)
        # A common prefix that closed the page before must not come again because of its other keys.
        if entry is None or key <= after or entry == after or entry in prefixes[-1:]:
            continue
        if len(keys) + len(prefixes) == query.max_keys:
            return Page(keys, prefixes, base64.urlsafe_b64encode(last.encode()).decode())
        (keys if entry == key else prefixes).append(entry)
        last = entry
    return Page(keys, prefixes, None)


def _entry(key: str, query: ListQuery) -> str | None:
    """Returns how a listing shows a key: as itself, as a common prefix, or not at all."""
    if not key.startswith(query.prefix):
        return None
    cut = key.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
    return key if cut < 0 else key[: cut + len(query.delimiter)]


def listing_xml(
    bucket: str, objects: Mapping[str, StoredObject], query: ListQuery, namespace: str = S3_NAMESPACE
) -> bytes:
    """Returns the body of the answer to a ListObjectsV2 request."""
    page = list_page(objects, query)
    rows = [
        f"<Contents><Key>{escape(key)}</Key><LastModified>{objects[key].iso_modified}</LastModified>"
        f"<ETag>{escape(objects[key].etag)}</ETag><Size>{len(objects[key].body)}</Size>"
        f"<StorageClass>STANDARD</StorageClass></Contents>"
        for key in page.keys
    ]
    rows += [f"<CommonPrefixes><Prefix>{escape(it)}</Prefix></CommonPrefixes>" for it in page.prefixes]
    if page.next_token is not None:
        rows.append(f"<NextContinuationToken>{page.next_token}</NextContinuationToken>")
    count = len(page.keys) + len(page.prefixes)
    truncated = "false" if page.next_token is None else "true"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{namespace}">'
        f"<Name>{escape(bucket)}</Name><Prefix>{escape(query.prefix)}</Prefix><KeyCount>{count}</KeyCount>"
        f"<MaxKeys>{query.max_keys}</MaxKeys><IsTruncated>{truncated}</IsTruncated>{''.join(rows)}"
        "</ListBucketResult>"
    ).encode()


@dataclass(frozen=True)
class PendingRow:
    """An upload by parts that was begun: key and id, and when, in seconds since the epoch."""

    key: str
    upload_id: str
    begun_s: float


def uploads_xml(
    rows: Iterable[PendingRow], query: Mapping[str, str], page_size: int, namespace: str = S3_NAMESPACE
) -> bytes:
    """Returns the body of the answer to a request that lists uploads: by key, then by their beginning.

    The id of ``upload-id-marker`` counts only with a ``key-marker``, and names the last one of the page before.
    """
    matching = [row for row in rows if row.key.startswith(query.get("prefix", ""))]
    found = sorted(matching, key=lambda row: (row.key, row.begun_s))
    after, after_id = query.get("key-marker", ""), query.get("upload-id-marker", "")
    names = [row.upload_id for row in found if row.key == after]
    left = set(names[names.index(after_id) + 1 :] if after_id in names else [])
    found = [row for row in found if row.key > after or row.upload_id in left]
    page = found[: min(page_size, int(query.get("max-uploads", page_size)))]
    is_url = query.get("encoding-type") == "url"
    told = quote if is_url else escape
    parts = [
        f"<Upload><Key>{told(row.key)}</Key><UploadId>{row.upload_id}</UploadId>"
        f"<StorageClass>STANDARD</StorageClass><Initiated>{_iso(row.begun_s)}</Initiated></Upload>"
        for row in page
    ]
    parts.append("<EncodingType>url</EncodingType>" if is_url else "")
    if len(page) < len(found):
        marks = f"<NextKeyMarker>{told(page[-1].key)}</NextKeyMarker>"
        parts.append(f"{marks}<NextUploadIdMarker>{page[-1].upload_id}</NextUploadIdMarker>")
    return _result("ListMultipartUploadsResult", namespace, parts, is_truncated=len(page) < len(found))


def parts_xml(
    times_s: Mapping[int, float], query: Mapping[str, str], page_size: int, namespace: str = S3_NAMESPACE
) -> bytes:
    """Returns the body of the answer to a request that lists the parts of an upload, whose times of writing are given."""
    found = [number for number in sorted(times_s) if number > int(query.get("part-number-marker", "0"))]
    page = found[: min(page_size, int(query.get("max-parts", page_size)))]
    parts = [
        f"<Part><PartNumber>{number}</PartNumber><LastModified>{_iso(times_s[number])}</LastModified></Part>"
        for number in page
    ]
    if len(page) < len(found):
        parts.append(f"<NextPartNumberMarker>{page[-1]}</NextPartNumberMarker>")
    return _result("ListPartsResult", namespace, parts, is_truncated=len(page) < len(found))


def _result(name: str, namespace: str, parts: list[str], *, is_truncated: bool) -> bytes:
    more = f"<IsTruncated>{'true' if is_truncated else 'false'}</IsTruncated>"
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{namespace}">{more}{"".join(parts)}</{name}>'.encode()


def _iso(when_s: float) -> str:
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{int(when_s * 1000) % 1000:03d}Z", time.gmtime(when_s))


def error_xml(code: str, message: str, **details: str) -> bytes:
    """Returns the body by which stores of the S3 family tell an error."""
    fields = {"Code": code, "Message": message, **details}
    inside = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><Error>{inside}</Error>'.encode()
