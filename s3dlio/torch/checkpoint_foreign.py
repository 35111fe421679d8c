"""Checkpoints of ``torch.distributed.checkpoint`` that other libraries have written, read from any backend.

Floor 6. Lends torch's own reader the library's objects as files; must not know their layout. Their metadata is
pickled: only for checkpoints that are trusted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader

from s3dlio.api import exists
from s3dlio.buffers import MIB
from s3dlio.context import current_token, store_of
from s3dlio.errors import OptionError
from s3dlio.remote import RemoteObject
from s3dlio.uri import parse_object

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: The metadata's object.
METADATA = ".metadata"
_BUFFER_BYTES = 8 * MIB


class ForeignReader(FileSystemReader):
    """Reads what torch's writers (``FileSystemWriter``, ``FsspecWriter``) and s3torchconnector's have written.

    Args:
        uri: Where the checkpoint is; it ends in ``/``.
    """

    def __init__(self, uri: str) -> None:
        super().__init__("")
        self.fs = _Files()  # type: ignore[assignment]  # torch's own type is narrower than what it uses
        self.path = uri


class _Files(FileSystemBase):
    """Objects as the files that torch's reader opens."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        if mode != "rb":
            raise _read_only()
        where = parse_object(str(path), "load_checkpoint")
        source = RemoteObject(store_of(where), where, token=current_token())
        with io.BufferedReader(_Stream(source), _BUFFER_BYTES) as stream:
            yield stream

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{path}{suffix}"

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return exists(str(path))

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return str(path)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        raise _read_only()

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        raise _read_only()

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        raise _read_only()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return not isinstance(checkpoint_id, Path)


def _read_only() -> OptionError:
    return OptionError("other libraries' checkpoints are only read here", operation="load_checkpoint")


class _Stream(io.RawIOBase):
    """One object as a file that can be read at any place."""

    def __init__(self, source: RemoteObject) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        stop = min(self._at + len(target), self._source.size)
        length = max(0, stop - self._at)
        if length:
            target[:length] = self._source.read(self._at, stop)
            self._at = stop
        return length

    def __reduce__(self) -> Any:
        raise TypeError("an open object cannot be pickled")
