"""Room card: are reads over TLS as right as others, and are strangers refused at once?

The origin speaks TLS with a certificate of an authority made for the run; rclone does so as a second opinion.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

import s3dlio
from s3dlio.errors import CancelledError, OptionError, StoreError, StoreTimeoutError, StoreUnavailableError
from s3dlio.fetch import Fetcher, Read
from s3dlio.stores import close_stores, open_store
from s3dlio.testing import S3Server
from s3dlio.uri import parse
from s3dlio.wire.channel import Timeouts
from s3dlio.wire.connection import Connection
from s3dlio.wire.secured import tls_context
from tests.patience import SOON_S
from tests.reading import (
    CHUNK,
    KIB,
    OTHER,
    OTHER_PATH,
    OTHER_URI,
    PATH,
    SPARE,
    URI,
    WAYS,
    impatient,
    random_bytes,
    requests_for,
    verbs_with,
)
from tests.servers.fault_kinds import (
    CloseIdle,
    Fault,
    ResetInBody,
    ResetInHead,
    ShortBody,
    Stall,
    StallHead,
    Trickle,
)
from tests.servers.faults import FaultOrigin
from tests.servers.tls import Ca, make_ca

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = random_bytes(300 * KIB + 7)

every_way = pytest.mark.parametrize("way", WAYS)
every_path = pytest.mark.parametrize("way", ["get", "get_many", "sweep"])


@pytest.fixture
def open_with(tls_origin: FaultOrigin, ca: Ca, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that makes the verbs read over TLS, with options."""
    tls_origin.objects |= {PATH: BODY, OTHER_PATH: OTHER}
    with contextlib.ExitStack() as stack:

        def open_with(**changes: object) -> None:
            given = {"ca_bundle": str(ca.ca_path)} | changes
            stack.enter_context(verbs_with(monkeypatch, impatient(tls_origin.endpoint_url, **given)))

        yield open_with


# -- whom to trust ------------------------------------------------------------------------------------


@every_way
def test_reads_are_right(tls_origin: FaultOrigin, open_with: Callable[..., None], way: str) -> None:
    open_with()
    assert WAYS[way](URI) == BODY
    assert WAYS[way](URI) == BODY
    assert tls_origin.connections <= 4  # kept from read to read


@every_way
def test_split_reads_are_right(tls_origin: FaultOrigin, open_with: Callable[..., None], way: str) -> None:
    open_with(chunk_size=CHUNK, min_split_size=CHUNK)
    assert WAYS[way](URI) == BODY
    assert len(requests_for(tls_origin)) == 5 + (way == "sweep")  # which such a large object is not for


