"""Logging for programs that have none of their own: :func:`init_logging`.

Floor 1. Knows the standard library's logging; must not know who logs what. The library logs to ``s3dlio``, and
leaves it to the program where that goes: this function is for programs that do not care.
"""

from __future__ import annotations

import logging
import sys

from s3dlio.errors import OptionError, suggest

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}


class _ToStdout(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Writes to what standard output is at the time."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def init_logging(level: str | int = "info") -> None:
    """Print what the library logs on standard output, as the original does.

    It sets up the logger ``s3dlio`` alone; a second call changes the level. Programs that use :mod:`logging`
    themselves need not call this.

    Args:
        level: ``trace`` (the same as ``debug``), ``debug``, ``info``, ``warn``, ``error`` or ``off``; or a number of
            :mod:`logging`.

    Raises:
        OptionError: There is no such level.
    """
    chosen = level if isinstance(level, int) else _LEVELS.get(str(level).lower())
    if chosen is None:
        msg = f"level must be one of {', '.join(_LEVELS)}, not {level!r}{suggest(str(level), _LEVELS)}"
        raise OptionError(msg)
    logger = logging.getLogger("s3dlio")
    logger.setLevel(chosen)
    if not any(isinstance(handler, _ToStdout) for handler in logger.handlers):
        logger.addHandler(_ToStdout())
