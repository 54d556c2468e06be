"""ResidentSource on the embedded store: one query a user, one a batch of timelines or contents."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from feedcore import native
from feedcore.adapters.embedded.engagement import EngagementMap
from feedcore.adapters.embedded.posts import EmbeddedContentSource
from feedcore.adapters.embedded.preferences import filters_of
from feedcore.adapters.embedded.replica import Replica
from feedcore.domain import ids
from feedcore.limits import DAY_MS, RETENTION_MS
from feedcore.ports import Content, PreferenceKind
from feedcore.ports.resident import ReplicaView, ViewerRow

_FOLLOWEES, _AFFINITY, _NOT_BUILT = -1, -2, -3
_VIEWER = (
    f"SELECT {_FOLLOWEES}, packed, 0 FROM followees WHERE user_id = ?1"
    f" UNION ALL SELECT {_AFFINITY}, shares, 0 FROM affinity WHERE user_id = ?1"
    f" UNION ALL SELECT {_NOT_BUILT}, 0, 0 WHERE"
    " EXISTS (SELECT 1 FROM inactive_users WHERE user_id = ?1)"
    " OR EXISTS (SELECT 1 FROM rebuilding_users WHERE user_id = ?1)"
    " UNION ALL SELECT kind, target_id, until_ms FROM relations WHERE user_id = ?1"
)
_LAST_DAY = ids.day(ids.ID_MAX)


class EmbeddedResidentSource:
    """See `ports.resident.ResidentSource`. Belongs to the thread that owns the connection."""

    local = True  # files of this machine

    def __init__(
        self,
        conn: sqlite3.Connection,
        replica: Replica,
        contents: EmbeddedContentSource,
        engagement: EngagementMap,
    ) -> None:
        self._conn = conn
        self._replica = replica
        self._contents = contents
        self._engagement = engagement

    @property
    def replica_version(self) -> int:
        """Of the replica."""
        return self._replica.reads

    def replica(self) -> ReplicaView:
        """The replica, refreshed. Its sets change in place: take them again when the version
        does.
        """
        replica = self._replica
        replica.refresh()
        return ReplicaView(
            replica.posted,
            replica.overlay_authors,
            replica.posts_of,
            replica.backfills,
            replica.pulled,
            replica.pulled_version,
            replica.tombstones,
            self._replica.run_index(),
        )

    def take_published(self) -> list[int]:
        """Noted by the replica."""
        return self._replica.published.take()

    def engagement_table(self) -> memoryview:
        """The map of the node."""
        return self._engagement.slots

    async def viewers(self, user_ids: Sequence[int], depth: int, now_ms: int) -> list[ViewerRow]:
        """One statement a user, and then the runs: a feed that a statement calls built is built in
        runs that were there before it.
        """
        rows = [self._conn.execute(_VIEWER, (one,)).fetchall() for one in user_ids]
        self._replica.refresh()
        index = self._replica.run_index()
        first_day = (now_ms - RETENTION_MS) // DAY_MS
        viewers = []
        for user_id, found in zip(user_ids, rows, strict=True):
            slices = index.window(user_id, first_day, _LAST_DAY, ids.ID_MAX, depth)
            entries = native.merge_newest(slices, ids.ID_MAX, 0, depth)
            viewers.append(_viewer_of(found, entries, index.newest_run, now_ms))
        if index.met_run:
            self._replica.run_index()
        if self._replica.damage(first_day, _LAST_DAY):
            return [viewer._replace(built=False) for viewer in viewers]
        return viewers

    async def timelines(self, author_ids: Sequence[int], now_ms: int) -> list[bytes]:
        """One query."""
        found = self._replica.timelines.load(author_ids, (now_ms - RETENTION_MS) // DAY_MS)
        return [found[author_id] for author_id in author_ids]

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """One query."""
        return await self._contents.contents(content_ids)


def _viewer_of(
    rows: list[tuple[int, Any, int]], entries: bytes, newest_run: int, now_ms: int
) -> ViewerRow:
    """Of the rows of _VIEWER."""
    followees = affinity = b""
    built = True
    relations = []
    for row in rows:
        kind = row[0]
        if kind > 0:
            relations.append(row)
        elif kind == _FOLLOWEES:
            followees = row[1]
        elif kind == _AFFINITY:
            affinity = row[1]
        else:
            built = False
    snoozes = [
        until_ms
        for kind, _, until_ms in relations
        if kind == PreferenceKind.SNOOZE and until_ms > now_ms
    ]
    filters = filters_of(relations, affinity, now_ms)
    return ViewerRow(followees, filters, min(snoozes, default=0), built, entries, newest_run)
