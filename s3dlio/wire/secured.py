"""TLS: its settings, its socket, and which errors are its own.

Floor 2. Knows ``ssl``, which costs a program that speaks plain HTTP, or to no server at all, 20 ms for nothing: so this
is imported with the first https:// connection, or error. Must not know HTTP.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

from s3dlio.errors import OptionError

#: How OpenSSL calls an answer that is not TLS: before 3.2, and since.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


class SecuredSocket(ssl.SSLSocket):
    """A TLS socket that is closed if the connection is lost before TLS is spoken.

    ``wrap_socket`` looks for the peer's name first, and otherwise leaves an open socket to the garbage collector.
    """

    def getpeername(self) -> Any:
        """Return the peer's address.

        Raises:
            ConnectionResetError: There is no connection any more.
        """
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            msg = "the connection was lost before TLS was spoken"
            raise ConnectionResetError(msg) from error


@lru_cache(maxsize=16)
def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return the TLS settings: certificates and host names are always verified, TLS 1.2 at least.

    Raises:
        OptionError: The bundle cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        msg = f"cannot read the certificate authorities in {ca_bundle}: {error}"
        raise OptionError(msg) from error
    context.sslsocket_class = SecuredSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def is_nothing_yet(error: OSError) -> bool:
    """Tell whether a non-blocking receive found nothing to return."""
    return isinstance(error, (BlockingIOError, ssl.SSLWantReadError))


def is_end(error: BaseException) -> bool:
    """Tell whether the far side has ended TLS, as it does when it closes an idle connection."""
    return isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


def is_plain(error: BaseException) -> bool:
    """Tell whether the far side has answered the first words of TLS with something else, such as plain HTTP."""
    return isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS


def is_mistrust(error: BaseException) -> bool:
    """Tell whether a certificate was not to be trusted."""
    return isinstance(error, ssl.SSLCertVerificationError)
