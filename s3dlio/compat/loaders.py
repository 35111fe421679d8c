"""The original's loader over values that are in memory already.

Floor 6. Knows the original's signatures; must not know stores. Loaders of objects are in :mod:`s3dlio.compat.dlio`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from s3dlio.loader_options import PyLoaderOptions


class PyVecDataset(Sequence[Any]):
    """Values by number.

    Args:
        values: They are copied into a list.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = list(values)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        """Return one; with a slice, a list of some."""
        return self._values[index]


class PyAsyncDataLoaderIter:
    """One run through a :class:`PyAsyncDataLoader`, for ``async for`` and ``for``.

    Args:
        batches: What comes.
    """

    def __init__(self, batches: Iterator[list[Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Any]]:
        """Iterate over what is left."""
        return self._batches

    def __aiter__(self) -> PyAsyncDataLoaderIter:
        """Iterate over what is left."""
        return self

    async def __anext__(self) -> list[Any]:
        """Return the next batch."""
        for batch in self._batches:
            return batch
        raise StopAsyncIteration


class PyAsyncDataLoader:
    """Batches of a sequence's values, for ``async for`` and ``for``: lists, also where a batch is one value.

    Args:
        dataset: Anything with ``len()`` and values by number.
        options: ``batch_size``, ``drop_last``, ``shuffle`` and ``seed`` of :class:`s3dlio.PyLoaderOptions`.

    Raises:
        OptionError: An option is misspelt or wrong.

    Example:
        >>> list(PyAsyncDataLoader(PyVecDataset(range(5)), {"batch_size": 2}))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, dataset: Sequence[Any], options: Mapping[str, Any] | PyLoaderOptions | None = None) -> None:
        self.dataset = dataset
        self.options = options if isinstance(options, PyLoaderOptions) else PyLoaderOptions(**(options or {}))

    def _batches(self) -> Iterator[list[Any]]:
        told = self.options.to_dict()
        size = told["batch_size"]
        order = list(range(len(self.dataset)))
        if told["shuffle"]:
            random.Random(told["seed"]).shuffle(order)  # noqa: S311 - an order, not a secret
        end = len(order) - len(order) % size if told["drop_last"] else len(order)
        for start in range(0, end, size):
            yield [self.dataset[number] for number in order[start : start + size]]

    def __iter__(self) -> Iterator[list[Any]]:
        """Begin a run."""
        return self._batches()

    def __aiter__(self) -> PyAsyncDataLoaderIter:
        """Begin a run."""
        return PyAsyncDataLoaderIter(self._batches())
