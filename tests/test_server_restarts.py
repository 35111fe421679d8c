"""Room card: servers that are started again, and servers that are asked on a port that is not meant for it.

Knows the ways to read, and an origin that goes and comes back in the same place. Must not know why it went.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio.errors import AccessDeniedError, StoreError, StoreUnavailableError
from s3dlio.retry import RetryPolicy
from tests.contract_base import in_child
from tests.reading import KIB, OTHER, OTHER_PATH, PATH, URI, WAYS, impatient, random_bytes, requests_for, verbs_with
from tests.servers.fault_kinds import GarbageHead
from tests.servers.faults import FaultOrigin
from tests.servers.rules import error_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3dlio.testing import S3Server

BODY = random_bytes(200 * KIB + 7)
OBJECTS = {PATH: BODY, OTHER_PATH: OTHER}
#: A server that has never been reached is given up behind fewer tries.
TRIES_WHILE_AWAY = 5

every_way = pytest.mark.parametrize("way", WAYS)


class Restart:
    """An origin that goes, and is back when it was asked for in vain a number of times."""

    def __init__(self) -> None:
        self.origin = FaultOrigin(OBJECTS)
        self.endpoint_url = self.origin.endpoint_url
        self._port = self.origin.port
        self._is_away = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        self.origin.close()
        self._is_away = True

    def close(self) -> None:
        self.origin.close()

    def pause_s(self, attempt: int, _retry_after: str = "") -> float:
        """Stands for a policy's pause: time is not what this is about."""
        with self._lock:
            if self._is_away and attempt >= TRIES_WHILE_AWAY:
                self.origin = FaultOrigin(OBJECTS, port=self._port)
                self._is_away = False
        return 0.001


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Restart]:
    """The verbs read from an origin that can go and come back."""
    restart = Restart()
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda _, *args: restart.pause_s(*args))
    with contextlib.closing(restart), verbs_with(monkeypatch, impatient(restart.endpoint_url)):
        yield restart


@every_way
def test_a_server_that_is_started_again_is_waited_for(restart: Restart, way: str) -> None:
    assert WAYS[way](URI) == BODY
    restart.stop()
    assert WAYS[way](URI) == BODY
    assert requests_for(restart.origin), "the first origin has answered"


def test_a_write_waits_for_a_server_that_is_started_again(restart: Restart) -> None:
    s3dlio.put(URI, b"before")
    restart.stop()
    s3dlio.put(URI, b"after")
    assert restart.origin.objects[PATH] == b"after"


def test_a_forked_child_waits_for_a_server_that_its_parent_knows(restart: Restart) -> None:
    assert s3dlio.get(URI) == BODY
    restart.stop()

    def read() -> None:
        assert s3dlio.get(URI) == BODY
        restart.origin.close()

    in_child(read)


@every_way
def test_a_server_that_stays_away_is_given_up_behind_all_tries(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with FaultOrigin(OBJECTS) as origin, verbs_with(monkeypatch, impatient(origin.endpoint_url, max_attempts=6)):
        assert WAYS[way](URI) == BODY
        origin.close()
        with pytest.raises(StoreUnavailableError, match=r"cannot reach http://.*tried 6 times"):
            WAYS[way](URI)


def test_a_port_without_tls_is_told_soon(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = rclone.endpoint_url.replace("http://", "https://")
    with verbs_with(monkeypatch, impatient(address)):
        for way in WAYS:
            with pytest.raises(StoreError, match="does not speak TLS on this port: write http://"):
                WAYS[way](URI)
        with pytest.raises(StoreError, match="does not speak TLS"):
            s3dlio.put(URI, b"")


@every_way
def test_what_comes_with_a_refusal_of_unknown_length_is_told(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """So Go's servers answer on their ports for TLS."""
    origin.objects |= OBJECTS
    told = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    origin.plan(PATH, *[GarbageHead(told)] * 40)
    what = r"HTTP 400: Client sent an HTTP request to an HTTPS server\."
    with verbs_with(monkeypatch, impatient(origin.endpoint_url)), pytest.raises(StoreError, match=what):
        WAYS[way](URI)


@every_way
def test_a_code_that_comes_with_a_refusal_of_unknown_length_counts(
    origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It says whether to try again, and whose fault it is."""
    origin.objects |= OBJECTS
    head = b"HTTP/1.0 400 Bad Request\r\nContent-Type: application/xml\r\n\r\n"
    busy, expired = (head + error_xml(code, "So it is.") for code in ("RequestTimeout", "ExpiredToken"))
    with verbs_with(monkeypatch, impatient(origin.endpoint_url)):
        origin.plan(PATH, *[GarbageHead(busy)] * 2)
        assert WAYS[way](URI) == BODY
        origin.plan(PATH, *[GarbageHead(expired)] * 40)
        with pytest.raises(AccessDeniedError, match="ExpiredToken: So it is"):
            WAYS[way](URI)
