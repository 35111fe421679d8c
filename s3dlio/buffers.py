"""Memory for the bytes of objects: where it comes from, how it is seen, and how it is used again.

Floor 0. Knows NumPy and ``mmap``; must not know what the bytes mean or where they come from.

Three things, one chain of ownership::

    block (a piece of an mmap)  <-  Lease (one use of it)  <-  BytesView, arrays, tensors, memoryviews

When the last view of a lease dies, the lease hands its block back to the pool. Touching fresh memory
costs more than copying a body out of the kernel (measured: 128 KiB reads run 1.6 times as fast into
recycled blocks), so blocks are kept, up to a budget, and mapped with huge pages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex, final

import numpy as np

from s3dlio.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import Buffer

KIB = 1024
MIB = 1024 * KIB

#: Below this many bytes the C allocator is faster than any pool (measured crossover: 16-64 KiB).
POOLED_FROM_BYTES = 32 * KIB
#: Blocks of less than this are cut from a common mapping of :data:`SLAB_BYTES`.
SLAB_BYTES = 2 * MIB
#: Free blocks kept for the next read: enough for 2,000 objects of 128 KiB, small beside a training job.
DEFAULT_POOL_BYTES = 256 * MIB

_PAGE = 4096
_U1 = np.dtype(np.uint8)
_SHOWN_BYTES = 1024


class _Shelf:
    """Free blocks of one size. ``deque`` appends and pops are atomic, so no lock is needed here."""

    __slots__ = ("block_bytes", "free", "pool")

    def __init__(self, pool: BufferPool, block_bytes: int) -> None:
        self.pool = pool
        self.block_bytes = block_bytes
        self.free: deque[memoryview] = deque()

    def give_back(self, block: memoryview) -> None:
        # The exact sum only near the limit: this runs for every object that is let go.
        mine = len(self.free) * self.block_bytes
        if mine + self.block_bytes <= self.pool.share_bytes or self.pool.has_room(self.block_bytes):
            self.free.append(block)
        elif self.block_bytes >= SLAB_BYTES and self.pool.has_lazy_room(self.block_bytes):
            _let_go(block)
            self.free.append(block)


@final
class Lease(np.ndarray[Any, Any]):
    """One use of a block: a writable uint8 array that returns its block when nothing refers to it.

    Arrays, memoryviews and tensors made from it keep it alive, so the block cannot be used again
    while anything can still see the bytes.
    """

    __slots__ = ("block", "shelf")
    block: memoryview
    shelf: _Shelf

    def __del__(self) -> None:
        """Return the block. Runs at any moment, in any thread: it must neither lock nor raise."""
        block = getattr(self, "block", None)
        if block is not None:
            self.shelf.give_back(block)


class BufferPool:
    """Hands out memory and takes it back.

    Thread-safe without locks; safe after fork (mappings are private, a child gets its own copies).

    Args:
        budget_bytes: Bytes of free blocks kept for the next use; what is in use is not counted. Each
            block size may always have an equal share of it, so that while sizes change it may be exceeded,
            never by more than itself.
        lazy_bytes: Beyond that, bytes of large free blocks that are kept as long as nobody needs the memory:
            the system may take them away at any time (``MADV_FREE``), and does so before it swaps.
    """

    def __init__(self, budget_bytes: int = DEFAULT_POOL_BYTES, lazy_bytes: int = 0) -> None:
        if budget_bytes < 0 or lazy_bytes < 0:
            msg = f"budget_bytes and lazy_bytes must not be negative: {budget_bytes}, {lazy_bytes}"
            raise OptionError(msg)
        self.budget_bytes = budget_bytes
        self.lazy_bytes = lazy_bytes if hasattr(mmap, "MADV_FREE") else 0
        self._shelves: dict[int, _Shelf] = {}
        self._all: tuple[_Shelf, ...] = ()
        self.share_bytes = budget_bytes  # what each block size may have without asking
        self._last: tuple[int, _Shelf] = (-1, _Shelf(self, 0))  # samples tend to be of one size

    def take(self, length: int) -> Lease:
        """Return ``length`` writable bytes, not cleared, as a one-dimensional uint8 array."""
        if length < POOLED_FROM_BYTES:
            return Lease((length,), _U1)
        known, shelf = self._last
        if known != length:
            size = _block_size(length)
            shelf = self._shelves.get(size) or self._add_shelf(size)
            self._last = (length, shelf)
        try:
            block = shelf.free.pop()
        except IndexError:
            block = self._map(shelf)
        lease = Lease((length,), _U1, block)
        lease.shelf = shelf
        lease.block = block
        return lease

    def free_bytes(self) -> int:
        """Return the bytes of memory held for the next use."""
        return sum(len(shelf.free) * shelf.block_bytes for shelf in self._all)

    def has_room(self, count: int) -> bool:
        """Tell whether ``count`` further bytes may be kept."""
        return self.free_bytes() + count <= self.budget_bytes

    def has_lazy_room(self, count: int) -> bool:
        """Tell whether ``count`` further bytes may be kept that the system can have back at any time."""
        return self.free_bytes() + count <= self.budget_bytes + self.lazy_bytes

    def clear(self) -> None:
        """Return all free memory to the system."""
        for shelf in self._all:
            shelf.free.clear()

    def _add_shelf(self, size: int) -> _Shelf:
        shelf = self._shelves.setdefault(size, _Shelf(self, size))
        # A new tuple, so that a give_back running in another thread never sees it change.
        self._all = tuple(self._shelves.values())
        self.share_bytes = self.budget_bytes // len(self._all)
        return shelf

    def _map(self, shelf: _Shelf) -> memoryview:
        """Map new memory for a shelf that has run out, and return one block of it."""
        self._make_room(shelf)
        if shelf.block_bytes >= SLAB_BYTES:
            return memoryview(_map_private(shelf.block_bytes))
        slab = memoryview(_map_private(SLAB_BYTES))
        stops = range(shelf.block_bytes, SLAB_BYTES + 1, shelf.block_bytes)
        blocks = [slab[stop - shelf.block_bytes : stop] for stop in stops]
        shelf.free.extend(blocks[1:])
        return blocks[0]

    def _make_room(self, wanted: _Shelf) -> None:
        """Drop other sizes once they fill half the budget, else an old workload starves the new one."""
        for shelf in self._all:
            while shelf is not wanted and shelf.free and self.free_bytes() > self.budget_bytes // 2:
                try:
                    shelf.free.popleft()
                except IndexError:
                    break


def _let_go(block: memoryview) -> None:
    """Tell the system that it may have the memory of a whole mapping, as long as nobody writes to it again."""
    region = block.obj
    if isinstance(region, mmap.mmap):
        with contextlib.suppress(OSError, ValueError):  # a kernel without it keeps the memory: as in use
            region.madvise(mmap.MADV_FREE)


def _memory_of_machine() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _map_private(size: int) -> mmap.mmap:
    # MAP_PRIVATE, since mmap's default (shared) would let a forked child write into its parent's data.
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            region.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel built without huge pages: slower, still right
            return region
    return region


def _block_size(length: int) -> int:
    """Round up to a quarter step between powers of two, in pages: at most a fifth is unused."""
    step = max(_PAGE, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


#: The pool of this process that every read takes its memory from. Fresh memory for a large object costs up
#: to ten times as much as memory used before (measured, 1 GiB: 0.07 to 2.4 s against nothing).
POOL = BufferPool(
    # What a stream reads ahead by default and what its consumer holds, on a machine that has it to spare.
    budget_bytes=max(DEFAULT_POOL_BYTES, min(4 * DEFAULT_POOL_BYTES, _memory_of_machine() // 32)),
    lazy_bytes=_memory_of_machine() // 8,
)


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

    @classmethod
    def from_bytes(cls, data: Buffer) -> BytesView:
        """Return a view of ``data`` (any contiguous bytes-like object), sharing its memory."""
        flat = flat_bytes(data)
        return cls._over(flat, flat.nbytes)

    @classmethod
    def _over(cls, memory: Any, length: int) -> BytesView:
        view: BytesView = np.ndarray.__new__(cls, (length,), _U1, memory)
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


def bytes_of(array: Any) -> memoryview:
    """Return an array's memory as a memoryview (before Python 3.12 type checkers do not know arrays have one)."""
    return memoryview(array)


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


