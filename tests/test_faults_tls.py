"""Room card: does the misbehaving origin do the same behind TLS?"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.servers.faults import FaultOrigin, ResetInBody, ShortBody

if TYPE_CHECKING:
    from tests.servers.tls import Ca

_PATH = "/bucket/digits"
_DIGITS = b"0123456789"


def _tls_get(origin: FaultOrigin, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", origin.port), timeout=5)
    sock = context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
    sock.sendall(f"GET {_PATH} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    return sock


def test_tls(tls_origin: FaultOrigin, ca: Ca) -> None:
    tls_origin.objects[_PATH] = _DIGITS
    tls_origin.plan(_PATH, None, ShortBody(2))
    trusting = ssl.create_default_context(cafile=str(ca.ca_path))
    for expected in (_DIGITS, _DIGITS[:-2]):
        with _tls_get(tls_origin, trusting) as sock:
            got = b"".join(iter(lambda: sock.recv(1000), b""))
        assert got.endswith(b"\r\n\r\n" + expected)
    with pytest.raises(ssl.SSLCertVerificationError):
        _tls_get(tls_origin, ssl.create_default_context())


def test_tls_reset(tls_origin: FaultOrigin, ca: Ca) -> None:
    tls_origin.objects[_PATH] = _DIGITS
    tls_origin.plan(_PATH, ResetInBody(3))
    trusting = ssl.create_default_context(cafile=str(ca.ca_path))
    # To Python's TLS a reset looks like an end of file, so look below it.
    with (
        _tls_get(tls_origin, trusting) as sock,
        socket.fromfd(sock.fileno(), sock.family, sock.type) as below,
    ):
        below.settimeout(5)
        with pytest.raises(ConnectionResetError):
            b"".join(iter(lambda: below.recv(1000), b""))
