"""What a failure means to whoever set things up, and what to do about it.

Floor 7. Pure: errors in, advice out. Knows the servers' own codes; must not know the commands that show it.
"""

from __future__ import annotations

from collections.abc import Callable

from s3dlio.errors import (
    AccessDeniedError,
    NotFoundError,
    OptionError,
    StoreUnavailableError,
)
from s3dlio.wire.head import ProtocolError
from s3dlio.wire.probe import is_certificate_fault, is_name_fault, is_tls_fault
from s3dlio.wire.refusals import Refused

_CLOCK = "the clock of this machine is wrong: set it (timedatectl set-ntp true)"
_EXPIRED = "the credentials have expired: log in again (aws sso login) or get new temporary ones"
_REGION = "the region is not the bucket's: set --region or AWS_REGION to the one that the message names"
_BUCKET = "there is no such bucket: compare with 's3dlio list-buckets', or make it with 's3dlio create-bucket'"
_DENIED = "the server knows you and forbids this: ask for the permission to list, read and write there"
_KEY = "the secret does not belong to the key id, or something on the way changes requests: copy both anew"
_SERVER = "this is no object store, or not its address: check --endpoint-url, its port and its path"
_BUSY = "the server has trouble of its own: try again later, and tell whoever runs it"
_ACCOUNT = "the key does not belong to the account, or has been replaced: copy it anew (or set the clock)"

#: A server's code -> what to do.
_BY_CODE = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidAuthenticationInfo": _EXPIRED,
    "InvalidToken": "the session token does not belong to the key: unset AWS_SESSION_TOKEN, or get all three anew",
    "InvalidAccessKeyId": "this server does not know the key id: is it of this endpoint? check the key and profile",
    "SignatureDoesNotMatch": _KEY,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AuthorizationPermissionMismatch": _DENIED,
    "AuthorizationFailure": "the account's firewall does not let this machine in: allow its address",
    "AuthenticationFailed": _ACCOUNT,
    "NoSuchBucket": _BUCKET,
    "ContainerNotFound": _BUCKET,
    "InvalidBucketName": "no bucket can have this name: check the URI",
    "InvalidResourceName": "no container can have this name: check the URI",
    "UserProjectMissing": "the bucket lets requesters pay: this is not supported",
    "AuthenticationRequired": "the bucket is not public: give credentials",
    "SlowDown": _BUSY,
    "ServerBusy": _BUSY,
}
_BY_STATUS = {
    301: _REGION,
    307: _REGION,
    400: _SERVER,
    401: "the server does not accept the credentials: check that they are of this server",
    403: "the server refuses, without a reason: check the credentials, the permissions and the clock",
    404: f"{_BUCKET}; or {_SERVER}",
    405: _SERVER,
    407: "the proxy wants a name and password: set HTTPS_PROXY to http://name:password@host:port",
    501: _SERVER,
}


def advice(error: BaseException) -> str:
    """Return what to do about an error, or nothing where the error itself says all that is known."""
    for cause in _causes(error):
        if isinstance(cause, Refused):
            return _of_answer(cause)
        found = _of_connection(cause)
        if found:
            return found
    return _of_kind(error)


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__
    return found


def _of_answer(refused: Refused) -> str:
    known = _BY_CODE.get(refused.fault.code)
    if known:
        return known
    if refused.is_passing:
        return _BUSY
    # An object store says in a code of its own what is wrong; who says none is something else.
    status = refused.head.status
    return _BY_STATUS.get(status, _SERVER) if not refused.fault.code or status != 400 else ""  # noqa: PLR2004


def _of_connection(error: BaseException) -> str:
    for is_it, what_to_do in _CONNECTION_FAULTS:
        if is_it(error):
            return what_to_do
    return ""


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


#: How connections fail, the more exact before the less, and what to do.
_CONNECTION_FAULTS: tuple[tuple[Callable[[BaseException], bool], str], ...] = (
    (
        is_certificate_fault,
        "the certificate is not trusted here: set AWS_CA_BUNDLE (or SSL_CERT_FILE) to its authority",
    ),
    (is_tls_fault, "TLS cannot be agreed on: does the server speak TLS on this port? else write http://"),
    (is_name_fault, "no such host: check the spelling of the endpoint, the region in it, DNS and VPN"),
    (_is(ConnectionRefusedError), "nothing listens there: is the server running, and is this its port?"),
    (_is(ProtocolError), f"the answer is not HTTP, or broken; does the server want https://? Else {_SERVER}"),
    (_is(TimeoutError), "no answer: a firewall, VPN or proxy (HTTPS_PROXY, NO_PROXY) may be in the way"),
    (_is(ConnectionError), "the connection was cut: by a firewall or proxy, or since the server wants https://"),
)


def _of_kind(error: BaseException) -> str:
    if isinstance(error, NotFoundError):
        return _BUCKET
    if isinstance(error, AccessDeniedError):
        return ""  # the library's own, of missing credentials: it says what to set
    if isinstance(error, PermissionError):
        return "the file's or directory's permissions forbid it: check its owner and mode"
    if isinstance(error, (StoreUnavailableError, OSError)) and not isinstance(error, OptionError):
        return "check the endpoint and the network"
    return ""
