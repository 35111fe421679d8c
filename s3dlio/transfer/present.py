"""Which objects are at the destination already.

Floor 5. Knows what makes two objects equal without reading them; must not carry anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.crew import map_all
from s3dlio.errors import NotFoundError
from s3dlio.stores.base import DIRECTORY_TYPE, Store
from s3dlio.transfer.plan import Move
from s3dlio.uri import Uri

#: An entity tag that is a sum of the content (S3's and Google's, of objects put with one request).
_SUM = re.compile(r"[0-9a-f]{32}")
#: Fewer objects are asked for one by one; for more the destination is listed, a thousand to a request.
_LIST_FROM = 16


class Known(NamedTuple):
    """What is known of an object at the destination."""

    size: int
    etag: str
    last_modified: datetime | None


def is_equal(move: Move, there: Known) -> bool:
    """Tell whether an object need not be carried: of one size, and of one sum or, where sums say nothing, not older."""
    if move.size != there.size:
        return False
    if _SUM.fullmatch(move.etag) and _SUM.fullmatch(there.etag):
        return move.etag == there.etag
    if move.etag and move.etag == there.etag:
        return True
    if move.last_modified is None or there.last_modified is None:
        return False
    # Servers tell whole seconds: an object that was written right behind its source would look older.
    return int(there.last_modified.timestamp()) >= int(move.last_modified.timestamp())


def missing(
    moves: Sequence[Move], folder: Uri, open_store: Callable[[Uri], Store], width: int, token: CancellationToken
) -> list[Move]:
    """Return the moves whose object is not at the destination yet, or is another there."""
    if not moves:
        return []
    store = open_store(folder)
    found = _listed(moves, folder, store, token) if len(moves) >= _LIST_FROM else _asked(moves, store, width, token)
    return [move for move in moves if not (there := found.get(move.target.key)) or not is_equal(move, there)]


def _listed(moves: Iterable[Move], folder: Uri, store: Store, token: CancellationToken) -> dict[str, Known]:
    wanted = {move.target.key for move in moves}
    prefix = folder if not folder.key or folder.key.endswith("/") else folder.with_key(folder.key + "/")
    try:
        return {
            entry.key: Known(entry.size, entry.etag, entry.last_modified)
            for entry in store.entries(prefix, token)
            if entry.key in wanted
        }
    except NotFoundError:
        return {}


def _asked(moves: Sequence[Move], store: Store, width: int, token: CancellationToken) -> dict[str, Known]:
    def ask(move: Move, inner: CancellationToken) -> Known | None:
        try:
            info = store.head(move.target, inner)
        except NotFoundError:
            return None
        size = -2 if info.content_type == DIRECTORY_TYPE else info.size
        return Known(size, info.etag, info.last_modified)

    answers = map_all(ask, moves, width, token)
    return {move.target.key: known for move, known in zip(moves, answers, strict=True) if known is not None}
