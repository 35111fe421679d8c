"""Who we are, to each provider: found by the provider's own library, kept fresh.

Floor 2. Knows botocore's session (profiles, SSO, roles, instance metadata) and google-auth and
azure-identity where they are installed; must not know requests or objects. What is found here never
appears in a log, a repr or an error.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from s3dlio.errors import AccessDeniedError, OptionError
from s3dlio.options import StoreOptions, aws_keys, has_aws_files
from s3dlio.perprocess import PerProcess
from s3dlio.stores.sigv4 import KeyPair

T = TypeVar("T")

#: botocore renews temporary credentials 15 minutes before they end; asking it once a second is enough
#: and keeps its lock out of the path of every read.
_RECHECK_S = 1.0
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
_AZURE_MARGIN_S = 300.0
_AZURE_SCOPE = "https://storage.azure.com/.default"


class AwsSettings(NamedTuple):
    """What the AWS configuration says beside credentials; empty where it says nothing."""

    region: str
    endpoint_url: str
    ca_bundle: str
    addressing_style: str


class _Kept(NamedTuple, Generic[T]):
    """What was found, until when it is good, and how often others were refused before it."""

    value: T
    until: float
    generation: int


class Keeper(Generic[T]):
    """Keeps what is slow to find, and lets one thread at a time look for it.

    A thousand readers that start, or are refused, at once would else each ask a metadata service, a
    token server or a program for the same thing.

    Args:
        find: Returns a value and for how many seconds it is good.
        forget: Called before a search for something else than what was refused.
    """

    def __init__(self, find: Callable[[], tuple[T, float]], forget: Callable[[], object]) -> None:
        self._find = find
        self._forget = forget
        self._kept: _Kept[T] | None = None
        self._generation = 0
        self._lock = PerProcess(threading.Lock)
        self._used = threading.local()

    def current(self) -> T:
        """Return what is good now."""
        kept = self._kept
        if kept is None or time.monotonic() >= kept.until:
            kept = self._refreshed(kept)
        self._used.generation = kept.generation
        return kept.value

    def _refreshed(self, old: _Kept[T] | None) -> _Kept[T]:
        lock = self._lock.get()
        # What was good until now serves on while another thread looks for something newer.
        if not lock.acquire(blocking=old is None) and old is not None:
            return old
        try:
            kept = self._kept
            if kept is None or time.monotonic() >= kept.until:
                value, seconds = self._find()
                if kept is not None and kept.value != value:
                    self._generation += 1
                kept = self._kept = _Kept(value, time.monotonic() + seconds, self._generation)
            return kept
        finally:
            lock.release()

    def renew(self) -> None:
        """Look anew, since what this thread used last was refused, unless another thread has done so."""
        with self._lock.get():
            used = getattr(self._used, "generation", None)
            if self._kept is not None and used == self._kept.generation:
                self._forget()
                self._kept = None
                self._generation += 1


class AwsIdentity(Keeper[KeyPair | None]):
    """S3 credentials: given ones, or what boto3's chain finds. Works in forked children.

    ``None`` means that requests go unsigned.

    Args:
        options: ``access_key_id`` and its siblings win over ``profile`` and the chain.
    """

    def __init__(self, options: StoreOptions) -> None:
        super().__init__(self._ask, self._forget_chain)
        self._options = options
        self._chain = PerProcess(self._search)

    def _forget_chain(self) -> None:
        self._chain = PerProcess(self._search)

    def _ask(self) -> tuple[KeyPair | None, float]:
        options = self._options
        if options.anonymous:
            return None, _RECHECK_S
        if options.access_key_id and options.secret_access_key:
            pair = KeyPair(options.access_key_id, options.secret_access_key, options.session_token or "")
            return pair, _RECHECK_S
        keys = None if options.profile else aws_keys()
        return _sendable(KeyPair(*keys) if keys else self._from_chain()), _RECHECK_S

    def _from_chain(self) -> KeyPair:
        try:
            frozen = self._chain.get().get_frozen_credentials()
        except Exception as error:
            if isinstance(error, (AccessDeniedError, OptionError)):
                raise
            # botocore raises dozens of unrelated classes here (SSO expired, role refused, no network).
            msg = f"the AWS credentials cannot be renewed: {error}"
            raise AccessDeniedError(msg) from error
        return KeyPair(frozen.access_key, frozen.secret_key, frozen.token or "")

    def _search(self) -> Any:
        credentials = aws_session(self._options.profile).get_credentials()
        if credentials is None:
            msg = (
                "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
                "or open the store with anonymous=True"
            )
            raise AccessDeniedError(msg)
        return credentials


def _sendable(pair: KeyPair) -> KeyPair:
    if not all(part.isascii() and part.isprintable() for part in pair):
        msg = "the AWS credentials hold characters that cannot be sent; copy them anew"
        raise AccessDeniedError(msg)
    return pair


def aws_session(profile: str | None) -> Any:
    """Return a new botocore session, for one profile if one is named.

    Raises:
        OptionError: There is no such profile, or a configuration file cannot be read.
    """
    import botocore.exceptions  # noqa: PLC0415 - 120 ms that only s3:// needs
    import botocore.session  # noqa: PLC0415

    session = botocore.session.Session(profile=profile)
    try:
        session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound as error:
        msg = f"there is no AWS profile {session.profile!r} in the configuration files"
        raise OptionError(msg) from error
    except botocore.exceptions.ConfigParseError as error:
        raise OptionError(str(error)) from error
    return session


def aws_settings(profile: str | None) -> AwsSettings:
    """Return what the AWS configuration files say about how to reach S3."""
    if profile is None and not has_aws_files():
        return AwsSettings("", "", "", "")
    session = aws_session(profile)
    scoped = session.get_scoped_config()
    s3 = scoped.get("s3")
    return AwsSettings(
        region=session.get_config_variable("region") or "",
        endpoint_url=scoped.get("endpoint_url", ""),
        ca_bundle=session.get_config_variable("ca_bundle") or "",
        addressing_style=s3.get("addressing_style", "") if isinstance(s3, dict) else "",
    )


class BearerIdentity(Protocol):
    """Something that has an OAuth token."""

    def current(self) -> str:
        """Return a token that is valid now."""

    def renew(self) -> None:
        """Forget the token."""


class FixedToken:
    """A token that the caller gave (possibly none: unsigned requests)."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def current(self) -> str:
        """Return the token."""
        return self._token

    def renew(self) -> None:
        """Do nothing: there is only this one."""


