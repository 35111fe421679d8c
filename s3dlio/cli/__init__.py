"""The command line: ``s3dlio`` and ``s3-cli``.

Floor 7. Knows how the program begins and ends, with which exit code; must not know any command. It stands on
the doors, as any user's program does, and nothing stands on it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

_NOT_INSTALLED = "s3dlio: the command line needs click and rich; pip install 's3dlio[cli]'\n"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The words behind the program's name; ``None`` takes this process's own.

    Returns:
        The exit code: 0 all was done, 1 something failed, 2 the words cannot be understood, 130 and 143
        interrupted (SIGINT, SIGTERM), 141 nobody reads the output any more.
    """
    _stand_in_for_closed_streams()
    try:
        signal.signal(signal.SIGTERM, _terminate)
        app = importlib.import_module("s3dlio.cli.app")
        code: int = app.run(sys.argv[1:] if args is None else [*args])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.stderr.write(_NOT_INSTALLED)
        return 1
    except KeyboardInterrupt:  # before a command has begun
        sys.stderr.write("s3dlio: interrupted\n")
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's end ...
    gc.freeze()  # ... which would look through all modules for garbage: 13 ms
    return code


def _stand_in_for_closed_streams() -> None:
    """Have streams that the shell has closed (``>&-``) fail when they are used, as files do; errors go nowhere.

    It also keeps their numbers from the files and sockets that are opened later.
    """
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, flags), mode))  # noqa: SIM115 - for the program's life


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """End as after an error, so that what was begun is taken back."""
    raise SystemExit(143)
