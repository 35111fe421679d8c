"""Room card: certificates for servers on this machine, made afresh by a certificate authority of our own.

Knows trustme.  Must not know any server or the library.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Ca:
    """A certificate authority and a server certificate it gave to 127.0.0.1 and localhost.

    Attributes:
        ca_path: The authority's certificate (PEM), for clients to trust.
        cert_path: The server's certificate chain (PEM).
        key_path: The server's private key (PEM).
    """

    ca_path: Path
    cert_path: Path
    key_path: Path

    def server_context(self) -> ssl.SSLContext:
        """Returns a context for a server that shows the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_path, self.key_path)
        return context


def make_ca(folder: Path, *hosts: str) -> Ca:
    """Makes an authority and a server certificate in a folder.

    Args:
        folder: An existing folder.
        *hosts: The names and addresses the certificate is for; 127.0.0.1 and localhost when there are none.
    """
    authority = trustme.CA()
    server = authority.issue_cert(*(hosts or ("127.0.0.1", "localhost")))
    made = Ca(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority.cert_pem.write_to_path(made.ca_path)
    server.private_key_pem.write_to_path(made.key_path)
    for pem in server.cert_chain_pems:
        pem.write_to_path(made.cert_path, append=True)
    return made
