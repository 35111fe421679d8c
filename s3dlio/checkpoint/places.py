"""Where a checkpoint of several processes lies: its files' names, its metadata, and what of it may be removed.

Floor 4. Knows names and JSON with a sum of its own; must not know frameworks. Names of files are never used twice,
so that a checkpoint stays whole until the next one at the same place is.

::

    data/{time}-{id}-rank-{rank}-{number}.safetensors     behind data/, a prefix that spreads ranks, if asked for
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from s3dlio.checkpoint.manifest import new_timestamp, spread
from s3dlio.checksums import crc32c
from s3dlio.errors import CheckpointError, FormatError, IntegrityError
from s3dlio.uri import Uri, from_path_or_uri, parse

DATA = "data/"
_TIME = "%Y%m%dT%H%M%S%fZ"
_FILE = re.compile(
    r"data/(?:[01]{8}/|[0-9a-f]/)?(\d{8}T\d{12}Z)-[0-9a-f]{32}-rank-\d{1,9}-\d{1,9}\.(?:safetensors|json)"
)
#: Files that no metadata names and that are older than this belong to a save that has ended.
_GRACE = timedelta(days=1)
#: How metadata begins: the sum of all of it, with zeros in this place.
_HEAD = b'{"crc32c":"'
_ZEROS = b"00000000"


def base_of(place: str | os.PathLike[str]) -> Uri:
    """Return where a checkpoint's objects are: a key that ends in ``/``.

    Raises:
        UriError: It is no address.
    """
    return parse(from_path_or_uri(place).rstrip("/") + "/")


def new_save() -> str:
    """Return what the names of a save's files begin with: nobody else's do."""
    return f"{new_timestamp()}-{uuid.uuid4().hex}"


def file_names(save: str, rank: int, strategy: str = "flat", suffix: str = "safetensors") -> Iterator[str]:
    """Yield names for the files of a rank."""
    number = 0
    while True:
        yield f"{DATA}{spread(rank, strategy)}{save}-rank-{rank}-{number}.{suffix}"
        number += 1


def written_at(file: str) -> datetime | None:
    """Return when a file's save was begun, or ``None`` if it is not a file of a checkpoint."""
    found = _FILE.fullmatch(file)
    return datetime.strptime(found[1], _TIME).replace(tzinfo=UTC) if found else None


def removable(found: Collection[str], kept: Collection[str]) -> list[str]:
    """Return the files that no metadata names and that are too old to belong to a save under way."""
    since = datetime.now(UTC) - _GRACE
    return [file for file in found if file not in kept and (written_at(file) or since) < since]


# -- metadata -----------------------------------------------------------------------------------------


def pack_summed(told: dict[str, Any]) -> bytes:
    """Return JSON that begins with its own CRC-32C."""
    text = json.dumps({"crc32c": _ZEROS.decode(), **told}, separators=(",", ":")).encode()
    return _with_sum(text, f"{crc32c(text):08x}".encode())


def _with_sum(text: bytes, digits: bytes) -> bytes:
    return text[: len(_HEAD)] + digits + text[len(_HEAD) + len(_ZEROS) :]


def parse_summed(text: bytes, form: str, version: int) -> dict[str, Any]:
    """Return what :func:`pack_summed` was given.

    Args:
        text: What is stored.
        form: What ``format`` in it must be.
        version: What ``version`` in it must be.

    Raises:
        IntegrityError: It is not what was written.
        CheckpointError: It is of a later version than this library knows.
        FormatError: It is none.
    """
    if not text.startswith(_HEAD):
        msg = "this is no metadata of a checkpoint"
        raise FormatError(msg)
    if text[len(_HEAD) : len(_HEAD) + len(_ZEROS)] != f"{crc32c(_with_sum(text, _ZEROS)):08x}".encode():
        msg = "the metadata is damaged: its checksum is wrong"
        raise IntegrityError(msg)
    try:
        told: dict[str, Any] = json.loads(text)
        found = told["format"], told["version"]
    except (ValueError, KeyError, RecursionError) as error:
        msg = f"the metadata cannot be read: {error!r:.300}"
        raise FormatError(msg) from error
    if found[0] != form:
        msg = f"this is metadata of another form ({found[0]!r:.50}, not {form!r})"
        raise FormatError(msg)
    if found[1] != version:
        msg = f"the checkpoint is of version {found[1]!r:.20}, and this library reads {version}: update s3dlio"
        raise CheckpointError(msg)
    return told
