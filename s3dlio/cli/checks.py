"""The steps of the doctor: each tries one thing and says how it went.

Floor 7. Knows the order in which things can fail; must not know how findings are shown.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.cli import diagnosis
from s3dlio.cli.failing import message
from s3dlio.errors import IntegrityError, NotFoundError, S3dlioError
from s3dlio.options import StoreOptions
from s3dlio.stores import open_store
from s3dlio.stores.base import PutOptions, Store
from s3dlio.stores.rest import RestStore
from s3dlio.stores.s3 import S3Store
from s3dlio.uri import Uri, parse
from s3dlio.wire import probe
from s3dlio.wire.client import Client

#: A person waits: one try, and no longer than people do.
_PATIENCE = StoreOptions(max_attempts=1, connect_timeout_s=5.0, read_timeout_s=15.0)
#: S3 refuses signatures that are 15 minutes off; much less is worth a word.
_REFUSED_OFFSET_S, _NOTABLE_OFFSET_S = 900.0, 60.0
_PROBE = b"s3dlio doctor"


class Finding(NamedTuple):
    """How one step went.

    Attributes:
        step: What was tried.
        ok: Whether it went well; ``None``: it was not tried.
        detail: What was seen.
        advice: What to do.
    """

    step: str
    ok: bool | None
    detail: str
    advice: str = ""


class _Failed(Exception):  # noqa: N818 - ends the walk through the steps
    """A step failed, and those behind it need not be tried."""


def examine(uri: str, *, write: bool) -> Iterator[Finding]:
    """Try all that it takes to use a URI, step by step, until one fails.

    Args:
        uri: A bucket, prefix or directory.
        write: Put, get and delete an object there too.
    """
    walk = _Walk(uri)
    try:
        yield from walk.open()
        yield from walk.reach()
        yield walk.list()
        if write:
            yield from walk.write()
    except _Failed:
        assert walk.failure is not None  # noqa: S101 - said by whoever raises it
        yield walk.failure


class _Walk:
    """The steps to one URI, and what one leaves for the next."""

    def __init__(self, uri: str) -> None:
        self._text = uri
        self._token = CancellationToken()
        self._where = Uri("", "", "")
        self._store: Store | None = None
        self.failure: Finding | None = None

    def tried(self, step: str, work: Callable[[], str]) -> Finding:
        """Do a step; what it returns is the detail."""
        try:
            return Finding(step, ok=True, detail=work())
        except Exception as error:
            self.failure = Finding(step, ok=False, detail=message(error), advice=diagnosis.advice(error))
            raise _Failed from error

    def open(self) -> Iterator[Finding]:
        """Understand the URI and the settings."""
        yield self.tried("settings", self._open)

    def _open(self) -> str:
        self._where = parse(self._text)
        self._store = open_store(self._where, _PATIENCE)
        client = self._client()
        if client is None:
            return f"{self._where.scheme}://"
        return f"{client.origin.scheme}://{client.origin.authority}"

    def _client(self) -> Client | None:
        if not isinstance(self._store, RestStore):
            return None
        return self._store.quick(self._where.with_key(self._where.key or "x"))[0]

    def reach(self) -> Iterator[Finding]:
        """Go to the server: name, connection, TLS, an answer in HTTP."""
        client = self._client()
        if client is None:
            return
        hop = probe.first_hop(client)
        place = f"the proxy {hop.host}" if hop.is_proxy else hop.host
        yield self.tried("resolve", lambda: f"{place} is {', '.join(probe.resolve(hop)[:4])}")
        yield self.tried("connect", lambda: f"port {hop.port}, in {probe.connect(hop, client) * 1000:.1f} ms")
        if client.origin.scheme == "https" and not hop.is_proxy:
            yield self.tried("TLS", lambda: probe.secure(hop, client, client.ca_bundle))
        yield self._clock(client)

    def _clock(self, client: Client) -> Finding:
        offset_s = 0.0

        def ask() -> str:
            nonlocal offset_s
            offset = probe.clock_offset(client, self._token)
            if offset is None:
                return "the server answers, and does not tell the time"
            offset_s = abs(offset.total_seconds())
            return f"the server answers; its clock and this one are {offset_s:.0f} s apart"

        finding = self.tried("answer", ask)
        if offset_s < _NOTABLE_OFFSET_S:
            return finding
        return finding._replace(
            ok=offset_s < _REFUSED_OFFSET_S, advice="set this machine's clock (timedatectl set-ntp true)"
        )

    def list(self) -> Finding:
        """List the first page."""
        signed_for = self._region()
        finding = self.tried("list", self._first)
        lives_in = self._region()
        if lives_in == signed_for:
            return finding
        advice = f"the bucket lives in {lives_in}, not {signed_for}: set --region or AWS_REGION, which spares requests"
        return finding._replace(advice=advice)

    def _region(self) -> str:
        return self._store.region_of(self._where.container) if isinstance(self._store, S3Store) else ""

    def _first(self) -> str:
        entries = self._opened().entries(self._where, self._token, recursive=True)
        first = next(iter(entries), None)
        return "nothing there yet" if first is None else f"the first object is {self._where.with_key(first.key)}"

    def write(self) -> Iterator[Finding]:
        """Put, get and delete an object."""
        key = self._where.key
        lead = key if not key or key.endswith("/") else f"{key}/"
        where = self._where.with_key(f"{lead}s3dlio-doctor-{secrets.token_hex(8)}")
        try:
            yield self.tried("put", lambda: self._put(where))
            yield self.tried("get", lambda: self._get(where))
            yield self.tried("delete", lambda: self._delete(where))
        finally:
            with contextlib.suppress(S3dlioError):  # what kept it from being deleted has been told
                self._opened().delete([where], self._token)

    def _put(self, where: Uri) -> str:
        self._opened().put(where, memoryview(_PROBE), PutOptions(), self._token)
        return str(where)

    def _get(self, where: Uri) -> str:
        target = bytearray(len(_PROBE))
        self._opened().read_first(where, 0, len(_PROBE), lambda _size: memoryview(target), self._token)
        if target != _PROBE:
            msg = "other bytes came back than were put: something on the way changes them"
            raise IntegrityError(msg, uri=str(where), operation="get")
        return f"{len(target)} bytes came back as they were put"

    def _delete(self, where: Uri) -> str:
        self._opened().delete([where], self._token)
        try:
            self._opened().head(where, self._token)
        except NotFoundError:
            return "and it is gone"
        return "accepted; the object can still be seen (the store keeps or delays)"

    def _opened(self) -> Store:
        assert self._store is not None  # noqa: S101 - the steps come in order
        return self._store
