"""The scores of step 3: an external ranker's where there is one and it answers, else our own.

Invariants: one score an entry, above zero and finite for entries with verdict KEEP, else 0.0;
once the ranker has failed for a page, the rest of that page is ranked by our own formula without
asking again, and the receipt says so. Our own formula needs no call that could fail.
"""

from __future__ import annotations

import struct

from feedcore import native
from feedcore.domain.entry import QUALITY_SCALE, rows
from feedcore.domain.ranking import AFFINITY, SCORE_MIN
from feedcore.domain.receipt import Receipt
from feedcore.domain.visibility import Verdict
from feedcore.errors import Overloaded, Unavailable
from feedcore.ports import Candidate, Ranker, SignalStore
from feedcore.services.viewer import Viewer

RANKING = "ranking"  # the source's name in receipts


class Scorer:
    """One a worker."""

    def __init__(self, signals: SignalStore, ranker: Ranker | None = None) -> None:
        self._signals = signals
        self._ranker = ranker

    def own(self, viewer: Viewer, entries: bytes, verdicts: bytes, ranked_at_ms: int) -> bytes:
        """By our formula; see `domain.ranking.score`."""
        return native.score(
            entries,
            verdicts,
            self._signals.engagement(entries),
            viewer.filters.affinity,
            viewer.filters.see_less,
            viewer.parameters,
            ranked_at_ms,
        )

    async def scores(
        self, viewer: Viewer, entries: bytes, verdicts: bytes, ranked_at_ms: int, receipt: Receipt
    ) -> bytes:
        """In the form of `own`."""
        kept = Verdict.KEEP in verdicts
        if self._ranker is None or not kept or receipt.lacks(RANKING):
            return self.own(viewer, entries, verdicts, ranked_at_ms)
        candidates = self._candidates(viewer, entries, verdicts)
        try:
            found = await self._ranker.scores(
                viewer.user_id, candidates, ranked_at_ms, viewer.experiment_arm
            )
        except (Unavailable, Overloaded) as error:
            receipt.report(RANKING, 0, f"ranking fallback: {error}")
            return self.own(viewer, entries, verdicts, ranked_at_ms)
        receipt.report(RANKING, len(found.values))
        values = iter(found.values)
        return struct.pack(
            f"<{len(verdicts)}d",
            *(
                max(next(values), SCORE_MIN) if verdict == Verdict.KEEP else 0.0
                for verdict in verdicts
            ),
        )

    def _candidates(self, viewer: Viewer, entries: bytes, verdicts: bytes) -> list[Candidate]:
        affinities = dict(AFFINITY.iter_unpack(viewer.filters.affinity))
        see_less = frozenset(native.unpack_ids(viewer.filters.see_less))
        engagement = struct.iter_unpack("<f", self._signals.engagement(entries))
        return [
            Candidate(
                content_id,
                author_id,
                rate,
                affinities.get(author_id, 0.0),
                quality / QUALITY_SCALE,
                author_id in see_less,
            )
            for (content_id, author_id, quality, _), (rate,), verdict in zip(
                rows(entries), engagement, verdicts, strict=True
            )
            if verdict == Verdict.KEEP
        ]
