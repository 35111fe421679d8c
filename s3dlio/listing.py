"""From a prefix and a pattern to the objects meant.

Floor 4. Knows how patterns are read and what of a listing counts; must not know backends or samples.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.errors import OptionError
from s3dlio.stores import open_store
from s3dlio.stores.base import Entry, Store
from s3dlio.uri import Uri, parse

Pattern = str | re.Pattern[str] | None

#: What makes an unmarked pattern a regular expression; without any of it, it is a glob.
_REGEX_SIGNS = re.compile(r"[\\^$+(){}|]|\.[*+?]")
_PAGE = 1000


class Found(NamedTuple):
    """One object of a listing.

    Attributes:
        uri: Its address, in the caller's scheme.
        size: Bytes; -1 for a common prefix.
        etag: Entity tag without quotes, or an empty string.
        last_modified: With time zone, or ``None``.
    """

    uri: Uri
    size: int
    etag: str = ""
    last_modified: datetime | None = None


def compile_pattern(pattern: Pattern) -> Callable[[str], bool]:
    """Return what tells whether a relative name matches.

    Args:
        pattern: ``None`` (all), a compiled regex (searched), ``"glob:..."``, ``"regex:..."``, or a
            text that is a regex if it has the signs of one and a glob if not. In a glob ``*`` crosses
            ``/``, so that ``*.npz`` finds those in sub-directories too.

    Raises:
        OptionError: The regex cannot be compiled.
    """
    if pattern is None:
        return lambda _name: True
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    kind, marked, text = pattern.partition(":")
    if not marked or kind not in ("glob", "regex"):
        kind, text = "regex" if _REGEX_SIGNS.search(pattern) else "glob", pattern
    if kind == "glob":
        text = fnmatch.translate(text)
    try:
        compiled = re.compile(text)
    except re.error as error:
        msg = f"the pattern {pattern!r} is not a regular expression: {error}"
        raise OptionError(msg) from error
    test = compiled.match if kind == "glob" else compiled.search
    return lambda name: test(name) is not None


def scan(
    store: Store, prefix: Uri, pattern: Pattern, token: CancellationToken, *, recursive: bool = True
) -> Iterator[Entry]:
    """Yield what matches, in the backend's order; names are taken relative to the prefix's directory."""
    matches = compile_pattern(pattern)
    lead = len(base_of(store, prefix).key)
    for entry in store.entries(prefix, token, recursive=recursive):
        if matches(entry.key[lead:]):
            yield entry


def base_of(store: Store, prefix: Uri) -> Uri:
    """Return the directory that names in a listing are relative to."""
    if not prefix.key.endswith("/") and store.is_directory(prefix):
        return prefix.with_key(prefix.key + "/")
    return prefix.with_key(prefix.key[: prefix.key.rfind("/") + 1])


def find(
    uri: str, pattern: Pattern, token: CancellationToken, *, recursive: bool = True, store: Store | None = None
) -> list[Found]:
    """Return the objects below ``uri`` that match, sorted by URI, without directory markers.

    Raises:
        NotFoundError: The container does not exist.
        StoreError: It cannot be listed.
    """
    prefix = parse(uri)
    store = store or open_store(prefix)
    found = [
        Found(prefix.with_key(entry.key), entry.size, entry.etag, entry.last_modified)
        for entry in scan(store, prefix, pattern, token, recursive=recursive)
        if not entry.is_marker
    ]
    found.sort(key=lambda item: item.uri.key)
    return found


def pages(store: Store, prefix: Uri, pattern: Pattern, token: CancellationToken) -> Iterator[list[Entry]]:
    """Yield what matches in groups of up to a thousand, directory markers included."""
    page: list[Entry] = []
    for entry in scan(store, prefix, pattern, token):
        page.append(entry)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
