"""The verbs that carry many objects: upload, download, copy.

Floor 6. Knows the public contract; what means what, goes where and how is in :mod:`s3dlio.transfer`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, Literal

from s3dlio.bounds import flag, whole
from s3dlio.cancel import CancellationToken
from s3dlio.context import context_options, current_token, store_of
from s3dlio.errors import AccessDeniedError, AlreadyExistsError, NotFoundError, OptionError, TransferError
from s3dlio.listing import Pattern
from s3dlio.progress import Count, Tell, telling
from s3dlio.spellings import also_spelt
from s3dlio.stores import open_store as shared_store
from s3dlio.transfer.finding import Finder, Selection, Source
from s3dlio.transfer.haul import Tally, haul, haul_elsewhere
from s3dlio.transfer.plan import Failure, Layout, Move, lay_out
from s3dlio.transfer.present import missing
from s3dlio.uri import CONTAINER_SCHEMES, PATH_SCHEMES, Uri, from_path_or_uri, parse

#: Where something is: a path, a URI, or either with a pattern in it.
Where = str | PurePath
Sources = Where | re.Pattern[str] | Iterable[Where | re.Pattern[str]]

DEFAULT_TRANSFERS_IN_FLIGHT = 32
#: A message names so many failures; all are in the error's ``failures``.
_NAMED = 3


@dataclasses.dataclass(frozen=True, slots=True)
class TransferResult:
    """What became of a transfer.

    Attributes:
        transferred: Objects that were carried.
        skipped: Objects that were there already (``update=True``).
        failed: Objects that are not there.
        total_bytes: Bytes of those carried.
        seconds: From the call to its end.
        failures: What failed: ``source``, ``destination`` and ``error`` of each. Fewer than ``failed`` where the rest
            was given up.
    """

    transferred: int
    skipped: int
    failed: int
    total_bytes: int
    seconds: float
    failures: tuple[Failure, ...] = ()

    @property
    def bytes_per_second(self) -> float:
        """Bytes carried per second."""
        return self.total_bytes / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class _How:
    operation: str
    max_in_flight: int
    create_bucket: bool = False
    flatten: bool = False
    progress: bool | Tell = False
    update: bool = False
    executor: Executor | None = None
    errors: str = "raise"
    selection: Selection = dataclasses.field(default_factory=Selection)
    #: The destination may be the name of the one object that comes.
    names_one: bool = False


@also_spelt(src_patterns="src", dest_prefix="dest", src_uri="src", dest_uri="dest")
def upload(  # noqa: PLR0913 - the contract's, and what the field's tools have
    src: Sources | None = None,
    dest: Where | None = None,
    max_in_flight: int = DEFAULT_TRANSFERS_IN_FLIGHT,
    create_bucket: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    local_dir: Where | None = None,
    remote_uri: Where | None = None,
    pattern: Pattern = None,
    recursive: bool = True,
    flatten: bool = False,
    progress: bool | Tell = False,
    update: bool = False,
    follow_links: bool = True,
    executor: Executor | None = None,
    errors: Literal["raise", "return"] = "raise",
) -> TransferResult:
    r"""Write files below a prefix.

    Files go under their base name; what is in a directory keeps its path from there on, and so does what a pattern
    finds, from the last directory before the pattern on. Each object appears whole or not at all; after an
    interruption ``update=True`` goes on where it ended.

    Args:
        src: A path, or several: of a file; of a directory; or with a glob (in which ``*`` stays within a name and
            ``**`` does not) or a regex in it, as ``"/logs/.*\.log$"`` or after ``glob:`` or ``regex:``. A path that
            exists means itself.
        dest: The URI of a prefix or directory.
        max_in_flight: Most requests at once. Memory: at most 256 MiB of objects.
        create_bucket: Make the bucket if it is missing.
        local_dir: Another name of ``src``; so are ``src_patterns`` and ``src_uri``.
        remote_uri: Another name of ``dest``; so are ``dest_prefix`` and ``dest_uri``.
        pattern: Only what matches, relative to its directory (see :func:`s3dlio.list`).
        recursive: Also what lies deeper in directories.
        flatten: Base names only.
        progress: ``True`` shows a bar on a terminal; a function is told the bytes done and in all.
        update: Leave out what is there with the same size and the same sum or, where sums say nothing, is not older
            than its source, to the second.
        follow_links: Also what symbolic links lead to; ``False`` leaves links out.
        executor: Workers that do it in batches: processes, a Dask cluster, any ``concurrent.futures.Executor``. What a
            lost worker had is done again.
        errors: ``"return"`` raises nothing for single objects that failed; see the result.

    Returns:
        How much was transferred, left out and failed.

    Raises:
        NotFoundError: A source, or the bucket, is not there, or nothing matches.
        UriError: Two sources would become one object. Nothing was written.
        TransferError: Some objects failed (``failures``); the others are there. If there was only one, its own error.

    Example:
        >>> import s3dlio, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.bin").write_bytes(b"spam")
        >>> s3dlio.upload(folder, "memory://demo/up/").transferred
        1
    """
    src, dest = _named(src, local_dir, "src", "local_dir"), _named(dest, remote_uri, "dest", "remote_uri")
    selection = Selection(recursive, pattern, follow_links)
    how = _How("upload", max_in_flight, create_bucket, flatten, progress, update, executor, errors, selection)
    return _transfer(_several(src), parse(_text(dest)), how)


@also_spelt(src_uri="src", dest_dir="dest", dest_uri="dest")
def download(  # noqa: PLR0913 - as upload
    src: Sources | None = None,
    dest: Where | None = None,
    max_in_flight: int = DEFAULT_TRANSFERS_IN_FLIGHT,
    *,
    remote_uri: Where | None = None,
    local_dir: Where | None = None,
    pattern: Pattern = None,
    recursive: bool = True,
    flatten: bool = False,
    progress: bool | Tell = False,
    update: bool = False,
    executor: Executor | None = None,
    errors: Literal["raise", "return"] = "raise",
) -> TransferResult:
    """Write objects into a directory, which is made if it is missing.

    As :func:`upload`, the other way. Files appear whole or not at all, under their names; when they reach the disk is
    the system's business. Large objects come in ranges, in parallel.

    Args:
        src: The URI of an object, a prefix, or either with a glob or a regex in it; or several.
        dest: A directory: a path or URI.
        max_in_flight: Most requests at once. Memory: at most 256 MiB of objects.
        remote_uri: Another name of ``src``; so is ``src_uri``.
        local_dir: Another name of ``dest``; so are ``dest_dir`` and ``dest_uri``.
        pattern: Only what matches, relative to the prefix (see :func:`s3dlio.list`).
        recursive: Also what lies deeper.
        flatten: Base names only.
        progress: As for :func:`upload`.
        update: As for :func:`upload`.
        executor: As for :func:`upload`; its workers must see the same directory.
        errors: As for :func:`upload`.

    Raises:
        NotFoundError: There is nothing, or nothing matches.
        UriError: A key would lead out of the directory, or two objects would become one file. Nothing was written.
        TransferError: As for :func:`upload`.
    """
    src, dest = _named(src, remote_uri, "src", "remote_uri"), _named(dest, local_dir, "dest", "local_dir")
    selection = Selection(recursive, pattern)
    how = _How(
        "download",
        max_in_flight,
        flatten=flatten,
        progress=progress,
        update=update,
        executor=executor,
        errors=errors,
        selection=selection,
    )
    return _transfer(_several(src), parse(from_path_or_uri(_text(dest))), how)


def copy(  # noqa: PLR0913 - as upload
    src: Sources,
    dest: Where,
    max_in_flight: int = DEFAULT_TRANSFERS_IN_FLIGHT,
    create_bucket: bool = False,  # noqa: FBT001, FBT002 - as upload
    *,
    pattern: Pattern = None,
    recursive: bool = True,
    flatten: bool = False,
    progress: bool | Tell = False,
    update: bool = False,
    follow_links: bool = True,
    executor: Executor | None = None,
    errors: Literal["raise", "return"] = "raise",
) -> TransferResult:
    """Copy objects from any backend to any other.

    Within S3, Google Cloud Storage, an Azure account or a file system the bytes do not pass through here, where the
    server or the kernel can copy. Media type and metadata go along where both ends have them.

    Args:
        src: As for :func:`upload`, on any backend.
        dest: A prefix or directory if it ends in ``/``, is an existing directory or a bucket, or there are several
            sources; else the name of the copy.
        max_in_flight: As for :func:`upload`.
        create_bucket: As for :func:`upload`.
        pattern: As for :func:`upload`.
        recursive: As for :func:`upload`.
        flatten: As for :func:`upload`.
        progress: As for :func:`upload`.
        update: As for :func:`upload`.
        follow_links: As for :func:`upload`.
        executor: As for :func:`upload`.
        errors: As for :func:`upload`.

    Raises:
        NotFoundError: There is nothing, or nothing matches.
        UriError: As for :func:`download`.
        TransferError: As for :func:`upload`.

    Example:
        >>> import s3dlio
        >>> s3dlio.put("memory://demo/a", b"spam")
        >>> s3dlio.copy("memory://demo/a", "memory://demo/b").total_bytes
        4
    """
    selection = Selection(recursive, pattern, follow_links)
    how = _How("copy", max_in_flight, create_bucket, flatten, progress, update, executor, errors, selection)
    sources = _several(src)
    how = dataclasses.replace(how, names_one=_is_one(src))
    return _transfer(sources, parse(from_path_or_uri(_text(dest))), how)


# -- how it goes --------------------------------------------------------------------------------------


def _transfer(sources: Sequence[Any], dest: Uri, how: _How) -> TransferResult:
    began = time.monotonic()
    _check(how)
    token = current_token()
    moves, refused = _planned(sources, dest, how, token)
    _refuse_memory(dest, moves, how)
    _prepare(dest, how, moves, token)
    wanted = missing(moves, dest, store_of, how.max_in_flight, token) if how.update else moves
    with telling(how.progress, f"{how.operation} to {dest}") as tell:
        count = Count(sum(max(0, move.size) for move in wanted), tell, len(wanted))
        tally = _carried(wanted, how, count, token)
    tally.failures += refused
    failed = len(tally.failures) + tally.untried
    result = TransferResult(
        tally.transferred,
        len(moves) - len(wanted),
        failed,
        tally.total_bytes,
        time.monotonic() - began,
        tuple(tally.failures),
    )
    if failed and how.errors == "raise":
        _raise(result, tally, dest, how)
    return result


def _check(how: _How) -> None:
    whole("max_in_flight", how.max_in_flight, 1)
    for name in ("create_bucket", "flatten", "update"):
        flag(name, getattr(how, name))
    if how.errors not in ("raise", "return"):
        msg = f"errors must be 'raise' or 'return', not {how.errors!r}"
        raise OptionError(msg, operation=how.operation)


def _planned(
    sources: Sequence[Any], dest: Uri, how: _How, token: CancellationToken
) -> tuple[list[Move], list[Failure]]:
    finder = Finder(how.operation, how.selection, store_of, token)
    found: list[Source] = []
    for source in sources:
        found.extend(finder.find(source))
    if sources and not found and how.selection.pattern is not None:
        msg = f"nothing that is there matches {getattr(how.selection.pattern, 'pattern', how.selection.pattern)!r}"
        raise NotFoundError(msg, uri=str(sources[0]), operation=how.operation)
    exact = how.names_one and finder.is_single and not _is_folder(dest)
    # The usual file systems of macOS take "A" and "a" for one name.
    folds = dest.scheme in PATH_SCHEMES and sys.platform == "darwin"
    return lay_out(found, Layout(dest, exact, how.flatten, folds, how.operation))


def _refuse_memory(dest: Uri, moves: Sequence[Move], how: _How) -> None:
    """What other processes write into their own memory would be lost."""
    schemes = {dest.scheme, *(move.source.scheme for move in moves)}
    if how.executor is not None and "memory" in schemes and not isinstance(how.executor, ThreadPoolExecutor):
        msg = "memory:// belongs to one process; leave executor out, or use a ThreadPoolExecutor"
        raise OptionError(msg, uri=str(dest), operation=how.operation)


def _is_folder(dest: Uri) -> bool:
    if not dest.key or dest.key.endswith("/"):
        return True
    if dest.scheme not in PATH_SCHEMES:
        return False
    with contextlib.suppress(NotFoundError):
        return bool(store_of(dest).head(dest, current_token()).content_type.endswith("directory"))
    return False


def _prepare(dest: Uri, how: _How, moves: Sequence[Move], token: CancellationToken) -> None:
    """See that there is a bucket before many objects find out one by one that there is none."""
    if dest.scheme not in CONTAINER_SCHEMES:
        return
    store = store_of(dest)
    if how.create_bucket:
        with contextlib.suppress(AlreadyExistsError):
            store.create_container(dest, token)
    elif len(moves) > 1 and dest.scheme != "memory":  # a space of the memory comes with its first object
        try:
            next(iter(store.entries(dest, token, recursive=False)), None)
        except NotFoundError as error:
            msg = f"{error.message}; create_bucket=True makes it"
            raise NotFoundError(msg, uri=str(dest), operation=how.operation) from error
        except AccessDeniedError:
            return  # one may be allowed to write and not to list


def _carried(moves: Sequence[Move], how: _How, count: Count, token: CancellationToken) -> Tally:
    if how.executor is None:
        # The settings of this context, which the threads do not have.
        opener = functools.partial(shared_store, options=context_options.get())
        return haul(moves, opener, how.max_in_flight, count, token)
    settings = context_options.get(), how.max_in_flight
    tally = haul_elsewhere(moves, how.executor, settings, count, token)
    for move in moves:
        store_of(move.target).sizes.forget(move.target)
    return tally


def _raise(result: TransferResult, tally: Tally, dest: Uri, how: _How) -> None:
    total = result.transferred + result.skipped + result.failed
    first = result.failures[0].error
    if total == 1:
        raise first
    named = "; ".join(str(failure.error) for failure in result.failures[:_NAMED])
    rest = f"; {tally.untried:,} were not tried, after too many failures in a row" if tally.untried else ""
    msg = f"{result.failed:,} of {total:,} objects failed: {named}{rest}"
    raise TransferError(msg, uri=str(dest), operation=how.operation, result=result) from first


# -- arguments ----------------------------------------------------------------------------------------


def _named(given: Any, other: Any, name: str, other_name: str) -> Any:
    if (given is None) == (other is None):
        msg = f"give either {name} or {other_name}" + ("" if given is None else ", not both")
        raise OptionError(msg)
    return other if given is None else given


def _is_one(src: Sources) -> bool:
    return isinstance(src, str | PurePath)


def _several(src: Any) -> Sequence[Any]:
    return [src] if isinstance(src, str | PurePath | re.Pattern) else list(src)


def _text(dest: Any) -> str:
    if not isinstance(dest, str | PurePath):
        msg = f"a destination is a path or a URI, not {type(dest).__name__}"
        raise OptionError(msg)
    return from_path_or_uri(dest) if isinstance(dest, PurePath) else dest
