"""The verbs with settings of one's own.

Floor 6. Knows that the verbs look at ``context_options``; must not know any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from s3dlio import api, buckets, removal, transfers
from s3dlio.awaitable import awaitable
from s3dlio.bounds import is_a
from s3dlio.context import context_options
from s3dlio.object_writer import create_writer
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store as shared_store
from s3dlio.uri import Uri, parse

P = ParamSpec("P")
T = TypeVar("T")


def _with_options(verb: Callable[P, T]) -> Callable[Concatenate[ObjectStore, P], T]:
    """Return a method that runs ``verb`` with the settings of its object."""

    @wraps(verb)
    def method(self: ObjectStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        reset = context_options.set(self.options)
        try:
            return verb(*args, **kwargs)
        finally:
            context_options.reset(reset)

    method.__doc__ = f"Do as :func:`s3dlio.{verb.__name__}` does, with this store's settings."
    return method


class ObjectStore:
    """The verbs, with settings that win over the environment's.

    Thread-safe; works in forked children; pickles as its settings.

    Args:
        options: The settings.

    Example:
        >>> store = ObjectStore(StoreOptions(chunk_size=16 << 20))
        >>> store.put("memory://demo/b", b"eggs")
        >>> store.get("memory://demo/b")
        b'eggs'
    """

    def __init__(self, options: StoreOptions | None = None) -> None:
        self.options = options or StoreOptions()

    get = _with_options(api.get)
    get_range = _with_options(api.get_range)
    get_into = _with_options(api.get_into)
    get_many = _with_options(api.get_many)
    get_many_stats = _with_options(api.get_many_stats)
    stat = _with_options(api.stat)
    stat_many = _with_options(api.stat_many)
    exists = _with_options(api.exists)
    put = _with_options(api.put)
    put_bytes = _with_options(api.put_bytes)
    put_many = _with_options(api.put_many)
    delete = _with_options(removal.delete)
    abort_uploads = _with_options(removal.abort_uploads)
    list = _with_options(buckets.list_uris)
    iter_objects = _with_options(buckets.iter_objects)
    create_writer = _with_options(create_writer)
    mkdir = _with_options(buckets.mkdir)
    create_bucket = _with_options(buckets.create_bucket)
    delete_bucket = _with_options(buckets.delete_bucket)
    list_containers = _with_options(buckets.list_containers)
    copy = _with_options(transfers.copy)
    download = _with_options(transfers.download)
    upload = _with_options(transfers.upload)
    get_async = awaitable(get)
    get_range_async = awaitable(get_range)
    get_into_async = awaitable(get_into)
    get_many_async = awaitable(get_many)
    get_many_stats_async = awaitable(get_many_stats)
    put_async = awaitable(put)
    put_bytes_async = awaitable(put_bytes)
    put_many_async = awaitable(put_many)
    stat_async = awaitable(stat)
    stat_many_async = awaitable(stat_many)
    exists_async = awaitable(exists)
    delete_async = awaitable(delete)
    abort_uploads_async = awaitable(abort_uploads)
    mkdir_async = awaitable(mkdir)
    copy_async = awaitable(copy)
    download_async = awaitable(download)
    upload_async = awaitable(upload)
    list_async = awaitable(list)  # noqa: A003 - the verb above

    def __repr__(self) -> str:
        """Show the settings, secrets left out."""
        return f"ObjectStore({self.options!r})"


def open_store(uri: str, options: StoreOptions | None = None) -> ObjectStore:
    """Return the verbs for a store with settings of its own.

    Args:
        uri: Any URI of the store's scheme, or the scheme alone (``"s3://"``); its settings are checked now.
        options: Win over the environment.

    Raises:
        UriError: Nobody here speaks the scheme.
        OptionError: An option or an environment variable is wrong.
    """
    if not is_a(uri, str):
        parse(uri)  # which refuses it
    shared_store(Uri(uri.partition("://")[0].lower(), "", ""), options)
    return ObjectStore(options)
