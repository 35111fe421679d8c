"""From the bytes of an object to a sample.

Floor 4. The table of formats: which extension means what, and what decodes it. Knows bytes; must not
know stores or frameworks. A new format is one line here and a function from memory to a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from s3dlio.buffers import BytesView
from s3dlio.errors import FormatError, OptionError, suggest
from s3dlio.formats.npz import Npz, read_npy
from s3dlio.uri import Uri

_EXTENSIONS = {".npz": "npz", ".npy": "npy"}
_FORMATS = ("auto", "raw", "npz", "npy")
_LATER = (".tfrecord", ".tfrecords")


class Codec(NamedTuple):
    """How objects become samples.

    Attributes:
        format: ``auto`` (by extension), ``raw``, ``npz`` or ``npy``.
        key: Take one array out of an NPZ file instead of all.
    """

    format: str = "auto"
    key: str | None = None

    def decode(self, uri: Uri, view: BytesView) -> Any:
        """Return the sample in an object.

        Args:
            uri: The object, for its extension and for errors.
            view: Its bytes.

        Returns:
            ``raw``: the view itself. ``npy``, or ``npz`` with a ``key``: an array. ``npz``: a dict of
            arrays. Arrays share the object's memory where it holds them uncompressed, and are writable.

        Raises:
            FormatError: The object is not of its format, or has no array ``key``.
        """
        decode = _DECODERS[self.format_of(uri)]
        try:
            return decode(view, self)
        except FormatError as error:
            error.uri, error.operation = error.uri or str(uri), error.operation or "decode"
            raise

    def format_of(self, uri: Uri) -> str:
        """Return the format of an object.

        Raises:
            OptionError: The extension names one that cannot be read as samples.
        """
        if self.format != "auto":
            return self.format
        name = uri.key.lower()
        if name.endswith(_LATER):
            msg = "records of TFRecord files are not read yet; format='raw' gives whole files"
            raise OptionError(msg, uri=str(uri), operation="decode")
        return _EXTENSIONS.get(name[name.rfind(".") :], "raw") if "." in name else "raw"


def make_codec(format: str, key: str | None) -> Codec:  # noqa: A002 - the contract's name
    """Check the choice of a format and return its codec.

    Raises:
        OptionError: There is no such format, or ``key`` does not go with it.
    """
    if format not in _FORMATS:
        msg = f"format must be one of {', '.join(_FORMATS)}, not {format!r}{suggest(format, _FORMATS)}"
        raise OptionError(msg)
    if key is not None and format not in ("auto", "npz"):
        msg = f"key={key!r} names an array of an NPZ file; it does not go with format={format!r}"
        raise OptionError(msg)
    return Codec(format, key)


def _memory(view: BytesView) -> memoryview:
    """Return the view's memory, writable: a sample belongs to whoever asked for it."""
    return view.memoryview(writable=True) if view.is_owner else view.memoryview()


def _npz(view: BytesView, codec: Codec) -> Any:
    arrays = Npz(_memory(view))
    if codec.key is None:
        return dict(arrays)
    try:
        return arrays[codec.key]
    except KeyError:
        msg = f"has no array {codec.key!r}{suggest(codec.key, arrays)} (it has {', '.join(arrays)})"
        raise FormatError(msg) from None


_DECODERS: dict[str, Callable[[BytesView, Codec], Any]] = {
    "raw": lambda view, _codec: view,
    "npy": lambda view, _codec: read_npy(_memory(view)),
    "npz": _npz,
}
