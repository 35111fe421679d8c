"""The way to a server, one step at a time, to see which one fails.

Floor 2. Knows what :class:`~s3dlio.wire.client.Client` does in one: names, connections, proxies, TLS; must not
know what a failure means to a user.
"""

from __future__ import annotations

import socket
import ssl
import time
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.version import VERSION
from s3dlio.wire.client import Client
from s3dlio.wire.secured import is_mistrust, tls_context


class Hop(NamedTuple):
    """Where the first connection goes: to the server, or to the proxy before it."""

    host: str
    port: int
    is_proxy: bool


def first_hop(client: Client) -> Hop:
    """Return where a client connects to. A proxy's name and password are left out."""
    origin = client.origin
    if not origin.proxy:
        return Hop(origin.host, origin.port, is_proxy=False)
    host, _, port = origin.proxy.partition("://")[2].rpartition("@")[2].rstrip("/").partition(":")
    return Hop(host, int(port or 80), is_proxy=True)


def resolve(hop: Hop) -> list[str]:
    """Return the addresses of a host.

    Raises:
        OSError: It has none.
    """
    try:
        found = socket.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long, as of a bucket that cannot exist
        msg = f"{hop.host!r} is not a host name: {error}"
        raise socket.gaierror(socket.EAI_NONAME, msg) from error
    return [*dict.fromkeys(str(address[0]) for *_, address in found)]


def connect(hop: Hop, client: Client) -> float:
    """Connect and let go; return the seconds that it took.

    Raises:
        OSError: It cannot be connected to.
    """
    began = time.perf_counter()
    with socket.create_connection((hop.host, hop.port), client.timeouts.connect_s):
        return time.perf_counter() - began


def secure(hop: Hop, client: Client, ca_bundle: str | None) -> str:
    """Agree on TLS with a server and let go; return the version of it.

    Raises:
        OSError: The certificate is not to be trusted, or the far side does not speak TLS.
    """
    context = tls_context(ca_bundle)
    with socket.create_connection((hop.host, hop.port), client.timeouts.connect_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=hop.host) as secured:
                return secured.version() or "TLS"
        except TimeoutError as error:
            msg = f"no answer to the TLS handshake within {client.timeouts.connect_s:g} s"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, msg) from error


def clock_offset(client: Client, token: CancellationToken) -> timedelta | None:
    """Ask a server for anything, unsigned, and return how far its clock is ahead of this machine's.

    Returns:
        ``None`` if it does not tell the time.

    Raises:
        OSError: It does not answer, or not in HTTP.
    """
    request = f"HEAD / HTTP/1.1\r\nhost: {client.origin.authority}\r\nuser-agent: s3dlio/{VERSION}\r\n\r\n"
    connection = client.open(request.encode("latin-1"), token, method="HEAD")
    told = connection.head.field("date")
    client.drop(connection, token)
    try:
        there = parsedate_to_datetime(told)
    except (TypeError, ValueError):
        return None
    return there - datetime.now(there.tzinfo)


def is_certificate_fault(error: BaseException) -> bool:
    """Tell whether a certificate was not to be trusted."""
    return is_mistrust(error)


def is_tls_fault(error: BaseException) -> bool:
    """Tell whether TLS could not be agreed on."""
    return isinstance(error, ssl.SSLError)


def is_name_fault(error: BaseException) -> bool:
    """Tell whether a host has no address."""
    return isinstance(error, socket.gaierror)
