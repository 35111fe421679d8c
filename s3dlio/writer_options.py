"""The options of streaming writers.

Floor 5. Knows names, bounds and builders; must not know writers or stores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from s3dlio.errors import OptionError, suggest
from s3dlio.formats import compression as codecs
from s3dlio.sender import DEFAULT_PART_BYTES, DEFAULT_PARTS_IN_FLIGHT

_DEFAULTS: dict[str, Any] = {
    "compression": None,
    "compression_level": None,
    "buffer_capacity": DEFAULT_PART_BYTES,
    "max_in_flight": DEFAULT_PARTS_IN_FLIGHT,
    "content_type": "",
    "metadata": None,
    "overwrite": True,
    "storage_class": "",
}
#: The original's names for some of them.
_ALIASES = {"chunk_size": "buffer_capacity"}
#: Storage classes are sent in header fields.
_CLASS = re.compile(r"[A-Za-z0-9_-]{0,64}")
_LEAST = {"buffer_capacity": 1, "max_in_flight": 1}


class WriterOptions:
    """How an object is written by a streaming writer. Every change is checked at once.

    Args:
        **options: The attributes.

    Attributes:
        compression: ``zstd``, ``gzip`` or ``lz4``; its extension (``.zst``, ``.gz``, ``.lz4``) is appended to the
            object's name unless it is there. ``none``: write bytes as they are. Default (``None``): by the
            extension of the name; a plain name is not compressed.
        compression_level: 1 to 22 for zstd (3), 0 to 9 for gzip (6), 0 to 16 for lz4 (0).
        buffer_capacity: Bytes gathered before they are sent (``S3DLIO_PUT_PART_SIZE``, else 16 MiB); raised to what the backend asks of a part
            (S3 and Google Cloud: 5 MiB). They have at most 10,000 parts.
        chunk_size: The same, by another of the original's names.
        max_in_flight: Most parts under way at once (``S3DLIO_PUT_INFLIGHT``, else 16).
        content_type: Media type.
        metadata: Your own names and values (not kept by ``file://``).
        overwrite: ``False`` refuses to replace an object.
        storage_class: By the backend's own name, such as ``STANDARD_IA`` (S3), ``NEARLINE`` (Google Cloud) or ``Cool`` (Azure's
            access tier); empty is the bucket's default. Files and ``memory://`` have none.

    Raises:
        OptionError: A name is unknown, or a value out of its bounds.

    Example:
        >>> options = WriterOptions(compression="zstd").with_compression_level(9)
        >>> options.compression, options.compression_level
        ('zstd', 9)
    """

    compression: str | None
    compression_level: int | None
    buffer_capacity: int
    max_in_flight: int
    content_type: str
    metadata: Mapping[str, str] | None
    overwrite: bool
    storage_class: str

    def __init__(self, **options: Any) -> None:
        given = {_ALIASES.get(name, name): value for name, value in options.items()}
        for name, value in (_DEFAULTS | given).items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option, if there is such a one and it may have this value."""
        name = _ALIASES.get(name, name)
        if name not in _DEFAULTS:
            msg = f"WriterOptions has no option {name!r}{suggest(name, (*_DEFAULTS, *_ALIASES))}"
            raise OptionError(msg)
        _check(name, value, self.__dict__)
        self.__dict__[name] = value

    @property
    def chunk_size(self) -> int:
        """Bytes gathered before they are sent: ``buffer_capacity``."""
        return self.buffer_capacity

    def _with(self, **changes: Any) -> Self:
        return type(self)(**(self.__dict__ | changes))

    def with_compression(self, compression: str | None, level: int | None = None) -> Self:
        """Return a copy with another compression, at a level or the library's default one."""
        return self._with(compression=compression, compression_level=level)

    def with_compression_level(self, level: int | None) -> Self:
        """Return a copy with another level of compression."""
        return self._with(compression_level=level)

    def with_buffer_size(self, size: int) -> Self:
        """Return a copy that gathers another number of bytes before they are sent."""
        return self._with(buffer_capacity=size)

    def with_buffer_capacity(self, size: int) -> Self:
        """Do as :meth:`with_buffer_size` does."""
        return self._with(buffer_capacity=size)

    def with_chunk_size(self, size: int) -> Self:
        """Do as :meth:`with_buffer_size` does."""
        return self._with(buffer_capacity=size)

    def with_max_in_flight(self, count: int) -> Self:
        """Return a copy with another number of parts under way at once."""
        return self._with(max_in_flight=count)

    def with_content_type(self, content_type: str) -> Self:
        """Return a copy with another media type."""
        return self._with(content_type=content_type)

    def with_metadata(self, metadata: Mapping[str, str]) -> Self:
        """Return a copy with other names and values of your own."""
        return self._with(metadata=metadata)

    def with_overwrite(self, overwrite: bool) -> Self:  # noqa: FBT001 - builders take their value by position
        """Return a copy that may, or may not, replace an object."""
        return self._with(overwrite=overwrite)

    def with_storage_class(self, storage_class: str) -> Self:
        """Return a copy with another storage class."""
        return self._with(storage_class=storage_class)

    def __eq__(self, other: object) -> bool:
        """Compare all options."""
        return isinstance(other, WriterOptions) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # they can be changed

    def __repr__(self) -> str:
        """Show the options that are not the defaults."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items() if value != _DEFAULTS[name])
        return f"WriterOptions({shown})"


def _check(name: str, value: Any, others: Mapping[str, Any]) -> None:
    if name in _LEAST and (isinstance(value, bool) or not isinstance(value, int) or value < _LEAST[name]):
        msg = f"{name} must be a whole number of at least {_LEAST[name]}, not {value!r}"
        raise OptionError(msg)
    if name == "storage_class" and not (isinstance(value, str) and _CLASS.fullmatch(value)):
        msg = f"storage_class must be a name such as STANDARD_IA, not {value!r}"
        raise OptionError(msg)
    if name == "compression" and value is not None:
        codecs.check(value, others.get("compression_level"))
    if name == "compression_level" and value is not None:
        codec = others.get("compression")
        codecs.check("zstd" if codec in (None, "none") else codec, value)
