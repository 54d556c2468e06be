"""Contract of ports.Ranker: one usable score a candidate, and an error that says so where there are
none.
"""

from __future__ import annotations

import math
from typing import Protocol

import pytest

from feedcore.domain import ids
from feedcore.errors import Overloaded, Unavailable
from feedcore.limits import WINDOW_ENTRIES
from feedcore.ports import Candidate, Ranker

RANKED_AT_MS = 1_750_000_000_000


class RankerEngine(Protocol):
    """A ranker under test."""

    @property
    def ranker(self) -> Ranker: ...

    async def go_away(self) -> None:
        """From now on who scores does not answer."""


def candidates(count: int, **same: float) -> list[Candidate]:
    """Newest first, each of another author."""
    base = Candidate(0, 0, 1.0, 0.5, 1.0, False)._replace(**same)  # type: ignore[arg-type]
    return [
        base._replace(content_id=ids.make(RANKED_AT_MS - 1_000 * at, 0, 0, 1), author_id=at + 1)
        for at in range(count)
    ]


class RankerContract:
    """Scores that pages can be ordered by."""

    @pytest.mark.parametrize("count", [1, 2, WINDOW_ENTRIES])
    async def test_one_usable_score_a_candidate(self, ranking: RankerEngine, count: int) -> None:
        found = await ranking.ranker.scores(7, candidates(count), RANKED_AT_MS, "")
        assert len(found.values) == count
        assert all(0.0 < value < math.inf for value in found.values)
        assert found.model

    async def test_equal_questions_have_equal_answers(self, ranking: RankerEngine) -> None:
        asked = candidates(20)
        one = await ranking.ranker.scores(7, asked, RANKED_AT_MS, "trial/arm")
        assert await ranking.ranker.scores(7, asked, RANKED_AT_MS, "trial/arm") == one

    async def test_scores_are_in_the_order_of_the_candidates(self, ranking: RankerEngine) -> None:
        asked = candidates(3)
        asked[1] = asked[1]._replace(quality=2.0)
        asked[2] = asked[2]._replace(quality=0.1)
        values = (await ranking.ranker.scores(7, asked, RANKED_AT_MS, "")).values
        assert values[1] > values[0] > values[2]

    async def test_what_a_user_wants_less_of_scores_lower(self, ranking: RankerEngine) -> None:
        (wanted,) = candidates(1)
        less = wanted._replace(see_less=True)
        scores = [
            (await ranking.ranker.scores(7, [one], RANKED_AT_MS, "")).values[0]
            for one in (wanted, less)
        ]
        assert scores[1] < scores[0]

    async def test_no_answer_is_an_error_that_the_page_survives(
        self, ranking: RankerEngine
    ) -> None:
        await ranking.go_away()
        with pytest.raises((Unavailable, Overloaded)):
            await ranking.ranker.scores(7, candidates(1), RANKED_AT_MS, "")
