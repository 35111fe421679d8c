"""Commands that move bytes to and fro: put, put-streaming, generate, upload, download, cp, tfrecord-index.

Floor 7. Knows what is asked for and shown; must not know any backend.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from s3dlio.cli import show
from s3dlio.cli.failing import Misused
from s3dlio.cli.objects import with_pattern
from s3dlio.cli.session import current, with_common_options
from s3dlio.errors import NotFoundError
from s3dlio.uri import PATH_SCHEMES, from_path_or_uri, parse, parse_object

if TYPE_CHECKING:
    from s3dlio.cancel import CancellationToken
    from s3dlio.progress import Tell
    from s3dlio.transfers import TransferResult

#: Up to here a file is one request; the library cuts what is larger into parts anyway.
_WHOLE_BYTES = 64 * 1024**2
_STDIN = "-"

_jobs = click.option("--jobs", "-j", type=click.IntRange(min=1), default=32, help="Objects at once.")
_update = click.option("--update", "-u", is_flag=True, help="Leave out what is there already and the same.")
_content_type = click.option("--content-type", metavar="TYPE", help="Media type of the object.")
_metadata = click.option("--metadata", metavar="NAME=VALUE", multiple=True, help="Your own; repeatable.")
_new = click.option("--new", is_flag=True, help="Refuse to replace an object.")
_size = click.option("--size", "-s", default="20MiB", help="Bytes of each object, such as 8MiB.")
_object_type = click.option("--object-type", "-o", default="raw", help="raw, zeros, npz, tfrecord or hdf5.")
_dedup = click.option("--dedup", type=click.IntRange(min=1), default=1, help="Each block comes so many times.")
_compress = click.option(
    "--compress", type=click.IntRange(min=1), default=1, help="Bytes compress to one part of so many."
)


@click.command("put")
@click.argument("uri", help="The object; with -n a template such as s3://b/a-{:04d}.bin.")
@click.argument("file", required=False, help="A file; - is standard input.")
@click.option("--num", "-n", type=click.IntRange(min=1), help="Make so many objects up instead.")
@_size
@_object_type
@_dedup
@_compress
@_jobs
@_content_type
@_metadata
@_new
@with_common_options
def put(
    uri: str,
    file: str | None,
    num: int | None,
    size: str,
    object_type: str,
    dedup: int,
    compress: int,
    jobs: int,
    content_type: str | None,
    metadata: tuple[str, ...],
    new: bool,
) -> None:
    """Send a file as one object, or (-n) objects of made-up bytes."""
    if num is not None:
        if file is not None:
            msg = "name a FILE or --num, not both"
            raise Misused(msg)
        if new or content_type or metadata:
            msg = "--new, --content-type and --metadata go with a FILE, not with --num"
            raise Misused(msg)
        _make_up(uri, num, size, jobs, object_type=object_type, dedup_factor=dedup, compress_factor=compress)
        return
    if file is None:
        msg = "name a FILE (- is standard input), or --num objects to make up"
        raise Misused(msg)
    uri, file = _in_order(uri, file)
    how: dict[str, Any] = {"content_type": content_type or "", "metadata": _pairs(metadata), "overwrite": not new}
    if file == _STDIN or not os.path.isfile(file) or os.path.getsize(file) > _WHOLE_BYTES:
        _stream(uri, file, None, None, how)
        return
    with open(file, "rb") as source:
        data = source.read()
    _send(_named(uri, file), data, how)
    _sent(_named(uri, file), len(data), 1)


def _send(uri: str, data: bytes, how: dict[str, Any]) -> None:
    from s3dlio.context import current_token, store_of
    from s3dlio.sender import send_whole
    from s3dlio.stores.base import PutOptions

    where = parse_object(uri, "put")
    send_whole(store_of(where), where, memoryview(data), PutOptions(**how), current_token())


@click.command("put-streaming")
@click.argument("uri", help="The object.")
@click.argument("file", default=_STDIN, help="A file; - is standard input.")
@click.option("--part-size", help="Bytes of a part, at least 5MiB; else 16MiB.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Parts at once; else 16.")
@_content_type
@_metadata
@_new
@with_common_options
def put_streaming(
    uri: str,
    file: str,
    part_size: str | None,
    jobs: int | None,
    content_type: str | None,
    metadata: tuple[str, ...],
    new: bool,
) -> None:
    """Send a file of any length, or what comes by a pipe, part by part; the object appears at the end."""
    uri, file = _in_order(uri, file)
    how = {"content_type": content_type, "metadata": _pairs(metadata), "overwrite": not new}
    _stream(uri, file, show.read_size(part_size) if part_size else None, jobs, how)


def _in_order(uri: str, file: str) -> tuple[str, str]:
    """Return object and file, though they were named the other way round."""
    return (file, uri) if "://" in file and "://" not in uri else (uri, file)


def _named(uri: str, file: str) -> str:
    """Return where a file goes: below a prefix it keeps its name."""
    place = from_path_or_uri(uri)
    if not place.endswith("/"):
        return place
    if file == _STDIN:
        msg = f"{place} is a prefix; what comes by standard input needs a name"
        raise Misused(msg)
    return f"{place}{os.path.basename(file)}"


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            msg = f"--metadata takes NAME=VALUE, not {word!r}"
            raise Misused(msg)
        pairs[name] = value
    return pairs


def _stream(uri: str, file: str, part_bytes: int | None, parts_in_flight: int | None, how: dict[str, Any]) -> None:
    from s3dlio.multipart_writer import MultipartUploadWriter
    from s3dlio.progress import telling

    place = _named(uri, file)
    source: Any = sys.stdin.buffer if file == _STDIN else open(file, "rb", buffering=0)  # noqa: SIM115 - closed below
    with source, telling(current().progress, f"put {os.path.basename(file)}") as tell:
        length = os.path.getsize(file) if os.path.isfile(file) else 0
        with MultipartUploadWriter.from_uri(place, part_bytes, parts_in_flight, **how) as writer:
            _fill(writer, source, length, tell)
    info = writer.info
    _sent(place, writer.bytes_written, info.parts if info else 0)


def _fill(writer: Any, source: Any, length: int, tell: Tell) -> None:
    """Read into the writer's own memory until there is no more: nothing is copied."""
    while True:
        room = writer.reserve(writer.part_size)
        count = source.readinto(room)
        del room
        writer.commit(count or 0)
        if not count:
            return
        tell(writer.bytes_written, max(length, writer.bytes_written))


def _sent(uri: str, size: int, parts: int) -> None:
    if current().as_json:
        show.json_line({"uri": uri, "bytes": size, "parts": parts})


@click.command("generate")
@click.argument("template", metavar="URI", help="Where to; {} or {:06d} is the object's number.")
@click.option("--num", "-n", type=click.IntRange(min=1), default=1, help="Objects.")
@_size
@_object_type
@_dedup
@_compress
@_jobs
@with_common_options
def generate(template: str, num: int, size: str, object_type: str, dedup: int, compress: int, jobs: int) -> None:
    """Put objects of made-up bytes, for tests and measurements."""
    _make_up(template, num, size, jobs, object_type=object_type, dedup_factor=dedup, compress_factor=compress)


def _make_up(template: str, num: int, size: str, jobs: int, **kind: Any) -> None:
    from s3dlio import api

    count, place = show.read_size(size), from_path_or_uri(template)
    api.put(place, num=num, size=count, max_in_flight=jobs, progress=current().progress, **kind)
    if current().as_json:
        show.json_line({"template": place, "objects": num, "size": count})


@click.command("upload")
@click.argument(
    "places", metavar="SRC... DEST", nargs=-1, required=True, help="Files, directories, patterns; a prefix."
)
@with_pattern
@click.option("--recursive", "-r", is_flag=True, expose_value=False, help="Accepted: directories go whole.")
@click.option("--create-bucket", is_flag=True, help="Make the bucket if it is not there.")
@_update
@_jobs
@with_common_options
def upload(places: tuple[str, ...], pattern: str | None, create_bucket: bool, update: bool, jobs: int) -> None:
    """Send files and directories below a prefix."""
    from s3dlio import transfers

    *sources, dest = _two_or_more(places)
    how: dict[str, Any] = {"pattern": pattern, "progress": current().progress, "update": update}
    _tell(transfers.upload(sources, from_path_or_uri(dest), jobs, create_bucket, **how))


@click.command("download")
@click.argument("places", metavar="SRC... DEST", nargs=-1, required=True, help="Objects, prefixes; a directory.")
@with_pattern
@click.option("--recursive", "-r", is_flag=True, expose_value=False, help="Accepted: prefixes come whole.")
@click.option("--flatten", is_flag=True, help="All files into one directory.")
@_update
@_jobs
@with_common_options
def download(places: tuple[str, ...], pattern: str | None, flatten: bool, update: bool, jobs: int) -> None:
    """Fetch objects and prefixes into a directory."""
    from s3dlio import transfers

    *sources, dest = _two_or_more(places)
    how: dict[str, Any] = {"flatten": flatten, "pattern": pattern, "progress": current().progress, "update": update}
    _tell(transfers.download([from_path_or_uri(source) for source in sources], dest, jobs, **how))


