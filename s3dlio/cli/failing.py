"""How a command ends when it fails: one line for people, one exit code for programs.

Floor 7. Knows the kinds of errors and what each is to a user; must not know any command.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from s3dlio.cli import show
from s3dlio.errors import OptionError, S3dlioError, TransferError, UriError

FAILED, MISUSED, INTERRUPTED, UNHEARD = 1, 2, 130, 141


class Ended(Exception):  # noqa: N818 - a signal to the program's beginning, which has been told to the user
    """A command is over, with an exit code.

    Args:
        code: The exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class Misused(S3dlioError):  # noqa: N818 - never seen outside: it becomes a line and the exit code 2
    """The command was called in a way that makes no sense."""


@contextlib.contextmanager
def told(verbose: int) -> Iterator[None]:
    """Tell what goes wrong within the block in one line on standard error.

    Args:
        verbose: 1 lists every one of several failures, 2 adds where in the program it arose.

    Raises:
        Ended: Whatever went wrong; it has been told.
    """
    try:
        yield
        sys.stdout.flush()
    except (Ended, SystemExit):
        raise
    except BaseException as error:
        code = tell(error, verbose)
        raise Ended(code) from error


def tell(error: BaseException, verbose: int = 0) -> int:
    """Tell of what has ended a command; return the exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _hush()
    if isinstance(error, BrokenPipeError) and not isinstance(error, S3dlioError):
        return UNHEARD
    if isinstance(error, KeyboardInterrupt):
        show.note("interrupted")
        return INTERRUPTED
    if verbose > 1:
        traceback.print_exception(error)
    show.note(message(error))
    if isinstance(error, TransferError):
        for failure in error.failures if verbose else ():
            show.note(f"failed: {failure.source}: {failure.error}")
        if not verbose and len(error.failures) > 1:
            show.note("-v lists what failed")
    return MISUSED if isinstance(error, (Misused, OptionError, UriError)) else FAILED


def message(error: BaseException) -> str:
    """Return what an error says, on one line."""
    if isinstance(error, S3dlioError):
        text = str(error) or type(error).__name__
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = "there is not enough memory; lower --jobs"
    else:
        text = f"internal error: {type(error).__name__}: {error}; please report it with the output of -vv"
    return " ".join(text.split())


def _hush() -> None:
    """Let what is still to be written to a closed pipe or a full disk go nowhere, also at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # no real file, as under a test runner: nothing to hush
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
