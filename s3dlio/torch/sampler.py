"""Samplers that tell the dataset what comes next.

Floor 6. A DataLoader hands a map dataset one batch of numbers at a time; with torch's own shuffling
samplers each batch costs a round trip that nothing can hide.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from s3dlio.shards import epoch_order
from s3dlio.torch.dataset import S3MapDataset


class ReadAheadSampler(Sampler[int]):
    """Yields the samples of one process, shuffled or not, and has the dataset read them ahead.

    Works with ``DataLoader(dataset, sampler=ReadAheadSampler(dataset), num_workers=0)``; with workers the
    order is the same, and the workers' own prefetching is what reads ahead.

    Args:
        dataset: Whose samples.
        shuffle: Permute them anew in each epoch.
        seed: The order depends on the seed and the epoch only.
    """

    def __init__(self, dataset: S3MapDataset, *, shuffle: bool = True, seed: int = 0) -> None:
        self._dataset = dataset
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; without it epochs count up by themselves."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield one epoch's order."""
        order = epoch_order(len(self), shuffle=self._shuffle, seed=self._seed, epoch=self._epoch)
        self._epoch += 1
        self._dataset.announce(order)
        return iter([int(number) for number in order])

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)
