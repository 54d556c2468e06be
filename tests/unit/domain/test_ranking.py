"""Scores: each term, its bounds, and parameters that are refused."""

from __future__ import annotations

import math
import struct

import pytest

from feedcore import native
from feedcore.domain import entry, ids, ranking
from feedcore.domain.ranking import DEFAULT, RankingParameters
from feedcore.errors import InvalidField
from feedcore.limits import HOUR_MS

NOW_MS = ids.EPOCH_MS + 1_000 * HOUR_MS
AUTHOR = 5


def item(age_hours: float = 0.0, quality: float = 1.0) -> bytes:
    return entry.pack(ids.first_id_at(NOW_MS - round(age_hours * HOUR_MS)), AUTHOR, quality)


def score(
    packed: bytes,
    engagement: float = 0.0,
    affinity: bytes = b"",
    see_less: bytes = b"",
    params: RankingParameters = DEFAULT,
    now_ms: int = NOW_MS,
) -> float:
    rates = struct.pack("<f", engagement)
    raw = native.score(packed, b"\0", rates, affinity, see_less, params, now_ms)
    return struct.unpack("<d", raw)[0]


def test_a_new_plain_item_scores_one() -> None:
    assert score(item()) == 1.0


def test_half_life() -> None:
    assert score(item(12.0)) == pytest.approx(0.5)
    assert score(item(24.0)) == pytest.approx(0.25)
    assert score(item(1.0), params=RankingParameters(half_life_hours=0.5)) == pytest.approx(0.25)


def test_an_item_from_ahead_of_the_clock_is_new() -> None:
    assert score(item(), now_ms=NOW_MS - 5_000) == 1.0


def test_quality() -> None:
    assert score(item(quality=0.25)) == 0.25
    assert score(item(quality=0.25), params=RankingParameters(quality_weight=2.0)) == 0.0625
    assert score(item(quality=0.25), params=RankingParameters(quality_weight=0.0)) == 1.0


def test_engagement_is_linear_in_the_log_and_bounded() -> None:
    assert score(item(), 4.0) == 2.0
    assert score(item(), math.inf) == 1.0 + 0.25 * ranking.ENGAGEMENT_MAX
    assert score(item(), math.nan) == score(item(), -3.0) == 1.0


def test_affinity() -> None:
    others = [(1, 0.9), (AUTHOR, 0.5), (9, 0.1)]
    packed = b"".join(ranking.AFFINITY.pack(*pair) for pair in others)
    assert score(item(), affinity=packed) == 1.5
    assert score(item(), affinity=ranking.AFFINITY.pack(AUTHOR, 7.0)) == 2.0
    assert score(item(), affinity=ranking.AFFINITY.pack(4, 1.0)) == 1.0
    assert ranking.affinity_of(packed, AUTHOR) == 0.5
    assert ranking.affinity_of(packed, 2) == 0.0


def test_see_less() -> None:
    assert score(item(), see_less=native.pack_ids([AUTHOR])) == 0.2
    assert score(item(), see_less=native.pack_ids([AUTHOR + 1])) == 1.0


def test_kept_items_score_above_zero_and_others_zero() -> None:
    assert score(item(900.0), params=RankingParameters(half_life_hours=0.1)) == ranking.SCORE_MIN
    raw = native.score(item(), b"\3", bytes(4), b"", b"", DEFAULT, NOW_MS)
    assert struct.unpack("<d", raw) == (0.0,)


def test_explained_terms_multiply_to_the_score() -> None:
    packed = item(7.5, 0.8)
    affinity = ranking.AFFINITY.pack(AUTHOR, 0.25)
    rate = struct.unpack("<f", struct.pack("<f", 1.7))[0]
    terms = ranking.explain_terms(entry.unpack(packed)[0], rate, 0.25, True, DEFAULT, NOW_MS)
    assert terms.score == score(packed, rate, affinity, native.pack_ids([AUTHOR]))
    assert terms.quality == 0.8 and terms.see_less == 0.2


def test_lengths_that_do_not_fit_are_refused() -> None:
    for verdicts, rates, affinity in (
        (b"", bytes(4), b""),
        (b"\0", b"", b""),
        (b"\0", bytes(4), b"x"),
    ):
        with pytest.raises(ValueError):
            native.score(item(), verdicts, rates, affinity, b"", DEFAULT, NOW_MS)


@pytest.mark.parametrize("name", list(ranking.BOUNDS))
def test_parameters_out_of_bounds(name: str) -> None:
    low, high = ranking.BOUNDS[name]
    for value in (math.nan, math.inf, -math.inf, low - 0.001, high + 0.001, "1", None, True):
        with pytest.raises(InvalidField) as caught:
            RankingParameters(**{name: value}).validate("config.parameters")
        assert caught.value.field == f"config.parameters.{name}"
        assert f"{high:g}" in caught.value.bound
    for value in (low, high):
        RankingParameters(**{name: value}).validate()


def test_documents() -> None:
    params = RankingParameters(half_life_hours=3.0, diversity_floor=0.5)
    assert RankingParameters.from_document(params.to_document()) == params
    assert RankingParameters.from_document({}) == DEFAULT
    with pytest.raises(InvalidField, match="unknown"):
        RankingParameters.from_document({"half_life": 1.0})
