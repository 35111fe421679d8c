"""Reading samples in groups: neighbours by one request, into memory of choice.

Floor 5. Knows where samples lie and what the fetcher does; must not know formats, orders or frameworks.

A *group* of samples is read as a whole. Those that lie close to each other in one object come with one
request; what the group yields are its samples in the order that was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from s3dlio.buffers import KIB, MIB, BytesView, part_of
from s3dlio.errors import OptionError, S3dlioError
from s3dlio.fetch import Fetcher, Read
from s3dlio.ranges import Span, coalesce
from s3dlio.samples import Ints, SampleIndex
from s3dlio.uri import Uri

#: Unwanted bytes between two records that still come with one request: less than a round trip costs
#: (20 ms at 100 MB/s are 2 MB), and no more than a record of usual size.
MAX_GAP_BYTES = 64 * KIB
#: Longest request that several records share.
MAX_MERGED_BYTES = 8 * MIB

#: Takes a number of bytes, returns as much writable memory.
Allocate = Callable[[int], memoryview]


class Sample(NamedTuple):
    """One sample as it came.

    Attributes:
        number: Which one.
        uri: The object that it lies in.
        start: Its first byte there.
        view: Its bytes, or the error that came instead.
        is_verified: The sums of its bytes have been looked at.
    """

    number: int
    uri: Uri
    start: int
    view: BytesView | S3dlioError
    is_verified: bool = False

    def bytes(self) -> BytesView:
        """Return the bytes, or raise what came instead."""
        if isinstance(self.view, S3dlioError):
            raise self.view
        return self.view


class _Member(NamedTuple):
    """A sample's place in the bytes of a read; an end of -1: it is all of them."""

    position: int
    begin: int
    end: int


class Group:
    """Samples that are read together.

    Args:
        index: All samples.
        numbers: Which ones (int64), in the order wanted; the same one may be wanted twice.
        allocate: Where to take memory in which all of them lie back to back, in this order; ``None``
            gives each request memory of its own.

    Attributes:
        reads: What is to be read; the results go to :meth:`put`, in this order.
        memory: All samples back to back, if ``allocate`` was given.
        sizes: Bytes of each sample, -1 where not known.

    Raises:
        OptionError: ``allocate`` is given and the size of a sample is not known.
    """

    def __init__(self, index: SampleIndex, numbers: Ints, allocate: Allocate | None = None) -> None:
        extents = index.locate(numbers)
        self._extents = extents
        self._catalog = index.catalog
        self._numbers = numbers.tolist()
        self._objects, self._starts, self._stops = (array.tolist() for array in extents)
        self._uris = {number: index.catalog.uri(number) for number in dict.fromkeys(self._objects)}
        self._views: list[BytesView | S3dlioError | None] = [None] * len(numbers)
        self._members: list[list[_Member]] = []
        self._answers = 0
        self.reads: list[Read] = []
        self.memory: memoryview | None = None
        lengths = extents.stops - extents.starts
        self.sizes: list[int] = np.where(extents.stops >= 0, lengths, -1).tolist()
        if allocate is not None:
            self._pack(allocate)
        elif index.records is None:
            self._take_whole()
        else:
            self._merge()

    # -- what to read -----------------------------------------------------------------------------

    def _take_whole(self) -> None:
        """Read each sample by itself: it is an object."""
        for position in range(len(self.sizes)):
            self._add_whole(position)

    def _merge(self) -> None:
        """Read those that are close together by one request."""
        objects, starts, stops = self._extents
        rising = np.lexsort((starts, objects))
        apart = np.diff(objects[rising]) != 0
        apart |= starts[rising][1:] - stops[rising][:-1] > MAX_GAP_BYTES
        positions = rising.tolist()
        for begin, end in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(positions)]):
            if end - begin == 1:
                self._add_single(positions[begin])
            elif end > begin:
                self._add_close(positions[begin:end])

    def _add_close(self, positions: list[int]) -> None:
        """Read samples of one object that lie close to each other."""
        number = self._objects[positions[0]]
        if self._stops[positions[0]] < 0:  # an object of unknown size that is a sample itself
            for position in positions:
                self._add_whole(position)
            return
        spans = [Span(self._starts[position], self._stops[position]) for position in positions]
        for span, members in coalesce(spans, max_gap=MAX_GAP_BYTES, max_length=MAX_MERGED_BYTES):
            wanted = [(positions[m], spans[m]) for m in members]
            within = [_Member(p, it.start - span.start, it.stop - span.start) for p, it in wanted]
            self._add(self._read(number, span.start, span.stop), within)

    def _pack(self, allocate: Allocate) -> None:
        """Read each into its place; those that follow each other here and in the object by one request."""
        if min(self.sizes, default=0) < 0:
            msg = "samples can be packed only if their sizes are known: make the dataset of a prefix, not of URIs"
            raise OptionError(msg)
        self.memory = memory = allocate(sum(self.sizes))
        at = position = 0
        while position < len(self.sizes):
            count = self._run_length(position)
            sizes = self.sizes[position : position + count]
            length = sum(sizes)
            target = memory[at : at + length]
            if count == 1:
                self._add_single(position, target)
            else:
                ends = list(accumulate(sizes))
                bounds = zip(range(position, position + count), [0, *ends], ends, strict=False)
                read = self._read(
                    self._objects[position], self._starts[position], self._stops[position + count - 1], target
                )
                self._add(read, [_Member(*bound) for bound in bounds])
            at += length
            position += count

    def _run_length(self, position: int) -> int:
        """Return how many samples from one on follow each other in one object."""
        objects, starts, stops = self._objects, self._starts, self._stops
        here = position + 1
        while here < len(starts) and objects[here] == objects[here - 1] and starts[here] == stops[here - 1]:
            if stops[here] - starts[position] > MAX_MERGED_BYTES:
                break
            here += 1
        return here - position

    def _add_whole(self, position: int) -> None:
        read = Read(self._uris[self._objects[position]], size=self.sizes[position])
        self._add(read, [_Member(position, 0, -1)])

    def _add_single(self, position: int, target: memoryview | None = None) -> None:
        if self._stops[position] < 0:
            self._add_whole(position)
            return
        read = self._read(self._objects[position], self._starts[position], self._stops[position], target)
        self._add(read, [_Member(position, 0, -1)])

    def _read(self, number: int, start: int, stop: int, target: memoryview | None = None) -> Read:
        # What ends where the object ended is read to its end, so that it is found out if it has grown.
        end = None if stop == self._catalog.sizes[number] else stop
        return Read(self._uris[number], start, end, target, stop - start)

    def _add(self, read: Read, members: list[_Member]) -> None:
        self.reads.append(read)
        self._members.append(members)

    # -- what has come ----------------------------------------------------------------------------

    def put(self, view: BytesView | S3dlioError) -> bool:
        """Take the result of the next read; tell whether it was the last one."""
        members = self._members[self._answers]
        self._answers += 1
        if len(members) == 1 and members[0].end < 0:
            self._views[members[0].position] = view
            return self._answers == len(self.reads)
        reach = 0
        for position, begin, end in sorted(members, key=lambda member: member.begin):
            if isinstance(view, S3dlioError):
                self._views[position] = view
                continue
            part = view if (begin, end) == (0, len(view)) else part_of(view, begin, end)
            # A record that is wanted twice (padding repeats some) comes as a copy: each is somebody's own.
            self._views[position] = part if begin >= reach else BytesView.from_bytes(bytearray(part))
            reach = max(reach, end)
        return self._answers == len(self.reads)

    def samples(self) -> list[Sample]:
        """Return the samples, once all have come."""
        rows = zip(self._numbers, self._objects, self._starts, self._views, strict=True)
        return [Sample(number, self._uris[o], start, view) for number, o, start, view in rows]  # type: ignore[arg-type]


