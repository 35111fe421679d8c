"""Uploads by parts that nobody has ended: found, and thrown away, as S3 and Google Cloud Storage have it.

Floor 2. Knows the requests that list uploads and parts, and when an upload shows no life; must not know how one
provider signs them, nor for whom they are thrown away. All ages are by the server's clock.
"""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from s3dlio.cancel import CancellationToken
from s3dlio.errors import NotFoundError, StoreError
from s3dlio.stores import xml
from s3dlio.stores.rest import following
from s3dlio.stores.upload import Pending
from s3dlio.uri import Uri
from s3dlio.wire.head import Head, ProtocolError

if TYPE_CHECKING:
    from s3dlio.stores.rest import RestStore

_OPERATION = "abort_uploads"


def pending_uploads(store: RestStore, where: Uri, token: CancellationToken) -> Iterator[Pending]:
    """Yield the uploads of an object and of all below it, page by page. See :meth:`s3dlio.stores.base.Store.pending`.

    Some servers heed no prefix (moto), and MinIO heeds whole keys only: what they list is looked at here too.
    """
    folder = where.key if not where.key or where.key.endswith("/") else f"{where.key}/"

    def page(cursor: str) -> tuple[list[Pending], str]:
        query = {"uploads": "", "prefix": where.key, **dict(urllib.parse.parse_qsl(cursor))}
        head, uploads, after = _page(store, where, query, token)
        return [
            Pending(key, name, begun, None if begun is None else _age_s(head, begun))
            for key, name, begun in uploads
            if key == where.key or key.startswith(folder)
        ], urllib.parse.urlencode(after)

    for found in following(where, page):
        yield from found


def _page(
    store: RestStore, where: Uri, query: Mapping[str, str], token: CancellationToken
) -> tuple[Head, list[xml.Begun], dict[str, str]]:
    """Return a page of uploads under their keys as they are, and what to ask the next page with.

    Encoded keys are asked for, since XML cannot carry all characters. But Ceph does not say that it has encoded them,
    and SeaweedFS and LocalStack say it and have not. Unasked, all of them write keys as they are.
    """
    bucket = where.with_key("")
    answer = store.ask("GET", bucket, {**query, "encoding-type": "url"}, {}, token, operation=_OPERATION)
    if xml.may_be_encoded(answer.body):
        plain = store.ask("GET", bucket, query, {}, token, operation=_OPERATION)
        with contextlib.suppress(ProtocolError):  # else a key has such a character, and the first answer is better
            return plain.head, *xml.parse_uploads(plain.body)
    with _explained(where):
        return answer.head, *xml.parse_uploads(answer.body)


def abandon_upload(store: RestStore, where: Uri, upload: Pending, idle_s: float, token: CancellationToken) -> bool:
    """Abort an upload of which no part has come for ``idle_s`` seconds. See :meth:`s3dlio.stores.base.Store.abandon`.

    A writer that is at work for longer than that is not disturbed as long as it sends parts.
    """
    uri = where.with_key(upload.key)
    named = {"uploadId": upload.upload_id}
    if upload.initiated is None or upload.age_s is None or upload.age_s < idle_s:
        return False
    try:
        if _idle_s(store, uri, named, upload.initiated, token) < idle_s:
            return False
        store.ask("DELETE", uri, named, {}, token, operation=_OPERATION)
    except NotFoundError:
        return False  # it is completed, or somebody else has aborted it
    return True


def _idle_s(store: RestStore, uri: Uri, named: dict[str, str], begun: datetime, token: CancellationToken) -> float:
    """Return for how long an upload has got nothing."""
    latest, idle_s = begun, 0.0

    def page(cursor: str) -> tuple[list[float], str]:
        nonlocal latest
        marker = {"part-number-marker": cursor} if cursor else {}
        answer = store.ask("GET", uri, {**named, **marker}, {}, token, operation=_OPERATION)
        with _explained(uri):
            times, after = xml.parse_part_times(answer.body)
        latest = max([latest, *times])
        return [_age_s(answer.head, latest)], after

    for (age_s,) in following(uri, page):
        idle_s = age_s
    return idle_s


@contextlib.contextmanager
def _explained(uri: Uri) -> Iterator[None]:
    """Say what it means that an answer is another one: not that the server cannot be reached."""
    try:
        yield
    except ProtocolError as error:
        msg = f"the server does not list uploads as S3 does: {error}"
        raise StoreError(msg, uri=str(uri), operation=_OPERATION) from error


def _age_s(head: Head, when: datetime) -> float:
    """Return the seconds since something has happened at the server, by its clock if it tells that."""
    now = xml.parse_time(head.field("date"))
    return max(0.0, (time.time() if now is None else now.timestamp()) - when.timestamp())
