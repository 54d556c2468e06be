"""The scorer's ruler: whose scores a page gets, and what its receipt says of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from feedcore.domain import ids
from feedcore.domain.entry import pack
from feedcore.domain.ranking import AFFINITY, SCORE_MIN, RankingParameters
from feedcore.domain.receipt import Receipt
from feedcore.domain.visibility import Verdict
from feedcore.errors import Overloaded, Unavailable
from feedcore.native import pack_ids
from feedcore.ports import Candidate, Scores, ViewerFilters
from feedcore.services.scoring import Scorer
from feedcore.services.viewer import Viewer

NOW_MS = 1_750_000_000_000
POSTS = [ids.make(NOW_MS - age * 60_000, 0, 0, 0) for age in range(4)]
ENTRIES = b"".join(pack(post, 10 + at, 1.0 + at / 10) for at, post in enumerate(POSTS))
VERDICTS = bytes([Verdict.KEEP, Verdict.MUTED, Verdict.KEEP, Verdict.KEEP])


class Engagement:
    """What a SignalStore knows."""

    def engagement(self, entries: bytes) -> bytes:
        return struct.pack(f"<{len(entries) // 20}f", *range(len(entries) // 20))


class Model:
    """A ranker that answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Sequence[float] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[list[Candidate]] = []

    async def scores(
        self, viewer_id: int, candidates: Sequence[Candidate], ranked_at_ms: int, arm: str
    ) -> Scores:
        assert (viewer_id, ranked_at_ms, arm) == (5, NOW_MS, "bold")
        self.asked.append(list(candidates))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Scores(list(answer), "a model")


def viewer() -> Viewer:
    filters = ViewerFilters(
        muted=b"",
        snoozed=b"",
        see_less=pack_ids([13]),
        hidden=b"",
        blocked=b"",
        affinity=AFFINITY.pack(12, 0.5),
    )
    return Viewer(5, b"", filters, 1, RankingParameters(), "bold")


async def scored(scorer: Scorer, receipt: Receipt) -> list[float]:
    packed = await scorer.scores(viewer(), ENTRIES, VERDICTS, NOW_MS, receipt)
    return list(struct.unpack("<4d", packed))


def own() -> list[float]:
    return list(struct.unpack("<4d", Scorer(Engagement()).own(viewer(), ENTRIES, VERDICTS, NOW_MS)))


async def test_without_a_ranker_there_is_the_formula_and_nothing_to_report() -> None:
    receipt = Receipt(NOW_MS)
    assert await scored(Scorer(Engagement()), receipt) == own()
    assert receipt.sources == []


async def test_candidates_are_what_passed_the_filters_and_scores_go_back_to_their_places() -> None:
    model, receipt = Model([0.5, 1e-320, 7.0], [1.0, 1.0, 1.0]), Receipt(NOW_MS)
    scorer = Scorer(Engagement(), model)
    assert await scored(scorer, receipt) == [0.5, 0.0, SCORE_MIN, 7.0]
    assert model.asked[0] == [
        Candidate(POSTS[0], 10, 0.0, 0.0, 1.0, False),
        Candidate(POSTS[2], 12, 2.0, 0.5, 1.2, False),
        Candidate(POSTS[3], 13, 3.0, 0.0, 1.3, True),
    ]
    await scored(scorer, receipt)
    assert [(source.name, source.ok, source.items) for source in receipt.sources] == [
        ("ranking", True, 6)
    ]
    assert not receipt.degraded


@pytest.mark.parametrize("error", [Unavailable("model: away"), Overloaded("model", "1 call")])
async def test_once_it_failed_the_page_is_ours(error: Exception) -> None:
    model, receipt = Model([1.0, 1.0, 1.0], error), Receipt(NOW_MS)
    scorer = Scorer(Engagement(), model)
    await scored(scorer, receipt)
    assert await scored(scorer, receipt) == await scored(scorer, receipt) == own()
    assert len(model.asked) == 2, "a page does not ask again"
    (source,) = receipt.sources
    assert not source.ok and source.items == 3 and receipt.degraded
    assert source.error == f"ranking fallback: {error}"


async def test_a_window_of_which_nothing_is_left_asks_nobody() -> None:
    model, receipt = Model(), Receipt(NOW_MS)
    muted = bytes([Verdict.MUTED]) * 4
    packed = await Scorer(Engagement(), model).scores(viewer(), ENTRIES, muted, NOW_MS, receipt)
    assert packed == bytes(32) and receipt.sources == []


def test_a_stale_answer_makes_a_degraded_page() -> None:
    receipt = Receipt(NOW_MS)
    receipt.report("graph", 3, stale_ms=5_000)
    assert receipt.degraded and not receipt.lacks("graph") and receipt.names("graph")
