"""Room card: arithmetic on ranges, held against brute force over single bytes.

Knows `s3dlio.ranges` alone.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio import RangeError
from s3dlio.ranges import Merged, Span, clamp, coalesce, from_offset_length, split

_SMALL = st.integers(0, 40)
_SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 6)).map(lambda pair: Span(pair[0], pair[0] + pair[1])), max_size=8
)


@given(_SMALL, st.none() | _SMALL)
def test_offset_and_length_say_what_a_slice_says(offset: int, length: int | None) -> None:
    start, stop = from_offset_length(offset, length)
    data = bytes(range(40))
    assert data[start:stop] == (data[offset:] if length is None else data[offset:][:length])


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (-1, 5), (0, -1), (-2, -2)])
def test_negative_numbers_are_refused_by_name(offset: int, length: int | None) -> None:
    with pytest.raises(RangeError, match=f"offset={offset}, length={length}"):
        from_offset_length(offset, length)


@given(_SMALL, st.none() | _SMALL, _SMALL)
def test_clamping_keeps_the_bytes_that_exist(start: int, stop: int | None, size: int) -> None:
    if start > size:
        with pytest.raises(RangeError, match=rf"offset {start} .* \({size} bytes\)"):
            clamp(start, stop, size)
        return
    span = clamp(start, stop, size)
    wanted = range(start, size if stop is None else stop)
    assert list(range(*span)) == [position for position in wanted if position < size]
    assert span.length == len(range(*span))
    assert 0 <= span.start <= span.stop <= size


@given(_SMALL, _SMALL, st.integers(1, 9))
def test_splitting_loses_and_repeats_nothing(start: int, stop: int, chunk: int) -> None:
    pieces = list(split(start, stop, chunk))
    assert [position for piece in pieces for position in range(*piece)] == list(range(start, stop))
    assert all(piece.length == chunk for piece in pieces[:-1])
    assert all(0 < piece.length <= chunk for piece in pieces)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    with pytest.raises(RangeError, match="at least 1 byte"):
        list(split(0, 10, chunk))


@given(_SPANS, st.integers(0, 6), st.integers(1, 12))
def test_merged_ranges_serve_every_wanted_one_exactly_once(spans: list[Span], gap: int, most: int) -> None:
    merged = coalesce(spans, max_gap=gap, max_length=most)
    assert sorted(member for one in merged for member in one.members) == list(range(len(spans)))
    for span, members in merged:
        wanted = [spans[member] for member in members]
        assert all(span.start <= one.start and one.stop <= span.stop for one in wanted)
        assert span == (min(one.start for one in wanted), max(one.stop for one in wanted))
        assert span.length <= max(most, *(one.length for one in wanted))
        assert _longest_gap(span, wanted) <= gap


@given(_SPANS, st.integers(0, 6))
def test_ranges_that_lie_close_enough_are_merged(spans: list[Span], gap: int) -> None:
    merged = coalesce(spans, max_gap=gap, max_length=10_000)
    assert [one.span.start for one in merged] == sorted(one.span.start for one in merged)
    for before, behind in itertools.pairwise(merged):
        assert behind.span.start - before.span.stop > gap


def test_merging_keeps_the_order_of_the_input_in_the_members() -> None:
    spans = [Span(20, 30), Span(0, 5), Span(6, 10), Span(0, 5)]
    assert coalesce(spans, max_gap=1, max_length=100) == [
        Merged(Span(0, 10), (1, 3, 2)),
        Merged(Span(20, 30), (0,)),
    ]
    assert coalesce([], max_gap=1, max_length=1) == []


@pytest.mark.parametrize(("most", "pieces"), [(10, 1), (9, 2)])
def test_a_merged_range_grows_to_the_limit_and_no_further(most: int, pieces: int) -> None:
    assert len(coalesce([Span(0, 5), Span(5, 10)], max_gap=0, max_length=most)) == pieces


def test_a_range_inside_one_that_is_too_long_anyway_is_read_with_it() -> None:
    assert coalesce([Span(0, 20), Span(5, 6)], max_gap=0, max_length=10) == [Merged(Span(0, 20), (0, 1))]


def _longest_gap(span: Span, wanted: list[Span]) -> int:
    """Returns the longest run of bytes of the span that nobody wants; an empty range ends a run, too."""
    covered = {position for one in wanted for position in range(*one)}
    begun = {one.start for one in wanted}
    longest = run = 0
    for position in range(*span):
        run = 0 if position in covered else 1 if position in begun else run + 1
        longest = max(longest, run)
    return longest
