"""feedcore.collaborators.v1.RankingService, as the engine's own formula answers it.

With the candidates that the engine would rank itself, the scores are those of the engine: what the
contract carries (engagement and affinity as 32-bit floats) is what the engine ranks by.
"""

from __future__ import annotations

import math
import struct

from feedcore import native
from feedcore.domain.entry import QUALITY_SCALE, QUALITY_STORED_MAX, pack
from feedcore.domain.ranking import AFFINITY
from feedcore.domain.visibility import Verdict
from feedcore.errors import InvalidField
from feedcore.limits import WINDOW_ENTRIES
from feedcore.services.admission import check_id
from feedcore.services.viewer import Viewers
from feedcore_pb.collaborators.v1 import ranking_pb2 as pb
from feedcore_server.context import CallContext
from feedcore_server.registry import Handlers

_QUALITY_MAX = QUALITY_STORED_MAX / QUALITY_SCALE


class RankingHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["RankingService"]

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers

    async def score(self, request: pb.ScoreRequest, call: CallContext) -> pb.ScoreResponse:
        """One score a candidate, by the configuration in force for the viewer."""
        call.user_id = check_id("viewer_id", request.viewer_id)
        candidates = request.candidates
        call.note(items=len(candidates))
        if not 1 <= len(candidates) <= WINDOW_ENTRIES:
            raise InvalidField(
                "candidates", f"{len(candidates)} candidates", f"must be 1 to {WINDOW_ENTRIES}"
            )
        for candidate in candidates:
            _check(candidate)
        config = self._viewers.ranking()
        parameters, _ = config.choose(request.viewer_id)
        affinities = {one.author_id: one.affinity for one in candidates if one.affinity > 0}
        scores = native.score(
            b"".join(pack(one.content_id, one.author_id, one.quality) for one in candidates),
            bytes([Verdict.KEEP]) * len(candidates),
            struct.pack(f"<{len(candidates)}f", *(one.engagement for one in candidates)),
            b"".join(AFFINITY.pack(*pair) for pair in sorted(affinities.items())),
            native.pack_ids(sorted({one.author_id for one in candidates if one.see_less})),
            parameters,
            request.ranked_at_ms,
        )
        return pb.ScoreResponse(
            scores=struct.unpack(f"<{len(candidates)}d", scores),
            model=f"feedcore/{config.version}",
        )


def _check(candidate: pb.Candidate) -> None:
    check_id("candidates.content_id", candidate.content_id)
    check_id("candidates.author_id", candidate.author_id)
    for name, value, most in (
        ("engagement", candidate.engagement, math.inf),
        ("affinity", candidate.affinity, 1.0),
        ("quality", candidate.quality, _QUALITY_MAX + 0.001),  # as a 32-bit float
    ):
        if not 0.0 <= value <= most or math.isinf(value):
            raise InvalidField(f"candidates.{name}", f"{value:g}", "see ranking.proto")
