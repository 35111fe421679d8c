"""Room card: the commands, one by one, in this process: what they do, show and answer.

Knows the words of the command line.  What needs a process of its own (pipes, signals, terminals) is in
`test_cli_process`, the doctor in `test_cli_doctor`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import re
import stat as file_modes
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.cli import measure, show
from s3dlio.cli.app import app, run
from s3dlio.cli.session import Session
from s3dlio.errors import NotFoundError, OptionError, TransferError
from s3dlio.record_writer import TFRecordWriter
from s3dlio.transfer.plan import Failure
from s3dlio.transfers import TransferResult
from tests.servers.fault_kinds import Status, s3_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3dlio.testing import S3Server
    from tests.servers.azurite import AzuriteServer
    from tests.servers.faults import FaultOrigin

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
COMMANDS = (
    "ls", "stat", "get", "put", "put-streaming", "upload", "download", "cp", "rm", "mkdir", "mp-get", "tfrecord-index",
    "generate", "list-buckets", "create-bucket", "delete-bucket", "bench", "doctor", "oplog summary", "oplog replay",
)  # fmt: skip

#: Public names that commands stand on and that this version may not have yet: their tests begin when they do.


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def told(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command and returns what it left."""

    def call(*words: object) -> Done:
        capfd.readouterr()
        code = run([str(word) for word in words])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture(params=["file", "s3", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix to write below, on three kinds of stores."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    server = request.getfixturevalue("rclone" if request.param == "s3" else "azurite")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"{request.param}://cli-{os.urandom(6).hex()}"
    s3dlio.create_bucket(bucket)
    return f"{bucket}/store"


@pytest.fixture
def bucket(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in rclone.env.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://cli-{os.urandom(6).hex()}"
    s3dlio.create_bucket(uri)
    return uri


# -- objects ------------------------------------------------------------------------------------------


def test_what_is_put_can_be_listed_read_and_removed(cli: Callable[..., Done], place: str, tmp_path: Path) -> None:
    source, back = tmp_path / "a.bin", tmp_path / "back.bin"
    source.write_bytes(os.urandom(3000))
    assert cli("put", f"{place}/", source) == (0, "", "")
    assert cli("put", f"{place}/deep/b.bin", source).code == 0
    assert cli("ls", f"{place}/").lines == [f"{place}/a.bin", f"{place}/deep/"]
    assert cli("ls", "-r", f"{place}/").lines == [f"{place}/a.bin", f"{place}/deep/b.bin"]
    assert cli("get", f"{place}/a.bin", back) == (0, "", "")
    assert back.read_bytes() == source.read_bytes()
    assert cli("stat", "--json", f"{place}/a.bin").told["size"] == 3000
    assert cli("rm", f"{place}/a.bin") == (0, "", "")
    assert cli("rm", "-r", "-y", f"{place}/") == (0, "", "")
    assert cli("ls", "-r", f"{place}/") == (0, "", "")


def test_listings_come_in_several_forms(cli: Callable[..., Done], place: str) -> None:
    s3dlio.put_many([(f"{place}/{name}", b"x" * 2048) for name in ("a.bin", "b.txt", "c/d.bin")])
    whole = cli("ls", "-r", "--json", f"{place}/").lines
    assert [json.loads(line)["uri"] for line in whole] == s3dlio.list(f"{place}/")
    assert {json.loads(line)["size"] for line in whole} == {2048}
    prefix = json.loads(cli("--json", "ls", f"{place}/").lines[-1])
    assert (prefix["uri"], prefix["size"]) == (f"{place}/c/", None)
    assert cli("ls", "-r", "-p", "*.bin", f"{place}/").lines == [f"{place}/a.bin", f"{place}/c/d.bin"]
    assert cli("ls", "-rc", f"{place}/").lines == ["3 objects, 6.0 KiB"]
    assert cli("ls", "-c", f"{place}/").lines == ["2 objects, 1 folder, 4.0 KiB"]
    assert cli("ls", "-rc", "--json", f"{place}/").told == {"objects": 3, "prefixes": 0, "bytes": 6144}
    first, *_, last = cli("ls", "-l", f"{place}/").lines
    assert re.fullmatch(rf" +2\.0 KiB  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {re.escape(place)}/a\.bin", first)
    assert last.split() == ["-", "-", f"{place}/c/"]


def test_plain_paths_are_files(cli: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b\tc").write_text("text")
    assert cli("ls", ".").lines == [f"file://{tmp_path}/a b\tc"]
    assert cli("get", "a b\tc").out == "text"
    assert cli("stat", "a b\tc").lines[1] == "size           4 B (4 bytes)"
    assert cli("rm", "a b\tc").code == 0
    assert not list(tmp_path.iterdir())


def test_a_part_of_an_object_is_read(cli: Callable[..., Done], bucket: str) -> None:
    s3dlio.put(f"{bucket}/a", b"0123456789")
    assert cli("get", f"{bucket}/a").out == "0123456789"
    assert cli("get", "--offset", 3, "--length", 4, f"{bucket}/a").out == "3456"
    assert cli("get", "--offset", 8, "--length", 40, f"{bucket}/a").out == "89"
    assert cli("get", "--offset", 10, f"{bucket}/a") == (0, "", "")
    behind = cli("get", "--offset", 11, f"{bucket}/a")
    assert (behind.code, behind.out) == (1, "")
    assert "lies behind the end" in behind.err


def test_a_compressed_object_is_expanded_when_asked(cli: Callable[..., Done], bucket: str) -> None:
    s3dlio.put(f"{bucket}/a.gz", gzip.compress(b"spam"))
    assert cli("get", "--decompress", f"{bucket}/a.gz").out == "spam"


def test_a_large_object_comes_in_pieces_and_whole(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    data = os.urandom(21 << 20)
    s3dlio.put(f"{bucket}/large", data)
    assert cli("get", f"{bucket}/large", f"{tmp_path}/").code == 0
    assert (tmp_path / "large").read_bytes() == data


def test_a_get_that_fails_leaves_the_old_file(cli: Callable[..., Done], origin: FaultOrigin, tmp_path: Path) -> None:
    origin.objects["/bucket/large"] = bytes(30 << 20)
    origin.plan("/bucket/large", None, *[Status(404)] * 100)
    old = tmp_path / "old"
    old.write_text("old")
    done = cli("get", "--endpoint-url", origin.endpoint_url, "s3://bucket/large", old)
    assert done.code == 1
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_device_or_pipe_is_written_to_and_not_replaced(cli: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    assert cli("get", tmp_path / "a", os.devnull).code == 0
    assert file_modes.S_ISCHR(os.stat(os.devnull).st_mode)


def test_reading_all_below_keeps_nothing_and_tells_the_rate(cli: Callable[..., Done], bucket: str) -> None:
    s3dlio.put_many([(f"{bucket}/p/{n}", b"x" * 1000) for n in range(5)])
    told = cli("get", "-r", "--json", f"{bucket}/p/").told
    assert (told["objects"], told["bytes"]) == (5, 5000)
    assert cli("get", "-r", "-p", "[01]", f"{bucket}/p/").out.startswith("2 objects, 2.0 KiB in ")


def test_parts_are_as_large_as_asked(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    source.write_bytes(os.urandom(11 << 20))
    told = cli("put-streaming", "--part-size", "5MiB", "--json", f"{bucket}/a", source).told
    assert told == {"uri": f"{bucket}/a", "bytes": 11 << 20, "parts": 3}
    assert s3dlio.get(f"{bucket}/a") == source.read_bytes()


def test_a_put_takes_type_metadata_and_care(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    words = ["--content-type", "text/plain", "--metadata", "who=me", "--metadata", "why=test=1"]
    assert cli("put", f"{bucket}/a", tmp_path / "a", *words).code == 0
    told = cli("stat", "--json", f"{bucket}/a").told
    assert (told["content_type"], told["metadata"]) == ("text/plain", {"who": "me", "why": "test=1"})
    (tmp_path / "new").mkdir()
    assert cli("put", "--new", f"{tmp_path}/new/b", tmp_path / "a").code == 0
    assert cli("put", "--new", f"{tmp_path}/new/b", tmp_path / "a").code == 1


def test_file_and_object_may_be_named_in_either_order(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    assert cli("put", tmp_path / "a", f"{bucket}/x").code == 0
    assert cli("put-streaming", tmp_path / "a", f"{bucket}/y").code == 0
    assert s3dlio.list(f"{bucket}/") == [f"{bucket}/x", f"{bucket}/y"]


def test_removing_all_below_needs_a_yes(cli: Callable[..., Done], place: str) -> None:
    s3dlio.put_many([(f"{place}/{n}.{kind}", b"x") for n in range(3) for kind in ("a", "b")])
    refused = cli("rm", "-r", f"{place}/")
    assert (refused.code, refused.out) == (2, "")
    assert "add -y" in refused.err
    assert cli("rm", f"{place}/").code == 2
    assert len(cli("rm", "-r", "-n", f"{place}/").lines) == 6
    assert len(s3dlio.list(f"{place}/")) == 6
    assert cli("rm", "-r", "-y", "-p", "*.a", f"{place}/").code == 0
    assert s3dlio.list(f"{place}/") == [f"{place}/{n}.b" for n in range(3)]


def test_a_glob_that_names_nothing_is_told_where_it_goes(cli: Callable[..., Done], place: str) -> None:
    s3dlio.put_many([(f"{place}/{name}", b"x") for name in ("a.bin", "b.bin")])
    for words in (["rm"], ["rm", "-n"], ["ls"]):
        done = cli(*words, f"{place}/*.bin")
        assert (done.code, done.out) == (2, "")
        assert f"{words[0]} -r -p '*.bin' {place}/\n" in done.err
    assert len(s3dlio.list(f"{place}/")) == 2
    s3dlio.put(f"{place}/*.bin", b"x")
    assert cli("rm", f"{place}/*.bin") == (0, "", "")
    assert len(s3dlio.list(f"{place}/")) == 2


def test_buckets_and_directories(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    other = f"{bucket}-other"
    assert cli("create-bucket", other).code == 0
    assert {bucket, other} <= set(cli("list-buckets").lines)
    assert {"uri": other} in [json.loads(line) for line in cli("list-buckets", "--json").lines]
    assert cli("delete-bucket", other.removeprefix("s3://")).code == 0
    assert other not in cli("list-buckets").lines
    assert cli("mkdir", f"{bucket}/d", tmp_path / "a/b").code == 0
    assert (tmp_path / "a/b").is_dir()


def test_an_index_is_written_beside_a_tfrecord_file(cli: Callable[..., Done], bucket: str) -> None:
    with TFRecordWriter(f"{bucket}/a.tfrecord") as writer:
        for number in range(7):
            writer.write(b"x" * number)
    assert cli("tfrecord-index", f"{bucket}/a.tfrecord").out == f"7 records: {bucket}/a.tfrecord.idx\n"
    assert len(s3dlio.read_tfrecord_index(f"{bucket}/a.tfrecord.idx")) == 7
    assert cli("tfrecord-index", f"{bucket}/a.tfrecord", f"{bucket}/i", "--json").told["records"] == 7


# -- the common options -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_the_endpoint_may_stand_before_and_behind_the_command(
    cli: Callable[..., Done], rclone: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    s3dlio.put(f"{bucket}/a", b"spam")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_REGION")
    option = ["--endpoint-url", rclone.endpoint_url, "--region", "us-east-1"]
    words = [*option, "get", f"{bucket}/a"] if before else ["get", f"{bucket}/a", *option]
    assert cli(*words) == (0, "spam", "")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert "AWS_ENDPOINT_URL_S3" not in os.environ
    assert "AWS_REGION" not in os.environ


def test_the_endpoint_is_that_of_the_scheme(
    cli: Callable[..., Done], azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    s3dlio.create_bucket("az://endpoint")
    s3dlio.put("az://endpoint/a", b"spam")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
    assert cli("get", "az://endpoint/a", "--endpoint-url", azurite.endpoint_url).out == "spam"


def test_the_region_is_what_is_signed(cli: Callable[..., Done], origin: FaultOrigin, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    origin.objects["/bucket/a"] = b"spam"
    assert cli("--region", "eu-north-7", "--endpoint-url", origin.endpoint_url, "get", "s3://bucket/a").out == "spam"
    assert "/eu-north-7/s3/" in origin.requests[0].headers["authorization"]


def test_more_is_told_when_asked(cli: Callable[..., Done], origin: FaultOrigin) -> None:
    origin.objects["/bucket/a"] = b"spam"
    words = ("get", "s3://bucket/a", "--endpoint-url", origin.endpoint_url)
    os.environ["AWS_SKIP_SIGNATURE"] = "true"
    try:
        origin.plan_all(s3_error(503, "SlowDown"))
        assert cli(*words) == (0, "spam", "")
        origin.plan_all(s3_error(503, "SlowDown"))
        assert "SlowDown" in cli("-vv", *words).err
        origin.plan_all(s3_error(503, "SlowDown"))
        assert cli(*words) == (0, "spam", "")
    finally:
        del os.environ["AWS_SKIP_SIGNATURE"]


# -- failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nonsense"], 2, "no such command 'nonsense'"),
        (["ls"], 2, "missing argument"),
        (["ls", "--nonsense", "x"], 2, "no such option:? '?--nonsense"),
        (["ls", "-j", "x"], 2, "no such option:? '?-j"),
        (["get", "-r", "-j", "0", "x"], 2, "'--jobs'"),
        (["ls", "s4://b/"], 2, "did you mean 's3'"),
        (["ls", "s3:///"], 2, "no bucket"),
        (["put", "s3://b/k"], 2, "name a FILE"),
        (["put", "s3://b/k", "f", "-n", "3"], 2, "not both"),
        (["put-streaming", "s3://b/k", "f", "--part-size", "many"], 2, "'many' is not a size"),
        (["put", "s3://b/k", __file__, "--metadata", "x"], 2, "NAME=VALUE"),
        (["put", "s3://b/k", "/no/such/file"], 1, "/no/such/file: No such file"),
        (["get", "file:///no/such/file"], 1, "No such file"),
        (["ls", "/no/such/place"], 1, "/no/such/place: No such file"),
        (["get", "x", "-p", "y"], 2, "goes with -r"),
        (["get", "-r", "x", "y"], 2, "use 'download'"),
        (["rm", "file:///tmp/"], 2, "add -r"),
        (["rm", "file:///tmp/x", "-p", "y"], 2, "goes with -r"),
        (["ls", "s3://b/", "--endpoint-url", "ftp://x"], 2, "--endpoint-url must start with http"),
        (["upload", "x"], 2, "should go"),
        (["cp", "s3://b/p/", "s3://b/q/"], 2, "add -r"),
        (["ls", "s3://b/"], 1, "no AWS credentials found"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_is_one_line_and_a_code(cli: Callable[..., Done], words: list[str], code: int, said: str) -> None:
    done = cli(*words)
    assert done.code == code
    assert re.search(said, done.err)
    assert re.fullmatch(r"s3dlio: [^\n]+\n", done.err)
    assert not done.out


@pytest.mark.parametrize("words", [[], ["oplog"]], ids=["nothing", "half"])
def test_without_a_command_the_help_is_shown(cli: Callable[..., Done], words: list[str]) -> None:
    done = cli(*words)
    assert done.code == 2
    assert "Commands:" in done.err
    assert not done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Callable[..., Done], command: str) -> None:
    done = cli(*command.split(), "--help")
    assert done.code == 0
    assert "--endpoint-url" in done.out
    assert "--json" in done.out
    assert not done.err


def _named(group: click.Group, context: click.Context, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands below a group, by what one types."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _named(command, context, f"{path}{name} ")
        elif command is not None:
            yield f"{path}{name}", command


def test_every_command_there_is_takes_the_common_options() -> None:
    found = dict(_named(app, click.Context(app)))
    assert set(found) == set(COMMANDS)
    common = {field.name for field in dataclasses.fields(Session)}
    for name, command in found.items():
        assert common <= {parameter.name for parameter in command.params}, name
        assert (command.name, bool(command.help)) == (name.rpartition(" ")[2], True)


def test_the_whole_help_names_every_command(cli: Callable[..., Done]) -> None:
    words = set(cli("-h").out.split())
    assert {command.partition(" ")[0] for command in COMMANDS} <= words
    assert s3dlio.__version__ in cli("--version").out


def test_no_secret_is_told(cli: Callable[..., Done], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("OPENSESAMEsecret", "OPENSESAMEtoken")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDVISIBLE12345")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets[0])
    monkeypatch.setenv("AWS_SESSION_TOKEN", secrets[1])
    origin.plan_all(*[s3_error(403, "SignatureDoesNotMatch")] * 40)
    for words in (["ls", "s3://b/"], ["get", "s3://b/k"], ["doctor", "s3://b/", "--write"], ["doctor", "--json"]):
        done = cli("-vv", "--endpoint-url", origin.endpoint_url, *words)
        assert not [secret for secret in secrets if secret in done.out + done.err]
        assert "AKIDVISIBLE12345" not in done.out + done.err


def test_what_a_server_says_stays_on_one_line(cli: Callable[..., Done], origin: FaultOrigin, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    body = b"<Error><Code>Odd</Code><Message>one\ntwo \x1b[31mred</Message></Error>"
    origin.plan_all(*[Status(403, {}, body)] * 9)
    done = cli("get", "s3://b/k", "--endpoint-url", origin.endpoint_url)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "\x1b" not in done.err


# -- measuring ----------------------------------------------------------------------------------------


def test_a_measurement_leaves_nothing(cli: Callable[..., Done], place: str) -> None:
    s3dlio.put(f"{place}/mine", b"x")
    told = cli("bench", "-n", 5, "-s", "10KiB", "-j", 2, "--json", f"{place}/").told
    for phase in ("put", "get_many", "get"):
        assert (told[phase]["objects"], told[phase]["bytes"]) == (5, 51200)
        assert told[phase]["bytes_per_second"] > 0
    assert told["get"]["p50_seconds"] <= told["get"]["p90_seconds"] <= told["get"]["p99_seconds"]
    assert s3dlio.list(f"{place}/") == [f"{place}/mine"]
    shown = cli("bench", "-n", 2, "-s", "1KiB", f"{place}/").out
    assert all(word in shown for word in ("throughput", "p50", "p90", "p99", "get_many"))


def test_a_measurement_of_files_leaves_no_directory(cli: Callable[..., Done], tmp_path: Path) -> None:
    assert cli("bench", "-n", 2, "-s", "1KiB", tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_fails_leaves_nothing_either(
    cli: Callable[..., Done], origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    origin.buckets.add("bucket")
    origin.plan_all(*[s3_error(403, "AccessDenied")] * 50, method="GET")
    done = cli("bench", "-n", 5, "-s", "10KiB", "s3://bucket/", "--endpoint-url", origin.endpoint_url)
    assert done.code == 1
    assert sum(request.method == "PUT" for request in origin.requests) == 5
    assert origin.objects == {}


def test_a_measurement_that_cannot_write_says_so_last(cli: Callable[..., Done], bucket: str) -> None:
    done = cli("bench", "-n", 1, "-s", "1", f"{bucket}-none/")
    assert (done.code, done.out) == (1, "")
    assert re.match(r"s3dlio: put .*NoSuchBucket", done.err.splitlines()[-1])


@given(values=st.lists(st.integers(0, 1000), min_size=1, max_size=50), share=st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[int], share: int) -> None:
    found = measure.percentile(values, share)
    assert sum(value <= found for value in values) * 100 >= share * len(values)
    assert sum(value < found for value in values) * 100 < share * len(values)


# -- what is shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1K", 1024),
        ("8MiB", 8 << 20),
        ("8m", 8 << 20),
        ("8MB", 8_000_000),
        ("1.5GiB", 3 << 29),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert show.read_size(text) == size


@given(st.integers(0, 1 << 62))
def test_a_size_that_is_shown_reads_as_nearly_the_same(size: int) -> None:
    assert show.read_size(show.size_text(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize("text", ["", "-1", "1e3", "many", "1 KiB 2", "MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a size"):
        show.read_size(text)


@given(st.text())
def test_what_terminals_obey_is_made_visible(text: str) -> None:
    assert show.visible(text).isprintable()


# -- the installation ---------------------------------------------------------------------------------


def test_both_programs_and_the_extra_are_declared() -> None:
    assert _PROJECT["scripts"] == {"s3dlio": "s3dlio.cli:main", "s3-cli": "s3dlio.cli:main"}
    extras = _PROJECT["optional-dependencies"]
    assert {re.split(r"\W", need)[0] for need in extras["cli"]} == {"click", "rich"}
    assert any("cli" in need for need in extras["dev"])


# -- commands around what other rooms do --------------------------------------------------------------


MOVED = TransferResult(transferred=3, skipped=1, failed=0, total_bytes=3 << 20, seconds=2.0)


@pytest.mark.parametrize(
    ("name", "words", "given"),
    [
        (
            "upload",
            ["upload", "a", "b", "s3://x/p/", "-j", "5", "-u", "--create-bucket", "-p", "*.a"],
            ((["a", "b"], "s3://x/p/", 5, True), {"pattern": "*.a", "progress": True, "update": True}),
        ),
        ("upload", ["upload", "a", "s3://x/"], ((["a"], "s3://x/", 32, False), {"pattern": None, "progress": True, "update": False})),
        (
            "download",
            ["download", "-q", "s3://x/p/", "here", "--flatten"],
            ((["s3://x/p/"], "here", 32), {"flatten": True, "pattern": None, "progress": False, "update": False}),
        ),
        (
            "copy",
            ["cp", "-r", "s3://x/p/", "gs://y/q/", "-j", "7"],
            (("s3://x/p/", "gs://y/q/", 7), {"pattern": None, "progress": True, "update": False}),
        ),
        (
            "put",
            ["generate", "s3://x/a-{}", "-n", "3", "-s", "1K", "-o", "npz", "--dedup", "2"],
            (("s3://x/a-{}",), {"num": 3, "size": 1024, "max_in_flight": 32, "object_type": "npz", "dedup_factor": 2, "compress_factor": 1, "progress": True}),
        ),
        (
            "put",
            ["put", "s3://x/a-{}", "-n", "3", "-s", "1K"],
            (("s3://x/a-{}",), {"num": 3, "size": 1024, "max_in_flight": 32, "object_type": "raw", "dedup_factor": 1, "compress_factor": 1, "progress": True}),
        ),
        ("mp_get", ["mp-get", "s3://x/", "-n", "9"], (("s3://x/",), {"procs": 4, "jobs": 64, "num": 9})),
        ("summarize_op_log", ["oplog", "summary", "f"], (("f",), {})),
        ("replay_op_log", ["oplog", "replay", "f", "s3://x/", "--speed", "2"], (("f", "s3://x/", 2.0), {})),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_command_hands_on_what_it_was_told(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, name: str, words: list[str], given: tuple[Any, Any]
) -> None:
    seen: list[tuple[Any, Any]] = []

    def verb(*args: Any, **how: Any) -> TransferResult:
        seen.append((args, how))
        return MOVED

    monkeypatch.setattr(".".join(s3dlio._PLACES[name]), verb)
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert seen == [given]


def test_a_transfer_tells_its_figures(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.transfers.copy", lambda *_, **__: MOVED)
    assert (
        cli("cp", "-r", "s3://a/b", "s3://c/d").out
        == "3 objects, 3.0 MiB in 2.00 s (1.5 MiB/s), 1 were there already\n"
    )
    assert cli("cp", "-r", "s3://a/b", "s3://c/d", "--json").told == {
        "objects": 3, "bytes": 3 << 20, "skipped": 1, "seconds": 2.0
    }  # fmt: skip


def test_several_failures_are_listed_when_asked(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    failures = tuple(Failure(f"s3://b/{n}", f"s3://d/{n}", NotFoundError("gone")) for n in (1, 2))
    result = dataclasses.replace(MOVED, failed=2, failures=failures)

    def verb(*_: Any, **__: Any) -> None:
        msg = "2 of 3 objects failed: gone"
        raise TransferError(msg, result=result)

    monkeypatch.setattr("s3dlio.transfers.copy", verb)
    asked = ("cp", "-r", "s3://a/b", "s3://c/d")
    assert cli(*asked) == (1, "", "s3dlio: 2 of 3 objects failed: gone\ns3dlio: -v lists what failed\n")
    assert "s3dlio: failed: s3://b/2: gone\n" in cli("cp", "-v", *asked[1:]).err


def test_an_operation_log_is_begun_and_ended(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[object] = []
    monkeypatch.setattr("s3dlio.oplog.init_op_log", seen.append)
    monkeypatch.setattr("s3dlio.oplog.finalize_op_log", lambda: seen.append("end"))
    assert cli("--op-log", "log.tsv", "ls", tmp_path).code == 0
    assert cli("ls", "--op-log", "log.tsv", "s4://x").code == 2
    assert seen == ["log.tsv", "end"] * 2


def test_directories_go_there_and_back(cli: Callable[..., Done], place: str, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    for name in ("a.txt", "deep/b.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    assert cli("upload", "--json", f"{source}/", f"{place}/").told["objects"] == 2
    assert cli("cp", "-r", "--json", f"{place}/", f"{place}-copy/").told["objects"] == 2
    assert cli("download", "--json", f"{place}-copy/", f"{back}/").told["objects"] == 2
    found = sorted(path.name for path in back.rglob("*") if path.is_file())
    assert found == ["a.txt", "b.txt"]


def test_made_up_objects_are_read_by_processes(cli: Callable[..., Done], bucket: str) -> None:
    assert cli("generate", f"{bucket}/m/{{:03d}}", "-n", 4, "-s", "4KiB").code == 0
    told = cli("mp-get", "--json", f"{bucket}/m/", "--procs", 2, "-j", 2, "-n", 4).told
    assert (told["total_objects"], told["total_bytes"]) == (4, 16384)


def test_operations_are_written_down_and_summed_up(cli: Callable[..., Done], bucket: str, tmp_path: Path) -> None:
    s3dlio.put(f"{bucket}/a", b"spam")
    log = tmp_path / "log.tsv.zst"
    assert cli("get", "--op-log", log, f"{bucket}/a").code == 0
    assert cli("oplog", "summary", "--json", log).told["ops"]["GET"]["bytes"] == 4
    shown = cli("oplog", "summary", log)
    assert (shown.code, shown.lines[1].split()[:3]) == (0, ["GET", "1", "0"])
    assert cli("oplog", "replay", log, f"{bucket}/again/", "--speed", 0, "--json").told["bytes"] == 4


# -- words that would have been passed over ----------------------------------------------------------


def test_cp_takes_many_along_only_if_told_to(cli: Callable[..., Done], place: str, tmp_path: Path) -> None:
    s3dlio.put_many([(f"{place}/c/{name}", b"x") for name in ("a", "b")])
    bucket = [] if place.startswith("file") else ["/".join(place.split("/")[:-1])]
    for source in (f"{place}/c", f"{place}/c/", *bucket):
        done = cli("cp", source, tmp_path / "copies")
        assert (done.code, "add -r" in done.err) == (2, True)
    assert not (tmp_path / "copies").exists()
    assert cli("cp", f"{place}/c/a", tmp_path / "one").code == 0
    assert cli("cp", f"{place}/c/*", f"{tmp_path}/glob/").code == 0
    assert cli("cp", f"{place}/nothing", tmp_path / "none").code == 1
    assert cli("cp", "-r", f"{place}/c", f"{tmp_path}/all/").code == 0
    assert (tmp_path / "one").is_file()
    assert sorted(os.listdir(tmp_path / "glob")) == sorted(os.listdir(tmp_path / "all")) == ["a", "b"]


def test_cp_makes_no_file_named_as_a_pipe(cli: Callable[..., Done], place: str, tmp_path: Path) -> None:
    s3dlio.put(f"{place}/a", b"x")
    with contextlib.chdir(tmp_path):
        done = cli("cp", f"{place}/a", "-")
        assert (done.code, "s3dlio get" in done.err) == (2, True)
        assert not os.path.exists("-")
        assert cli("cp", f"{place}/a", "./-").code == 0
        assert os.path.exists("-")


@pytest.mark.parametrize("words", [["--new"], ["--content-type", "text/plain"], ["--metadata", "a=b"]])
def test_made_up_objects_refuse_what_goes_with_files(cli: Callable[..., Done], place: str, words: list[str]) -> None:
    s3dlio.put(f"{place}/0", b"precious")
    done = cli("put", f"{place}/{{}}", "-n", 1, "-s", 10, *words)
    assert (done.code, words[0] in done.err) == (2, True)
    assert s3dlio.get(f"{place}/0") == b"precious"


def test_what_is_expanded_is_cut_as_told(cli: Callable[..., Done], place: str) -> None:
    s3dlio.put(f"{place}/a.gz", gzip.compress(b"0123456789"))
    assert cli("get", "--decompress", "--offset", 2, "--length", 3, f"{place}/a.gz") == (0, "234", "")
    assert cli("get", "--decompress", "--offset", 8, f"{place}/a.gz").out == "89"
    done = cli("get", "--decompress", "--offset", 11, f"{place}/a.gz")
    assert (done.code, "behind the end" in done.err) == (1, True)


def test_a_quoted_glob_of_paths_is_told_where_it_goes(cli: Callable[..., Done], tmp_path: Path) -> None:
    done = cli("ls", f"{tmp_path}/*.npz")
    assert (done.code, f"ls -r -p '*.npz' {tmp_path}/" in done.err) == (2, True)
    assert cli("ls", f"{tmp_path}/nothing").code == 1
    assert cli("ls", f"{tmp_path}/") == (0, "", "")


def test_plain_paths_are_directories_to_list_buckets_too(cli: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert cli("list-buckets", tmp_path).lines == [f"file://{tmp_path}/folder"]


@pytest.mark.parametrize("command", [["upload"], ["download"], ["cp", "-r"]])
def test_a_pattern_that_matches_nothing_is_told(cli: Callable[..., Done], command: list[str], tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.bin").write_bytes(b"x")
    done = cli(*command, "-p", "*.npz", f"{tmp_path}/from/", f"{tmp_path}/to/")
    assert (done.code, "*.npz" in done.err) == (1, True)


def test_an_index_goes_below_a_directory_by_its_files_name(
    cli: Callable[..., Done], place: str, tmp_path: Path
) -> None:
    with TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        writer.write(b"spam")
    (tmp_path / "indexes").mkdir()
    assert cli("tfrecord-index", tmp_path / "a.tfrecord", f"{place}/idx/").code == 0
    assert cli("tfrecord-index", tmp_path / "a.tfrecord", tmp_path / "indexes").code == 0
    assert s3dlio.list(f"{place}/idx/") == [f"{place}/idx/a.tfrecord.idx"]
    assert (tmp_path / "indexes" / "a.tfrecord.idx").read_text() == "0 20\n"


@pytest.mark.parametrize("command", ["create-bucket", "delete-bucket"])
def test_a_key_is_not_taken_for_a_bucket(cli: Callable[..., Done], bucket: str, command: str) -> None:
    done = cli(command, f"{bucket}/some/key")
    assert (done.code, bucket in done.err) == (2, True)
    assert s3dlio.exists(f"{bucket}/")


def test_a_bench_that_fails_looks_again_for_what_a_server_finishes_late(
    cli: Callable[..., Done], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    delete = s3dlio.delete

    def broken_off(uris: list[str], *_: object) -> None:
        written.extend(uris)
        msg = "broken off"
        raise NotFoundError(msg)

    def deleted_too_early(uri: Any, recursive: bool = False) -> None:
        delete(uri, recursive)
        if recursive and written:
            s3dlio.put(written.pop(), b"late")

    monkeypatch.setattr(measure, "_puts", broken_off)
    monkeypatch.setattr("s3dlio.removal.delete", deleted_too_early)
    assert cli("bench", "-n", 1, "-s", 1, bucket).code == 1
    assert (written, s3dlio.list(f"{bucket}/")) == ([], [])
