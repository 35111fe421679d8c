"""One store behind several addresses, taken in turn: the original's ``MultiEndpointStore``.

Floor 6. Knows the original's names and how work is spread; must not know any backend, nor where the addresses are
written down (:mod:`s3dlio.compat.addresses`).
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from s3dlio.buffers import BytesView, flat_bytes
from s3dlio.context import context_options
from s3dlio.errors import NotFoundError, OptionError, suggest
from s3dlio.object_store import ObjectStore
from s3dlio.options import StoreOptions
from s3dlio.uri import Uri, join, parse

_STRATEGIES = ("round_robin", "least_connections")
_HTTP = ("http", "https")
_COUNTS = ("total_requests", "bytes_written", "bytes_read", "error_count", "active_requests")


class _Endpoint:
    """One of the addresses, and what has been done with it."""

    def __init__(self, uri: str, options: StoreOptions) -> None:
        where = parse(uri)
        self.given = uri
        if where.scheme in _HTTP:  # http://host:port/bucket/prefix
            server = urlsplit(uri)
            options = options.replace(endpoint_url=f"{server.scheme}://{server.netloc}")
            where = Uri("s3", *_split(server.path.removeprefix("/")))
        elif ":" in where.container:  # s3://host:port/bucket/prefix
            options = options.replace(endpoint_url=f"http://{where.container}")
            where = Uri(where.scheme, *_split(where.key))
        self.root = str(where) if where.container or where.key else ""
        self.verbs = ObjectStore(options)
        self.counts = dict.fromkeys(_COUNTS, 0)

    def object(self, key: str) -> str:
        """Return the URI of an object; a key may be a URI already."""
        if "://" in key:
            return key
        return join(self.root, key) if self.root else f"s3://{key}"  # the key begins with the bucket


def _split(path: str) -> tuple[str, str]:
    bucket, _, prefix = path.partition("/")
    return bucket, prefix


class _Number(int):
    """A number that may be called: programs ask for ``endpoint_count``, and for ``endpoint_count()``."""

    def __call__(self) -> int:
        return int(self)


class _Text(str):
    """A text that may be called, likewise."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


