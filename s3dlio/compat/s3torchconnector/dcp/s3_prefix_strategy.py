"""Under which prefix each rank writes its files of a checkpoint, as s3torchconnector names them.

Floor 6. Decides names alone; must not know clients, nor who writes.

S3 spreads its work by the beginnings of keys, so ranks whose keys begin differently are served by different parts
of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.distributed as dist

from s3dlio.errors import OptionError


class S3PrefixStrategyBase(ABC):
    """What a rank's file names begin with: subclass it and say so in :meth:`generate_prefix`."""

    def __call__(self, rank: int) -> str:
        """Return what :meth:`generate_prefix` returns."""
        return self.generate_prefix(rank)

    @abstractmethod
    def generate_prefix(self, rank: int) -> str:
        """Return what the names of a rank's files begin with, below the checkpoint's address."""


class DefaultPrefixStrategy(S3PrefixStrategyBase):
    """All files beside each other: ``__0_0.distcp``, ``__1_0.distcp``, ..."""

    def generate_prefix(self, rank: int) -> str:
        """Return ``__RANK_``."""
        return f"__{rank}_"


def _in_folder(folder: str, epoch: int | None, rank: int) -> str:
    return f"{folder}/__{rank}_" if epoch is None else f"{folder}/epoch_{epoch}/__{rank}_"


class RoundRobinPrefixStrategy(S3PrefixStrategyBase):
    """Ranks take the given prefixes in turn.

    Args:
        user_prefixes: The prefixes, without a slash at the end.
        epoch_num: Adds a folder ``epoch_N``.

    Raises:
        OptionError: There are no prefixes.
    """

    def __init__(self, user_prefixes: list[str], epoch_num: int | None = None) -> None:
        if not user_prefixes:
            msg = "user_prefixes must not be empty"
            raise OptionError(msg)
        self.user_prefixes = user_prefixes
        self.epoch_num = epoch_num

    def generate_prefix(self, rank: int) -> str:
        """Return ``PREFIX/__RANK_``, with the epoch between them."""
        return _in_folder(self.user_prefixes[rank % len(self.user_prefixes)], self.epoch_num, rank)


class NumericPrefixStrategy(S3PrefixStrategyBase):
    """Ranks take numbers in turn, written backwards, so that they differ in the first digit already.

    Args:
        base: 2 to 16.
        epoch_num: Adds a folder ``epoch_N``.
        min_prefix_length: Digits at least.
        prefix_count: How many numbers there are; default: the ranks of torch.distributed when this is made.

    Raises:
        OptionError: A number is less than it may be.
    """

    def __init__(
        self, base: int, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        epoch: object = epoch_num
        if epoch is not None and not isinstance(epoch, int):
            msg = f"Epoch number must be None or an integer, not {epoch_num!r}"
            raise OptionError(msg)
        if min_prefix_length < 1:
            msg = f"Minimum prefix length must be positive, not {min_prefix_length}"
            raise OptionError(msg)
        count: object = prefix_count
        if count is not None and (not isinstance(count, int) or count < 1):
            msg = f"Prefix count must be a positive integer, not {prefix_count!r}"
            raise OptionError(msg)
        self.base = base
        self.epoch_num = epoch_num
        self.min_prefix_len = min_prefix_length
        self.prefix_count = prefix_count or (dist.get_world_size() if dist.is_initialized() else 1)
        digits = max(min_prefix_length, len(self._format_number(self.prefix_count - 1, 1)))
        self.prefix_map = [self._format_number(number, digits)[::-1] for number in range(self.prefix_count)]

    @abstractmethod
    def _format_number(self, number: int, length: int) -> str:
        """Return a number's digits, zeros before them."""

    def generate_prefix(self, rank: int) -> str:
        """Return ``DIGITS/__RANK_``, with the epoch between them."""
        return _in_folder(self.prefix_map[rank % self.prefix_count], self.epoch_num, rank)


class BinaryPrefixStrategy(NumericPrefixStrategy):
    """Binary numbers: ``0000000000/__0_``, ``1000000000/__1_``, ... See :class:`NumericPrefixStrategy`."""

    def __init__(
        self, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        super().__init__(2, epoch_num, min_prefix_length, prefix_count)

    def _format_number(self, number: int, length: int) -> str:
        return f"{number:0{length}b}"


class HexPrefixStrategy(NumericPrefixStrategy):
    """Hexadecimal numbers. See :class:`NumericPrefixStrategy`."""

    def __init__(
        self, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        super().__init__(16, epoch_num, min_prefix_length, prefix_count)

    def _format_number(self, number: int, length: int) -> str:
        return f"{number:0{length}x}"
