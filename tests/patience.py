"""Room card: how long tests wait for what must happen: long enough for a machine that is busy with other things.

Knows the clock.  Must not know what is waited for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which a program that a test has started hangs.
PROGRAM_S = 300
#: Seconds after which something that is to happen at once does not happen.
SOON_S = 45


def eventually(holds: Callable[[], object]) -> None:
    """Waits until something holds; fails if that takes very long."""
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.005)
