"""The origin: nginx over loopback, serving one bucket of static objects as S3 would, with a listing.

For: `with Origin.started(...) as origin:` and four endpoints (plain, 20 ms late, TLS where openssl is; and one that
only lists, a million objects, from pages that lie ready).
Must not know: who reads from it, or what is being measured.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import listing_pages, objects
from benchmarks.certificates import make_certificates
from benchmarks.processes import die_with_parent, end_process

LATENCY_SECONDS = 0.020
_MODULES = Path("/usr/lib/nginx/modules")
_HINT = "apt-get install nginx-light libnginx-mod-http-lua"
_STEM = "s3dlio-bench-"
_LISTING = Path(__file__).with_name("listing.lua")

_CONFIG = """\
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
{user}
worker_processes 2;
daemon off;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 8192; multi_accept off; }}
http {{
  access_log off;
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  keepalive_timeout 600s;
  client_header_timeout 600s;
  open_file_cache max=16384 inactive=1h;
  open_file_cache_valid 1h;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  map $args $bench_page {{
    default 000000;
    "~(?:^|&)continuation-token={token}(?<page>[0-9]+)" $page;
  }}
{servers}
}}
"""

_SERVER = """\
  server {{
    listen 127.0.0.1:{port}{flags} backlog=4096;
    {extra}
    root {root}/data;
    set $bench_index {root}/index.tsv;
    location = /{bucket} {{ content_by_lua_file {listing}; }}
    location = /{bucket}/ {{ content_by_lua_file {listing}; }}
  }}
"""


#: nginx sends a page as it lies: what is measured is who reads it.
_LISTING_SERVER = """\
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {root}/pages;
    default_type application/xml;
    types {{ }}
    location = /{bucket} {{ rewrite ^ /$bench_page.xml break; }}
    location = /{bucket}/ {{ rewrite ^ /$bench_page.xml break; }}
  }}
"""
LISTING = "listing"


class OriginError(RuntimeError):
    """The origin could not be started."""


@dataclass(frozen=True)
class Origin:
    """A running origin: its endpoints, its data's manifest, and where they lie.

    What clients find in their environment at some endpoint of another server (its keys, say) is in `environments`.
    """

    endpoints: dict[str, str]
    manifest: objects.Manifest
    manifest_path: Path
    ca_bundle: Path | None
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        small_count: int = 2000,
        big_size: int = 1 << 30,
        more: Callable[[Path], None] | None = None,
        more_size: int = 0,
        listed: int = 0,
    ) -> Iterator[Origin]:
        """Write the objects (`more` below the bucket, and pages that list so many), start nginx, and take all away."""
        _require_nginx()
        root = _make_root(small_count * objects.SMALL_SIZE + big_size + more_size)
        try:
            bucket = root / "data" / objects.BUCKET
            manifest = objects.write_objects(bucket, small_count, big_size)
            if more is not None:
                more(bucket)
            if listed:
                listing_pages.write_pages(root / "pages", listed)
            objects.write_index(root / "index.tsv", bucket)
            objects.save_manifest(root / "manifest.json", manifest)
            bundle = make_certificates(root)
            with _nginx(root, bundle) as endpoints:
                yield cls(endpoints, manifest, root / "manifest.json", bundle)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _require_nginx() -> None:
    modules = [_MODULES / "ndk_http_module.so", _MODULES / "ngx_http_lua_module.so"]
    if _nginx_path() is None or not all(module.exists() for module in modules):
        raise OriginError(f"nginx with its lua module is needed for the benchmarks: {_HINT}")


def _nginx_path() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _make_root(data_size: int) -> Path:
    """A directory in memory where there is room, else in the temporary directory."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK)
    roomy = roomy and shutil.disk_usage(memory).free > data_size * 1.2
    parent = memory if roomy else Path(tempfile.gettempdir())
    _sweep(parent)
    root = Path(tempfile.mkdtemp(prefix=f"{_STEM}{os.getpid()}-", dir=parent))
    root.chmod(0o755)
    return root


def _sweep(parent: Path) -> None:
    """Take away what a killed run left behind: gigabytes of memory are worth the look."""
    for left in parent.glob(f"{_STEM}*-*"):
        pid = left.name[len(_STEM) :].split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _nginx(root: Path, bundle: Path | None) -> Iterator[dict[str, str]]:
    """Run nginx; the ports are free when chosen, and chosen again when somebody was quicker."""
    for _ in range(5):
        ports = _free_ports(("plain", "late", LISTING, *(("tls",) if bundle else ())))
        process = _start(root, ports)
        if _answers(process, ports):
            break
        end_process(process, signal.SIGTERM)
    else:
        raise OriginError(f"nginx did not start:\n{_log(root)}")
    try:
        yield {name: _endpoint(name, port) for name, port in ports.items()}
    finally:
        end_process(process, signal.SIGTERM)


def _endpoint(name: str, port: int) -> str:
    return f"https://localhost:{port}" if name == "tls" else f"http://127.0.0.1:{port}"


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in names:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports[name] = int(sock.getsockname()[1])
        return ports


def _start(root: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    (root / "nginx.conf").write_text(_config(root, ports), encoding="ascii")
    command = [str(_nginx_path()), "-p", str(root), "-c", str(root / "nginx.conf")]
    with (root / "stderr.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the run has no threads
        )


def _config(root: Path, ports: dict[str, int]) -> str:
    extras = {
        "plain": "",
        "late": f"access_by_lua_block {{ ngx.sleep({LATENCY_SECONDS}) }}",
        "tls": f"ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;",
    }
    servers = "".join(
        _SERVER.format(
            port=port,
            flags=" ssl" if name == "tls" else "",
            extra=extras[name],
            root=root,
            bucket=objects.BUCKET,
            listing=_LISTING,
        )
        for name, port in ports.items()
        if name in extras
    )
    servers += _LISTING_SERVER.format(port=ports[LISTING], root=root, bucket=objects.BUCKET)
    # Started by root, nginx would drop to an account that may not read the data.
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    return _CONFIG.format(modules=_MODULES, root=root, user=user, token=listing_pages.TOKEN, servers=servers)


def _answers(process: subprocess.Popen[bytes], ports: dict[str, int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        if all(_connects(port) for port in ports.values()):
            # A port taken by a stranger also connects: nginx must still be there a moment later.
            time.sleep(0.2)
            return process.poll() is None
        time.sleep(0.05)
    return False


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _log(root: Path) -> str:
    logs = [root / "stderr.log", root / "error.log"]
    return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
