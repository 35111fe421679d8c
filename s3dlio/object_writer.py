"""Streaming writers: bytes in, maybe compressed, an object out.

Floor 6. Knows the public contract: names, options, what is told at the end. The stream of bytes is
:mod:`s3dlio.outflow`'s, compression is :mod:`s3dlio.formats.compression`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from s3dlio.api import stat
from s3dlio.bounds import is_a
from s3dlio.buffers import MIB, flat_bytes
from s3dlio.context import current_token, store_of
from s3dlio.errors import OptionError, UriError
from s3dlio.formats.compression import Compressor, codec_of_name, compressor, packed_name
from s3dlio.outflow import Outflow, WritingBlock
from s3dlio.stores.base import PutOptions, Store
from s3dlio.uri import from_path_or_uri, parse_object
from s3dlio.writer_options import WriterOptions

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Compressed in one step: what comes of it waits in memory until it is taken over into a part.
_STEP_BYTES = 8 * MIB


class WriterStats(tuple[int, int]):  # noqa: SLOT001 - what it tells besides is in its __dict__
    """What was written: the pair (bytes written, bytes stored), and more by key or attribute.

    Attributes:
        bytes_written: Bytes that were given to the writer.
        compressed_bytes: Bytes of the object; the same number without compression.
        compressed_size: The same, by another of the original's names.
        checksum: Of the object's bytes: ``crc32c:`` and eight hexadecimal digits.
        uri: The object, with the extension that compression may have added.
        etag: Entity tag, without quotes.
        parts: Requests that carried the bytes.
    """

    names: ClassVar[tuple[str, ...]] = (
        "bytes_written", "compressed_bytes", "compressed_size", "checksum", "uri", "etag", "parts",
    )  # fmt: skip

    bytes_written: int
    compressed_bytes: int
    compressed_size: int
    checksum: str
    uri: str
    etag: str
    parts: int

    def __new__(cls, bytes_written: int, compressed_bytes: int, **more: Any) -> Self:
        """Make the pair."""
        stats = super().__new__(cls, (bytes_written, compressed_bytes))
        stats.__dict__.update(
            bytes_written=bytes_written, compressed_bytes=compressed_bytes, compressed_size=compressed_bytes, **more
        )
        return stats

    def __getitem__(self, key: Any) -> Any:
        """Return an item of the pair by its place, or anything by its name."""
        return self.__dict__[key] if isinstance(key, str) else super().__getitem__(key)

    def keys(self) -> tuple[str, ...]:
        """Return the names."""
        return self.names

    def __getnewargs__(self) -> tuple[int, int]:
        """Pickle and copy by the pair; the rest follows as attributes."""
        return self.bytes_written, self.compressed_bytes

    def __repr__(self) -> str:
        """Show everything by name."""
        return f"WriterStats({', '.join(f'{name}={self[name]!r}' for name in self.names)})"


class ObjectWriter(WritingBlock):
    """Writes an object piece by piece, on any backend.

    The object appears, whole, when the writer is finalized; until then nothing of it can be seen. Parts are
    sent while later ones are being written: memory in use stays near ``buffer_capacity`` times
    ``max_in_flight`` whatever the object's size. Files are written under a hidden name, synced and renamed.

    Use it as a context manager: leaving the block finalizes it, an exception cancels it. A writer that is let
    go is cancelled. It belongs to one thread at a time, and to the process that made it.

    Args:
        uri: The object.
        options: Compression and the rest; default: none but what the extension asks for.

    Raises:
        UriError: It does not name an object.

    Example:
        >>> import s3dlio
        >>> with s3dlio.create_writer("memory://demo/log.zst") as writer:
        ...     _ = writer.write(b"spam" * 1000)
        >>> s3dlio.get(writer.uri, decompress=True) == b"spam" * 1000
        True
    """

    def __init__(self, uri: str, options: WriterOptions | None = None) -> None:
        if not is_a(options, WriterOptions, type(None)):
            msg = f"options must be s3dlio.WriterOptions(...), not {type(options).__name__}"
            raise OptionError(msg, operation="create_writer")
        options = options or WriterOptions()
        given = parse_object(from_path_or_uri(uri), "create_writer")
        codec = codec_of_name(given.key) if options.compression is None else options.compression
        where = given.with_key(packed_name(given.key, codec))
        put = PutOptions(
            options.content_type, options.metadata or {}, options.overwrite, storage_class=options.storage_class
        )
        self._compressor: Compressor | None = None
        if codec != "none":
            self._compressor = compressor(codec, options.compression_level)
        store = store_of(where)
        self._outflow = Outflow(
            store, where, put,
            part_bytes=_part_bytes(store, _unless_default(options, "buffer_capacity", store.options.put_part_size)),
            width=_unless_default(options, "max_in_flight", store.options.put_in_flight),
            parent=current_token(),
        )  # fmt: skip
        self._written = 0
        self._stats: WriterStats | None = None

    @property
    def uri(self) -> str:
        """The object's URI, with the extension that compression may have added."""
        return str(self._outflow.uri)

    @property
    def stats(self) -> WriterStats | None:
        """What :meth:`finalize` returned; ``None`` before."""
        return self._stats

    def write(self, data: Buffer) -> int:
        """Write bytes; the caller may reuse their memory when this returns.

        Args:
            data: Any contiguous bytes-like object.

        Returns:
            How many bytes were taken: all of them.

        Raises:
            ClosedError: The writer is finalized or cancelled.
            StoreError: An earlier part could not be sent; nothing of the object is left.
        """
        view = flat_bytes(data)
        self._outflow.check_open()
        if self._compressor is None:
            self._outflow.write(view)
        else:
            for start in range(0, len(view), _STEP_BYTES):
                packed = self._compressor.compress(view[start : start + _STEP_BYTES])
                self._outflow.write(memoryview(packed))
        self._written += len(view)
        return len(view)

    def write_chunk(self, data: Buffer) -> int:
        """Do as :meth:`write` does."""
        return self.write(data)

    def write_owned(self, data: Buffer) -> int:
        """Do as :meth:`write` does."""
        return self.write(data)

    def write_owned_bytes(self, data: Buffer) -> int:
        """Do as :meth:`write` does."""
        return self.write(data)

    def bytes_written(self) -> int:
        """Return how many bytes were given to the writer so far."""
        return self._written

    def flush(self) -> None:
        """Wait until all whole parts have arrived. What does not fill a part yet stays here.

        Raises:
            StoreError: As :meth:`write`.
        """
        self._outflow.flush()

    def finalize(self) -> WriterStats:
        """Send the rest, and make the object; its size is checked. A second call returns the same again.

        Raises:
            ClosedError: The writer was cancelled.
            AlreadyExistsError: The object exists, and ``overwrite`` is ``False``.
            IntegrityError: The backend's object is not what was written.
            StoreError: It could not be written; nothing of it is left.
        """
        if self._stats is None:
            self._outflow.check_open()
            if self._compressor is not None:
                self._outflow.write(memoryview(self._compressor.flush()))
            sent = self._outflow.close()
            self._stats = WriterStats(
                self._written, sent.total_bytes,
                checksum=f"crc32c:{sent.crc32c:08x}", uri=self.uri, etag=sent.etag, parts=sent.parts,
            )  # fmt: skip
        return self._stats

    def finish(self) -> dict[str, Any]:
        """Finalize, and return what the backend says of the object: as :func:`s3dlio.stat`.

        Raises:
            StoreError: As :meth:`finalize`, or the backend cannot be asked.
        """
        self.finalize()
        return stat(self.uri)

    def cancel(self) -> None:
        """Throw away what was written. Harmless when repeated, or after :meth:`finalize`.

        Raises:
            StoreError: What had arrived at the server could not be thrown away.
        """
        self._outflow.abort()

    def _end(self) -> object:
        return self.finalize()


