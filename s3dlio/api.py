"""The verbs: what a user calls.

Floor 6. Knows the public contract (argument forms, defaults, errors at the door) and hands the work to
the floors below; must not know any backend. :mod:`s3dlio.awaitable` and :mod:`s3dlio.object_store` offer
the same verbs awaitable, and with settings of one's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from s3dlio.bounds import is_a
from s3dlio.buffers import BytesView, bytes_of, flat_bytes, writable_bytes
from s3dlio.cancel import CancellationToken
from s3dlio.context import current_token, store_of
from s3dlio.crew import map_all
from s3dlio.errors import FormatError, NotFoundError, ObjectChangedError, OptionError, UriError
from s3dlio.fetch import Fetcher, Read
from s3dlio.options import DEFAULT_IN_FLIGHT
from s3dlio.ranges import from_offset_length
from s3dlio.sender import send_whole, verify_size
from s3dlio.spellings import also_spelt
from s3dlio.stores.base import ObjectInfo, PutOptions, Store
from s3dlio.uri import Uri, parse, parse_object, several

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer, Unpack

    from s3dlio.generation import Generation


_log = logging.getLogger("s3dlio")


def _fetcher(store: Store, max_in_flight: int = DEFAULT_IN_FLIGHT) -> Fetcher:
    return Fetcher(store, max_in_flight=max_in_flight, token=current_token())


# -- reads --------------------------------------------------------------------------------------------


def get(uri: str, *, decompress: bool = False) -> BytesView:
    """Read a whole object.

    Small objects cost one request; objects of more than ``chunk_size`` (8 MiB) are read in parallel
    ranges that land in place in one buffer: the peak is the object's size and a little.

    Args:
        uri: The object.
        decompress: Return what the object's bytes stand for, if its extension says that they are compressed
            (``.zst``, ``.gz``, ``.lz4``); at most half of the machine's memory. Else the bytes as they are.

    Returns:
        Its bytes, in memory of their own. Thread-safe; works in forked children.

    Raises:
        NotFoundError: There is no such object.
        ObjectChangedError: It was replaced during the read.
        StoreError: It cannot be read.
        FormatError: It cannot be decompressed.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://demo/a", b"spam")
        >>> s3dlio.get("memory://demo/a")
        b'spam'
    """
    where = parse_object(uri, "get")
    view = _read_whole(where)
    return _expanded(where, view) if decompress else view


def _expanded(where: Uri, view: BytesView) -> BytesView:
    from s3dlio.formats.compression import codec_of_name, expanded  # noqa: PLC0415 - few need it

    try:
        return expanded(bytes_of(view), codec_of_name(where.key))
    except FormatError as error:
        error.concern(where, "get")
        raise


def _read_whole(where: Uri) -> BytesView:
    store = store_of(where)
    known = store.sizes.get(where)
    try:
        return _fetcher(store).read(Read(where, known=known))
    except ObjectChangedError:
        if known is None:
            raise
        store.sizes.forget(where)  # it was the memory of it that was old, not the read
        return _fetcher(store).read(Read(where))


def get_range(uri: str, offset: int, length: int | None = None) -> BytesView:
    """Read a range of an object.

    Args:
        uri: The object.
        offset: First byte.
        length: Bytes; ``None`` reads to the end, and more than there is reads to the end as well.

    Raises:
        RangeError: ``offset`` lies behind the end, or a number is negative.
        StoreError: As :func:`get`.
    """
    start, stop = from_offset_length(offset, length)
    where = parse_object(uri, "get_range")
    return _fetcher(store_of(where)).read(Read(where, start, stop))


def get_into(uri: str, buffer: object, offset: int = 0) -> int:
    """Read an object straight into existing memory, without a copy.

    Args:
        uri: The object.
        buffer: Anything writable and contiguous: NumPy array, CPU tensor of any dtype, memoryview,
            bytearray. It may be longer than needed.
        offset: First byte of the object to read; it is read from there to its end.

    Returns:
        Bytes written, from the start of ``buffer`` on. After an error its contents are undefined.

    Raises:
        OptionError: The buffer is too small (the message names both sizes), read-only or not
            contiguous.
        StoreError: As :func:`get`.
    """
    start, _ = from_offset_length(offset, None)
    where = parse_object(uri, "get_into")
    target = writable_bytes(buffer)
    return len(_fetcher(store_of(where)).read(Read(where, start, None, target)))


def get_many(
    uris: Iterable[str],
    max_in_flight: int = DEFAULT_IN_FLIGHT,
    *,
    workers: int | None = None,
    concurrency: int | None = None,
) -> list[tuple[str, BytesView]]:
    """Read many objects at once.

    Args:
        uris: Objects of one scheme; duplicates are read and returned as often as they are named.
        max_in_flight: Most requests at once. Fewer are used where more would be slower.
        workers: Another name of ``max_in_flight``.
        concurrency: Another name of ``max_in_flight``.

    Returns:
        ``(uri, bytes)`` in the order of ``uris``.

    Raises:
        UriError: The schemes are mixed.
        StoreError: The first failure; the other reads are stopped.
    """
    given = several(uris, "get_many")
    if not given:
        return []
    fetcher = _fetcher(_common_store(given, "get_many"), _in_flight(max_in_flight, workers, concurrency))
    views = fetcher.read_whole([parse_object(uri, "get_many") for uri in given])
    return list(zip(given, views, strict=True))


class ManyStats(NamedTuple):
    """Sum over many objects.

    Attributes:
        count: Objects.
        total_bytes: Their sizes together, in bytes.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of two numbers
    total_bytes: int


