"""Room card: listings of many objects: pages read quickly, first segments at once, entries as they come.

Holds the quick reader of pages against the one that knows XML.  What all backends promise is in `contract_lists`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio import CancelledError, NotFoundError, OptionError, StoreError, prefixes
from s3dlio.cancel import CancellationToken
from s3dlio.prefixes import wide_entries
from s3dlio.stores import open_store, xml
from s3dlio.stores.base import Entry
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.pages import quick_keys, quick_rows
from s3dlio.stores.s3 import S3Store
from s3dlio.uri import Uri, parse
from tests.contract_base import unique

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.gcs import GcsServer

_ROW = (
    "<Contents><Key>{key}</Key><LastModified>{when}</LastModified><ETag>{etag}</ETag>{extra}<Size>{size}</Size>"
    "{owner}<StorageClass>STANDARD</StorageClass></Contents>"
)
_PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>b</Name><IsTruncated>{more}</IsTruncated>{encoding}<NextContinuationToken>a+b/c=</NextContinuationToken>"
    "{rows}{prefixes}</ListBucketResult>"
)


def page(rows: list[str], *, encoding: str = "url", more: str = "true", prefixes: str = "") -> bytes:
    """Returns a page of a listing as S3 writes it."""
    kind = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
    return _PAGE.format(rows="".join(rows), encoding=kind, more=more, prefixes=prefixes).encode()


def row(key: str = "a", **fields: str) -> str:
    """Returns one object of a page."""
    known = {"when": "2024-05-01T12:00:00.000Z", "etag": "&quot;abc&quot;", "extra": "", "size": "5", "owner": ""}
    return _ROW.format(key=key, **(known | fields))


def assert_keys_alone(body: bytes) -> None:
    """The reader of keys tells what the reader of all says, but directory markers."""
    whole = xml._s3_page(body)
    assert xml.parse_s3_keys(body) == ([entry.key for entry in whole.entries if not entry.is_marker], whole.cursor)


def test_keys_alone_are_read_quickly_but_where_one_may_be_a_directory() -> None:
    plain = page([row("a"), row("b%2Fc"), row("d/e")])
    assert quick_keys(plain) is not None
    assert xml.parse_s3_keys(plain) == (["a", "b/c", "d/e"], "a+b/c=")
    for markers in ([row("a"), row("d/", size="0")], [row("d%2F", size="0"), row("a")]):
        assert quick_keys(page(markers)) is None
        assert xml.parse_s3_keys(page(markers))[0] == ["a"]
    assert xml.parse_s3_keys(page([row("d/"), row("e")]))[0] == ["d/", "e"]


_ROWS = st.builds(
    row,
    key=st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(escape),
    when=st.sampled_from(["2024-05-01T12:00:00.000Z", "2024-05-01T12:00:00", "Wed, 01 May 2024 12:00:00 GMT", ""]),
    etag=st.sampled_from(["&quot;abc&quot;", '"abc"', "&#34;abc&#34;", "abc", "W/&quot;a&quot;", "&quot;", ""]),
    extra=st.sampled_from(
        ["", "<ChecksumAlgorithm>CRC32C</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>", "<New>x</New>"]
    ),
    size=st.sampled_from(["0", "5", "1234567890123", "9" * 19]),
    owner=st.sampled_from(["", "<Owner><ID>x</ID><DisplayName>y</DisplayName></Owner>"]),
)


@given(st.lists(_ROWS), st.sampled_from(["url", ""]), st.booleans())
def test_the_quick_reader_reads_what_the_other_one_reads(rows: list[str], encoding: str, prefix: bool) -> None:
    common = "<CommonPrefixes><Prefix>p%2Fq/</Prefix></CommonPrefixes>" if prefix else ""
    body = page(rows, encoding=encoding, prefixes=common)
    assert xml.parse_s3_page(body) == xml._s3_page(body)
    assert_keys_alone(body)


def test_usual_pages_are_read_quickly() -> None:
    amazon = row("dir/a%20b+c", extra="<ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>")
    google = row().replace("</Key>", "</Key><Generation>1</Generation><MetaGeneration>1</MetaGeneration>")
    ceph = row().replace("</Contents>", "<Type>Normal</Type></Contents>")
    for rows in (
        [amazon] * 3,
        [google],
        [ceph] * 2,
        [row(etag="&#34;abc&#34;")],
        [row(owner="<Owner><ID>x</ID></Owner>")],
    ):
        assert quick_rows(page(rows)) is not None
    found = xml.parse_s3_page(page([amazon])).entries[0]
    assert (found.key, found.size, found.etag) == ("dir/a b c", 5, "abc")


@pytest.mark.parametrize(
    "body",
    [
        page([row("<![CDATA[x]]>")]),
        page([row() + "\n", row()]),
        page(["<!-- ", row(), " -->"]),
        page([row(), "<Contents><Key>b</Key></Contents>"]),
        page([row(), "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", row()]),
        page([row(key="&#13;")]),
        page([]),
    ],
)
def test_unusual_pages_are_read_as_xml(body: bytes) -> None:
    assert quick_rows(body) is None
    assert xml.parse_s3_page(body) == xml._s3_page(body)
    assert_keys_alone(body)


# -- first segments at once -------------------------------------------------------------------------------


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every store one that is far away, and pages short."""
    monkeypatch.setattr(MemoryStore, "lists_at_once", lambda *_: True)
    monkeypatch.setattr(prefixes, "_PAGE", 10)


