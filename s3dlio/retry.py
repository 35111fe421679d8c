"""What deserves another try, and when.

Floor 1. Knows HTTP status codes and arithmetic; must not know sockets, clocks or stores.
"""

from __future__ import annotations

import dataclasses
import random

#: Status codes behind which the same request may succeed: the server was busy, slow or restarting.
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is tried.

    Attributes:
        max_attempts: Tries in all, at least 1.
        base_s: Mean pause before the second try, in seconds; doubles from try to try.
        max_s: Longest pause, in seconds; bounds a server's ``Retry-After`` too.
    """

    max_attempts: int = 8
    base_s: float = 0.1
    max_s: float = 5.0

    def pause_s(self, attempt: int, retry_after: str = "") -> float:
        """Return the seconds to wait after the failed try number ``attempt`` (from 1).

        Half of the pause is random, so that many clients turned away at once do not come back at
        once. A server's ``Retry-After`` in seconds is a lower bound.
        """
        pause = min(self.max_s, self.base_s * 2.0 ** min(attempt - 1, 30))
        pause *= 0.5 + random.random()  # noqa: S311 - spreads load, guards nothing
        asked = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        return min(max(pause, asked), self.max_s)
