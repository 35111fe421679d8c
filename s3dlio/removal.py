"""The verbs that remove: single objects, many, all below a prefix, and what killed writers have left.

Floor 6. Knows the public contract, and how many requests are worth sending at once; must not know any backend.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from s3dlio import listing
from s3dlio.bounds import flag, is_a
from s3dlio.cancel import CancellationToken
from s3dlio.context import current_token, store_of
from s3dlio.crew import map_all
from s3dlio.errors import OptionError, UriError
from s3dlio.stores.upload import Pending
from s3dlio.uri import Uri, parse, several

#: S3 takes a thousand keys in one request; so many such requests are under way at once.
_DELETED_TOGETHER = 1000
_DELETES_AT_ONCE = 4
_ABORTS_AT_ONCE = 16
_DAY_S = 86_400.0


def delete(
    uri: str | Sequence[str],
    recursive: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    pattern: str | re.Pattern[str] | None = None,
) -> None:
    """Delete objects. One that is not there is fine.

    Args:
        uri: One URI or many. Without ``recursive`` exactly these objects go.
        recursive: Delete everything whose key starts with the URI, taken as a directory.
        pattern: With ``recursive``, only what matches (see :func:`list`).

    Raises:
        UriError: A URI ends in ``/`` and ``recursive`` is ``False``, or names a whole bucket.
        StoreError: Something cannot be deleted.
    """
    given = [uri] if isinstance(uri, str) else several(uri, "delete")
    flag("recursive", recursive)
    for text in given:
        where = parse(text)
        if recursive:
            _delete_below(where, pattern)
        elif pattern is not None:
            msg = "pattern goes with recursive=True"
            raise OptionError(msg, uri=text, operation="delete")
        elif where.key.endswith("/") or not where.key:
            msg = "this names a prefix; pass recursive=True to delete everything below it"
            raise UriError(msg, uri=text, operation="delete")
    if not recursive:
        _delete_exactly([parse(text) for text in given])


def abort_uploads(uri_prefix: str, *, older_than_s: float = _DAY_S) -> list[str]:
    """Remove what killed writers have left: uploads by parts that were never ended, and hidden files of drafts.

    No listing shows such parts, and they cost what objects cost. On S3 and Google Cloud Storage each upload takes two
    requests, and the permissions to list uploads and their parts and to abort them (``ListBucketMultipartUploads``,
    ``ListMultipartUploadParts``, ``AbortMultipartUpload``; ``storage.multipartUploads.*``). Azure drops blocks of which
    no blob was made after a week by itself, and has no request for it; in ``memory://`` and behind fsspec there is
    nothing to find. MinIO tells of uploads of one named object or of a whole bucket only, and drops all after a day by
    itself. Thread-safe.

    Args:
        uri_prefix: A bucket, an object, or a prefix, taken as a directory.
        older_than_s: Leave uploads that were begun, or have got a part, within so many seconds (by the server's
            clock), and files that were written within them. What a streaming writer of this machine has open stays,
            however old.

    Returns:
        The URIs, sorted: of an upload that of the object that it was to become; of a draft that of the hidden file.

    Raises:
        OptionError: ``older_than_s`` is negative.
        NotFoundError: There is no such bucket.
        AccessDeniedError: Uploads may not be listed or aborted.
        StoreError: The server cannot list uploads, or does not abort one.

    Example:
        >>> import s3dlio
        >>> s3dlio.abort_uploads("memory://bucket/runs/")
        []
    """
    if not is_a(older_than_s, int, float) or not older_than_s >= 0:
        msg = f"older_than_s must be seconds, 0 or more, not {older_than_s}"
        raise OptionError(msg, uri=uri_prefix, operation="abort_uploads")
    where = parse(uri_prefix)
    store, token = store_of(where), current_token()
    old = [it for it in store.pending(where, token) if it.age_s is not None and it.age_s >= older_than_s]

    def abandon(upload: Pending, token: CancellationToken) -> bool:
        return store.abandon(where, upload, older_than_s, token)

    done = map_all(abandon, old, _ABORTS_AT_ONCE, token)
    return sorted(str(where.with_key(upload.key)) for upload, is_gone in zip(old, done, strict=True) if is_gone)


def _delete_exactly(uris: list[Uri]) -> None:
    groups: dict[tuple[str, str], list[Uri]] = {}
    for uri in uris:
        groups.setdefault((uri.scheme, uri.container), []).append(uri)
    for group in groups.values():
        store = store_of(group[0])
        for uri in group:
            store.sizes.forget(uri)
        batches = [group[start : start + _DELETED_TOGETHER] for start in range(0, len(group), _DELETED_TOGETHER)]
        map_all(store.delete, batches, _DELETES_AT_ONCE, current_token())


def _delete_below(prefix: Uri, pattern: str | re.Pattern[str] | None) -> None:
    store = store_of(prefix)
    below = prefix if not prefix.key or prefix.key.endswith("/") else prefix.with_key(prefix.key + "/")
    if below.scheme in ("file", "direct") and below.key == "/":
        msg = "refusing to delete the root directory"
        raise UriError(msg, uri=str(prefix), operation="delete")
    pages = listing.pages(store, below, pattern, current_token())
    while some := list(itertools.islice(pages, _DELETES_AT_ONCE)):
        _delete_exactly([below.with_key(entry.key) for page in some for entry in page])
    if pattern is None:
        store.prune(below, current_token())
        if below.key != prefix.key:
            _delete_exactly([prefix])
