"""``file://``: local files.

Floor 2. Knows paths, ``pread`` and the page cache; must not know anything of networks. A key is an
absolute path. Objects appear whole or not at all: they are written beside their place under a hidden
name, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import mimetypes
import mmap
import os
import stat as stat_module
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import ClassVar

from s3dlio.cancel import CancellationToken
from s3dlio.errors import NotFoundError, ObjectChangedError, RangeError, StoreError
from s3dlio.options import StoreOptions
from s3dlio.stores.base import DIRECTORY_TYPE, Entry, ObjectInfo, Place, PutOptions, Store, Version, quoted
from s3dlio.stores.draft import TEMPORARY, Draft, FileUpload, drafts_at, idle_s, is_held, mapped, tag_of, unless_missing
from s3dlio.stores.noted import noted
from s3dlio.stores.upload import Limits, Pending
from s3dlio.uri import Uri

#: One pread moves at most this much, so that a cancelled read of a huge file ends soon.
_STEP_BYTES = 64 * 1024 * 1024
#: Reads of at least this much are large: eight times what Linux reads ahead by itself.
_LARGE_BYTES = 1024 * 1024
#: The system's own numbers of what it can be told before a read; macOS has none.
_ADVICE = {
    mode: getattr(os, f"POSIX_FADV_{mode.upper()}")
    for mode in ("sequential", "random")
    if hasattr(os, f"POSIX_FADV_{mode.upper()}")
}
_DONTNEED = getattr(os, "POSIX_FADV_DONTNEED", 0)


@noted
class LocalStore(Store):
    """The local file system, through the page cache."""

    #: O_NONBLOCK, since opening a pipe would wait for a writer; regular files do not know it.
    open_flags: ClassVar[int] = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    #: How files are written.
    draft: ClassVar[type[Draft]] = Draft
    limits = Limits(free=True)

    def __init__(self, options: StoreOptions | None = None) -> None:
        super().__init__(options)
        direct = self.open_flags & getattr(os, "O_DIRECT", 0)  # these reads go past the page cache
        self._cache_mode = "normal" if direct else self.options.page_cache_mode

    # -- reads ------------------------------------------------------------------------------------

    def read_first(self, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        """See :meth:`s3dlio.stores.base.Store.read_first`."""
        with mapped(uri, "get"), self._open(uri) as descriptor:
            version = _version(descriptor)
            if start > version.size:
                msg = f"offset {start} lies behind the end of the file ({version.size} bytes)"
                raise RangeError(msg, uri=str(uri), operation="get")
            target = place(version.size)
            self._advise(descriptor, start, len(target), version.size)
            self._fill(uri, descriptor, start, target, token)
            self._forget(descriptor, start, len(target))
            return version

    def read_into(self, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.read_into`."""
        with mapped(uri, "get"), self._open(uri) as descriptor:
            if version.size >= 0 and _version(descriptor) != version:
                msg = "the file changed while it was being read"
                raise ObjectChangedError(msg, uri=str(uri), operation="get")
            self._advise(descriptor, start, len(target), version.size)
            self._fill(uri, descriptor, start, target, token)
            self._forget(descriptor, start, len(target))

    @contextlib.contextmanager
    def _open(self, uri: Uri) -> Iterator[int]:
        descriptor = os.open(uri.key, self.open_flags)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat_module.S_ISDIR(mode):
                msg = "is a directory, not an object; list it with a trailing '/'"
                raise NotFoundError(msg, uri=str(uri), operation="get")
            if not stat_module.S_ISREG(mode):
                msg = "is not a regular file"
                raise StoreError(msg, uri=str(uri), operation="get")
            yield descriptor
        finally:
            os.close(descriptor)

    def _fill(self, uri: Uri, descriptor: int, start: int, target: memoryview, token: CancellationToken) -> None:
        done = 0
        while done < len(target):
            token.check()
            count = os.preadv(descriptor, [target[done : done + _STEP_BYTES]], start + done)
            if not count:
                msg = f"the file ended at byte {start + done}: it is shorter than it was"
                raise ObjectChangedError(msg, uri=str(uri), operation="get")
            done += count

    def _advise(self, descriptor: int, start: int, length: int, size: int) -> None:
        """Tell the system what kind of read comes."""
        advice = _advice(self._cache_mode, start, length, size)
        if advice is not None:
            _tell(descriptor, start, length, advice)

    def _forget(self, descriptor: int, start: int, length: int) -> None:
        """Take what was read out of the page cache, if that was asked for."""
        if self._cache_mode == "dontneed" and length:
            # Whole pages: one that is named in part only would stay.
            first = start - start % mmap.PAGESIZE
            stop = -(-(start + length) // mmap.PAGESIZE) * mmap.PAGESIZE
            _tell(descriptor, first, stop - first, _DONTNEED)

    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.head`."""
        token.check()
        with mapped(uri, "stat"):
            status = os.stat(uri.key)
        kind = DIRECTORY_TYPE if stat_module.S_ISDIR(status.st_mode) else ""
        size = 0 if kind else status.st_size
        return ObjectInfo(size, _when(status), tag_of(status), kind or mimetypes.guess_type(uri.key)[0] or "", {})

    # -- writes -----------------------------------------------------------------------------------

    def put(self, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.put`. Content type and metadata are not kept by files."""
        with mapped(uri, "put"), self.draft(uri) as draft:
            draft.write(0, [data], token)
            status = draft.publish(data.nbytes, overwrite=options.overwrite, durable=options.durable)
            return ObjectInfo(data.nbytes, etag=tag_of(status))

    def upload(self, uri: Uri, options: PutOptions, _token: CancellationToken) -> FileUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`."""
        with mapped(uri, "put"):
            draft = self._bulk(uri) if options.bulk else self.draft(uri)
            return FileUpload(uri, draft, overwrite=options.overwrite, durable=options.durable)

    def _bulk(self, uri: Uri) -> Draft:
        from s3dlio.stores.uncached import BulkDraft  # noqa: PLC0415 - checkpoints alone need it

        return (BulkDraft if self._cache_mode in {"auto", "dontneed"} else self.draft)(uri)

    def pending(self, where: Uri, token: CancellationToken) -> Iterator[Pending]:
        """See :meth:`s3dlio.stores.base.Store.pending`: the hidden files that hold what is being written."""
        with mapped(where, "abort_uploads"):
            for path in drafts_at(where.key):
                token.check()
                age_s = idle_s(path)
                if age_s is not None:
                    yield Pending(path, "", datetime.fromtimestamp(time.time() - age_s, UTC), age_s)

    def abandon(self, where: Uri, upload: Pending, idle_for_s: float, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.abandon`: never what a process of this machine has open."""
        draft = where.with_key(upload.key)
        with mapped(draft, "abort_uploads"), contextlib.suppress(FileNotFoundError):
            age_s = idle_s(upload.key)
            if age_s is None or age_s < idle_for_s or is_held(upload.key):
                return False
            self.delete([draft], token)
            return True
        return False

    def copy(self, source: Uri, target: Uri, version: Version, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`: by the kernel, which may share the blocks."""
        with mapped(source, "copy"), self._open(source) as descriptor:
            there = _version(descriptor)
            if version.size >= 0 and there != (version.size, version.etag or there.etag):
                msg = "the file is another than the one that was found"
                raise ObjectChangedError(msg, uri=str(source), operation="copy")
            with mapped(target, "copy"), self.draft(target) as draft:
                if not draft.fill_from(descriptor, there.size, token):
                    return False
                draft.publish(there.size, overwrite=True, durable=False)
        return True

    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete`. A key ending in ``/`` is an empty directory."""
        for uri in uris:
            token.check()
            with mapped(uri, "delete"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if uri.key.endswith("/"):
                    os.rmdir(uri.key)
                else:
                    os.unlink(uri.key)

    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.entries`. A directory's own name lists what is in it."""
        folder, _, name = prefix.key.rpartition("/")
        if name and os.path.isdir(prefix.key):
            folder, name = prefix.key, ""
        with mapped(prefix, "list"):
            yield from self._walk(folder + "/", name, token, recursive=recursive)

    def _walk(self, folder: str, name: str, token: CancellationToken, *, recursive: bool) -> Iterator[Entry]:
        token.check()
        try:
            with os.scandir(folder) as scan:
                items = sorted((item for item in scan if item.name.startswith(name)), key=lambda item: item.name)
        except (FileNotFoundError, NotADirectoryError):
            return  # an empty prefix, as on an object store
        for item in items:
            path = folder + item.name
            if item.is_dir() and recursive:
                yield from self._walk(path + "/", "", token, recursive=True)
            elif item.is_dir():
                yield Entry(path + "/", -1)
            elif item.is_file() and not item.name.endswith(TEMPORARY):
                yield _entry(item, path)

    # -- containers -------------------------------------------------------------------------------

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`: a directory."""
        token.check()
        with mapped(uri, "create_bucket"):
            os.makedirs(os.path.dirname(uri.key.rstrip("/")), exist_ok=True)
            os.mkdir(uri.key)

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`: an empty directory."""
        token.check()
        with mapped(uri, "delete_bucket"):
            os.rmdir(uri.key)

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`: the directories in a directory."""
        token.check()
        with mapped(uri, "list_containers"), os.scandir(uri.key or "/") as scan:
            return sorted(item.name for item in scan if item.is_dir())

    def mkdir(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.mkdir`: parents are made too, an existing one is fine."""
        token.check()
        with mapped(uri, "mkdir"):
            os.makedirs(uri.key, exist_ok=True)

    def removable(self, prefix: Uri, token: CancellationToken) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.removable`: links themselves, never what they lead to."""
        with mapped(prefix, "delete"):
            for folder, folders, files in os.walk(prefix.key, onerror=unless_missing):
                token.check()
                links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
                for name in (*files, *links):
                    yield Entry(os.path.join(folder, name), 0)

    def prune(self, prefix: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.prune`."""
        for folder, _folders, _files in os.walk(prefix.key, topdown=False):
            token.check()
            with contextlib.suppress(OSError):  # not empty: something new has come, it stays
                os.rmdir(folder)


def _advice(mode: str, start: int, length: int, size: int) -> int | None:
    """Return what to tell the system before a read of a file of ``size`` bytes; ``None`` for nothing."""
    if mode == "auto":
        whole = start == 0 and length >= size
        mode = "sequential" if length >= _LARGE_BYTES else "normal" if whole else "random"
    elif mode == "dontneed":
        # What is read ahead, behind the range, would not be forgotten with it.
        mode = "normal" if start + length >= size else "random"
    return _ADVICE.get(mode)


def _tell(descriptor: int, start: int, length: int, advice: int) -> None:
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        with contextlib.suppress(OSError):  # a file system that takes no advice reads as well without
            advise(descriptor, start, length, advice)


def _entry(item: os.DirEntry[str], path: str) -> Entry:
    status = item.stat()
    return Entry(path, status.st_size, tag_of(status), _when(status))


def _when(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _version(descriptor: int) -> Version:
    status = os.fstat(descriptor)
    return Version(status.st_size, quoted(tag_of(status)))
