"""A copy that a server makes by itself, with one request.

Floor 2. Knows the header fields that S3 and Google Cloud Storage share but for their first letters; must not know
how requests are signed, nor who wants a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from s3dlio.cancel import CancellationToken
from s3dlio.errors import AccessDeniedError, StoreError
from s3dlio.stores import xml
from s3dlio.stores.base import Version
from s3dlio.stores.sigv4 import quote_key
from s3dlio.uri import Uri
from s3dlio.wire.refusals import Refused, to_error

if TYPE_CHECKING:
    from s3dlio.stores.rest import RestStore
    from s3dlio.wire.transport import Answer


def copy_fields(letters: str, source: Uri, version: Version) -> dict[str, str]:
    """Return the header fields that name what is copied, and that it is to be the known version of it."""
    fields = {
        f"x-{letters}-copy-source": f"/{source.container}/{quote_key(source.key)}",
        "content-length": "0",
    }
    if version.etag and not version.etag.startswith("W/"):
        fields[f"x-{letters}-copy-source-if-match"] = version.etag
    return fields


def copied(
    store: RestStore, target: Uri, query: Mapping[str, str], fields: Mapping[str, str], token: CancellationToken
) -> Answer | None:
    """Ask for a copy; ``None``: the server knows no such request, or denies it where reading might be allowed.

    Raises:
        NotFoundError: What is to be copied is not there.
        ObjectChangedError: It is another version.
        StoreError: The server is out of order.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            answer = store.ask("PUT", target, query, fields, token, operation="copy")
        except AccessDeniedError:
            return None
        except StoreError as error:
            if type(error) is StoreError:  # 501, 405, 400: a server that has no copies
                return None
            raise
        fault = xml.fault_in(answer.body)  # a server may answer 200 before it knows how it ends
        if fault is None:
            return answer
        refused = Refused(answer.head, fault)
        if not refused.is_passing or attempt >= store.options.max_attempts:
            raise to_error("copy", target, refused, attempt)
        token.sleep(min(store.options.retry_max_s, store.options.retry_base_s * 2**attempt))
