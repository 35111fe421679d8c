"""Room card: rules of S3 that no well-behaved server shows: moved buckets, half-done deletes, endless listings.

Knows the origin that misbehaves on demand.  Must not test reads and retries: that is the wire's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from s3dlio import AccessDeniedError, NotFoundError, ObjectStore, StoreError, StoreOptions
from s3dlio.stores import xml
from s3dlio.stores.base import bare, quoted
from s3dlio.wire.head import ProtocolError
from tests.servers.faults import FaultOrigin, NoContentLength, Status, s3_error
from tests.servers.rules import error_xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.reply import Step
    from tests.servers.rules import Request

_PAGE = b"""<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>YQ==</NextContinuationToken>
<Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"""
_HALF = b"""<DeleteResult><Error><Key>b</Key><Code>%s</Code><Message>told so</Message></Error></DeleteResult>"""


@pytest.fixture
def store(origin: FaultOrigin) -> ObjectStore:
    """The verbs against the origin, which has a bucket with an object ``x``."""
    origin.objects["/bucket/x"] = b"x"
    keys = {"access_key_id": "AKID", "secret_access_key": "secret"}
    return ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, region="us-east-1", retry_base_s=0, **keys))


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_small_object_costs_one_request(store: ObjectStore, origin: FaultOrigin, size: int) -> None:
    origin.objects["/bucket/x"] = bytes(size)
    assert len(store.get("s3://bucket/x")) == size
    assert len(store.get_many(["s3://bucket/x"] * 3)) == 3
    assert len(store.get_range("s3://bucket/x", 0)) == size
    assert [request.method for request in origin.requests] == ["GET"] * 5


def test_an_empty_object_is_learned_from_the_refusal_of_its_range(store: ObjectStore, origin: FaultOrigin) -> None:
    origin.objects["/bucket/x"] = b""
    assert store.get("s3://bucket/x") == b""
    assert len(origin.requests) == 1
    assert store.get_many(["s3://bucket/x"] * 3)[2][1] == b""


def test_a_large_object_costs_one_request_per_part_of_the_same_object(origin: FaultOrigin) -> None:
    origin.objects["/bucket/x"] = bytes(300_000)
    keys = {"access_key_id": "AKID", "secret_access_key": "secret"}
    small = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, chunk_size=65_536, min_split_size=0, **keys))
    assert small.get("s3://bucket/x") == bytes(300_000)
    assert [request.method for request in origin.requests] == ["GET"] * 5
    starts = sorted(int(request.headers["range"][6:].partition("-")[0]) for request in origin.requests)
    assert starts == [0, 65_536, 131_072, 196_608, 262_144]
    conditions = [request.headers.get("if-match") for request in origin.requests]
    assert conditions == [None, *[origin.stored("/bucket/x").etag] * 4]


@pytest.mark.parametrize("tag", ['"strong"', 'W/"weak"', ""])
def test_any_kind_of_entity_tag_is_remembered_as_it_is(origin: FaultOrigin, tag: str) -> None:
    origin.objects["/bucket/x"] = bytes(300_000)
    origin.etags["/bucket/x"] = tag
    keys = {"access_key_id": "AKID", "secret_access_key": "secret"}
    small = ObjectStore(StoreOptions(endpoint_url=origin.endpoint_url, chunk_size=65_536, min_split_size=0, **keys))
    small.get_many_stats(["s3://bucket/x"])
    assert small.get("s3://bucket/x") == bytes(300_000)
    assert [request.method for request in origin.requests] == ["HEAD", *["GET"] * 5]
    conditions = {request.headers.get("if-match") for request in origin.requests[1:]}
    assert conditions == ({tag} if tag == '"strong"' else {None})  # a weak tag never satisfies a condition
    assert quoted(bare(tag)) == tag


def test_a_connection_serves_many_requests(store: ObjectStore, origin: FaultOrigin) -> None:
    for _ in range(5):
        store.put("s3://bucket/y", b"y")
        assert store.get("s3://bucket/y") == b"y"
        store.stat("s3://bucket/y")
        store.list("s3://bucket/")
        store.delete("s3://bucket/y")
        assert not store.exists("s3://bucket/y")
    assert origin.connections == 1


@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_bucket_in_another_region_is_asked_there(store: ObjectStore, origin: FaultOrigin, status: int) -> None:
    moved = s3_error(status, "AuthorizationHeaderMalformed", x_amz_bucket_region="eu-west-3")
    origin.plan("/bucket/x", moved)
    assert store.get("s3://bucket/x") == b"x"
    assert store.get_many(["s3://bucket/x"] * 2)[1][1] == b"x"
    regions = [request.headers["authorization"].split("/")[2] for request in origin.requests]
    assert regions == ["us-east-1", *["eu-west-3"] * 3]


class _Wordy(FaultOrigin):
    """Serves one region, and names it to who signs for another one in the body alone; to a HEAD it says nothing."""

    region = "RegionOne"

    def steps_for(self, request: Request) -> list[Step]:
        if _signed_for(request) != self.region:
            told = error_xml("AuthorizationHeaderMalformed", "the region is wrong", Region=self.region)
            headers = {"Content-Type": "application/xml"}
            self.plan(request.path, Status(400, headers, b"" if request.method == "HEAD" else told))
        return super().steps_for(request)


def _signed_for(request: Request) -> str:
    return request.headers["authorization"].split("/")[2]


@pytest.fixture
def wordy() -> Iterator[_Wordy]:
    """A server of another region that its answers' bodies name."""
    with _Wordy({"/bucket/x": b"x"}) as server:
        yield server


