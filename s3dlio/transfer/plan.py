"""What goes where: sources and a destination in, moves out.

Floor 5. Pure; must not know stores, nor how anything is carried. What it refuses is refused before the first byte is
written.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from s3dlio.errors import UriError
from s3dlio.transfer.finding import Source
from s3dlio.uri import CONTAINER_SCHEMES, Uri


class Move(NamedTuple):
    """One object on its way.

    Attributes:
        source: Where it is.
        target: Where it is to be.
        size: Bytes, or -1.
        etag: Of the source, without quotes, or an empty string.
        last_modified: Of the source, or ``None``.
    """

    source: Uri
    target: Uri
    size: int
    etag: str = ""
    last_modified: datetime | None = None


class Failure(NamedTuple):
    """One object that was not transferred.

    Attributes:
        source: Its URI.
        destination: The URI it was to have.
        error: What hindered it.
    """

    source: str
    destination: str
    error: Exception


class Plan(NamedTuple):
    """What goes where, and what cannot go."""

    moves: list[Move]
    refused: list[Failure]


class Layout(NamedTuple):
    """How names at the destination are made.

    Attributes:
        folder: The destination: a directory or prefix.
        exact: The destination is the name of the one object that comes, not a directory.
        flatten: Base names only.
        folds_case: Names that differ in case only are one name there.
        operation: The verb, for errors.
    """

    folder: Uri
    exact: bool = False
    flatten: bool = False
    folds_case: bool = False
    operation: str = "copy"


def lay_out(sources: Iterable[Source], layout: Layout) -> Plan:
    """Decide where everything goes.

    Raises:
        UriError: A name leads out of the destination, or two sources would become one object.
    """
    plan = Plan([], [])
    taken: dict[str, Uri] = {}
    for source in sources:
        name = source.name.rpartition("/")[2] if layout.flatten else source.name
        target = layout.folder if layout.exact else layout.folder.with_key(_lead(layout.folder) + name)
        fault = _fault(name, target, layout)
        if fault:
            plan.refused.append(Failure(str(source.uri), str(target), UriError(fault, uri=str(source.uri))))
            continue
        mark = target.key.casefold() if layout.folds_case else target.key
        other = taken.setdefault(mark, source.uri)
        if other is not source.uri:
            if other == source.uri:  # named twice, by two patterns perhaps
                continue
            msg = f"{other} and {source.uri} would both become {target}; nothing was written"
            raise UriError(msg, uri=str(target), operation=layout.operation)
        if target == source.uri:
            msg = "source and destination are the same; nothing was written"
            raise UriError(msg, uri=str(target), operation=layout.operation)
        plan.moves.append(Move(source.uri, target, source.size, source.etag, source.last_modified))
    return plan


def _lead(folder: Uri) -> str:
    return folder.key if not folder.key or folder.key.endswith("/") else folder.key + "/"


def _fault(name: str, target: Uri, layout: Layout) -> str:
    """Return why a name cannot be one at the destination, or nothing.

    Raises:
        UriError: It leads out of the destination, which nobody means who is not up to something.
    """
    if target.scheme in CONTAINER_SCHEMES:
        try:
            target.key.encode()
        except UnicodeEncodeError:
            return "its name is not UTF-8, which an object's must be"
        return "" if name or layout.exact else "it has no name of its own"
    segments = name.split("/")
    if ".." in segments and not layout.exact:
        msg = f"the name {name!r} leads out of the destination; nothing was written"
        raise UriError(msg, uri=str(target), operation=layout.operation)
    if "\0" in name or (not layout.exact and any(segment in ("", ".") for segment in segments)):
        return f"{name!r} cannot be the name of a file"
    return ""
