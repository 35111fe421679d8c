"""A file under a hidden name, until it is whole.

Floor 2. Knows paths, ``pwrite`` and ``fsync``; must not know anything of networks. What is published has
reached the disk, and so has its name. Who writes for longer holds a lock on the file, which the kernel lets go when he
dies: so drafts of the dead are told from those of the living.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import ClassVar, Self

from s3dlio.cancel import CancellationToken
from s3dlio.errors import AccessDeniedError, AlreadyExistsError, IntegrityError, NotFoundError, StoreError, UriError
from s3dlio.stores.base import ObjectInfo
from s3dlio.stores.noted import noted_upload
from s3dlio.stores.upload import Part, Upload
from s3dlio.uri import Uri

#: Ends the hidden names of files that are still being written; listings leave them out.
TEMPORARY = ".s3dlio-partial"
#: Of the final name in a hidden one: four bytes each, and the whole stays within the usual 255.
_SHOWN_CHARS = 50
_TOKEN_CHARS = 16
#: One call writes at most this much, so that a cancelled write of a huge file ends soon.
_STEP_BYTES = 64 * 1024 * 1024

#: What a kernel or a file system says that does not copy between these two files.
_NO_COPIES = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})

#: What a file system says that has no locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})

_KINDS: dict[int, type[StoreError]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EEXIST: AlreadyExistsError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
}


@contextlib.contextmanager
def mapped(uri: Uri, operation: str) -> Iterator[None]:
    """Turn ``OSError`` into this library's errors."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, StoreError)
        raise kind(error.strerror or str(error), uri=str(uri), operation=operation) from error


def tag_of(status: os.stat_result) -> str:
    """Return what tells one content of a file from another: a rename-over has another inode."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


class Draft:
    """A file in the making. Different stretches of it may be written at once.

    Args:
        uri: The file it is to be. Missing folders are made.

    Raises:
        UriError: A file cannot have this name.
        OSError: It cannot be made.
    """

    flags: ClassVar[int] = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

    def __init__(self, uri: Uri) -> None:
        if uri.key.endswith("/"):
            msg = "a file name cannot end in '/'"
            raise UriError(msg, uri=str(uri), operation="put")
        self._uri = uri
        self._final = uri.key
        self._folder, name = os.path.split(uri.key)
        self._path = os.path.join(self._folder, f"{_beginning(name)}{secrets.token_hex(_TOKEN_CHARS // 2)}{TEMPORARY}")
        _make_folder(self._folder)
        self._descriptor = self._open(self._path)

    def _open(self, path: str) -> int:
        return os.open(path, self.flags, 0o666)

    def hold(self) -> None:
        """Show for as long as it is open that somebody writes it, see :func:`is_held`."""
        with contextlib.suppress(OSError):  # where there are no locks, the time of the last write must do
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, start: int, pieces: Sequence[memoryview], token: CancellationToken) -> None:
        """Write pieces of memory, one after the other, from a place in the file on."""
        for piece in pieces:
            done = 0
            while done < len(piece):
                token.check()
                done += os.pwrite(self._descriptor, piece[done : done + _STEP_BYTES], start + done)
            start += len(piece)

    def fill_from(self, source: int, length: int, token: CancellationToken) -> bool:
        """Have the kernel copy the first bytes of an open file (or share its blocks); ``False``: it cannot."""
        copy_range = getattr(os, "copy_file_range", None)
        done = 0
        while copy_range and done < length:
            token.check()
            try:
                count = copy_range(source, self._descriptor, min(length - done, _STEP_BYTES), done, done)
            except OSError as error:
                if error.errno in _NO_COPIES and not done:
                    return False
                raise
            if not count:
                return False
            done += count
        return done == length

    def publish(self, length: int, *, overwrite: bool, durable: bool = True) -> os.stat_result:
        """Give the file its name, once its ``length`` bytes are on the disk, and return its status.

        Not ``durable``, it has the name once they are written, and the system brings them to the disk later.

        Raises:
            IntegrityError: It has another length. It gets no name.
        """
        self._settle(length)
        if durable:
            os.fsync(self._descriptor)
        status = os.fstat(self._descriptor)
        if status.st_size != length:
            msg = f"the file has {status.st_size} bytes, {length} were written"
            raise IntegrityError(msg, uri=str(self._uri), operation="put")
        self._close()
        if overwrite:
            os.replace(self._path, self._final)
        else:
            os.link(self._path, self._final)  # fails if the name is taken, which rename would not
            os.unlink(self._path)
        if durable:
            _sync_folder(self._folder)
        return status

    def _settle(self, length: int) -> None:
        """Take off what was written beyond the end: nothing here."""

    def discard(self) -> None:
        """Throw the file away. Once is enough; after :meth:`publish` nothing is left to do."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Discard the file at the end, unless it was published."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not published."""
        self.discard()


def drafts_at(path: str) -> Iterator[str]:
    """Yield the paths of the drafts of a file, or of all below a directory (links to others are not followed)."""
    if os.path.isdir(path):
        for folder, _folders, files in os.walk(path, onerror=unless_missing):
            yield from (os.path.join(folder, name) for name in files if name.endswith(TEMPORARY))
        return
    folder, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as scan:
        yield from (item.path for item in scan if _is_draft_of(name, item.name))


def idle_s(path: str) -> float | None:
    """Return for how many seconds a draft has not been written, by this machine's clock; ``None``: there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return max(0.0, time.time() - status.st_mtime) if stat.S_ISREG(status.st_mode) else None


def is_held(path: str) -> bool:
    """Tell whether somebody has a draft open to write it, as far as the file system knows of locks.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        os.close(descriptor)
    return False


def unless_missing(error: OSError) -> None:
    """Raise what a walk meets, unless something has gone meanwhile."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _beginning(name: str) -> str:
    return f".{name[:_SHOWN_CHARS]}."


def _is_draft_of(name: str, other: str) -> bool:
    beginning = _beginning(name)
    return (
        other.startswith(beginning)
        and other.endswith(TEMPORARY)
        and len(other) == len(beginning) + _TOKEN_CHARS + len(TEMPORARY)
    )


@noted_upload
class FileUpload(Upload):
    """An upload to a file.

    Args:
        uri: The file.
        draft: Its content so far: nothing.
        overwrite: ``False`` refuses to replace a file.
        durable: ``False`` leaves it to the system when the file reaches the disk.
    """

    def __init__(self, uri: Uri, draft: Draft, *, overwrite: bool, durable: bool = True) -> None:
        self._uri = uri
        self._draft = draft
        draft.hold()  # it may be idle for long; a put never is, and a lock on a network's file system costs a round trip
        self._overwrite = overwrite
        self._durable = durable

    def send(self, part: Part, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.send`."""
        with mapped(self._uri, "put"):
            self._draft.write(part.start, part.pieces, token)

    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.upload.Upload.complete`."""
        token.check()
        with mapped(self._uri, "put"):
            status = self._draft.publish(length, overwrite=self._overwrite, durable=self._durable)
        return ObjectInfo(length, etag=tag_of(status))

    def abort(self) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.abort`."""
        with mapped(self._uri, "put"):
            self._draft.discard()


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        # Neither "the object exists" nor "it is missing": nothing can be written there.
        msg = "a file stands where a directory is needed"
        raise OSError(errno.EINVAL, msg) from error


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or "/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
