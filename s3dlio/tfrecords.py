"""TFRecord files wherever they are: read in order or one by one, indexed, written.

Floor 5. Knows stores and how a file comes from them piece by piece; must not know how records are framed
(:mod:`s3dlio.formats.tfrecord`), nor what is in them (:mod:`s3dlio.formats.example`).

Local files are read, not mapped. Measured on 100 KiB records in the page cache, sums verified: reading
into recycled memory, one piece ahead, 11-16 GB/s; mapped, 9 GB/s (page faults cost more than the copy), and a
mapped file that somebody cuts short ends the process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import PurePath
from typing import TYPE_CHECKING

from s3dlio.batches import run_batches
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW, map_all
from s3dlio.errors import FormatError, ObjectChangedError, OptionError, TFRecordError
from s3dlio.fetch import Fetcher, Read
from s3dlio.formats.deflate import check_compression, unpacked
from s3dlio.formats.tfrecord import FOOT, HEAD, beyond, compression_of, payload, records, records_of_growing
from s3dlio.formats.tfrecord_index import Index, Scanner, scan
from s3dlio.memory import KIB, MIB, bytes_of, flat_bytes
from s3dlio.options import StoreOptions
from s3dlio.progress import Count, Tell, silence, telling
from s3dlio.record_writer import TFRecordWriter
from s3dlio.remote import RemoteObject
from s3dlio.spellings import also_spelt
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions, Store
from s3dlio.stores.draft import mapped
from s3dlio.stores.local import LocalStore
from s3dlio.uri import Uri, from_path_or_uri, parse_object

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "TFRecordWriter",
    "create_tfrecord_index",
    "get_tfrecord",
    "get_tfrecord_index_entries",
    "index_of",
    "iter_tfrecords",
    "read_tfrecord_index",
]

Where = str | PurePath

#: Pieces of a local file stay in the processor's cache between being filled and being looked at.
_LOCALLY = {"chunk_bytes": 4 * MIB, "ahead": 2}
#: Pieces from far away keep requests of a useful length under way, and the reader in work while some are late.
_REMOTELY = {"chunk_bytes": 8 * MIB, "ahead": 12}
#: What is read of a local file while records are long: a header, with some luck the next ones too.
_SHORT_READ = 512
#: While records are short their headers are all over the file, and it is read as a whole.
_LONG_READ = MIB
#: Another read (4 us) costs as much as reading on over so many bytes.
_NEAR_BYTES = 64 * KIB
#: Files whose indexes are made at once, without an executor.
_FILES_AT_ONCE = 8
#: Bytes of a local file between two reports of progress.
_REPORT_EVERY = 64 * MIB


# -- the index ----------------------------------------------------------------------------------------


@also_spelt(tfrecord_path="input_path", index_path="output_path")
def create_tfrecord_index(
    input_path: Where | Sequence[Where],
    output_path: Where | None = None,
    *,
    progress: bool | Callable[[int, int], object] = False,
    options: StoreOptions | None = None,
    executor: Executor | None = None,
) -> int:
    """Write the index of a TFRecord file, or of each of several, as NVIDIA DALI's ``tfrecord2idx`` does.

    The index is a text of lines ``offset size``: where a record's frame begins, and the bytes of the whole
    frame. Of local files only the headers are read; others come once, as a stream, in bounded memory.

    Args:
        input_path: The file, as a URI or a local path, or several: of these some are read at once.
            Also: ``tfrecord_path``.
        output_path: Where the index goes, as a URI or a local path; ``None``: beside the file, ``.idx``
            appended, as always for several. Also: ``index_path``.
        progress: ``True`` draws a bar while standard error is a terminal. A function is called with the
            bytes done and the bytes in all (files, for several), at last with both equal.
        options: How to reach the stores.
        executor: Workers that do several files, one at a time each: processes, a Dask cluster, any
            ``concurrent.futures.Executor``.

    Returns:
        The number of records, of all files.

    Raises:
        OptionError: ``output_path`` is given for several files.
        TFRecordError: The file is damaged (the message names the offset), cut short, or compressed.
        StoreError: The file cannot be read, or the index not written.

    Example:
        >>> import s3dlio.tfrecords as tfrecords
        >>> with tfrecords.TFRecordWriter("memory://demo/a.tfrecord") as writer:
        ...     writer.write(b"spam")
        >>> tfrecords.create_tfrecord_index("memory://demo/a.tfrecord")
        1
        >>> tfrecords.read_tfrecord_index("memory://demo/a.tfrecord.idx")[0]
        Entry(offset=0, size=20)
    """
    if not isinstance(input_path, str | PurePath):
        if output_path is not None:
            msg = "output_path goes with one file; the indexes of several are written beside them"
            raise OptionError(msg, operation="create_tfrecord_index")
        return _index_all(list(input_path), progress, options, executor)
    where = _object(input_path, "create_tfrecord_index")
    goal = _object(f"{where}.idx" if output_path is None else output_path, "create_tfrecord_index")
    with telling(progress, f"index of {where}") as tell:
        token = CREW.get().token
        index = _find(open_store(where, options), where, token, tell)
    store = open_store(goal, options)
    store.sizes.forget(goal)
    store.put(goal, memoryview(index.to_text()), PutOptions(), token)
    return len(index)


def _index_all(
    files: list[Where],
    progress: bool | Callable[[int, int], object],  # noqa: FBT001 - the public argument, handed on
    options: StoreOptions | None,
    executor: Executor | None,
) -> int:
    jobs = [(str(_object(file, "create_tfrecord_index")), options) for file in files]
    token, total = CREW.get().token, 0
    with telling(progress, f"indexes of {len(jobs)} files") as tell:
        count = Count(len(jobs), tell)

        def work(job: tuple[str, StoreOptions | None], _token: CancellationToken) -> int:
            records = _index_one(job)
            count.add(1)
            return records

        if executor is None:
            return sum(map_all(work, jobs, _FILES_AT_ONCE, token))
        for _, result in run_batches(executor, _index_one, jobs, token):
            if isinstance(result, BaseException):
                raise result
            total += result
            count.add(1)
    return total


def _index_one(job: tuple[str, StoreOptions | None]) -> int:
    """Write the index of one file, in whichever process. Done twice it leaves the same."""
    return create_tfrecord_index(job[0], options=job[1])


@also_spelt(index_path="path")
def read_tfrecord_index(path: Where, *, options: StoreOptions | None = None) -> Index:
    """Read an index that :func:`create_tfrecord_index` or NVIDIA DALI's ``tfrecord2idx`` wrote.

    Args:
        path: The index, as a URI or a local path. Also: ``index_path``.
        options: How to reach the store.

    Returns:
        A sequence of pairs ``(offset, size)``, in bytes. Entries are made when they are asked for, so that an
        index of millions of records takes 16 bytes for each.

    Raises:
        TFRecordError: It is no index; the line is named.
        StoreError: It cannot be read.
    """
    where = _object(path, "read_tfrecord_index")
    view = _fetcher(where, options).read(Read(where))
    with _concerning(where, "read_tfrecord_index"):
        return Index.from_text(bytes_of(view))


@also_spelt(tfrecord_bytes="source")
def get_tfrecord_index_entries(source: Where | Buffer, *, options: StoreOptions | None = None) -> Index:
    r"""Return the entries of an index: pairs that also take ``entry["offset"]`` and ``entry["size"]``.

    Args:
        source: The index as a URI, a local path, or the bytes of its text; or the bytes of a TFRecord file, which is
            indexed then.
        options: How to reach the store.

    Returns:
        As :func:`read_tfrecord_index`.

    Raises:
        TFRecordError: It is no index; the line is named.
        StoreError: It cannot be read.

    Example:
        >>> import s3dlio.tfrecords as tfrecords
        >>> [entry["size"] for entry in tfrecords.get_tfrecord_index_entries(b"0 20\n20 116\n")]
        [20, 116]
    """
    if isinstance(source, str | PurePath):
        return read_tfrecord_index(source, options=options)
    memory = flat_bytes(source)
    if 0 in memory[:8]:  # no text: a record's length
        return scan([memory], size=memory.nbytes)
    return Index.from_text(memory)


def index_tfrecord_bytes(tfrecord_bytes: Buffer) -> str:
    """Return the text of the index of a TFRecord file that is in memory: lines ``offset size``.

    Raises:
        TFRecordError: It is damaged; the offset is named.
    """
    memory = flat_bytes(tfrecord_bytes)
    return scan([memory], size=memory.nbytes).to_text().decode("ascii")


def index_of(store: Store, uri: Uri, token: CancellationToken, *, size: int | None = None) -> Index:
    """Return the index of a TFRecord file, found by following its headers.

    Args:
        store: Where it is.
        uri: The file.
        token: Stops the work.
        size: Bytes it should have, from a listing.

    Raises:
        TFRecordError: It is damaged, cut short, or compressed.
        ObjectChangedError: It has another size.
        StoreError: It cannot be read.
    """
    index = _find(store, uri, token, silence)
    found = int(index.offsets[-1] + index.sizes[-1]) if len(index) else 0
    if size is not None and size != found:
        msg = f"it was listed with {size} bytes and has {found}: it was replaced; list again"
        raise ObjectChangedError(msg, uri=str(uri), operation="create_tfrecord_index")
    return index


def _find(store: Store, uri: Uri, token: CancellationToken, tell: Tell) -> Index:
    with _concerning(uri, "create_tfrecord_index"):
        if isinstance(store, LocalStore) and uri.scheme == "file":
            return _find_locally(uri, token, tell)
        source = RemoteObject(store, uri, token=token)
        return scan(_told(source, tell), size=source.size)


def _told(source: RemoteObject, tell: Tell) -> Iterator[memoryview]:
    done = seen = 0
    for memory, is_whole in source.growing(**_REMOTELY):
        yield memory[seen:]
        done += len(memory) - seen
        seen = 0 if is_whole else len(memory)
        tell(done, source.size)


def _find_locally(uri: Uri, token: CancellationToken, tell: Tell) -> Index:
    """Read the headers where they are, and what lies between them only while that is less than reading on."""
    with mapped(uri, "create_tfrecord_index"), _opened(uri) as descriptor:
        size = os.fstat(descriptor).st_size
        scanner, memory = Scanner(size), memoryview(bytearray(_LONG_READ))
        wanted, told = _SHORT_READ, 0
        while size - scanner.position >= HEAD:
            token.check()
            at = scanner.position
            count = os.preadv(descriptor, [memory[:wanted]], at)
            if count < HEAD:
                msg = f"the file ended at byte {at + count}: it is shorter than it was"
                raise ObjectChangedError(msg, uri=str(uri), operation="create_tfrecord_index")
            scanner.feed(memory[:count], at)
            is_near = scanner.position <= at + count + _NEAR_BYTES
            wanted = min(2 * wanted, _LONG_READ) if is_near else _SHORT_READ
            if scanner.position - told >= _REPORT_EVERY:
                told = scanner.position
                tell(told, size)
        index = scanner.finish(size)
        tell(size, size)
        return index


@contextlib.contextmanager
def _opened(uri: Uri) -> Iterator[int]:
    descriptor = os.open(uri.key, LocalStore.open_flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# -- records ------------------------------------------------------------------------------------------


def iter_tfrecords(
    uri: Where, *, compression: str = "auto", check: bool = True, options: StoreOptions | None = None
) -> Iterator[memoryview]:
    """Iterate over the data of all records of a TFRecord file, reading ahead.

    Memory: the file comes in pieces of 8 MiB, at most fourteen at a time, local ones and those of a server nearby of
    4 MiB, at most four (compressed ones are unpacked into pieces of 1 MiB). A record is a view of its piece, not a
    copy, and keeps all of the piece alive: keep ``bytes(record)`` of what is to stay. Records of one piece share it,
    so do not write to them; nobody else does.

    Args:
        uri: The file, as a URI or a local path.
        compression: ``""``, ``"GZIP"`` or ``"ZLIB"``, as in TensorFlow's ``TFRecordOptions``, or ``"auto"``:
            by the file's first bytes.
        check: Verify the sums of the data; those of the lengths always are.
        options: How to reach the store.

    Returns:
        An iterator for one thread, in the file's order. Dropping it stops the reads.

    Raises:
        TFRecordError: At a record that is damaged, cut short, or longer than 2 GiB; those before it have come.
        ObjectChangedError: The file was replaced while it was being read.
        StoreError: The file cannot be read; if it is not there, at once.

    Example:
        >>> import s3dlio.tfrecords as tfrecords
        >>> with tfrecords.TFRecordWriter("memory://demo/b.tfrecord") as writer:
        ...     writer.write(b"spam")
        >>> [bytes(record) for record in tfrecords.iter_tfrecords("memory://demo/b.tfrecord")]
        [b'spam']
    """
    check_compression(compression, "auto")
    where = _object(uri, "iter_tfrecords")
    source = RemoteObject(open_store(where, options), where, token=CREW.get().token)
    return _iterate(source, compression, check=check)


def _iterate(source: RemoteObject, compression: str, *, check: bool) -> Iterator[memoryview]:
    with _concerning(source.uri, "iter_tfrecords"):
        if compression == "auto":
            compression = compression_of(source.read(0, min(HEAD, source.size)))
        pace = _LOCALLY if source.uri.scheme == "file" else _REMOTELY
        if compression:
            yield from records(unpacked(source.chunks(**pace), compression), check=check)
        else:
            yield from records_of_growing(source.growing(**pace), check=check, size=source.size)


def get_tfrecord(
    uri: Where, entry: tuple[int, int], *, check: bool = True, options: StoreOptions | None = None
) -> memoryview:
    """Read the data of one record, in one range read.

    Args:
        uri: The file, as a URI or a local path; not compressed.
        entry: The record's place, from the file's index: offset and size of its whole frame, in bytes.
        check: Verify the sum of the data; that of the length always is.
        options: How to reach the store.

    Returns:
        The data, writable, in memory that nothing else uses. Thread-safe.

    Raises:
        TFRecordError: There is no such record at that place, or it is damaged.
        RangeError: The place lies behind the end of the file.
        StoreError: The file cannot be read.
    """
    where = _object(uri, "get_tfrecord")
    try:
        offset, size = int(entry[0]), int(entry[1])
    except (TypeError, ValueError, IndexError) as error:
        msg = f"a record is named by its entry in the file's index, (offset, size), not by {entry!r:.80}"
        raise OptionError(msg, uri=str(where), operation="get_tfrecord") from error
    with _concerning(where, "get_tfrecord"):
        if offset < 0 or size < HEAD + FOOT:
            msg = f"no record has the offset {offset} and the size {size}"
            raise TFRecordError(msg)
        view = _fetcher(where, options).read(Read(where, offset, offset + size))
        if len(view) < size:
            raise beyond(offset, size, offset + len(view))
        return payload(view.memoryview(writable=True), offset, check=check)


# -- shared -------------------------------------------------------------------------------------------


def _object(text: Where, operation: str) -> Uri:
    return parse_object(from_path_or_uri(text), operation)


def _fetcher(uri: Uri, options: StoreOptions | None) -> Fetcher:
    return Fetcher(open_store(uri, options), token=CREW.get().token)


@contextlib.contextmanager
def _concerning(uri: Uri, operation: str) -> Iterator[None]:
    """Let errors about the bytes of a file say which file that is."""
    try:
        yield
    except FormatError as error:
        error.concern(uri, operation)
        raise
