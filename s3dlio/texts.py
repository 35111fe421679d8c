"""What the texts of settings mean: numbers, flags, addresses.

Floor 0. Pure: text in, value out, ``ValueError`` for what cannot be understood. Must not know which
setting it is for, nor where the text comes from.
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse

#: S3's own bound. Asked of all backends, so that a program that works with one works with the others.
LEAST_PART_BYTES = 5 * 1024**2
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_count(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        msg = "must be a whole number"
        raise ValueError(msg) from None
    if value < 1:
        msg = "must be at least 1"
        raise ValueError(msg)
    return value


def read_part_size(text: str) -> int:
    """Read the bytes of a part, of which stores ask for 5 MiB at least."""
    value = read_count(text)
    if value < LEAST_PART_BYTES:
        msg = f"must be at least {LEAST_PART_BYTES} (5 MiB)"
        raise ValueError(msg)
    return value


def read_verbosity(text: str) -> int:
    """Read 0, 1 or 2."""
    if text not in ("0", "1", "2"):
        msg = "must be 0, 1 or 2"
        raise ValueError(msg)
    return int(text)


def read_flag(text: str) -> bool:
    """Read yes or no, in any of the usual words."""
    try:
        return _FLAGS[text.strip().lower()]
    except KeyError:
        msg = "must be true or false"
        raise ValueError(msg) from None


def url_fault(text: str) -> str:
    """Return what is wrong with the address of a server, or nothing."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "must be http(s)://host[:port]"
    if parts.scheme not in ("http", "https"):
        return "must start with http:// or https://"
    return "" if host and port != 0 else "must be http(s)://host[:port]"


def read_url(text: str) -> str:
    """Read the address of a server."""
    fault = url_fault(text)
    if fault:
        raise ValueError(fault)
    return text.rstrip("/")


def read_emulator(text: str) -> str:
    """Read the address of an emulator, which may come without its scheme."""
    return read_url(text if "://" in text else f"http://{text}")


def read_base64(text: str) -> str:
    """Check that a text is base64, and return it as it is."""
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        msg = "must be base64"
        raise ValueError(msg) from None
    return text
