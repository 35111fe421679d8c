"""Room card: the fake Google Cloud Storage as a program: tokens, bucket calls by the JSON API, log, socket.

Knows how to read requests from a socket, whom to let in, and which part answers what.  Must not know the
library.  It is a fake of the documented protocol; no emulator that one could install speaks the XML API.

Tests steer it by requests to /_test/..., a path no bucket can have: see `GcsServer`.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.gcs_xml import Answer, ApiError, XmlApi
from tests.servers.rules import Request

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_JSON_BUCKETS = "/storage/v1/b"
_GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"  # for which clients sign whatever their token_uri
_SKEW_S = 60  # how far ahead of ours a client's clock may be
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class GcsApp:
    """The whole server but for the socket.

    Attributes:
        settings: What tests can change: ``require_auth``, ``forbid``, ``page_size``, ``public_key`` (PEM of
            the service account's key), ``token_lifetime_s``.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {
            "require_auth": False,
            "forbid": False,
            "page_size": 1000,
            "public_key": "",
            "token_lifetime_s": 3600,
        }
        self._xml = XmlApi()
        self._log: list[dict[str, Any]] = []
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        """Answers one request."""
        if request.path.startswith("/_test/"):
            return self._steer(request)
        with self._lock:
            entry = {"method": request.method, "target": request.target, "headers": dict(request.headers)}
            self._log.append(entry)
        if request.path == "/token":
            return self._token(request)
        try:
            self._admit(request)
        except ApiError as error:
            return error.answer()
        if request.path == _JSON_BUCKETS or request.path.startswith(_JSON_BUCKETS + "/"):
            return self._json_buckets(request)
        return self._xml.answer(request)

    def _steer(self, request: Request) -> Answer:
        what = request.path.removeprefix("/_test/")
        with self._lock:
            if what == "settings":
                self.settings.update(json.loads(request.body))
                self._xml.page_size = self.settings["page_size"]
                return _json({})
            if what == "token":
                return _json({"token": self._new_token()})
            if what == "revoke":
                self._tokens.clear()
                return _json({})
            if what == "log":
                log = list(self._log)
                if request.method == "DELETE":
                    self._log.clear()
                return _json(log)
        return _json({"error": f"unknown control {what}"}, 404)

    def _admit(self, request: Request) -> None:
        """Lets nobody in without a token we gave or a claim signed by the service account."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not self.settings["require_auth"]:
            return
        if not token:
            details = "Anonymous caller does not have storage.objects.get access."
            raise ApiError(403, "AccessDenied", "Access denied.", details)
        valid = self._tokens.get(token, 0.0) > time.time() or not self._jwt_trouble(token)
        if scheme != "Bearer" or not valid:
            raise ApiError(401, "AuthenticationRequired", "Authentication required.", "Invalid Credentials")
        if self.settings["forbid"]:
            raise ApiError(403, "AccessDenied", "Access denied.", "The caller lacks the permission.")

    def _new_token(self) -> str:
        token = "ya29." + secrets.token_hex(16)
        self._tokens[token] = time.time() + self.settings["token_lifetime_s"]
        return token

    def _token(self, request: Request) -> Answer:
        form = dict(parse_qsl(request.body.decode()))
        if form.get("grant_type") == _JWT_GRANT:
            audiences = {_GOOGLE_AUDIENCE, f"http://{request.headers['host']}/token"}
            trouble = self._jwt_trouble(form.get("assertion", ""), audiences)
        else:
            trouble = "" if form.get("refresh_token") else "unknown grant"
        if trouble:
            return _json({"error": "invalid_grant", "error_description": trouble}, 400)
        with self._lock:
            token = self._new_token()
        lifetime_s = self.settings["token_lifetime_s"]
        return _json({"access_token": token, "expires_in": lifetime_s, "token_type": "Bearer"})

    def _jwt_trouble(self, assertion: str, audiences: Collection[str | None] = (None,)) -> str:
        """Says what is wrong with a service account's signed claim, nothing when it is right."""
        try:
            head, claims, signature = assertion.split(".")
            content = json.loads(_unbase64(claims))
            key = serialization.load_pem_public_key(self.settings["public_key"].encode())
            if not isinstance(key, rsa.RSAPublicKey):
                return "no RSA key is known"
            key.verify(_unbase64(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, InvalidSignature):
            return "Invalid JWT Signature."
        if not content.get("scope") or content.get("aud") not in audiences:
            return "Invalid JWT: no scope or wrong audience."
        current = content["iat"] - _SKEW_S <= time.time() < content["exp"]
        return "" if current else "Invalid JWT: expired."

    def _json_buckets(self, request: Request) -> Answer:
        name = unquote(request.path.removeprefix(_JSON_BUCKETS).removeprefix("/"))
        try:
            return self._json_bucket(request, name) if name else self._json_service(request)
        except ApiError as error:
            trouble = {"code": error.status, "message": error.message, "errors": [{"message": error.message}]}
            return _json({"error": trouble}, error.status)

    def _json_service(self, request: Request) -> Answer:
        if not request.query.get("project"):
            raise ApiError(400, "required", "Required parameter: project")
        if request.method == "POST":
            name = json.loads(request.body)["name"]
            self._xml.make_bucket(name)
            return _json(_bucket_json(name))
        if request.method != "GET":
            raise ApiError(405, "MethodNotAllowed", "Method not allowed.")
        names = sorted(self._xml.buckets)
        start, size = int(request.query.get("pageToken", "0")), self.settings["page_size"]
        found = {"kind": "storage#buckets", "items": [_bucket_json(it) for it in names[start : start + size]]}
        more = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
        return _json({**found, **more})

    def _json_bucket(self, request: Request, name: str) -> Answer:
        if request.method == "DELETE":
            self._xml.remove_bucket(name)
            return Answer(204)
        if request.method != "GET":
            raise ApiError(405, "MethodNotAllowed", "Method not allowed.")
        self._xml.objects_of(name)
        return _json(_bucket_json(name))


class _Handler(BaseHTTPRequestHandler):
    """Moves requests and answers between a connection and the app."""

    protocol_version = "HTTP/1.1"
    app: GcsApp
    # Head and body of an answer go out in one packet, or Nagle's algorithm makes each answer wait 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        """Answers one request, or notes that the client is gone."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        answer = self.app.answer(self._read())
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in {204, 304}:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD" and answer.status not in {204, 304}:
            self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, *_args: object) -> None:
        """Writes nothing; tests read the app's own log."""

    def _read(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        return Request(self.command, self.path, headers, body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_args: object) -> None:
        """Writes nothing when a client goes away in the middle of an answer."""


def _json(content: Mapping[str, Any] | list[dict[str, Any]], status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"})


def _bucket_json(name: str) -> dict[str, str]:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US"}


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main() -> None:
    """Serves until ended, on a port of the kernel's choice, which it prints."""
    _Handler.app = GcsApp()
    server = _Server(("127.0.0.1", 0), _Handler)
    print(f"the fake storage listens on {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