@also_spelt(max_in_flight="concurrency")
def stat_many(uris: Iterable[str], concurrency: int = DEFAULT_IN_FLIGHT) -> list[dict[str, Any]]:
    """Return what :func:`stat` returns, of many objects of one scheme, in order.

    Raises:
        NotFoundError: One of them is not there.
        StoreError: As :func:`stat`.
    """
    given = several(uris, "stat_many")
    if not given:
        return []
    store = _common_store(given, "stat_many")

    def ask(uri: str, token: CancellationToken) -> ObjectInfo:
        where = parse_object(uri, "stat_many")
        info = store.head(where, token)
        store.sizes.remember(where, info)
        return info

    infos = map_all(ask, given, concurrency, current_token())
    return [info.as_mapping() for info in infos]


@also_spelt(max_in_flight="concurrency")
def get_many_stats(uris: Iterable[str], concurrency: int = DEFAULT_IN_FLIGHT) -> ManyStats:
    """Ask for the sizes of many objects and add them up.

    The sizes are remembered for some minutes (until a write or delete through this library), so that
    all parts of a large object begin at once. Small reads gain nothing: they learn the size from their
    only answer.

    Raises:
        NotFoundError: One of them is not there.
        StoreError: As :func:`stat`.
    """
    infos = stat_many(uris, concurrency)
    return ManyStats(len(infos), sum(info["size"] for info in infos))


def exists(uri: str) -> bool:
    """Tell whether an object is there (for ``file://``: a file or directory; or a bucket as such).

    Returns:
        ``False`` only for "not there".

    Raises:
        StoreError: It cannot be found out: no permission, no connection.
    """
    where = parse(uri)
    store = store_of(where)
    try:
        if where.key:
            store.head(where, current_token())
        else:
            next(iter(store.entries(where, current_token(), recursive=False)), None)
    except NotFoundError:
        return False
    return True


def stat(uri: str) -> dict[str, Any]:
    """Return what is known of an object without reading it.

    Returns:
        ``size`` (bytes), ``last_modified`` (aware datetime or ``None``), ``etag`` (without quotes),
        ``content_type``, ``metadata`` (mapping), ``version_id``, ``storage_class``; what a backend
        does not know is empty.

    Raises:
        NotFoundError: There is no such object.
        StoreError: It cannot be found out.
    """
    where = parse_object(uri, "stat")
    return store_of(where).head(where, current_token()).as_mapping()


# -- writes -------------------------------------------------------------------------------------------


