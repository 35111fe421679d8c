"""Room card: does the library survive forks, pools, signals, cancelled tasks and the end of the interpreter?

Each program here runs in an interpreter of its own, against an origin in this one, and is ended if it hangs.
What needs no process of its own is in `test_stopping`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.patience import eventually
from tests.reading import random_bytes
from tests.servers.fault_kinds import Latency, Stall, StallHead
from tests.servers.faults import FaultOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HANG_S = 150
BIG = random_bytes((17 << 20) + 5)  # three ranges
COUNT = 40

_PRELUDE = f"""
import faulthandler, os, signal, sys, threading, time
faulthandler.register(signal.SIGALRM, chain=True)  # tells where it hangs, then ends
signal.alarm({HANG_S - 5})
import s3dlio
from s3dlio.crew import CREW
from s3dlio.errors import ForkError
from s3dlio.fetch import Fetcher, Read
from s3dlio.stores import open_store
from s3dlio.uri import parse

URIS = [f"s3://bucket/small/{{n}}" for n in range({COUNT})]
BIG = "s3://bucket/big"

def right(uri, got):
    name = uri.rpartition("/")[2]
    assert bytes(got) == (name + ".").encode() * 5000, uri

def use_all(tag):
    for uri, got in s3dlio.get_many(URIS):
        right(uri, got)
    right(URIS[3], s3dlio.get(URIS[3]))
    assert len(s3dlio.get(BIG)) == {len(BIG)}
    assert len(s3dlio.get_range(BIG, 5, 100)) == 100
    assert s3dlio.list("s3://bucket/small/") == sorted(URIS)
    assert s3dlio.stat(BIG)["size"] == {len(BIG)}
    s3dlio.put(f"s3://bucket/new/{{tag}}", tag.encode())
    assert s3dlio.get(f"s3://bucket/new/{{tag}}") == tag.encode()
    assert len(s3dlio.stat_many(URIS)) == len(URIS)
    for read, got in stream():
        right(str(read.uri), got)

def stream(**settings):
    return Fetcher(open_store(URIS[0])).stream([Read(parse(uri)) for uri in URIS], **settings)

def in_child(work):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm({HANG_S - 10})
        work()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)

