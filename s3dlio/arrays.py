"""NPZ and NPY objects, of any store.

Floor 6. The door to :mod:`s3dlio.formats.npz` for objects that are not in memory: of a large file only its
directory travels, and the arrays that are asked for. Decides what is read together and what ahead; must not
know the formats themselves.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, overload

from s3dlio.buffers import MIB
from s3dlio.cancel import CancellationToken
from s3dlio.context import context_token, store_of
from s3dlio.crew import CREW, map_all
from s3dlio.errors import FormatError, S3dlioError
from s3dlio.formats.npz import Array, Npz, decode, load_npy
from s3dlio.formats.zipdir import Member
from s3dlio.perprocess import PerProcess
from s3dlio.remote import Kept, RemoteObject, errand
from s3dlio.spellings import also_spelt
from s3dlio.uri import parse_object

__all__ = ["RemoteNpz", "read_npy", "read_npz"]

#: Of an NPY object everything is wanted: up to this many bytes it costs one request and a copy of 0.1 ms.
_NPY_FIRST_BYTES = MIB
#: Arrays that :meth:`RemoteNpz.load` reads at once: many small ones, few large ones, whose parts are parallel.
_MOST_AT_ONCE = 16
_LEAST_AT_ONCE = 2
_AT_ONCE_BYTES = 256 * MIB
#: Neighbours smaller than this are read together and then copied: the copy costs less than a request.
_SHORT_BYTES = MIB
_MOST_TOGETHER_BYTES = 8 * MIB
#: Read ahead at most: at 20 ms and 1 GB/s three times what is under way.
_MOST_AHEAD_BYTES = 64 * MIB


class _Place(NamedTuple):
    """Where an array stands in the order of the names."""

    name: str
    member: Member
    cost: int

    @property
    def is_short(self) -> bool:
        """Whether it is worth being read with its neighbours."""
        return self.cost < _SHORT_BYTES


Arrays = dict[str, Array]
_Batch = list[_Place]


class RemoteNpz(Npz):
    """The arrays of an NPZ object, each read when it is asked for: a mapping from name to array.

    Names are those of ``numpy.load``: without ``.npy``, and with it they are understood as well. A member
    that is no NPY file is returned as ``bytes``, as there. Arrays are writable and in memory of their own,
    a new one each time; checksums are verified. The object must not change meanwhile: another version of
    it is an ``ObjectChangedError``.

    Whoever asks for one array after the other (``dict(arrays)``, ``for name in arrays``) gets those that
    follow read ahead: as many bytes as were read so far in this manner, at most 64 MiB.

    Thread-safe; works in forked children; holds no connection. It cannot be pickled: pass the URI, or
    ``dict(arrays)``.
    """

    def __init__(self, remote: RemoteObject) -> None:
        self._remote = remote
        with _concerning(remote, "read_npz"):
            self._begin(remote)
        self._order = [_Place(name, member, _cost(member)) for name, member in self._members.items()]
        self._numbers = {place.member.offset: number for number, place in enumerate(self._order)}
        self._ahead = PerProcess(partial(_Ahead, self._order, partial(_send, remote)))

    def __getitem__(self, name: str) -> Array:
        """Read one array.

        Raises:
            KeyError: There is none of that name; the message names the nearest one.
            NpzError: It is damaged, compressed in an unknown way, or holds Python objects.
            StoreError: It cannot be read.
        """
        with _concerning(self._remote, "read_npz"):
            member = self._find(name)
            found = self._ahead.get().take(self._numbers[member.offset])
            return decode(self._remote, member) if found is None else found

    def load(self) -> Arrays:
        """Read all arrays at once, several at a time.

        Returns:
            What ``dict(arrays)`` returns, in the same order.

        Raises:
            NpzError: One of them cannot be read; the rest is stopped. Also: StoreError.
        """
        batches = []
        number = 0
        while number < len(self._order):
            batches.append(_next_batch(self._order, number, _MOST_TOGETHER_BYTES))
            number += len(batches[-1])
        with _concerning(self._remote, "read_npz"):
            parts = map_all(partial(_read, self._remote), batches, self._width(), self._remote.token)
        return {name: array for part in parts for name, array in part.items()}

    def _width(self) -> int:
        largest = max((place.cost for place in self._order), default=1)
        return max(_LEAST_AT_ONCE, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // largest))


def _read(remote: RemoteObject, batch: _Batch, token: CancellationToken) -> Arrays:
    remote = remote.under(token)
    if len(batch) == 1:
        return {place.name: decode(remote, place.member) for place in batch}
    kept = Kept(remote, batch[0].member.offset, batch[-1].member.limit)
    return {place.name: decode(kept, place.member) for place in batch}


def _send(remote: RemoteObject, batch: _Batch) -> Future[Arrays]:
    def read() -> Arrays:
        token = CancellationToken(remote.token, CREW.get().token)
        try:
            return _read(remote, batch, token)
        finally:
            token.detach()

    return errand(read)


class _Ahead:
    """Notices that arrays are asked for one after the other, and has some of those that follow read.

    What is read ahead is handed out once: it is then the caller's own.

    Args:
        order: The arrays.
        send: Begins to read some of them.
    """

    def __init__(self, order: list[_Place], send: Callable[[_Batch], Future[Arrays]]) -> None:
        self._order = order
        self._send = send
        self._lock = threading.Lock()
        self._next = -1  # whose turn it would be
        self._run_bytes = 0  # read one after the other until now
        self._sent = 0  # places before this one have been sent for
        self._waiting: dict[int, Future[Arrays]] = {}
        self._waiting_bytes = 0

    def take(self, number: int) -> Array | None:
        """Return an array if it was read ahead, and see to those that follow."""
        with self._lock:
            future = self._note(number)
        if future is None:
            return None
        try:
            return future.result().pop(self._order[number].name, None)
        except S3dlioError:
            return None  # it will be read by itself: if the failure was its own it is raised then

    def _note(self, number: int) -> Future[Arrays] | None:
        cost = self._order[number].cost
        if number != self._next:
            self._waiting.clear()
            self._waiting_bytes = self._run_bytes = 0
            self._sent = number + 1
        goes_on = number == self._next
        self._next = number + 1
        self._run_bytes += cost
        future = self._waiting.pop(number, None)
        if future is not None:
            self._waiting_bytes -= cost
        if goes_on:
            self._see_to_more()
        return future

    def _see_to_more(self) -> None:
        budget = min(self._run_bytes, _MOST_AHEAD_BYTES)
        if self._waiting_bytes > budget // 2:
            return  # rather later, and then more together
        self._sent = max(self._sent, self._next)
        while self._sent < len(self._order):
            batch = _next_batch(self._order, self._sent, min(budget - self._waiting_bytes, _MOST_TOGETHER_BYTES))
            cost = sum(place.cost for place in batch)
            if self._waiting_bytes + cost > budget:
                return
            future = self._send(batch)
            self._waiting |= dict.fromkeys(range(self._sent, self._sent + len(batch)), future)
            self._waiting_bytes += cost
            self._sent += len(batch)


def _cost(member: Member) -> int:
    """Return the bytes that an array takes, on the way or in memory."""
    return max(member.size, member.limit - member.offset)


def _next_batch(order: list[_Place], first: int, most_bytes: int) -> _Batch:
    """Return what is worth one read, at least one array: what is large alone, small neighbours together."""
    stop = first + 1
    total = order[first].cost
    while stop < len(order) and _are_neighbours(order[stop - 1], order[stop]):
        total += order[stop].cost
        if total > most_bytes:
            break
        stop += 1
    return order[first:stop]


def _are_neighbours(before: _Place, place: _Place) -> bool:
    return before.is_short and place.is_short and place.member.offset == before.member.limit


@overload
def read_npz(uri: str) -> RemoteNpz: ...


@overload
def read_npz(uri: str, name: str) -> Array: ...


@also_spelt(array_name="name")
def read_npz(uri: str, name: str | None = None) -> RemoteNpz | Array:
    """Read an NPZ object: all its arrays as they are asked for, or one of them.

    A small object costs one request; of a large one its beginning and its directory are read first, then
    each array with one request (large ones in parallel ranges). Pickles are never read.

    Args:
        uri: The object.
        name: One array. Also: ``array_name``.

    Returns:
        A lazy mapping from name to array, whose ``load()`` reads all of them at once; or the array, writable
        and in memory of its own.

    Raises:
        NotFoundError: There is no such object.
        KeyError: It has no array ``name``.
        NpzError: It is not an NPZ file, or damaged.
        StoreError: It cannot be read.

    Example:
        >>> import io, numpy, s3dlio
        >>> file = io.BytesIO()
        >>> numpy.savez(file, x=numpy.arange(3))
        >>> s3dlio.put("memory://demo/a.npz", file.getvalue())
        >>> read_npz("memory://demo/a.npz", "x")
        array([0, 1, 2])
    """
    arrays = RemoteNpz(_open(uri, "read_npz"))
    return arrays if name is None else arrays[name]


def read_npy(uri: str) -> Array:
    """Read an NPY object.

    Args:
        uri: The object.

    Returns:
        Its array, writable and in memory of its own. What the header does not ask for is not read.

    Raises:
        NotFoundError: There is no such object.
        NpzError: It is not an NPY file, is cut short, or holds Python objects.
        StoreError: It cannot be read.
    """
    remote = _open(uri, "read_npy", _NPY_FIRST_BYTES)
    with _concerning(remote, "read_npy"):
        return load_npy(remote, name="the object")


def _open(uri: str, operation: str, first_bytes: int | None = None) -> RemoteObject:
    where = parse_object(uri, operation)
    # The context's token alone, and no other in its stead: what is read later may be read by another process.
    token = context_token.get()
    if first_bytes is None:
        return RemoteObject(store_of(where), where, token=token)
    return RemoteObject(store_of(where), where, token=token, first_bytes=first_bytes)


@contextlib.contextmanager
def _concerning(remote: RemoteObject, operation: str) -> Iterator[None]:
    """Say in errors of the format which object they concern."""
    try:
        yield
    except FormatError as error:
        error.concern(remote.uri, operation)
        raise
