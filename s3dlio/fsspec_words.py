"""What users of s3fs and its kin say to a file system, in this library's words.

Floor 6. Knows names only; must not know paths or files. What has no counterpart here and would change which bytes are
read, or how they are kept, is refused; what only tunes the other library's machinery is taken and means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from s3dlio.bounds import is_a, whole
from s3dlio.errors import OptionError, suggest

#: What s3fs calls the options of a store.
_ALIASES = {
    "key": "access_key_id", "username": "access_key_id", "secret": "secret_access_key",
    "password": "secret_access_key", "token": "session_token", "anon": "anonymous", "endpoint": "endpoint_url",
    "account_name": "account",
}  # fmt: skip
#: What s3fs hands to botocore as ``client_kwargs``, by our names.
_CLIENT_ALIASES = {
    "endpoint_url": "endpoint_url", "region_name": "region", "verify": "ca_bundle",
    "aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}  # fmt: skip
#: What s3fs hands to botocore as ``config_kwargs``, by our names. What is in ``s3`` and ``retries`` is looked at itself.
_CONFIG_ALIASES = {
    "region_name": "region", "connect_timeout": "connect_timeout_s", "read_timeout": "read_timeout_s",
    "max_pool_connections": "max_connections", "addressing_style": "addressing_style", "max_attempts": "max_attempts",
    "total_max_attempts": "max_attempts",
}  # fmt: skip
#: Options that fsspec and its wrappers give to every file system, or that tune what there is none of here.
_FOREIGN = (
    "asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths",
    "default_fill_cache", "cache_regions", "max_concurrency", "fixed_upload_size",
)  # fmt: skip
#: How an object is kept, by s3fs's (that is, botocore's) names and by ours.
_KEPT = {
    "ContentType": "content_type", "Metadata": "metadata", "StorageClass": "storage_class",
    "content_type": "content_type", "metadata": "metadata", "storage_class": "storage_class",
}  # fmt: skip


class Defaults(NamedTuple):
    """What files of a file system are opened with, unless the call says else.

    Attributes:
        block_size: As of ``open``.
        cache_type: As of ``open``.
        kept: How objects are kept, by the names of :class:`s3dlio.WriterOptions`.
    """

    block_size: int | None
    cache_type: str | None
    kept: dict[str, Any]


def options_and_defaults(options: Mapping[str, Any]) -> tuple[dict[str, Any], Defaults]:
    """Return what a file system was given: the options of its store by our names, and the defaults of its files.

    Raises:
        OptionError: Something that matters has no counterpart here. Misspelt options of the store are left to it.
    """
    given = {_ALIASES.get(name, name): value for name, value in options.items() if name not in _FOREIGN}
    size = given.pop("default_block_size", None)
    defaults = Defaults(
        None if size is None else whole("default_block_size", size, 1),
        given.pop("default_cache_type", None),
        kept_as(_named("s3_additional_kwargs", given.pop("s3_additional_kwargs", None))),
    )
    _take(given, "client_kwargs", _CLIENT_ALIASES)
    config = _named("config_kwargs", given.pop("config_kwargs", None))
    inner = [_named(name, config.pop(name, None)) for name in ("s3", "retries")]
    given["config_kwargs"] = {name: value for part in (config, *inner) for name, value in part.items()}
    _take(given, "config_kwargs", _CONFIG_ALIASES)
    if given.pop("use_ssl", True) is False and not str(given.get("endpoint_url", "")).startswith("http://"):
        msg = "use_ssl=False goes with an endpoint_url that begins with http://"
        raise OptionError(msg)
    for name in ("version_aware", "session"):
        if given.pop(name, None):
            msg = f"{name} has no counterpart here: leave it out"
            raise OptionError(msg)
    return given, defaults


def _named(name: str, value: Any) -> dict[str, Any]:
    if not is_a(value, Mapping, type(None)):
        msg = f"{name} must be a mapping, not {value!r:.80}"
        raise OptionError(msg)
    return dict(value or {})


def _take(given: dict[str, Any], where: str, aliases: Mapping[str, str]) -> None:
    """Put what is in one of the mappings to the options, where it yields to what stands there."""
    for name, value in _named(where, given.pop(where, None)).items():
        if name not in aliases:
            msg = f"{where} are botocore's, which is not used here; {name!r} has no counterpart"
            raise OptionError(msg + suggest(name, list(aliases)))
        given.setdefault(aliases[name], value)


def kept_as(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return how an object is to be kept: ``content_type``, ``metadata``, ``storage_class``, what there is of them.

    Args:
        given: The further arguments of a call, by s3fs's names or ours; others that are fsspec's mean nothing.
        defaults: What holds where the call is silent.

    Raises:
        OptionError: One is botocore's (``ACL``, ``ServerSideEncryption``) or s3fs's (``version_id``), and matters.
    """
    found = dict(defaults or {})
    for name, value in given.items():
        if name in _KEPT:
            if value is not None:
                found[_KEPT[name]] = value
        elif name[:1].isupper() or (name in ("acl", "version_id") and value):
            msg = (
                f"{name} has no counterpart here (ContentType, Metadata and StorageClass have): leave it out, and let "
                "the bucket's own settings say it where they can"
            )
            raise OptionError(msg)
    return found
