"""A listing of a million objects, as pages that lie ready: what S3 answers, a thousand keys at a time.

For: writing them for the origin, and telling whether a contender brought all of them. Must not know: HTTP, or any client.
Imports nothing outside the standard library, because it runs in environments that hold one client each.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.objects import BUCKET
from benchmarks.worker import Action, Haul, Job, WrongBytesError

PREFIX = "million/"
COUNT = 1_000_000
_PAGE = 1000
#: Whoever lists asks for the page of this token; the first one needs none.
TOKEN = "page-"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    f"<Name>{BUCKET}</Name><Prefix>{PREFIX}</Prefix>"
)


def key_of(index: int) -> str:
    """The key of the object of this number."""
    return f"{PREFIX}train/{index:08d}.jpg"


def page_name(number: int) -> str:
    """The file's name of a page."""
    return f"{number:06d}.xml"


def write_pages(folder: Path, count: int) -> None:
    """Write the pages of a listing of so many objects."""
    folder.mkdir(parents=True)
    pages = -(-count // _PAGE)
    for number in range(pages):
        numbers = range(number * _PAGE, min(count, (number + 1) * _PAGE))
        text = _page(numbers, number + 1 if number + 1 < pages else 0)
        (folder / page_name(number)).write_text(text, encoding="ascii")


def _page(numbers: range, following: int) -> str:
    token = f"<NextContinuationToken>{TOKEN}{following:06d}</NextContinuationToken>" if following else ""
    head = f"{token}<KeyCount>{len(numbers)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
    head += f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>"
    return _HEAD + head + "".join(map(_row, numbers)) + "</ListBucketResult>"


def _row(index: int) -> str:
    when = f"2026-01-{index % 28 + 1:02d}T{index % 24:02d}:{index % 60:02d}:00.000Z"
    tag = f"{index * 0x9E3779B97F4A7C15 % (1 << 128):032x}"
    return (
        f"<Contents><Key>{key_of(index)}</Key><LastModified>{when}</LastModified><ETag>&quot;{tag}&quot;</ETag>"
        f"<Size>{100_000 + index}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


@cache
def _expected(count: int) -> int:
    return _sum(key_of(index) for index in range(count))


def _sum(keys: Iterable[str]) -> int:
    total = 0
    for key in keys:
        total = zlib.crc32(key.encode() + b"\n", total)
    return total


def listing(
    job: Job, take: Callable[[], Any], keys: Callable[[Any], Iterable[str]], count: Callable[[Any], int]
) -> Action:
    """Time a way to list. `keys` tells those of what it took, in order; only a proof asks for them.

    A slow contender may take the first so many only (`listed`).
    """
    wanted = job.params.get("listed", COUNT)

    def action() -> Haul:
        found = take()
        if count(found) != wanted:
            raise WrongBytesError(f"{count(found)} objects were listed of {wanted}")
        if job.proof:
            if _sum(keys(found)) != _expected(wanted):
                raise WrongBytesError("the keys that were listed are not those that there are")
            job.proof.whole = True
        return Haul(wanted, 0)

    return action
