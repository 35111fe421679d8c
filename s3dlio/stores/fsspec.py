"""Every other scheme (``http://``, ``hf://``, ``sftp://``, ...), through fsspec.

Floor 2. Knows fsspec's verbs; must not know which file system is behind them. Bytes arrive as fsspec
returns them and are copied once into the caller's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile

from s3dlio.cancel import CancellationToken
from s3dlio.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    RangeError,
    S3dlioError,
    StoreError,
    UriError,
)
from s3dlio.options import StoreOptions
from s3dlio.perprocess import PerProcess
from s3dlio.stores.base import DIRECTORY_TYPE, Entry, ObjectInfo, Place, PutOptions, Store, Version, quoted
from s3dlio.stores.noted import noted, noted_upload
from s3dlio.stores.upload import Limits, Part, Upload
from s3dlio.uri import Uri

#: Assumed before it is known: these are networks more often than not.
_LATENCY_S = 0.02


@contextlib.contextmanager
def _mapped(uri: Uri, operation: str) -> Iterator[None]:
    """Turn whatever a file system raises into this library's errors."""
    try:
        yield
    except S3dlioError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(str(error), uri=str(uri), operation=operation) from error
    except PermissionError as error:
        raise AccessDeniedError(str(error), uri=str(uri), operation=operation) from error
    except Exception as error:  # file systems raise their clients' own classes
        msg = f"{type(error).__name__}: {error}"
        raise StoreError(msg, uri=str(uri), operation=operation) from error


