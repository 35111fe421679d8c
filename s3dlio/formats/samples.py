"""From the bytes of an object to a sample.

Floor 4. The table of formats: which extension means what, and what decodes it. Knows bytes; must not
know stores or frameworks. A new format is one line here and a function from memory to a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from s3dlio.buffers import BytesView, bytes_of, part_of
from s3dlio.errors import FormatError, OptionError, suggest
from s3dlio.formats.compression import codec_of_name, expanded, plain_name
from s3dlio.formats.example import decode_example
from s3dlio.formats.npz import Npz, read_npy
from s3dlio.formats.tfrecord import FOOT, HEAD, payload
from s3dlio.uri import Uri

_EXTENSIONS = {".npz": "npz", ".npy": "npy", ".tfrecord": "tfrecord", ".tfrecords": "tfrecord"}
FORMATS = ("auto", "raw", "npz", "npy", "tfrecord", "example", "parquet")
#: Formats of which an object holds many samples, each a record.
OF_RECORDS = frozenset({"tfrecord", "example", "parquet"})
#: Formats whose samples carry sums of their own.
_SUMMED = frozenset({"tfrecord", "example"})
#: Formats whose objects are never expanded: records are read from the midst of a file.
_AS_STORED = OF_RECORDS | {"raw"}


class Codec(NamedTuple):
    """How objects become samples.

    Attributes:
        format: ``auto`` (by extension), ``raw``, ``npz``, ``npy``, ``tfrecord``, ``example``, or
            ``parquet`` (each row group, as it lies in the file, is a sample).
        key: Take one array out of each sample that has many.
    """

    format: str = "auto"
    key: str | None = None

    def decode(self, uri: Uri, view: BytesView, start: int = 0, *, is_verified: bool = False) -> Any:
        """Return a sample.

        Args:
            uri: The object that it lies in, for its extension and for errors.
            view: The sample's bytes: the object, or a whole record of it.
            start: Where in the object they begin, for errors.
            is_verified: :meth:`fault` has found nothing.

        Returns:
            ``raw``: the view itself. ``tfrecord``: a view of the record's data. ``npy``, or with a
            ``key``: an array. ``npz`` and ``example``: a dict of arrays. Those of ``npy`` and of stored members of
            ``npz`` share the memory that was read; all are writable. An object whose extension says that it is
            compressed (``.zst``, ``.gz``, ``.lz4``) is expanded first, unless the format is ``raw`` by choice.

        Raises:
            FormatError: The object is not of its format, or has no array ``key``.
        """
        format, packed = _kind_of(self.format, uri.key)  # noqa: A001 - the contract's name
        try:
            if packed != "none":
                view = expanded(bytes_of(view), packed)
            if format in _SUMMED and not is_verified:
                payload(bytes_of(view), start)
            return self._choose(_DECODERS[format](view))
        except FormatError as error:
            error.concern(uri, "decode")
            raise

    def fault(self, uri: Uri, view: BytesView, start: int) -> FormatError | None:
        """Return what is wrong with the sums of a sample, where it has some; arguments as of :meth:`decode`."""
        if self.format_of(uri) in _SUMMED:
            try:
                payload(bytes_of(view), start)
            except FormatError as error:
                error.concern(uri, "decode")
                return error
        return None

    def format_of(self, uri: Uri) -> str:
        """Return the format of an object."""
        return _kind_of(self.format, uri.key)[0]

    def compression_of(self, uri: Uri) -> str:
        """Return what an object has to be expanded from; ``none`` for most."""
        return _kind_of(self.format, uri.key)[1]

    def are_as_stored(self, keys: Iterable[str]) -> bool:
        """Tell whether the bytes of all samples are the samples: all whole objects, or all records, none expanded.

        Args:
            keys: Of the objects.
        """
        if self.format != "auto":
            return self.format in ("raw", "tfrecord")
        kinds, seen = set(), set()
        for key in keys:
            ending = "." + ".".join(key.rsplit(".", 2)[1:])  # millions of keys have few of them
            if ending not in seen:
                seen.add(ending)
                kinds.add(_kind_of(self.format, ending))
                if len(kinds) > 1:  # a record has a frame, an object none
                    break
        return kinds in ({("raw", "none")}, {("tfrecord", "none")})

    def _choose(self, sample: Any) -> Any:
        if self.key is None:
            return dict(sample) if isinstance(sample, Npz) else sample
        if not isinstance(sample, Mapping):
            return sample
        try:
            return sample[self.key]
        except KeyError:
            msg = f"has no array {self.key!r}{suggest(self.key, sample)} (it has {', '.join(sample)})"
            raise FormatError(msg) from None


@lru_cache(maxsize=256)  # records come from few objects
def _kind_of(format: str, key: str) -> tuple[str, str]:  # noqa: A002 - the contract's name
    """Return the format of an object, and what it has to be expanded from."""
    packed = "none" if format in _AS_STORED else codec_of_name(key)
    return (format if format != "auto" else format_of_name(key)), packed


def format_of_name(key: str) -> str:
    """Return the format that the extension of a key means, before one of compression; ``raw`` for an unknown one."""
    name = plain_name(key)
    return _EXTENSIONS.get(name[name.rfind(".") :].lower(), "raw")


def make_codec(format: str, key: str | None) -> Codec:  # noqa: A002 - the contract's name
    """Check the choice of a format and return its codec.

    Raises:
        OptionError: There is no such format, or ``key`` does not go with it.
    """
    if format not in FORMATS:
        msg = f"format must be one of {', '.join(FORMATS)}, not {format!r}{suggest(format, FORMATS)}"
        raise OptionError(msg)
    if key is not None and format not in ("auto", "npz", "example"):
        msg = f"key={key!r} names one array of many; it does not go with format={format!r}"
        raise OptionError(msg)
    return Codec(format, key)


def _memory(view: BytesView) -> memoryview:
    """Return the view's memory, writable: a sample belongs to whoever asked for it."""
    return view.memoryview(writable=True) if view.is_owner else view.memoryview()


def _record(view: BytesView) -> BytesView:
    return part_of(view, HEAD, len(view) - FOOT)


_DECODERS: dict[str, Callable[[BytesView], Any]] = {
    "raw": lambda view: view,
    "parquet": lambda view: view,
    "npy": lambda view: read_npy(_memory(view)),
    "npz": lambda view: Npz(_memory(view)),
    "tfrecord": _record,
    "example": lambda view: decode_example(_memory(_record(view))),
}
