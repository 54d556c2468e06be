"""Weights, shares of affinity, and trending's decay."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.domain import ids
from feedcore.domain.engagement import (
    LEAST_WEIGHT,
    WEIGHTS,
    engagement_of,
    pack_shares,
    strongest,
    weight_of,
    weight_of_counts,
)
from feedcore.domain.trending import (
    TRENDING_HALF_LIFE_MS,
    TRENDING_WINDOW_MS,
    heaviest,
    oldest_id,
    timeless_worth,
)
from feedcore.limits import AFFINITY_AUTHORS_MAX
from feedcore.ports import InteractionKind

NOW_MS = 1_780_000_000_000


def test_each_kind_has_a_weight() -> None:
    weights = {kind.name: WEIGHTS[kind - 1] for kind in InteractionKind}
    assert weights == {"LIKE": 1.0, "COMMENT": 2.0, "SHARE": 3.0, "CLICK": 0.1, "HIDE": 0.0}
    assert weight_of_counts([1, 10, 100, 1_000, 10_000]) == pytest.approx(421)


@given(st.floats(0, 1e9))
def test_engagement_and_weight_are_each_others_reverse(weight: float) -> None:
    assert weight_of(engagement_of(weight)) == pytest.approx(weight, rel=1e-9, abs=1e-9)
    assert engagement_of(-weight) == 0.0


@given(
    st.dictionaries(st.integers(1, 2**63 - 1), st.sampled_from([-1.0, 0.0, 1e-9, 0.1, 1.0, 2.0]))
)
def test_shares_are_of_what_weighs(weights: dict[int, float]) -> None:
    strong = strongest(weights)
    assert dict(strong) == {one: w for one, w in weights.items() if w > LEAST_WEIGHT}
    shares = list(struct.iter_unpack("<Qf", pack_shares(strong)))
    assert [author for author, _ in shares] == sorted(dict(strong))
    assert not shares or sum(share for _, share in shares) == pytest.approx(1.0, abs=1e-5)


def test_of_equals_the_smaller_ids_are_kept() -> None:
    weights = {author: 2.0 if author == 10_000 else 1.0 for author in range(10_000, 1, -1)}
    kept = [author for author, _ in strongest(weights)]
    assert kept == [*range(2, AFFINITY_AUTHORS_MAX + 1), 10_000]


@given(st.lists(st.tuples(st.integers(0, TRENDING_WINDOW_MS), st.integers(0, 50)), max_size=30))
def test_weight_halves_with_age(posts: list[tuple[int, int]]) -> None:
    weighed = [(ids.make(NOW_MS - age, 0, 1, n), w) for n, (age, w) in enumerate(posts)]
    left = {
        content_id: weight / 2 ** ((NOW_MS - ids.time_ms(content_id)) / TRENDING_HALF_LIFE_MS)
        for content_id, weight in weighed
        if weight
    }
    best = heaviest(weighed, NOW_MS, 10)
    assert best == sorted(left, key=lambda one: (left[one], one), reverse=True)[:10]


def test_the_window_and_what_orders_without_a_clock() -> None:
    assert ids.time_ms(oldest_id(NOW_MS)) == NOW_MS - TRENDING_WINDOW_MS
    old, new = ids.first_id_at(NOW_MS - TRENDING_HALF_LIFE_MS), ids.first_id_at(NOW_MS)
    # twice e^engagement makes up for one half-life
    apart = timeless_worth(old, 3.0 + math.log(2)) - timeless_worth(new, 3.0)
    assert apart == pytest.approx(0.0, abs=1e-6)
