"""``az://``: Azure Blob Storage.

Floor 2. Knows its addresses, shared-key signature and XML; must not know sockets or threads.
Source of the signature: "Authorize with Shared Key", version 2015-02-21 and later; azurite and the
service check it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hmac
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from typing import NamedTuple

from s3dlio.cancel import CancellationToken
from s3dlio.errors import OptionError, StoreError, UriError
from s3dlio.options import StoreOptions
from s3dlio.stores import xml
from s3dlio.stores.base import DIRECTORY_TYPE, Entry, ObjectInfo, PutOptions, Version
from s3dlio.stores.blocks import BLOCK_LIMITS, BlockUpload
from s3dlio.stores.copying import copied
from s3dlio.stores.credentials import AzureIdentity, BearerIdentity, FixedToken
from s3dlio.stores.rest import NO_QUERY, RestStore, listing, make_transport
from s3dlio.stores.sigv4 import quote_key, quote_query
from s3dlio.uri import Uri
from s3dlio.version import VERSION
from s3dlio.wire.client import Client
from s3dlio.wire.head import Head
from s3dlio.wire.transport import Call, Headers, Transport

_API_VERSION = "2021-12-02"
#: Between two looks at whether a copy is done.
_FIRST_LOOK_S = 0.05
_LOOK_EVERY_S = 5.0
#: Standard header fields in the order in which the string to sign lists their values.
_SIGNED_FIELDS = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
    "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip


class Blob(NamedTuple):
    """An address taken apart: ``lead`` is how much of the URI's key names the container."""

    account: str
    container: str
    name: str
    lead: str


class Asked(NamedTuple):
    """One request before it is signed."""

    account: str
    path: str
    query: dict[str, str]


