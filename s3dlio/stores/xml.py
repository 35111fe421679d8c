"""The XML that storage services answer with.

Floor 2. Pure: text in, values out. S3, Google Cloud Storage and Azure differ in names only. Expat (the
parser underneath) bounds entity expansion itself; the answer's size is bounded by the transport.
"""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple
from urllib.parse import unquote_plus

from s3dlio.stores.base import Entry
from s3dlio.stores.pages import quick_keys, quick_rows
from s3dlio.wire.head import Head, ProtocolError
from s3dlio.wire.refusals import Fault

_NOWHERE = "a listing says that it goes on, and not where"
_MOST_DIGITS = 20  # of a size: no object is larger
_MAYBE_ENCODED = re.compile(rb"<(?:Key|NextKeyMarker)>[^<%+]*[%+]")


class Page(NamedTuple):
    """One page of a listing, and where the next one begins (empty: there is none)."""

    entries: list[Entry]
    cursor: str


def listed(body: bytes) -> int:
    """Return how many objects a page of a listing names, without parsing it."""
    return body.count(b"<Contents>") + body.count(b"<Blob>")


def parse(body: bytes) -> ET.Element:
    """Return the root of a document, with namespaces taken off.

    Raises:
        ProtocolError: It is not XML.
    """
    try:
        root = ET.fromstring(body.removeprefix(b"\xef\xbb\xbf"))  # noqa: S314 - see the room card
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: encodings that cannot be used
        msg = f"the answer is not XML ({error}): {body[:60]!r}"
        raise ProtocolError(msg) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def explain(head: Head, body: bytes) -> Fault:
    """Return what an error response says."""
    # A HEAD has no body; Azure names the code in a header as well.
    code = head.field("x-ms-error-code")
    try:
        root = parse(body) if body.lstrip().startswith((b"<", b"\xef\xbb\xbf<")) else None
    except ProtocolError:
        root = None
    if root is None or root.tag == "html":  # a proxy or a plain web server speaks
        return Fault(code, " ".join(body[:200].decode("utf-8", "replace").split()) if root is None else "")
    message, region = (root.findtext("Message") or "").strip(), (root.findtext("Region") or "").strip()
    return Fault(root.findtext("Code") or code, message, region)


def parse_s3_page(body: bytes) -> Page:
    """Parse an answer to ListObjectsV2."""
    quick = quick_rows(body)
    if quick is not None:
        page = _s3_page(quick[1])
        return Page(quick[0] + page.entries, page.cursor)
    return _s3_page(body)


def parse_s3_keys(body: bytes) -> tuple[list[str], str]:
    """Parse an answer to ListObjectsV2 as far as keys go: those of the objects but directory markers, and the cursor."""
    quick = quick_keys(body)
    keys, body = quick or ([], body)
    page = parse_s3_page(body)
    return keys + [entry.key for entry in page.entries if not entry.is_marker], page.cursor


def _s3_page(body: bytes) -> Page:
    root = parse(body)
    if root.tag != "ListBucketResult":
        msg = f"expected a listing, got <{root.tag}>"
        raise ProtocolError(msg)
    url_encoded = root.findtext("EncodingType") == "url"
    entries = [_s3_entry(item, url_encoded) for item in root.iterfind("Contents")]
    entries += [
        Entry(_decoded(item.findtext("Prefix") or "", url_encoded), -1) for item in root.iterfind("CommonPrefixes")
    ]
    if root.findtext("IsTruncated") != "true":
        return Page(entries, "")
    cursor = root.findtext("NextContinuationToken")
    if not cursor:
        raise ProtocolError(_NOWHERE)
    return Page(entries, cursor)


def _s3_entry(item: ET.Element, url_encoded: bool) -> Entry:  # noqa: FBT001 - private, one caller
    return Entry(
        _decoded(item.findtext("Key") or "", url_encoded),
        _count(item.findtext("Size")),
        (item.findtext("ETag") or "").strip('"'),
        parse_time(item.findtext("LastModified") or ""),
    )


def _count(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS):
        msg = f"a listing tells a size that is none: {text[:40]!r}"
        raise ProtocolError(msg)
    return int(text)


def _decoded(text: str, url_encoded: bool) -> str:  # noqa: FBT001 - private
    return unquote_plus(text) if url_encoded else text


def parse_azure_page(body: bytes) -> Page:
    """Parse an answer to Azure's List Blobs."""
    root = parse(body)
    if root.tag != "EnumerationResults":
        msg = f"expected a listing, got <{root.tag}>"
        raise ProtocolError(msg)
    entries = [_azure_entry(item) for item in root.iterfind("Blobs/Blob")]
    entries += [Entry(_azure_name(item), -1) for item in root.iterfind("Blobs/BlobPrefix")]
    return Page(entries, root.findtext("NextMarker") or "")


def _azure_entry(item: ET.Element) -> Entry:
    return Entry(
        _azure_name(item),
        _count(item.findtext("Properties/Content-Length")),
        (item.findtext("Properties/Etag") or "").strip('"'),
        parse_time(item.findtext("Properties/Last-Modified") or ""),
    )


def _azure_name(item: ET.Element) -> str:
    name = item.find("Name")
    if name is None:
        return ""
    return _decoded(name.text or "", name.get("Encoded") == "true")


def names(body: bytes, path: str) -> Iterator[str]:
    """Yield the texts of all elements at ``path``, for example the buckets' names."""
    for item in parse(body).iterfind(path):
        yield item.text or ""


