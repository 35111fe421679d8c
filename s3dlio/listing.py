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
from s3dlio.prefixes import wide_entries
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
            text that is a regex if it has the signs of one and a glob if not; such a text matches
            itself as well. A glob without ``/`` is tried on the last segment, so that ``*.npz`` finds
            those in sub-directories too; in one with ``/``, ``*`` crosses ``/``.

    Raises:
        OptionError: The regex cannot be compiled.
    """
    if pattern is None:
        return lambda _name: True
    if not isinstance(getattr(pattern, "pattern", pattern), str):
        msg = f"a pattern is text, or re.compile() of text, not {pattern!r:.80}"
        raise OptionError(msg)
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    kind, _, text = pattern.partition(":")
    if kind == "glob":
        return _glob(text)
    if kind == "regex":
        return _regex(text)
    test = _regex(pattern) if _REGEX_SIGNS.search(pattern) else _glob(pattern)
    return lambda name: name == pattern or test(name)


def _glob(text: str) -> Callable[[str], bool]:
    match = re.compile(fnmatch.translate(text)).match
    if "/" in text:
        return lambda name: match(name) is not None
    return lambda name: match(name.removesuffix("/").rpartition("/")[2]) is not None


def _regex(text: str) -> Callable[[str], bool]:
    try:
        search = re.compile(text).search
    except re.error as error:
        msg = f"the pattern {text!r} is not a regular expression: {error}"
        raise OptionError(msg) from error
    return lambda name: search(name) is not None


def scan(
    store: Store, prefix: Uri, pattern: Pattern, token: CancellationToken, *, recursive: bool = True
) -> Iterator[Entry]:
    """Yield what matches, in the backend's order; names are taken relative to the prefix's directory."""
    found = wide_entries(store, prefix, token) if recursive else store.entries(prefix, token, recursive=False)
    return _matching(found, prefix.key, pattern)


def without_markers(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out the empty objects that stand for directories."""
    return (entry for entry in entries if entry.size or not entry.key.endswith("/"))


def _matching(entries: Iterator[Entry], prefix: str, pattern: Pattern) -> Iterator[Entry]:
    if pattern is None:
        return entries
    matches = compile_pattern(pattern)
    return (entry for entry in entries if matches(_name(entry.key, prefix)))


def _name(key: str, prefix: str) -> str:
    """Return a key relative to the directory that the prefix names, or to the one that it ends inside of."""
    if len(key) > len(prefix) + 1 and key.startswith(prefix) and key[len(prefix)] == "/":
        return key[len(prefix) + 1 :]
    return key[prefix.rfind("/") + 1 :]


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
        Found(prefix.with_key(key), size, etag, last_modified)
        for key, size, etag, last_modified in without_markers(scan(store, prefix, pattern, token, recursive=recursive))
    ]
    found.sort(key=lambda item: item.uri.key)
    return found


def pages(store: Store, prefix: Uri, pattern: Pattern, token: CancellationToken) -> Iterator[list[Entry]]:
    """Yield what a recursive delete takes away, as far as it matches, in groups of up to a thousand."""
    page: list[Entry] = []
    for entry in _matching(store.removable(prefix, token), prefix.key, pattern):
        page.append(entry)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
