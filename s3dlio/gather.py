"""Reading samples in groups: neighbours by one request, into memory of choice.

Floor 5. Knows where samples lie and what the fetcher does; must not know formats, orders or frameworks.

A *group* of samples is read as a whole. Those that lie close to each other in one object come with one
request; what the group yields are its samples in the order that was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

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
    """

    number: int
    uri: Uri
    start: int
    view: BytesView | S3dlioError

    def bytes(self) -> BytesView:
        """Return the bytes, or raise what came instead."""
        if isinstance(self.view, S3dlioError):
            raise self.view
        return self.view


class _Member(NamedTuple):
    """A sample's place in the bytes of a read; an end of -1 is the end of the bytes."""

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
        objects, starts, stops = index.locate(numbers)
        self._catalog = index.catalog
        self._numbers = numbers.tolist()
        self._objects = objects.tolist()
        self._spans = [Span(*span) for span in zip(starts.tolist(), stops.tolist(), strict=True)]
        self._uris = {number: index.catalog.uri(number) for number in dict.fromkeys(self._objects)}
        self._views: list[BytesView | S3dlioError | None] = [None] * len(numbers)
        self._members: list[list[_Member]] = []
        self._answers = 0
        self.reads: list[Read] = []
        self.memory: memoryview | None = None
        self.sizes = [span.length if span.stop >= 0 else -1 for span in self._spans]
        if allocate is not None:
            self._pack(allocate)
        elif index.records is None:
            self._take_whole()
        else:
            self._merge()

    # -- what to read -----------------------------------------------------------------------------

    def _take_whole(self) -> None:
        """Read each sample by itself: it is an object."""
        self.reads = [Read(self._uris[o], size=size) for o, size in zip(self._objects, self.sizes, strict=True)]
        self._members = [[_Member(position, 0, -1)] for position in range(len(self.reads))]

    def _merge(self) -> None:
        """Read those that are close together by one request."""
        of_object: dict[int, list[int]] = {}
        for position, number in enumerate(self._objects):
            of_object.setdefault(number, []).append(position)
        for number, positions in of_object.items():
            if self._spans[positions[0]].stop < 0:  # an object of unknown size that is a sample itself
                for position in positions:
                    self._add(Read(self._uris[number]), [_Member(position, 0, -1)])
                continue
            spans = [self._spans[position] for position in positions]
            for merged in coalesce(spans, max_gap=MAX_GAP_BYTES, max_length=MAX_MERGED_BYTES):
                span = merged.span
                wanted = [(positions[m], spans[m]) for m in merged.members]
                members = [_Member(p, it.start - span.start, it.stop - span.start) for p, it in wanted]
                self._add(self._read(number, span), members)

    def _pack(self, allocate: Allocate) -> None:
        """Read each into its place; those that follow each other here and in the object by one request."""
        if min(self.sizes, default=0) < 0:
            msg = "samples can be packed only if their sizes are known: make the dataset of a prefix, not of URIs"
            raise OptionError(msg)
        self.memory = memory = allocate(sum(self.sizes))
        at = position = 0
        while position < len(self.sizes):
            count = self._run_length(position)
            length = sum(self.sizes[position : position + count])
            target = memory[at : at + length]
            span = Span(self._spans[position].start, self._spans[position + count - 1].stop)
            members, begin = [], 0
            for offset in range(count):
                end = begin + self.sizes[position + offset]
                members.append(_Member(position + offset, begin, end))
                begin = end
            self._add(self._read(self._objects[position], span, target), members)
            at += length
            position += count

    def _read(self, number: int, span: Span, target: memoryview | None = None) -> Read:
        # What ends where the object ended is read to its end, so that it is found out if it has grown.
        stop = None if span.stop == self._catalog.sizes[number] else span.stop
        return Read(self._uris[number], span.start, stop, target, span.length)

    def _run_length(self, position: int) -> int:
        """Return how many samples from one on follow each other in one object."""
        count, objects, spans = 1, self._objects, self._spans
        while position + count < len(spans):
            here, before = position + count, position + count - 1
            joined = objects[here] == objects[before] and spans[here].start == spans[before].stop
            if not joined or spans[here].stop - spans[position].start > MAX_MERGED_BYTES:
                break
            count += 1
        return count

    def _add(self, read: Read, members: list[_Member]) -> None:
        self.reads.append(read)
        self._members.append(members)

    # -- what has come ----------------------------------------------------------------------------

    def put(self, view: BytesView | S3dlioError) -> bool:
        """Take the result of the next read; tell whether it was the last one."""
        members = self._members[self._answers]
        self._answers += 1
        reach = 0
        for position, begin, end in sorted(members, key=lambda member: member.begin):
            if isinstance(view, S3dlioError):
                self._views[position] = view
                continue
            part = view if end < 0 or (begin, end) == (0, len(view)) else part_of(view, begin, end)
            # A record that is wanted twice (padding repeats some) comes as a copy: each is somebody's own.
            self._views[position] = part if begin >= reach else BytesView.from_bytes(bytearray(part))
            reach = max(reach, end)
        return self._answers == len(self.reads)

    def samples(self) -> list[Sample]:
        """Return the samples, once all have come."""
        rows = zip(self._numbers, self._objects, self._spans, self._views, strict=True)
        return [Sample(number, self._uris[o], span.start, view) for number, o, span, view in rows]  # type: ignore[arg-type]


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
