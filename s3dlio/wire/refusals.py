"""Answers that are not what was asked for: what they mean, and the error each becomes.

Floor 2. Pure: status codes and the servers' own codes in, errors out. Must not know sockets, nor who tries
again.
"""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

from s3dlio.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from s3dlio.retry import RETRYABLE_STATUS
from s3dlio.wire.head import Head

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# 400 too: S3 answers it, with the right region in a header, when the signature names a wrong one.
_MOVED_STATUS = _REDIRECTS | {400}
#: Codes that mean "busy" behind a status that does not say so (S3 answers 400 RequestTimeout).
_BUSY_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ServerBusy", "InternalError"})
#: What means not only "later" but "fewer": the status, or the code behind another one.
_SLOWER_STATUS = frozenset({429, 503})
_SLOWER_CODES = frozenset({"SlowDown", "Throttling", "ServerBusy"})
#: Codes that mean "your credentials" behind a status that does not say so (S3 answers 400 ExpiredToken).
_DENIAL_CODES = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"}
)
#: Codes that mean "no such region" of a bucket that is to be made.
_PLACE_CODES = frozenset({"InvalidLocationConstraint", "IllegalLocationConstraintException"})
#: How codes end that mean "full": Ceph's, behind 403, and MinIO's have other beginnings.
_FULL_CODE = "QuotaExceeded"
_EXISTS_CODES = frozenset(
    {
        "BucketAlreadyExists", "BucketAlreadyOwnedByYou", "ContainerAlreadyExists", "BlobAlreadyExists",
        "ConditionalRequestConflict",  # somebody else is writing it at this moment
    }
)  # fmt: skip
_KINDS: dict[int, type[StoreError]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    408: StoreTimeoutError,
    410: NotFoundError,
    412: ObjectChangedError,
}


class Fault(NamedTuple):
    """What a server says went wrong: its own code (such as ``SlowDown``), its message, and a region to sign for."""

    code: str
    message: str
    region: str = ""


class Refused(Exception):  # noqa: N818 - a signal inside the library, not an error anyone sees
    """The server answered, and not with what was asked for."""

    def __init__(self, head: Head, fault: Fault) -> None:
        super().__init__(f"HTTP {head.status} {fault.code}".rstrip())
        self.head = head
        self.fault = fault

    def __reduce__(self) -> tuple[type[Exception], tuple[str]]:
        """Pickle what it says alone: heads name places with signatures in them, and some libraries pickle causes."""
        return Exception, (str(self),)

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered well a little later."""
        return self.head.status in RETRYABLE_STATUS or self.fault.code in _BUSY_CODES

    @property
    def is_denial(self) -> bool:
        """Whether other credentials could help."""
        if self.fault.code.endswith(_FULL_CODE):
            return False
        return self.head.status in (401, 403) or self.fault.code in _DENIAL_CODES

    @property
    def may_have_moved(self) -> bool:
        """Whether the answer may name another place to ask."""
        return self.head.status in _MOVED_STATUS

    @property
    def says_nothing(self) -> bool:
        """Whether it is a bare 400, as a HEAD gets it."""
        return self.head.status == 400 and not any(self.fault)


def asks_for_fewer(head: Head, fault: Fault) -> bool:
    """Tell whether a server says that it gets too many requests."""
    return head.status in _SLOWER_STATUS or fault.code in _SLOWER_CODES


def to_error(operation: str, uri: object, refused: Refused, tries: int) -> StoreError:
    """Return the error for an answer that is final."""
    head, fault = refused.head, refused.fault
    kind = _KINDS.get(head.status, StoreError)
    if fault.code in _DENIAL_CODES:
        kind = AccessDeniedError
    elif fault.code.endswith(_FULL_CODE):
        kind = StoreError
    elif head.status != 408 and refused.is_passing:
        kind = StoreUnavailableError
    elif (head.status == 412 and operation == "put") or (head.status == 409 and fault.code in _EXISTS_CODES):
        kind = AlreadyExistsError
    tried = f" (tried {tries} times)" if tries > 1 else ""
    said = ": ".join(part for part in (f"HTTP {head.status} {fault.code}".strip(), fault.message) if part)
    return kind(f"{said}{tried}{_advice(head, fault)}", uri=str(uri), operation=operation)


def _advice(head: Head, fault: Fault) -> str:
    if head.status in _REDIRECTS:
        target = urllib.parse.urlsplit(head.field("location"))
        place = f" to {target.scheme}://{target.netloc}" if target.netloc else ""
        return f"; the server redirects{place}: set the region or endpoint_url of the bucket"
    if fault.code in _DENIAL_CODES:
        return "; get new credentials (or set the clock)"
    if fault.code.endswith(_FULL_CODE):
        return "; delete what is not needed (`s3dlio rm --pending` finds unfinished uploads), or have the quota raised"
    if fault.code in _PLACE_CODES:
        return "; set the region (region, AWS_REGION) to one that the server knows; us-east-1 leaves it to the server"
    if head.status in (401, 403) and not fault.message:
        # Answers to HEAD say no more than the status, which a wrong clock has in common with a wrong key.
        return "; check the credentials and the permissions" + ("" if fault.code else ", and this machine's clock")
    return ""
