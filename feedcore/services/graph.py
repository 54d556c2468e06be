"""Follow, block and list.

The graph may be the store's own, which queues the jobs of a follow in the follow's commit, or
another team's service, which knows nothing of our feeds. Then this service queues the jobs, after
the service has acknowledged. Invariant: a change that is acknowledged here has its jobs queued. Not
for changes that others make at that service: pages follow those, since each load reads whom the
user follows, but posts from before such a follow stay out of the stored feed.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.clock import Clock
from feedcore.errors import InvalidField
from feedcore.limits import LIST_PAGE_MAX
from feedcore.ports import FeedStore, GraphPage, GraphSource
from feedcore.services.admission import check_id, check_list_size, check_two_users


class GraphService:
    """The port with its requests checked. One a worker."""

    def __init__(self, graph: GraphSource, clock: Clock, feeds: FeedStore | None = None) -> None:
        """`feeds`: takes the jobs, where the graph is another team's."""
        self._graph = graph
        self._clock = clock
        self._feeds = feeds

    async def follow(self, follower_id: int, followee_id: int) -> bool:
        """False if it was so already. Raises NotPermitted where one blocks the other."""
        check_two_users("follower_id", follower_id, "followee_id", followee_id)
        now_ms = self._clock.now_ms()
        changed = await self._graph.follow(follower_id, followee_id, now_ms)
        if self._feeds is not None:
            # Also if it was so already: a call before this one may have ended between the two.
            await self._feeds.request_backfill(follower_id, followee_id, now_ms)
        return changed

    async def unfollow(self, follower_id: int, followee_id: int) -> bool:
        """False if it was so already."""
        check_two_users("follower_id", follower_id, "followee_id", followee_id)
        now_ms = self._clock.now_ms()
        changed = await self._graph.unfollow(follower_id, followee_id, now_ms)
        if self._feeds is not None:
            await self._feeds.request_removal(follower_id, followee_id, now_ms)
        return changed

    async def block(self, blocker_id: int, blocked_id: int) -> bool:
        """Hides both from each other and ends their follows. False if it was so already."""
        check_two_users("blocker_id", blocker_id, "blocked_id", blocked_id)
        now_ms = self._clock.now_ms()
        changed = await self._graph.block(blocker_id, blocked_id, now_ms)
        if self._feeds is not None:
            await self._feeds.request_removal(blocker_id, blocked_id, now_ms)
            await self._feeds.request_removal(blocked_id, blocker_id, now_ms)
        return changed

    async def unblock(self, blocker_id: int, blocked_id: int) -> bool:
        """Follows do not come back. False if there was no block."""
        check_two_users("blocker_id", blocker_id, "blocked_id", blocked_id)
        return await self._graph.unblock(blocker_id, blocked_id, self._clock.now_ms())

    async def list_followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """One page, ascending by id; `limit` 0 means the most."""
        check_id("user_id", user_id)
        return await self._graph.followers(user_id, after, check_list_size(limit))

    async def list_followees(self, user_id: int, after: int, limit: int) -> GraphPage:
        """One page, ascending by id; `limit` 0 means the most."""
        check_id("user_id", user_id)
        return await self._graph.followee_page(user_id, after, check_list_size(limit))

    async def follower_counts(self, user_ids: Sequence[int]) -> list[tuple[int, int, int]]:
        """(user, followers, followees) for each, in the order asked for."""
        if not 1 <= len(user_ids) <= LIST_PAGE_MAX:
            raise InvalidField("user_ids", f"{len(user_ids)} ids", f"must be 1 to {LIST_PAGE_MAX}")
        return [
            (
                check_id("user_ids", user_id),
                await self._graph.follower_count(user_id),
                len((await self._graph.followees(user_id)).ids) // 8,
            )
            for user_id in user_ids
        ]
