"""Room card: the command line as a program: streams, pipes, signals, terminals, completion.

Every test starts processes of its own and reaps them.  What the commands do is in `test_cli`.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.patience import is_readable
from tests.servers.fault_kinds import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.faults import FaultOrigin
    from tests.servers.reply import Reply, Step

_TIMEOUT_S = 60.0
_PROGRAM = [sys.executable, "-m", "s3dlio"]


@dataclass(frozen=True)
class Gate(Fault):
    """A right answer that waits until the test opens the gate."""

    opened: threading.Event

    def steps(self, reply: Reply) -> list[Step]:
        self.opened.wait(_TIMEOUT_S)
        return super().steps(reply)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, so that the origin's threads can go home."""
    made = Gate(threading.Event())
    yield made
    made.opened.set()


@pytest.fixture
def bucket(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> FaultOrigin:
    """An origin with seven objects, listed by twos, that child processes find."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", origin.endpoint_url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    origin.page_size = 2
    origin.objects.update({f"/bucket/{number}": b"spam" for number in range(7)})
    return origin


def run(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": _TIMEOUT_S, "stdin": subprocess.DEVNULL, **how}
    return subprocess.run([*_PROGRAM, *words], check=False, **options)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def started(*words: str, **how: object) -> Iterator[subprocess.Popen[bytes]]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **how}
    with subprocess.Popen([*_PROGRAM, *words], **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def wait_for(origin: FaultOrigin, count: int, method: str = "GET") -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while sum(request.method == method for request in origin.requests) < count:
        assert time.monotonic() < deadline, "the requests did not come"
        time.sleep(0.01)


# -- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["-l"], ["--json"]], ids=["plain", "long", "json"])
def test_a_listing_begins_before_it_is_complete(bucket: FaultOrigin, gate: Gate, form: list[str]) -> None:
    bucket.plan_all(None, gate, method="GET")
    with started("ls", *form, "s3://bucket/") as process:
        assert process.stdout is not None
        first = process.stdout.readline(), process.stdout.readline()
        wait_for(bucket, 2)
        assert len(bucket.requests) == 2  # the second page is asked for and not answered
        assert b"s3://bucket/0" in first[0]
        assert b"s3://bucket/1" in first[1]
        gate.opened.set()
        rest = process.stdout.read()
        assert process.wait(_TIMEOUT_S) == 0
    assert len(rest.splitlines()) == 5


def test_nobody_who_reads_no_further_is_told_about_it(bucket: FaultOrigin, gate: Gate) -> None:
    bucket.plan_all(None, gate, method="GET")
    with started("ls", "s3://bucket/") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"s3://bucket/0\n"
        process.stdout.close()
        gate.opened.set()
        assert process.stderr.read() == b""
        assert process.wait(_TIMEOUT_S) == 141


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with open("/dev/full", "w") as full:
        done = run("ls", str(tmp_path), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "s3dlio: No space left on device\n")


def test_names_that_are_not_utf8_pass_as_they_are(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(name, "wb") as file:
        file.write(b"odd")
    done = run("ls", str(tmp_path), text=False)
    assert done.stdout == b"file://" + name + b"\n"  # type: ignore[comparison-overlap]


def test_what_comes_by_a_pipe_is_sent(bucket: FaultOrigin) -> None:
    data = os.urandom(11 << 20)
    words = ("put-streaming", "--part-size", "5MiB", "s3://bucket/piped", "-")
    done = run(*words, stdin=None, input=data, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bucket.objects["/bucket/piped"] == data
    assert run("get", "s3://bucket/piped", text=False).stdout == data  # type: ignore[comparison-overlap]


# -- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, b"s3dlio: interrupted\n"), (signal.SIGTERM, 143, b"")],
    ids=["ctrl-c", "term"],
)
def test_an_interrupted_command_says_so_and_ends(
    bucket: FaultOrigin, gate: Gate, number: int, code: int, said: bytes
) -> None:
    bucket.plan_all(gate, method="GET")
    with started("get", "s3://bucket/1") as process:
        wait_for(bucket, 1)
        process.send_signal(number)
        out, err = process.communicate(timeout=_TIMEOUT_S)
    assert (process.returncode, out, err) == (code, b"", said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_an_interrupted_measurement_leaves_nothing(bucket: FaultOrigin, gate: Gate, number: int) -> None:
    before = dict(bucket.objects)
    bucket.plan_all(*[gate] * 50, method="GET")
    with started("bench", "-n", "5", "-s", "1KiB", "s3://bucket/p") as process:
        wait_for(bucket, 1)
        assert len(bucket.objects) == len(before) + 5
        process.send_signal(number)
        gate.opened.set()
        process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode in (130, 143)
    assert bucket.objects == before


# -- codes --------------------------------------------------------------------------------------------


def test_the_exit_code_says_how_it_went(bucket: FaultOrigin) -> None:
    assert run("stat", "s3://bucket/1").returncode == 0
    assert run("stat", "s3://bucket/none").returncode == 1
    assert run("stat").returncode == 2


def test_only_who_asks_for_it_gets_a_traceback(bucket: FaultOrigin) -> None:
    plain, deep = run("get", "s3://bucket/none"), run("-vv", "get", "s3://bucket/none")
    assert plain.stderr.startswith("s3dlio: get s3://bucket/none: ")
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in deep.stderr


def test_without_its_extra_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['click'] = None; from s3dlio.cli import main; sys.exit(main(['ls', 'x']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "s3dlio: the command line needs click and rich; pip install 's3dlio[cli]'\n"


#: What takes longer to import than a small command to run, and which none needs that moves few bytes.
_HEAVY = (
    "rich", "boto3", "botocore", "fsspec", "asyncio", "torch", "jax", "tensorflow", "lz4", "google", "numpy", "pydantic",
    "ssl", "http.client", "importlib.metadata", "subprocess", "s3dlio.api",
)  # fmt: skip
_LOADS = f"""
import sys
from s3dlio.cli import main
code = main(sys.argv[1:])
print([name for name in {_HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def loaded(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Which heavy modules a command has imported at its end."""
    command = [sys.executable, "-c", _LOADS, *map(str, words)]
    direct = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    given = {**direct, **(env or {})}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["cp", "--help"],
        ["ls", "{}/d"],
        ["ls", "-r", "-l", "{}/d"],
        ["stat", "{}/d/a"],
        ["get", "{}/d/a"],
        ["put", "{}/new", "{}/d/a"],
        ["cp", "{}/d/a", "{}/b"],
        ["upload", "{}/d", "file://{}/up/"],
        ["download", "file://{}/d/", "{}/down"],
        ["rm", "{}/d/a"],
        ["mkdir", "{}/made"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_on_few_local_bytes_loads_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("spam")
    assert loaded(*(word.format(tmp_path) for word in words)) == "[]"


def test_a_command_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    program = """
import sys
from s3dlio.cli import main
code = main(["ls", sys.argv[1]])
print(*(name for name in sys.modules if name.startswith("s3dlio.cli.")), file=sys.stderr)
sys.exit(code)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    names = {name.rpartition(".")[2] for name in done.stderr.split()}
    assert names == {"app", "failing", "lazy", "objects", "session", "show"}


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "s3://bucket/"],
        ["get", "s3://bucket/1"],
        ["cp", "s3://bucket/1", "{}/x"],
        ["cp", "{}/a", "s3://bucket/new"],
    ],
    ids=" ".join,
)
def test_with_keys_in_the_environment_s3_needs_no_botocore(
    tmp_path: Path, bucket: FaultOrigin, words: list[str]
) -> None:
    (tmp_path / "a").write_text("spam")
    nobody = {name: str(tmp_path / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    keys = {"AWS_SKIP_SIGNATURE": "", "AWS_ACCESS_KEY_ID": "spam", "AWS_SECRET_ACCESS_KEY": "eggs"}
    assert loaded(*(word.format(tmp_path) for word in words), env=nobody | keys) == "[]"
    signed = bucket.requests[-1].headers["authorization"]
    assert "Credential=spam/" in signed


# -- shells and terminals -----------------------------------------------------------------------------


def installed(folder: Path, name: str) -> Path:
    """The program as pip writes it."""
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom s3dlio.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("name", ["s3dlio", "s3-cli"])
def test_a_shell_can_complete_commands(tmp_path: Path, name: str) -> None:
    program = installed(tmp_path, name)
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    asked = {**os.environ, "COMP_WORDS": f"{name} list-b", "COMP_CWORD": "1"}
    for mode, said in (("bash_complete", "list-buckets"), ("zsh_source", name)):
        env = {**asked, variable: mode}
        done = subprocess.run([program], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert said in done.stdout
        assert not done.stderr


@pytest.mark.parametrize(
    ("shell", "script", "rc"),
    [
        ("bash", ".bash_completions/s3-cli.sh", ".bashrc"),
        ("zsh", ".zfunc/_s3-cli", ".zshrc"),
        ("fish", ".config/fish/completions/s3-cli.fish", None),
    ],
)
def test_completion_is_installed_where_the_shell_looks_and_once(
    tmp_path: Path, shell: str, script: str, rc: str | None
) -> None:
    program = installed(tmp_path, "s3-cli")
    (tmp_path / ".bashrc").write_text("export A=1")  # without its line end
    env = {**os.environ, "HOME": str(tmp_path), "SHELL": f"/bin/{shell}"}
    for _ in range(2):
        done = subprocess.run(
            [program, "--install-completion"], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert str(tmp_path / script) in done.stdout
    shown = subprocess.run(
        [program, "--show-completion"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert "_S3_CLI_COMPLETE" in shown.stdout
    assert (tmp_path / script).read_text() == shown.stdout
    if rc:
        lines = (tmp_path / rc).read_text().splitlines()
        assert len(lines) == len(set(lines)) == (2 if shell == "bash" else 1)
        assert any(word in lines[-1] for word in (script, "compinit"))


def test_completion_for_an_unknown_shell_says_what_to_do() -> None:
    env = {**os.environ, "SHELL": "/bin/tcsh"}
    done = subprocess.run(
        [*_PROGRAM, "--show-completion"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "bash, zsh, fish" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, []), (b"n\n", 2, ["a"]), (b"\n", 2, ["a"])])
def test_at_a_terminal_it_asks_before_it_deletes(tmp_path: Path, answer: bytes, code: int, left: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("x")
    ours, theirs = pty.openpty()
    try:
        with started("rm", "-r", f"{tmp_path}/d/", stdin=theirs) as process:
            os.write(ours, answer)
            _, err = process.communicate(timeout=_TIMEOUT_S)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code
    assert f"delete everything below file://{tmp_path}/d/ ? [y/N] ".encode() in err
    assert [path.name for path in tmp_path.glob("d/*")] == left


def test_names_do_not_command_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31mb\nc").write_text("x")
    ours, theirs = pty.openpty()
    try:
        with started("ls", str(tmp_path), stdout=theirs) as process:
            seen = _read_until(ours, b"nc")
            assert process.wait(_TIMEOUT_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert rb"a\x1b[31mb\nc" in seen


def test_progress_is_shown_on_terminals_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(20 << 20))
    words = ("put-streaming", "--part-size", "5MiB", f"{tmp_path}/goal", str(source))
    assert run(*words).stderr == ""
    ours, theirs = pty.openpty()
    try:
        with started(*words, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
            seen = _read_until(ours, b"put source")
            assert process.wait(_TIMEOUT_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"put source" in seen


def _read_until(terminal: int, wanted: bytes) -> bytes:
    """Reads from a terminal until something is there."""
    seen = b""
    deadline = time.monotonic() + _TIMEOUT_S
    while wanted not in seen and time.monotonic() < deadline:
        if is_readable(terminal, 0.1):
            seen += os.read(terminal, 65536)
    return seen


# -- streams that are not there ----------------------------------------------------------------------


def shell(words: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m s3dlio {words}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("words", ["get FILE", "ls FILE", "stat FILE", "--version", "ls --help"])
@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, words: str, stream: str) -> None:
    (tmp_path / "a").write_bytes(b"spam")
    done = shell(f"{words.replace('FILE', str(tmp_path / 'a'))} {stream}")
    assert done.returncode == 1
    assert done.stderr in ("s3dlio: Bad file descriptor\n", "s3dlio: No space left on device\n")


def test_streams_that_are_closed_and_not_needed_are_not_missed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"spam")
    done = shell(f"get {tmp_path}/a {tmp_path}/b >&- 2>&- <&-")
    assert (done.returncode, (tmp_path / "b").read_bytes()) == (0, b"spam")
    done = shell(f"ls {tmp_path}/nothing 2>&-")
    assert (done.returncode, done.stdout) == (1, "")
    done = shell(f"put {tmp_path}/c - <&-")
    assert (done.returncode, done.stderr) == (1, "s3dlio: Bad file descriptor\n")
    assert not (tmp_path / "c").exists()
