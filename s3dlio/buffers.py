"""How the bytes of objects are seen: read-only views that share the memory they were read into.

Floor 0. Knows NumPy; must not know what the bytes mean or where they come from. Where their memory comes from is in
:mod:`s3dlio.memory`, whose names are here as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from s3dlio.errors import OptionError
from s3dlio.leases import U1, Lease
from s3dlio.memory import (
    KIB,
    MIB,
    POOL,
    POOLED_FROM_BYTES,
    BufferPool,
    bytes_of,
    flat_bytes,
    writable_bytes,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "KIB", "MIB", "POOL", "POOLED_FROM_BYTES", "BufferPool", "BytesView", "Lease", "bytes_of", "flat_bytes", "part_of",
    "view_of", "writable_bytes",
]  # fmt: skip

_SHOWN_BYTES = 1024


class BytesView(np.ndarray[Any, Any]):
    """The bytes of an object, or of a range of it: bytes-like, read-only and never copied.

    ``memoryview(v)``, ``np.frombuffer(v, dtype)``, ``np.asarray(v)``, ``torch.frombuffer(v, dtype=...)``,
    ``hashlib``, ``file.write(v)`` and ``zlib`` share its memory. ``bytes(v)`` and ``v.to_bytes()`` copy.

    It is a NumPy array underneath, since before Python 3.12 only extension types can offer the buffer
    protocol; it behaves like ``bytes``: items are ``int``, slices are views without a copy, ``==``
    compares contents with any bytes-like object, and it can be hashed and pickled.

    Memory: shared with every object made from it and freed (or recycled) after the last of them.
    Thread-safe to read.

    Example:
        >>> view = BytesView.from_bytes(b"spam")
        >>> view[1:3], view[0], view == b"spam"
        (b'pa', 115, True)
    """

    # Without a __dict__ the garbage collector leaves views alone, and batches have thousands of them.
    __slots__ = ()
    # Arithmetic on bytes is almost surely a mistake; np.asarray(view) is the way to mean it.
    __array_ufunc__ = None  # type: ignore[assignment]

    def __new__(cls, data: Buffer = b"") -> BytesView:  # noqa: PYI034 - as from_bytes says it
        """Return what :meth:`from_bytes` does; an array's own arguments would be a shape."""
        return cls.from_bytes(data)

    @classmethod
    def from_bytes(cls, data: Buffer) -> BytesView:
        """Return a view of ``data`` (any contiguous bytes-like object), sharing its memory."""
        flat = flat_bytes(data)
        return cls._over(flat, flat.nbytes)

    @classmethod
    def _over(cls, memory: Any, length: int) -> BytesView:
        view: BytesView = np.ndarray.__new__(cls, (length,), U1, memory)
        view.setflags(write=False)
        return view

    @property
    def is_owner(self) -> bool:
        """Whether this is the view a read returned, with memory of its own, and not a part of another."""
        return isinstance(self.base, Lease) and len(self.base) == len(self)

    def memoryview(self, *, writable: bool = False) -> memoryview:
        """Return a memoryview of the same memory, without a copy.

        Args:
            writable: Ask for a view that may be written to, for example so that
                ``torch.frombuffer`` does not warn. Only the view that a read returned has it to
                give: slices and views of other people's memory share theirs.

        Raises:
            OptionError: ``writable`` is asked of a view that does not own its memory.
        """
        if not writable:
            return bytes_of(self)
        if not self.is_owner:
            msg = "this view shares its memory with others; copy it: bytearray(view)"
            raise OptionError(msg)
        return bytes_of(self.base)

    def to_bytes(self) -> bytes:
        """Return a copy as ``bytes``."""
        return bytes_of(self).tobytes()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Decode to text, as ``bytes.decode`` does."""
        memory = bytes_of(self)
        return str(memory if memory.contiguous else memory.tobytes(), encoding, errors)

    def hex(self) -> str:
        """Return the bytes as hexadecimal digits."""
        return bytes_of(self).hex()

    def __bytes__(self) -> bytes:
        """Return a copy as ``bytes``."""
        return self.to_bytes()

    def __getitem__(self, index: SupportsIndex | slice) -> Any:  # type: ignore[override]
        """Return an ``int`` for an index, a view without a copy for a slice."""
        if isinstance(index, slice):
            return super().__getitem__(index)
        return bytes_of(self)[index]

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        """Iterate over the bytes as ``int``."""
        return iter(bytes_of(self))

    def __contains__(self, item: object) -> bool:
        """Tell whether a byte (``int``) or a run of bytes occurs."""
        return self.to_bytes().__contains__(item)  # type: ignore[operator]

    def __eq__(self, other: object) -> bool:
        """Compare contents with any bytes-like object."""
        try:
            theirs = flat_bytes(other)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return NotImplemented
        return bytes_of(self) == theirs

    def __ne__(self, other: object) -> bool:
        """Compare contents with any bytes-like object."""
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash as the equal ``bytes`` do."""
        return hash(self.to_bytes())

    def __bool__(self) -> bool:
        """Tell whether there are any bytes."""
        return len(self) > 0

    def __repr__(self) -> str:
        """Show the bytes; long ones are cut and their length is told."""
        if len(self) <= _SHOWN_BYTES:
            return repr(self.to_bytes())
        return f"{bytes(bytes_of(self)[:64])!r}... ({len(self)} bytes)"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        """Pickle the contents."""
        return BytesView.from_bytes, (self.to_bytes(),)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, tuple[bytes]]:
        """Pickle the contents."""
        return self.__reduce__()

    def __copy__(self) -> BytesView:
        """Return a view of the same memory."""
        view: Any = super().__getitem__(slice(None))
        same: BytesView = view
        return same

    def __deepcopy__(self, _memo: dict[int, Any] | None) -> BytesView:
        """Return a view of a copy."""
        return BytesView.from_bytes(self.to_bytes())


def view_of(lease: Lease) -> BytesView:
    """Return the read-only view of a filled lease."""
    return BytesView._over(lease, len(lease))  # noqa: SLF001 - the view's own factory


def part_of(view: BytesView, start: int, stop: int) -> BytesView:
    """Return a part of a view that belongs to whoever takes it, as the whole of it did.

    The caller sees to it that nobody else is given any of these bytes.
    """
    if not view.is_owner:
        return view[start:stop]  # type: ignore[no-any-return]
    part: Any = view.base[start:stop]  # type: ignore[index]  # a slice of a Lease is one
    return view_of(part)
