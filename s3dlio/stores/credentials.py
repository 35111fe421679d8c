"""Who we are, to each provider: found by the provider's own library, kept fresh.

Floor 2. Knows botocore's session (profiles, SSO, roles, instance metadata) and google-auth and
azure-identity where they are installed; must not know requests or objects. What is found here never
appears in a log, a repr or an error.
"""

from __future__ import annotations

import importlib
import time
from typing import Any, NamedTuple, Protocol

from s3dlio.errors import AccessDeniedError, OptionError
from s3dlio.options import StoreOptions
from s3dlio.perprocess import PerProcess
from s3dlio.stores.sigv4 import KeyPair

#: botocore renews temporary credentials 15 minutes before they end; asking it once a second is enough
#: and keeps its lock out of the path of every read.
_RECHECK_S = 1.0
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
_AZURE_SCOPE = "https://storage.azure.com/.default"


class AwsSettings(NamedTuple):
    """What the AWS configuration says beside credentials; empty where it says nothing."""

    region: str
    endpoint_url: str
    ca_bundle: str
    addressing_style: str


class AwsIdentity:
    """S3 credentials: given ones, or what boto3's chain finds. Works in forked children.

    Args:
        options: ``access_key_id`` and its siblings win over ``profile`` and the chain.
    """

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._chain = PerProcess(self._find)
        self._cached: tuple[float, KeyPair | None] = (0.0, None)

    def current(self) -> KeyPair | None:
        """Return credentials that are valid now; ``None`` means that requests go unsigned.

        Raises:
            AccessDeniedError: None are found, or temporary ones cannot be renewed.
        """
        until, pair = self._cached
        now = time.monotonic()
        if now >= until:
            pair = self._ask()
            self._cached = (now + _RECHECK_S, pair)
        return pair

    def renew(self) -> None:
        """Look for credentials anew, for example after the server has refused them."""
        self._chain = PerProcess(self._find)
        self._cached = (0.0, None)

    def _ask(self) -> KeyPair | None:
        options = self._options
        if options.anonymous:
            return None
        if options.access_key_id and options.secret_access_key:
            return KeyPair(options.access_key_id, options.secret_access_key, options.session_token or "")
        try:
            frozen = self._chain.get().get_frozen_credentials()
        except Exception as error:
            if isinstance(error, (AccessDeniedError, OptionError)):
                raise
            # botocore raises dozens of unrelated classes here (SSO expired, role refused, no network).
            msg = f"the AWS credentials cannot be renewed: {error}"
            raise AccessDeniedError(msg) from error
        return KeyPair(frozen.access_key, frozen.secret_key, frozen.token or "")

    def _find(self) -> Any:
        credentials = aws_session(self._options.profile).get_credentials()
        if credentials is None:
            msg = (
                "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
                "or open the store with anonymous=True"
            )
            raise AccessDeniedError(msg)
        return credentials


def aws_session(profile: str | None) -> Any:
    """Return a new botocore session, for one profile if one is named.

    Raises:
        OptionError: There is no such profile.
    """
    import botocore.exceptions  # noqa: PLC0415 - 120 ms that only s3:// needs
    import botocore.session  # noqa: PLC0415

    session = botocore.session.Session(profile=profile)
    try:
        session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound as error:
        msg = f"there is no AWS profile {session.profile!r} in the configuration files"
        raise OptionError(msg) from error
    return session


def aws_settings(profile: str | None) -> AwsSettings:
    """Return what the AWS configuration files say about how to reach S3."""
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


class GoogleIdentity:
    """Google's application default credentials, by google-auth. Works in forked children."""

    def __init__(self) -> None:
        self._credentials = PerProcess(self._find)

    def current(self) -> str:
        """Return an access token, renewed shortly before it ends.

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
        return str(credentials.token)

    def renew(self) -> None:
        """Forget the token."""
        self._credentials = PerProcess(self._find)

    @staticmethod
    def _find() -> Any:
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


class AzureIdentity:
    """Azure's default credential chain, by azure-identity. Works in forked children."""

    def __init__(self) -> None:
        self._credential = PerProcess(self._find)
        self._token: tuple[float, str] = (0.0, "")

    def current(self) -> str:
        """Return an access token, renewed five minutes before it ends.

        Raises:
            AccessDeniedError: azure-identity is missing or finds no credentials.
        """
        until, token = self._token
        if time.time() < until - 300:
            return token
        try:
            fresh = self._credential.get().get_token(_AZURE_SCOPE)
        except importlib.import_module("azure.core.exceptions").ClientAuthenticationError as error:
            msg = f"no Azure credentials found: {error}"
            raise AccessDeniedError(msg) from error
        self._token = (float(fresh.expires_on), str(fresh.token))
        return self._token[1]

    def renew(self) -> None:
        """Forget the token."""
        self._token = (0.0, "")

    @staticmethod
    def _find() -> Any:
        try:
            return importlib.import_module("azure.identity").DefaultAzureCredential()
        except ImportError as error:
            msg = (
                "no Azure key: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or install azure-identity "
                "for the default chain: pip install 's3dlio[az]'"
            )
            raise AccessDeniedError(msg) from error
