"""Merging: bounds, duplicates, precedence, against a model of sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.domain import entry

IDS = st.integers(0, 50)


def source(content_ids: set[int], author: int) -> bytes:
    return b"".join(entry.pack(i, author) for i in sorted(content_ids, reverse=True))


@given(st.lists(st.sets(IDS), max_size=6), IDS, IDS, st.integers(0, 60))
def test_merge_is_the_newest_of_the_union(
    sets: list[set[int]], upper: int, lower: int, limit: int
) -> None:
    sources = [source(ids, number) for number, ids in enumerate(sets)]
    merged = entry.unpack(native.merge_newest(sources, upper, lower, limit))
    expected = sorted({i for s in sets for i in s if lower <= i <= upper}, reverse=True)[:limit]
    assert [one.content_id for one in merged] == expected
    for one in merged:
        assert one.author_id == next(n for n, ids in enumerate(sets) if one.content_id in ids)


def test_nothing_in_nothing_out() -> None:
    assert native.merge_newest([], 9, 0, 5) == b""
    assert native.merge_newest([b"", b""], 9, 0, 5) == b""
    assert native.merge_newest([source({1}, 1)], -1, 0, 5) == b""
    assert native.sort_entries(b"") == b""


def test_the_largest_id_is_found() -> None:
    top = 2**63 - 1
    assert native.merge_newest([source({top, 0}, 1)], top, top, 5) == entry.pack(top, 1)
    assert native.merge_newest([source({top, 0}, 1)], 0, 0, 5) == entry.pack(0, 1)


def test_broken_entries_are_refused() -> None:
    for act in (lambda b: native.merge_newest([b], 9, 0, 5), native.sort_entries):
        with pytest.raises(ValueError, match="21 bytes"):
            act(bytes(21))


@given(st.lists(st.tuples(IDS, IDS), max_size=60))
def test_sorting_keeps_the_first_of_each_id(pairs: list[tuple[int, int]]) -> None:
    first: dict[int, int] = {}
    for content_id, author in pairs:
        first.setdefault(content_id, author)
    done = entry.unpack(native.sort_entries(b"".join(entry.pack(*pair) for pair in pairs)))
    assert [(e.content_id, e.author_id) for e in done] == sorted(first.items(), reverse=True)


def test_sorting_many() -> None:
    pairs = [(i * 7_919 % 5_003, 1) for i in range(6_000)]
    done = entry.content_ids(native.sort_entries(b"".join(entry.pack(*pair) for pair in pairs)))
    assert done == sorted({i for i, _ in pairs}, reverse=True)
