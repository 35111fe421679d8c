"""Pages of an S3 listing, read at the speed of a regular expression.

Floor 2. Pure. Knows the one shape that services write such pages in, without blanks between elements; for any other
it returns nothing, and :mod:`s3dlio.stores.xml` reads the page as XML. (Of 1,000 keys: 0.9 ms here, 4 to 8 there.)
"""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import unquote_plus

from s3dlio.stores.base import Entry

_BEGIN, _END = "<Contents>", "</Contents>"
#: What services put between the four elements that matter, none of it nested but the owner.
_EXTRA = r"(?:<(?:Checksum\w+|Generation|MetaGeneration|StorageClass|Type)>[^<]*</\w+>)*"
_OWNER = r"(?:<Owner>(?:<\w+>[^<]*</\w+>)*</Owner>)?"
_ROW = re.compile(
    rf"{_BEGIN}<Key>([^<]*)</Key>{_EXTRA}<LastModified>([0-9][^<]*)</LastModified>{_EXTRA}<ETag>([^<]*)</ETag>{_EXTRA}"
    rf"<Size>([0-9]{{1,19}})</Size>{_EXTRA}{_OWNER}{_EXTRA}{_END}"
)
#: How a quotation mark is written around entity tags.
_QUOTES = ("&quot;", "&#34;", '"')
_KEY = re.compile(rf"{_BEGIN}<Key>([^<]*)</Key>")
_new = tuple.__new__


def quick_rows(body: bytes) -> tuple[list[Entry], bytes] | None:
    """Return the objects of a page, and what is left of the page without them; ``None``: it is not of the shape.

    Keys are decoded if the page says that they are encoded.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    first, last = text.find(_BEGIN), text.rfind(_END)
    if first < 0 or last < first or "<![" in text or "<!--" in text:
        return None
    rows = _ROW.findall(text, first)
    # Every object is of the shape, and nothing stands between two of them.
    if len(rows) != text.count(_BEGIN) or len(rows) - 1 != text.count(_END + _BEGIN):
        return None
    rest = text[:first] + text[last + len(_END) :]
    entries = _entries(rows, is_encoded="<EncodingType>url</EncodingType>" in rest)
    return None if entries is None else (entries, rest.encode())


def quick_keys(body: bytes) -> tuple[list[str], bytes] | None:
    """Return the keys of a page, and what is left of it; a fifth of the work of :func:`quick_rows`.

    ``None``: it is not of the shape, or a key ends in ``/`` and may be a directory marker, which the sizes tell.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    first, last = text.find(_BEGIN), text.rfind(_END)
    if first < 0 or last < first or ("!" in text and ("<![" in text or "<!--" in text)):
        return None
    found = _KEY.findall(text, first)
    # Every object begins with its key, and nothing stands between two of them. (Each look at a page costs a tenth.)
    if len(found) != text.count(_BEGIN) or len(found) - 1 != text.count(_END + _BEGIN):
        return None
    rest = text[:first] + text[last + len(_END) :]
    keys = _decoded(found, is_encoded="<EncodingType>url</EncodingType>" in rest)
    if keys is None or keys[-1].endswith("/") or "/\0" in "\0".join(keys):
        return None
    return keys, rest.encode()


def _entries(rows: list[tuple[str, str, str, str]], *, is_encoded: bool) -> list[Entry] | None:
    keys = _decoded([row[0] for row in rows], is_encoded=is_encoded)
    tags = _bare([row[2] for row in rows])
    try:
        times = [datetime.fromisoformat(row[1]) for row in rows]
    except ValueError:
        return None
    if keys is None or tags is None or any(when.tzinfo is None for when in times):
        return None
    return [
        _new(Entry, (key, int(row[3]), tag, when)) for key, row, tag, when in zip(keys, rows, tags, times, strict=True)
    ]


def _decoded(keys: list[str], *, is_encoded: bool) -> list[str] | None:
    """Return keys as they are meant, all at once: no key holds the separator."""
    joined = "\0".join(keys)
    if "&" in joined:
        return None
    if not is_encoded or ("%" not in joined and "+" not in joined):
        return keys
    found = unquote_plus(joined).split("\0")
    return found if len(found) == len(keys) else None


def _bare(tags: list[str]) -> list[str] | None:
    """Return entity tags without their quotes."""
    quote = next((mark for mark in _QUOTES if tags[0].startswith(mark)), "")
    if quote:
        if not all(tag.startswith(quote) and tag.endswith(quote) for tag in tags):
            return None
        size = len(quote)
        tags = [tag[size:-size] for tag in tags]
    joined = "".join(tags)
    return None if "&" in joined or '"' in joined else tags
