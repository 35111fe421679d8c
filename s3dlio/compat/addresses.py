"""Where the addresses of a store are written down: the original's ``create_multi_endpoint_store`` and its siblings.

Floor 6. Knows templates and files; must not know how work is spread (:mod:`s3dlio.compat.endpoints`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from s3dlio.compat.endpoints import MultiEndpointStore
from s3dlio.compat.settings import endpoint_uris
from s3dlio.errors import OptionError, UriError
from s3dlio.options import StoreOptions
from s3dlio.uri import parse

_RANGE = re.compile(r"\{(\d{1,9})\.\.\.(\d{1,9})\}")
_MOST = 4096


def create_multi_endpoint_store(
    uris: Sequence[str], strategy: str | None = None, options: StoreOptions | None = None
) -> MultiEndpointStore:
    """Return the verbs on keys, spread over several addresses: see :class:`MultiEndpointStore`.

    Args:
        uris: The addresses, all of one scheme.
        strategy: ``round_robin`` (default) or ``least_connections``.
        options: How to reach them.

    Raises:
        OptionError: There is no address, or no such strategy.
        UriError: One is no URI, or they are of several schemes.
    """
    if not isinstance(uris, str) and len({parse(uri).scheme for uri in uris}) > 1:
        msg = f"all addresses must have the same scheme: {', '.join(uris)}"
        raise UriError(msg, operation="create_multi_endpoint_store")
    return MultiEndpointStore(uris, strategy or "round_robin", options)


def create_multi_endpoint_store_from_template(uri_template: str, strategy: str | None = None) -> MultiEndpointStore:
    """Do as :func:`create_multi_endpoint_store` does with the addresses of a template.

    Args:
        uri_template: ``s3://10.0.0.{1...4}:9000/bucket/`` is four addresses; of several ranges all combinations are.
        strategy: As of :func:`create_multi_endpoint_store`.

    Raises:
        OptionError: A range runs backwards, or they are more than 4,096 addresses.
    """
    return create_multi_endpoint_store(_expanded([uri_template]), strategy)


def _expanded(texts: list[str]) -> list[str]:
    found = _RANGE.search(texts[0])
    if found is None:
        return texts
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST // len(texts):
        msg = f"{found[0]} in {texts[0]} must run upwards, to {_MOST:,} addresses at most"
        raise OptionError(msg, operation="create_multi_endpoint_store_from_template")
    return _expanded([text.replace(found[0], str(number), 1) for text in texts for number in range(first, last + 1)])


def create_multi_endpoint_store_from_file(file_path: str, strategy: str | None = None) -> MultiEndpointStore:
    """Do as :func:`create_multi_endpoint_store` does with the addresses in a local file.

    Args:
        file_path: A text with an address in each line; empty lines and those that begin with ``#`` are left out.
        strategy: As of :func:`create_multi_endpoint_store`.

    Raises:
        OSError: It cannot be read.
    """
    with open(file_path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return create_multi_endpoint_store([line for line in lines if line and not line.startswith("#")], strategy)


def create_multi_endpoint_store_from_env(strategy: str | None = None) -> MultiEndpointStore:
    """Do as :func:`create_multi_endpoint_store` does with the addresses in ``S3_ENDPOINT_URIS``, between commas.

    Raises:
        OptionError: It is not set.
    """
    uris = endpoint_uris()
    if not uris:
        msg = "set S3_ENDPOINT_URIS to the addresses, with commas between them"
        raise OptionError(msg, operation="create_multi_endpoint_store_from_env")
    return create_multi_endpoint_store(uris, strategy)
