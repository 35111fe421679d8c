"""What a source means: a file, an object, a directory, a prefix, a path with a pattern in it.

Floor 4. Knows listings and directories; must not know where things go.
"""

from __future__ import annotations

import os
import re
import stat as stat_module
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.errors import NotFoundError, OptionError, StoreError
from s3dlio.listing import Pattern, scan
from s3dlio.stores.base import DIRECTORY_TYPE, ObjectInfo, Store
from s3dlio.stores.draft import TEMPORARY, mapped, tag_of
from s3dlio.transfer.paths import (
    PathPattern,
    deepest_folder,
    first_folder,
    is_pattern,
    marked,
    name_filter,
    path_pattern,
)
from s3dlio.uri import PATH_SCHEMES, Uri, parse


class Source(NamedTuple):
    """One object to be carried.

    Attributes:
        uri: Where it is.
        name: What it is called below the destination: its base name, or its path in the directory that was named.
        size: Bytes; -1 where that could not be found out (what a link leads to is missing).
        etag: Entity tag without quotes, or an empty string.
        last_modified: With time zone, or ``None``.
    """

    uri: Uri
    name: str
    size: int
    etag: str = ""
    last_modified: datetime | None = None


class Selection(NamedTuple):
    """What of the sources is meant.

    Attributes:
        recursive: Also what lies deeper in directories.
        pattern: Only what matches, relative to the directory.
        follow_links: What symbolic links lead to, too; else they are left out.
    """

    recursive: bool = True
    pattern: Pattern = None
    follow_links: bool = True


class Finder:
    """Finds what sources mean.

    Args:
        operation: The verb, for errors.
        selection: What of them is meant.
        open_store: Gives the store of an address.
        token: Stops the search.
    """

    def __init__(
        self, operation: str, selection: Selection, open_store: Callable[[Uri], Store], token: CancellationToken
    ) -> None:
        self._operation = operation
        self._chosen = selection
        self._wanted = name_filter(selection.pattern)
        self._open = open_store
        self._token = token
        #: Whether the last source was one single object, named as such.
        self.is_single = False

    def find(self, source: object) -> Iterator[Source]:
        """Yield what one source means.

        Raises:
            NotFoundError: There is nothing of that name, or nothing that matches.
            StoreError: It cannot be found out.
        """
        self.is_single = False
        flags = source.flags if isinstance(source, re.Pattern) else 0
        if isinstance(source, re.Pattern):
            kind, text = "regex", source.pattern
        elif isinstance(source, str | PurePath):
            kind, text = marked(str(source))
        else:
            msg = f"a source is a path, a URI or a pattern, not {type(source).__name__}"
            raise OptionError(msg, operation=self._operation)
        scheme, separator, _ = text.partition("://")
        seen = False
        if not separator or scheme.lower() in PATH_SCHEMES:
            path = parse(text).key if separator else _absolute(text)
            found = self._local(scheme.lower() if separator else "file", path, kind, flags)
        else:
            found = self._remote(text, kind, flags)
        for one in found:
            seen = True
            if self._wanted(one.name):
                yield one
        if not seen:
            msg = "nothing is there" if not kind and not is_pattern(text) else "nothing matches"
            raise NotFoundError(msg, uri=text, operation=self._operation)

    # -- this machine -----------------------------------------------------------------------------

    def _local(self, scheme: str, path: str, kind: str, flags: int) -> Iterator[Source]:
        where = Uri(scheme, "", path)
        if not kind and os.path.isdir(path):
            yield from self._tree(where.with_key(path.rstrip("/") + "/"), None)
        elif not kind and os.path.lexists(path):
            self.is_single = True
            with mapped(where, self._operation):
                yield _file(where, os.path.basename(path), os.stat(path))
        elif kind or is_pattern(path):
            cut = deepest_folder(path, os.path.isdir)
            pattern = path_pattern(path, cut, kind, recursive=self._chosen.recursive, flags=flags)
            yield from self._tree(where.with_key(pattern.folder), pattern)

    def _tree(self, folder: Uri, pattern: PathPattern | None) -> Iterator[Source]:
        tree = _Tree(folder, pattern, self._chosen, self._token, self._operation)
        with mapped(folder, self._operation):
            status = os.stat(folder.key)
            yield from tree.walk("", ((status.st_dev, status.st_ino),))

    # -- elsewhere --------------------------------------------------------------------------------

    def _remote(self, text: str, kind: str, flags: int) -> Iterator[Source]:
        where = parse(text)
        store = self._open(where)
        info = self._look(store, where) if not kind else None
        if info is not None and info.content_type != DIRECTORY_TYPE:
            self.is_single = True
            yield Source(where, where.key.rpartition("/")[2], info.size, info.etag, info.last_modified)
        elif info is None and (kind or is_pattern(where.key)):
            pattern = path_pattern(
                where.key, first_folder(where.key), kind, recursive=self._chosen.recursive, flags=flags
            )
            yield from self._listed(store, where, pattern.folder, pattern)
        else:
            folder = where.key if not where.key or where.key.endswith("/") else where.key + "/"
            yield from self._listed(store, where, folder, None)

    def _look(self, store: Store, where: Uri) -> ObjectInfo | None:
        if not where.key or where.key.endswith("/"):
            return None
        try:
            return store.head(where, self._token)
        except NotFoundError:
            return None

    def _listed(self, store: Store, where: Uri, folder: str, pattern: PathPattern | None) -> Iterator[Source]:
        deep = self._chosen.recursive or pattern is not None
        prefix = where.with_key(folder + (pattern.lead if pattern else ""))
        for entry in scan(store, prefix, None, self._token, recursive=deep):
            name = entry.key[len(folder) :]
            if entry.is_prefix or entry.is_marker or not name or not entry.key.startswith(folder):
                continue
            if pattern is None or pattern.matches(name):
                yield Source(where.with_key(entry.key), name, entry.size, entry.etag, entry.last_modified)


