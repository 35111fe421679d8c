"""Room card: what a hand-written origin says, and the steps by which it says it.

Knows how a reply looks on the wire.  Must not know sockets, what is right to reply, or the library.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Reply:
    """A reply before it is put on the wire.

    Attributes:
        status: The status code.
        headers: The headers as they are to be written.
        body: The body as announced; a reply to HEAD announces it but does not send it.
        head_only: Whether the request was HEAD.
        whole: The whole object's bytes, whatever part of it ``body`` is.
        version: The protocol version in the status line.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    head_only: bool = False
    whole: bytes = b""
    version: str = "HTTP/1.1"

    @property
    def head(self) -> bytes:
        """The status line and the headers, to the empty line."""
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unheard Of"
        lines = [f"{self.version} {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def payload(self) -> bytes:
        """The bytes that follow the head."""
        return b"" if self.head_only or self.status in {204, 304} else self.body

    def with_headers(self, *dropped: str, **added: str) -> Reply:
        """Returns a copy with headers dropped and others set (``_`` in a name stands for ``-``)."""
        gone = {name.lower() for name in dropped} | {name.replace("_", "-").lower() for name in added}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in gone}
        return replace(self, headers={**kept, **{name.replace("_", "-"): it for name, it in added.items()}})


@dataclass(frozen=True)
class Pause:
    """Send nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Midway:
    """What befalls a request's body on its way: after some bytes silence, then the rest or a reset."""

    after_bytes: int = 0
    seconds: float = 0.0
    resets: bool = False


class End(Enum):
    """Ways to end a connection."""

    CLOSE = auto()
    RESET = auto()


Step = bytes | Pause | End