def _unless_default(options: WriterOptions, name: str, of_store: int | None) -> int:
    """Return an option; where the caller has left its default, the store's if that has one."""
    value: int = getattr(options, name)
    return of_store if of_store is not None and value == getattr(WriterOptions(), name) else value


def _part_bytes(store: Store, wanted: int) -> int:
    """Return how many bytes to gather for a part, within what the backend asks for."""
    limits = store.limits
    within = max(limits.least_bytes, min(wanted, limits.most_bytes))
    return -(-within // limits.multiple) * limits.multiple


def create_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of an object, on any backend: see :class:`ObjectWriter`.

    Args:
        uri: The object, or a local path.
        options: Compression and the rest.
    """
    return ObjectWriter(uri, options)


def _of_schemes(uri: str, options: WriterOptions | None, verb: str, *schemes: str) -> ObjectWriter:
    scheme = parse_object(from_path_or_uri(uri), verb).scheme
    if scheme not in schemes:
        msg = f"{verb} writes {' or '.join(f'{scheme}://' for scheme in schemes)}; create_writer writes everywhere"
        raise UriError(msg, uri=uri, operation=verb)
    return ObjectWriter(uri, options)


def create_s3_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of an ``s3://`` object: see :class:`ObjectWriter`.

    Raises:
        UriError: The URI has another scheme.
    """
    return _of_schemes(uri, options, "create_s3_writer", "s3")


def create_gcs_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of a ``gs://`` object: see :class:`ObjectWriter`.

    Raises:
        UriError: The URI has another scheme.
    """
    return _of_schemes(uri, options, "create_gcs_writer", "gs", "gcs")


def create_azure_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of an ``az://`` blob: see :class:`ObjectWriter`.

    Raises:
        UriError: The URI has another scheme.
    """
    return _of_schemes(uri, options, "create_azure_writer", "az")


def create_filesystem_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of a local file, by path or ``file://``: see :class:`ObjectWriter`.

    Raises:
        UriError: The URI has another scheme.
    """
    return _of_schemes(uri, options, "create_filesystem_writer", "file")


def create_direct_filesystem_writer(uri: str, options: WriterOptions | None = None) -> ObjectWriter:
    """Return a streaming writer of a local file past the page cache: see :class:`ObjectWriter`.

    Args:
        uri: ``direct://``, or a path.
        options: Compression and the rest.

    Raises:
        UriError: The URI has another scheme.
    """
    if "://" not in uri:
        uri = f"direct://{from_path_or_uri(uri).removeprefix('file://')}"
    return _of_schemes(uri, options, "create_direct_filesystem_writer", "direct")
