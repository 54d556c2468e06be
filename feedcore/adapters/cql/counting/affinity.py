"""Affinity: how much of a user's engagement each author got, from the user's own interactions.

Computed anew from the newest interactions and written absolutely to the user's viewer partition,
with a timestamp from before the reading: of two workers the later one stays. It is a hint to
ranking: where clocks differ by more than the two are apart, the next interaction puts it right.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.domain.engagement import WEIGHTS, pack_shares, strongest
from feedcore.resilience.gather import gather_all, gather_bounded

INTERACTIONS_READ_MAX = 2_000  # the newest of one user: eight for each author that is kept

_INTERACTIONS = Statement(
    "SELECT kind, author_id, active FROM user_interactions WHERE user_id = ?"
    f" LIMIT {INTERACTIONS_READ_MAX}"
)
_AFFINITY = Statement("SELECT value FROM viewer WHERE user_id = ? AND kind = 14 AND target_id = 0")


class Affinity:
    """One a process."""

    def __init__(self, session: Session, stamps: Stamps) -> None:
        self._session = session
        self._stamps = stamps

    async def recount(self, user_ids: Sequence[int]) -> list[int]:
        """The users whose affinity is another than before."""
        changed = await gather_bounded(user_ids, self._recount)
        return [user_id for user_id, one in zip(user_ids, changed, strict=True) if one]

    async def _recount(self, user_id: int) -> bool:
        stamp = self._stamps.new_stamp()
        key = (user_id,)
        rows, old = await gather_all(
            self._session.read(_INTERACTIONS, key), self._session.read(_AFFINITY, key)
        )
        packed = packed_shares(user_id, rows)
        if packed == (old[0][0] or b"" if old else b""):
            return False
        place = (user_id, viewer.Kind.AFFINITY, 0)
        write = viewer.put(*place, 0, stamp, packed) if packed else viewer.drop(*place, stamp)
        await self._session.write(write.statement, write.parameters)
        return True


def packed_shares(user_id: int, rows: Sequence[tuple[int, int, bool]]) -> bytes:
    """Of rows (kind, author, active)."""
    weights: dict[int, float] = {}
    for kind, author_id, active in rows:
        if active and author_id != user_id:
            weights[author_id] = weights.get(author_id, 0.0) + WEIGHTS[kind - 1]
    return pack_shares(strongest(weights))