class MultiEndpointStore:
    """The verbs on keys, spread over several addresses.

    The addresses are meant to lead to the same objects (several servers of one store). Where they do not, ``get``
    looks at the others too before it says that an object is not there, and ``delete`` deletes everywhere.

    Thread-safe. It belongs to the process that made it.

    Args:
        uris: The addresses: prefixes, also ``s3://host:port/bucket/prefix`` for a server of its own, or
            ``http://host:port`` for an S3 server; keys are then full ``s3://`` URIs, or begin with the bucket.
        strategy: ``round_robin``, or ``least_connections``: the one with the fewest requests under way.
        options: How to reach them.

    Raises:
        OptionError: There is no address, or no such strategy.
    """

    def __init__(self, uris: Sequence[str], strategy: str = "round_robin", options: StoreOptions | None = None) -> None:
        if strategy not in _STRATEGIES:
            msg = f"strategy must be one of {', '.join(_STRATEGIES)}, not {strategy!r}{suggest(strategy, _STRATEGIES)}"
            raise OptionError(msg)
        if isinstance(uris, str) or not uris:
            msg = "uris must be a list of at least one address"
            raise OptionError(msg)
        self.strategy = _Text(strategy)
        self._lock = threading.Lock()
        self._turn = 0
        self._endpoints = [_Endpoint(uri, options or context_options.get() or StoreOptions()) for uri in uris]

    @property
    def endpoint_count(self) -> _Number:
        """How many addresses there are."""
        return _Number(len(self._endpoints))

    # -- verbs ------------------------------------------------------------------------------------------

    async def put(self, key: str, data: Any) -> None:
        """Create or replace an object.

        Args:
            key: Behind the address; or the object's full URI.
            data: Any bytes-like object.
        """
        await self._put(self._choose(), key, data)

    async def put_to_endpoint(self, index: int, key: str, data: Any) -> None:
        """Put through the address of a number, counted from 0.

        Raises:
            OptionError: There is no such address.
        """
        await self._put(self._at(index), key, data)

    async def put_all_endpoints(self, key: str, data: Any) -> None:
        """Put through every address, one after the other; the first failure ends it."""
        for endpoint in self._endpoints:
            await self._put(endpoint, key, data)

    async def _put(self, endpoint: _Endpoint, key: str, data: Any) -> None:
        memory = flat_bytes(data)
        await self._do(endpoint, endpoint.verbs.put_async(endpoint.object(key), memory))
        self._count(endpoint, bytes_written=memory.nbytes)

    async def get(self, key: str) -> BytesView:
        """Read an object.

        Raises:
            NotFoundError: It is behind none of the addresses.
        """
        return await self._get_anywhere(key, 0, None)

    async def get_range(self, key: str, offset: int, length: int | None = None) -> BytesView:
        """Read a range of an object: see :func:`s3dlio.get_range`.

        Raises:
            NotFoundError: The object is behind none of the addresses.
        """
        return await self._get_anywhere(key, offset, length)

    async def get_from_endpoint(self, index: int, key: str) -> BytesView:
        """Read through the address of a number, counted from 0.

        Raises:
            OptionError: There is no such address.
            NotFoundError: There is no such object behind it.
        """
        return await self._get(self._at(index), key, 0, None)

    async def _get_anywhere(self, key: str, offset: int, length: int | None) -> BytesView:
        first = self._choose()
        others = [endpoint for endpoint in self._endpoints if endpoint is not first]
        for endpoint in (first, *others):
            try:
                return await self._get(endpoint, key, offset, length)
            except NotFoundError:
                if endpoint is (others or [first])[-1]:
                    raise
        raise AssertionError  # the loop returns or raises

    async def _get(self, endpoint: _Endpoint, key: str, offset: int, length: int | None) -> BytesView:
        verbs, uri = endpoint.verbs, endpoint.object(key)
        is_whole = offset == 0 and length is None
        work = verbs.get_async(uri) if is_whole else verbs.get_range_async(uri, offset, length)
        view: BytesView = await self._do(endpoint, work)
        self._count(endpoint, bytes_read=len(view))
        return view

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        for endpoint in self._endpoints:
            await self._do(endpoint, endpoint.verbs.delete_async(endpoint.object(key)))

    async def delete_from_endpoint(self, index: int, key: str) -> None:
        """Delete through the address of a number, counted from 0.

        Raises:
            OptionError: There is no such address.
        """
        endpoint = self._at(index)
        await self._do(endpoint, endpoint.verbs.delete_async(endpoint.object(key)))

    async def list(self, prefix: str, recursive: bool = True) -> builtins.list[str]:  # noqa: FBT001, FBT002 - the original's
        """List the URIs below a prefix, as one address has them: see :func:`s3dlio.list`."""
        return await self._list(self._choose(), prefix, recursive)

    async def list_all_endpoints(self, prefix: str, recursive: bool = True) -> builtins.list[str]:  # noqa: FBT001, FBT002 - the original's
        """List the URIs below a prefix behind all addresses, each once, sorted."""
        found: set[str] = set()
        for endpoint in self._endpoints:
            found.update(await self._list(endpoint, prefix, recursive))
        return sorted(found)

    async def _list(self, endpoint: _Endpoint, prefix: str, recursive: bool) -> builtins.list[str]:  # noqa: FBT001 - as above
        uris: builtins.list[str] = await self._do(
            endpoint, endpoint.verbs.list_async(endpoint.object(prefix), recursive)
        )
        return uris

    def _at(self, index: int) -> _Endpoint:
        if not 0 <= index < len(self._endpoints):
            msg = f"there are addresses 0 to {len(self._endpoints) - 1}, not {index}"
            raise OptionError(msg)
        return self._endpoints[index]

    # -- what was done ----------------------------------------------------------------------------------

    def get_endpoint_stats(self) -> builtins.list[dict[str, Any]]:
        """Return of each address: ``uri``, ``total_requests``, ``bytes_written``, ``bytes_read`` and more."""
        with self._lock:
            return [{"uri": endpoint.given, **endpoint.counts} for endpoint in self._endpoints]

    def get_total_stats(self) -> dict[str, int]:
        """Return the sums over all addresses."""
        with self._lock:
            return {name: sum(endpoint.counts[name] for endpoint in self._endpoints) for name in _COUNTS}

    def _choose(self) -> _Endpoint:
        with self._lock:
            self._turn += 1
            count = len(self._endpoints)
            in_turn = [self._endpoints[(self._turn - 1 + step) % count] for step in range(count)]
            if self.strategy == "round_robin":
                return in_turn[0]
            return min(in_turn, key=lambda endpoint: endpoint.counts["active_requests"])

    async def _do(self, endpoint: _Endpoint, work: Any) -> Any:
        self._count(endpoint, total_requests=1, active_requests=1)
        try:
            return await work
        except NotFoundError:
            raise
        except BaseException:
            self._count(endpoint, error_count=1)
            raise
        finally:
            self._count(endpoint, active_requests=-1)

    def _count(self, endpoint: _Endpoint, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                endpoint.counts[name] += number

    def __repr__(self) -> str:
        """Show the addresses."""
        return f"MultiEndpointStore({[endpoint.given for endpoint in self._endpoints]!r}, {self.strategy!r})"
