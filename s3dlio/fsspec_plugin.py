"""This library as file systems of fsspec: ``s3dlio+s3://``, ``s3dlio+gs://``, ``s3dlio+az://`` and the local ones.

Floor 6. Knows what fsspec's callers expect of paths, directories and bulk operations; must not know any backend.

The file systems are fsspec's synchronous kind, since the engine below is threads: a batch of reads or writes is
one call and as concurrent as the engine makes it, there is no event loop to share, and all of it works in a forked
child. Asynchronous users (zarr) wrap it themselves, with fsspec's ``AsyncFileSystemWrapper``.

Nothing that a listing says is kept. A directory of an object store exists as long as something is below it:
``mkdir`` makes its bucket, and else nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression, has_magic

from s3dlio.buffers import flat_bytes
from s3dlio.context import current_token
from s3dlio.errors import AccessDeniedError, AlreadyExistsError, NotFoundError, OptionError, StoreError
from s3dlio.fsspec_bulk import do_or_gather, pour, together
from s3dlio.fsspec_files import Packed, ReadFile, Text, WriteFile
from s3dlio.fsspec_reads import Readable
from s3dlio.fsspec_words import kept_as
from s3dlio.sender import send_whole
from s3dlio.stores.base import PutOptions
from s3dlio.uri import Uri
from s3dlio.writer_options import WriterOptions

#: The longest that S3 lets an address be good for.
_WEEK_S = 7 * 24 * 3600


class S3dlioFileSystem(Readable):
    """A store of this library as a file system; one subclass for each scheme.

    Thread-safe; works in forked children; pickles as its options.

    Args:
        **options: Those of :class:`s3dlio.StoreOptions`, or s3fs's names of them (``key``, ``secret``, ``token``,
            ``anon``, ``client_kwargs``, ``config_kwargs``); what is not given comes from the environment. And for
            files: ``default_block_size`` and ``default_cache_type`` of :meth:`open`, and ``s3_additional_kwargs``, how
            objects are kept unless the call says else: ``ContentType``, ``Metadata``, ``StorageClass``.

    Raises:
        OptionError: An option is unknown or wrong.

    Example:
        >>> import fsspec
        >>> fs = fsspec.filesystem("s3dlio+memory")
        >>> fs.pipe("demo/a", b"spam")
        >>> fs.cat("demo/a")
        b'spam'
    """

    # -- open files -------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: FBT001, FBT002 - fsspec's
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ReadFile | WriteFile:
        block_size = block_size if isinstance(block_size, int) else self._defaults.block_size
        kept = kept_as(kwargs, self._defaults.kept)
        if mode == "rb":
            cache = kwargs.get("cache_type") or self._defaults.cache_type
            return ReadFile(
                self, path, self._remote(path), block_size=block_size, cache_type=cache, cache_options=cache_options
            )
        if mode not in ("wb", "xb", "ab"):
            msg = f"objects are read, or written from the beginning to the end: mode {mode!r} is neither"
            raise OptionError(msg, uri=self._text(path), operation="open")
        options = WriterOptions(**kept)
        return self._open_writer(
            path, mode, options.with_buffer_capacity(block_size) if block_size else options, autocommit=autocommit
        )

    def _open_writer(self, path: str, mode: str, options: WriterOptions, *, autocommit: bool = True) -> WriteFile:
        if mode == "xb" and self.exists(path):
            msg = "it exists"
            raise AlreadyExistsError(msg, uri=self._text(path), operation="open")
        options = options.with_compression("none").with_overwrite(mode != "xb")
        writer = self._verbs.create_writer(self._text(path), options)
        file = WriteFile(self, path, mode, writer, autocommit=autocommit)
        if mode == "ab" and self.isfile(path):
            pour(self._remote(path), file)
        return file

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Mapping[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open an object as a file.

        Args:
            path: The object.
            mode: ``r``, ``w``, ``x`` (it must not exist) or ``a`` (what is there is written once more, then more),
                with ``b`` for bytes and else text.
            block_size: Most bytes of a request that reads ahead (default 8 MiB; up to four are under way while the file
                is read in a row), or of a part when writing.
            cache_options: For one of fsspec's caches.
            compression: Name of one of fsspec's codecs, or ``"infer"`` to go by the name's extension.
            **kwargs: ``cache_type``, one of fsspec's caches instead of the file's own; ``encoding``, ``errors`` and
                ``newline`` of text; of what is written ``content_type``, ``metadata`` and ``storage_class``, also by
                s3fs's names (``ContentType``, ``Metadata``, ``StorageClass``).

        Returns:
            A file. What is written appears when it is closed, and never when the ``with`` block raises.

        Raises:
            NotFoundError: There is no such object to read.
            AlreadyExistsError: The mode is ``x``, and it exists.
            OptionError: An argument has no counterpart here, and would change what is read or how it is kept
                (``ACL``, ``ServerSideEncryption``, ``version_id``).
        """
        text = {name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs}
        path = self._strip_protocol(path)
        binary = mode.replace("t", "").replace("b", "") + "b"
        file: Any = super().open(path, binary, block_size=block_size, cache_options=cache_options, **kwargs)
        codec = get_compression(path, compression)
        if codec is not None:
            file = Packed(compr[codec](file, mode=mode[0]), file)
        return file if "b" in mode else Text(file, **text)

    def sign(self, path: str, expiration: int = 100, **_kwargs: Any) -> str:
        """Return an address at which anybody can read an object; it is a secret until it expires.

        Args:
            path: The object. Whether it is there is not asked.
            expiration: Seconds that the address is good for; S3 allows a week, and credentials with a token of
                their own may end before.

        Raises:
            NotImplementedError: The store has no such addresses, or none are made here (S3 has).
            OptionError: ``expiration`` is not a whole number of seconds within a week.
        """
        if expiration not in range(1, _WEEK_S + 1):  # which 1.5 is not either
            msg = f"expiration is 1 to {_WEEK_S} seconds, which is a week; not {expiration!r}"
            raise OptionError(msg, uri=self._text(path), operation="sign")
        address = self._store().presigned(self._object(path, "sign"), expiration)
        if address is None:
            msg = f"no addresses are signed for {self.scheme}://; use the provider's own tools"
            raise NotImplementedError(msg)
        return address

    # -- writes -----------------------------------------------------------------------------------------

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Create or replace an object; ``mode="create"`` refuses to replace one. Further arguments as of :meth:`open`."""
        options = PutOptions(**kept_as(kwargs, self._defaults.kept), overwrite=mode != "create")
        send_whole(self._store(), self._object(path, "put"), flat_bytes(value), options, current_token())

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Create or replace an object, or many at once: a mapping from path to bytes. Arguments as of :meth:`pipe_file`."""
        if not isinstance(path, Mapping):
            self.pipe_file(path, value, **kwargs)
        elif kwargs.get("mode", "overwrite") == "overwrite" and not kept_as(kwargs, self._defaults.kept):
            self._verbs.put_many([(self._text(name), data) for name, data in path.items()])
        else:
            with together():
                for name, data in path.items():
                    do_or_gather(functools.partial(self._pipe_one, name, data, kwargs))

    def _pipe_one(self, path: str, value: Any, how: Mapping[str, Any], _ahead: int) -> None:
        self.pipe_file(path, value, **how)

    def put(self, lpath: Any, rpath: Any, *args: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Copy local files into objects, many at once; one after the other for a ``callback`` that shows progress."""
        with together(callback):
            super().put(lpath, rpath, *args, callback=callback, **kwargs)

    def put_file(
        self, lpath: Any, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Copy a local file into an object; of a directory, make the directory. Further arguments as of :meth:`open`."""
        options = WriterOptions(**kept_as(kwargs, self._defaults.kept))
        if os.path.isdir(lpath):
            self._make_way(rpath)
        else:
            do_or_gather(lambda ahead: self._put_one(lpath, rpath, callback, mode, options.with_max_in_flight(ahead)))

    def _make_way(self, path: str) -> None:
        """Make a directory or bucket now, before anything is written to it; elsewhere that takes nothing."""
        if self._is_local or self._is_container(self._uri(path)):
            self.makedirs(path, exist_ok=True)

    def _put_one(self, lpath: Any, rpath: str, callback: Any, mode: str, options: WriterOptions) -> None:
        callback.set_size(os.path.getsize(lpath))
        target = self._open_writer(rpath, "xb" if mode == "create" else "wb", options)
        with open(lpath, "rb") as source, target:
            while piece := source.read(self.blocksize):
                target.write(piece)
                callback.relative_update(len(piece))

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,  # noqa: FBT001, FBT002 - fsspec's
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy objects, many at once, through this machine.

        Args:
            path1: What to copy: an object, a pattern, a directory, or a list.
            path2: Where to.
            recursive: Copy directories with what is below them.
            maxdepth: Levels to go down.
            on_error: ``ignore`` leaves out what is not there (any more), which is the default with ``recursive``.
            **kwargs: Of ``expand_path``.
        """
        lenient = recursive if on_error is None else on_error == "ignore"
        with together():
            super().copy(path1, path2, recursive, maxdepth, on_error, lenient=lenient, **kwargs)

    def cp_file(self, path1: str, path2: str, *, lenient: bool = False, **_kwargs: Any) -> None:
        """Copy an object, through this machine; of a directory, make the directory.

        Raises:
            NotFoundError: It is not there, and ``lenient`` is ``False``.
        """
        if self._is_container(self._uri(path2)):  # only a directory can be copied there
            self._make_way(path2)
        else:
            do_or_gather(lambda ahead: self._copy_one(path1, path2, ahead, lenient=lenient))

    def _copy_one(self, path1: str, path2: str, ahead: int, *, lenient: bool) -> None:
        try:
            source = self._remote(path1)
        except NotFoundError:
            if self.isdir(path1):
                self._make_way(path2)
            elif not lenient:
                raise
            return
        with self._open_writer(path2, "wb", WriterOptions(max_in_flight=ahead)) as target:
            pour(source, target, ahead=ahead)

    def touch(self, path: str, truncate: bool = True, **_kwargs: Any) -> None:  # noqa: FBT001, FBT002 - fsspec's
        """Make an empty object, or make an object empty.

        Raises:
            NotImplementedError: It exists and ``truncate`` is ``False``: the times of objects cannot be set.
        """
        if not truncate and self.exists(path):
            msg = "the time of an object cannot be set without writing it anew"
            raise NotImplementedError(msg)
        self.pipe_file(path, b"")

    def mkdir(self, path: str, create_parents: bool = True, **_kwargs: Any) -> None:  # noqa: FBT001, FBT002 - fsspec's
        """Make a bucket or a local directory. Directories in a bucket need not be made: only the bucket is.

        Raises:
            AlreadyExistsError: It exists.
            NotFoundError: The directory above, or the bucket, does not, and ``create_parents`` is ``False``.
        """
        where = self._uri(path)
        above = self._parent(path) if self._is_local else self._path(where.with_key(""))
        if not create_parents and not self._is_container(where) and not self.isdir(above):
            msg = f"{above!r}, in which it was to be made, does not exist"
            raise NotFoundError(msg, uri=str(where), operation="mkdir")
        self.makedirs(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - fsspec's
        """Make a bucket, or a local directory and all above it. Of a directory in a bucket, make the bucket.

        Raises:
            AlreadyExistsError: It exists, and ``exist_ok`` is ``False``.
        """
        where = self._uri(path)
        in_bucket = not self._is_local and not self._is_container(where)
        there = None if in_bucket and exist_ok else self._type(path)
        if there == "file" or (there and not exist_ok):
            msg = "it exists"
            raise AlreadyExistsError(msg, uri=str(where), operation="makedirs")
        if there is None and self._is_local:
            self._store().mkdir(where, current_token())
        elif in_bucket and there is None:
            self._make_bucket(where.with_key(""))
        elif there is None:
            self._store().create_container(where, current_token())

    def _make_bucket(self, bucket: Uri) -> None:
        """Make the bucket of a directory, when it is known that there is none."""
        try:
            if self._type(self._path(bucket)) is None:
                self._store().create_container(bucket, current_token())
        except AlreadyExistsError:  # by another, meanwhile
            return
        except AccessDeniedError:  # who writes need not be allowed to look: the write will tell
            return

    def rmdir(self, path: str) -> None:
        """Remove an empty bucket or directory.

        Raises:
            NotFoundError: It is not there.
            StoreError: It is not empty.
        """
        where = self._uri(path)
        if self._is_container(where):
            self._store().delete_container(where, current_token())
            return
        if self.ls(path, detail=False):
            msg = "the directory is not empty; rm(path, recursive=True) removes it with what is below"
            raise StoreError(msg, uri=str(where), operation="rmdir")
        self._store().delete([where.with_key(where.key + "/")], current_token())

    def rm_file(self, path: str) -> None:
        """Delete an object; one that is not there is fine."""
        self._verbs.delete(self._text(path))

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: FBT001, FBT002 - fsspec's
        """Delete objects, in bulk; with ``recursive`` directories and buckets with all that is below.

        Raises:
            FileNotFoundError: An object, a pattern or a directory leads to nothing; nothing has been deleted then.
            StoreError: Something cannot be deleted.
        """
        if not recursive or maxdepth is not None:
            paths = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
            if not recursive:
                self._require_all(path)
            for one in paths:
                if self._is_container(self._uri(one)):
                    self.info(one)  # raises when there is none; if there is one, the deletion is refused
            folders = {one for one in paths if recursive and self.isdir(one)}
            self._verbs.delete([self._text(one) for one in paths if one not in folders])
            return
        for one in self.expand_path(path):
            self._rm_tree(one)

    def _require_all(self, path: Any) -> None:
        """Look for what is named and not found by a pattern: to delete what is not there is no error to a store."""
        named = path if isinstance(path, (list, tuple, set)) else [path]
        literal = [uri for uri in map(self._uri, named) if not has_magic(str(uri)) and not self._is_container(uri)]
        self._verbs.stat_many([str(uri) for uri in literal])

    def _rm_tree(self, path: str) -> None:
        kind = self.info(path)["type"]
        where = self._uri(path)
        if kind == "file":
            self.rm_file(path)
            if self._is_local:
                return  # elsewhere there can be a directory of the same name
        self._verbs.delete(str(where).removesuffix("/") + "/", recursive=True)
        if self._is_container(where):
            self._store().delete_container(where, current_token())
        elif self._is_local and self.exists(path):
            self._store().delete([where.with_key(where.key + "/")], current_token())


class S3(S3dlioFileSystem):
    """``s3dlio+s3://bucket/key``."""

    scheme = "s3"
    protocol = ("s3dlio+s3", "s3")


class Gcs(S3dlioFileSystem):
    """``s3dlio+gs://bucket/key``."""

    scheme = "gs"
    protocol = ("s3dlio+gs", "gs", "gcs")


class Azure(S3dlioFileSystem):
    """``s3dlio+az://container/key``, or with the account before the container."""

    scheme = "az"
    protocol = ("s3dlio+az", "az")

    def _make_bucket(self, bucket: Uri) -> None:
        """Leave it: what stands first may be an account, which is not ours to make."""


class Memory(S3dlioFileSystem):
    """``s3dlio+memory://space/key``."""

    scheme = "memory"
    protocol = ("s3dlio+memory", "memory")


class File(S3dlioFileSystem):
    """``s3dlio+file:///path``."""

    scheme = "file"
    protocol = ("s3dlio+file", "file")
    root_marker = "/"


class Direct(File):
    """``s3dlio+direct:///path``: past the page cache."""

    scheme = "direct"
    protocol = ("s3dlio+direct", "direct")
