"""Room card: moto's S3 in a process of its own.

Knows how to start moto on a free port.  Must not know the library.  moto answers much of the S3 API, but
checks no signatures and closes every connection after its answer; the rclone server is the other way round.
"""

from __future__ import annotations

import re
import sys
from typing import ClassVar

from tests.servers.base import LocalServer

_PROGRAM = """
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(f"moto listens on {server.server_port}", flush=True)
server.serve_forever()
"""


class MotoServer(LocalServer):
    """An S3 server that forgets everything when it stops."""

    ready: ClassVar[re.Pattern[str]] = re.compile(r"moto listens on (\d+)")

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        # -I: the files beside this one must not be mistaken for the package `moto`.
        return [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM]

    @property
    def endpoint_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which S3 clients find this server."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }
