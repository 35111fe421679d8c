"""Commands on single objects and listings: ls, stat, get, rm, mkdir.

Floor 7. Knows what is asked for and shown; must not know any backend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import Misused
from s3dlio.cli.session import current, with_common_options
from s3dlio.uri import Uri, from_path_or_uri, parse, parse_object

if TYPE_CHECKING:
    from s3dlio.stores.base import Entry

#: So many lines of a listing are shown as they come; later ones, of which more come at once, by the hundred.
_EAGER_LINES, _LINES_AT_ONCE = 1000, 100
_TIME = "%Y-%m-%d %H:%M:%S"

with_pattern = click.option(
    "--pattern", "-p", help="Only what matches: a glob, or a regex if it has signs of one (glob:..., regex:...)."
)
_recursive = click.option("--recursive", "-r", is_flag=True, help="All that lies below.")


@click.command("ls")
@click.argument("uri", help="A prefix, bucket or directory.")
@_recursive
@with_pattern
@click.option("--long", "-l", is_flag=True, help="With size and time.")
@click.option("--count-only", "-c", is_flag=True, help="Only how many objects and bytes.")
@with_common_options
def ls(uri: str, recursive: bool, pattern: str | None, long: bool, count_only: bool) -> None:
    """List what begins with URI, one line each, as it comes; --json gives a JSON object a line."""
    found = _Found()
    for entry in _entries(uri, pattern, recursive=recursive):
        found.add(entry)
        if not count_only:
            _show(parse(from_path_or_uri(uri)).with_key(entry.key), entry, found.lines, long=long)
    sys.stdout.flush()
    if not found.lines:
        _refuse_nothing(uri)
    if count_only:
        found.show()
    elif sys.stderr.isatty() and not current().quiet:
        show.note(found.text)


def _refuse_nothing(uri: str) -> None:
    """Refuse a pattern in the place of a name, and the name of a file that is not there."""
    is_path = "://" not in uri
    if not (is_path and os.path.lexists(os.path.expanduser(uri))):
        _refuse_glob(uri, "ls -r")
        if is_path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)


def _refuse_glob(uri: str, command: str) -> None:
    """Say where a pattern goes, of a name that looks like one and is of nothing that exists."""
    folder, slash, last = uri.rpartition("/")
    if "*" in last:
        msg = f"there is nothing named {uri}; for what matches write: s3dlio {command} -p '{last}' {folder + slash or '.'}"
        raise Misused(msg)


class _Found:
    """What a listing has brought so far."""

    def __init__(self) -> None:
        self.objects = self.prefixes = self.size = 0

    def add(self, entry: Entry) -> None:
        if entry.is_prefix:
            self.prefixes += 1
        else:
            self.objects += 1
            self.size += entry.size

    @property
    def lines(self) -> int:
        return self.objects + self.prefixes

    @property
    def text(self) -> str:
        below = f", {show.count_text(self.prefixes, 'folder')}" if self.prefixes else ""
        return f"{show.count_text(self.objects, 'object')}{below}, {show.size_text(self.size)}"

    def show(self) -> None:
        if current().as_json:
            show.json_line({"objects": self.objects, "prefixes": self.prefixes, "bytes": self.size})
        else:
            show.line(self.text)


def _entries(text: str, pattern: str | None, *, recursive: bool) -> Iterator[Entry]:
    from s3dlio import listing
    from s3dlio.context import current_token, store_of

    where = parse(from_path_or_uri(text))
    for entry in listing.scan(store_of(where), where, pattern, current_token(), recursive=recursive):
        if not entry.is_marker:
            yield entry


def _show(where: Uri, entry: Entry, number: int, *, long: bool) -> None:
    now = number < _EAGER_LINES or number % _LINES_AT_ONCE == 0
    if current().as_json:
        size = None if entry.is_prefix else entry.size
        parts = {"uri": str(where), "size": size, "last_modified": entry.last_modified, "etag": entry.etag or None}
        show.json_line(parts, now=now)
    elif long:
        size_text = "-" if entry.is_prefix else show.size_text(entry.size)
        when = entry.last_modified.strftime(_TIME) if entry.last_modified else "-"
        show.line(f"{size_text:>11}  {when:<19}  {where}", now=now)
    else:
        show.line(str(where), now=now)


@click.command("stat")
@click.argument("uris", metavar="URI...", nargs=-1, required=True, help="Objects.")
@with_common_options
def stat(uris: tuple[str, ...]) -> None:
    """Show what is known of objects without reading them."""
    from s3dlio.context import current_token, store_of

    for number, uri in enumerate(uris):
        whole = from_path_or_uri(uri)
        where = parse_object(whole, "stat")
        info = {"uri": whole, **store_of(where).head(where, current_token()).as_mapping()}
        if number and not current().as_json:
            show.line("")
        show.fields(info, as_json=current().as_json)


@click.command("get")
@click.argument("uri", help="The object; with -r a prefix.")
@click.argument("dest", metavar="[FILE]", default="-", help="A file, directory or URI; - is standard output.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="First byte.")
@click.option("--length", type=click.IntRange(min=0), help="Most bytes.")
@click.option("--decompress", is_flag=True, help="Expand .zst, .gz and .lz4; bytes are then counted in what comes out.")
@click.option("--recursive", "-r", is_flag=True, help="Read all below, keep nothing, tell the rate (see download).")
@with_pattern
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=64, help="Objects at once, with -r.")
@with_common_options
def get(
    uri: str,
    dest: str,
    offset: int,
    length: int | None,
    decompress: bool,
    recursive: bool,
    pattern: str | None,
    jobs: int,
) -> None:
    """Read an object into FILE, which appears whole or not at all, or to standard output."""
    if recursive:
        if dest != "-" or offset or length is not None or decompress:
            msg = "get -r keeps nothing and reads whole objects; use 'download' to keep them"
            raise Misused(msg)
        _read_below(uri, pattern, jobs)
        return
    if pattern is not None:
        msg = "--pattern goes with -r"
        raise Misused(msg)
    where = parse(from_path_or_uri(uri))
    size, pieces = (_expanded if decompress else _pieces)(where, offset, length)
    if dest == "-":
        _to_stdout(pieces)
    else:
        _to_place(where, dest, pieces, size)


def _expanded(where: Uri, offset: int, length: int | None) -> tuple[int, Iterable[memoryview]]:
    from s3dlio import api

    view = api.get(str(where), decompress=True).memoryview()
    stop = _stop(where, offset, length, len(view))
    return stop - offset, [view[offset:stop]]


def _pieces(where: Uri, offset: int, length: int | None) -> tuple[int, Iterable[memoryview]]:
    """Return the length of a range, and its bytes piece by piece, read ahead, of one version of the object."""
    from s3dlio.context import current_token, store_of
    from s3dlio.remote import RemoteObject

    remote = RemoteObject(store_of(where), where, token=current_token())
    stop = _stop(where, offset, length, remote.size)
    return stop - offset, remote.chunks(offset, stop)


def _stop(where: Uri, offset: int, length: int | None, size: int) -> int:
    from s3dlio.errors import RangeError

    if offset > size:
        msg = f"--offset {offset} lies behind the end of the object ({size} bytes)"
        raise RangeError(msg, uri=str(where), operation="get")
    return size if length is None else min(size, offset + length)


def _to_stdout(pieces: Iterable[memoryview]) -> None:
    out = sys.stdout.buffer
    for piece in pieces:
        if sys.stdout.isatty() and b"\0" in bytes(piece[:4096]):
            msg = "this is not text, and standard output is a terminal; name a FILE"
            raise Misused(msg)
        out.write(piece)
    out.flush()


def _to_place(where: Uri, dest: str, pieces: Iterable[memoryview], size: int) -> None:
    from s3dlio.progress import telling

    name = where.key.rstrip("/").rpartition("/")[2]
    if dest.endswith("/") or ("://" not in dest and os.path.isdir(dest)):
        dest = f"{dest.rstrip('/')}/{name}"
    with telling(current().progress, f"get {name}") as tell, _opened(dest) as out:
        done = 0
        for piece in pieces:
            out.write(piece)
            done += len(piece)
            tell(done, size)


@contextlib.contextmanager
def _opened(dest: str) -> Iterator[Any]:
    if "://" not in dest and os.path.exists(dest) and not os.path.isfile(dest):
        with open(dest, "wb", buffering=0) as device:  # a pipe or device is written to, not replaced
            yield device
        return
    from s3dlio.multipart_writer import MultipartUploadWriter

    with MultipartUploadWriter.from_uri(from_path_or_uri(dest)) as writer:
        yield writer


def _read_below(text: str, pattern: str | None, jobs: int) -> None:
    from s3dlio.api import get_many

    where = parse(from_path_or_uri(text))
    objects = size = 0
    began = time.perf_counter()
    for group in _groups(_entries(text, pattern, recursive=True)):
        views = get_many([str(where.with_key(entry.key)) for entry in group], max_in_flight=jobs)
        objects += len(views)
        size += sum(len(view) for _, view in views)
        del views
    seconds = time.perf_counter() - began
    rate = size / seconds
    if current().as_json:
        show.json_line({"objects": objects, "bytes": size, "seconds": seconds, "bytes_per_second": rate})
    else:
        text = f"{show.count_text(objects, 'object')}, {show.size_text(size)}"
        show.line(
            f"{text} in {show.duration_text(seconds)} ({show.size_text(rate)}/s, {objects / seconds:,.0f} objects/s)"
        )


#: What one call of get_many holds in memory.
_GROUP_BYTES, _GROUP_OBJECTS = 256 * 1024**2, 4096


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += entry.size
        if size >= _GROUP_BYTES or len(group) >= _GROUP_OBJECTS:
            yield group
            group, size = [], 0
    if group:
        yield group


@click.command("rm")
@click.argument("uris", metavar="URI...", nargs=-1, required=True, help="Objects; with -r prefixes and directories.")
@_recursive
@with_pattern
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", "-n", is_flag=True, help="Show what would go, delete nothing.")
@click.option("--pending", is_flag=True, help="Not objects, but what killed writers have left for more than a day.")
@with_common_options
def rm(uris: tuple[str, ...], recursive: bool, pattern: str | None, yes: bool, dry_run: bool, pending: bool) -> None:
    """Delete objects; one that is not there is fine. With -r it asks first."""
    from s3dlio import removal

    places = [from_path_or_uri(uri) for uri in uris]
    if pending:
        if recursive or dry_run or pattern is not None:
            msg = "--pending goes without -r, -p and -n"
            raise Misused(msg)
        _abort_uploads(places)
        return
    _check_removal(places, pattern, recursive=recursive)
    if dry_run:
        _show_removal(places, pattern, recursive=recursive)
        return
    if recursive and not yes:
        _ask(places, pattern)
    for place in places if recursive else [places]:
        removal.delete(place, recursive, pattern=pattern)
    if current().as_json:
        show.json_line({"deleted": places, "recursive": recursive})


def _abort_uploads(places: list[str]) -> None:
    from s3dlio import removal

    gone = [uri for place in places for uri in removal.abort_uploads(place)]
    if current().as_json:
        show.json_line({"aborted": gone})
        return
    for uri in gone:
        show.line(uri)


def _exists(place: str) -> bool:
    from s3dlio import api  # with NumPy, which few removals need

    return api.exists(place)


def _check_removal(places: list[str], pattern: str | None, *, recursive: bool) -> None:
    for place in places:
        where = parse(place)
        if not recursive and (place.endswith("/") or not where.key):
            msg = f"{place} names all that lies below; add -r to delete that"
            raise Misused(msg)
        if not recursive and "*" in where.key and not _exists(place):
            _refuse_glob(place, "rm -r")
    if pattern is not None and not recursive:
        msg = "--pattern goes with -r"
        raise Misused(msg)


def _show_removal(places: list[str], pattern: str | None, *, recursive: bool) -> None:
    from s3dlio import listing
    from s3dlio.context import current_token, store_of

    for place in places:
        where = parse(place)
        if not recursive:
            show.line(place)
            continue
        below = where if not where.key or where.key.endswith("/") else where.with_key(f"{where.key}/")
        for page in listing.pages(store_of(below), below, pattern, current_token()):
            for entry in page:
                show.line(str(below.with_key(entry.key)), now=False)


def _ask(places: list[str], pattern: str | None) -> None:
    if not sys.stdin.isatty():
        msg = "rm -r asks before it deletes, and there is no terminal to ask at; add -y"
        raise Misused(msg)
    what = f"all that matches {pattern!r} below" if pattern else "everything below"
    sys.stderr.write(f"delete {what} {show.visible(' and '.join(places))} ? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        msg = "nothing was deleted"
        raise Misused(msg)


@click.command("mkdir")
@click.argument("uris", metavar="URI...", nargs=-1, required=True, help="Directories.")
@with_common_options
def mkdir(uris: tuple[str, ...]) -> None:
    """Make directories and their parents; on object stores an empty object whose key ends in /."""
    from s3dlio import buckets

    for uri in uris:
        buckets.mkdir(from_path_or_uri(uri))
