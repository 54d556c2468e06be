"""Scrolling any feed to its end: nothing twice, nothing skipped, cursors that always fit.

While the scroll goes on, scores change, newer and older items arrive, items are deleted, and
filters come and go. What was there at the start and visible all along is on exactly one page.
"""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from feedcore import native
from feedcore.codecs.cursor import Cursor, decode_cursor, encode_cursor
from feedcore.domain import entry, ids
from feedcore.domain.ranking import DEFAULT, RankingParameters
from feedcore.limits import CURSOR_BYTES_MAX, SERVED_SET_MAX

KEY = b"secret"
OWNER = 4
NOW_MS = 1_750_000_000_000


class World:
    """A feed that changes between pages, and a client that scrolls it."""

    def __init__(self, draw: st.DrawFn, size: int, window: int, ids_pool: list[int]) -> None:
        self.draw = draw
        self.window = window
        # one seed a scroll, not a draw an item: 700 items would exhaust the engine's entropy
        self.random = draw(st.randoms(use_true_random=False))
        self.live = {i: self.random.randrange(1, 30) for i in ids_pool[:size]}
        self.spare = ids_pool[size:]
        self.muted: set[int] = set()
        self.steady = set(self.live)

    def change(self, low_water: int) -> None:
        """Deletes, adds and filters a few things, as a scroll meets them."""
        for content_id in self.random.sample(sorted(self.live), min(2, len(self.live))):
            if self.random.random() < 0.3:
                del self.live[content_id]
                self.steady.discard(content_id)
        if self.spare and self.random.random() < 0.5:
            self.live[self.spare.pop()] = self.random.randrange(1, 30)
        if self.random.random() < 0.4:
            author = self.random.randrange(1, 30)
            self.muted.symmetric_difference_update({author})
            if author in self.muted:
                self.steady -= {i for i, by in self.live.items() if by == author and i <= low_water}

    def page(
        self, cursor: Cursor, wanted: int, skewed: bool, params: RankingParameters
    ) -> tuple[list[int], Cursor, bool]:
        everything = native.sort_entries(b"".join(entry.pack(i, by) for i, by in self.live.items()))
        entries = native.merge_newest([everything], cursor.low_water, 0, self.window)
        verdicts = bytes(4 * (one.author_id in self.muted) for one in entry.unpack(entries))
        number = len(verdicts)
        # skewed: the oldest rank first, so that the low-water key moves as late as it can
        scores = [place + 1.0 if skewed else self.random.random() for place in range(number)]
        done = native.select(
            entries,
            verdicts,
            struct.pack(f"<{number}d", *scores),
            cursor.served,
            wanted,
            params,
            self.window,
        )
        assert done.scores == sorted(done.scores, reverse=True)
        assert len(done.chosen) == len(set(done.chosen)) <= wanted
        assert done.low_water <= cursor.low_water
        in_window = entry.content_ids(entries)
        moved = Cursor(OWNER, cursor.head, done.low_water, NOW_MS, 1, 1, NOW_MS, done.served)
        return [in_window[place] for place in done.chosen], moved, done.end


@st.composite
def scrolls(draw: st.DrawFn) -> tuple[World, int, bool, RankingParameters]:
    window = draw(st.sampled_from([3, 20, 250, 500]))
    size = draw(st.integers(0, 40) | st.integers(200, 700))
    random = draw(st.randoms(use_true_random=False))
    width = draw(st.sampled_from([12, 52, 63]))
    pool = random.sample(range(1, 1 << width), size + 10)
    wanted = draw(st.integers(1, 5) | st.sampled_from([20, 100]))
    params = draw(st.sampled_from([DEFAULT, RankingParameters(diversity_decay=1.0)]))
    return World(draw, size, max(window, wanted), pool), wanted, draw(st.booleans()), params


def scroll(world: World, wanted: int, skewed: bool, params: RankingParameters) -> list[int]:
    """All ids served, in order, through an encoded cursor for each page."""
    seen: list[int] = []
    pages_max = 2 * len(world.live) + len(world.spare) + 10
    cursor = Cursor(OWNER, ids.ID_MAX, ids.ID_MAX, NOW_MS, 1, 1, NOW_MS)
    for _ in range(pages_max):
        chosen, cursor, end = world.page(cursor, wanted, skewed, params)
        seen += chosen
        if end:
            return seen
        assert len(native.unpack_ids(cursor.served)) <= SERVED_SET_MAX
        text = encode_cursor(cursor, KEY)
        assert len(text) <= CURSOR_BYTES_MAX
        cursor = decode_cursor(text, KEY, OWNER, NOW_MS)
        world.change(cursor.low_water)
    raise AssertionError(f"no end after {pages_max} pages")


@settings(max_examples=120)
@given(scrolls())
def test_nothing_twice_nothing_skipped(case: tuple[World, int, bool, RankingParameters]) -> None:
    world = case[0]
    seen = scroll(*case)
    assert len(seen) == len(set(seen)), "an item was served twice"
    assert world.steady <= set(seen), "an item that was there all along was skipped"


def test_a_served_set_at_its_bound_still_ends() -> None:
    """The newest item ranks last of 600 on every page: the case that fills the served set."""
    random = st.randoms(use_true_random=False)

    @settings(max_examples=3)
    @given(st.data(), random)
    def run(data: st.DataObject, _random: object) -> None:
        world = World(data.draw, 600, 500, list(range(1 << 40, (1 << 40) + 600)))
        world.change = lambda low_water: None  # type: ignore[method-assign]
        seen = scroll(world, 20, True, DEFAULT)
        assert sorted(seen) == sorted(world.live)

    run()
