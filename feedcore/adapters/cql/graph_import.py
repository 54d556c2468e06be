"""Many follows at once, for loaders: idempotent, so that a loader that died begins again.

Followers rows are written first: an edge is new until its row in the viewer partition is there.
Where anybody has published, one rebuild a follower takes the place of a backfill an edge.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.cluster.announce import Announcer
from feedcore.adapters.cluster.outbox import JobOutbox
from feedcore.adapters.cql import viewer
from feedcore.adapters.cql.activity import Activity, in_parts
from feedcore.adapters.cql.bounded import together
from feedcore.adapters.cql.dirty import DirtyMarks
from feedcore.adapters.cql.dirty import Kind as Dirty
from feedcore.adapters.cql.idarrays import id_array
from feedcore.adapters.cql.pairs import add_follower, check_followees, check_pair
from feedcore.adapters.cql.rebuilding import queue_rebuilds
from feedcore.adapters.cql.session import Session, Statement
from feedcore.adapters.cql.signed import from_cql, to_cql
from feedcore.adapters.cql.viewer import Kind

FOLLOWERS_AT_ONCE = 64  # whose partitions are read side by side

_BLOCKS = Statement("SELECT target_id FROM viewer WHERE user_id = ? AND kind IN (11, 12)")
_ANY_POST = Statement("SELECT author_id FROM outbox LIMIT 1")


class GraphImport:
    """See `run`."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        announcer: Announcer,
        activity: Activity,
        marks: DirtyMarks,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._announcer = announcer
        self._activity = activity
        self._marks = marks

    async def run(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """Of (follower, followee); how many were new. Edges against a block are left out."""
        wanted: dict[int, set[int]] = {}
        for follower_id, followee_id in edges:
            check_pair(follower_id, followee_id)
            wanted.setdefault(follower_id, set()).add(followee_id)
        followers = list(wanted)
        new: dict[int, set[int]] = {}
        for first in range(0, len(followers), FOLLOWERS_AT_ONCE):
            part = followers[first : first + FOLLOWERS_AT_ONCE]
            found = await together(*(self._new(one, wanted[one]) for one in part))
            new.update((one, ids) for one, ids in zip(part, found, strict=True) if ids)
        if not new:
            return 0
        at_us = viewer.stamp(self._outbox)
        pairs = [(follower, followee) for follower in new for followee in new[follower]]
        await in_parts(
            self._session,
            [add_follower(followee, follower, now_ms, at_us) for follower, followee in pairs],
        )
        try:
            await in_parts(
                self._session,
                [
                    viewer.put(follower, Kind.FOLLOWEE, followee, now_ms, at_us)
                    for follower, followee in pairs
                ],
            )
        finally:
            await self._announcer.announce(list(new))
        unknown = await self._activity.unknown(list(new))
        seen = self._activity.seen_writes((user_id, now_ms) for user_id in unknown)
        await in_parts(self._session, seen)
        await self._marks.mark((Dirty.FOLLOWERS, followee) for _, followee in pairs)
        if await self._session.read(_ANY_POST):
            await queue_rebuilds(
                self._session, self._outbox, self._announcer, self._activity, list(new), now_ms
            )
        return len(pairs)

    async def _new(self, follower_id: int, wanted: set[int]) -> set[int]:
        user = (to_cql(follower_id),)
        packed, blocks = await together(
            self._session.read_packed(viewer.FOLLOWEES, user), self._session.read(_BLOCKS, user)
        )
        before = id_array(packed)
        new = wanted - {from_cql(row[0]) for row in blocks}
        new.difference_update(native.ids_intersect(before, native.U64Set(new)))
        if new:
            check_followees(len(before) // 8 + len(new))
        return new
