"""The original's settings of a process.

Floor 6. Knows the original's names and which environment variables say the same; must not know any backend.
"""

from __future__ import annotations

import logging
import os

from s3dlio.compat.dlio import check_count

_log = logging.getLogger("s3dlio")


def configure_s3(endpoint_url: str | None = None, region: str | None = None, ca_bundle: str | None = None) -> None:
    """Say where ``s3://`` is, from now on, for this process and those that it starts.

    It sets ``AWS_ENDPOINT_URL`` (and ``AWS_ENDPOINT_URL_S3``, where that is set), ``AWS_REGION`` and
    ``AWS_CA_BUNDLE`` in the environment, from which every call takes them. ``open_store(uri, options=...)`` has
    settings for itself alone.

    Args:
        endpoint_url: An S3-compatible server.
        region: The region to sign for.
        ca_bundle: A file of certificate authorities.
    """
    if endpoint_url is not None and "AWS_ENDPOINT_URL_S3" in os.environ:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint_url  # it would win
    given = {"AWS_ENDPOINT_URL": endpoint_url, "AWS_REGION": region, "AWS_CA_BUNDLE": ca_bundle}
    os.environ.update({name: value for name, value in given.items() if value is not None})


def endpoint_uris() -> list[str]:
    """Return the addresses that ``S3_ENDPOINT_URIS`` names, with commas between them."""
    return [text.strip() for text in os.environ.get("S3_ENDPOINT_URIS", "").split(",") if text.strip()]


class _Grpc:
    """What was said about the original's gRPC connections to Google."""

    channels = 0
    rapid: bool | None = None


def gcs_set_channel_count(n: int) -> None:
    """Take the original's number of gRPC channels; it has no effect: ``gs://`` goes over HTTP here.

    Raises:
        OptionError: It is less than 1.
    """
    check_count("n", n)
    _Grpc.channels = n
    _log.debug("gcs_set_channel_count(%d): taken, without effect: gs:// goes over HTTP", n)


def gcs_get_channel_count() -> int:
    """Return what :func:`gcs_set_channel_count` was told, 0 before that."""
    return _Grpc.channels


def gcs_set_rapid_mode(force: bool | None = None) -> None:  # noqa: FBT001 - the original's
    """Take whether buckets are of the rapid kind, which speak gRPC alone and cannot be reached from here.

    ``True`` has no effect but a warning in the log ``s3dlio``; ``False`` and ``None`` are what is the case.
    """
    _Grpc.rapid = force
    if force:
        _log.warning("gcs_set_rapid_mode(True) has no effect: gs:// goes over HTTP, which rapid buckets do not speak")


def gcs_get_rapid_mode() -> bool | None:
    """Return what :func:`gcs_set_rapid_mode` was told, ``None`` before that."""
    return _Grpc.rapid