def test_the_environment_names_the_authority(tls_origin: FaultOrigin, ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    tls_origin.objects |= {PATH: BODY, OTHER_PATH: OTHER}
    settings = {
        "AWS_ENDPOINT_URL": tls_origin.endpoint_url,
        "AWS_CA_BUNDLE": str(ca.ca_path),
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    try:
        for way in WAYS:
            assert WAYS[way](URI) == BODY
    finally:
        close_stores()


@every_way
def test_an_unknown_authority_is_refused_at_once(
    tls_origin: FaultOrigin, open_with: Callable[..., None], way: str
) -> None:
    open_with(ca_bundle=None, retry_base_s=200.0, retry_max_s=200.0)
    started_s = time.monotonic()
    with pytest.raises(StoreError, match=r"certificate cannot be verified.*set ca_bundle") as caught:
        WAYS[way](URI)
    assert time.monotonic() - started_s < SOON_S
    assert type(caught.value) is StoreError
    assert caught.value.uri in (URI, OTHER_URI)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    # Of the two readers of a batch.
    assert tls_origin.connections <= 1 + 2 * (1 + SPARE[way])
    assert not tls_origin.requests


@every_path
def test_a_certificate_for_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    elsewhere = make_ca(tmp_path, "elsewhere.example")
    with FaultOrigin(ssl_context=elsewhere.server_context()) as origin:
        options = impatient(origin.endpoint_url, ca_bundle=str(elsewhere.ca_path))
        with verbs_with(monkeypatch, options), pytest.raises(StoreError, match="certificate cannot be verified"):
            WAYS[way](URI)
        assert not origin.requests


def test_an_authority_that_cannot_be_read_is_an_option_error(open_with: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing of the kind")
    for name in ("no.pem", "missing.pem"):
        open_with(ca_bundle=str(tmp_path / name))
        for way in WAYS:
            with pytest.raises(OptionError, match=name):
                WAYS[way](URI)


def test_old_protocols_are_refused(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ca.server_context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with FaultOrigin(ssl_context=context) as origin:
        options = impatient(origin.endpoint_url, ca_bundle=str(ca.ca_path), max_attempts=2)
        with verbs_with(monkeypatch, options), pytest.raises(StoreUnavailableError):
            s3dlio.get(URI)
        assert not origin.requests


def test_a_server_that_speaks_no_tls_is_an_error(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = origin.endpoint_url.replace("http:", "https:")
    options = impatient(url, max_attempts=2, connect_timeout_s=0.1)
    with verbs_with(monkeypatch, options), pytest.raises(StoreTimeoutError):  # it waits for a request that it knows
        s3dlio.get(URI)


# -- faults -------------------------------------------------------------------------------------------

PASSING: dict[str, Fault] = {
    "reset-at-once": ResetInHead(),
    "reset-in-head": ResetInHead(40),
    "reset-in-body": ResetInBody(200_000),
    "short-body": ShortBody(5),
    "stalled-body": Stall(200_000, 60.0),
    "stalled-head": StallHead(60.0),
}


@every_path
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_costs_a_try_and_no_more(
    tls_origin: FaultOrigin, open_with: Callable[..., None], way: str, fault: Fault
) -> None:
    open_with(read_timeout_s=0.1)
    tls_origin.plan(PATH, *[fault] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    assert len(requests_for(tls_origin)) == 2 + SPARE[way]


@every_path
def test_a_resumed_read_asks_only_for_what_is_missing(
    tls_origin: FaultOrigin, open_with: Callable[..., None], way: str
) -> None:
    open_with()
    tls_origin.plan(PATH, *[ResetInBody(200_000)] * (1 + SPARE[way]))
    assert WAYS[way](URI) == BODY
    last = requests_for(tls_origin)[-1]
    assert last.headers["range"] == f"bytes=200000-{len(BODY) - 1}"
    assert last.headers["if-match"] == tls_origin.stored(PATH).etag


@every_path
def test_a_stall_for_good_is_a_timeout(tls_origin: FaultOrigin, open_with: Callable[..., None], way: str) -> None:
    open_with(read_timeout_s=0.1, max_attempts=2)
    tls_origin.plan(PATH, *[Stall(100, 60.0)] * 10)
    with pytest.raises(StoreTimeoutError) as caught:
        WAYS[way](URI)
    assert (caught.value.uri, caught.value.operation) == (URI, "get")
    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("way", ["get", "get_many"])
def test_a_trickle_for_good_is_a_timeout(tls_origin: FaultOrigin, open_with: Callable[..., None], way: str) -> None:
    open_with(range_timeout_s=0.15, max_attempts=2)
    tls_origin.plan(PATH, *[Trickle(5000)] * 10)
    with pytest.raises(StoreTimeoutError):
        WAYS[way](URI)


@every_path
@pytest.mark.parametrize("seen", [True, False])
def test_connections_that_were_closed_while_idle_are_no_failure(
    tls_origin: FaultOrigin, open_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: str, *, seen: bool
) -> None:
    open_with(max_attempts=1)
    tls_origin.plan_all(*[CloseIdle(0.1)] * 6)
    readers = [threading.Thread(target=s3dlio.get, args=(URI,)) for _ in range(6)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    deadline = time.monotonic() + 10
    while tls_origin.open_connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if not seen:
        monkeypatch.setattr(Connection, "is_stale", lambda _self: False)
    assert WAYS[way](URI) == BODY


# -- handshakes ---------------------------------------------------------------------------------------


@pytest.fixture
def mute_url() -> Iterator[str]:
    """Where a server accepts connections and says nothing."""
    accepted = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    for sock in (listener, *accepted):
        sock.close()
    thread.join(5)


@every_path
def test_a_handshake_that_stalls_is_a_timeout(mute_url: str, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    options = impatient(mute_url, connect_timeout_s=0.1, max_attempts=2)
    with verbs_with(monkeypatch, options), pytest.raises(StoreTimeoutError, match=r"no TLS handshake within 0\.1 s"):
        WAYS[way](URI)


def test_cancelling_does_not_wait_for_a_handshake(mute_url: str) -> None:
    token = s3dlio.CancellationToken()
    fetcher = Fetcher(open_store(URI, impatient(mute_url, connect_timeout_s=60.0)), token=token)
    timer = threading.Timer(0.2, token.cancel)
    timer.start()
    started_s = time.monotonic()
    with pytest.raises(CancelledError):
        fetcher.read_all([Read(parse(URI)), Read(parse(OTHER_URI))])
    assert time.monotonic() - started_s < SOON_S
    timer.join()


# -- a second opinion ---------------------------------------------------------------------------------


def test_a_connection_lost_before_the_handshake_leaves_no_socket_open(ca: Ca) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = Connection(socket.socket(), Timeouts(5, 5, 5))
        connection.connect(server.getsockname())
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # with a reset
        with pytest.raises(ConnectionResetError):
            connection.secure(tls_context(str(ca.ca_path)), "127.0.0.1")
        connection.close()
        gc.collect()  # an open socket would warn here, which is an error


def test_rclone_over_tls(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(certificate=(ca.cert_path, ca.key_path)) as server, server.activate():
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.ca_path))
        server.make_bucket("bucket")
        big = random_bytes(20 << 20)
        try:
            s3dlio.put("s3://bucket/big", big)
            s3dlio.put(OTHER_URI, OTHER)
            assert s3dlio.get("s3://bucket/big") == big
            assert s3dlio.get_range("s3://bucket/big", 12345, 9 << 20) == big[12345 : 12345 + (9 << 20)]
            assert [view for _, view in s3dlio.get_many(["s3://bucket/big", OTHER_URI])] == [big, OTHER]
            assert s3dlio.list("s3://bucket/") == ["s3://bucket/big", OTHER_URI]
            monkeypatch.delenv("AWS_CA_BUNDLE")
            with pytest.raises(StoreError, match=r"certificate.*ca_bundle"):
                s3dlio.get(OTHER_URI)
        finally:
            close_stores()
