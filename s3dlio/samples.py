"""Samples: which bytes of which object each one is.

Floor 5. Knows catalogs and, of TFRecord files, their indexes; must not know orders, nor how samples are
read or decoded. Most samples are objects. Where objects hold records, each record is a sample: it costs
12 bytes here, so that a hundred million of them fit into the memory of one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from s3dlio.catalog import AnyArray, Catalog
from s3dlio.errors import FormatError

Ints = np.ndarray[Any, np.dtype[np.int64]]
#: Longest record that a 32-bit size can tell; an index with a longer one keeps 64 bits for each.
_NARROW = (1 << 32) - 1


class Extents(NamedTuple):
    """Where some samples lie: one entry for each.

    Attributes:
        objects: Numbers of the objects (int64).
        starts: First bytes (int64).
        stops: Behind the last bytes (int64), -1 where that is the end of an object of unknown size.
    """

    objects: Ints
    starts: Ints
    stops: Ints


class Records:
    """The records within objects.

    Args:
        first: int64, one more than there are objects: the sample number of each object's first record,
            and at the end the number of all samples. An object that is a sample itself has one "record".
        offsets: int64, first byte of each record; -1 for an object that is a sample itself.
        sizes: uint32 or int64, bytes of each record.

    Raises:
        FormatError: The arrays contradict each other.
    """

    __slots__ = ("first", "offsets", "sizes")

    def __init__(self, first: AnyArray, offsets: AnyArray, sizes: AnyArray) -> None:
        self.first, self.offsets, self.sizes = first, offsets, sizes
        kinds = (first.dtype, offsets.dtype) == (np.int64, np.int64) and sizes.dtype in (np.uint32, np.int64)
        fine = kinds and first.ndim == offsets.ndim == sizes.ndim == 1 and len(first) > 0
        fine = fine and first[0] == 0 and first[-1] == len(offsets) == len(sizes) and bool((np.diff(first) >= 0).all())
        if not fine:
            msg = "the index of records contradicts itself"
            raise FormatError(msg)

    @classmethod
    def of_parts(cls, parts: list[tuple[AnyArray, AnyArray] | None]) -> Records:
        """Put the indexes of objects together.

        Args:
            parts: Of each object offsets and sizes, or ``None`` if it is a sample itself.
        """
        whole = (np.array([-1], np.int64), np.array([0], np.int64))
        known = [part or whole for part in parts]
        counts = [len(offsets) for offsets, _ in known]
        sizes = np.concatenate([sizes for _, sizes in known]) if known else np.zeros(0, np.int64)
        narrow = sizes.max(initial=0) <= _NARROW
        return cls(
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            np.concatenate([offsets for offsets, _ in known]) if known else np.zeros(0, np.int64),
            sizes.astype(np.uint32 if narrow else np.int64),
        )

    def arrays(self) -> dict[str, AnyArray]:
        """Return all there is, for a file."""
        return {"record_first": self.first, "record_offsets": self.offsets, "record_sizes": self.sizes}


class SampleIndex:
    """All samples of a dataset, numbered. Immutable, picklable, safe to share among threads.

    Args:
        catalog: The objects.
        records: The records within them; ``None``: each object is one sample.
    """

    __slots__ = ("_print", "catalog", "records")

    def __init__(self, catalog: Catalog, records: Records | None = None) -> None:
        if records is not None and len(records.first) != len(catalog) + 1:
            msg = "the index of records does not fit the objects"
            raise FormatError(msg)
        self.catalog = catalog
        self.records = records
        self._print = ""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.catalog) if self.records is None else len(self.records.offsets)

    def locate(self, numbers: Ints) -> Extents:
        """Return where samples lie."""
        records = self.records
        if records is None:
            return Extents(numbers, np.zeros(len(numbers), np.int64), self.catalog.sizes[numbers])
        objects = np.searchsorted(records.first, numbers, side="right") - 1
        offsets = records.offsets[numbers]
        whole = offsets < 0
        stops = offsets + records.sizes[numbers].astype(np.int64)
        return Extents(objects, np.where(whole, 0, offsets), np.where(whole, self.catalog.sizes[objects], stops))

    def object_of(self, number: int) -> int:
        """Return the number of the object that a sample lies in."""
        return number if self.records is None else int(np.searchsorted(self.records.first, number, side="right") - 1)

    def mean_bytes(self) -> int:
        """Return about how many bytes a sample has, or -1 if that is not known."""
        if self.records is not None and len(self):
            return int(self.records.sizes.mean())
        known = self.catalog.sizes[self.catalog.sizes >= 0]
        return int(known.mean()) if len(known) else -1

    def are_equal(self) -> bool:
        """Tell whether all samples have the same number of bytes, as far as known."""
        records, sizes = self.records, self.catalog.sizes
        if records is not None:
            sizes = records.sizes if records.offsets.min(initial=0) >= 0 else sizes[:0]
        return len(sizes) > 0 and sizes[0] >= 0 and bool((sizes == sizes[0]).all())

    def fingerprint(self) -> str:
        """Return what tells these samples from others."""
        if self.records is None:
            return self.catalog.fingerprint()
        if not self._print:
            digest = hashlib.blake2b(self.catalog.fingerprint().encode(), digest_size=8)
            for array in self.records.arrays().values():
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
            self._print = digest.hexdigest()
        return self._print

    def arrays(self) -> dict[str, AnyArray]:
        """Return all there is but scheme and containers, for a file."""
        return self.catalog.arrays() | (self.records.arrays() if self.records else {})

    @classmethod
    def of_arrays(cls, scheme: str, containers: list[str], arrays: Mapping[str, AnyArray]) -> SampleIndex:
        """Return the index that a file holds.

        Raises:
            FormatError: The arrays contradict each other.
        """
        names = ("record_first", "record_offsets", "record_sizes")
        records = Records(*[arrays[name] for name in names]) if names[0] in arrays else None
        return cls(Catalog(scheme, containers, arrays), records)
