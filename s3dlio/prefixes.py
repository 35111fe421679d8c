"""A long listing of a server that is far away: its first segments at once, in their order.

Floor 4. Knows when that pays, and reads a bounded way ahead; must not know patterns.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Iterator

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import ForkError
from s3dlio.stores.base import Entry, Store
from s3dlio.uri import Uri

#: The entries of a usual page. A listing that ends within them is left as it is.
_PAGE = 1000
#: With more first segments than this in a page they are small, and a request for each would cost more than it gains.
_MOST_IN_A_PAGE = 4
#: A level with more entries than this is listed as it comes: they are objects, or small prefixes.
_MOST_ON_A_LEVEL = 2000
#: Prefixes listed at once, and groups of a thousand entries that each may be ahead.
_AT_ONCE = 8
_GROUPS_AHEAD = 16
_LOOK_EVERY_S = 0.2


def wide_entries(store: Store, prefix: Uri, token: CancellationToken) -> Iterator[Entry]:
    """Yield what ``store.entries`` yields, in the same order; from far away sooner."""
    entries = store.entries(prefix, token)
    page = list(itertools.islice(entries, _PAGE))
    yield from _rest(store, prefix, token, page, entries) if len(page) == _PAGE else page


def wide_keys(store: Store, prefix: Uri, token: CancellationToken) -> Iterator[list[str]]:
    """Yield the keys of all objects below a prefix in groups, without directory markers, in the same order."""
    groups = store.key_pages(prefix, token)
    first = next(groups, [])
    if len(first) >= _PAGE and store.lists_at_once(prefix):
        yield [entry.key for entry in wide_entries(store, prefix, token) if not entry.is_marker]
        return
    yield first
    yield from groups


def _rest(
    store: Store, prefix: Uri, token: CancellationToken, page: list[Entry], entries: Iterator[Entry]
) -> Iterator[Entry]:
    level = _level(store, prefix, token, page) if store.lists_at_once(prefix) else []
    prefixes = [entry for entry in level if entry.is_prefix]
    if not prefixes:
        return itertools.chain(page, entries)
    if len(prefixes) == 1:  # all lies in one directory: look into that
        return _deeper(store, prefix, token, level)
    return _at_once(store, prefix, token, level)


def _level(store: Store, prefix: Uri, token: CancellationToken, page: list[Entry]) -> list[Entry]:
    """Return what is on the level of a prefix, or nothing where going by its first segments would not pay."""
    length = len(prefix.key)
    firsts = {entry.key[length:].partition("/")[0] for entry in page if "/" in entry.key[length:]}
    if not 1 <= len(firsts) <= _MOST_IN_A_PAGE:
        return []
    level = list(itertools.islice(store.entries(prefix, token, recursive=False), _MOST_ON_A_LEVEL + 1))
    return sorted(level, key=lambda entry: entry.key) if len(level) <= _MOST_ON_A_LEVEL else []


def _deeper(store: Store, prefix: Uri, token: CancellationToken, level: list[Entry]) -> Iterator[Entry]:
    for entry in level:
        if entry.is_prefix:
            yield from wide_entries(store, prefix.with_key(entry.key), token)
        else:
            yield entry


def _at_once(store: Store, prefix: Uri, token: CancellationToken, level: list[Entry]) -> Iterator[Entry]:
    own = CancellationToken(token, CREW.get().token)
    waiting = (_Ahead(store, prefix.with_key(entry.key), own) for entry in level if entry.is_prefix)
    running = list(itertools.islice(waiting, _AT_ONCE))
    try:
        for entry in level:
            if entry.is_prefix:
                yield from running.pop(0).entries()
                running.extend(itertools.islice(waiting, 1))
            else:
                yield entry
    finally:
        own.cancel()
        own.detach()


class _Ahead:
    """One prefix, listed by a thread some way ahead of whoever takes its entries."""

    def __init__(self, store: Store, prefix: Uri, token: CancellationToken) -> None:
        self._store = store
        self._prefix = prefix
        self._token = token
        self._groups: queue.SimpleQueue[list[Entry] | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_GROUPS_AHEAD)
        self._consumer = threading.get_ident()
        self._process = os.getpid()
        CREW.get().start(self._list)

    def _list(self) -> None:
        try:
            entries = self._store.entries(self._prefix, self._token)
            while group := list(itertools.islice(entries, _PAGE)):
                self._await_room()
                self._groups.put(group)
            self._groups.put(None)
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: who takes the entries raises it
            self._groups.put(error)

    def _await_room(self) -> None:
        if threading.get_ident() == self._consumer:  # there was no thread to have: nobody takes meanwhile
            return
        while not self._room.acquire(timeout=_LOOK_EVERY_S):
            self._token.check()
        self._token.check()

    def entries(self) -> Iterator[Entry]:
        """Yield the entries."""
        if self._process != os.getpid():
            msg = "this listing was begun in another process; begin a new one after the fork"
            raise ForkError(msg)
        while (group := self._groups.get()) is not None:
            if isinstance(group, BaseException):
                raise group
            yield from group
            self._room.release()
