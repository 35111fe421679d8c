"""A batch of samples that lie back to back in one buffer.

Floor 0. Knows memory and sizes; must not know who reads, or what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from s3dlio.buffers import POOL, BytesView, Lease, bytes_of, flat_bytes
from s3dlio.errors import OptionError
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from typing_extensions import Buffer


class PackedBatch(np.ndarray[Any, Any]):
    """The bytes of some samples, back to back: a sequence of views, and bytes-like itself.

    As a sequence it has the samples: ``len(batch)``, ``batch[i]``, ``for view in batch``; each is a
    :class:`~s3dlio.BytesView` of the batch's memory, and a slice is a batch of neighbours. As a buffer it has
    all bytes: ``np.frombuffer(batch, dtype)``, ``memoryview(batch)``, ``torch.frombuffer``, ``file.write`` share
    its memory. It is a NumPy array underneath, since before Python 3.12 only extension types can offer a
    buffer. Read-only; freed (or recycled) with the last view of it. Thread-safe to read.

    Attributes:
        nbytes: All bytes together.

    Example:
        >>> batch = PackedBatch.of_views([b"spam", b"egg"])
        >>> len(batch), batch[1], bytes(batch), batch.sizes
        (2, b'egg', b'spamegg', [4, 3])
    """

    __slots__ = ("_ends", "_uris")
    # Arithmetic on bytes is almost surely a mistake; np.frombuffer(batch, dtype) is the way to mean it.
    __array_ufunc__ = None  # type: ignore[assignment]
    __hash__ = None
    _ends: list[int]
    _uris: Sequence[Uri | str]

    @classmethod
    def of_memory(cls, memory: Any, sizes: Sequence[int], uris: Sequence[Uri | str] = ()) -> PackedBatch:
        """Return the batch that lies in some memory, sharing it.

        Args:
            memory: A buffer of exactly the samples' bytes.
            sizes: Bytes of each sample, in order.
            uris: The object of each sample, if there is one.
        """
        ends = list(accumulate(sizes))
        length = ends[-1] if ends else 0
        batch: PackedBatch = np.ndarray.__new__(cls, (length,), np.uint8, memory)
        batch.setflags(write=False)
        batch._ends, batch._uris = ends, uris
        return batch

    @classmethod
    def of_views(cls, views: Sequence[Buffer], uris: Sequence[Uri | str] = ()) -> PackedBatch:
        """Return a batch with copies of some samples.

        Raises:
            OptionError: A sample is not bytes-like.
        """
        flat = [_flat(view) for view in views]
        memory = POOL.take(sum(len(part) for part in flat))
        target, at = bytes_of(memory), 0
        for part in flat:
            target[at : at + len(part)] = part
            at += len(part)
        return cls.of_memory(memory, [len(part) for part in flat], uris)

    # -- as a sequence of samples -------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._ends)

    def __getitem__(self, index: SupportsIndex | slice) -> Any:  # type: ignore[override]
        """Return a view of one sample, or for a slice the batch of these neighbours; both share the memory.

        Raises:
            IndexError: There is no such sample.
            OptionError: The slice has a step: what it takes does not lie back to back.
        """
        if isinstance(index, slice):
            return self._neighbours(index)
        number = range(len(self))[index]
        return self._part(number, number + 1).view(BytesView)

    def _neighbours(self, index: slice) -> PackedBatch:
        first, stop, step = index.indices(len(self))
        if step != 1:
            msg = "only neighbours lie back to back; take list(batch)[::n] for views of every n-th sample"
            raise OptionError(msg)
        stop = max(first, stop)
        return PackedBatch.of_memory(self._part(first, stop), self.sizes[first:stop], self._uris[first:stop])

    def _part(self, first: int, stop: int) -> np.ndarray[Any, Any]:
        begin, end = (self._ends[number - 1] if number else 0 for number in (first, stop))
        part: np.ndarray[Any, Any] = self.view(np.ndarray)[begin:end]
        return part

    def __iter__(self) -> Iterator[BytesView]:  # type: ignore[override]
        """Iterate over views of the samples."""
        return (self[number] for number in range(len(self)))

    def __reversed__(self) -> Iterator[BytesView]:
        """Iterate over views of the samples, the last first."""
        return (self[number] for number in reversed(range(len(self))))

    def __contains__(self, sample: object) -> bool:
        """Tell whether one of the samples equals a bytes-like object."""
        return any(view == sample for view in self)

    def index(self, sample: object, start: int = 0, stop: int | None = None) -> int:
        """Return the number of the first sample that equals a bytes-like object.

        Raises:
            ValueError: There is none.
        """
        return list(self).index(sample, start, len(self) if stop is None else stop)  # type: ignore[arg-type]

    def count(self, sample: object) -> int:
        """Return how many samples equal a bytes-like object."""
        return sum(view == sample for view in self)

    def __bool__(self) -> bool:
        """Tell whether there are any samples."""
        return bool(self._ends)

    # -- what is known of the samples ---------------------------------------------------------------

    @property
    def sizes(self) -> list[int]:
        """Bytes of each sample."""
        return [end - begin for begin, end in pairwise(chain([0], self._ends))]

    @property
    def offsets(self) -> list[int]:
        """Where each sample begins in the buffer."""
        return [0, *self._ends[:-1]] if self._ends else []

    @property
    def uris(self) -> list[str]:
        """The object that each sample lies in; empty if the batch was not read."""
        return [str(uri) for uri in self._uris]

    # -- as bytes -----------------------------------------------------------------------------------

    def memoryview(self, *, writable: bool = False) -> memoryview:
        """Return a memoryview of all bytes, without a copy.

        Args:
            writable: Ask for one that may be written to, for example so that ``torch.frombuffer`` does not
                warn: the batch and its views then change with it.

        Raises:
            OptionError: ``writable`` is asked of a part of a batch, or of other people's memory.
        """
        if not writable:
            return bytes_of(self)
        if not isinstance(self.base, Lease) or len(self.base) != self.nbytes:
            msg = "this batch shares its memory with others; copy it: bytearray(batch)"
            raise OptionError(msg)
        return bytes_of(self.base)

    def to_bytes(self) -> bytes:
        """Return a copy of all bytes."""
        return bytes_of(self).tobytes()

    def __bytes__(self) -> bytes:
        """Return a copy of all bytes."""
        return self.to_bytes()

    def __eq__(self, other: object) -> bool:
        """Compare with a batch or a list of samples, or all bytes with a bytes-like object."""
        if isinstance(other, (PackedBatch, list, tuple)):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        try:
            return bytes_of(self) == flat_bytes(other)  # type: ignore[arg-type]
        except OptionError:
            return NotImplemented

    def __ne__(self, other: object) -> bool:
        """Compare as ``==`` does."""
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __repr__(self) -> str:
        """Show how much it holds."""
        return f"{type(self).__name__}({len(self)} samples, {self.nbytes} bytes)"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, tuple[bytes, list[int], list[str]]]:
        """Pickle the contents."""
        return PackedBatch.of_memory, (self.to_bytes(), self.sizes, self.uris)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, tuple[bytes, list[int], list[str]]]:
        """Pickle the contents."""
        return self.__reduce__()

    def __copy__(self) -> PackedBatch:
        """Return a batch of the same memory."""
        return self[:]  # type: ignore[no-any-return]

    def __deepcopy__(self, _memo: dict[int, Any] | None) -> PackedBatch:
        """Return a batch of a copy."""
        return PackedBatch.of_memory(self.to_bytes(), self.sizes, self._uris)


Sequence.register(PackedBatch)


def _flat(view: Buffer) -> memoryview:
    try:
        return flat_bytes(view)
    except OptionError as error:
        msg = f"a sample is {type(view).__name__}, and a batch is of bytes: use format='raw', or ObjectDataset"
        raise OptionError(msg) from error
