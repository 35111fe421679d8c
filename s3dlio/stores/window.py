"""A window of ranged requests for objects of a store: how its signatures and the wire's flow come together.

Floor 2. Knows who makes the requests of which container; must not know how a provider signs, nor what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from s3dlio.cancel import CancellationToken
from s3dlio.errors import StoreError
from s3dlio.stores.base import Wanted
from s3dlio.uri import Uri
from s3dlio.wire.client import Client
from s3dlio.wire.connection import Connection
from s3dlio.wire.flow import Flow, Outcome, Request
from s3dlio.wire.watched import GIVEN_UP, Watch


class Quick(Protocol):
    """What makes requests for ranges of a container's objects."""

    def __call__(self, key: str, span: str, etag: str = "") -> bytes:
        """Return the whole head of a GET, from the value of its Range field, and of If-Match unless that is empty."""


class Window(Flow[Any]):
    """A window of requests for objects of a store, whichever containers they are in.

    Args:
        quick: Returns the client for an object's container, and what makes the requests for ranges there.
        token: Breaks a blocked read.
    """

    __slots__ = ("_examples", "_quick", "_ways")

    def __init__(self, quick: Callable[[Uri], tuple[Client, Quick]], token: CancellationToken) -> None:
        super().__init__(token)
        self._quick = quick
        self._ways: dict[str, tuple[Client, Quick]] = {}
        self._examples: dict[Client, Uri] = {}

    def _way(self, uri: Uri) -> tuple[Client, Quick]:
        way = self._ways.get(uri.container)
        if way is None:
            way = self._ways[uri.container] = self._quick(uri)
            self._examples[way[0]] = uri
        return way

    @property
    def lacks(self) -> Uri:
        """An object that connections are waited for."""
        return self._examples[self._waiting[0].client]

    def ask(self, wanted: Sequence[Wanted]) -> None:
        """See :meth:`s3dlio.stores.base.Stretch.ask`."""
        requests = []
        for owner, uri, start, limit, is_all in wanted:
            client, quick = self._way(uri)
            head = made(quick, uri, f"bytes={start}-{start + limit - 1}")
            requests.append(Request(owner, client, head, start, limit, not is_all))
        self.send(requests)


class _Noted:
    """Who asked, and the line of the operation log that is to be written, once the request is sent."""

    __slots__ = ("owner", "uri", "watch")
    watch: Watch

    def __init__(self, owner: Any, uri: Uri) -> None:
        self.owner = owner
        self.uri = uri

    def place(self, size: int) -> memoryview:
        """See :meth:`s3dlio.wire.flow.Owner.place`."""
        return self.watch.placing(self.owner.place)(size)


class WatchedWindow(Window):
    """The same, with a line of the operation log for each request."""

    __slots__ = ("_begun",)

    def __init__(self, quick: Callable[[Uri], tuple[Client, Quick]], token: CancellationToken) -> None:
        super().__init__(quick, token)
        self._begun: dict[int, Watch] = {}  # by their owners' ids

    def ask(self, wanted: Sequence[Wanted]) -> None:
        """See :meth:`Window.ask`."""
        super().ask([one._replace(owner=_Noted(one.owner, one.uri)) for one in wanted])

    def _put_on(self, connection: Connection, request: Request[Any]) -> None:
        noted: _Noted = request.owner
        noted.watch = self._begun[id(noted)] = Watch(noted.uri, request.client)
        super()._put_on(connection, request)

    def receive(self) -> list[tuple[Any, Outcome]]:
        """See :meth:`s3dlio.wire.flow.Flow.receive`."""
        outcomes = []
        for noted, outcome in super().receive():
            watch = self._begun.pop(id(noted), None)
            if watch is not None:
                watch.over(good=isinstance(outcome, tuple))
            outcomes.append((noted.owner, outcome))
        return outcomes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was sent and not received is told to the log, too."""
        super().__exit__(kind, error, trace)
        for watch in self._begun.values():
            watch.over(good=False, error=GIVEN_UP)
        self._begun.clear()


def made(quick: Quick, uri: Uri, span: str, etag: str = "") -> bytes:
    """Return the request for a range; what its credentials lack is told of this object."""
    try:
        return quick(uri.key, span, etag)
    except StoreError as error:
        error.concern(uri, "get")
        raise