def wait(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def busy():
    return [thread for thread in CREW.get()._threads if thread.is_alive()], len(CREW.get()._idle)

def all_idle():
    deadline = time.monotonic() + 60
    while (state := busy()) and len(state[0]) != state[1]:
        if time.monotonic() > deadline:
            faulthandler.dump_traceback()
            raise AssertionError(state)
        time.sleep(0.01)

def open_files():
    return len(os.listdir("/proc/self/fd"))
"""


@pytest.fixture
def full(origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch) -> FaultOrigin:
    """An origin with small objects and a big one; programs find it by their environment."""
    origin.objects |= {f"/bucket/small/{n}": f"{n}.".encode() * 5000 for n in range(COUNT)}
    origin.objects["/bucket/big"] = BIG
    settings = {
        "AWS_ENDPOINT_URL": origin.endpoint_url,
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "PYTHONPATH": os.getcwd(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return origin


class Program:
    """A program under way, and what became of it."""

    def __init__(self, folder: Path, text: str) -> None:
        path = folder / "program.py"
        path.write_text(_PRELUDE + textwrap.dedent(text))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
        )  # fmt: skip

    def end(self, code: int = 0) -> str:
        """Waits for the end, which must be with ``code`` and without a word on stderr; returns the output."""
        try:
            out, err = self.process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            out, err = self.kill()
            pytest.fail(f"the program hangs:\n{out}\n{err}")
        assert (self.process.returncode, err) == (code, ""), f"{out}\n{err}"
        return out

    def kill(self) -> tuple[str, str]:
        """Ends it, and its children, which would keep the pipes open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.communicate()


@pytest.fixture
def run(full: FaultOrigin, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """A function that starts a program."""
    programs: list[Program] = []

    def run(text: str) -> Program:
        programs.append(Program(tmp_path, text))
        return programs[-1]

    yield run
    for program in programs:
        program.kill()


# -- forks --------------------------------------------------------------------------------------------


def test_every_verb_works_in_a_fork_of_a_process_that_has_used_them(run: Callable[[str], Program]) -> None:
    run("""
        use_all("before")
        for n in range(3):
            wait(in_child(lambda: use_all(f"child-{n}")))
        use_all("after")
    """).end()


def test_a_fork_of_a_fork_of_a_fork_works(run: Callable[[str], Program]) -> None:
    run("""
        def deeper(depth):
            use_all(f"depth-{depth}")
            if depth < 5:
                wait(in_child(lambda: deeper(depth + 1)))
        deeper(0)
    """).end()


def test_forks_in_the_midst_of_reads_work(run: Callable[[str], Program]) -> None:
    run("""
        use_all("before")  # (a fork in the midst of a first import is beyond us: Python's locks stay locked)
        stop, failures = threading.Event(), []

        def read_on(work):
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        def read_stream():
            for read, got in stream():
                right(str(read.uri), got)

        def read_many():
            for uri, got in s3dlio.get_many(URIS):
                right(uri, got)

        works = [read_stream, read_many, lambda: s3dlio.get(BIG), lambda: right(URIS[1], s3dlio.get(URIS[1]))]
        threads = [threading.Thread(target=read_on, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()

        def child():
            read_many()
            right(URIS[2], s3dlio.get(URIS[2]))
            read_stream()

        for _ in range(8):
            pids = [in_child(child) for _ in range(3)]
            for pid in pids:
                wait(pid)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures, failures
    """).end()


def test_a_stream_does_not_go_on_in_a_child(run: Callable[[str], Program]) -> None:
    run("""
        for ordered in (True, False):
            it = stream(ordered=ordered)
            for _ in range(3):
                next(it)
            time.sleep(0.2)  # others have arrived

            def child():
                for _ in range(2):
                    try:
                        next(it)
                    except (ForkError, StopIteration):
                        continue
                    raise AssertionError("the stream goes on")

            wait(in_child(child))
            assert len(list(it)) == len(URIS) - 3
    """).end()


def test_a_child_does_not_disturb_the_reads_of_its_parent(run: Callable[[str], Program], full: FaultOrigin) -> None:
    full.plan_all(*[Latency(0.5)] * COUNT)
    run("""
        token = s3dlio.CancellationToken()
        reads = [Read(parse(uri)) for uri in URIS]
        it = Fetcher(open_store(URIS[0]), token=token).stream(reads)
        next(it)

        def child():  # lets go of all that it has inherited, and ends as programs do
            it.close()
            token.cancel()
            s3dlio.get(BIG)

        wait(in_child(child))
        pid = os.fork()
        if not pid:
            sys.exit(0)
        wait(pid)
        assert len(list(it)) == len(URIS) - 1
    """).end()
    small = [request.target for request in full.requests if "small" in request.target]
    assert sorted(small) == sorted(set(small))  # none was asked for twice


def test_forks_in_a_row_leak_nothing(run: Callable[[str], Program]) -> None:
    run("""
        s3dlio.get_many(URIS)
        files, threads = open_files(), threading.active_count()
        for n in range(100):
            wait(in_child(lambda: right(URIS[n % 40], s3dlio.get(URIS[n % 40]))))
            right(URIS[0], s3dlio.get(URIS[0]))
        assert open_files() <= files + 2, (files, open_files())
        assert threading.active_count() <= threads

        def deeper(depth):
            s3dlio.get_many(URIS[:5])
            assert open_files() <= files + 10, (depth, files, open_files())
            if depth:
                wait(in_child(lambda: deeper(depth - 1)))

        deeper(20)
    """).end()


def test_a_process_id_that_comes_back_is_another_process(run: Callable[[str], Program]) -> None:
    run("""
        s3dlio.get_many(URIS)
        ancestor = os.getpid()

        def child():
            os.getpid = lambda: ancestor  # as if our ancestor had ended, and we had got its number
            use_all("reborn")

        wait(in_child(child))
    """).end()


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_pools_read_while_the_parent_does(run: Callable[[str], Program], kind: str) -> None:
    run(f"""
        import multiprocessing

        def read(uri):
            return uri, bytes(s3dlio.get(uri))

        def read_some(uris):
            return [(uri, bytes(got)) for uri, got in s3dlio.get_many(uris)]

        def main():
            use_all("parent")
            it = stream()
            next(it)
            with multiprocessing.get_context({kind!r}).Pool(2) as pool:
                answers = pool.imap(read, URIS)
                use_all("parent-again")
                for uri, got in answers:
                    right(uri, got)
                for pairs in pool.map(read_some, [URIS[:20], URIS[20:]]):
                    for uri, got in pairs:
                        right(uri, got)
            assert len(list(it)) == len(URIS) - 1

        if __name__ == "__main__":
            main()
    """).end()


def test_what_is_pickled_opens_anew(run: Callable[[str], Program]) -> None:
    run("""
        import pickle
        store = open_store(URIS[0])
        s3dlio.get_many(URIS)
        again = pickle.loads(pickle.dumps(store))
        assert again is not store
        right(URIS[0], Fetcher(again).read(Read(parse(URIS[0]))))
        token = s3dlio.CancellationToken()
        token.cancel()
        assert not pickle.loads(pickle.dumps(token)).is_cancelled
    """).end()


# -- the end of the interpreter -----------------------------------------------------------------------

#: Programs whose reads are still under way when their last line has been run.
UNFINISHED = {
    "get": """
        threading.Thread(target=s3dlio.get, args=(URIS[0],), daemon=True).start()
    """,
    "get_many": """
        threading.Thread(target=s3dlio.get_many, args=(URIS,), daemon=True).start()
    """,
    "big": """
        threading.Thread(target=s3dlio.get, args=(BIG,), daemon=True).start()
    """,
    "stream": """
        it = stream(ordered=False)
        threading.Thread(target=next, args=(it,), daemon=True).start()
    """,
    "stream-with-a-token-of-its-own": """
        token = s3dlio.CancellationToken()
        it = Fetcher(open_store(URIS[0]), token=token).stream([Read(parse(uri)) for uri in URIS])
        threading.Thread(target=next, args=(it,), daemon=True).start()
    """,
    "task": """
        import asyncio
        async def main():
            await asyncio.gather(s3dlio.get_many_async(URIS), s3dlio.get_async(BIG))
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    """,
    "future": """
        import asyncio
        loop = asyncio.new_event_loop()
        task = loop.create_task(s3dlio.get_many_async(URIS))
        loop.call_later(0.2, loop.stop)
        loop.run_forever()
        # That the loop is left unclosed and with a task is this program's own fault.
        import warnings
        task._log_destroy_pending = False
        warnings.simplefilter("ignore", ResourceWarning)
    """,
    "map": """
        threading.Thread(target=s3dlio.stat_many, args=(URIS,), daemon=True).start()
    """,
}


@pytest.mark.parametrize(
    ("unfinished", "code"),
    [*((text, 0) for text in UNFINISHED.values()), (UNFINISHED["get_many"], 3)],
    ids=[*UNFINISHED, "with-code-3"],
)
def test_an_interpreter_ends_in_spite_of_reads(
    run: Callable[[str], Program], full: FaultOrigin, unfinished: str, code: int
) -> None:
    full.plan_all(*[StallHead(60.0), Stall(10, 60.0)] * 500)
    text = textwrap.dedent(unfinished) + f"while not os.path.exists('go'):\n    time.sleep(0.01)\nsys.exit({code})\n"
    program = run(text)
    eventually(lambda: full.requests)
    (_folder_of(program) / "go").touch()
    program.end(code)


def _folder_of(program: Program) -> Path:
    from pathlib import Path

    args = program.process.args
    assert isinstance(args, list)
    return Path(args[-1]).parent


def test_a_half_read_stream_does_not_hold_up_the_end(run: Callable[[str], Program]) -> None:
    run("""
        it = stream()
        next(it)
        other = stream(budget_bytes=1)
        next(other)
    """).end()


def test_a_thread_that_is_no_daemon_may_finish_its_read(run: Callable[[str], Program], full: FaultOrigin) -> None:
    full.plan("/bucket/big", Latency(0.5))
    out = run("""
        threading.Thread(target=lambda: print(len(s3dlio.get(BIG)))).start()
    """).end()
    assert out.strip() == str(len(BIG))


def test_what_runs_at_the_exit_may_use_the_library(run: Callable[[str], Program], full: FaultOrigin) -> None:
    run("""
        import atexit
        atexit.register(lambda: use_all("flushed-late"))  # before the library has a handler of its own: runs after it
        s3dlio.get_many(URIS)
        atexit.register(lambda: use_all("flushed-early"))
    """).end()
    assert {"/bucket/new/flushed-late", "/bucket/new/flushed-early"} <= full.objects.keys()


# -- signals ------------------------------------------------------------------------------------------

INTERRUPTED = {
    "get": "s3dlio.get(URIS[0])",
    "big": "s3dlio.get(BIG)",
    "get_many": "s3dlio.get_many(URIS)",
    "stream": "list(stream())",
    "stat_many": "s3dlio.stat_many(URIS)",
    "put": "s3dlio.put('s3://bucket/new', b'x')",
}


@pytest.mark.parametrize("verb", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_ends_a_read_at_once(run: Callable[[str], Program], full: FaultOrigin, verb: str) -> None:
    full.plan_all(*[StallHead(60.0), Stall(10, 60.0)] * 500)
    program = run(f"""
        try:
            {verb}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        all_idle()
        while not os.path.exists("go"):
            time.sleep(0.01)
        use_all("after")
    """)
    eventually(lambda: full.requests)
    time.sleep(0.2)
    program.process.send_signal(signal.SIGINT)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "interrupted\n"
    full._plan_all.clear()
    (_folder_of(program) / "go").touch()
    program.end()


def test_ctrl_c_at_any_moment_leaves_nothing_behind(run: Callable[[str], Program]) -> None:
    run("""
        import hashlib, random
        chance = random.Random(1)
        buffer = bytearray(18 << 20)

        def interrupt_during(work):
            timer = threading.Timer(chance.random() * 0.03, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            try:
                timer.start()
                while True:
                    work()
            except KeyboardInterrupt:
                pass
            before = hashlib.sha1(buffer).digest()
            all_idle()
            assert hashlib.sha1(buffer).digest() == before

        works = [lambda: s3dlio.get_many(URIS), lambda: s3dlio.get_into(BIG, buffer), lambda: list(stream()),
                 lambda: s3dlio.get(URIS[0]), lambda: s3dlio.stat_many(URIS)]
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # what is in nobody's hands yet is closed as garbage is
        s3dlio.get(URIS[0])
        for n in range(40):
            interrupt_during(works[n % len(works)])
        use_all("after")
        assert threading.active_count() < 150
        assert open_files() < 150
    """).end()


def test_a_signal_handler_may_cancel(run: Callable[[str], Program], full: FaultOrigin) -> None:
    full.plan_all(*[StallHead(60.0)] * 500)
    program = run("""
        token = s3dlio.CancellationToken()
        signal.signal(signal.SIGTERM, lambda *_: token.cancel())
        try:
            Fetcher(open_store(URIS[0]), token=token).read_all([Read(parse(uri)) for uri in URIS])
        except s3dlio.CancelledError:
            print("cancelled")
        all_idle()
    """)
    eventually(lambda: full.requests)
    time.sleep(0.2)
    program.process.terminate()
    assert program.end() == "cancelled\n"


def test_signals_that_mean_nothing_do_not_disturb_reads(run: Callable[[str], Program]) -> None:
    run("""
        signal.signal(signal.SIGUSR1, lambda *_: None)
        over = threading.Event()

        def tick():
            while not over.wait(0.001):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        ticking = threading.Thread(target=tick)
        ticking.start()
        for _ in range(3):
            use_all("ticking")
        over.set()
        ticking.join()
    """).end()


# -- tasks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get_many_async(URIS)", "get_async(BIG)", "get_into_async(BIG, bytearray(18 << 20))"])
def test_cancelling_a_task_ends_its_reads(run: Callable[[str], Program], full: FaultOrigin, verb: str) -> None:
    full.plan_all(*[StallHead(60.0), Stall(10, 60.0)] * 500)
    run(f"""
        import asyncio

        async def main():
            for _ in range(2):
                task = asyncio.create_task(s3dlio.{verb})
                await asyncio.sleep(0.05)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    continue
                raise AssertionError("not cancelled")

        for _ in range(2):
            asyncio.run(main())
        all_idle()
    """).end()


def test_a_timeout_ends_the_reads_of_a_task(run: Callable[[str], Program], full: FaultOrigin) -> None:
    full.plan_all(*[StallHead(60.0)] * 500)
    run("""
        import asyncio

        async def main():
            try:
                await asyncio.wait_for(s3dlio.get_many_async(URIS), 0.2)
            except asyncio.TimeoutError:
                return
            raise AssertionError("not timed out")

        asyncio.run(main())
        all_idle()
    """).end()


def test_tasks_read_side_by_side(run: Callable[[str], Program]) -> None:
    run("""
        import asyncio

        async def main():
            answers = await asyncio.gather(*[s3dlio.get_async(uri) for uri in URIS])
            for uri, got in zip(URIS, answers):
                right(uri, got)

        for _ in range(3):
            asyncio.run(main())
        wait(in_child(lambda: asyncio.run(main())))
    """).end()
