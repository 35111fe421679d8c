"""Room card: the ways in which the tests of the wire read one object, and the store they read it from.

Knows the public verbs and how to make them impatient.  Must not know faults.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import s3dlio
from s3dlio import context
from s3dlio.buffers import BytesView
from s3dlio.cancel import CancellationToken
from s3dlio.crew import CREW
from s3dlio.jobs import Batch, Read
from s3dlio.options import StoreOptions
from s3dlio.stores import close_stores, open_store
from s3dlio.stores.rest import RestStore
from s3dlio.uri import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from s3dlio.wire.client import Client
    from tests.servers.faults import FaultOrigin, Logged

PATH = "/bucket/key"
URI = "s3://bucket/key"
#: A healthy neighbour: with two objects to read, a batch takes the fast lane.
OTHER_PATH = "/bucket/other"
OTHER_URI = "s3://bucket/other"
OTHER = b"the other one"
KIB = 1024
CHUNK = 64 * KIB  # the least that StoreOptions takes


def impatient(endpoint_url: str, **changes: Any) -> StoreOptions:
    """Returns options with which failures are soon over; ``changes`` win."""
    given: dict[str, Any] = {
        "endpoint_url": endpoint_url,
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": "example-secret",
        "region": "us-east-1",
        "connect_timeout_s": 30.0,
        "read_timeout_s": 30.0,
        "retry_base_s": 0.001,
        "retry_max_s": 0.01,
    }
    return StoreOptions(**(given | changes))


@contextlib.contextmanager
def verbs_with(monkeypatch: pytest.MonkeyPatch, options: StoreOptions) -> Iterator[StoreOptions]:
    """Makes the public verbs open their stores with these options, and closes the stores afterwards."""
    monkeypatch.setattr(context, "shared_store", lambda uri, given=None: open_store(uri, given or options))
    try:
        yield options
    finally:
        close_stores()


def _get(uri: str) -> bytes:
    return bytes(s3dlio.get(uri))


def _get_range(uri: str) -> bytes:
    return bytes(s3dlio.get_range(uri, 0))


def _get_into(uri: str) -> bytes:
    buffer = bytearray(4 << 20)
    return bytes(buffer[: s3dlio.get_into(uri, buffer)])


def _get_many(uri: str) -> bytes:
    _client(uri).usual = False  # no sweep
    return _with_other(uri)


def _sweep(uri: str) -> bytes:
    # Sweeps are for connections that are ready.
    client, token = _client(uri), CancellationToken()
    taken = []
    try:
        taken += [client.take(token)[0] for _ in range(2)]
    except OSError:
        return _with_other(uri)  # which will find the same
    for connection in taken:
        client.keep(connection, token)
    client.usual = True
    assert context.shared_store(parse(uri)).window(parse(uri), 2) > 1
    return _with_other(uri)


class _Flowing(Batch):
    """A batch whose reader has several requests under way, as a stream's have."""

    def work(self) -> None:
        self.work_ahead()

    @property
    def window(self) -> int:
        return 4


def _flow(uri: str) -> bytes:
    reads = [Read(parse(uri)), Read(parse(OTHER_URI))]
    batch = _Flowing(context.shared_store(parse(uri)), reads, 2, CREW.get().token)
    batch.join()
    wanted, other = batch.views
    assert other == OTHER
    assert isinstance(wanted, BytesView)
    return bytes(wanted)


def _with_other(uri: str) -> bytes:
    (_, wanted), (_, other) = s3dlio.get_many([uri, OTHER_URI], max_in_flight=2)
    assert other == OTHER
    return bytes(wanted)


def _client(uri: str) -> Client:
    store = context.shared_store(parse(uri))
    assert isinstance(store, RestStore)
    return store._call("get", parse(uri))[0].client


WAYS: dict[str, Callable[[str], bytes]] = {
    "get": _get,
    "get_range": _get_range,
    "get_into": _get_into,
    "get_many": _get_many,
    "sweep": _sweep,
    "flow": _flow,
}
#: Requests that are made, and given up at whatever is unusual, before the transport makes the one that counts: a
#: batch tries the lane first, and if connections are ready a sweep before that; a stream tries a flow.
SPARE = {"get": 0, "get_range": 0, "get_into": 0, "get_many": 1, "sweep": 2, "flow": 1}


def requests_for(origin: FaultOrigin, path: str = PATH) -> list[Logged]:
    """Returns the requests that an origin got for one path."""
    return [request for request in origin.requests if request.target == path]


def random_bytes(count: int) -> bytes:
    """Returns bytes of which no two stretches are alike: a byte in a wrong place shows."""
    return os.urandom(count)
