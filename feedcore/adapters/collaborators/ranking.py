"""Ranker over feedcore.collaborators.v1.RankingService.

Scores that ranking could not live with (not finite, not above 0, too few) are a failure of who gave
them. Raises Unavailable or Overloaded when there are none: the engine's own take their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from feedcore.adapters.collaborators.service import Service
from feedcore.errors import BadAnswer
from feedcore.ports import Candidate, Scores
from feedcore_pb.collaborators.v1 import ranking_pb2 as pb

MODEL_CHARS_MAX = 64  # by the contract


class CollaboratorRanker:
    """See `ports.ranker.Ranker`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def scores(
        self,
        viewer_id: int,
        candidates: Sequence[Candidate],
        ranked_at_ms: int,
        experiment_arm: str,
    ) -> Scores:
        """One call."""

        def read(reply: pb.ScoreResponse) -> Scores:
            values = list(reply.scores)
            if len(values) != len(candidates):
                raise BadAnswer(
                    f"{self._service.name}: {len(values)} scores; one for each of"
                    f" {len(candidates)} candidates"
                )
            if not all(0.0 < value < math.inf for value in values):
                raise BadAnswer(f"{self._service.name}: a score that is not finite and above 0")
            return Scores(values, reply.model[:MODEL_CHARS_MAX])

        request = pb.ScoreRequest(
            viewer_id=viewer_id,
            candidates=[pb.Candidate(**one._asdict()) for one in candidates],
            ranked_at_ms=ranked_at_ms,
            experiment_arm=experiment_arm,
        )
        return await self._service.ask("Score", request, read)