def _store_at(server: FaultOrigin) -> ObjectStore:
    keys = {"access_key_id": "AKID", "secret_access_key": "secret"}
    return ObjectStore(StoreOptions(endpoint_url=server.endpoint_url, region="us-east-1", retry_base_s=0, **keys))


@pytest.mark.parametrize("verb", ["get", "get_many", "put", "list", "delete"])
def test_a_region_that_the_body_alone_names_is_followed(wordy: _Wordy, verb: str) -> None:
    wordy.objects["/bucket/y"] = b"y"
    store = _store_at(wordy)
    arguments = {"get_many": [["s3://bucket/y"] * 3], "list": ["s3://bucket/"], "put": ["s3://bucket/y", b"new"]}
    getattr(store, verb)(*arguments.get(verb, ["s3://bucket/y"]))
    count = len(wordy.requests)
    assert store.get("s3://bucket/x") == b"x"
    assert [_signed_for(request) for request in wordy.requests[count:]] == ["RegionOne"]


def test_who_is_told_nothing_asks_for_the_region_once(wordy: _Wordy) -> None:
    store = _store_at(wordy)
    assert store.stat("s3://bucket/x")["size"] == 1
    assert store.exists("s3://bucket/x")
    assert not store.exists("s3://bucket/y")
    methods = [(request.method, _signed_for(request)) for request in wordy.requests]
    assert methods[:2] == [("HEAD", "us-east-1"), ("GET", "us-east-1")]
    assert {region for method, region in methods if method == "HEAD"} == {"us-east-1", "RegionOne"}
    assert [region for method, region in methods].count("us-east-1") == 2


@pytest.mark.parametrize("said", [b"", b"<Error><Code>InvalidRequest</Code></Error>", b"no XML"])
def test_a_head_that_is_refused_without_a_word_is_an_error(
    store: ObjectStore, origin: FaultOrigin, said: bytes
) -> None:
    origin.plan_all(*[Status(400)] * 3, method="HEAD")
    origin.plan_all(*[Status(400, {}, said)] * 3, method="GET")
    with pytest.raises(StoreError, match="HTTP 400"):
        store.stat("s3://bucket/x")
    assert len(origin.requests) == 2


@pytest.mark.parametrize("region", ["", "x\r\ny: z", "evil.example/", "r" * 65, "ü"])
def test_what_cannot_be_a_region_is_not_taken_for_one(store: ObjectStore, origin: FaultOrigin, region: str) -> None:
    origin.plan("/bucket/x", Status(400, {}, error_xml("AuthorizationHeaderMalformed", "told so", Region=region)))
    with pytest.raises(StoreError, match="AuthorizationHeaderMalformed: told so"):
        store.get("s3://bucket/x")
    assert len(origin.requests) == 1


def test_a_bucket_that_keeps_moving_is_given_up(store: ObjectStore, origin: FaultOrigin) -> None:
    for number in range(20):
        origin.plan("/bucket/x", s3_error(301, "PermanentRedirect", x_amz_bucket_region=f"region-{number}"))
    with pytest.raises(StoreError, match=r"redirects.*set the region or endpoint_url"):
        store.get("s3://bucket/x")
    assert len(origin.requests) < 10


@pytest.mark.parametrize("code", ["InvalidLocationConstraint", "IllegalLocationConstraintException"])
def test_a_region_that_the_server_does_not_know_is_explained(
    store: ObjectStore, origin: FaultOrigin, code: str
) -> None:
    origin.plan("/new", s3_error(400, code), method="PUT")
    with pytest.raises(StoreError, match=rf"{code}.*set the region .*AWS_REGION"):
        store.create_bucket("s3://new")


