"""What a dataset and its copies in DataLoader workers know together.

Floor 6. A few numbers in shared memory, which survive fork, forkserver and spawn; must not know what
they are for beyond their names.
"""

from __future__ import annotations

import torch

from s3dlio.torch import world

#: Workers of one loader that have numbers of their own; further ones share them.
_SLOTS = 512
_EPOCH, _LOADED = 0, 1
_USED = 2
_SKIPPED = _USED + _SLOTS


class Shared:
    """Numbers that all processes of a loader see.

    The epoch, so that ``set_epoch`` reaches workers that live on (``persistent_workers``); which loaded
    state each worker has begun with, so that the workers of the next epoch do not begin there again; and
    how many samples each has skipped. Each is written by one process.
    """

    def __init__(self) -> None:
        self._numbers = torch.zeros(_SKIPPED + _SLOTS, dtype=torch.int64)
        self._numbers.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch to read."""
        return int(self._numbers[_EPOCH])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._numbers[_EPOCH] = epoch

    def note_load(self) -> None:
        """Note that a state was loaded."""
        self._numbers[_LOADED] += 1

    def is_used(self) -> bool:
        """Tell whether this worker has begun with the loaded state before, in an earlier process maybe."""
        return bool(self._numbers[_LOADED] == self._numbers[_USED + _slot()])

    def note_use(self) -> None:
        """Note that this worker has begun with the loaded state."""
        self._numbers[_USED + _slot()] = self._numbers[_LOADED]

    @property
    def skipped(self) -> int:
        """Samples skipped, by all processes."""
        return int(self._numbers[_SKIPPED:].sum())

    def count_skipped(self) -> None:
        """Count a sample as skipped."""
        self._numbers[_SKIPPED + _slot()] += 1


def _slot() -> int:
    return world.worker().index % _SLOTS
