"""Samples of unequal shapes: whose they are and what helps, said before torch fails to stack them.

Floor 6. Knows shapes, and by which frames torch's loader asks for samples; must not know how they are read. torch's
own collation says which two shapes do not fit, and nothing else. It has no hook for tensors that would leave other
people's batches alone; so a dataset looks whether the loader that asks it collates by torch's own function, and
whether nobody who might change the samples stands between. Where that cannot be seen, torch's own message comes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch.utils.data import default_collate

from s3dlio.errors import OptionError

WAY_OUT = "collate_fn=functools.partial(s3dlio.torch.collate, ragged='pad'), or ragged='list'"

_OURS = "s3dlio."
#: torch's own that hand a list of numbers on and the samples back: ``Subset``.
_HARMLESS = "torch.utils.data.dataset"
_FETCHERS = "torch.utils.data._utils.fetch"
_ARRAYS = (torch.Tensor, np.ndarray)


class Pair(NamedTuple):
    """Two samples that make no batch.

    Attributes:
        first: Place of the one among the samples.
        second: Place of the other.
        where: Which of a sample's arrays; empty if it is one.
        shapes: Of the two.
    """

    first: int
    second: int
    where: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def tell(self, names: Sequence[str] = ()) -> OptionError:
        """Return the error, with the names of all samples if they are known."""
        whose = [f" of {names[place]}" if names else "" for place in (self.first, self.second)]
        shown = f"{self.shapes[0]}{whose[0]} and {self.shapes[1]}{whose[1]}"
        array = f" in {self.where}" if self.where else ""
        return OptionError(f"samples of unequal shapes{array}, {shown}, make no batch: give the DataLoader {WAY_OUT}")


def unequal(samples: Sequence[Any], where: str = "") -> Pair | None:
    """Return two samples whose arrays in one place have different shapes, or ``None``."""
    first = samples[0]
    if isinstance(first, _ARRAYS):
        for place, sample in enumerate(samples):
            if isinstance(sample, _ARRAYS) and sample.shape != first.shape:
                return Pair(0, place, where, (tuple(first.shape), tuple(sample.shape)))
    elif isinstance(first, Mapping):
        if all(isinstance(sample, Mapping) and sample.keys() == first.keys() for sample in samples):
            return _first_of(samples, first, where)
    elif isinstance(first, tuple | list) and all(
        isinstance(sample, tuple | list) and len(sample) == len(first) for sample in samples
    ):
        return _first_of(samples, range(len(first)), where)
    return None


def _first_of(samples: Sequence[Any], names: Any, where: str) -> Pair | None:
    for name in names:
        if pair := unequal([sample[name] for sample in samples], f"{where}[{name!r}]"):
            return pair
    return None


def check(samples: Sequence[Any], name_of: Callable[[int], str]) -> None:
    """See that samples make a batch, if torch's own collation is what they go to. Called by a dataset's method.

    Args:
        samples: Those of a batch.
        name_of: Says what the sample in a place is called.

    Raises:
        OptionError: They make none; the message says what helps.
    """
    if len(samples) > 1 and _is_default(_asking(sys._getframe(2))) and (pair := unequal(samples)):  # noqa: SLF001
        raise pair.tell([name_of(place) for place in range(len(samples))])


class Watch:
    """Looks at samples on their way to torch's own collation, one at a time.

    Args:
        name_of: Says what the sample of a number is called.
    """

    def __init__(self, name_of: Callable[[int], str]) -> None:
        self._name_of = name_of
        self._last: tuple[Any, int] | None = None

    @classmethod
    def of_loader(cls, name_of: Callable[[int], str]) -> Self | None:
        """Return one if it is torch's loader that asks, and collates by itself. Called by ``__iter__``."""
        return cls(name_of) if _is_default(_asking(sys._getframe(2))) else None  # noqa: SLF001

    def see(self, sample: Any, number: int) -> None:
        """Look at the sample that comes next. Called by the generator that yields it.

        Raises:
            OptionError: It does not fit to those that are in its batch already; the message says what helps.
        """
        form = _form(sample)
        last, self._last = self._last, (form, number)
        if last is None or last[0] == form:
            return
        loader = _asking(sys._getframe(2))  # noqa: SLF001
        batch = loader.f_locals.get("data") if loader is not None else None
        if batch and isinstance(batch, list) and (pair := unequal([batch[-1], sample])):
            raise pair.tell([self._name_of(last[1]), self._name_of(number)])


def _form(sample: Any) -> Any:
    """Return what is the same for samples that make a batch, and for few others."""
    if isinstance(sample, _ARRAYS):
        return sample.shape
    if isinstance(sample, Mapping):
        return [_form(array) for array in sample.values()]
    if isinstance(sample, tuple | list):
        return [_form(array) for array in sample]
    return None


def _asking(frame: FrameType | None) -> FrameType | None:
    """Return the frame of torch's loader, if from it on only this library's and harmless ones were called."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == _FETCHERS:
            return frame
        if not module.startswith(_OURS) and module != _HARMLESS:
            return None
        frame = frame.f_back
    return None


def _is_default(frame: FrameType | None) -> bool:
    fetcher = frame.f_locals.get("self") if frame is not None else None
    return getattr(fetcher, "collate_fn", None) is default_collate and bool(getattr(fetcher, "auto_collation", False))
