"""Ranker: scores from a model outside. Optional: without it the engine ranks by its own formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Candidate(NamedTuple):
    """One item that may come onto the page; it has passed all filters. Units as in
    `domain.ranking`: `engagement` is a logarithm, `affinity` 0 to 1, `quality` 1.0 neutral.
    """

    content_id: int
    author_id: int
    engagement: float
    affinity: float
    quality: float
    see_less: bool


class Scores(NamedTuple):
    """`values`: one a candidate, finite and above 0, higher is better. `model` names who scored."""

    values: list[float]
    model: str


class Ranker(Protocol):
    """Reads only; equal questions of one scroll should get equal answers."""

    async def scores(
        self,
        viewer_id: int,
        candidates: Sequence[Candidate],
        ranked_at_ms: int,
        experiment_arm: str,
    ) -> Scores:
        """The scores of at most WINDOW_ENTRIES candidates, newest first. Raises Unavailable or
        Overloaded.
        """
