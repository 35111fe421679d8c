"""What a client calls itself, by s3torchconnector's names.

Floor 6. Knows the versions of what runs; must not know clients.
"""

from __future__ import annotations

import platform
from importlib import metadata

from s3dlio.errors import OptionError
from s3dlio.version import VERSION


class UserAgent:
    """A client's name and comments on it. Clients keep it, and send it to nobody.

    Args:
        comments: Of whoever makes the client.

    Raises:
        OptionError: ``comments`` is no list.
    """

    def __init__(self, comments: list[str] | None = None) -> None:
        given: object = comments
        if given is not None and not isinstance(given, list):
            msg = "Argument comments must be a List[str]"
            raise OptionError(msg)
        self._comments = [comment for comment in comments or [] if comment]

    @staticmethod
    def get_default_prefix() -> str:
        """Return the name without comments."""
        system = platform.system().lower()
        return " ".join(
            [
                f"s3dlio/{VERSION}",
                "ua/2.1",
                f"os/{'macos' if system == 'darwin' else system}#{platform.release()}",
                f"lang/python#{platform.python_version()}",
                f"md/arch#{platform.machine().lower()}",
                f"md/pytorch#{metadata.version('torch')}",
            ]
        )

    @property
    def prefix(self) -> str:
        """The name with its comments."""
        comments = "; ".join(self._comments)
        return self.get_default_prefix() + (f" ({comments})" if comments else "")
