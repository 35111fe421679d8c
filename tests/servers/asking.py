"""Room card: how tests ask a server without the library: one plain request by the standard library.

Knows http.client.  Must not know any server or the library.
"""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import urlsplit

#: Keys that need care in paths, queries, signatures or XML.
ODD_KEYS = ("plain", "sp ace", "plus+plus", "per%cent", "uni-é-漢", "dir/sub dir/ü", "amp&q=1", "hash#q?")

Answered = tuple[int, dict[str, str], bytes]


def ask(url: str, method: str = "GET", body: str | None = None, **headers: str) -> Answered:
    """Sends one request on a connection of its own.

    Args:
        url: Where to, http only, sent as it stands.
        method: The method.
        body: The body, if there is one.
        **headers: The headers; ``_`` in a name stands for ``-``.

    Returns:
        The status, the headers by name in lower case, the body.
    """
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=10)
    with contextlib.closing(connection):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, url.partition(host)[2] or "/", body, names)
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return response.status, answered, response.read()
