"""What a ``torch.utils.data.DataLoader`` iterates over.

Floor 6. Knows torch's dataset protocols; reading, order and formats are below.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from torch.utils.data import Dataset, IterableDataset

from s3dlio.buffers import BytesView
from s3dlio.dataset import Ahead, Foresight, ObjectDataset, Where
from s3dlio.errors import OptionError, suggest
from s3dlio.fetch import DEFAULT_BUDGET_BYTES
from s3dlio.options import StoreOptions
from s3dlio.perprocess import PerProcess
from s3dlio.shards import Shard, epoch_order, nest, share
from s3dlio.torch import world
from s3dlio.torch.convert import to_tensor

_RETURN_TYPES = ("tensor", "bytes", "view")


class _TorchDataset(ObjectDataset):
    """What the two datasets share: samples become tensors (or bytes, or views)."""

    return_type = "tensor"

    def _set_return_type(self, return_type: str) -> None:
        if return_type not in _RETURN_TYPES:
            hint = suggest(return_type, _RETURN_TYPES)
            msg = f"return_type must be one of {', '.join(_RETURN_TYPES)}, not {return_type!r}{hint}"
            raise OptionError(msg)
        self.return_type = return_type

    def convert(self, sample: Any) -> Any:
        """See :meth:`s3dlio.dataset.ObjectDataset.convert`."""
        if self.return_type == "tensor":
            return to_tensor(sample)
        if self.return_type == "bytes" and isinstance(sample, BytesView):
            return sample.to_bytes()
        return sample

    @classmethod
    def from_prefix(cls, uri: str, **options: Any) -> Self:
        """Return the dataset of all objects below a prefix; options as of the class."""
        return cls(uri, **options)

    @classmethod
    def from_uris(cls, uris: Iterable[str], **options: Any) -> Self:
        """Return the dataset of the given objects, in the given order; nothing is listed."""
        return cls(list(uris), **options)


class S3MapDataset(_TorchDataset, Dataset[Any]):
    """Samples by number, from any backend.

    A DataLoader's whole batch is read at once (``__getitems__``), and when the coming numbers are known,
    in sequential order or from a :class:`~s3dlio.torch.ReadAheadSampler`, the next batches are read while
    the current one is in use. Works in forked, forkserver and spawned workers, also after the parent has
    used the library.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw`` (``uint8`` tensor), ``npz`` (dict of tensors) or ``npy``.
        key: One array of each NPZ file instead of all.
        return_type: ``tensor``, ``view`` (BytesView and NumPy arrays) or ``bytes``.
        max_in_flight: Most requests at once.
        read_ahead_bytes: Bytes read before they are asked for; 0 turns reading ahead off.
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
        options: StoreOptions | None = None,
    ) -> None:
        super().__init__(uri, pattern=pattern, transform=transform, format=format, key=key, options=options)
        self._set_return_type(return_type)
        self._ahead = Ahead(max_in_flight, read_ahead_bytes)
        self._foresight = PerProcess(self._foresee)

    def _foresee(self) -> Foresight:
        return Foresight(self, self._ahead)

    def announce(self, order: Sequence[int]) -> None:
        """Say which samples this process will ask for next: they are read ahead, in that order."""
        if self._ahead.budget_bytes:
            self._foresight.get().announce(order)

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """See :meth:`s3dlio.dataset.ObjectDataset.__getitems__`."""
        if not len(numbers) or not self._ahead.budget_bytes:
            return super().__getitems__(numbers)
        positions = [self._position(int(number)) for number in numbers]
        ready = self._foresight.get().take(positions)
        if ready is None:
            ready = self.read_batch(positions, self._ahead.max_in_flight)
        return [self.finish(uri, view) for uri, view in ready]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_foresight"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, in another process as a rule."""
        self.__dict__.update(state)
        self._foresight = PerProcess(self._foresee)


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """The options of an iterable dataset that its ``loader_opts`` may name as well."""

    shuffle: bool = False
    seed: int = 0
    num_workers: int | None = None
    prefetch: int | None = None
    enable_sharding: bool = True
    uneven: str | None = None
    read_ahead_bytes: int = DEFAULT_BUDGET_BYTES


