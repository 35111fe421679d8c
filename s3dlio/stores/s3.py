"""``s3://``: Amazon S3 and everything that speaks its interface.

Floor 2. Knows S3's addresses, signatures and XML; must not know sockets or threads. Environment and
configuration are looked at when the store is first used.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from s3dlio.cancel import CancellationToken
from s3dlio.checksums import base64_of
from s3dlio.errors import AccessDeniedError, StoreError
from s3dlio.options import StoreOptions
from s3dlio.stores import xml
from s3dlio.stores.base import PutOptions, Version
from s3dlio.stores.copying import copied, copy_fields
from s3dlio.stores.credentials import AwsIdentity, AwsSettings, aws_settings
from s3dlio.stores.multipart import MULTIPART_LIMITS, MultipartUpload
from s3dlio.stores.pending import abandon_upload, pending_uploads
from s3dlio.stores.rest import NO_QUERY, RestStore, following, listing, make_transport
from s3dlio.stores.sigv4 import (
    NOTHING,
    UNSIGNED,
    RangeSigner,
    Target,
    presigned_query,
    quote_key,
    quote_query,
    signed_headers,
)
from s3dlio.stores.upload import Pending
from s3dlio.stores.window import Quick
from s3dlio.uri import Uri
from s3dlio.version import VERSION
from s3dlio.wire.client import Client
from s3dlio.wire.refusals import Refused
from s3dlio.wire.transport import Call, Headers, Transport

_DEFAULT_REGION = "us-east-1"
#: What a server may call a region: it becomes part of signatures, and of addresses.
_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BATCH = 1000  # the most keys one DeleteObjects takes
#: The header field that says which sum of the body is signed.
_PAYLOAD_SUM = "x-amz-content-sha256"
#: What every request says to a bucket whose requesters pay. Source: S3 user guide, "Downloading objects from Requester
#: Pays buckets".
_REQUESTER_PAYS: Mapping[str, str] = MappingProxyType({"x-amz-request-payer": "requester"})
_AGENT = f"user-agent: s3dlio/{VERSION}\r\n"


class Site:
    """Where one bucket lives: the server, the path that leads to the bucket, and its region."""

    __slots__ = ("host", "path", "region", "transport")

    def __init__(self, transport: Transport, path: str, region: str) -> None:
        self.transport = transport
        self.host = transport.client.origin.authority
        self.path = path
        self.region = region


class S3Store(RestStore):
    """All buckets of one S3 endpoint."""

    family = "s3"
    metadata_prefix = "x-amz-meta-"
    version_field = "x-amz-version-id"
    class_field = "x-amz-storage-class"

    def __init__(self, options: StoreOptions | None = None) -> None:
        super().__init__(options)
        self._identity = AwsIdentity(self.options)
        self._sites: dict[str, Site] = {}
        self._settings: AwsSettings | None = None
        self._transports: dict[str, Transport] = {}
        self._always = _REQUESTER_PAYS if self.options.requester_pays else NOTHING

    # -- addresses --------------------------------------------------------------------------------

    def _site(self, bucket: str) -> Site:
        site = self._sites.get(bucket)
        if site is None:
            site = self._sites.setdefault(bucket, self._open(bucket, self._region()))
        return site

    def region_of(self, bucket: str) -> str:
        """Return the region that requests for a bucket are signed for: the server's word, once it has answered."""
        return self._site(bucket).region

    def _configured(self) -> AwsSettings:
        if self._settings is None:
            self._settings = aws_settings(self.options.profile)
        return self._settings

    def _region(self) -> str:
        return self.options.region or self._configured().region or _DEFAULT_REGION

    def _open(self, bucket: str, region: str) -> Site:
        """Find the address of a bucket; an empty name addresses the service itself."""
        configured = self._configured()
        options = self.options.replace(ca_bundle=self.options.ca_bundle or configured.ca_bundle or None)
        endpoint = self.options.endpoint_url or configured.endpoint_url
        style = self.options.addressing_style
        if style == "auto":
            style = configured.addressing_style or "auto"
        # A dot in the name breaks the wildcard certificate of virtual-hosted addresses.
        virtual = style == "virtual" or (style == "auto" and not endpoint and "." not in bucket)
        endpoint = endpoint or f"https://s3.{region}.amazonaws.com"
        base = urllib.parse.urlsplit(endpoint)
        server = f"{base.scheme}://{bucket}.{base.netloc}" if virtual and bucket else endpoint
        transport = self._transports.get(server)
        if transport is None:
            transport = self._transports.setdefault(server, make_transport(options, server))
        path = base.path.rstrip("/") + ("" if virtual or not bucket else f"/{quote_key(bucket)}")
        return Site(transport, path, region)

    def _moved(self, bucket: str, refused: Refused, aimed_at: Site) -> Site | None:
        """Follow a redirect to the bucket's own region, which S3 names in a header, others in what they say alone."""
        region = refused.head.field("x-amz-bucket-region") or refused.fault.region
        if region == aimed_at.region or not _REGION.fullmatch(region):
            return None
        if region != self._site(bucket).region:  # else another thread was here first
            self._sites[bucket] = self._open(bucket, region)
        return self._site(bucket)

    def _ask_region(self, bucket: str, token: CancellationToken) -> None:
        """Ask something whose answer has a body: a server that names the region there says nothing to a HEAD."""
        transport, call = self._call("stat", Uri("s3", bucket, ""), {"location": ""}, asks=False)
        with contextlib.suppress(StoreError):  # the HEAD's own refusal is raised then
            transport.ask(call, "GET", {}, token)

    # -- requests ---------------------------------------------------------------------------------

    def _call(
        self, operation: str, uri: Uri, query: Mapping[str, str] = NO_QUERY, *, asks: bool = True
    ) -> tuple[Transport, Call]:
        bucket = uri.container
        text = quote_query(dict(query)) if query else ""
        key = f"/{quote_key(uri.key)}" if uri.key else ""

        # Of this call's own: signed for where it is sent to, wherever others have been sent meanwhile.
        site = self._site(bucket)

        def sign(method: str, headers: Headers) -> bytes:
            return self._sign(site, Target(method, "", key, text), headers)

        def moved(refused: Refused, token: CancellationToken) -> Transport | None:
            nonlocal site
            there = self._moved(bucket, refused, site)
            if there is None and asks and refused.says_nothing:
                if self._site(bucket) is site:  # else another thread has asked
                    self._ask_region(bucket, token)
                there = self._site(bucket)
            if there is None or there is site:
                return None
            site = there
            return site.transport

        return site.transport, Call(operation, uri, sign, self._renew, xml.explain, moved)

    def _sign(self, site: Site, wanted: Target, headers: Headers) -> bytes:
        path = f"{site.path}{wanted.path}" or "/"
        target = Target(wanted.method, site.host, path, wanted.query)
        line = f"{target.method} {path}{'?' if target.query else ''}{target.query} HTTP/1.1\r\n{_AGENT}"
        # x-amz-... fields must be signed; ranges and conditions need not be.
        extra = {name: value for name, value in headers.items() if name.startswith("x-")}
        rest = "".join([f"{name}: {value}\r\n" for name, value in headers.items() if name not in extra])
        extra.update(self._always)
        return f"{line}{rest}{self._authorize(site, target, extra)}\r\n".encode("latin-1")

    def _authorize(self, site: Site, target: Target, extra: dict[str, str]) -> str:
        pair = self._identity.current()
        if pair is None:
            return f"host: {target.host}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in extra.items())
        payload = extra.pop(_PAYLOAD_SUM, UNSIGNED)
        return signed_headers(pair, site.region, target, extra, time.time(), payload)

    def quick(self, uri: Uri) -> tuple[Client, Quick]:
        """See :meth:`s3dlio.stores.rest.RestStore.quick`: signed by halves of the HMAC that are ready."""
        site = self._site(uri.container)
        signed: list[RangeSigner | None] = [None]

        def request(key: str, span: str, etag: str = "") -> bytes:
            now = int(time.time())
            signer = signed[0]
            if signer is None or signer.second != now:
                pair = self._identity.current()
                if pair is None:
                    target = Target("GET", "", f"/{quote_key(key)}", "")
                    condition = {"if-match": etag} if etag else {}
                    return self._sign(self._site(uri.container), target, {"range": span} | condition)
                here = self._site(uri.container)
                signer = RangeSigner(pair, here.region, (here.host, here.path), now, _AGENT, self._always)
                signed[0] = signer
            return signer.request(key, f"{span}\r\nif-match: {etag}" if etag else span)

        return site.transport.client, request

    def presigned(self, uri: Uri, expires_s: int) -> str:
        """See :meth:`s3dlio.stores.base.Store.presigned`; a bucket that is public to all has an address without end."""
        site = self._site(uri.container)
        target = Target("GET", site.host, f"{site.path}/{quote_key(uri.key)}")
        address = f"{site.transport.client.origin.scheme}://{target.host}{target.path}"
        pair = self._identity.current()
        if pair is None:
            return address
        return f"{address}?{presigned_query(pair, site.region, target, expires_s, time.time(), self._always)}"

    def _renew(self) -> None:
        self._identity.renew()

    def body_headers(self, body: Sequence[memoryview], crc32c: int) -> dict[str, str]:
        """See :meth:`s3dlio.stores.rest.RestStore.body_headers`."""
        headers = super().body_headers(body, crc32c)
        if self.options.upload_checksum:
            headers["x-amz-checksum-crc32c"] = base64_of(crc32c)
        if self.options.sign_payload:
            digest = hashlib.sha256()
            for piece in body:
                digest.update(piece)
            headers[_PAYLOAD_SUM] = digest.hexdigest()
        return headers

    # -- verbs of its own -------------------------------------------------------------------------

    def _page(self, prefix: Uri, token: CancellationToken, cursor: str, *, recursive: bool) -> xml.Page:
        return xml.parse_s3_page(self._listed(prefix, token, cursor, recursive=recursive))

    def key_pages(self, prefix: Uri, token: CancellationToken) -> Iterator[list[str]]:
        """See :meth:`s3dlio.stores.base.Store.key_pages`."""

        def page(cursor: str) -> tuple[list[str], str]:
            return xml.parse_s3_keys(self._listed(prefix, token, cursor, recursive=True))

        return following(prefix, page)

    def _listed(self, prefix: Uri, token: CancellationToken, cursor: str, *, recursive: bool) -> bytes:
        query = {"list-type": "2", "prefix": prefix.key, "encoding-type": "url"}
        if cursor:
            query["continuation-token"] = cursor
        if not recursive:
            query["delimiter"] = "/"
        transport, call = self._call("list", prefix.with_key(""), query)
        return transport.ask(listing(call, prefix), "GET", {}, token).body

    copy_letters = "amz"
    #: S3 copies up to 5 GiB with one request, but some servers are silent for as long as that takes, which a limit on
    #: silence must not end; several stretches at once are faster, too.
    copy_bytes = 256 << 20

    def copy(self, source: Uri, target: Uri, version: Version, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.copy`."""
        return copied(self, target, {}, copy_fields(self.copy_letters, source, version), token) is not None

    limits = MULTIPART_LIMITS

    def upload(self, uri: Uri, options: PutOptions, token: CancellationToken) -> MultipartUpload:
        """See :meth:`s3dlio.stores.base.Store.upload`."""
        begin = {"x-amz-checksum-algorithm": "CRC32C"} if self.options.upload_checksum else {}
        return MultipartUpload(self, uri, options, token, begin_headers=begin)

    def pending(self, where: Uri, token: CancellationToken) -> Iterator[Pending]:
        """See :meth:`s3dlio.stores.base.Store.pending`."""
        return pending_uploads(self, where, token)

    def abandon(self, where: Uri, upload: Pending, idle_s: float, token: CancellationToken) -> bool:
        """See :meth:`s3dlio.stores.base.Store.abandon`."""
        return abandon_upload(self, where, upload, idle_s, token)

    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete`. A thousand objects per request."""
        single = [uri for uri in uris if not xml.can_carry(uri.key)] if len(uris) > 1 else list(uris)
        for uri in single:
            self._delete_one(uri, token)
        many = [uri for uri in uris if xml.can_carry(uri.key)] if len(uris) > 1 else []
        for start in range(0, len(many), _BATCH):
            self._delete_batch(many[start : start + _BATCH], token)

    def _delete_batch(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        body = xml.delete_request([uri.key for uri in uris])
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-length": str(len(body)), "content-md5": digest, "content-type": "application/xml"}
        transport, call = self._call("delete", uris[0].with_key(""), {"delete": ""})
        call = dataclasses.replace(call, objects=lambda _answer: len(uris))
        answer = transport.ask(call, "POST", headers, token, [memoryview(body)])
        faults = xml.delete_faults(answer.body)
        if faults:
            key, fault = faults[0]
            kind = AccessDeniedError if fault.code == "AccessDenied" else StoreError
            msg = f"{len(faults)} of {len(uris)} objects could not be deleted; the first: {fault.code} {fault.message}"
            raise kind(msg, uri=str(uris[0].with_key(key)), operation="delete")

    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.create_container`."""
        transport, call = self._call("create_bucket", uri.with_key(""))
        region = self._site(uri.container).region
        body = b""
        if region != _DEFAULT_REGION:
            place = f"<LocationConstraint>{region}</LocationConstraint>"
            body = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>".encode()
        headers = {"content-length": str(len(body))}
        transport.ask(call, "PUT", headers, token, [memoryview(body)])

    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """See :meth:`s3dlio.stores.base.Store.delete_container`."""
        transport, call = self._call("delete_bucket", uri.with_key(""))
        transport.ask(call, "DELETE", {}, token)
        self._sites.pop(uri.container, None)

    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """See :meth:`s3dlio.stores.base.Store.list_containers`."""
        transport, call = self._call("list_containers", Uri(uri.scheme, "", ""))
        return sorted(xml.names(transport.ask(call, "GET", {}, token).body, "Buckets/Bucket/Name"))

    def close(self) -> None:
        """See :meth:`s3dlio.stores.base.Store.close`."""
        for transport in self._transports.copy().values():
            transport.client.close()
