"""A storage for the DLIO benchmark, on every scheme of this library.

Floor 6. Knows DLIO's interface for storages, and the verbs; is imported by DLIO only, which must be installed.
"""

from __future__ import annotations

import os
from typing import Any

from dlio_benchmark.common.enumerations import MetadataType, NamespaceType
from dlio_benchmark.storage.storage_handler import DataStorage, Namespace

from s3dlio import api, buckets, removal
from s3dlio.buffers import BytesView
from s3dlio.errors import NotFoundError
from s3dlio.uri import parse

#: DLIO's option -> the variable that says the same. What the environment has already, it keeps.
_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "region": "AWS_REGION",
    "endpoint_url": "AWS_ENDPOINT_URL",
}
_WITH_FOLDERS = ("file", "direct")
_RANKS = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK")


class S3dlioStorage(DataStorage):
    """What DLIO reads and writes through: ``s3://``, ``gs://``, ``az://``, ``file://``, ``direct://``.

    Settings come from ``storage_options`` (``access_key_id``, ``secret_access_key``, ``region``,
    ``endpoint_url``), or from the environment, which wins. Of several servers (``endpoint_uris``) each rank takes one.
    Failures are raised, never told as "not there".

    Args:
        namespace: The root: a URI, or a bucket's name for ``s3://``.
        framework: DLIO's.
    """

    def __init__(self, namespace: str, framework: Any = None) -> None:
        super().__init__(framework)
        self.root = namespace if "://" in namespace else f"s3://{namespace}"
        self.namespace = Namespace(namespace, NamespaceType.FLAT)
        options = dict(getattr(self._args, "storage_options", None) or {})
        servers = getattr(self._args, "endpoint_uris", None) or options.get("endpoint_uris")
        if servers:
            options["endpoint_url"] = servers[_rank() % len(servers)]
        for name, variable in _VARIABLES.items():
            if options.get(name):
                os.environ.setdefault(variable, str(options[name]))

    # -- names ------------------------------------------------------------------------------------------

    def get_uri(self, id: str) -> str:  # noqa: A002 - DLIO's name, here and below
        """Return the URI of a path below the root; URIs pass."""
        return id if "://" in id else f"{self.root.rstrip('/')}/{id.lstrip('/')}"

    def get_basename(self, id: str) -> str:  # noqa: A002
        """Return what follows the last slash."""
        return os.path.basename(id)

    # -- what there is ----------------------------------------------------------------------------------

    def create_namespace(self, exist_ok: bool = False) -> bool:  # noqa: FBT001, FBT002
        """Do nothing: the bucket must exist."""
        return True

    def get_namespace(self) -> Any:
        """Return what kind of thing the root is."""
        return self.get_node()

    def create_node(self, id: str, exist_ok: bool = False) -> bool:  # noqa: A002, FBT001, FBT002
        """Make a directory, where there is such a thing: in buckets a key's slashes are enough."""
        uri = self.get_uri(id)
        if parse(uri).scheme in _WITH_FOLDERS:
            buckets.mkdir(uri)
        return True

    def get_node(self, id: str = "") -> Any:  # noqa: A002
        """Return whether a path is a file or a directory; ``None`` if it is not there."""
        uri = self.get_uri(id).rstrip("/")
        try:
            if buckets.list_uris(f"{uri}/", recursive=False):
                return MetadataType.DIRECTORY
        except NotFoundError:
            return None
        return MetadataType.FILE if uri.count("/") > 2 and api.exists(uri) else None  # noqa: PLR2004 - scheme://bucket

    def walk_node(self, id: str, use_pattern: bool = False) -> list[str]:  # noqa: A002, FBT001, FBT002
        """List the names directly below a path; with ``use_pattern``, the paths that a glob finds."""
        uri = self.get_uri(id)
        if use_pattern:
            folder, _, pattern = uri.rpartition("/")
            return buckets.list_uris(f"{folder}/", recursive=False, pattern=f"glob:{pattern}")
        base = f"{uri.rstrip('/')}/"
        try:
            found = buckets.list_uris(base, recursive=False)
        except NotFoundError:
            return []
        return [name.removeprefix(base).rstrip("/") for name in found]

    def isfile(self, id: str) -> bool:  # noqa: A002
        """Tell whether an object is there."""
        return api.exists(self.get_uri(id))

    def delete_node(self, id: str) -> bool:  # noqa: A002
        """Delete an object; one that is not there is fine."""
        removal.delete(self.get_uri(id))
        return True

    # -- data -------------------------------------------------------------------------------------------

    def put_data(self, id: str, data: Any, offset: int | None = None, length: int | None = None) -> None:  # noqa: A002
        """Write an object: bytes-like, or what has ``getbuffer()``, as ``io.BytesIO`` does."""
        api.put_bytes(self.get_uri(id), data.getbuffer() if hasattr(data, "getbuffer") else data)

    def get_data(self, id: str, data: Any = None, offset: int | None = None, length: int | None = None) -> BytesView:  # noqa: A002
        """Read an object, or a range of it."""
        if offset is None and length is None:
            return api.get(self.get_uri(id))
        return api.get_range(self.get_uri(id), offset or 0, length)


def _rank() -> int:
    """Return which process of the run this is, as its launcher says."""
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name)), 0)
