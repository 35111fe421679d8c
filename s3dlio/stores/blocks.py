"""Uploads to Azure: blocks, and the list that makes a blob of them.

Floor 2. Knows the two requests; must not know how they are signed. Azure has no request that throws the blocks of one
upload away (to write a blob of that name would, and take those of running uploads along), so nothing here looks for
them: the service drops what is not completed after a week.
"""

from __future__ import annotations

import base64
import logging
import secrets
from typing import TYPE_CHECKING

from s3dlio.cancel import CancellationToken
from s3dlio.errors import AccessDeniedError, IntegrityError
from s3dlio.stores import xml
from s3dlio.stores.base import ObjectInfo, PutOptions, bare
from s3dlio.stores.upload import Limits, Part, Upload
from s3dlio.uri import Uri

if TYPE_CHECKING:
    from s3dlio.stores.rest import RestStore

_log = logging.getLogger("s3dlio")

#: The service's, since version 2019-12-12.
BLOCK_LIMITS = Limits(most_bytes=4000 * 1024**2, most_parts=50_000)


class BlockUpload(Upload):
    """One upload. Its blocks have names of their own: two uploads of one blob do not mix.

    Args:
        store: Where to.
        uri: The blob.
        options: How it is written.
    """

    def __init__(self, store: RestStore, uri: Uri, options: PutOptions) -> None:
        self._store = store
        self._uri = uri
        self._options = options
        self._mark = secrets.token_hex(8)

    def _name(self, number: int) -> str:
        return base64.b64encode(f"{self._mark}{number:08d}".encode()).decode()

    def send(self, part: Part, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.send`."""
        query = {"comp": "block", "blockid": self._name(part.number)}
        headers = self._store.body_headers(part.pieces, part.crc32c)
        self._store.ask("PUT", self._uri, query, headers, token, part.pieces)

    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.upload.Upload.complete`."""
        body = memoryview(xml.block_list([self._name(number) for number in range(parts)]))
        headers = self._store.put_headers(self._options)
        del headers["x-ms-blob-type"]
        headers["x-ms-blob-content-type"] = headers["content-type"]  # the other is that of the list
        headers |= {"content-type": "application/xml", "content-length": str(len(body))}
        answer = self._store.ask("PUT", self._uri, {"comp": "blocklist"}, headers, token, [body])
        try:
            info = self._store.head(self._uri, token)
        except AccessDeniedError:  # one may be allowed to write and not to look
            return ObjectInfo(length, etag=bare(answer.head.etag))
        if info.size != length:
            msg = f"the server has made a blob of {info.size} bytes; {length} were sent in {parts} blocks"
            raise IntegrityError(msg, uri=str(self._uri), operation="put")
        _log.debug("close: %s: HEAD verified stored=%d", self._uri, info.size)
        return info

    def abort(self) -> None:
        """See :meth:`s3dlio.stores.upload.Upload.abort`: there is nothing to do."""
