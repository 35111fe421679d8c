"""``python -m s3dlio``: the command line, without its console script.

Floor 8. Knows where the command line begins; must not know any command.
"""

from __future__ import annotations

import sys

from s3dlio.cli import main

if __name__ == "__main__":
    sys.exit(main())