@also_spelt(prefix="uri")
def put(
    uri: str,
    data: Buffer | int | None = None,
    template: str | None = None,
    *,
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    **generation: Unpack[Generation],
) -> None:
    """Create or replace an object, atomically; or many objects, of made-up bytes.

    Args:
        uri: The object. When objects are made up, the name of each: the first ``{}`` is its number (from 0 on;
            ``{:06d}`` works), the second how many there are. Or, with ``template``, what stands before that: also
            called ``prefix``.
        data: Any contiguous bytes-like object; sent from its own memory, from 64 MiB on in parts, several at once.
            Or a number: the same as ``num``.
        template: See ``uri``.
        content_type: Media type.
        metadata: Your own names and values, printable ASCII (not kept by ``file://``).
        overwrite: ``False`` refuses to replace an object, atomically on every backend but those that
            come through fsspec, and on servers that do not heed the condition: Ceph's for objects sent in parts, which
            are looked for before and behind their parts instead, and rclone's.
        **generation: ``num`` objects of ``size`` bytes each, sent as they are made, in some 256 MiB of memory
            however large they are. ``object_type``: ``raw``, ``zeros``, ``npz``, ``tfrecord`` or ``hdf5``.
            ``dedup_factor``, ``compress_factor`` and ``seed`` as in :func:`s3dlio.generate_data`.
            ``max_in_flight``: most objects at once (64). ``progress``: ``True``, or a function that is told
            bytes written and bytes in all. ``should_create_bucket``: make it if it is missing. The original's
            ``data_gen_mode``, ``data_gen_algorithm`` and ``chunk_size`` are taken, and make no difference here.

    Raises:
        OptionError: Both ``data`` and ``num`` are given, or neither, or an option is wrong (it is a ``TypeError``).
        AlreadyExistsError: It exists and ``overwrite`` is ``False``.
        StoreError: It cannot be written.
    """
    options = PutOptions(content_type, metadata or {}, overwrite)
    if data is None or (isinstance(data, int) and "num" not in generation):
        from s3dlio.generation import order_of, write_all  # noqa: PLC0415 - few need it

        order = order_of(uri, template, generation if data is None else {"num": data, **generation})
        if order.uris:
            write_all(store_of(order.uris[0]), order, options, current_token())
        return
    if generation or template is not None or isinstance(data, int):
        names = ", ".join(generation) or "template"
        msg = f"put() takes data, or makes objects up as {names} tells it: not both"
        raise OptionError(msg, uri=uri, operation="put")
    where = parse_object(uri, "put")
    send_whole(store_of(where), where, flat_bytes(data), options, current_token())


def put_bytes(uri: str, data: Buffer) -> None:
    """Create or replace an object: :func:`put` by the original's name.

    With ``verify_puts`` in the store's options (``S3DLIO_PUT_VERIFY``) the server is asked for the size afterwards.

    Args:
        uri: The object.
        data: Any contiguous bytes-like object, or one that has ``__bytes__``: of that a copy is made.

    Raises:
        IntegrityError: The object has another size than was sent.
        StoreError: As :func:`put`.
    """
    where, memory = parse_object(uri, "put_bytes"), flat_bytes(_bytes_like(data))
    options = store_of(where).options
    if options.verify_puts:
        _log.debug("put_bytes: attempt=1/%d %s, %d bytes", options.max_attempts, where, memory.nbytes)
    put(uri, memory)
    if options.verify_puts:
        verify_size(store_of(where), where, memory.nbytes, "put_bytes", current_token())
    else:
        _log.debug("put_bytes: %s: skipping HEAD verification", where)


def _bytes_like(data: Any) -> Any:
    """Return what has memory of its own. Before Python 3.12 classes written in Python cannot show theirs."""
    if not hasattr(type(data), "__bytes__"):
        return data
    try:
        memoryview(data)
    except TypeError:
        return bytes(data)
    return data


def put_many(items: Iterable[tuple[str, Buffer]], max_in_flight: int = DEFAULT_IN_FLIGHT) -> None:
    """Write many objects of one scheme at once.

    Args:
        items: ``(uri, data)`` pairs.
        max_in_flight: Most requests at once.

    Raises:
        StoreError: The first failure; what had not begun is not written.
    """
    pairs = several(items, "put_many")
    if any(not is_a(pair, tuple, list) or len(pair) != len(("uri", "data")) for pair in pairs):
        msg = "items must be pairs of a URI and its data: [(uri, data), ...]"
        raise OptionError(msg, operation="put_many")
    if not pairs:
        return
    store = _common_store([uri for uri, _ in pairs], "put_many")

    def write(pair: tuple[str, Buffer], token: CancellationToken) -> None:
        where = parse_object(pair[0], "put_many")
        send_whole(store, where, flat_bytes(pair[1]), PutOptions(), token)

    map_all(write, pairs, max_in_flight, current_token())


# -- shared -------------------------------------------------------------------------------------------


def _in_flight(max_in_flight: int, workers: int | None, concurrency: int | None) -> int:
    chosen = [number for number in (workers, concurrency) if number is not None]
    return chosen[0] if chosen else max_in_flight


def _one_scheme(uris: Sequence[str], operation: str) -> None:
    schemes = {parse(uri).scheme.replace("gcs", "gs") for uri in uris}
    if len(schemes) > 1:
        msg = f"all URIs must have the same scheme, not {', '.join(sorted(schemes))}"
        raise UriError(msg, operation=operation)


def _common_store(uris: Sequence[str], operation: str) -> Store:
    _one_scheme(uris, operation)
    return store_of(parse(uris[0]))
