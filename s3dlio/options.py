"""Settings: frozen values with units and bounds, and the only place that reads the environment.

Floor 1. Knows names, defaults and their evidence; must not know who uses them. A setting comes from,
in this order: the caller's :class:`StoreOptions`, the environment, the provider's own configuration
files (read by botocore, for S3), the default here.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from s3dlio.errors import OptionError, suggest
from s3dlio.memory import MIB
from s3dlio.texts import (
    LEAST_PART_BYTES,
    read_base64,
    read_count,
    read_emulator,
    read_flag,
    read_part_size,
    read_url,
    read_verbosity,
    url_fault,
)

_T = TypeVar("_T")

#: Bytes per range of a split read. 8 MiB keeps eight connections busy on objects of 64 MiB and adds
#: one request per 8 MiB; 4 and 16 MiB were within noise of it on loopback.
DEFAULT_CHUNK_BYTES = 8 * MIB
#: Ranges of one object in flight. On loopback 8 beat 4 and 16 gained nothing more; a store behind a
#: network serves 50-100 MB/s per connection, so more are worth it there.
DEFAULT_CONCURRENT_RANGES = 16
#: Objects in flight in one call.
DEFAULT_IN_FLIGHT = 64
#: See :class:`StoreOptions`.
PAGE_CACHE_MODES = ("auto", "sequential", "random", "normal", "dontneed")
DEFAULT_MAX_CONNECTIONS = 400  # the default of the original's S3DLIO_MAX_HTTP_CONNECTIONS example


def checked(cls: type[_T]) -> type[_T]:
    """Make a keyword-only dataclass refuse unknown names with the nearest valid one."""
    known = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    plain_init: Callable[..., None] = cls.__init__

    def init(self: _T, *args: object, **options: object) -> None:
        for name in options:
            if name not in known:
                msg = f"{cls.__name__} has no option {name!r}{suggest(name, known)}"
                raise OptionError(msg)
        plain_init(self, *args, **options)

    cls.__init__ = init  # type: ignore[assignment]
    return cls


def require(condition: object, message: str) -> None:
    """Raise :class:`OptionError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise OptionError(message)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How to reach a store and how to read from it. ``None`` means: find out (see the module's order).

    Secrets are left out of ``repr``.

    Attributes:
        endpoint_url: ``http(s)://host[:port]`` of an S3-compatible server or an emulator.
        region: S3 region. Default: the provider chain's, else ``us-east-1``.
        profile: Name of an AWS profile.
        access_key_id: S3 key pair, instead of the credential chain of boto3.
        secret_access_key: See ``access_key_id``.
        session_token: Third part of temporary S3 credentials.
        anonymous: Send unsigned requests (public buckets).
        requester_pays: Say with every request to S3 that you, and not the bucket's owner, pay for it. Buckets whose
            requesters pay refuse those who do not say so.
        addressing_style: ``"path"``, ``"virtual"`` or ``"auto"``: path style with an ``endpoint_url``.
        account: Azure storage account.
        account_key: Azure shared key, base64.
        sas_token: Azure shared access signature (a query string).
        bearer_token: OAuth token for ``gs://`` and ``az://``, instead of the provider's own chain.
        project: Google Cloud project, needed to create and list buckets.
        azure_uri_style: How to read ``az://a/b/c``: ``"account"`` (account/container/key),
            ``"container"`` (container/key), or ``"auto"``.
        ca_bundle: File of certificate authorities, instead of the system's.
        max_connections: Idle connections kept per host.
        connect_timeout_s: Seconds to reach the server.
        read_timeout_s: Seconds without a single byte before a read counts as stalled.
        range_timeout_s: Seconds for one request in all.
        max_attempts: Tries per request, the first included; at most 3 where there was never a connection and nobody
            listens.
        retry_base_s: Mean pause before the second try, in seconds; doubles from try to try.
        retry_max_s: Longest pause between two tries, in seconds.
        split: Read large objects in several ranges at once.
        chunk_size: Bytes per range.
        min_split_size: Objects of at most this many bytes are read in one request.
        max_concurrent_ranges: Ranges of one object in flight.
        put_part_size: Bytes of each part of an object that is streamed to the store. ``None``: as the writer has it
            (16 MiB). What is given to a writer wins.
        put_in_flight: Parts of such an object under way at once. ``None``: as the writer has it (16).
        adaptive: Follow what the server shows, in how many requests are in flight: its latency, what more
            of them gain, and its saying that it is busy. ``False``: as many as a call's ``max_in_flight``.
        upload_checksum: Send the CRC-32C of what is uploaded, where the server can check it (S3, Google Cloud).
        sign_payload: Sign the SHA-256 of what is uploaded to S3 as well. It costs more than all the rest of an
            upload, and is for servers that insist on it.
        verify_puts: Have :func:`s3dlio.put_bytes` ask the server for the size of what it has written.
        verify_uploads: Have :class:`s3dlio.MultipartUploadWriter` ask so too when a single request has written all;
            it always does when there were several.
        page_cache_mode: What the system is told about reads of ``file://`` (``posix_fadvise``; nothing where
            there is none): ``"sequential"`` (read ahead boldly), ``"random"`` (not at all), ``"normal"``
            (nothing is told), ``"dontneed"`` (forget what was read, for data that is read once), or
            ``"auto"``: sequential for large reads, random for small ranges. No byte depends on it. With ``"auto"``
            and ``"dontneed"`` large checkpoints are written past the page cache, where the file system can do that.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    access_key_id: str | None = dataclasses.field(default=None, repr=False)
    secret_access_key: str | None = dataclasses.field(default=None, repr=False)
    session_token: str | None = dataclasses.field(default=None, repr=False)
    anonymous: bool = False
    requester_pays: bool = False
    addressing_style: str = "auto"
    account: str | None = None
    account_key: str | None = dataclasses.field(default=None, repr=False)
    sas_token: str | None = dataclasses.field(default=None, repr=False)
    bearer_token: str | None = dataclasses.field(default=None, repr=False)
    project: str | None = None
    azure_uri_style: str = "auto"
    ca_bundle: str | None = None
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    range_timeout_s: float = 300.0
    max_attempts: int = 8
    retry_base_s: float = 0.1
    retry_max_s: float = 5.0
    split: bool = True
    chunk_size: int = DEFAULT_CHUNK_BYTES
    min_split_size: int = DEFAULT_CHUNK_BYTES
    max_concurrent_ranges: int = DEFAULT_CONCURRENT_RANGES
    put_part_size: int | None = None
    put_in_flight: int | None = None
    adaptive: bool = True
    upload_checksum: bool = True
    sign_payload: bool = False
    verify_puts: bool = False
    verify_uploads: bool = False
    page_cache_mode: str = "auto"

    def __post_init__(self) -> None:
        """Check bounds and choices.

        Raises:
            OptionError: A value is out of its bounds; the message names it.
        """
        for name, least in _LEAST.items():
            value = getattr(self, name)
            require(value is None or value >= least, f"{name} must be at least {least}, not {value}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            hint = suggest(str(value), choices)
            require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}{hint}")
        paying = self.requester_pays and self.anonymous
        require(not paying, "requester_pays needs signed requests: somebody must pay; leave anonymous at False")
        url = self.endpoint_url
        fault = url is not None and url_fault(url)
        require(not fault, f"endpoint_url {fault}, not {url!r}")
        pair = (self.access_key_id is None, self.secret_access_key is None)
        require(pair[0] == pair[1], "access_key_id and secret_access_key belong together; give both")
        for name in _SENT:
            text = getattr(self, name) or ""
            # In a header field a line end would begin another field. The value itself is not shown.
            require(text.isascii() and text.isprintable(), f"{name} holds characters that cannot be sent; copy it anew")

    def replace(self, **changes: Any) -> StoreOptions:
        """Return a copy with some options changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> StoreOptions:
        """Return the options that the environment asks for.

        Args:
            environ: Variables to read instead of ``os.environ``.

        Raises:
            OptionError: A variable is malformed; the message names it.
        """
        return cls(**read_environment(os.environ if environ is None else environ))


_SENT = ("access_key_id", "secret_access_key", "session_token", "bearer_token", "sas_token")
_LEAST = {
    "max_connections": 1,
    "connect_timeout_s": 0.001,
    "read_timeout_s": 0.001,
    "range_timeout_s": 0.001,
    "max_attempts": 1,
    "retry_base_s": 0,
    "retry_max_s": 0,
    "chunk_size": 64 * 1024,
    "min_split_size": 0,
    "max_concurrent_ranges": 1,
    "put_part_size": LEAST_PART_BYTES,
    "put_in_flight": 1,
}
_CHOICES = {
    "addressing_style": ("auto", "path", "virtual"),
    "azure_uri_style": ("auto", "account", "container"),
    "page_cache_mode": PAGE_CACHE_MODES,
}


class Variable(NamedTuple):
    """One environment variable: its name, the option it sets, how it is read, what it means."""

    name: str
    option: str
    parse: Callable[[str], object]
    meaning: str


def _style(text: str) -> str:
    if text not in _CHOICES["azure_uri_style"]:
        msg = f"must be one of {', '.join(_CHOICES['azure_uri_style'])}{suggest(text, _CHOICES['azure_uri_style'])}"
        raise ValueError(msg)
    return text


def _payer(text: str) -> bool:
    return text.strip().lower() == "requester" or read_flag(text)  # the word is GDAL's and S3's own, others say true


#: Every variable that the library itself reads, later ones winning over earlier ones. The AWS
#: credential variables (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ROLE_ARN, ...) are read by botocore.
#: An option that starts with "gs." belongs to that scheme only.
ENVIRONMENT: tuple[Variable, ...] = (
    Variable("AWS_DEFAULT_REGION", "s3.region", str, "S3 region"),
    Variable("AWS_REGION", "s3.region", str, "S3 region"),
    Variable("AWS_ENDPOINT_URL", "s3.endpoint_url", read_url, "S3-compatible server"),
    Variable("AWS_ENDPOINT_URL_S3", "s3.endpoint_url", read_url, "S3-compatible server; wins over AWS_ENDPOINT_URL"),
    Variable("AWS_CA_BUNDLE", "s3.ca_bundle", str, "file of certificate authorities for S3"),
    Variable("AWS_SKIP_SIGNATURE", "s3.anonymous", read_flag, "send unsigned S3 requests (public buckets)"),
    Variable("AWS_REQUEST_PAYER", "s3.requester_pays", _payer, "requester: you pay for what S3 buckets' owners do not"),
    Variable("AZURE_STORAGE_ACCOUNT", "az.account", str, "Azure storage account"),
    Variable("AZURE_STORAGE_ACCOUNT_NAME", "az.account", str, "same, the name that other tools use"),
    Variable("AZURE_STORAGE_KEY", "az.account_key", read_base64, "Azure shared key"),
    Variable("AZURE_STORAGE_ACCOUNT_KEY", "az.account_key", read_base64, "same, the name that other tools use"),
    Variable("AZURE_STORAGE_SAS_TOKEN", "az.sas_token", str, "Azure shared access signature"),
    Variable(
        "AZURE_STORAGE_ENDPOINT", "az.endpoint_url", read_url, "Azure blob endpoint, account included (emulators)"
    ),
    Variable("AZURE_STORAGE_BLOB_ENDPOINT", "az.endpoint_url", read_url, "same, the name that other tools use"),
    Variable("S3DLIO_AZURE_URI_STYLE", "az.azure_uri_style", _style, "how to read az://: auto, account or container"),
    Variable(
        "STORAGE_EMULATOR_HOST", "gs.endpoint_url", read_emulator, "Google Cloud Storage emulator, no credentials"
    ),
    Variable("GOOGLE_CLOUD_PROJECT", "gs.project", str, "project for creating and listing buckets"),
    Variable("S3DLIO_MAX_HTTP_CONNECTIONS", "max_connections", read_count, "idle connections kept per host"),
    Variable("S3DLIO_RANGE_CONCURRENCY", "max_concurrent_ranges", read_count, "ranges of one object in flight"),
    Variable("S3DLIO_PUT_PART_SIZE", "put_part_size", read_part_size, "bytes of each part of a streamed object"),
    Variable("S3DLIO_PUT_INFLIGHT", "put_in_flight", read_count, "parts of a streamed object in flight"),
    Variable("S3DLIO_PUT_VERIFY", "verify_puts", read_flag, "ask for the size of what put_bytes has written"),
    Variable(
        "S3DLIO_MPU_PUT_VERIFY",
        "verify_uploads",
        read_flag,
        "ask so too for what a MultipartUploadWriter has put with one request; parts are always checked",
    ),
    Variable("S3DLIO_PUT_MAX_RETRIES", "max_attempts", read_count, "tries per request"),
)

#: Accepted for the sake of scripts written for the original, checked, and without effect yet or at all.
ACCEPTED: tuple[Variable, ...] = (
    Variable("S3DLIO_RT_THREADS", "", read_count, "accepted; reader threads follow max_in_flight"),
    Variable("S3DLIO_MPU_MAX_RETRIES", "", read_count, "accepted; each part is tried as any request is"),
    Variable("S3DLIO_PUT_BUFFER_CAPACITY", "", read_count, "accepted; a buffer is as large as a part"),
    Variable("S3DLIO_OPLOG_LEVEL", "", read_verbosity, "accepted; an operation log has a line for each request"),
    Variable("S3DLIO_USE_OPTIMIZED_HTTP", "", read_flag, "accepted; there is one connection pool and it is always on"),
)

#: Options whose values no message shows.
_SECRETS = frozenset(field.name for field in dataclasses.fields(StoreOptions) if not field.repr)


def read_environment(environ: Mapping[str, str], scheme: str | None = None) -> dict[str, Any]:
    """Return the option values that are set in ``environ``.

    Args:
        environ: The variables.
        scheme: ``s3``, ``gs``, ``az`` or an empty string: leave out what belongs to (the) others.

    Raises:
        OptionError: A value cannot be read; the message names the variable, not a secret value.
    """
    values: dict[str, Any] = {}
    for variable in (*ENVIRONMENT, *ACCEPTED):
        text = environ.get(variable.name)
        family, _, option = variable.option.rpartition(".")
        if not text or (scheme is not None and family and family != scheme):
            continue
        try:
            value = variable.parse(text)
        except ValueError as error:
            shown = "" if option in _SECRETS else f"={text!r}"
            msg = f"environment variable {variable.name}{shown}: {error}"
            raise OptionError(msg) from None
        if option:
            values[option] = value
    return values


def resolve(options: StoreOptions, scheme: str, environ: Mapping[str, str] | None = None) -> StoreOptions:
    """Return ``options`` with the environment folded in where the caller has left the default.

    Args:
        options: The caller's.
        scheme: ``s3``, ``gs`` or ``az``; others know no variables of their own.
        environ: Variables to read instead of ``os.environ``.
    """
    found = read_environment(os.environ if environ is None else environ, scheme)
    plain = StoreOptions()
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != getattr(plain, field.name)
    }
    return StoreOptions(**{**found, **given})


def may_have_proxy() -> bool:
    """Tell whether a proxy may be set: by the environment, or where the system has settings of its own."""
    return sys.platform in ("darwin", "win32") or any(name.lower().endswith("_proxy") for name in os.environ)


def aws_keys() -> tuple[str, str, str] | None:
    """Return the S3 key, its secret and a session token as the environment gives them, where botocore need not look.

    The names and their order are botocore's. Keys that are not whole, or that end at a time that is given, are left to it.
    """
    found = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not all(found) or "AWS_CREDENTIAL_EXPIRATION" in os.environ:
        return None
    token = os.environ.get("AWS_SECURITY_TOKEN", os.environ.get("AWS_SESSION_TOKEN", ""))
    return found[0] or "", found[1] or "", token


def has_aws_files() -> bool:
    """Tell whether a profile is named, or one of the files is there that botocore reads settings from."""
    if os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE"):
        return True
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    keys = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return any(os.path.exists(os.path.expanduser(os.path.expandvars(path))) for path in (config, keys))
