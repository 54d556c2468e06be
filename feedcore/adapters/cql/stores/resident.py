"""ResidentSource over a network: three queries a user, all users of a batch concurrently.

The viewer partition is read at quorum (followees as one packed column, the rest as rows), the feed
at one: what a replica that is behind lacks, the replica has as newest posts. Who waits for older
posts of somebody is not built: the generic path pulls those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from feedcore.adapters.cql.driver.ids import id_array
from feedcore.adapters.cql.driver.session import Session
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.feeds import WINDOW
from feedcore.domain import ids
from feedcore.limits import BACKFILL_ENTRIES_MAX, RETENTION_MS
from feedcore.ports import Content, ContentSource, PostStore
from feedcore.ports.resident import ReplicaView, ViewerRow
from feedcore.resilience.gather import gather_all, gather_bounded

VIEWERS_AT_ONCE = 128  # users of one batch whose queries are under way
_NO_RUNS = 0  # stored runs are the embedded store's


class ResidentReplica(Protocol):
    """The node's replica, as ResidentSource has it."""

    @property
    def version(self) -> int:
        """Changes with everything that is replicated."""

    def view(self) -> ReplicaView:
        """As of now."""

    def engagement_table(self) -> memoryview:
        """The map that `native.engagement_lookup` reads."""

    def take_published(self) -> list[int]:
        """Pulled authors who published since this was last asked."""


class KeptRows(Protocol):
    """Viewer rows that other nodes have loaded."""

    async def viewer_rows(self, user_ids: Sequence[int], depth: int) -> list[ViewerRow | None]:
        """With at least that depth, as good as loaded now; None where there is none."""

    def keep_viewer_rows(
        self, user_ids: Sequence[int], rows: Sequence[ViewerRow], depth: int
    ) -> None:
        """Leaves rows that `viewer_rows` did not have, and which were loaded since, to others."""


class CqlResidentSource:
    """See `ports.resident.ResidentSource`."""

    local = False  # its coroutines wait for the cluster

    def __init__(
        self,
        session: Session,
        posts: PostStore,
        contents: ContentSource,
        replica: ResidentReplica,
        kept: KeptRows | None = None,
    ) -> None:
        self._kept = kept
        self._session = session
        self._posts = posts
        self._contents = contents
        self._replica = replica

    @property
    def replica_version(self) -> int:
        """Of the replica."""
        return self._replica.version

    def replica(self) -> ReplicaView:
        """As of the last event of the node log."""
        return self._replica.view()

    def engagement_table(self) -> memoryview:
        """Of the replica."""
        return self._replica.engagement_table()

    def take_published(self) -> list[int]:
        """Noted by the replica."""
        return self._replica.take_published()

    async def viewers(self, user_ids: Sequence[int], depth: int, now_ms: int) -> list[ViewerRow]:
        """From other nodes where they have them; a row with a snooze that is over is loaded."""
        if self._kept is None:
            return await self._load(user_ids, depth, now_ms)
        found = await self._kept.viewer_rows(user_ids, depth)
        rows = {
            user_id: row
            for user_id, row in zip(user_ids, found, strict=True)
            if row is not None and not 0 < row.snoozed_until_ms <= now_ms
        }
        lacking = [user_id for user_id in user_ids if user_id not in rows]
        if lacking:
            loaded = await self._load(lacking, depth, now_ms)
            self._kept.keep_viewer_rows(lacking, loaded, depth)
            rows.update(zip(lacking, loaded, strict=True))
        return [rows[user_id] for user_id in user_ids]

    async def _load(self, user_ids: Sequence[int], depth: int, now_ms: int) -> list[ViewerRow]:
        """Side by side; one that fails fails the batch."""
        oldest = ids.first_id_at(now_ms - RETENTION_MS)

        async def one(user_id: int) -> ViewerRow:
            user = (user_id,)
            followees, rows, entries = await gather_all(
                self._session.read_packed(viewer.FOLLOWEES, user),
                self._session.read(viewer.RELATIONS, user),
                self._session.read_packed(WINDOW, (*user, ids.ID_MAX, oldest, max(depth, 1))),
            )
            relations = viewer.decode(rows, now_ms)
            built = not relations.away and not relations.pending
            return ViewerRow(
                id_array(followees),
                relations.filters,
                relations.snoozed_until_ms,
                built,
                entries,
                _NO_RUNS,
            )

        return await gather_bounded(user_ids, one, VIEWERS_AT_ONCE)

    async def timelines(self, author_ids: Sequence[int], now_ms: int) -> list[bytes]:
        """Of the posts' store."""
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        found = await self._posts.timelines(author_ids, ids.ID_MAX, oldest, BACKFILL_ENTRIES_MAX)
        return found.entries

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """Of their store."""
        return await self._contents.contents(content_ids)
