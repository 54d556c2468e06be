"""Which posts are trending: those with most weight left, then the newest of the window."""

from __future__ import annotations

from feedcore.domain import ids
from feedcore.domain.trending import TRENDING_WINDOW_MS, filled_up, heaviest, oldest_id
from feedcore.limits import HOUR_MS, TRENDING_ENTRIES

NOW_MS = 1_750_000_000_000


def made(age_ms: int, seq: int = 0) -> int:
    return ids.make(NOW_MS - age_ms, 0, 0, seq)


def test_weight_halves_every_half_day() -> None:
    old, new, nothing = made(24 * HOUR_MS), made(0), made(0, 1)
    assert heaviest([(old, 5.0), (new, 1.0), (nothing, 0.0)], NOW_MS, 9) == [old, new]
    assert heaviest([(old, 3.0), (new, 1.0)], NOW_MS, 1) == [new]


def test_the_newest_of_the_window_fill_up() -> None:
    chosen = [made(40 * HOUR_MS), made(HOUR_MS)]
    edge, older = made(TRENDING_WINDOW_MS), made(TRENDING_WINDOW_MS + 1)
    newest = [made(0), chosen[1], edge, older]
    assert filled_up(chosen, newest, NOW_MS) == [*chosen, newest[0], edge]
    assert edge >= oldest_id(NOW_MS) > older


def test_never_more_than_there_are_places() -> None:
    newest = [made(0, seq) for seq in range(TRENDING_ENTRIES + 5)]
    found = filled_up([made(HOUR_MS)], newest, NOW_MS)
    assert found == [made(HOUR_MS), *newest[: TRENDING_ENTRIES - 1]]
