"""Memory for the bytes of objects: where it comes from, and how it is used again.

Floor 0. Knows ``mmap``; must not know what the bytes mean or where they come from. NumPy is imported with the first
array: a program that only lists or copies on the far side never needs it.

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
from typing import TYPE_CHECKING, Any

from s3dlio.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

    from s3dlio.leases import Lease

KIB = 1024
MIB = 1024 * KIB

#: Below this many bytes the C allocator is faster than any pool (measured crossover: 16-64 KiB).
POOLED_FROM_BYTES = 32 * KIB
#: Blocks of less than this are cut from a common mapping of :data:`SLAB_BYTES`.
SLAB_BYTES = 2 * MIB
#: Free blocks kept for the next read: enough for 2,000 objects of 128 KiB, small beside a training job.
DEFAULT_POOL_BYTES = 256 * MIB

_PAGE = 4096


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
        self._arrays: tuple[type[Lease], np.dtype[np.uint8]] | None = None

    def take(self, length: int) -> Lease:
        """Return ``length`` writable bytes, not cleared, as a one-dimensional uint8 array."""
        make, byte = self._arrays or self._first_array()
        if length < POOLED_FROM_BYTES:
            return make((length,), byte)
        known, shelf = self._last
        if known != length:
            size = _block_size(length)
            shelf = self._shelves.get(size) or self._add_shelf(size)
            self._last = (length, shelf)
        try:
            block = shelf.free.pop()
        except IndexError:
            block = self._map(shelf)
        lease = make((length,), byte, block)
        lease.shelf = shelf
        lease.block = block
        return lease

    def take_bytes(self, length: int) -> memoryview:
        """Return ``length`` writable bytes as a memoryview; few of them do not need NumPy."""
        if length < POOLED_FROM_BYTES and self._arrays is None:
            return memoryview(bytearray(length))
        return bytes_of(self.take(length))

    def _first_array(self) -> tuple[type[Lease], np.dtype[np.uint8]]:
        from s3dlio.leases import U1, Lease  # noqa: PLC0415 - NumPy takes 0.1 s

        self._arrays = (Lease, U1)
        return self._arrays

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


def bytes_of(array: Any) -> memoryview:
    """Return an array's memory as a memoryview (before Python 3.12 type checkers do not know arrays have one)."""
    return memoryview(array)


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
        import numpy as np  # noqa: PLC0415 - who has such an array has imported it

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
        import numpy as np  # noqa: PLC0415 - as above

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
