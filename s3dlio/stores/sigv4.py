"""AWS Signature Version 4, in the ``Authorization`` header and in addresses that are given away.

Floor 2. Pure but for the time it is handed; must not know where credentials come from.

Written here and not left to botocore since it stands in the path of every read: this signs in 3 us,
botocore's ``S3SigV4Auth`` in 150. The tests hold it against botocore's on generated requests.
Source of the format: AWS General Reference, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
NOTHING: Mapping[str, str] = MappingProxyType({})


class KeyPair(NamedTuple):
    """S3 credentials. Not printed: the secret parts are left out of ``repr``."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        """Show nothing that can be used."""
        return f"KeyPair(access_key={self.access_key[:4]}..., secret_key=***)"


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(maxsize=4)
def _stamp(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


@lru_cache(maxsize=256)
def quote_key(key: str) -> str:
    """Return the path form of a key: everything but unreserved characters and ``/`` is escaped."""
    return quote(key, safe="/-_.~")


def quote_query(query: dict[str, str]) -> str:
    """Return the canonical query string: fully escaped, then sorted."""
    pairs = [(quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items()]
    return "&".join([f"{name}={value}" for name, value in sorted(pairs)])


class Target(NamedTuple):
    """What is asked of whom: already quoted path and query, and the value of ``Host``."""

    method: str
    host: str
    path: str
    query: str = ""


def signed_headers(
    pair: KeyPair, region: str, target: Target, extra: dict[str, str], now: float, payload: str = UNSIGNED
) -> str:
    """Return the header lines that sign a request, ``Host`` included, each ended by CR LF.

    Args:
        pair: Credentials.
        region: AWS region.
        target: The request.
        extra: Further headers to sign (``x-amz-...``), names in lower case; their lines are part of
            the result, with the values as they are (signed are values without needless blanks).
        now: Seconds since the epoch.
        payload: SHA-256 of the body in hexadecimal, or ``UNSIGNED-PAYLOAD``.
    """
    stamp = _stamp(int(now))
    day = stamp[:8]
    headers = {"host": target.host, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    if pair.token:
        headers["x-amz-security-token"] = pair.token
    if extra:
        headers.update(extra)
        headers = dict(sorted(headers.items()))
    sent = "".join([f"{name}:{value}\r\n" for name, value in headers.items()])
    if extra:
        headers = {name: " ".join(value.split()) for name, value in headers.items()}
    lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
    signed = ";".join(headers)
    request = f"{target.method}\n{target.path}\n{target.query}\n{lines}\n{signed}\n{payload}"
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(_signing_key(pair.secret_key, day, region), text.encode(), "sha256").hex()
    return (
        f"{sent}authorization: AWS4-HMAC-SHA256 Credential={pair.access_key}/{scope}, "
        f"SignedHeaders={signed}, Signature={signature}\r\n"
    )


def presigned_query(
    pair: KeyPair, region: str, target: Target, expires_s: int, now: float, extra: Mapping[str, str] = NOTHING
) -> str:
    """Return the query of an address that needs no further signature, until it expires.

    Args:
        pair: Credentials.
        region: AWS region.
        target: The request; it has no query of its own.
        expires_s: Seconds that the address is good for.
        now: Seconds since the epoch.
        extra: Further parameters of the query, names in lower case.
    """
    stamp = _stamp(int(now))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{pair.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": "host",
    }
    if pair.token:
        fields["X-Amz-Security-Token"] = pair.token
    fields.update(extra)
    query = quote_query(fields)
    request = f"{target.method}\n{target.path}\n{query}\nhost:{target.host}\n\nhost\n{UNSIGNED}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(_signing_key(pair.secret_key, stamp[:8], region), text.encode(), "sha256").hex()
    return f"{query}&X-Amz-Signature={signature}"


class RangeSigner:
    """Signs ranged GETs of one place within one second: everything but the key is made beforehand.

    Args:
        pair: Credentials.
        region: AWS region.
        place: The value of ``Host``, and the quoted path that keys are appended to after a slash.
        second: Seconds since the epoch; the caller makes a new signer when it has passed.
        fields: Further header lines, unsigned, each ended by CR LF.
        extra: Further headers to sign (``x-amz-...``), names in lower case.
    """

    __slots__ = ("_after_key", "_before_key", "_inner", "_outer", "_text", "second")

    def __init__(
        self,
        pair: KeyPair,
        region: str,
        place: tuple[str, str],
        second: int,
        fields: str,
        extra: Mapping[str, str] = NOTHING,
    ) -> None:
        host, path = place
        stamp = _stamp(second)
        self.second = second
        scope = f"{stamp[:8]}/{region}/s3/aws4_request"
        headers = {"host": host, "x-amz-content-sha256": UNSIGNED, "x-amz-date": stamp}
        if pair.token:
            headers["x-amz-security-token"] = pair.token
        headers = dict(sorted({**headers, **extra}.items()))
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        signed = ";".join(headers)
        self._before_key = f"{path}/"
        self._text = f"\n\n{lines}\n{signed}\n{UNSIGNED}"
        # The two halves of the HMAC, fed with all that comes before the request's own digest.
        block = _signing_key(pair.secret_key, stamp[:8], region).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._inner.update(f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n".encode())
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        sent = lines.replace("\n", "\r\n")
        self._after_key = (
            f" HTTP/1.1\r\n{fields}{sent}authorization: AWS4-HMAC-SHA256 Credential={pair.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature="
        )

    def request(self, key: str, span: str) -> bytes:
        """Return the head of a GET of ``key`` with ``Range: span``."""
        target = f"{self._before_key}{quote_key(key)}"
        digest = hashlib.sha256(f"GET\n{target}{self._text}".encode()).hexdigest()
        inner = self._inner.copy()
        inner.update(digest.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return f"GET {target}{self._after_key}{outer.hexdigest()}\r\nrange: {span}\r\n\r\n".encode("latin-1")
