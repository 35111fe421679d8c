"""How file systems of fsspec copy many objects: what one call after the other asks for is gathered, and done at once.

Floor 6. Knows threads and how much may be under way; must not know paths, nor which way the bytes go.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK

from s3dlio.cancel import CancellationToken
from s3dlio.context import context_token, current_token
from s3dlio.crew import map_all
from s3dlio.remote import RemoteObject

Work = Callable[[int], None]
#: Pieces of one object under way, where it is copied alone.
_AHEAD = 4
#: Objects that are copied at once, a piece of each under way: 256 MiB for large ones.
_AT_ONCE = 16
_gathered: ContextVar[list[Work] | None] = ContextVar("s3dlio_fsspec_gathered", default=None)


def pour(source: RemoteObject, target: Any, callback: Any = DEFAULT_CALLBACK, ahead: int = _AHEAD) -> None:
    """Write all of an object to a file, reading some pieces ahead, telling fsspec's callback how far it is."""
    for piece in source.chunks(ahead=ahead):
        target.write(piece)
        callback.relative_update(len(piece))


@contextlib.contextmanager
def together(callback: Any = DEFAULT_CALLBACK) -> Iterator[None]:
    """Gather what :func:`do_or_gather` is given within the block, and do it at its end, many at once.

    With a callback that shows progress nothing is gathered: those are not made for threads.
    """
    if callback is not DEFAULT_CALLBACK:
        yield
        return
    work: list[Work] = []
    reset = _gathered.set(work)
    try:
        yield
    finally:
        _gathered.reset(reset)

    def run(one: Work, token: CancellationToken) -> None:
        context_token.set(token)  # what it calls is stopped when another one has failed
        one(1)

    map_all(lambda one, token: contextvars.Context().run(run, one, token), work, _AT_ONCE, current_token())


def do_or_gather(work: Work) -> None:
    """Do some work, or leave it to the end of the block of :func:`together` that this is called in.

    Args:
        work: Called with how many pieces of an object it should have under way at once.
    """
    gathered = _gathered.get()
    if gathered is None:
        work(_AHEAD)
    else:
        gathered.append(work)
