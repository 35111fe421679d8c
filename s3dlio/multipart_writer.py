"""Writers of one object by parts: :class:`MultipartUploadWriter`, and the sinks that are named as the original's.

Floor 6. Knows the public contract; the work is done in :mod:`s3dlio.outflow`. Despite the name it writes to
every backend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from s3dlio.bounds import whole
from s3dlio.context import current_token, store_of
from s3dlio.errors import OptionError, StoreError
from s3dlio.memory import flat_bytes
from s3dlio.outflow import Outflow, WritingBlock
from s3dlio.sender import DEFAULT_PART_BYTES, DEFAULT_PARTS_IN_FLIGHT, Sent, verify_size
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions
from s3dlio.texts import LEAST_PART_BYTES
from s3dlio.uri import Uri, parse_object

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from s3dlio.options import StoreOptions


_log = logging.getLogger("s3dlio")


class UploadInfo(Mapping[str, Any]):
    """What a closed writer tells: a mapping whose items are attributes too.

    Attributes:
        etag: Entity tag of the object, without quotes.
        e_tag: The same, by the original's name.
        total_bytes: Bytes of the object.
        parts: Requests that carried them.
        started_at: Aware datetime of the writer's beginning.
        completed_at: Aware datetime of the object's completion.
        checksum: Of all bytes: ``crc32c:`` and eight hexadecimal digits.
    """

    __slots__ = ("checksum", "completed_at", "e_tag", "etag", "parts", "started_at", "total_bytes")

    etag: str
    e_tag: str
    total_bytes: int
    parts: int
    started_at: datetime
    completed_at: datetime
    checksum: str

    def __init__(self, sent: Sent) -> None:
        self.etag = self.e_tag = sent.etag
        self.total_bytes = sent.total_bytes
        self.parts = sent.parts
        self.started_at = sent.started_at
        self.completed_at = sent.completed_at
        self.checksum = f"crc32c:{sent.crc32c:08x}"

    def __getitem__(self, name: str) -> Any:
        """Return an item by its name."""
        if name not in self.__slots__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.__slots__)

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.__slots__)

    def __repr__(self) -> str:
        """Show size, parts and entity tag."""
        return f"UploadInfo(total_bytes={self.total_bytes}, parts={self.parts}, etag={self.etag!r})"


class MultipartUploadWriter(WritingBlock):
    """Writes an object while its bytes come into being, several parts at a time.

    The object appears, whole, when the writer is closed. Until then nothing of it can be seen, and when
    something fails nothing is left of it. Memory in use: up to ``max_in_flight + 1`` parts, whatever the
    object's size. Use it as a context manager: leaving the block closes it, an exception aborts it.

    It belongs to one thread at a time, and to the process that made it. Every backend is written to in
    this way; an object of one part is put with one request.

    Args:
        bucket: Bucket of an ``s3://`` object; :meth:`from_uri` takes URIs.
        key: Its key.
        part_size: Bytes of each part but the last; at least 5 MiB. An object has at most 10,000 parts. Default: the
            ``put_part_size`` of the store's options (``S3DLIO_PUT_PART_SIZE``), else 16 MiB.
        max_in_flight: Most parts under way at once; who writes faster waits. Default: the ``put_in_flight`` of the
            store's options (``S3DLIO_PUT_INFLIGHT``), else 16.
        content_type: Media type.
        abort_on_drop: Abort when the writer is let go without being closed, also when the interpreter ends.
        metadata: Your own names and values (not kept by ``file://``).
        overwrite: ``False`` refuses to replace an object, at the end at the latest.
        options: How to reach the store.

    Raises:
        OptionError: ``part_size`` is too small.

    Example:
        >>> import s3dlio
        >>> with s3dlio.MultipartUploadWriter.from_uri("memory://demo/big") as writer:
        ...     _ = writer.write(b"spam" * 1000)
        >>> writer.info.total_bytes
        4000
    """

    _part_bytes = DEFAULT_PART_BYTES
    _in_flight = DEFAULT_PARTS_IN_FLIGHT

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        bucket: str,
        key: str,
        part_size: int | None = None,
        max_in_flight: int | None = None,
        content_type: str | None = None,
        abort_on_drop: bool = True,  # noqa: FBT001, FBT002 - the contract's order
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
        options: StoreOptions | None = None,
    ) -> None:
        put = PutOptions(content_type or "", metadata or {}, overwrite)
        where = parse_object(f"s3://{bucket}/{key}", "MultipartUploadWriter")
        self._open(where, put, options, part_size, max_in_flight, abort_on_drop=abort_on_drop)

    @classmethod
    def from_uri(  # noqa: PLR0913 - the contract's keywords
        cls,
        uri: str,
        part_size: int | None = None,
        max_in_flight: int | None = None,
        content_type: str | None = None,
        abort_on_drop: bool = True,  # noqa: FBT001, FBT002 - the contract's order
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
        options: StoreOptions | None = None,
    ) -> Self:
        """Return a writer of the object that a URI names, on any backend; the rest as of the class."""
        writer = cls.__new__(cls)
        put = PutOptions(content_type or "", metadata or {}, overwrite)
        where = parse_object(uri, "MultipartUploadWriter")
        writer._open(where, put, options, part_size, max_in_flight, abort_on_drop=abort_on_drop)  # noqa: SLF001 - its own
        return writer

    def _open(
        self,
        where: Uri,
        put: PutOptions,
        options: StoreOptions | None,
        part_size: int | None,
        max_in_flight: int | None,
        *,
        abort_on_drop: bool,
    ) -> None:
        part_size = None if part_size is None else whole("part_size", part_size)
        if part_size is not None and part_size < LEAST_PART_BYTES:
            msg = f"part_size must be at least {LEAST_PART_BYTES:,} bytes (5 MiB), not {part_size:,}"
            raise OptionError(msg, uri=str(where), operation="MultipartUploadWriter")
        store = store_of(where) if options is None else open_store(where, options)
        if part_size is None:
            part_size = store.options.put_part_size or self._part_bytes
        if max_in_flight is None:
            max_in_flight = store.options.put_in_flight or self._in_flight
        self._outflow = Outflow(
            store, where, put,
            part_bytes=part_size, width=max_in_flight, parent=current_token(), abort_on_drop=abort_on_drop,
        )  # fmt: skip
        self._part_bytes = part_size
        self._store = store
        self._is_begun = False
        self._info: UploadInfo | None = None

    @property
    def uri(self) -> str:
        """The object's URI."""
        return str(self._outflow.uri)

    @property
    def part_size(self) -> int:
        """Bytes of each part but the last."""
        return self._part_bytes

    @property
    def info(self) -> UploadInfo | None:
        """What :meth:`close` returned; ``None`` while the writer is open, or when it was aborted."""
        return self._info

    @property
    def bytes_written(self) -> int:
        """Bytes that were written so far."""
        return self._outflow.bytes_written

    def write(self, data: Buffer) -> int:
        """Write bytes; the caller may reuse their memory when this returns.

        They are copied into a part; only ``bytes`` objects of at least 1 MiB are sent from where they are.

        Args:
            data: Any contiguous bytes-like object, of any length.

        Returns:
            How many bytes.

        Raises:
            ClosedError: The writer is closed or aborted, or memory is reserved.
            OptionError: The object gets more than 10,000 parts.
            StoreError: An earlier part could not be sent; nothing of the object is left.
        """
        count = self._outflow.write(flat_bytes(data))
        self._is_begun = True
        return count

    def reserve(self, length: int) -> memoryview:
        """Return writable memory of the library's own, to be filled and then committed: no copy is made.

        Args:
            length: Bytes; may be more than ``part_size``. One reservation at a time.
        """
        self._is_begun = True
        return self._outflow.reserve(length)

    def commit(self, length: int) -> int:
        """Write the first ``length`` bytes of the reserved memory. The view must not be used any more.

        Raises:
            OptionError: More than was reserved.
            ClosedError: Nothing is reserved.
            StoreError: As :meth:`write`.
        """
        return self._outflow.commit(length)

    def flush(self) -> None:
        """Wait until all whole parts have arrived. What does not fill a part yet stays here.

        Raises:
            StoreError: As :meth:`write`.
        """
        self._outflow.flush()

    def close(self) -> UploadInfo:
        """Send the rest, and make the object; its size and parts are checked against what was written.

        What went with a single request is looked at only with ``verify_uploads`` in the store's options
        (``S3DLIO_MPU_PUT_VERIFY``). A second call returns the same again.

        Raises:
            StoreError: It could not be written, or nothing ever was: a loop that found nothing, most likely.
                ``write(b"")``, or leaving the ``with`` block, makes an empty object. Nothing is left of it.
            ClosedError: The writer was aborted, or memory is reserved.
            AlreadyExistsError: The object exists, and ``overwrite`` is ``False``.
            IntegrityError: The server's object is not what was written.
        """
        if self._info is None:
            self._info = UploadInfo(self._close())
        return self._info

    def _close(self) -> Sent:
        if not self._is_begun:
            self._outflow.check_open()
            self._outflow.abort()
            msg = 'nothing was written; write(b"") makes an empty object'
            raise StoreError(msg, uri=self.uri, operation="close")
        sent = self._outflow.close()
        if sent.parts > 1:
            return sent  # it was looked at when its parts were put together
        where = self._outflow.uri
        if self._store.options.verify_uploads:
            verify_size(self._store, where, sent.total_bytes, "close", current_token())
        else:
            _log.debug("close: %s: skipping HEAD verification", where)
        return sent

    def abort(self) -> None:
        """Throw away what was written. Harmless when repeated, or after :meth:`close`.

        Raises:
            StoreError: What had arrived at the server could not be thrown away.
        """
        self._outflow.abort()

    def _end(self) -> object:
        self._is_begun = True  # leaving the block without a write makes an empty object, as with a file
        return self.close()


class MultipartUploadSink(MultipartUploadWriter):
    """:class:`MultipartUploadWriter` by the names of the original's blocking sink."""

    def write_blocking(self, data: Buffer) -> int:
        """See :meth:`MultipartUploadWriter.write`."""
        return self.write(data)

    def write_owned_blocking(self, data: Buffer) -> int:
        """See :meth:`MultipartUploadWriter.write`."""
        return self.write(data)

    def finish_blocking(self) -> UploadInfo:
        """See :meth:`MultipartUploadWriter.close`."""
        return self.close()


class StreamingMultipartSink(MultipartUploadWriter):
    """:class:`MultipartUploadWriter` by the names, and with the defaults, of the original's streaming sink.

    Args:
        bucket: As of :class:`MultipartUploadWriter`.
        key: Likewise.
        part_size: 8 MiB, unless it or ``S3DLIO_PUT_PART_SIZE`` is given.
        max_in_flight: 64, unless it or ``S3DLIO_PUT_INFLIGHT`` is given.
        **options: As of :class:`MultipartUploadWriter`.
    """

    # The original's sink is for streams of small pieces.
    _part_bytes = 8 * 1024**2
    _in_flight = 64

    def write_chunk(self, data: Buffer) -> int:
        """See :meth:`MultipartUploadWriter.write`."""
        return self.write(data)

    def write_owned_bytes(self, data: Buffer) -> int:
        """See :meth:`MultipartUploadWriter.write`."""
        return self.write(data)

    def finish(self) -> UploadInfo:
        """See :meth:`MultipartUploadWriter.close`."""
        return self.close()
