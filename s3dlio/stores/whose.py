"""Whose credentials requests would carry, told without anything secret.

Floor 2. Knows where each provider's library has found what it uses; must not know requests, nor show more of a
key than its two ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import urllib.parse
from typing import Any, NamedTuple

from s3dlio.options import StoreOptions
from s3dlio.stores.credentials import aws_session

_SHOWN = 4
_LEAST_SHOWN = 12
#: What botocore calls its providers, and what people do.
_AWS_SOURCES = {
    "env": "environment variables",
    "shared-credentials-file": "shared credentials file",
    "config-file": "AWS configuration file",
    "assume-role": "assumed role",
    "assume-role-with-web-identity": "assumed role, by web identity",
    "sso": "single sign-on",
    "login": "aws login",
    "custom-process": "a program (credential_process)",
    "container-role": "role of the container",
    "iam-role": "role of the instance",
}


class Whose(NamedTuple):
    """Where credentials come from.

    Attributes:
        source: In a few words; empty where there are none.
        name: Key id with its middle left out, or an account's name.
        detail: What else matters: a profile, an end.
    """

    source: str
    name: str = ""
    detail: str = ""


def masked(key_id: str) -> str:
    """Return the two ends of a key id; it is no secret, but need not be in a report."""
    if len(key_id) < _LEAST_SHOWN:
        return f"{key_id[:2]}..."
    return f"{key_id[:_SHOWN]}...{key_id[-_SHOWN:]}"


def whose(family: str, options: StoreOptions) -> Whose:
    """Find out whose credentials a store would use.

    Args:
        family: ``s3``, ``gs`` or ``az``.
        options: The store's settings, the environment's among them.

    Raises:
        OptionError: The configuration names a profile that is not there, or cannot be read.
        Exception: Whatever the provider's library raises when it looks.
    """
    if options.anonymous:
        return Whose("none: requests go unsigned (anonymous)")
    return {"s3": _aws, "gs": _google, "az": _azure}[family](options)


def _aws(options: StoreOptions) -> Whose:
    if options.access_key_id:
        return Whose("given by the program", masked(options.access_key_id))
    session = aws_session(options.profile)
    found = session.get_credentials()
    if found is None:
        return Whose("")
    frozen = found.get_frozen_credentials()
    details = [f"profile {session.profile}"] if session.profile else []
    details += ["temporary"] if frozen.token else []
    end = getattr(found, "_expiry_time", None)
    details += [f"until {end:%Y-%m-%d %H:%M:%S} UTC"] if end is not None else []
    return Whose(_AWS_SOURCES.get(found.method, str(found.method)), masked(frozen.access_key), ", ".join(details))


def _google(options: StoreOptions) -> Whose:
    if options.bearer_token:
        return Whose("given by the program", detail="bearer token")
    if options.endpoint_url:
        return Whose("none: an emulator takes no credentials")
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.auth") is None:
        return Whose("", detail="google-auth is not installed: pip install 's3dlio[gs]'")
    auth = importlib.import_module("google.auth")
    try:
        found, project = auth.default()
    except auth.exceptions.DefaultCredentialsError:
        return Whose("")
    name: Any = getattr(found, "service_account_email", "")
    return Whose("application default credentials", str(name), f"project {project}" if project else "")


def _azure(options: StoreOptions) -> Whose:
    if options.account_key:
        return Whose("shared key", options.account or "")
    if options.sas_token:
        parts = dict(urllib.parse.parse_qsl(options.sas_token.lstrip("?")))
        return Whose("shared access signature", options.account or "", f"until {parts['se']}" if "se" in parts else "")
    if options.bearer_token:
        return Whose("given by the program", detail="bearer token")
    if importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.identity") is None:
        return Whose("", detail="no AZURE_STORAGE_KEY, and azure-identity is not installed: pip install 's3dlio[az]'")
    return Whose("azure-identity's default chain", options.account or "")