class Handful(NamedTuple):
    """Samples of a batch that were not read as a group of their own: what a :class:`Group` tells, less memory.

    Attributes:
        taken: The samples.
    """

    taken: list[Sample]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each sample, -1 where not known."""
        return [-1 if isinstance(sample.view, S3dlioError) else len(sample.view) for sample in self.taken]

    @property
    def memory(self) -> None:
        """They lie in different places."""
        return

    def samples(self) -> list[Sample]:
        """Return the samples."""
        return self.taken


def stream_groups(
    fetcher: Fetcher, index: SampleIndex, groups: Iterable[Ints], budget_bytes: int, allocate: Allocate | None = None
) -> Iterator[Group]:
    """Read groups of samples ahead of the consumer, in order.

    Args:
        fetcher: Reads.
        index: All samples.
        groups: Numbers of samples, taken from one thread at a time as room comes free.
        budget_bytes: Bytes in flight or waiting, beside the group that is being put together.
        allocate: See :class:`Group`.
    """
    begun: deque[Group] = deque()

    def reads() -> Iterator[Read]:
        for numbers in groups:
            group = Group(index, numbers, allocate)
            begun.append(group)
            yield from group.reads

    for _read, view in fetcher.stream(reads(), budget_bytes=budget_bytes):
        if begun[0].put(view):
            yield begun.popleft()


def stream_objects(fetcher: Fetcher, index: SampleIndex, numbers: Iterable[int], budget_bytes: int) -> Iterator[Sample]:
    """Read samples that are objects ahead of the consumer, in order."""
    wanted: deque[int] = deque()

    def reads() -> Iterator[Read]:
        for number in numbers:
            wanted.append(number)
            yield index.catalog.read(number)

    for read, view in fetcher.stream(reads(), budget_bytes=budget_bytes):
        yield Sample(wanted.popleft(), read.uri, 0, view)
