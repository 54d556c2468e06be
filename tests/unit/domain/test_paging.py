"""Choosing a page: diversity, ties, the low-water key, the bound of the served set."""

from __future__ import annotations

import struct

import pytest

from feedcore import native
from feedcore.domain import entry
from feedcore.domain.ranking import RankingParameters
from feedcore.limits import SERVED_SET_MAX
from feedcore.native import Selection

PARAMS = RankingParameters(diversity_decay=0.5, diversity_floor=0.2)


def select(
    items: list[tuple[int, int, float]],
    page_size: int,
    served: tuple[int, ...] = (),
    verdicts: bytes = b"",
    window_limit: int = 500,
) -> Selection:
    """`items`: (content id, author, score), newest first."""
    entries = b"".join(entry.pack(content_id, author) for content_id, author, _ in items)
    scores = struct.pack(f"<{len(items)}d", *(score for *_, score in items))
    return native.select(
        entries,
        verdicts or bytes(len(items)),
        scores,
        native.pack_ids(served),
        page_size,
        PARAMS,
        window_limit,
    )


def test_best_first_ties_to_the_newer() -> None:
    done = select([(9, 1, 1.0), (8, 2, 3.0), (7, 3, 1.0), (6, 4, 2.0)], 3)
    assert done.chosen == [1, 3, 0]
    assert done.scores == [3.0, 2.0, 1.0]
    assert (done.low_water, done.end) == (7, False)
    assert native.unpack_ids(done.served) == [6]


def test_items_of_one_author_decay_to_the_floor() -> None:
    items = [(20 - i, 1, 1.0) for i in range(5)] + [(10, 2, 0.3)]
    done = select(items, 6)
    assert done.chosen == [0, 1, 5, 2, 3, 4]
    assert done.scores == [1.0, 0.5, 0.3, 0.25, 0.2, 0.2]


def test_filtered_items_do_not_hold_the_low_water_key_up() -> None:
    items = [(9, 1, 1.0), (8, 1, 1.0), (7, 1, 1.0)]
    done = select(items, 1, verdicts=bytes([3, 0, 0]))
    assert (done.chosen, done.low_water, done.served) == ([1], 7, b"")
    done = select(items, 1, verdicts=bytes([3, 4, 5]))
    assert (done.chosen, done.low_water, done.end) == ([], 6, True)


def test_served_items_are_not_candidates() -> None:
    done = select([(9, 1, 5.0), (8, 2, 1.0), (7, 3, 2.0)], 1, served=(7,))
    assert (done.chosen, done.low_water, done.end) == ([0], 8, False)
    assert native.unpack_ids(done.served) == [7]
    done = select([(8, 2, 1.0), (7, 3, 2.0)], 1, served=(7,))
    assert (done.chosen, done.low_water, done.served, done.end) == ([0], 6, b"", True)


def test_a_full_window_that_is_used_up_is_not_the_end() -> None:
    done = select([(9, 1, 1.0), (8, 1, 1.0)], 5, window_limit=2)
    assert (done.chosen, done.low_water, done.end) == ([0, 1], 7, False)


def test_an_empty_window_is_the_end() -> None:
    assert select([], 5) == Selection([], [], 0, b"", True)
    assert select([(0, 1, 1.0)], 5).low_water == 0


def test_a_served_set_that_would_overflow_forces_the_newest() -> None:
    count = SERVED_SET_MAX + 20
    items = [(1_000 - i, i, float(i)) for i in range(count)]
    served = tuple(items[i][0] for i in range(10, 10 + SERVED_SET_MAX - 3))
    done = select(items, 8, served=served)
    assert {0, 1, 2, 3, 4} <= set(done.chosen), "8 items, room for 3: 5 are forced"
    assert done.chosen == sorted(done.chosen, reverse=True), "yet in order of score"
    assert done.low_water == items[5][0]
    assert len(native.unpack_ids(done.served)) == SERVED_SET_MAX


def test_scores_that_are_no_numbers_rank_last() -> None:
    nan = float("nan")
    done = select([(9, 1, nan), (8, 2, 1.0), (7, 3, -1.0)], 3)
    assert (done.chosen, done.scores) == ([1, 0, 2], [1.0, 0.0, 0.0])


def test_lengths_that_do_not_fit_are_refused() -> None:
    one = entry.pack(1, 1)
    for entries, verdicts, scores in ((one, b"", bytes(8)), (one, b"\0", b""), (b"1", b"", b"")):
        with pytest.raises(ValueError):
            native.select(entries, verdicts, scores, b"", 1, PARAMS, 500)
