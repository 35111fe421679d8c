"""One store behind several addresses, taken in turn: the original's ``create_multi_endpoint_store``.

Floor 6. Knows the original's names and how work is spread; must not know any backend.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from s3dlio.buffers import BytesView, flat_bytes
from s3dlio.context import context_options
from s3dlio.errors import NotFoundError, OptionError, suggest
from s3dlio.object_store import ObjectStore
from s3dlio.options import StoreOptions
from s3dlio.uri import Uri, join, parse

_STRATEGIES = ("round_robin", "least_connections")
_COUNTS = ("total_requests", "bytes_written", "bytes_read", "error_count", "active_requests")


class _Endpoint:
    """One of the addresses, and what has been done with it."""

    def __init__(self, uri: str, options: StoreOptions) -> None:
        where = parse(uri)
        self.given = uri
        if ":" in where.container:  # s3://host:port/bucket/prefix
            options = options.replace(endpoint_url=f"http://{where.container}")
            bucket, _, prefix = where.key.partition("/")
            where = Uri(where.scheme, bucket, prefix)
        self.root = str(where)
        self.verbs = ObjectStore(options)
        self.counts = dict.fromkeys(_COUNTS, 0)

    def object(self, key: str) -> str:
        """Return the URI of an object; a key may be a URI already."""
        return key if "://" in key else join(self.root, key)


class MultiEndpointStore:
    """The verbs on keys, spread over several addresses.

    The addresses are meant to lead to the same objects (several servers of one store). Where they do not, ``get``
    looks at the others too before it says that an object is not there, and ``delete`` deletes everywhere.

    Thread-safe. It belongs to the process that made it.

    Args:
        uris: The addresses: prefixes, also ``s3://host:port/bucket/prefix`` for a server of its own.
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
        self.strategy = strategy
        self._lock = threading.Lock()
        self._turn = 0
        self._endpoints = [_Endpoint(uri, options or context_options.get() or StoreOptions()) for uri in uris]

    @property
    def endpoint_count(self) -> int:
        """How many addresses there are."""
        return len(self._endpoints)

    # -- verbs ------------------------------------------------------------------------------------------

    async def put(self, key: str, data: Any) -> None:
        """Create or replace an object.

        Args:
            key: Behind the address; or the object's full URI.
            data: Any bytes-like object.
        """
        memory = flat_bytes(data)
        endpoint = self._choose()
        await self._do(endpoint, endpoint.verbs.put_async(endpoint.object(key), memory))
        self._count(endpoint, bytes_written=memory.nbytes)

    async def get(self, key: str) -> BytesView:
        """Read an object.

        Raises:
            NotFoundError: It is behind none of the addresses.
        """
        first = self._choose()
        others = [endpoint for endpoint in self._endpoints if endpoint is not first]
        for endpoint in (first, *others):
            try:
                view: BytesView = await self._do(endpoint, endpoint.verbs.get_async(endpoint.object(key)))
            except NotFoundError:
                if endpoint is (others or [first])[-1]:
                    raise
            else:
                self._count(endpoint, bytes_read=len(view))
                return view
        raise AssertionError  # the loop returns or raises

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        for endpoint in self._endpoints:
            await self._do(endpoint, endpoint.verbs.delete_async(endpoint.object(key)))

    # -- what was done ----------------------------------------------------------------------------------

    def get_endpoint_stats(self) -> list[dict[str, Any]]:
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


def create_multi_endpoint_store(
    uris: Sequence[str], strategy: str = "round_robin", options: StoreOptions | None = None
) -> MultiEndpointStore:
    """Return the verbs on keys, spread over several addresses: see :class:`MultiEndpointStore`.

    Args:
        uris: The addresses.
        strategy: ``round_robin`` or ``least_connections``.
        options: How to reach them.
    """
    return MultiEndpointStore(uris, strategy, options)
