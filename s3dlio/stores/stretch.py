"""The seam for streams: what is asked of a window of requests, and what it gives.

Floor 2. Knows what a stretch must do, in words; must not know any store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from s3dlio.errors import S3dlioError
from s3dlio.ranges import Span
from s3dlio.uri import Uri


class Wanted(NamedTuple):
    """A range that is asked for.

    Attributes:
        owner: Who asks, with a method ``place`` as of :class:`s3dlio.wire.flow.Owner`.
        uri: The object.
        start: First byte.
        limit: How many bytes.
        is_all: Nothing that lies behind will be read.
    """

    owner: Any
    uri: Uri
    start: int
    limit: int
    is_all: bool


class Stretch(Protocol):
    """What :meth:`Store.flow` gives."""

    @property
    def pending(self) -> int:
        """How many outcomes are still to be received."""

    @property
    def waiting(self) -> int:
        """Requests that wait for connections to be ready, see :meth:`Store.make_ready`."""

    @property
    def lacks(self) -> Uri:
        """An object that connections are waited for."""

    def ask(self, wanted: Sequence[Wanted]) -> None:
        """Ask for first parts of objects, or of what lies behind a start.

        See :meth:`receive` for what comes of it.
        """

    def receive(self) -> list[tuple[Any, tuple[int, str] | S3dlioError | None]]:
        """Wait for answers, read some into memory, and return who asked and what has come of it.

        That is the object's size, and its entity tag where more is to be read; or the error that ``place`` has
        raised; or ``None``: the answer was not the usual one, read it otherwise.
        """


class Succession(Protocol):
    """What :meth:`Store.relay` gives. It belongs to one thread."""

    @property
    def wanted(self) -> int:
        """How many more ranges should be asked for before the next is taken."""

    def ask(self, spans: Sequence[Span]) -> None:
        """Ask for ranges, in the order in which they will be taken."""

    def take(self, target: memoryview) -> bool:
        """Receive the range whose turn it is into memory of its length; ``False``: read it otherwise."""


class Plan(NamedTuple):
    """How many threads read, and how many requests each has under way."""

    threads: int
    window: int