def _loop(loader_opts: Mapping[str, Any] | None, given: dict[str, Any]) -> _Loop:
    """Fold ``loader_opts`` and keywords together; a keyword that was given wins."""
    known = [field.name for field in dataclasses.fields(_Loop)]
    options = dict(loader_opts or {})
    for name in (*options, *given):
        if name not in known:
            msg = f"S3IterableDataset has no option {name!r}{suggest(name, known)}"
            raise OptionError(msg)
    return _Loop(**{**options, **given})


class S3IterableDataset(_TorchDataset, IterableDataset[Any]):
    """Samples one after the other, read ahead, shared among ranks and DataLoader workers.

    Every sample comes exactly once per epoch over all ranks and workers, with fork, forkserver and spawn.
    The order depends on the seed and the epoch only. An error is raised, never taken for the end.

    Args:
        uri: A prefix (or local directory), or a list of URIs.
        pattern: Only what matches, see :func:`s3dlio.list`.
        transform: Called with each sample, last.
        format: ``auto`` (by extension), ``raw`` (``uint8`` tensor), ``npz`` (dict of tensors) or ``npy``.
        key: One array of each NPZ file instead of all.
        return_type: ``tensor``, ``view`` (BytesView and NumPy arrays) or ``bytes``.
        loader_opts: The options below as a mapping; keywords win.
        options: How to reach the store.
        **loop: ``shuffle`` (bool, ``False``); ``seed`` (int, 0); ``num_workers`` (requests in flight in
            each DataLoader worker, default 128, fewer where they are of no use); ``prefetch`` (samples
            read ahead, default twice that); ``enable_sharding`` (``True``; ``False`` gives every rank and
            worker everything); ``uneven`` (``pad``, ``drop`` or ``uneven`` when samples do not divide
            evenly among ranks; default ``pad`` with several ranks); ``read_ahead_bytes`` (256 MiB, shared
            among the DataLoader's workers).

    Raises:
        NotFoundError: Nothing matches.
        OptionError: An option is wrong or misspelt.
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
        loader_opts: Mapping[str, Any] | None = None,
        options: StoreOptions | None = None,
        **loop: Any,
    ) -> None:
        self._loop = _loop(loader_opts, loop)
        super().__init__(uri, pattern=pattern, transform=transform, format=format, key=key, options=options)
        self._set_return_type(return_type)
        self._epoch = 0
        self._rank: Shard | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order; call it before each ``iter(loader)``."""
        self._epoch = epoch

    def _of_rank(self) -> Sequence[int]:
        if not self._loop.enable_sharding:
            return range(len(self.index))
        rank = self._rank or world.rank()
        policy = self._loop.uneven or ("pad" if rank.count > 1 else "uneven")
        return share(len(self.index), rank, policy)

    def __len__(self) -> int:
        """Return the number of samples that this rank yields per epoch."""
        return len(self._of_rank())

    def __iter__(self) -> Iterator[Any]:
        """Iterate over this worker's part of the epoch."""
        worker = world.worker()
        order = epoch_order(len(self.index), shuffle=self._loop.shuffle, seed=self._loop.seed, epoch=self._epoch)
        mine = nest(self._of_rank(), worker if self._loop.enable_sharding else Shard())
        ahead = Ahead(self._width(), max(1, self._loop.read_ahead_bytes // worker.count))
        return self.iterate((order[position] for position in mine), ahead)

    def _width(self) -> int:
        width = self._loop.num_workers or Ahead().max_in_flight
        return width if self._loop.prefetch is None else max(1, min(width, self._loop.prefetch))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle with this process's rank: a spawned worker cannot ask torch.distributed."""
        return {**self.__dict__, "_rank": self._rank or world.rank()}
