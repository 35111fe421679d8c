"""The seam for writing: an object in the making, that grows by parts.

Floor 2. Knows what an upload must do, in words; each backend has its own. Nothing of the object can be seen
before :meth:`Upload.complete`, and nothing of it is left after :meth:`Upload.abort`.
"""

from __future__ import annotations

import abc
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from s3dlio.cancel import CancellationToken

if TYPE_CHECKING:
    from s3dlio.ranges import Span
    from s3dlio.stores.base import ObjectInfo, Version
    from s3dlio.uri import Uri


class Limits(NamedTuple):
    """What a backend asks of parts.

    Attributes:
        least_bytes: Of every part but the last.
        most_bytes: Of a part.
        most_parts: Of one object.
        multiple: Of how many bytes every part but the last must be made.
        in_order: Each part is sent when the one before has been taken.
        conditional: An upload can be told, atomically, not to replace an object.
        free: To begin an upload costs nothing: it is begun at once, and what hinders it shows early.
    """

    least_bytes: int = 1
    most_bytes: int = 1 << 62
    most_parts: int = 1 << 62
    multiple: int = 1
    in_order: bool = False
    free: bool = False
    conditional: bool = True


class Part(NamedTuple):
    """A stretch of an object.

    Attributes:
        number: From 0 on.
        start: Its first byte's place in the object.
        pieces: Its bytes, which may lie in several places of the memory.
        length: Bytes in all.
        crc32c: Their sum.
    """

    number: int
    start: int
    pieces: tuple[memoryview, ...]
    length: int
    crc32c: int


class Pending(NamedTuple):
    """An upload that was begun and not ended.

    Attributes:
        key: Of the object that it was to become; of a file, the hidden one that holds what was written.
        upload_id: The server's name for it, or an empty string.
        initiated: When it was begun (a file: when it was last written), or ``None`` if that is not told.
        age_s: Seconds since then by the clock of who told it, or ``None``.
    """

    key: str
    upload_id: str
    initiated: datetime | None
    age_s: float | None


class Upload(abc.ABC):
    """One object in the making. :meth:`send` is thread-safe; the other methods are called once it is done.

    Attributes:
        any_order: The first part may be sent after all others.
    """

    any_order = True

    @abc.abstractmethod
    def send(self, part: Part, token: CancellationToken) -> None:
        """Hand over a part, whose memory is the caller's again afterwards.

        Raises:
            StoreError: It could not be sent; the upload is to be aborted.
        """

    def copy(self, _number: int, _source: Uri, _span: Span, _version: Version, _token: CancellationToken) -> bool:
        """Make a part of a stretch of another object of the same store; ``False``: it must be sent.

        Raises:
            ObjectChangedError: The other object has another content.
            StoreError: It cannot be copied.
        """
        return False

    @abc.abstractmethod
    def complete(self, length: int, parts: int, token: CancellationToken) -> ObjectInfo:
        """Make the object of parts 0 to ``parts - 1``, atomically, and see that it is whole.

        Args:
            length: Bytes that were sent, in all.
            parts: How many parts.
            token: Stops the work.

        Returns:
            What the backend says of the object.

        Raises:
            AlreadyExistsError: It exists, and was not to be overwritten.
            IntegrityError: The backend's object is not what was sent.
            StoreError: It could not be made.
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Throw away what was sent. No part may be on its way any more.

        Raises:
            StoreError: It could not be thrown away.
        """