class GoogleIdentity(Keeper[str]):
    """Google's application default credentials, by google-auth. Works in forked children."""

    def __init__(self) -> None:
        super().__init__(self._ask, self._forget_credentials)
        self._credentials = PerProcess(self._search)

    def _forget_credentials(self) -> None:
        self._credentials = PerProcess(self._search)

    def _ask(self) -> tuple[str, float]:
        """Return an access token; google-auth renews it shortly before it ends.

        Raises:
            AccessDeniedError: google-auth is missing or finds no credentials.
        """
        credentials = self._credentials.get()
        if not credentials.valid:
            transport = importlib.import_module("google.auth.transport.requests")
            try:
                credentials.refresh(transport.Request())
            except importlib.import_module("google.auth.exceptions").GoogleAuthError as error:
                msg = f"the Google credentials cannot be renewed: {error}"
                raise AccessDeniedError(msg) from error
        return str(credentials.token), _RECHECK_S

    @staticmethod
    def _search() -> Any:
        try:
            auth = importlib.import_module("google.auth")
        except ImportError as error:
            msg = "gs:// with credentials needs google-auth: pip install 's3dlio[gs]' (or anonymous=True)"
            raise AccessDeniedError(msg) from error
        try:
            credentials, _project = auth.default(scopes=[_GOOGLE_SCOPE])
        except auth.exceptions.DefaultCredentialsError as error:
            msg = f"no Google credentials found: {error}"
            raise AccessDeniedError(msg) from error
        return credentials


class AzureIdentity(Keeper[str]):
    """Azure's default credential chain, by azure-identity. Works in forked children."""

    def __init__(self) -> None:
        super().__init__(self._ask, lambda: None)
        self._credential = PerProcess(self._search)

    def _ask(self) -> tuple[str, float]:
        """Return an access token, and for how long it is good: until five minutes before its end.

        Raises:
            AccessDeniedError: azure-identity is missing or finds no credentials.
        """
        credential = self._credential.get()
        try:
            fresh = credential.get_token(_AZURE_SCOPE)
        except importlib.import_module("azure.core.exceptions").ClientAuthenticationError as error:
            msg = f"no Azure credentials found: {error}"
            raise AccessDeniedError(msg) from error
        return str(fresh.token), float(fresh.expires_on) - time.time() - _AZURE_MARGIN_S

    @staticmethod
    def _search() -> Any:
        try:
            return importlib.import_module("azure.identity").DefaultAzureCredential()
        except ImportError as error:
            msg = (
                "no Azure key: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or install azure-identity "
                "for the default chain: pip install 's3dlio[az]'"
            )
            raise AccessDeniedError(msg) from error
