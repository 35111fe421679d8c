"""Addresses of objects: parse, print, join.

Floor 0. Knows the schemes and their shapes; must not know any backend or the disk
(:func:`from_path_or_uri` alone looks at the current directory).

A URI is split, never decoded: a key is exactly the characters the caller wrote, so that ``%41``,
``+``, ``?`` and ``#`` in a key mean themselves, as they do in S3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple, TypeVar

from s3dlio.bounds import is_a
from s3dlio.errors import UriError, suggest

#: Schemes whose first path segment names a container (a bucket, an Azure container or account).
CONTAINER_SCHEMES = frozenset({"s3", "gs", "gcs", "az", "memory"})
#: Schemes whose key is an absolute path of the local machine.
PATH_SCHEMES = frozenset({"file", "direct"})


T = TypeVar("T")


class Uri(NamedTuple):
    """The three parts of an address.

    Attributes:
        scheme: As the caller wrote it, in lower case (``gcs`` stays ``gcs``).
        container: Bucket or container; empty for local paths and foreign schemes.
        key: Everything behind it: the object's key, an absolute path, or a prefix.
    """

    scheme: str
    container: str
    key: str

    def __str__(self) -> str:
        """Return the address in the form that :func:`parse` takes."""
        if self.scheme in CONTAINER_SCHEMES:
            return f"{self.scheme}://{self.container}/{self.key}"
        return f"{self.scheme}://{self.key}"

    def with_key(self, key: str) -> Uri:
        """Return the address of another key in the same container."""
        return Uri(self.scheme, self.container, key)


def parse(text: str) -> Uri:
    """Split an address into its parts.

    Args:
        text: ``s3://bucket/key``, ``gs://`` or ``gcs://``, ``az://``, ``file:///abs``,
            ``direct:///abs``, ``memory://space/key`` or any other ``scheme://rest``.

    Returns:
        The parts. Foreign schemes keep their whole rest as the key.

    Raises:
        UriError: There is no scheme, the bucket is missing, or a local path is not absolute.
    """
    try:
        scheme, separator, rest = text.partition("://")
    except (AttributeError, TypeError):
        hint = f"; write 'file://{os.path.abspath(text)}'" if is_a(text, PurePath) else ""
        msg = f"a URI must be a str, not {type(text).__name__}: {text!r:.80}{hint}"
        raise UriError(msg) from None
    if not separator or not scheme:
        msg = f"no scheme in {text!r}; write for example 's3://bucket/key' or 'file:///absolute/path'"
        raise UriError(msg, uri=text)
    if "\0" in rest:
        msg = "a URI cannot contain a NUL character"
        raise UriError(msg, uri=text)
    scheme = scheme.lower()
    if not rest.isascii():
        _require_bytes(text, rest, scheme)
    if scheme in CONTAINER_SCHEMES:
        container, _, key = rest.partition("/")
        if not container:
            msg = f"no bucket or container in {text!r}; write '{scheme}://bucket/key'"
            raise UriError(msg, uri=text)
        return Uri(scheme, container, key)
    if scheme in PATH_SCHEMES and not rest.startswith("/"):
        msg = f"{scheme}:// takes an absolute path with three slashes: '{scheme}:///{rest}'"
        raise UriError(msg, uri=text)
    return Uri(scheme, "", rest)


def _require_bytes(text: str, rest: str, scheme: str) -> None:
    """Refuse what has no form in bytes; names on disks that are not UTF-8 have one (PEP 383)."""
    try:
        rest.encode(errors="strict" if scheme in CONTAINER_SCHEMES else "surrogateescape")
    except UnicodeEncodeError as error:
        msg = "the URI holds half a character (a lone surrogate), which has no form in UTF-8"
        raise UriError(msg, uri=ascii(text)) from error


def parse_object(text: str, operation: str) -> Uri:
    """Split the address of one object, refusing an empty key.

    Raises:
        UriError: As :func:`parse`, or the address names a container and no object in it.
    """
    uri = parse(text)
    if not uri.key or (uri.scheme in PATH_SCHEMES and uri.key == "/"):
        msg = "the URI names a container, not an object in it; append '/key'"
        raise UriError(msg, uri=text, operation=operation)
    return uri


#: What is left of an address that was a ``pathlib`` path once, or was mistyped; one letter would be a drive.
_LOST_SLASH = re.compile(r"([a-z][a-z0-9+.-]+):/")


def from_path_or_uri(text: str | os.PathLike[str]) -> str:
    """Return ``text`` as a URI: URIs pass, local paths become ``file://`` ones.

    Meant for arguments where a local path is expected as often as a URI. A relative path is taken
    from the current directory; a leading ``~/`` is the home directory, as shells have it.

    Raises:
        UriError: It is neither text nor a path; or it is empty: a variable that was not set, most likely. ``.`` is
            the current directory. Or it is what ``pathlib`` makes of an address, which has lost a slash.
    """
    if not is_a(text, str, os.PathLike):
        msg = f"the address must be text or a path, not {type(text).__name__}: {text!r:.80}"
        raise UriError(msg)
    text = str(text)
    if "://" in text:
        return text
    if not text:
        raise UriError("an empty path names nothing; write '.' for the current directory")
    if lost := _LOST_SLASH.match(text):
        scheme = lost[1]
        msg = (
            f"is {scheme}://{text[lost.end() :]} meant? Two slashes begin an address, and pathlib drops one: give "
            f"addresses as text. For a directory named '{scheme}:' write its whole path"
        )
        raise UriError(msg, uri=text)
    slash = "/" if text.endswith("/") else ""
    path = absolute(text)
    return "file://" + (path if path.endswith("/") else path + slash)


def absolute(path: str) -> str:
    """Return a local path from the root on: ``~`` and ``~/x`` are of the home directory, others of the current one."""
    return os.path.abspath(os.path.expanduser(path) if path == "~" or path.startswith("~/") else path)


def several(addresses: Iterable[T], operation: str) -> list[T]:
    """Return many addresses as a list; a single one is a sequence too, of characters, and is not meant.

    Raises:
        UriError: It is a single address, or nothing of the kind.
    """
    if is_a(addresses, str, bytes) or not is_a(addresses, Iterable):
        msg = f"a list of URIs is wanted, not {type(addresses).__name__}: {addresses!r:.80}"
        raise UriError(msg, operation=operation)
    return list(addresses)


def join(prefix: str, *names: str) -> str:
    """Append path segments to a URI, with exactly one slash between them."""
    parts = [prefix.removesuffix("/"), *(name.strip("/") for name in names)]
    return "/".join(parts)


def relative(uri: str, prefix: str) -> str:
    """Return what stands behind ``prefix`` in ``uri``.

    Raises:
        UriError: ``uri`` does not start with ``prefix``.
    """
    if not uri.startswith(prefix):
        msg = f"{uri!r} does not lie under {prefix!r}"
        raise UriError(msg, uri=uri)
    return uri[len(prefix) :].lstrip("/")


def unknown_scheme(uri: Uri, known: frozenset[str] | set[str]) -> UriError:
    """Build the error for a scheme that nobody here speaks, naming the nearest one."""
    hint = suggest(uri.scheme, known)
    msg = f"unknown scheme {uri.scheme!r}{hint} (known here: {', '.join(sorted(known))}, and those of fsspec)"
    return UriError(msg, uri=str(uri))
