"""From a scheme to the store that speaks it.

Floor 2. The table of backends: a new one is a line here. Modules are imported when their scheme is
first used, so that nobody pays for a cloud they do not use.
"""

from __future__ import annotations

import atexit
import importlib
import os

from s3dlio.bounds import is_a
from s3dlio.errors import OptionError
from s3dlio.options import ENVIRONMENT, StoreOptions
from s3dlio.stores.base import Store
from s3dlio.uri import Uri, parse, unknown_scheme

#: scheme -> module, class, family (whose environment variables and which other spelling it shares).
_BACKENDS = {
    "s3": ("s3dlio.stores.s3", "S3Store", "s3"),
    "gs": ("s3dlio.stores.gcs", "GcsStore", "gs"),
    "gcs": ("s3dlio.stores.gcs", "GcsStore", "gs"),
    "az": ("s3dlio.stores.azure", "AzureStore", "az"),
    "file": ("s3dlio.stores.local", "LocalStore", "file"),
    "direct": ("s3dlio.stores.direct", "DirectStore", "direct"),
    "memory": ("s3dlio.stores.memory", "MemoryStore", "memory"),
}
#: Read by the providers' libraries, not by us; a change means another identity, so another store.
_IDENTITY = {
    "s3": (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
}  # fmt: skip

_open: dict[tuple[object, ...], Store] = {}


def open_store(uri: str | Uri, options: StoreOptions | None = None) -> Store:
    """Return the store for a URI's scheme. Stores are shared: the same settings give the same store.

    Args:
        uri: Any URI of the scheme.
        options: Win over the environment, which is looked at when a store is first opened with it.

    Raises:
        UriError: Nobody here speaks the scheme.
        OptionError: An option or an environment variable is wrong.
    """
    where = parse(uri) if isinstance(uri, str) else uri
    if not is_a(options, StoreOptions, type(None)):
        msg = f"options must be s3dlio.StoreOptions(...), not {type(options).__name__}"
        raise OptionError(msg, operation="open_store")
    backend = _BACKENDS.get(where.scheme)
    family = backend[2] if backend else where.scheme
    settings = (where.scheme if not backend else family, options, _surroundings(family))
    store = _open.get(settings)
    if store is None:
        store = _open.setdefault(settings, _make(where, options or StoreOptions()))
    return store


@atexit.register
def close_stores() -> None:
    """Close the idle connections of all stores of this process and forget the stores."""
    while _open:
        _, store = _open.popitem()
        store.close()


def _surroundings(family: str) -> tuple[str | None, ...]:
    return tuple([os.environ.get(name) for name in _NAMES.get(family, ())])


_NAMES = {
    family: (
        *(v.name for v in ENVIRONMENT if v.option.rpartition(".")[0] in ("", family)),
        *_IDENTITY.get(family, ()),
    )
    for family in ("s3", "gs", "az", "file", "direct")
}


def _make(uri: Uri, options: StoreOptions) -> Store:
    backend = _BACKENDS.get(uri.scheme)
    if backend is None:
        return _make_foreign(uri, options)
    kind: type[Store] = getattr(importlib.import_module(backend[0]), backend[1])
    return kind(options)


def _make_foreign(uri: Uri, options: StoreOptions) -> Store:
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        msg = f"{uri.scheme}:// is served through fsspec, which is not installed: pip install fsspec"
        raise OptionError(msg) from error
    if uri.scheme not in fsspec.available_protocols():
        raise unknown_scheme(uri, set(_BACKENDS))
    try:
        fsspec.get_filesystem_class(uri.scheme)
    except ImportError as error:
        msg = f"{uri.scheme}:// needs a further package: {error}"
        raise OptionError(msg) from error
    module = importlib.import_module("s3dlio.stores.fsspec")
    store: Store = module.FsspecStore(options, uri.scheme)
    return store
