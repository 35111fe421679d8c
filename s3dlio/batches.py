"""Work cut into batches, done by somebody's executor: processes, a Dask cluster, threads.

Floor 3. Knows :class:`concurrent.futures.Executor` and that workers get lost; must not know what the work is.
Whoever uses it sees to it that a batch may be done twice: it is a function of a module, plain values, and an
effect that is the same the second time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Generic, TypeVar

from s3dlio.cancel import CancellationToken
from s3dlio.errors import OptionError, S3dlioError

B = TypeVar("B")
R = TypeVar("R")

#: Batches handed to an executor at once: enough for a large cluster, few enough to be taken back.
_SUBMITTED_AT_ONCE = 512
#: Between two looks at whether the work was cancelled.
_LOOK_EVERY_S = 0.2


def cut(items: Iterable[B], weight: Callable[[B], int], *, most_items: int, most_weight: int) -> Iterator[list[B]]:
    """Cut items into batches, in their order.

    Args:
        items: What is to be done.
        weight: What one of them weighs, for example its bytes.
        most_items: Of one batch.
        most_weight: Of one batch; what alone is heavier makes a batch of its own.
    """
    batch: list[B] = []
    total = 0
    for item in items:
        heavy = weight(item)
        if batch and (len(batch) == most_items or total + heavy > most_weight):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += heavy
    if batch:
        yield batch


def run_batches(
    executor: Executor, work: Callable[[B], R], batches: Sequence[B], token: CancellationToken
) -> Iterator[tuple[B, R | BaseException]]:
    """Have an executor do batches, and yield what came of each, as it comes.

    A batch whose worker is lost, or that fails with anything but an error of this library, is done once more,
    elsewhere: by another worker, or, where the executor takes no more work (a process pool that has lost a process
    is broken for good), in a process that is started for this one batch. What fails again is yielded as its error.

    Args:
        executor: Whose workers have this library, and reach the same stores.
        work: A function at the top of a module.
        batches: Its arguments: values that can be pickled.
        token: Stops handing over; what runs already cannot be stopped.

    Raises:
        CancelledError: The token was cancelled.
        OptionError: This is no executor.
    """
    if not callable(getattr(executor, "submit", None)):
        msg = f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
        raise OptionError(msg)
    run = _Run(executor, work, token)
    try:
        yield from run.results(iter(batches))
    finally:
        run.take_back()


class _Run(Generic[B, R]):
    def __init__(self, executor: Executor, work: Callable[[B], R], token: CancellationToken) -> None:
        self._executor = executor
        self._work = work
        self._token = token
        self._pending: dict[Future[R], tuple[B, bool]] = {}
        self._is_broken = False

    def results(self, batches: Iterator[B]) -> Iterator[tuple[B, R | BaseException]]:
        homeless: list[B] = []
        while True:
            self._fill(batches, homeless)
            while homeless:
                self._token.check()
                batch = homeless.pop()
                yield batch, _in_new_process(self._work, batch)
            if not self._pending:
                homeless.extend(itertools.islice(batches, 1))  # there are some if the executor is broken
                if not homeless:
                    return
                continue
            done, _ = wait(self._pending, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            self._token.check()
            for future in done:
                yield from self._settle(future, homeless)

    def _fill(self, batches: Iterator[B], homeless: list[B]) -> None:
        while len(self._pending) < _SUBMITTED_AT_ONCE and not self._is_broken:
            for batch in itertools.islice(batches, 1):
                self._submit(batch, homeless, again=False)
                break
            else:
                return

    def _submit(self, batch: B, homeless: list[B], *, again: bool) -> None:
        try:
            future = self._executor.submit(self._work, batch)
        except RuntimeError:  # broken, or shut down
            self._is_broken = True
            homeless.append(batch)
        else:
            self._pending[future] = batch, again

    def _settle(self, future: Future[R], homeless: list[B]) -> Iterator[tuple[B, R | BaseException]]:
        batch, again = self._pending.pop(future)
        try:
            result = future.result()
        except S3dlioError as error:  # the work has said what is wrong with it
            yield batch, error
        except Exception as error:  # noqa: BLE001 - whatever an executor makes of a lost worker
            self._is_broken = self._is_broken or isinstance(error, BrokenExecutor)
            if again:
                yield batch, error
            else:
                self._submit(batch, homeless, again=True)
        else:
            yield batch, result

    def take_back(self) -> None:
        """Cancel what has not begun."""
        for future in self._pending:
            future.cancel()


def _in_new_process(work: Callable[[B], R], batch: B) -> R | BaseException:
    from s3dlio.bare_processes import BareProcesses  # noqa: PLC0415 - only when workers were lost

    with BareProcesses(1) as pool:
        try:
            return pool.submit(work, batch).result()
        except Exception as error:  # noqa: BLE001 - told as this batch's result
            return error
