"""What the library's own files have in common.

Floor 0. Knows ``io`` alone.
"""

from __future__ import annotations

import io


class BinaryFile(io.BufferedIOBase):
    """A file that may fail to be made.

    Python closes every file that is let go, even one whose constructor has raised, and from 3.13 on it reports what that
    fails with. One that has no attributes yet holds nothing, and is not closed.
    """

    def __del__(self) -> None:
        """Close the file, as Python's own do, if it was made."""
        if vars(self):
            super().__del__()
