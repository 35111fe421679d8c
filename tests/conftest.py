"""Room card: what every test gets: a clean environment, and on demand the servers.

Knows how long each server lives (the test run, or one test).  Must not know the library's inside.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from s3dlio.stores import close_stores
from s3dlio.testing import S3Server
from tests.servers.azurite import AzuriteServer
from tests.servers.faults import FaultOrigin
from tests.servers.gcs import GcsServer
from tests.servers.moto import MotoServer
from tests.servers.tls import Ca, make_ca

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

for name in (
    "contract_checkpoints",
    "contract",
    "contract_base",
    "contract_reads",
    "contract_writes",
    "contract_streams",
    "contract_transfers",
    "contract_lists",
):
    pytest.register_assert_rewrite(f"tests.{name}")

# Triton's compiler and JAX's crash when they meet in one process; torch asks for the former, and no test needs it.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

# Behind a shell's "&" Ctrl-C is ignored, by all programs that are started there, too: also by those that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Time is never what a test is about, and machines can be busy.
settings.register_profile("s3dlio", deadline=None)
settings.load_profile("s3dlio")

_CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "S3DLIO_")
_CLOUD_NAMES = ("STORAGE_EMULATOR_HOST",)


@pytest.fixture(autouse=True)
def closed_stores() -> Iterator[None]:
    """Closes the connections that a test leaves: the settings of each are its own, and so are its stores."""
    yield
    close_stores()


@pytest.fixture(autouse=True)
def same_log() -> Iterator[None]:
    """Has the library's log as it was behind each test: what one has set up is not the next one's."""
    logger = logging.getLogger("s3dlio")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(autouse=True)
def clean_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Takes away whatever in the environment could lead a test to a real cloud or a proxy."""
    for name in list(os.environ):
        upper = name.upper()
        if upper.startswith(_CLOUD_PREFIXES) or upper in _CLOUD_NAMES or upper.endswith("_PROXY"):
            monkeypatch.delenv(name)
    # Without credentials, clients would ask the machine's metadata service, or read the user's files.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """An S3 server that checks signatures."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """An S3 server that knows conditional requests."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    """An Azure blob server."""
    with AzuriteServer() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_program() -> Iterator[GcsServer]:
    """The process behind `gcs`."""
    with GcsServer() as server:
        yield server


@pytest.fixture
def gcs(gcs_program: GcsServer) -> GcsServer:
    """A fake Google Cloud Storage, its settings and its log as after the start."""
    gcs_program.reset()
    return gcs_program


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    """A certificate authority and a certificate for servers on this machine."""
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin that misbehaves on demand."""
    with FaultOrigin() as server:
        yield server


@pytest.fixture
def tls_origin(ca: Ca) -> Iterator[FaultOrigin]:
    """The same, speaking TLS with a certificate of `ca`."""
    with FaultOrigin(ssl_context=ca.server_context()) as server:
        yield server
