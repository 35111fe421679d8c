"""The seam: the verbs that every backend speaks.

Floor 2. Knows what a store must do, in words; must not know any of them. Everything above this file
works with any :class:`Store`; a new backend is one module with one subclass and a line in
``stores/__init__.py``.

Contract, the same for all (``tests/contract.py`` checks it on every backend):

* A key is exactly the caller's characters; objects are replaced atomically.
* Ranges are half-open; reading past the end gives what there is, starting behind the end raises
  :class:`~s3dlio.errors.RangeError`, an empty object is an object.
* Nothing is swallowed: what is not there raises ``NotFoundError``, other failures their own error.
* Methods are thread-safe and work in forked children; a pickled store opens anew.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from s3dlio.cancel import CancellationToken
from s3dlio.options import StoreOptions, resolve
from s3dlio.pace import Pace
from s3dlio.stores.objects import Entry, ObjectInfo, PutOptions, SizeCache, bare, quoted
from s3dlio.stores.stretch import Plan, Stretch, Succession, Wanted
from s3dlio.stores.upload import Limits, Pending, Upload
from s3dlio.uri import Uri
from s3dlio.wire.places import Landed, Place, Version

#: What a lane gives: see :meth:`Store.lane`.
Reader = Callable[[Uri, int, int, Place], Version]

__all__ = [
    "Entry", "ObjectInfo", "Place", "Plan", "PutOptions", "Reader", "Store", "Stretch", "Succession", "Version", "Wanted",
    "bare", "quoted",
]  # fmt: skip

#: Media type of what stands for a directory.
DIRECTORY_TYPE = "application/x-directory"
#: Keys in a group: those of a usual page.
_GROUP = 1000


class Store(abc.ABC):
    """One backend, for all containers of one scheme.

    Args:
        options: How to reach it; the environment fills in what they leave open.
    """

    #: Whose environment variables it follows: ``s3``, ``gs`` or ``az``.
    family: ClassVar[str] = ""

    def __init__(self, options: StoreOptions | None = None) -> None:
        self._given = options or StoreOptions()
        self.options = resolve(self._given, self.family)
        #: What the first request for an object asks for, in bytes; larger objects are read in parts.
        self.first_bytes = max(self.options.chunk_size, self.options.min_split_size) if self.options.split else 1 << 62
        #: What is known of objects' sizes without asking; writers forget what they change.
        self.sizes = SizeCache()

    # -- reads ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def read_first(self, uri: Uri, start: int, limit: int, place: Place, token: CancellationToken) -> Version:
        """Read the first part of an object whose size is not known, with one request.

        Args:
            uri: The object.
            start: First byte.
            limit: Most bytes to read.
            place: Called once with the object's size; returns the memory for the bytes from ``start``
                on, ``min(limit, size - start)`` of them.
            token: Stops the read.

        Returns:
            Size and entity tag of what was read.

        Raises:
            RangeError: ``start`` lies behind the end.
            StoreError: The object is not there, or cannot be read.
        """

    @abc.abstractmethod
    def read_into(self, uri: Uri, start: int, target: memoryview, version: Version, token: CancellationToken) -> None:
        """Fill ``target`` with the bytes from ``start`` on. Parts of one object may be read at once.

        Raises:
            ObjectChangedError: The object is not the one that ``version`` names.
            StoreError: It is not there, or cannot be read.
        """

    @abc.abstractmethod
    def head(self, uri: Uri, token: CancellationToken) -> ObjectInfo:
        """Return what is known of an object.

        Raises:
            NotFoundError: It is not there.
        """

    @contextlib.contextmanager
    def lane(self, token: CancellationToken) -> Iterator[Reader]:
        """Give one reader its own way to the store, for as long as it has work.

        Yields:
            A function that does as :meth:`read_first` does without its token. It belongs to one thread.
        """

        def read(uri: Uri, start: int, limit: int, place: Place) -> Version:
            return self.read_first(uri, start, limit, place, token)

        yield read

    def window(self, _uri: Uri, _flight: int) -> int:
        """Return how many of ``flight`` requests one thread should have under way in a :meth:`sweep`."""
        return 1

    def sweep(
        self, _wanted: Iterator[tuple[int, Uri]], _window: int, _landed: Landed, _token: CancellationToken
    ) -> list[int]:
        """Read whole small objects, as many as can be read in some way that is faster than :meth:`lane`.

        Args:
            _wanted: Numbers and objects, shared with other threads; what is not taken is left to others.
            _window: Requests under way at once.
            _landed: Called with each object's number and memory.
            _token: Stops the reads.

        Returns:
            The numbers of objects that were taken and not read. Errors are not raised here: whoever
            reads these objects will meet them.
        """
        return []

    def flow(self, _token: CancellationToken) -> AbstractContextManager[Stretch] | None:
        """Give one reader a window of requests under way at once, where there is such a thing.

        Returns:
            What sends requests for first parts, as :meth:`read_first` does, and receives their answers as
            they come; it belongs to one thread. ``None`` where there is nothing faster than :meth:`lane`.
        """
        return None

    def flow_plan(self, _uri: Uri, flight: int, _mean_bytes: int) -> Plan:
        """Return by how many threads ``flight`` requests should be kept under way; a window of 1: no :meth:`flow`."""
        return Plan(flight, 1)

    def make_ready(self, _uri: Uri, _token: CancellationToken) -> None:
        """Make a connection for a :meth:`flow` that lacks one. Raises what :meth:`read_first` does."""

    def relay(
        self, _uri: Uri, _version: Version, _token: CancellationToken
    ) -> AbstractContextManager[Succession] | None:
        """Give one thread a way to read consecutive ranges of an object, where one thread is the fastest.

        Returns:
            What asks for ranges ahead and receives them in their order. ``None`` where several threads are faster.
        """
        return None

    def range_width(self, _uri: Uri) -> int:
        """Return how many ranges of one large object should be read at once."""
        return self.options.max_concurrent_ranges

    def pace(self, _uri: Uri) -> Pace | None:
        """Return what is known of how many requests the far side should have in flight, if it is a server."""
        return None

    def latency_s(self, _uri: Uri) -> float | None:
        """Return the recent time to the first byte, in seconds, or ``None`` when it is not known."""
        return None

    # -- writes -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def put(self, uri: Uri, data: memoryview, options: PutOptions, token: CancellationToken) -> ObjectInfo:
        """Create or replace an object atomically.

        Raises:
            AlreadyExistsError: It exists and ``options.overwrite`` is ``False``.
        """

    #: What :meth:`upload` asks of parts.
    limits: ClassVar[Limits] = Limits()

    @abc.abstractmethod
    def upload(self, uri: Uri, options: PutOptions, token: CancellationToken) -> Upload:
        """Begin to write an object by parts: it appears, or replaces another, when the upload is completed.

        Raises:
            StoreError: It cannot be begun.
        """

    def pending(self, _where: Uri, _token: CancellationToken) -> Iterator[Pending]:
        """Yield what writers have begun and neither completed nor thrown away, and :meth:`abandon` can throw away.

        Args:
            _where: An object, or what all below it begins with, taken as a directory.
            _token: Stops the listing.

        Raises:
            StoreError: It cannot be listed.
        """
        return iter(())

    def abandon(self, _where: Uri, _upload: Pending, _idle_s: float, _token: CancellationToken) -> bool:
        """Throw a pending upload away, unless a writer has done something for it within ``_idle_s`` seconds.

        Returns:
            Whether that was done: it may be running, completed or gone by now.

        Raises:
            StoreError: It cannot be thrown away.
        """
        return False

    #: Of a larger object the far side copies one stretch at a time (:meth:`s3dlio.stores.upload.Upload.copy`).
    copy_bytes: ClassVar[int] = 1 << 62

    def copy(self, _source: Uri, _target: Uri, _version: Version, _token: CancellationToken) -> bool:
        """Have the far side (or the kernel) copy an object, atomically, without its bytes passing through here.

        Args:
            _source: What is copied, with its media type and metadata where there are any.
            _target: The copy's address.
            _version: Which content it must have.
            _token: Stops the work.

        Returns:
            Whether that was done; ``False`` where there is no such way.

        Raises:
            NotFoundError: The object or the target's container is not there.
            ObjectChangedError: The object has another content.
            StoreError: It cannot be copied.
        """
        return False

    def presigned(self, _uri: Uri, _expires_s: int) -> str | None:
        """Return an address at which anybody can GET an object for some seconds; ``None`` where there is no such way.

        Nothing is asked of the server, so neither the object nor the right to read it need be there.
        """
        return None

    @abc.abstractmethod
    def delete(self, uris: Sequence[Uri], token: CancellationToken) -> None:
        """Delete objects of one container; those that are not there are fine."""

    @abc.abstractmethod
    def entries(self, prefix: Uri, token: CancellationToken, *, recursive: bool = True) -> Iterator[Entry]:
        """Yield the objects whose key starts with ``prefix.key``, in the backend's order, page by page.

        Args:
            prefix: Container and beginning of the key.
            token: Stops the listing.
            recursive: ``False`` yields what lies deeper than the next ``/`` as one common prefix.

        Raises:
            NotFoundError: The container does not exist.
        """

    def lists_at_once(self, _prefix: Uri) -> bool:
        """Tell whether several prefixes listed at once come sooner than one after the other."""
        return False

    # -- containers -------------------------------------------------------------------------------

    @abc.abstractmethod
    def create_container(self, uri: Uri, token: CancellationToken) -> None:
        """Create a bucket or container.

        Raises:
            AlreadyExistsError: It exists.
        """

    @abc.abstractmethod
    def delete_container(self, uri: Uri, token: CancellationToken) -> None:
        """Delete an empty bucket or container.

        Raises:
            NotFoundError: It does not exist.
            StoreError: It is not empty.
        """

    @abc.abstractmethod
    def list_containers(self, uri: Uri, token: CancellationToken) -> list[str]:
        """Return the names of the buckets or containers that the credentials can see, sorted."""

    def mkdir(self, uri: Uri, token: CancellationToken) -> None:
        """Make a directory: where there are none, an empty object whose key ends in ``/``."""
        marker = uri.with_key(uri.key.removesuffix("/") + "/")
        self.put(marker, memoryview(b""), PutOptions(content_type=DIRECTORY_TYPE), token)

    def key_pages(self, prefix: Uri, token: CancellationToken) -> Iterator[list[str]]:
        """Yield the keys of all objects below a prefix, in groups, without directory markers: :meth:`entries` for less.

        Raises:
            StoreError: As :meth:`entries`.
        """
        entries = self.entries(prefix, token)
        while group := list(itertools.islice(entries, _GROUP)):
            yield [entry.key for entry in group if not entry.is_marker]

    def removable(self, prefix: Uri, token: CancellationToken) -> Iterator[Entry]:
        """Yield what goes when all below ``prefix`` is deleted: its entries, and what listings hide."""
        return self.entries(prefix, token)

    def prune(self, prefix: Uri, token: CancellationToken) -> None:
        """Remove what is left of a prefix whose objects were deleted: empty directories, where there are any."""

    # -- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of connections. The store may be used again and then opens new ones."""

    def __reduce__(self) -> tuple[type[Store], tuple[StoreOptions]]:
        """Pickle as the caller's settings only.

        Connections are not shared between processes, and each has an environment of its own: what was
        found in this one's, secrets above all, stays here.
        """
        return type(self), (self._given,)
