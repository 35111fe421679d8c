"""Room card: starts and steers the fake Google Cloud Storage, which runs as a process of its own.

Knows the controls of `tests.servers.gcs_app`.  Must not know the library.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers.base import LocalServer

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Logged:
    """A request the server got: ``target`` as sent, header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class GcsServer(LocalServer):
    """A fake Google Cloud Storage that forgets everything when it stops.

    It lets everybody in until `require_auth` is called.
    """

    ready: ClassVar[re.Pattern[str]] = re.compile(r"listens on (\d+)")

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        return [sys.executable, "-P", "-m", "tests.servers.gcs_app"]

    @property
    def program_env(self) -> dict[str, str]:
        """Our environment, with the project's folder as a place for modules."""
        return {**os.environ, "PYTHONPATH": str(_ROOT)}

    @property
    def endpoint_url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variable by which clients find an emulator of Google Cloud Storage."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint_url}

    @property
    def requests(self) -> list[Logged]:
        """The requests since the start or the last `clear_requests`."""
        return [Logged(**entry) for entry in self._control("GET", "log")]

    @property
    def token_calls(self) -> int:
        """How many of `requests` asked for a token."""
        return sum(request.target == "/token" for request in self.requests)

    def reset(self) -> None:
        """Brings back the settings and the empty log of the start; buckets and objects stay."""
        settings = {"require_auth": False, "forbid": False, "page_size": 1000, "token_lifetime_s": 3600}
        self._control("POST", "settings", settings)
        self.clear_requests()

    def clear_requests(self) -> None:
        """Empties the log."""
        self._control("DELETE", "log")

    def require_auth(self, *, required: bool = True, forbid: bool = False) -> None:
        """Asks for a valid token from now on (else 401, 403); with ``forbid`` a valid one gets 403, too."""
        self._control("POST", "settings", {"require_auth": required, "forbid": forbid})

    def set_page_size(self, page_size: int) -> None:
        """Sets how many entries a page of a listing has at most."""
        self._control("POST", "settings", {"page_size": page_size})

    def set_token_lifetime(self, lifetime_s: int) -> None:
        """Sets how long the tokens given from now on are valid."""
        self._control("POST", "settings", {"token_lifetime_s": lifetime_s})

    def issue_token(self) -> str:
        """Returns a valid token."""
        return str(self._control("POST", "token")["token"])

    def revoke_tokens(self) -> None:
        """Makes every token given so far invalid."""
        self._control("POST", "revoke")

    def service_account_json(self, path: Path, *, disable_oauth: bool = False) -> Path:
        """Writes a service account's credentials file, with a new key that the server knows from now on.

        Args:
            path: The file to write.
            disable_oauth: Puts ``disable_oauth`` into the file, by which some clients send no token at all.
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._control("POST", "settings", {"public_key": public.decode()})
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account",
            "project_id": "test-project",
            "private_key_id": "test-key",
            "private_key": private.decode(),
            "client_email": "tester@test-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.endpoint_url}/token",
            "gcs_base_url": self.endpoint_url,
            "disable_oauth": disable_oauth,
        }
        path.write_text(json.dumps(content))
        return path

    def _control(self, method: str, what: str, content: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, f"/_test/{what}", json.dumps(content or {}))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
