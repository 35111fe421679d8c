"""What can be read of a store as a file system of fsspec: paths, directories, bytes, open files.

Floor 6. Knows what fsspec's callers expect of paths, listings and reads of many objects; must not know any backend,
nor how anything is written (:mod:`s3dlio.fsspec_plugin` does).

Nothing that a listing says is kept. A directory of an object store exists as long as something is below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, ClassVar

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path, tokenize

from s3dlio.context import current_token
from s3dlio.errors import NotFoundError, OptionError, S3dlioError
from s3dlio.fetch import Fetcher, Read
from s3dlio.fsspec_bulk import do_or_gather, pour, together
from s3dlio.fsspec_words import options_and_defaults
from s3dlio.object_store import ObjectStore
from s3dlio.options import StoreOptions
from s3dlio.remote import RemoteObject
from s3dlio.stores import open_store
from s3dlio.stores.base import DIRECTORY_TYPE, Entry, ObjectInfo, Store
from s3dlio.uri import PATH_SCHEMES, Uri, absolute, parse, parse_object


def _unless_missing(error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class Readable(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What can be read of a store: see :class:`s3dlio.fsspec_plugin.S3dlioFileSystem`."""

    scheme: ClassVar[str] = ""
    protocol: str | tuple[str, ...] = "s3dlio"
    root_marker = ""

    def __init__(self, **options: Any) -> None:
        if self._cached:
            return
        super().__init__(**options)
        given, self._defaults = options_and_defaults(options)
        self.options = StoreOptions(**given)
        self._verbs = ObjectStore(self.options)
        if not self.scheme:
            msg = (
                "name a store: fsspec.filesystem('s3dlio+s3'), or one of gs, az, file, direct and memory instead of s3"
            )
            raise OptionError(msg)

    # -- paths ------------------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple, set)):
            return [cls._strip_protocol(one) for one in path]
        path = stringify_path(path)
        for protocol in cls.protocol:
            path = path.removeprefix(f"{protocol}://")
        path = path.rstrip("/") or cls.root_marker
        if not cls.root_marker:
            return path.lstrip("/")  # as s3fs and others read "/bucket/key"; no bucket's name is empty
        return path if path.startswith(cls.root_marker) else absolute(path)

    def _uri(self, path: Any) -> Uri:
        return parse(f"{self.scheme}://{self._strip_protocol(path)}")

    def _text(self, path: Any) -> str:
        return str(self._uri(path))

    def _object(self, path: Any, operation: str) -> Uri:
        """Return the address of an object; a bucket is none, though servers answer a GET of it with a listing."""
        return parse_object(f"{self.scheme}://{self._strip_protocol(path)}", operation)

    def _path(self, uri: Uri) -> str:
        return str(uri).removeprefix(f"{self.scheme}://").rstrip("/") or self.root_marker

    def _store(self) -> Store:
        return open_store(Uri(self.scheme, "", ""), self.options)

    @property
    def _is_local(self) -> bool:
        return self.scheme in PATH_SCHEMES

    def _is_container(self, uri: Uri) -> bool:
        return not self._is_local and not uri.key.strip("/")

    # -- what is there ----------------------------------------------------------------------------------

    def info(self, path: str, **_kwargs: Any) -> dict[str, Any]:
        """Return what is known of an object or directory: ``name``, ``size``, ``type``, ``etag``, ``last_modified``.

        Raises:
            NotFoundError: Neither an object nor a directory has that name.
            StoreError: It cannot be found out.
        """
        path = self._strip_protocol(path)
        if path == "":
            return _folder(path)
        where = self._uri(path)
        if not self._is_container(where):
            try:
                return self._described(path, self._store().head(where, current_token()))
            except NotFoundError:
                if self._is_local:
                    raise
        below = where if self._is_container(where) else where.with_key(where.key + "/")
        if self._is_container(where) or next(self._entries(below, recursive=False), None) is not None:
            if self._is_container(where):
                next(self._entries(where, recursive=False), None)  # raises when there is no such container
            return _folder(path)
        msg = "no such object or directory"
        raise NotFoundError(msg, uri=str(where), operation="info")

    def _described(self, path: str, info: ObjectInfo) -> dict[str, Any]:
        if info.content_type == DIRECTORY_TYPE and self._is_local:
            return _folder(path) | {"last_modified": info.last_modified}
        return _file(path, info.size, info.etag, info.last_modified) | {
            "content_type": info.content_type,
            "metadata": dict(info.metadata),
        }

    def _entries(self, prefix: Uri, *, recursive: bool) -> Iterator[Entry]:
        return iter(self._store().entries(prefix, current_token(), recursive=recursive))

    def exists(self, path: str, **_kwargs: Any) -> bool:
        """Tell whether an object or directory is there; a failure to find out is raised, not ``False``."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Tell whether an object is there."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether a directory is there."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except NotFoundError:
            return None

    def ls(self, path: str, detail: bool = True, **_kwargs: Any) -> list[Any]:  # noqa: FBT001, FBT002 - fsspec's
        """List a directory; of an object, the object itself.

        Returns:
            What :meth:`info` returns of each, or the names alone; sorted by name.

        Raises:
            NotFoundError: There is no such directory.
            StoreError: It cannot be listed.
        """
        path = self._strip_protocol(path)
        found = self._containers() if path == "" else self._children(path)
        return found if detail else [info["name"] for info in found]

    def _containers(self) -> list[dict[str, Any]]:
        names = self._store().list_containers(Uri(self.scheme, "", ""), current_token())
        return [_folder(name) for name in names]

    def _children(self, path: str) -> list[dict[str, Any]]:
        where = self._uri(path)
        below = where if self._is_container(where) else where.with_key(where.key.rstrip("/") + "/")
        entries = [entry for entry in self._entries(below, recursive=False) if entry.key != below.key]
        if not entries and not self._is_container(where):
            info = self.info(path)
            return [] if info["type"] == "directory" else [info]
        return sorted((self._entry(where, entry) for entry in entries), key=lambda info: str(info["name"]))

    def _entry(self, where: Uri, entry: Entry) -> dict[str, Any]:
        path = self._path(where.with_key(entry.key))
        if entry.is_prefix or entry.is_marker:
            return _folder(path)
        return _file(path, entry.size, entry.etag, entry.last_modified)

    def walk(self, path: str, maxdepth: int | None = None, topdown: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - fsspec's
        """Yield directories with what is in them, as ``os.walk``. A failure is raised, unless ``on_error`` says else."""
        kwargs.setdefault("on_error", _unless_missing)
        return super().walk(path, maxdepth=maxdepth, topdown=topdown, **kwargs)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,  # noqa: FBT001, FBT002 - fsspec's
        detail: bool = False,  # noqa: FBT001, FBT002 - fsspec's
        **kwargs: Any,
    ) -> Any:
        """List all objects below a path with one listing, whatever their depth.

        Args:
            path: The directory.
            maxdepth: Levels to go down.
            withdirs: Tell of directories too, the path itself among them.
            detail: Tell all that is known.
            **kwargs: ``prefix``, what the names below the path begin with: the server lists no others.

        Returns:
            Their names, sorted; with ``detail`` a mapping from name to what :meth:`info` returns. Nothing when
            nothing is there.
        """
        path = self._strip_protocol(path)
        prefix = kwargs.pop("prefix", None) or ""
        if self._is_local or path == "" or maxdepth not in (None, 1):
            found = super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
            start = f"{path.rstrip('/')}/{prefix}" if path else prefix
            found = {name: info for name, info in found.items() if not prefix or name.startswith(start)}
        else:
            try:
                found = self._below(path, prefix, withdirs=withdirs, recursive=maxdepth is None)
            except NotFoundError:  # no such bucket
                found = {}
        return {name: found[name] for name in sorted(found)} if detail else sorted(found)

    def _below(self, path: str, prefix: str, *, withdirs: bool, recursive: bool) -> dict[str, Any]:
        where = self._uri(path)
        below = where if self._is_container(where) else where.with_key(where.key.rstrip("/") + "/")
        entries = self._entries(below.with_key(below.key + prefix), recursive=recursive)
        infos = [self._entry(where, entry) for entry in entries if recursive or entry.key != below.key]
        found = {info["name"]: info for info in infos if withdirs or info["type"] == "file"}
        if not infos and not prefix:
            info = self.info(path)
            if info["type"] == "file":
                return {path: info}
        if withdirs:
            if not prefix:
                found[path] = _folder(path)
            for name in [info["name"] for info in infos]:
                found |= {folder: _folder(folder) for folder in _folders(name, path) if folder not in found}
        return found

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Find what a pattern names; listed is what begins as the pattern does, up to its first wildcard.

        Returns:
            The names, sorted; with ``detail=True`` a mapping from name to what :meth:`info` returns.
        """
        text = self._strip_protocol(path)
        wild = re.search(r"[*?[]", text)
        if wild:
            kwargs.setdefault("prefix", text[: wild.start()].rpartition("/")[2])
        return super().glob(path, maxdepth=maxdepth, **kwargs)

    def created(self, path: str) -> datetime | None:
        """Return when an object was made: objects are replaced, never changed, so it is :meth:`modified`."""
        return self.modified(path)

    def modified(self, path: str) -> datetime | None:
        """Return when an object was last written, with its time zone; ``None`` where the backend does not say."""
        when: datetime | None = self.info(path).get("last_modified")
        return when

    def ukey(self, path: str) -> str:
        """Return a text that is another one when the object is another one."""
        info = self.info(path)
        return str(tokenize([info.get(name) for name in ("name", "size", "etag", "last_modified")]))

    def checksum(self, path: str) -> int:
        """Return :meth:`ukey` as a number."""
        return int(self.ukey(path), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is remembered of sizes and versions: of one object, or of all. Listings are never kept."""
        if path is None or not self._strip_protocol(path):
            self._store().sizes.clear()
        else:
            self._store().sizes.forget(self._uri(path))
        super().invalidate_cache(path)

    # -- reads ------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_kwargs: Any) -> bytes:
        """Return the bytes of an object, or of a range of it; negative places count from the end.

        ``s3dlio.get`` gives the same bytes without the copy that a ``bytes`` is.
        """
        return bytes(Fetcher(self._store(), token=current_token()).read(self._read(path, start, end)))

    def _read(self, path: str, start: int | None, end: int | None) -> Read:
        where = self._object(path, "get")
        first, last = start or 0, end
        if first < 0 or (last is not None and last < 0):
            size = self._store().head(where, current_token()).size
            first = max(0, size + first) if first < 0 else first
            last = size + last if last is not None and last < 0 else last
        return Read(where, first, None if last is None else max(first, last))

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_kwargs: Any,
    ) -> list[Any]:
        """Read many ranges at once.

        Args:
            paths: The objects.
            starts: First bytes, or one for all.
            ends: Behind the last bytes, or one for all; ``None`` reads to the end.
            max_gap: Taken, and without effect: what is close together costs no more when read at once.
            on_error: ``"return"`` puts errors in the places of their bytes; ``"raise"`` raises the first one.

        Returns:
            The bytes, in the order of ``paths``.
        """
        lenient = on_error != "raise"
        reads: dict[int, Read] = {}
        found: list[Any] = [None] * len(paths)
        for index, wanted in enumerate(zip(paths, _each(starts, paths), _each(ends, paths), strict=True)):
            try:
                reads[index] = self._read(*wanted)
            except S3dlioError as error:  # of this one alone: a negative place needs the size
                if not lenient:
                    raise
                found[index] = error
        for index, value in zip(reads, self._read_all([*reads.values()], lenient=lenient), strict=True):
            found[index] = value if isinstance(value, Exception) else bytes(value)  # one by one: the view goes at once
        return found

    def _read_all(self, reads: list[Read], *, lenient: bool) -> Iterator[Any]:
        fetcher = Fetcher(self._store(), token=current_token(), lenient=lenient)
        try:
            views: list[Any] = list(fetcher.read_all(reads))
        except S3dlioError as error:
            if not lenient:
                raise
            views = [error] * len(reads)  # the store as such cannot be read
        views.reverse()
        while views:
            yield views.pop()

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - fsspec's
        """Read one object, or many at once: a list, a pattern, or with ``recursive`` all below a path.

        Returns:
            The bytes; of many a mapping from path to bytes, without those that failed (``on_error="omit"``), or with
            their errors (``"return"``).
        """
        paths = self.expand_path(path)
        if recursive:
            paths = sorted({name for one in paths for name in self.find(one)})
        if not recursive and isinstance(path, (str, os.PathLike)) and paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0])
        values = self.cat_ranges(paths, None, None, on_error="raise" if on_error == "raise" else "return")
        pairs = zip(paths, values, strict=True)
        return {name: value for name, value in pairs if on_error == "return" or not isinstance(value, Exception)}

    def get(self, rpath: Any, lpath: Any, *args: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Copy objects into local files, many at once; one after the other for a ``callback`` that shows progress."""
        with together(callback):
            super().get(rpath, lpath, *args, callback=callback, **kwargs)

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **_kwargs: Any
    ) -> None:
        """Copy an object into a local file, read ahead in parallel; of a directory, make the directory."""
        do_or_gather(lambda ahead: self._get_one(rpath, lpath, callback, outfile, ahead))

    def _get_one(self, rpath: str, lpath: Any, callback: Any, outfile: Any, ahead: int) -> None:
        try:
            source = self._remote(rpath)
        except NotFoundError:
            if outfile is not None or not self.isdir(rpath):
                raise
            os.makedirs(lpath, exist_ok=True)
            return
        callback.set_size(source.size)
        if outfile is not None:
            pour(source, outfile, callback, ahead)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        with open(lpath, "wb") as file:
            pour(source, file, callback, ahead)

    def _remote(self, path: str) -> RemoteObject:
        return RemoteObject(self._store(), self._object(path, "open"), token=current_token())


def _each(value: Any, paths: list[str]) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else [value] * len(paths)


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _file(path: str, size: int, etag: str, last_modified: datetime | None) -> dict[str, Any]:
    return {"name": path, "size": size, "type": "file", "etag": etag, "ETag": etag} | {
        "last_modified": last_modified,
        "LastModified": last_modified,  # s3fs's name of it
    }


def _folders(name: str, top: str) -> Iterator[str]:
    """Yield the directories between ``top`` and what is named, both left out."""
    while len(name := name.rpartition("/")[0]) > len(top):
        yield name