def flat_bytes(data: Buffer) -> memoryview:
    """Return any contiguous bytes-like object as a flat memoryview of bytes, sharing its memory.

    Raises:
        OptionError: It offers no buffer, or its memory is not contiguous.
    """
    try:
        view = memoryview(data)
    except TypeError as error:
        msg = f"expected a bytes-like object, not {type(data).__name__}"
        raise OptionError(msg) from error
    except ValueError as error:  # NumPy: a dtype that the buffer protocol has no letter for (bfloat16)
        if not isinstance(data, np.ndarray):
            raise OptionError(str(error)) from error
        view = bytes_of(data.view(np.uint8))
    if not view.contiguous:
        msg = "the data is not contiguous in memory; copy it first, e.g. numpy.ascontiguousarray(x)"
        raise OptionError(msg)
    if view.nbytes == 0:
        return memoryview(b"") if view.readonly else memoryview(bytearray())
    return view if view.format == "B" and view.ndim == 1 else _cast(view)


def _cast(view: memoryview) -> memoryview:
    if view.f_contiguous and not view.c_contiguous:
        msg = "the array is in Fortran order; pass array.T, or numpy.ascontiguousarray(array)"
        raise OptionError(msg)
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # structured dtypes have formats that cast() refuses
        return bytes_of(np.asarray(view).reshape(-1).view(np.uint8))


def writable_bytes(target: object) -> memoryview:
    """Return a writable flat memoryview of an array, CPU tensor or memoryview, sharing its memory.

    Raises:
        OptionError: It is read-only, not contiguous, or not in the memory of the CPU.
    """
    if hasattr(target, "data_ptr") and hasattr(target, "is_contiguous"):
        return _tensor_bytes(target)
    view = flat_bytes(target)  # type: ignore[arg-type]
    if view.readonly:
        msg = f"the buffer is read-only ({type(target).__name__}); pass a writable one"
        raise OptionError(msg)
    return view


def _tensor_bytes(tensor: Any) -> memoryview:
    # By address, since numpy() refuses the dtypes that NumPy lacks (bfloat16, float8).
    import ctypes  # noqa: PLC0415 - 3 ms that only tensors need

    if tensor.device.type != "cpu":
        msg = f"the tensor is on {tensor.device}; read into a CPU (pinned) tensor and copy from there"
        raise OptionError(msg)
    if not tensor.is_contiguous():
        msg = "the tensor is not contiguous; pass tensor.contiguous() and copy back"
        raise OptionError(msg)
    length = tensor.numel() * tensor.element_size()
    if not length:
        return memoryview(bytearray())
    memory = (ctypes.c_ubyte * length).from_address(tensor.data_ptr())
    memory.owner = tensor  # the ctypes array does not own the memory: keep what does
    return memoryview(memory).cast("B")
