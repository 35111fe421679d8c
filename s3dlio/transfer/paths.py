"""Paths with a pattern in them: which part is a directory, and what matches the rest.

Floor 4. Pure, but for the question whether a directory exists, which the caller answers; must not know stores.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import NamedTuple

from s3dlio.errors import OptionError
from s3dlio.listing import Pattern, compile_pattern

_GLOB_SIGNS = re.compile(r"[*?\[]")
_REGEX_SIGNS = re.compile(r"[\\^$+(){}|]|\.[*+?]")
#: Where either begins.
_SIGNS = re.compile(r"[*?\[\\^$+(){}|]|\.[*+?]")

Segments = tuple[str, ...]


class PathPattern(NamedTuple):
    """A directory, and what of it is meant.

    Attributes:
        folder: Ends in ``/``.
        lead: Beginning that all matching names have, relative to the folder.
        matches: Whether a name, relative to the folder, is meant.
        may_hold: Whether a directory, relative to the folder, can hold such names.
    """

    folder: str
    lead: str
    matches: Callable[[str], bool]
    may_hold: Callable[[str], bool]


def marked(text: str) -> tuple[str, str]:
    """Return the mark (``glob``, ``regex`` or nothing) of a text, and the text without it."""
    kind, colon, rest = text.partition(":")
    return (kind, rest) if colon and kind in ("glob", "regex") and not rest.startswith("//") else ("", text)


def is_pattern(text: str) -> bool:
    """Tell whether a text can be anything but the name of one thing."""
    return _SIGNS.search(text) is not None


def first_folder(text: str) -> int:
    """Return how long the directory is that stands before the first sign of a pattern."""
    found = _SIGNS.search(text)
    return text.rfind("/", 0, found.start() if found else len(text)) + 1


def deepest_folder(text: str, is_folder: Callable[[str], bool]) -> int:
    """Return how long the longest directory is that a text begins with and that exists."""
    end = text.rfind("/")
    while end > 0 and not is_folder(text[:end]):
        end = text.rfind("/", 0, end)
    return end + 1


def path_pattern(text: str, cut: int, kind: str, *, recursive: bool = True, flags: int = 0) -> PathPattern:
    """Read a path with a pattern in it.

    Args:
        text: The path.
        cut: How long its directory is.
        kind: ``glob``, ``regex`` or nothing: then it is what it looks like.
        recursive: Names below a directory that a glob matches are meant, too.
        flags: Of the regular expression.

    Raises:
        OptionError: The regular expression cannot be compiled.
    """
    folder, rest = text[:cut], text[cut:]
    if kind == "regex" or (not kind and _REGEX_SIGNS.search(rest)):
        try:
            search = re.compile(rest, flags).search
        except re.error as error:
            msg = f"the pattern {rest!r} is not a regular expression: {error}"
            raise OptionError(msg) from error
        return PathPattern(folder, "", lambda name: search(name) is not None, lambda _folder: True)
    parts = tuple(part for part in rest.split("/") if part)
    sign = _GLOB_SIGNS.search(rest)
    return PathPattern(
        folder,
        rest[: sign.start()] if sign else rest,
        lambda name: _matches(parts, tuple(name.split("/")), below=recursive),
        lambda name: _may_hold(parts, tuple(name.split("/"))),
    )


def _matches(parts: Segments, name: Segments, *, below: bool) -> bool:
    """Tell whether a glob matches a name or, ``below``, one of the directories it lies in."""
    if not parts:
        return below or not name
    if parts[0] == "**":
        if parts == ("**",):
            return not any(_is_hidden(segment, "*") for segment in name)
        reach = next((place for place, segment in enumerate(name) if _is_hidden(segment, "*")), len(name))
        return any(_matches(parts[1:], name[place:], below=below) for place in range(reach + 1))
    return bool(name) and _fits(name[0], parts[0]) and _matches(parts[1:], name[1:], below=below)


def _may_hold(parts: Segments, folder: Segments) -> bool:
    for part, segment in zip(parts, folder, strict=False):
        if part == "**":
            return True
        if not _fits(segment, part):
            return False
    return True


def _fits(segment: str, part: str) -> bool:
    return not _is_hidden(segment, part) and fnmatch.fnmatchcase(segment, part)


def _is_hidden(segment: str, part: str) -> bool:
    """Tell whether a name is one that a wildcard does not match, as in shells."""
    return segment.startswith(".") and not part.startswith(".")


def name_filter(pattern: Pattern) -> Callable[[str], bool]:
    """Return what tells whether a relative name is wanted; see :func:`s3dlio.listing.compile_pattern`."""
    return compile_pattern(pattern)