class _Tree:
    """A directory of this machine, walked."""

    def __init__(
        self,
        folder: Uri,
        pattern: PathPattern | None,
        selection: Selection,
        token: CancellationToken,
        operation: str,
    ) -> None:
        self._folder = folder
        self._pattern = pattern
        self._chosen = selection
        self._token = token
        self._operation = operation

    def walk(self, below: str, chain: tuple[tuple[int, int], ...]) -> Iterator[Source]:
        """Yield the files below a relative path; ``chain`` are the directories that lead to it."""
        self._token.check()
        with os.scandir(self._folder.key + below) as scan:
            items = sorted(scan, key=lambda item: item.name)
        for item in items:
            name = below + item.name
            if item.is_symlink() and not self._chosen.follow_links:
                continue
            if _is_folder(item):
                yield from self._descend(item, name, chain)
            elif not name.endswith(TEMPORARY) and (self._pattern is None or self._pattern.matches(name)):
                yield from self._entry(item, name)

    def _descend(self, item: os.DirEntry[str], name: str, chain: tuple[tuple[int, int], ...]) -> Iterator[Source]:
        if not self._chosen.recursive and self._pattern is None:
            return
        if self._pattern is not None and not self._pattern.may_hold(name):
            return
        status = item.stat()
        mark = status.st_dev, status.st_ino
        if mark not in chain:  # else a link leads back up, to what is being walked anyway
            yield from self.walk(name + "/", (*chain, mark))

    def _entry(self, item: os.DirEntry[str], name: str) -> Iterator[Source]:
        uri = self._folder.with_key(self._folder.key + name)
        try:
            status = item.stat()
        except OSError:  # a link that leads nowhere: whoever carries it will say so
            yield Source(uri, name, -1)
            return
        if stat_module.S_ISREG(status.st_mode):  # pipes and devices hold no bytes
            yield _file(uri, name, status)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # links in a circle
        return False


def _file(uri: Uri, name: str, status: os.stat_result) -> Source:
    if not stat_module.S_ISREG(status.st_mode):
        msg = "is not a regular file"
        raise StoreError(msg, uri=str(uri))
    return Source(uri, name, status.st_size, tag_of(status), datetime.fromtimestamp(status.st_mtime, UTC))


def _absolute(path: str) -> str:
    """Return a path from the root on. Its dots stay as they are: in a pattern they mean something else."""
    if path == "~" or path.startswith("~/"):
        return os.path.expanduser(path)
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)