def test_a_refusal_without_a_word_may_be_one_of_the_clock(store: ObjectStore, origin: FaultOrigin) -> None:
    origin.plan("/bucket/x", *[s3_error(403, "RequestTimeTooSkewed")] * 2, method="HEAD")  # whose body HEAD leaves out
    with pytest.raises(AccessDeniedError, match="credentials and the permissions, and this machine's clock"):
        store.stat("s3://bucket/x")


@pytest.mark.parametrize(("status", "code"), [(403, "QuotaExceeded"), (400, "XMinioAdminBucketQuotaExceeded")])
def test_a_used_up_quota_is_no_question_of_credentials(
    store: ObjectStore, origin: FaultOrigin, status: int, code: str
) -> None:
    origin.plan("/bucket/y", s3_error(status, code), method="PUT")
    with pytest.raises(StoreError, match=rf"{code}.*quota raised") as caught:
        store.put("s3://bucket/y", b"y")
    assert type(caught.value) is StoreError
    assert len(origin.requests) == 1


@pytest.mark.parametrize(("code", "kind"), [("AccessDenied", AccessDeniedError), ("InternalError", StoreError)])
def test_a_delete_that_was_half_done_is_an_error(
    store: ObjectStore, origin: FaultOrigin, code: str, kind: type[StoreError]
) -> None:
    origin.plan("/bucket/", Status(200, {}, _HALF % code.encode()), method="POST")
    origin.plan("/bucket", Status(200, {}, _HALF % code.encode()), method="POST")
    with pytest.raises(kind, match=f"1 of 2 .*{code} told so") as caught:
        store.delete(["s3://bucket/a", "s3://bucket/b"])
    assert (caught.value.uri, caught.value.operation) == ("s3://bucket/b", "delete")


@pytest.mark.parametrize(("listing", "fine"), [(403, True), (404, False), (200, True)])
def test_a_missing_object_is_fine_to_delete_if_its_bucket_is_there(
    store: ObjectStore, origin: FaultOrigin, listing: int, fine: bool
) -> None:
    origin.plan("/bucket/gone", s3_error(404, "NoSuchKey"), method="DELETE")
    if listing != 200:
        for path in ("/bucket", "/bucket/"):
            origin.plan(path, *[s3_error(listing, "NoSuchBucket" if listing == 404 else "AccessDenied")] * 2)
    if fine:
        store.delete("s3://bucket/gone")
        return
    with pytest.raises(NotFoundError) as caught:
        store.delete("s3://bucket/gone")
    assert (caught.value.uri, caught.value.operation) == ("s3://bucket/gone", "delete")


def test_a_thousand_objects_go_in_one_request(store: ObjectStore, origin: FaultOrigin) -> None:
    origin.objects.update({f"/bucket/{n}": b"" for n in range(2500)})
    store.delete([f"s3://bucket/{n}" for n in range(2500)])
    assert len(origin.requests) == 3
    assert list(origin.objects) == ["/bucket/x"]


def test_keys_that_xml_cannot_carry_are_deleted_one_by_one(store: ObjectStore, origin: FaultOrigin) -> None:
    odd = ["new\nline", "carriage\rreturn", "bell\a", "nonchar\ufffe"]
    origin.objects.update({f"/bucket/{key}": b"" for key in [*odd, "a", "<b>&"]})
    store.delete([f"s3://bucket/{key}" for key in [*odd, "a", "<b>&"]])
    assert list(origin.objects) == ["/bucket/x"]
    assert [request.method for request in origin.requests] == ["DELETE"] * 4 + ["POST"]


@pytest.mark.parametrize("verb", ["list", "delete"])
def test_a_listing_that_does_not_go_on_is_an_error(store: ObjectStore, origin: FaultOrigin, verb: str) -> None:
    for path in ("/bucket", "/bucket/"):
        origin.plan(path, *[Status(200, {}, _PAGE)] * 5, method="GET")
    with pytest.raises(StoreError, match="same page again"):
        store.list("s3://bucket/") if verb == "list" else store.delete("s3://bucket/", recursive=True)
    assert len(origin.requests) <= 3


def test_an_object_without_a_size_is_an_error(store: ObjectStore, origin: FaultOrigin) -> None:
    origin.plan("/bucket/x", NoContentLength(), method="HEAD")
    with pytest.raises(StoreError, match="size"):
        store.stat("s3://bucket/x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no xml",
        b"<html/>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<EnumerationResults/>",
    ],
)
def test_what_is_no_listing_is_not_an_empty_one(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        xml.parse_s3_page(body)


def test_an_error_page_of_a_proxy_is_shown(store: ObjectStore, origin: FaultOrigin) -> None:
    origin.plan("/bucket/x", Status(403, {"Content-Type": "text/plain"}, b"go   away\n"), Status(403, {}, b"go away"))
    with pytest.raises(AccessDeniedError, match="HTTP 403: go away"):
        store.get("s3://bucket/x")
