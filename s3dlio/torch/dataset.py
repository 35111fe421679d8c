"""What the torch room's datasets share, and the one that is read by number.

Floor 6. Knows torch's dataset protocols; reading, order and formats are below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from s3dlio.bounds import flag, whole
from s3dlio.buffers import BytesView
from s3dlio.dataset import Ahead, ObjectDataset, Where
from s3dlio.errors import OptionError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES
from s3dlio.foresight import Coming, Foresight
from s3dlio.formats.tfrecord import FOOT, HEAD
from s3dlio.gather import Group
from s3dlio.options import StoreOptions
from s3dlio.perprocess import PerProcess
from s3dlio.torch import unequal
from s3dlio.torch.convert import to_tensor
from s3dlio.torch.packing import Packing
from s3dlio.torch.shared import Shared
from s3dlio.uri import several

_RETURN_TYPES = ("tensor", "bytes", "view")


class TorchDataset(ObjectDataset):
    """What both datasets share: samples become tensors (or bytes, or views)."""

    return_type = "tensor"

    def __init__(self, uri: Where, return_type: str, **options: Any) -> None:
        if return_type not in _RETURN_TYPES:
            hint = suggest(return_type, _RETURN_TYPES)
            msg = f"return_type must be one of {', '.join(_RETURN_TYPES)}, not {return_type!r}{hint}"
            raise OptionError(msg)
        self.return_type = return_type
        self._shared = Shared()
        super().__init__(uri, **options)

    def convert(self, sample: Any) -> Any:
        """See :meth:`s3dlio.dataset.ObjectDataset.convert`."""
        if self.return_type == "tensor":
            return to_tensor(sample)
        if self.return_type == "bytes" and isinstance(sample, BytesView):
            return sample.to_bytes()
        return sample

    @property
    def skipped(self) -> int:
        """How many samples were left out so far, with ``on_error="skip"``, by all workers together."""
        return self._shared.skipped

    def _count_skipped(self) -> None:
        self._shared.count_skipped()

    def _check_packable(self) -> None:
        if self.return_type != "tensor" or self._on_error != "raise":
            msg = "packed=True goes with return_type='tensor' and on_error='raise'"
            raise OptionError(msg)
        self.is_plain()  # which looks at all keys, once: here, and not in each worker

    def _packed_batch(self, packing: Packing, group: Group) -> torch.Tensor:
        """Return the samples of a group that was read into one tensor, each checked, as one tensor."""
        return packing.batch(group.sizes, self._checked_trim(group))

    def _packed_rows(self, packing: Packing, group: Group) -> list[torch.Tensor]:
        """Return the samples of a group that was read into one tensor, each checked."""
        return packing.rows(group.sizes, self._checked_trim(group))

    def _title(self, number: int) -> str:
        """Return what a sample is called in messages: its object, or which one of that."""
        return self.uri_of(number) if self.samples.records is None else f"sample {number} of {self.uri_of(number)}"

    def _checked_trim(self, group: Group) -> tuple[int, int]:
        """Check all samples; return how many bytes before and behind each do not belong to it."""
        for sample in self.taken(group):
            sample.bytes()
        return (0, 0) if self.samples.records is None else (HEAD, FOOT)

    @classmethod
    def from_prefix(cls, uri: str, **options: Any) -> Self:
        """Return the dataset of all objects below a prefix; options as of the class."""
        return cls(uri, **options)

    @classmethod
    def from_uris(cls, uris: Iterable[str], **options: Any) -> Self:
        """Return the dataset of the given objects, in the given order; nothing is listed."""
        return cls(several(uris, "from_uris"), **options)


class S3MapDataset(TorchDataset, Dataset[Any]):
    """Samples by number, from any backend.

    A DataLoader's whole batch is read at once (``__getitems__``), and when the coming numbers are known,
    in sequential order or from a :class:`~s3dlio.torch.ResumableDistributedSampler`, the next batches are
    read while the current one is in use. Works in forked, forkserver and spawned workers, also after the
    parent has used the library.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw`` (``uint8`` tensor), ``npz`` (dict of tensors), ``npy``,
            ``tfrecord`` (each record a ``uint8`` tensor) or ``example`` (each record a dict of tensors).
        key: One array of each sample that has many, instead of all.
        return_type: ``tensor``, ``view`` (BytesView and NumPy arrays) or ``bytes``.
        max_in_flight: Most requests at once.
        read_ahead_bytes: Bytes read before they are asked for; 0 turns reading ahead off.
        packed: Read each batch into one tensor, of which the samples are rows;
            :func:`s3dlio.torch.collate` then makes a batch of them without a copy. For samples that are
            objects or records as they are. Each batch is read when it is asked for: best with workers.
        on_error: ``raise`` or ``skip``, see :class:`s3dlio.ObjectDataset`; batches may then be shorter.
        index_progress: Called with (files done, files in all) while files of records are indexed.
        options: How to reach the store.

    Raises:
        NotFoundError: Nothing matches.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> dataset = S3MapDataset("s3://bucket/train/", pattern="*.npz")    # doctest: +SKIP
        >>> loader = DataLoader(dataset, batch_size=32, shuffle=True)        # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - the contract's keywords
        self,
        uri: Where,
        *,
        pattern: str | re.Pattern[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        format: str = "auto",  # noqa: A002 - the contract's name
        key: str | None = None,
        return_type: str = "tensor",
        max_in_flight: int = Ahead().max_in_flight,
        read_ahead_bytes: int = DEFAULT_BUDGET_BYTES,
        packed: bool = False,
        on_error: str = "raise",
        index_progress: Callable[[int, int], object] | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        super().__init__(
            uri,
            return_type,
            pattern=pattern,
            transform=transform,
            format=format,
            key=key,
            on_error=on_error,
            index_progress=index_progress,
            options=options,
        )
        self._ahead = Ahead(whole("max_in_flight", max_in_flight, 1), whole("read_ahead_bytes", read_ahead_bytes, 0))
        self._foresight = PerProcess(self._foresee)
        self._packed = flag("packed", packed)
        if packed:
            self._check_packable()

    def _foresee(self) -> Foresight:
        return Foresight(self, self._ahead)

    def announce(self, order: Coming, first: int = 0) -> None:
        """Say which samples this process will ask for next: they are read ahead, in that order.

        Args:
            order: Has a length and ``samples(first, stop)``, as :class:`s3dlio.shards.Walk` has.
            first: The step to begin with.
        """
        if self._ahead.budget_bytes and not self._packed:
            self._foresight.get().announce(order, first)

    def _several(self, numbers: Iterable[int]) -> list[Any]:
        advice = (
            "that were asked for were skipped: on_error='raise' raises what is wrong, and the log 's3dlio' tells it"
        )
        return self._checked(numbers, advice, "get")

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """See :meth:`s3dlio.dataset.ObjectDataset.__getitems__`.

        Raises:
            OptionError: All of them were skipped.
        """
        advice = (
            "of a batch were skipped, and a DataLoader takes no empty batch: use larger batches, or S3IterableDataset,"
            " whose batches are filled with the samples behind"
        )
        return self._checked(numbers, advice, "__getitems__")

    def _checked(self, numbers: Iterable[int], advice: str, operation: str) -> list[Any]:
        positions = [self._position(int(number)) for number in numbers]
        samples = self._read(positions)
        if len(samples) == len(positions):  # else some were skipped
            unequal.check(samples, lambda place: self._title(positions[place]))
        elif not samples:
            msg = f"all {len(positions)} samples {advice}"
            raise OptionError(msg, uri=self.uri_of(positions[0]), operation=operation)
        return samples

    def _read(self, positions: list[int]) -> list[Any]:
        if self._packed and positions and self.is_plain():
            return self._read_packed(positions)
        if not positions or not self._ahead.budget_bytes:
            return self.finish_all(self.read_batch(positions, self._ahead.max_in_flight))
        ready = self._foresight.get().take(positions)
        if ready is None:
            ready = self.read_batch(positions, self._ahead.max_in_flight)
        return self.finish_all(ready)

    def _read_packed(self, positions: list[int]) -> list[Any]:
        packing = Packing()
        group = Group(self.samples, np.asarray(positions, np.int64), packing.allocate)
        for view in self._fetcher(self._ahead.max_in_flight).read_all(group.reads):
            group.put(view)
        return self._packed_rows(packing, group)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_foresight"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, in another process as a rule."""
        self.__dict__.update(state)
        self._foresight = PerProcess(self._foresee)
