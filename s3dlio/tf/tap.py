"""Iterators that TensorFlow draws from in threads of its own, and how they end with the interpreter.

Floor 6. Knows threads and the end of the process; must not know what is drawn. A thread of TensorFlow's that
waits for the interpreter while that ends is never heard of again, and TensorFlow waits for it for ever: so at
exit every tap is shut, and those drawing are waited for.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.errors import CancelledError

#: At exit, reads are broken off and end at once; a transform that does not is not waited for longer.
_EXIT_WAIT_S = 2.0
#: A thread that was about to draw, or has just found the end, is gone when none has come for so long.
_GRACE_S = 0.03


class _Exit:
    """Whether the interpreter ends, and when a thread of TensorFlow's was last seen."""

    has_begun = False
    last_seen = 0.0

    def see(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Note that one is here, which may be when the interpreter has no modules any more."""
        self.last_seen = clock()


_EXIT = _Exit()


class Tap(Iterator[Any]):
    """Draws from a source that a token stops.

    Args:
        open_source: Begins the source; is given the token.
    """

    def __init__(self, open_source: Callable[[CancellationToken], Iterator[Any]]) -> None:
        self._token = CancellationToken(CREW.get().token)
        self._pid = os.getpid()
        self._source = open_source(self._token)
        self._drawing = threading.Lock()
        self._see = _EXIT.see
        self._is_shut = _EXIT.has_begun  # whoever repeats its dataset comes again
        _OPEN.add(self)

    def __next__(self) -> Any:
        """Return the next element."""
        with self._drawing:
            self._see()
            if self._is_shut:
                raise StopIteration
            try:
                return next(self._source)
            except CancelledError:
                if self._is_shut:  # while this drew
                    raise StopIteration from None
                raise
            finally:
                self._see()

    def shut(self) -> None:
        """Have it end, and the draw that is under way too."""
        self._is_shut = True
        self._token.cancel()

    @property
    def is_mine(self) -> bool:
        """Whether it was opened in this process: a forked child has none of the threads."""
        return self._pid == os.getpid()

    def wait(self, timeout_s: float) -> None:
        """Wait until nobody draws."""
        if self._drawing.acquire(timeout=max(0.0, timeout_s)):
            self._drawing.release()

    def __del__(self) -> None:
        """Let go of the parent token: TensorFlow has dropped its iterator."""
        self._token.cancel()
        self._token.detach()
        self._see()


_OPEN: weakref.WeakSet[Tap] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    _EXIT.has_begun = True
    taps = [tap for tap in _OPEN if tap.is_mine]
    if not taps:
        return
    for tap in taps:
        tap.shut()
    deadline = time.monotonic() + _EXIT_WAIT_S
    for tap in taps:
        tap.wait(deadline - time.monotonic())
    del tap
    taps.clear()  # so that TensorFlow's dropping them is seen
    begun = time.monotonic()
    while (now := time.monotonic()) < min(deadline, max(begun, _EXIT.last_seen) + _GRACE_S):
        time.sleep(min(_GRACE_S, deadline - now))