def delete_request(keys: list[str]) -> bytes:
    """Return the body of S3's DeleteObjects; only failures are reported back (quiet)."""
    objects = "".join(f"<Object><Key>{escape(key, quote=False)}</Key></Object>" for key in keys)
    return f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()


def can_carry(key: str) -> bool:
    """Whether XML 1.0 can express ``key`` (it knows no control characters; line ends get changed)."""
    return key.isprintable() or not any(char < " " or char in "\ufffe\uffff" for char in key)


def delete_faults(body: bytes) -> list[tuple[str, Fault]]:
    """Return the keys that DeleteObjects could not delete, and why."""
    if not body.strip():
        return []
    return [
        (item.findtext("Key") or "", Fault(item.findtext("Code") or "", item.findtext("Message") or ""))
        for item in parse(body).iterfind("Error")
    ]


def upload_id(body: bytes) -> str:
    """Return the id in the answer to a request that begins a multipart upload.

    Raises:
        ProtocolError: There is none.
    """
    found = parse(body).findtext("UploadId")
    if not found:
        msg = f"the server has begun an upload and does not name it: {body[:60]!r}"
        raise ProtocolError(msg)
    return found


def may_be_encoded(body: bytes) -> bool:
    """Tell whether keys on a page could be encoded or could just look so: what the page says of that is not reliable."""
    return _MAYBE_ENCODED.search(body) is not None


#: An upload that is pending: its key, its id, and when it was begun.
Begun = tuple[str, str, datetime | None]


def parse_uploads(body: bytes) -> tuple[list[Begun], dict[str, str]]:
    """Parse a page of uploads that are pending: key, id and beginning of each, and what to ask the next page with.

    Raises:
        ProtocolError: It is none.
    """
    root = _rooted(body, "ListMultipartUploadsResult")
    url_encoded = root.findtext("EncodingType") == "url"
    found = [
        (
            _decoded(item.findtext("Key") or "", url_encoded),
            item.findtext("UploadId") or "",
            parse_time(item.findtext("Initiated") or ""),
        )
        for item in root.iterfind("Upload")
    ]
    if root.findtext("IsTruncated") != "true":
        return found, {}
    key, name = root.findtext("NextKeyMarker"), root.findtext("NextUploadIdMarker")
    if not key:
        raise ProtocolError(_NOWHERE)
    return found, {"key-marker": _decoded(key, url_encoded), **({"upload-id-marker": name} if name else {})}


def parse_part_times(body: bytes) -> tuple[list[datetime], str]:
    """Parse a page of an upload's parts as far as their times go, and the number that the next page begins behind.

    Raises:
        ProtocolError: It is none, or a part tells no time.
    """
    root = _rooted(body, "ListPartsResult", "ListPartsResponse")  # the latter is moto's
    times = [parse_time(item.findtext("LastModified") or "") for item in root.iterfind("Part")]
    told = [when for when in times if when is not None]
    if len(told) < len(times):
        msg = "the server does not tell when the parts of an upload came"
        raise ProtocolError(msg)
    if root.findtext("IsTruncated") != "true":
        return told, ""
    marker = root.findtext("NextPartNumberMarker")
    if not marker:
        raise ProtocolError(_NOWHERE)
    return told, marker


def _rooted(body: bytes, *names: str) -> ET.Element:
    root = parse(body)
    if root.tag not in names:
        msg = f"expected <{names[0]}>, got <{root.tag}>"
        raise ProtocolError(msg)
    return root


def complete_request(parts: list[tuple[str, str]]) -> bytes:
    """Return the body that completes a multipart upload, from each part's entity tag and (maybe) CRC-32C."""
    items = []
    for number, (etag, crc32c) in enumerate(parts, 1):
        checksum = f"<ChecksumCRC32C>{crc32c}</ChecksumCRC32C>" if crc32c else ""
        items.append(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag, quote=False)}</ETag>{checksum}</Part>"
        )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{"".join(items)}</CompleteMultipartUpload>'.encode()


def copied_part(body: bytes) -> tuple[str, int | None]:
    """Return entity tag (without quotes) and CRC-32C, if it is told, of a part that was copied.

    Raises:
        ProtocolError: There is no tag.
    """
    root = parse(body)
    etag, crc = (root.findtext("ETag") or "").strip('"'), root.findtext("ChecksumCRC32C")
    if not etag:
        msg = f"the server has copied a part and not confirmed it: {body[:60]!r}"
        raise ProtocolError(msg)
    return etag, int.from_bytes(base64.b64decode(crc), "big") if crc else None


def joined_tag(body: bytes) -> str:
    """Return the entity tag, without quotes, in the answer to :func:`complete_request`; empty if it tells none."""
    found = parse(body).findtext("ETag") if body.strip() else None
    return (found or "").strip('"')


def fault_in(body: bytes) -> Fault | None:
    """Return the error that an answer of good status holds after all."""
    root = parse(body) if body.strip() else None
    if root is None or root.tag != "Error":
        return None
    return Fault(root.findtext("Code") or "", (root.findtext("Message") or "").strip())


def block_list(names: list[str]) -> bytes:
    """Return the body that makes an Azure blob of blocks."""
    items = "".join(f"<Latest>{escape(name, quote=False)}</Latest>" for name in names)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{items}</BlockList>'.encode()


def parse_time(text: str) -> datetime | None:
    """Parse ISO 8601 (S3) or an HTTP date (Azure, headers); ``None`` for nothing or nonsense."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text) if text[:1].isdigit() else _http_date(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _http_date(text: str) -> datetime:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 20 ms, which listings of S3 do not need

    return parsedate_to_datetime(text)