@noted
class FsspecStore(Store):
    """One fsspec file system.

    Args:
        options: Unused so far; fsspec reads its own configuration.
        scheme: The protocol.
    """

    def __init__(self, options: StoreOptions | None = None, scheme: str = "") -> None:
        super().__init__(options)
        self._scheme = scheme
        # A fresh instance per process: asynchronous file systems must not cross a fork.
        self._fs: PerProcess[Any] = PerProcess(self._make)

    def _make(self) -> Any:
        return fsspec.filesystem(self._scheme, skip_instance_cache=True)

    def _path(self, uri: Uri) -> tuple[Any, str]:
        fs = self._fs.get()
        return fs, fs._strip_protocol(str(uri))  # noqa: SLF001 - fsspec's documented extension point

    def read_first(self, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        """See :meth:`s3dlio.stores.base.Store.read_first`."""
        with _mapped(uri, "get"):
            info = self._look(uri, token)
            version = Version(info.size, quoted(info.etag))
            if start > version.size:
                msg = f"offset {start} lies behind the end of the object ({version.size} bytes)"
                raise RangeError(msg, uri=str(uri), operation="get")
            self._copy(uri, start, place(version.size), token)
            return version

    def read_into(self, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.read_into`."""
        with _mapped(uri, "get"):
            self._copy(uri, start, target, token)
            # Looked at behind the read: what was read is then from before any change not seen here.
            info = self._look(uri, token)
            if version.size >= 0 and version != (info.size, quoted(info.etag)):
                msg = "the object changed while it was being read"
                raise ObjectChangedError(msg, uri=str(uri), operation="get")

    def _copy(self, uri: Uri, start: int, target: memoryview, token: CancellationToken) -> None:
        token.check()
        if not len(target):
            return
        fs, path = self._path(uri)
        data = fs.cat_file(path, start=start, end=start + len(target))
        if len(data) != len(target):
            msg = f"got {len(data)} bytes where {len(target)} were due"
            raise ObjectChangedError(msg, uri=str(uri), operation="get")
        target[:] = data

    def _look(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """Return what is known of an object that is to be read."""
        token.check()
        fs, path = self._path(uri)
        info = _info(fs.info(path), uri)
        if info.content_type == DIRECTORY_TYPE:
            msg = "is a directory, not an object; list it with a trailing '/'"
            raise NotFoundError(msg, uri=str(uri), operation="get")
        return info

    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.head`."""
        token.check()
        with _mapped(uri, "stat"):
            fs, path = self._path(uri)
            return _info(fs.info(path), uri)

    def latency_s(self, _uri: Uri) -> float | None:
        """See :meth:`s3dlio.stores.base.Store.latency_s`."""
        return _LATENCY_S

    def put(self, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.put`. Metadata is not kept."""
        token.check()
        with _mapped(uri, "put"):
            fs, path = self._place(uri, options)
            fs.pipe_file(path, bytes(data))
        return ObjectInfo(data.nbytes)

    def _place(self, uri: Uri, options: PutOptions) -> tuple[Any, str]:
        """Return where an object is to be written, with the folder for it made."""
        if uri.key.endswith("/"):
            msg = "a file name cannot end in '/'"
            raise UriError(msg, uri=str(uri), operation="put")
        fs, path = self._path(uri)
        if not options.overwrite and fs.exists(path):
            msg = "the object exists"
            raise AlreadyExistsError(msg, uri=str(uri), operation="put")
        fs.makedirs(fs._parent(path), exist_ok=True)  # noqa: SLF001 - as above
        return fs, path

    limits = Limits(in_order=True)

    def upload(self, uri: Uri, options: PutOptions, token: CancellationToken) -> _FsspecUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`."""
        token.check()
        with _mapped(uri, "put"):
            return _FsspecUpload(uri, *self._place(uri, options))

    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete`."""
        for uri in uris:
            token.check()
            with _mapped(uri, "delete"), contextlib.suppress(FileNotFoundError):
                fs, path = self._path(uri)
                fs.rm_file(path)

    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.entries`. A directory's own name lists what is in it."""
        token.check()
        folder, _, name = prefix.key.rpartition("/")
        with _mapped(prefix, "list"):
            fs, path = self._path(prefix)
            if not (name and fs.isdir(path)):
                fs, path = self._path(prefix.with_key(folder or "/"))
            try:
                found = fs.find(path, detail=True).values() if recursive else fs.ls(path, detail=True)
            except FileNotFoundError:
                return
        for item in found:
            key = _key(item["name"], prefix)
            if item["type"] == "directory":
                key = key.rstrip("/") + "/"
            if key.startswith(prefix.key):
                yield _entry(item, key)

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`: a directory."""
        token.check()
        with _mapped(uri, "create_bucket"):
            fs, path = self._path(uri)
            if fs.exists(path):
                msg = "the directory exists"
                raise AlreadyExistsError(msg, uri=str(uri), operation="create_bucket")
            fs.makedirs(path)

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`: an empty directory."""
        token.check()
        with _mapped(uri, "delete_bucket"):
            fs, path = self._path(uri)
            fs.rmdir(path)

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`: the directories at the top."""
        token.check()
        with _mapped(uri, "list_containers"):
            fs, path = self._path(uri)
            found = fs.ls(path, detail=True)
        return sorted(item["name"].rstrip("/").rpartition("/")[2] for item in found if item["type"] == "directory")

    def mkdir(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.mkdir`."""
        token.check()
        with _mapped(uri, "mkdir"):
            fs, path = self._path(uri)
            fs.makedirs(path, exist_ok=True)

    def prune(self, prefix: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.prune`."""
        with _mapped(prefix, "delete"):
            fs, path = self._path(prefix)
            for folder, _folders, _files in reversed(list(fs.walk(path))):
                token.check()
                with contextlib.suppress(OSError, NotImplementedError):  # not empty, or not a real directory
                    fs.rmdir(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings only."""
        return FsspecStore, (self._given, self._scheme)


@noted_upload
class _FsspecUpload(Upload):
    """A file that the file system keeps to itself until it is committed, if it can; most can.

    Args:
        uri: The object.
        fs: The file system.
        path: Its name for the object.
    """

    any_order = False

    def __init__(self, uri: Uri, fs: Any, path: str) -> None:
        self._uri = uri
        self._fs = fs
        self._path = path
        self._file = fs.open(path, "wb", autocommit=False)

    def send(self, part: Part, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.send`."""
        with _mapped(self._uri, "put"):
            for piece in part.pieces:
                token.check()
                self._file.write(piece)

    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.upload.Upload.complete`."""
        token.check()
        with _mapped(self._uri, "put"):
            self._file.close()
            commit = getattr(self._file, "commit", None)
            if commit is not None:
                commit()
            self._forget()
            self._fs.invalidate_cache(self._fs._parent(self._path))  # noqa: SLF001 - as above
            info = _info(self._fs.info(self._path), self._uri)
        if info.size != length:
            msg = f"the object has {info.size} bytes, {length} were written in {parts} parts"
            raise IntegrityError(msg, uri=str(self._uri), operation="put")
        return info

    def abort(self) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.abort`."""
        with _mapped(self._uri, "put"):
            discard = getattr(self._file, "discard", None)
            if isinstance(self._file, AbstractBufferedFile):
                self._file.closed = True  # what is still in its buffer is not to be sent, and nothing completed
            else:
                self._file.close()
            if discard is not None:
                discard()
            elif self._fs.exists(self._path):  # written in place: a part of an object is none
                self._fs.rm_file(self._path)
            self._forget()

    def _forget(self) -> None:
        """Take the file out of the transaction that fsspec puts every file of this kind into."""
        with contextlib.suppress(ValueError, AttributeError):
            self._fs.transaction.files.remove(self._file)


def _key(name: str, prefix: Uri) -> str:
    """Return a file system's name of an object in the form that the caller's URIs have."""
    bare = name.removeprefix(f"{prefix.scheme}://")
    return "/" + bare.lstrip("/") if prefix.key.startswith("/") else bare.lstrip("/")


def _entry(item: dict[str, Any], key: str) -> Entry:
    if item["type"] == "directory":
        return Entry(key, -1)
    return Entry(key, int(item.get("size") or 0), _tag(item), _when(item))


def _info(item: dict[str, Any], uri: Uri) -> ObjectInfo:
    if item["type"] == "directory":
        return ObjectInfo(0, _when(item), content_type=DIRECTORY_TYPE)
    if item.get("size") is None:
        msg = "the file system does not tell the size"
        raise StoreError(msg, uri=str(uri), operation="stat")
    kind = str(item.get("ContentType") or item.get("mimetype") or "")
    return ObjectInfo(int(item["size"]), _when(item), _tag(item), kind)


def _tag(item: dict[str, Any]) -> str:
    """Return what is another when the content is: the entity tag, or else time, size and inode."""
    etag = str(item.get("ETag") or "").strip('"')
    when = _when(item)
    if etag or when is None:
        return etag
    return f"{when.timestamp():.7f}-{item.get('size')}-{item.get('ino', '')}"


def _when(item: dict[str, Any]) -> datetime | None:
    for name in ("LastModified", "last_modified", "mtime", "modified", "created"):
        value = item.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
    return None
