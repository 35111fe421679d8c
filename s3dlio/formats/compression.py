"""Compressed objects: zstd, gzip and lz4, each by its library, as streams.

Floor 4. Knows codecs and which extension means which; must not know stores. The libraries are imported when
they are first needed.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from s3dlio.buffers import KIB, MIB, BytesView, flat_bytes
from s3dlio.errors import FormatError, OptionError, suggest

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Compressed bytes taken in one step when they are expanded, so that no step makes more than some 100 MiB of
#: them: gzip expands to at most 1,032 times as much, lz4 to 255 times, zstd (four bytes for a block of 128 KiB)
#: to 32,768 times. Measured: zstd expands text as fast by 4 KiB as by 1 MiB.
_STEP_BYTES, _SMALL_STEP_BYTES = 64 * KIB, 4 * KIB
#: zlib's numbers for "a gzip header and trailer".
_GZIP_WINDOW = 31


class Compressor(Protocol):
    """A stream that is being compressed."""

    def compress(self, data: Buffer) -> bytes:
        """Take bytes; return what is ready of the compressed stream, maybe nothing."""

    def flush(self) -> bytes:
        """End the stream; return the rest of it."""


class _Codec(NamedTuple):
    """One way to compress.

    Attributes:
        extensions: What names of objects end in; the first is appended.
        levels: Least and greatest.
        level: The library's own default.
        compressor: Makes a stream of a level.
        expander: Makes what expands one stream: ``decompress(data)``, ``eof``, ``unused_data``.
        errors: The classes its library raises, as a function since the library is not imported before.
        step_bytes: Compressed bytes that are expanded at once.
    """

    extensions: tuple[str, ...]
    levels: tuple[int, int]
    level: int
    compressor: Callable[[int], Compressor]
    expander: Callable[[], Any]
    errors: Callable[[], tuple[type[Exception], ...]]
    step_bytes: int


def _zstd_compressor(level: int) -> Compressor:
    import zstandard  # noqa: PLC0415

    # As many threads as cores: with more than one the library compresses beside the caller.
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = threads if threads > 1 else 0
    stream: Any = zstandard.ZstdCompressor(level=level, threads=workers, write_checksum=True).compressobj()
    return stream  # type: ignore[no-any-return]


def _zstd_expander() -> Any:
    import zstandard  # noqa: PLC0415

    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()


def _zstd_errors() -> tuple[type[Exception], ...]:
    import zstandard  # noqa: PLC0415

    return (zstandard.ZstdError,)


class _Lz4Compressor:
    """An lz4 frame, by the library's own stream."""

    def __init__(self, level: int) -> None:
        import lz4.frame  # type: ignore[import-untyped]  # noqa: PLC0415

        self._stream = lz4.frame.LZ4FrameCompressor(compression_level=level, content_checksum=True)
        self._begun = False

    def compress(self, data: Buffer) -> bytes:
        head = self._begin()
        return head + bytes(self._stream.compress(data))

    def flush(self) -> bytes:
        return self._begin() + bytes(self._stream.flush())

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return bytes(self._stream.begin())


def _lz4_expander() -> Any:
    import lz4.frame  # noqa: PLC0415

    return lz4.frame.LZ4FrameDecompressor()


_CODECS = {
    "zstd": _Codec((".zst", ".zstd"), (1, 22), 3, _zstd_compressor, _zstd_expander, _zstd_errors, _SMALL_STEP_BYTES),
    "gzip": _Codec(
        (".gz",), (0, 9), 6,
        lambda level: zlib.compressobj(level, wbits=_GZIP_WINDOW),
        lambda: zlib.decompressobj(_GZIP_WINDOW),
        lambda: (zlib.error,),
        _STEP_BYTES,
    ),
    "lz4": _Codec((".lz4",), (0, 16), 0, _Lz4Compressor, _lz4_expander, lambda: (RuntimeError,), _STEP_BYTES),
}  # fmt: skip
_OF_EXTENSION = {extension: name for name, codec in _CODECS.items() for extension in codec.extensions}
#: What compression may be called.
COMPRESSIONS = ("none", *_CODECS)


def codec_of_name(key: str) -> str:
    """Return the compression that the extension of a key means; ``none`` for an unknown one."""
    return _OF_EXTENSION.get(key[key.rfind(".") :].lower(), "none")


def plain_name(key: str) -> str:
    """Return a key without the extension that means compression."""
    dot = key.rfind(".")
    return key[:dot] if key[dot:].lower() in _OF_EXTENSION else key


def packed_name(key: str, codec: str) -> str:
    """Return a key with the extension of a compression, appended if it is not there."""
    if codec == "none" or key.lower().endswith(_CODECS[codec].extensions):
        return key
    return key + _CODECS[codec].extensions[0]


def check(codec: str, level: int | None) -> None:
    """Check the choice of a compression.

    Args:
        codec: Its name.
        level: Or ``None`` for the library's default.

    Raises:
        OptionError: There is no such one, or it has no such level.
    """
    if codec not in COMPRESSIONS:
        msg = f"compression must be one of {', '.join(COMPRESSIONS)}, not {codec!r}{suggest(str(codec), COMPRESSIONS)}"
        raise OptionError(msg)
    if codec == "none" or level is None:
        return
    least, most = _CODECS[codec].levels
    if not isinstance(level, int) or not least <= level <= most:  # type: ignore[redundant-expr]
        msg = f"compression_level of {codec} must be a whole number from {least} to {most}, not {level!r}"
        raise OptionError(msg)


def compressor(codec: str, level: int | None = None) -> Compressor:
    """Return a stream that compresses. zstd uses all cores.

    Args:
        codec: ``zstd``, ``gzip`` or ``lz4``.
        level: ``None`` for the library's default: 3, 6 and 0.

    Raises:
        OptionError: As :func:`check`.
    """
    check(codec, level)
    facts = _CODECS[codec]
    return facts.compressor(facts.level if level is None else level)


def expanded(data: Buffer, codec: str, most_bytes: int | None = None) -> BytesView:
    """Return what compressed bytes stand for.

    Args:
        data: All of them: one stream, or several one behind the other.
        codec: ``none`` (the bytes are returned as they are), ``zstd``, ``gzip`` or ``lz4``.
        most_bytes: Refuse what expands to more; default: half of the machine's memory.

    Raises:
        FormatError: They are damaged or cut short, or expand to too much.
    """
    if codec == "none":
        return data if isinstance(data, BytesView) else BytesView.from_bytes(data)
    limit = _half_of_memory() if most_bytes is None else most_bytes
    whole = bytearray()  # grown in place: pieces that are joined at the end would take twice the memory
    for piece in _expand(flat_bytes(data), codec):
        if len(whole) + len(piece) > limit:
            msg = f"the {codec} data expands to more than {limit:,} bytes"
            raise FormatError(msg)
        whole += piece
    return BytesView.from_bytes(whole)


def _expand(data: memoryview, codec: str) -> Iterator[bytes]:
    facts = _CODECS[codec]
    stream: Any = facts.expander()
    done = 0
    while done < len(data):
        if stream.eof:
            stream = facts.expander()
        step = data[done : done + facts.step_bytes]
        try:
            piece = stream.decompress(step)
        except facts.errors() as error:
            msg = f"the {codec} data near byte {done} cannot be expanded: {error}"
            raise FormatError(msg) from error
        done += len(step) - (len(stream.unused_data or b"") if stream.eof else 0)
        if piece:
            yield piece
    if not stream.eof:
        msg = f"the {codec} data is cut short: it ends at byte {done}, in the midst of a stream"
        raise FormatError(msg)


@functools.cache
def _half_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return 1024 * MIB
