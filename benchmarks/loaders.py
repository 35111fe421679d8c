"""One DataLoader for every contender that has a dataset: same batches, same collation, same clock.

For: turning a dataset into a timed action. Imports torch, so only contenders with torch import it.
Must not know: whose dataset it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from benchmarks.worker import Action, Haul, Job


def loading(job: Job, dataset: Any) -> Action:
    """Draw every batch of so many epochs."""
    params = job.params
    # Collation copies in torch's threads, which spin while they wait for one another: two can be quicker than
    # one on a quiet machine, and several times slower on a busy one. Loader processes always have one.
    torch.set_num_threads(job.setting.get("torch_threads", 1))
    options: dict[str, Any] = {"batch_size": params["batch_size"], "num_workers": params["num_workers"]}
    if params["num_workers"]:
        options |= {"multiprocessing_context": "fork", "persistent_workers": True}
    if params.get("shuffle"):
        options["shuffle"] = True

    if "count" in params and not isinstance(dataset, IterableDataset):
        dataset = Subset(dataset, job.indices())

    def action() -> Haul:
        # The loader is made within the clock: listing and forking are part of what one waits for.
        return _draw(job, DataLoader(dataset, **options))

    return action


def _draw(job: Job, loader: Any) -> Haul:
    # A proving pass looks at one epoch: a second one would bring every object again.
    epochs = 1 if job.proof else job.params.get("epochs", 1)
    count = size = 0
    for _ in range(epochs):
        for batch in loader:
            count, size = count + len(batch), size + batch.nbytes
            if job.proof:
                _prove(job, batch)
    return Haul(count, size)


def _prove(job: Job, batch: Any) -> None:
    for row in batch.numpy():
        assert job.proof is not None
        job.proof.sample(row)
