"""Room card: finds a folder on a real disk, since /tmp may be memory that does not know O_DIRECT.

Knows the file systems of this machine.  Must not know the library.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALIGNMENT = 4096


@contextlib.contextmanager
def real_disk(first_choice: Path) -> Iterator[Path]:
    """Gives a folder that takes O_DIRECT: ``first_choice``, or else a temporary one beside the tests."""
    if takes_direct(first_choice):
        yield first_choice
        return
    with tempfile.TemporaryDirectory(prefix=".direct-", dir=Path(__file__).parent) as folder:
        assert takes_direct(Path(folder)), "the project's own disk does not take O_DIRECT"
        yield Path(folder)


def takes_direct(folder: Path) -> bool:
    """Returns whether files in a folder can be opened past the page cache, and do not live in it."""
    if not hasattr(os, "O_DIRECT"):
        return True  # macOS has a switch on the open file instead
    probe = folder / "direct-probe"
    probe.write_bytes(bytes(_ALIGNMENT))
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    finally:
        probe.unlink()
    return True
