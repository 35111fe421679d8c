"""Room card: what the shared tests of `tests.contract` must be told about a backend, and small helpers of theirs.

Knows names of abilities.  Must not know any backend: each says by class attributes what it honestly cannot do, and
the shared tests then hold it to what it does instead.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, ClassVar

import pytest

from s3dlio import ObjectStore, StoreOptions

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
#: Splits reads of everything above 64 KiB, so that small test objects come in many parts.
SMALL_PARTS = StoreOptions(chunk_size=64 * KIB, min_split_size=0, max_concurrent_ranges=4)
#: The verbs with these settings.
SMALL = ObjectStore(SMALL_PARTS)
#: Keys that need care in paths, queries, signatures, XML or on disks.
ODD_KEYS = (
    "sp ace", " leading", "trailing ", "plus+plus", "per%41cent", "uni-é-漢-😀", "combining e\u0301", "hash#q",
    "ask?a=1&b=2", "quo'te\"s", "semi;colon,comma", "tilde~star*!()", "dots...", ".hidden", "back\\slash",
    "<xml>&amp;", "equals=at@:$", "[b]{c}|^`", "line\u2028separator", "new\nline", "carriage\rreturn", "tab\tstop",
)  # fmt: skip
#: Keys in which a file system sees something else than plain characters.
UNPATHLIKE_KEYS = ("a//b", "./x", "../x", "/lead", "a/./b", "x/../b", "k" * 1024, "é" * 512)

_numbers = itertools.count()


class Backend:
    """What a subclass says of its backend.  Whatever differs from here carries a comment that says why."""

    #: The content type given to put comes back from stat.
    keeps_content_type: ClassVar[bool] = True
    #: The user's metadata given to put comes back from stat.
    keeps_metadata: ClassVar[bool] = True
    #: put(overwrite=False) fails when the object exists.
    refuses_overwrite: ClassVar[bool] = True
    #: Who reads while several write finds the old object or a new one, never none.
    replaces_at_once: ClassVar[bool] = True
    #: A listing in a container that does not exist raises.
    misses_containers: ClassVar[bool] = True
    #: A put into a container that does not exist makes it.
    makes_containers: ClassVar[bool] = False
    #: Creating a container that exists raises AlreadyExistsError.
    refuses_second_container: ClassVar[bool] = True
    #: A key is any text: "a" and "a/b" are two objects, "a//b" is not "a/b".
    has_flat_keys: ClassVar[bool] = True
    #: mkdir leaves an object whose key ends in "/".
    has_markers: ClassVar[bool] = True
    #: Other processes see the same objects.
    is_shared: ClassVar[bool] = True
    #: The longest key made of segments of at most 200 characters.
    longest_key: ClassVar[int] = 1024
    #: Of ODD_KEYS and UNPATHLIKE_KEYS those that the server cannot keep.
    impossible_keys: ClassVar[frozenset[str]] = frozenset()
    #: As many objects as make several pages of a listing.
    several_pages: ClassVar[int] = 30

    @pytest.fixture
    def root(self) -> str:
        """A prefix, ending in "/", below which nothing is yet."""
        raise NotImplementedError

    @pytest.fixture
    def nowhere(self) -> str:
        """A prefix, ending in "/", in a container that does not exist."""
        raise NotImplementedError

    @pytest.fixture
    def fresh_container(self) -> str:
        """The URI of a container that does not exist and may be made."""
        raise NotImplementedError


def unique(stem: str) -> str:
    """Returns a name that nothing in this test run has."""
    return f"{stem}-{os.getpid()}-{next(_numbers)}"


def blob(size: int, seed: int = 0) -> bytes:
    """Returns bytes that differ from place to place and from seed to seed."""
    return random.Random(seed).randbytes(size)


#: Threads fork one after the other: filelock, where something has imported it, refuses anything else.
_forking = threading.Lock()


def in_child(work: Callable[[], object]) -> None:
    """Runs ``work`` in a forked child and fails when it fails or takes longer than half a minute."""
    with _forking, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX, where a test has imported it, warns of every fork
        child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(30)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the child's end: shown, and told by its exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
