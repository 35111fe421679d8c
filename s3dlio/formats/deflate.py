"""Files compressed as a whole, as TensorFlow's ``TFRecordOptions`` does it: GZIP or ZLIB.

Floor 4. Knows streams of compressed bytes and how they are told from TFRecord headers; must not know what
is in them, nor stores. Memory stays bounded whatever the bytes expand to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from s3dlio.buffers import KIB, MIB, flat_bytes
from s3dlio.errors import OptionError, TFRecordError

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What TensorFlow's ``TFRecordOptions(compression_type)`` takes.
COMPRESSIONS = ("", "GZIP", "ZLIB")
#: Compressed bytes taken, and plain bytes made, in one step.
_PACKED_STEP = 64 * KIB
_PLAIN_STEP = MIB
_WINDOW_BITS = {"ZLIB": 15, "GZIP": 31}
_GZIP_MAGIC = b"\x1f\x8b\x08"


def check_compression(compression: str, *more: str) -> str:
    """Return ``compression`` if there is such a one.

    Args:
        compression: ``""``, ``"GZIP"`` or ``"ZLIB"``.
        more: Further words that may stand for one.

    Raises:
        OptionError: There is not.
    """
    known = (*more, *COMPRESSIONS)
    if compression not in known:
        msg = f"compression must be one of {', '.join(map(repr, known))}, not {compression!r}"
        raise OptionError(msg)
    return compression


def looks_packed(beginning: Buffer) -> str:
    """Tell which compression the first two or three bytes of a file may stand for: ``""`` is none."""
    head = bytes(memoryview(beginning)[:3])
    if head == _GZIP_MAGIC:
        return "GZIP"
    # RFC 1950: method 8, a window of at most 32 KiB, and a check that makes the first two bytes a multiple of 31.
    is_zlib = len(head) > 1 and head[0] & 0x8F == 8 and int.from_bytes(head[:2], "big") % 31 == 0  # noqa: PLR2004
    return "ZLIB" if is_zlib else ""


def unpacked(chunks: Iterable[Buffer], compression: str) -> Iterator[memoryview]:
    """Iterate over the plain bytes of a compressed file, in pieces of at most about 1 MiB.

    Args:
        chunks: The file's bytes, in consecutive pieces of any size.
        compression: ``"GZIP"`` (of one or more members) or ``"ZLIB"``.

    Raises:
        TFRecordError: It cannot be unpacked, or is cut short.
    """
    worker, taken = None, 0
    for piece in _steps(chunks):
        left: Any = piece
        while left:
            if worker is None or worker.eof:
                left = _behind_the_end(left, worker, compression)
                worker = zlib.decompressobj(_WINDOW_BITS[compression]) if left else worker
                continue
            yield _inflate(worker.decompress, (left, _PLAIN_STEP), taken)
            left = worker.unused_data if worker.eof else worker.unconsumed_tail
        taken += len(piece)
    if worker is not None and not worker.eof:
        yield _inflate(worker.flush, (), taken)  # less than one step: what a few bytes of input stand for
    if worker is not None and not worker.eof:
        msg = f"the {compression} data is cut short: it ends at byte {taken}, in the midst of a stream"
        raise TFRecordError(msg)


def _steps(chunks: Iterable[Buffer]) -> Iterator[memoryview]:
    for chunk in chunks:
        view = flat_bytes(chunk)
        for at in range(0, len(view), _PACKED_STEP):
            yield view[at : at + _PACKED_STEP]


def _behind_the_end(left: Any, worker: Any, compression: str) -> Any:
    """Return what begins the next stream: behind one there may be zeros and, with GZIP, another one."""
    if worker is None:
        return left
    left = bytes(left).lstrip(b"\0")
    if left and compression != "GZIP":
        msg = "there are bytes behind the end of the ZLIB data"
        raise TFRecordError(msg)
    return left


def _inflate(step: Any, arguments: tuple[Any, ...], taken: int) -> memoryview:
    try:
        return memoryview(step(*arguments))
    except zlib.error as error:
        msg = f"the compressed data near byte {taken} cannot be unpacked: {error}"
        raise TFRecordError(msg) from error


def deflater(compression: str) -> Any:
    """Return the ``zlib`` object that compresses as ``compression`` says, at zlib's own level as TensorFlow does."""
    return zlib.compressobj(wbits=_WINDOW_BITS[compression])
