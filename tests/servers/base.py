"""Room card: what all test servers that run as a program of their own have in common.

Knows how to give such a server a temporary folder and a life cycle.  Must not know any single server.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from s3dlio._server_process import ServerProcess

if TYPE_CHECKING:
    import re
    from typing import Self


class LocalServer(ABC):
    """A server program on 127.0.0.1, on a port of the kernel's choice, for the length of a with block."""

    #: What the server logs once it listens; its first group is the port.
    ready: ClassVar[re.Pattern[str]]

    def __init__(self) -> None:
        self.port = 0
        self._folder: Path | None = None
        self._process: ServerProcess | None = None

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @property
    def program_env(self) -> dict[str, str] | None:
        """The program's environment, None for a copy of ours."""
        return None

    def start(self) -> Self:
        """Starts the server and waits until it listens."""
        folder = Path(tempfile.mkdtemp(prefix="s3dlio-test-server-"))
        process = ServerProcess(self.command, self.ready, folder / "server.log", env=self.program_env)
        try:
            self.port = int(process.start()[1])
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._folder, self._process = folder, process
        return self

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self._process = self._folder = None

    @property
    def log(self) -> str:
        """The last lines the server wrote."""
        return "" if self._process is None else self._process.log_tail()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
