"""``gs://`` (and ``gcs://``): Google Cloud Storage by its XML interface.

Floor 2. Knows that interface's addresses and headers; must not know sockets or threads. The XML
interface serves an object's bytes at ``/bucket/key`` with ranges and conditions, and lists as S3 does.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from s3dlio.cancel import CancellationToken
from s3dlio.checksums import base64_of
from s3dlio.errors import OptionError
from s3dlio.options import StoreOptions
from s3dlio.stores import xml
from s3dlio.stores.base import PutOptions, Version
from s3dlio.stores.copying import copied, copy_fields
from s3dlio.stores.credentials import BearerIdentity, FixedToken, GoogleIdentity
from s3dlio.stores.multipart import MULTIPART_LIMITS, MultipartUpload
from s3dlio.stores.pending import abandon_upload, pending_uploads
from s3dlio.stores.rest import NO_QUERY, RestStore, listing, make_transport
from s3dlio.stores.sigv4 import quote_key, quote_query
from s3dlio.stores.upload import Pending
from s3dlio.uri import Uri
from s3dlio.version import VERSION
from s3dlio.wire.transport import Call, Headers, Transport

_ENDPOINT = "https://storage.googleapis.com"


class GcsStore(RestStore):
    """All buckets that the credentials reach."""

    family = "gs"
    metadata_prefix = "x-goog-meta-"
    version_field = "x-goog-generation"
    class_field = "x-goog-storage-class"

    def __init__(self, options: StoreOptions | None = None) -> None:
        super().__init__(options)
        endpoint = self.options.endpoint_url or _ENDPOINT
        self._base = urllib.parse.urlsplit(endpoint).path.rstrip("/")
        self._transport = make_transport(self.options, endpoint)
        self._identity: BearerIdentity
        if self.options.bearer_token:
            self._identity = FixedToken(self.options.bearer_token)
        elif self.options.anonymous or self.options.endpoint_url:
            self._identity = FixedToken()  # an emulator takes no credentials
        else:
            self._identity = GoogleIdentity()

    def _call(self, operation: str, uri: Uri, query: Mapping[str, str] = NO_QUERY) -> tuple[Transport, Call]:
        path = f"{self._base}/{quote_key(uri.container)}" if uri.container else f"{self._base}/"
        if uri.key:
            path = f"{path}/{quote_key(uri.key)}"
        if query:
            path = f"{path}?{quote_query(dict(query))}"

        def sign(method: str, headers: Headers) -> bytes:
            return self._sign(f"{method} {path}", headers)

        call = Call(operation, uri, sign, self._identity.renew, xml.explain, lambda *_: None)
        return self._transport, call

    def _sign(self, line: str, headers: Headers) -> bytes:
        token = self._identity.current()
        bearer = f"authorization: Bearer {token}\r\n" if token else ""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        # Without "accept-encoding: gzip" the service unpacks objects that are stored as gzip.
        return (
            f"{line} HTTP/1.1\r\nhost: {self._transport.client.origin.authority}\r\n"
            f"user-agent: s3dlio/{VERSION}\r\naccept-encoding: gzip\r\n{bearer}{fields}\r\n"
        ).encode("latin-1")

    def put_headers(self, options: PutOptions) -> dict[str, str]:
        """See :meth:`s3dlio.stores.rest.RestStore.put_headers`."""
        headers = super().put_headers(options)
        if headers.pop("if-none-match", ""):
            headers["x-goog-if-generation-match"] = "0"
        return headers

    def body_headers(self, body: Sequence[memoryview], crc32c: int) -> dict[str, str]:
        """See :meth:`s3dlio.stores.rest.RestStore.body_headers`."""
        headers = super().body_headers(body, crc32c)
        if self.options.upload_checksum:
            headers["x-goog-hash"] = f"crc32c={base64_of(crc32c)}"
        return headers

    copy_letters = "goog"

    def copy(self, source: Uri, target: Uri, version: Version, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`: of any size."""
        return copied(self, target, {}, copy_fields(self.copy_letters, source, version), token) is not None

    limits = MULTIPART_LIMITS._replace(conditional=False)

    def upload(self, uri: Uri, options: PutOptions, token: CancellationToken) -> MultipartUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`. Google's uploads by parts know no conditions."""
        return MultipartUpload(self, uri, options, token, begin_headers={})

    def pending(self, where: Uri, token: CancellationToken) -> Iterator[Pending]:
        """See :meth:`s3dlio.stores.base.Store.pending`."""
        return pending_uploads(self, where, token)

    def abandon(self, where: Uri, upload: Pending, idle_s: float, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.abandon`."""
        return abandon_upload(self, where, upload, idle_s, token)

    def _page(self, prefix: Uri, token: CancellationToken, cursor: str, *, recursive: bool) -> xml.Page:
        query = {"list-type": "2", "prefix": prefix.key, "encoding-type": "url"}
        if cursor:
            query["continuation-token"] = cursor
        if not recursive:
            query["delimiter"] = "/"
        transport, call = self._call("list", prefix.with_key(""), query)
        return xml.parse_s3_page(transport.ask(listing(call, prefix), "GET", {}, token).body)

    def _project(self) -> dict[str, str]:
        if self.options.project:
            return {"x-goog-project-id": self.options.project}
        if self.options.endpoint_url:
            return {}
        msg = "creating and listing gs:// buckets needs a project: set GOOGLE_CLOUD_PROJECT"
        raise OptionError(msg)

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`."""
        transport, call = self._call("create_bucket", uri.with_key(""))
        transport.ask(call, "PUT", {"content-length": "0", **self._project()}, token)

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`."""
        transport, call = self._call("delete_bucket", uri.with_key(""))
        transport.ask(call, "DELETE", {}, token)

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`."""
        transport, call = self._call("list_containers", Uri(uri.scheme, "", ""))
        body = transport.ask(call, "GET", self._project(), token).body
        return sorted(xml.names(body, "Buckets/Bucket/Name"))

    def close(self) -> None:
        """See :meth:`s3dlio.stores.base.Store.close`."""
        self._transport.client.close()
