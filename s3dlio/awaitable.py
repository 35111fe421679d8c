"""The verbs, awaitable: ``x_async`` is ``x`` in a thread of the library.

Floor 6. Knows asyncio; starts no event loop and needs none of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from s3dlio import api, buckets, removal, transfers
from s3dlio.cancel import CancellationToken
from s3dlio.context import context_token
from s3dlio.crew import CREW

P = ParamSpec("P")
T = TypeVar("T")


def awaitable(verb: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that runs ``verb`` in a thread of the library.

    Cancelling the task stops the work and waits for its end.
    """

    @wraps(verb)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        future: Future[T] = Future()
        token = CancellationToken(CREW.get().token)
        context = copy_context()
        context.run(context_token.set, token)

        def work() -> None:
            try:
                future.set_result(context.run(verb, *args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - a thread's boundary: the future raises it
                future.set_exception(error)

        CREW.get().start(work)
        result = asyncio.wrap_future(future)
        result.add_done_callback(_look)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            token.cancel()
            # Until the readers are gone: they may be writing into memory that the task would use anew.
            # A second cancel does not wait.
            await asyncio.wait([result])
            raise
        finally:
            token.detach()

    twin.__name__ = twin.__qualname__ = f"{verb.__name__}_async"
    twin.__doc__ = f"Do as :func:`{verb.__name__}` does; cancelling the task stops the work."
    return twin


def _look(result: asyncio.Future[Any]) -> None:
    """Take an exception that nobody may be left to take; asyncio would complain about it."""
    if not result.cancelled():
        result.exception()


get_async = awaitable(api.get)
get_range_async = awaitable(api.get_range)
get_into_async = awaitable(api.get_into)
get_many_async = awaitable(api.get_many)
get_many_stats_async = awaitable(api.get_many_stats)
stat_async = awaitable(api.stat)
stat_many_async = awaitable(api.stat_many)
exists_async = awaitable(api.exists)
put_async = awaitable(api.put)
put_bytes_async = awaitable(api.put_bytes)
put_many_async = awaitable(api.put_many)
delete_async = awaitable(removal.delete)
abort_uploads_async = awaitable(removal.abort_uploads)
list_async = awaitable(buckets.list_uris)
mkdir_async = awaitable(buckets.mkdir)
copy_async = awaitable(transfers.copy)
download_async = awaitable(transfers.download)
upload_async = awaitable(transfers.upload)