@click.command("cp")
@click.argument("places", metavar="SRC... DEST", nargs=-1, required=True, help="Objects, files, prefixes, directories.")
@click.option("--recursive", "-r", is_flag=True, help="All that lies below SRC.")
@with_pattern
@_update
@_jobs
@with_common_options
def cp(places: tuple[str, ...], recursive: bool, pattern: str | None, update: bool, jobs: int) -> None:
    """Copy between any two places; within one store the server copies where it can."""
    from s3dlio import transfers

    *sources, dest = _two_or_more(places)
    if _STDIN in places:
        msg = "cp takes no pipes: write s3dlio get URI, or s3dlio put-streaming URI (a file of the name - is ./-)"
        raise Misused(msg)
    if not recursive:
        _refuse_many(sources, jobs)
    how: dict[str, Any] = {"pattern": pattern, "progress": current().progress, "update": update}
    named = [from_path_or_uri(source) for source in sources]
    # One source by itself: DEST may then be the name of the copy.
    _tell(transfers.copy(named if len(named) > 1 else named[0], from_path_or_uri(dest), jobs, **how))


def _refuse_many(sources: Sequence[str], jobs: int) -> None:
    """Refuse directories, prefixes and buckets; objects, patterns and names of nothing pass."""
    from s3dlio.context import current_token
    from s3dlio.crew import map_all

    answers = map_all(_names_many, sources, jobs, current_token())
    for source, is_many in zip(sources, answers, strict=True):
        if is_many:
            msg = f"{source} names all that lies below; add -r to copy that"
            raise Misused(msg)


def _names_many(source: str, token: CancellationToken) -> bool:
    from s3dlio.context import store_of
    from s3dlio.stores.base import DIRECTORY_TYPE
    from s3dlio.transfer.paths import is_pattern, marked

    if marked(source)[0]:
        return False
    where = parse(from_path_or_uri(source))
    if where.scheme in PATH_SCHEMES:
        return source.endswith("/") or os.path.isdir(where.key)
    if not where.key or where.key.endswith("/"):
        return True
    store = store_of(where)
    try:
        return store.head(where, token).content_type == DIRECTORY_TYPE
    except NotFoundError:
        below = store.entries(where.with_key(where.key + "/"), token, recursive=False)
        return not is_pattern(where.key) and next(iter(below), None) is not None


def _two_or_more(places: tuple[str, ...]) -> tuple[str, ...]:
    if len(places) < 2:  # noqa: PLR2004 - a source and a destination
        msg = f"name where {places[0]!r} should go as well"
        raise Misused(msg)
    return places


def _tell(result: TransferResult) -> None:
    """Show what a transfer has done."""
    count, size, seconds = result.transferred, result.total_bytes, result.seconds
    if current().as_json:
        show.json_line({"objects": count, "bytes": size, "skipped": result.skipped, "seconds": seconds})
    elif not current().quiet:
        skipped = f", {result.skipped:,} were there already" if result.skipped else ""
        done = f"{show.count_text(count, 'object')}, {show.size_text(size)} in {show.duration_text(seconds)}"
        show.line(f"{done} ({show.size_text(result.bytes_per_second)}/s){skipped}")


@click.command("tfrecord-index")
@click.argument("file", help="A TFRecord file: path or URI.")
@click.argument("index", required=False, help="Where to, a file or a directory; else FILE.idx.")
@with_common_options
def tfrecord_index(file: str, index: str | None) -> None:
    """Write the index of a TFRecord file, as NVIDIA DALI reads it."""
    from s3dlio.tfrecords import create_tfrecord_index

    if index is not None and (index.endswith("/") or ("://" not in index and os.path.isdir(index))):
        index = f"{index.removesuffix('/')}/{os.path.basename(file)}.idx"
    count = create_tfrecord_index(file, index, progress=current().progress)
    place = from_path_or_uri(index or f"{file}.idx")
    if current().as_json:
        show.json_line({"index": place, "records": count})
    elif not current().quiet:
        show.line(f"{show.count_text(count, 'record')}: {place}")