class AzureStore(RestStore):
    """All containers of one or more storage accounts."""

    family = "az"
    metadata_prefix = "x-ms-meta-"
    version_field = "x-ms-version-id"
    class_field = "x-ms-access-tier"

    def __init__(self, options: StoreOptions | None = None) -> None:
        super().__init__(options)
        self._transports: dict[str, Transport] = {}
        self._key = _decode_key(self.options.account_key)
        self._sas = dict(urllib.parse.parse_qsl((self.options.sas_token or "").lstrip("?")))
        self._identity: BearerIdentity
        if self._key or self._sas or self.options.anonymous or self.options.bearer_token:
            self._identity = FixedToken(self.options.bearer_token or "")
        else:
            self._identity = AzureIdentity()

    # -- addresses --------------------------------------------------------------------------------

    def _locate(self, uri: Uri) -> Blob:
        """Decide whether the first segment is an account or a container."""
        style, account = self.options.azure_uri_style, self.options.account
        if style == "auto":
            style = "account" if account in (None, "", uri.container) else "container"
        if style == "container":
            if not account:
                msg = "no Azure account: set AZURE_STORAGE_ACCOUNT, or write az://account/container/key"
                raise UriError(msg, uri=str(uri))
            return Blob(account, uri.container, uri.key, "")
        container, _, name = uri.key.partition("/")
        return Blob(uri.container, container, name, f"{container}/" if container else "")

    def _endpoint(self, account: str) -> str:
        return self.options.endpoint_url or f"https://{account}.blob.core.windows.net"

    def _call(self, operation: str, uri: Uri, query: Mapping[str, str] = NO_QUERY) -> tuple[Transport, Call]:
        blob = self._locate(uri)
        if not blob.name:
            msg = "the URI names a container, not an object in it; append '/key'"
            raise UriError(msg, uri=str(uri), operation=operation)
        return self._call_blob(operation, uri, blob, dict(query))

    def _call_blob(self, operation: str, uri: Uri, blob: Blob, query: dict[str, str]) -> tuple[Transport, Call]:
        endpoint = self._endpoint(blob.account)
        transport = self._transports.get(endpoint)
        if transport is None:
            transport = self._transports.setdefault(endpoint, make_transport(self.options, endpoint))
        path = urllib.parse.urlsplit(endpoint).path.rstrip("/")
        if blob.container:
            path += f"/{quote_key(blob.container)}"
        if blob.name:
            path += f"/{quote_key(blob.name)}"
        asked = Asked(blob.account, path or "/", query)

        def sign(method: str, headers: Headers) -> bytes:
            return self._sign(method, asked, transport.client.origin.authority, headers)

        call = Call(operation, uri, sign, self._identity.renew, xml.explain, lambda *_: None)
        return transport, call

    # -- requests ---------------------------------------------------------------------------------

    def _sign(self, method: str, asked: Asked, host: str, headers: Headers) -> bytes:
        fields = {name.lower(): value for name, value in headers.items()}
        fields["x-ms-version"] = _API_VERSION
        fields["x-ms-date"] = formatdate(time.time(), usegmt=True)
        token = self._identity.current()
        if self._key:
            fields["authorization"] = self._shared_key(method, asked, fields)
        elif token:
            fields["authorization"] = f"Bearer {token}"
        query = quote_query(asked.query if self._key else {**asked.query, **self._sas})
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        return (
            f"{method} {asked.path}{'?' if query else ''}{query} HTTP/1.1\r\nhost: {host}\r\n"
            f"user-agent: s3dlio/{VERSION}\r\n{lines}\r\n"
        ).encode("latin-1")

    def _shared_key(self, method: str, asked: Asked, fields: dict[str, str]) -> str:
        values = [fields.get(name, "") for name in _SIGNED_FIELDS]
        if values[2] == "0":
            values[2] = ""
        own = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields) if name.startswith("x-ms-"))
        resource = f"/{asked.account}{asked.path}"
        resource += "".join(f"\n{name}:{asked.query[name]}" for name in sorted(asked.query))
        text = "\n".join([method, *values, own + resource])
        digest = hmac.digest(self._key, text.encode(), "sha256")
        return f"SharedKey {asked.account}:{base64.b64encode(digest).decode()}"

    def put_headers(self, options: PutOptions) -> dict[str, str]:
        """See :meth:`s3dlio.stores.rest.RestStore.put_headers`."""
        return {**super().put_headers(options), "x-ms-blob-type": "BlockBlob"}

    def copy(self, source: Uri, target: Uri, version: Version, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`: within an account."""
        there, here = self._locate(source), self._locate(target)
        if there.account != here.account:
            return False
        address = urllib.parse.urlsplit(self._endpoint(there.account))
        path = f"{address.path.rstrip('/')}/{quote_key(there.container)}/{quote_key(there.name)}"
        access = f"?{quote_query(self._sas)}" if self._sas else ""
        fields = {
            "x-ms-copy-source": f"{address.scheme}://{address.netloc}{path}{access}",
            "content-length": "0",
        }
        if version.etag:
            fields["x-ms-source-if-match"] = version.etag
        answer = copied(self, target, {}, fields, token)
        return answer is not None and self._await_copy(target, answer.head, token)

    def _await_copy(self, target: Uri, head: Head, token: CancellationToken) -> bool:
        """Wait until a blob is copied: within an account that is nearly always at once."""
        pause_s = _FIRST_LOOK_S
        while (status := head.field("x-ms-copy-status")) == "pending":
            token.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_EVERY_S)
            transport, call = self._call("copy", target)
            head = transport.ask(call, "HEAD", {}, token).head
        if status != "success":
            why = head.field("x-ms-copy-status-description") or status or "it does not say how it ended"
            msg = f"the service has not copied the blob: {why}"
            raise StoreError(msg, uri=str(target), operation="copy")
        return True

    limits = BLOCK_LIMITS

    def upload(self, uri: Uri, options: PutOptions, _token: CancellationToken) -> BlockUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`."""
        return BlockUpload(self, uri, options)

    # -- verbs of its own -------------------------------------------------------------------------

    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """See :meth:`s3dlio.stores.base.Store.entries`."""
        lead = self._locate(prefix).lead
        for entry in super().entries(prefix, token, recursive=recursive):
            yield entry._replace(key=lead + entry.key)

    def _page(self, prefix: Uri, token: CancellationToken, cursor: str, *, recursive: bool) -> xml.Page:
        query = {"comp": "list", "prefix": self._locate(prefix).name}
        if cursor:
            query["marker"] = cursor
        if not recursive:
            query["delimiter"] = "/"
        transport, call = self._container("list", prefix, query)
        return xml.parse_azure_page(transport.ask(listing(call, prefix), "GET", {}, token).body)

    def _listing_client(self, prefix: Uri) -> Client:
        return self._container("list", prefix)[0].client

    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """See :meth:`s3dlio.stores.base.Store.head`; a container behind its account can be asked for too."""
        if self._locate(uri).name:
            return super().head(uri, token)
        transport, call = self._container("stat", uri)
        info = self._info(transport.ask(call, "HEAD", {}, token).head)
        return dataclasses.replace(info, size=0, content_type=DIRECTORY_TYPE)

    def _find_container(self, uri: Uri, token: CancellationToken) -> None:
        transport, call = self._container("delete", uri)
        transport.ask(call, "HEAD", {}, token)

    def _container(self, operation: str, uri: Uri, query: Mapping[str, str] = NO_QUERY) -> tuple[Transport, Call]:
        blob = self._locate(uri)._replace(name="")
        if not blob.container:
            msg = "no container; write az://container or az://account/container"
            raise UriError(msg, uri=str(uri), operation=operation)
        return self._call_blob(operation, uri, blob, {"restype": "container", **query})

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`."""
        transport, call = self._container("create_bucket", uri)
        transport.ask(call, "PUT", {"content-length": "0"}, token)

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`. Azure deletes its blobs with it: refused here.

        Raises:
            StoreError: The container still holds blobs.
        """
        self._refuse_if_full(uri, token)
        transport, call = self._container("delete_bucket", uri)
        transport.ask(call, "DELETE", {}, token)

    def _refuse_if_full(self, uri: Uri, token: CancellationToken) -> None:
        prefix = uri.with_key(self._locate(uri).lead)
        if self._page(prefix, token, "", recursive=True).entries:
            msg = "the container is not empty; delete its objects first"
            raise StoreError(msg, uri=str(uri), operation="delete_bucket")

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`."""
        account = self.options.account or uri.container
        if not account:
            msg = "no Azure account: set AZURE_STORAGE_ACCOUNT, or write az://account"
            raise UriError(msg, uri=str(uri), operation="list_containers")
        names: list[str] = []
        query = {"comp": "list"}
        while True:
            transport, call = self._call_blob("list_containers", uri, Blob(account, "", "", ""), query)
            body = transport.ask(call, "GET", {}, token).body
            names += xml.names(body, "Containers/Container/Name")
            marker = next(xml.names(body, "NextMarker"), "")
            if not marker:
                return sorted(names)
            query["marker"] = marker

    def close(self) -> None:
        """See :meth:`s3dlio.stores.base.Store.close`."""
        for transport in self._transports.copy().values():
            transport.client.close()


def _decode_key(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except binascii.Error:
        msg = "the Azure account key is not base64"
        raise OptionError(msg) from None
