"""One state out of those that a StatefulDataLoader keeps of its workers.

Floor 6. Looks for our states inside of what torchdata saves; must not depend on how torchdata arranges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from s3dlio import resume
from s3dlio.errors import OptionError
from s3dlio.resume import State


def merge_states(state: Mapping[str, Any] | list[Mapping[str, Any]]) -> State:
    """Return the state of the dataset out of the states of a loader's workers.

    What it returns can be loaded (``S3IterableDataset.load_state_dict``) with another number of workers and
    of ranks, while ``StatefulDataLoader`` itself insists on as many workers as it had.

    Args:
        state: What ``StatefulDataLoader.state_dict()`` returned, or the states of all workers of one rank.

    Raises:
        OptionError: There is no state of ours in it, or not one of every worker, or the dataset
            was not told the loader's ``batch_size``.
    """
    found = list(_ours(state))
    if not found:
        msg = "there is no state of an S3IterableDataset in this"
        raise OptionError(msg, operation="merge_states")
    return resume.merge_states(found)


def _ours(thing: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(thing, Mapping):
        if {"version", "epoch", "consumed"} <= set(thing):
            yield thing
        else:
            for part in thing.values():
                yield from _ours(part)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _ours(part)