def _filled(names: list[str]) -> str:
    root = f"memory://listing/{unique('t')}/"
    s3dlio.put_many([(f"{root}{name}", b"x") for name in names])
    return root


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(
    "names",
    [
        [f"{a}/{n:03}" for a in "abc" for n in range(50)],
        [f"only/deep/{a}/{n:03}" for a in "abcdefghijkl" for n in range(15)] + ["only/z"],
        [f"{n:03}" for n in range(50)],
        [f"{n:03}/x" for n in range(50)],
        [*(f"a/{n:03}" for n in range(30)), "a.x", "a0", "b/y", *(f"c{n}" for n in range(20))],
        ["a"],
        [],
    ],
)
def test_a_wide_listing_is_the_same_in_the_same_order(names: list[str]) -> None:
    s3dlio.put("memory://listing/first", b"")
    root = _filled(names)
    assert [entry.uri for entry in s3dlio.iter_objects(root)] == [f"{root}{name}" for name in sorted(names)]
    assert s3dlio.list(root) == [f"{root}{name}" for name in sorted(names)]


@pytest.mark.usefixtures("far")
def test_a_failure_in_one_segment_is_no_end_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    root = _filled([f"{a}/{n:03}" for a in "abc" for n in range(50)])
    real = MemoryStore.entries

    def failing(self: MemoryStore, prefix: Uri, *args: object, **more: bool) -> Iterator[Entry]:
        if prefix.key.endswith("/b/"):
            yield from list(real(self, prefix, *args, **more))[:20]  # type: ignore[arg-type]
            msg = "broken"
            raise StoreError(msg)
        yield from real(self, prefix, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStore, "entries", failing)
    seen = []
    with pytest.raises(StoreError, match="broken"):
        seen.extend(entry.uri for entry in s3dlio.iter_objects(root))
    with pytest.raises(StoreError, match="broken"):
        s3dlio.list(root)


@pytest.mark.usefixtures("far")
def test_a_listing_that_is_dropped_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "_GROUPS_AHEAD", 1)
    root = _filled([f"{a}/{n:03}" for a in "abc" for n in range(100)])
    token = CancellationToken()
    found = wide_entries(open_store(root), parse(root), token)
    assert next(found).key.endswith("a/000")
    found.close()  # type: ignore[attr-defined]
    found = wide_entries(open_store(root), parse(root), token)
    next(found)
    token.cancel()
    with pytest.raises(CancelledError):
        list(found)


def test_entries_come_before_the_listing_is_complete(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint_url)
    monkeypatch.setattr(prefixes, "_PAGE", 10)
    name = unique("iter")
    s3dlio.create_bucket(f"gs://{name}")
    s3dlio.put_many([(f"gs://{name}/{n:03}", b"x" * n) for n in range(50)])
    gcs.set_page_size(10)
    gcs.clear_requests()
    found = s3dlio.iter_objects(f"gs://{name}/")
    assert gcs.requests == []
    first = next(found)
    assert (first.uri, first.size, first.is_prefix) == (f"gs://{name}/000", 0, False)
    assert first.last_modified is not None
    assert len(gcs.requests) <= 2
    assert [entry.size for entry in found] == list(range(1, 50))
    assert [entry.uri for entry in s3dlio.iter_objects(f"gs://{name}/", pattern="*9")] == [
        f"gs://{name}/{n:03}" for n in range(9, 50, 10)
    ]


def test_what_cannot_be_listed_is_an_error_of_the_first_step() -> None:
    with pytest.raises(NotFoundError):
        next(s3dlio.iter_objects(f"memory://{unique('none')}/"))
    with pytest.raises(OptionError):
        next(s3dlio.iter_objects("memory://listing/", pattern="regex:("))


def test_many_objects_are_deleted_a_thousand_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    together = threading.Barrier(3)  # who is alone waits in vain for two others

    def batch(_store: S3Store, uris: list[Uri], _token: CancellationToken) -> None:
        together.wait(60)
        asked.append(len(uris))

    monkeypatch.setattr(S3Store, "_delete_batch", batch)
    s3dlio.delete([f"s3://bucket/{n}" for n in range(2500)])
    assert sorted(asked) == [500, 1000, 1000]


_MILLION = """
import resource, sys
import s3dlio
from s3dlio.stores.s3 import S3Store

row = ("<Contents><Key>data/train/{:09d}.npz</Key><LastModified>2024-05-01T12:00:00.000Z</LastModified>"
       "<ETag>&quot;{:032x}&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>")

def page(self, prefix, token, cursor, *, recursive):
    first = int(cursor or 0)
    rows = "".join([row.format(n, n) for n in range(first, first + 1000)])
    more = first + 1000 < 300_000
    head = f"<IsTruncated>{str(more).lower()}</IsTruncated><NextContinuationToken>{first + 1000}</NextContinuationToken>"
    return f"<ListBucketResult>{head}{rows}</ListBucketResult>".encode()

S3Store._listed = page
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
before = peak()
assert sum(1 for _ in s3dlio.iter_objects("s3://bucket/data/")) == 300_000
streamed = peak() - before
assert len(s3dlio.list("s3://bucket/data/")) == 300_000
print(streamed, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_long_listings_take_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _MILLION], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    streamed, listed = map(int, done.stdout.split())
    assert streamed < 25
    assert listed < 100  # MiB for 300,000: a million stays below 400
