"""Trending: the posts with most engagement lately.

A post counts for TRENDING_WINDOW_MS; its weight halves every TRENDING_HALF_LIFE_MS. Where fewer
than TRENDING_ENTRIES have any, the newest public posts of the same window fill up. Not for finding
candidates: that is the stores'.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from feedcore.domain import ids
from feedcore.limits import HOUR_MS, TRENDING_ENTRIES

TRENDING_WINDOW_MS = 48 * HOUR_MS  # older posts are not "lately"
TRENDING_HALF_LIFE_MS = 12 * HOUR_MS  # the ranking's default
TRENDING_CANDIDATES = 5_000  # heaviest posts that are looked at; ten for each place


def oldest_id(now_ms: int) -> int:
    """Posts from this id on are candidates."""
    return ids.first_id_at(now_ms - TRENDING_WINDOW_MS)


def heaviest(weighed: Iterable[tuple[int, float]], now_ms: int, count: int) -> list[int]:
    """Of (content id, weight): the ids with most weight left, heaviest first."""
    left = (
        (
            weight * 2.0 ** (-max(now_ms - ids.time_ms(content_id), 0) / TRENDING_HALF_LIFE_MS),
            content_id,
        )
        for content_id, weight in weighed
        if weight > 0.0
    )
    return [content_id for _, content_id in heapq.nlargest(count, left)]


def filled_up(chosen: Sequence[int], newest: Iterable[int], now_ms: int) -> list[int]:
    """TRENDING_ENTRIES of these ids: `chosen`, then the newest public posts, but for older ones."""
    oldest = oldest_id(now_ms)
    lately = (content_id for content_id in newest if content_id >= oldest)
    return list(dict.fromkeys([*chosen, *lately]))[:TRENDING_ENTRIES]


def timeless_worth(content_id: int, engagement: float) -> float:
    """Orders as `heaviest` does at any one time, nearly: log2 of what is left, but for a constant;
    `engagement` is ln(1 + weight).
    """
    return engagement * math.log2(math.e) + ids.time_ms(content_id) / TRENDING_HALF_LIFE_MS
