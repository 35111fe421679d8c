"""A certificate authority of our own, and a certificate for localhost that it has signed.

For: the origin's TLS endpoint. Must not know: who connects.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]


def make_certificates(root: Path) -> Path | None:
    """Write cert.pem and key.pem, and return the authority's certificate; None without openssl.

    Two certificates, because some clients refuse one that is its own authority.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    request = [openssl, "req", "-x509", *_KEY]
    authority = ["-subj", "/CN=benchmark authority", "-addext", "basicConstraints=critical,CA:TRUE"]
    authority += ["-keyout", str(root / "ca-key.pem"), "-out", str(root / "ca.pem")]
    server = ["-CA", str(root / "ca.pem"), "-CAkey", str(root / "ca-key.pem"), "-subj", "/CN=localhost"]
    server += ["-addext", "basicConstraints=critical,CA:FALSE"]
    server += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    server += ["-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")]
    for words in (authority, server):
        if subprocess.run([*request, *words], capture_output=True, check=False).returncode:
            return None
    return root / "ca.pem"
