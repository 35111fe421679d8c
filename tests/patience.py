"""Room card: how long tests wait for what must happen: long enough for a machine that is busy with other things.

Knows the clock.  Must not know what is waited for.
"""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which a program that a test has started hangs.
PROGRAM_S = 300
#: Seconds after which something that is to happen at once does not happen.
SOON_S = 45


def is_readable(file: Any, seconds: float) -> bool:
    """Waits for something to read; takes any descriptor, where `select.select` takes those below 1,024."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def eventually(holds: Callable[[], object]) -> None:
    """Waits until something holds; fails if that takes very long."""
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.005)
