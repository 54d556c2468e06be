"""Follow, block and list, for the embedded profile: in a cluster the graph is another team's
service.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.clock import Clock
from feedcore.errors import InvalidField
from feedcore.limits import LIST_PAGE_MAX
from feedcore.ports import GraphPage, GraphSource
from feedcore.services.admission import check_id, check_list_size, check_two_users


class GraphService:
    """The port with its requests checked. One a worker."""

    def __init__(self, graph: GraphSource, clock: Clock) -> None:
        self._graph = graph
        self._clock = clock

    async def follow(self, follower_id: int, followee_id: int) -> bool:
        """False if it was so already. Raises NotPermitted where one blocks the other."""
        check_two_users("follower_id", follower_id, "followee_id", followee_id)
        return await self._graph.follow(follower_id, followee_id, self._clock.now_ms())

    async def unfollow(self, follower_id: int, followee_id: int) -> bool:
        """False if it was so already."""
        check_two_users("follower_id", follower_id, "followee_id", followee_id)
        return await self._graph.unfollow(follower_id, followee_id, self._clock.now_ms())

    async def block(self, blocker_id: int, blocked_id: int) -> bool:
        """Hides both from each other and ends their follows. False if it was so already."""
        check_two_users("blocker_id", blocker_id, "blocked_id", blocked_id)
        return await self._graph.block(blocker_id, blocked_id, self._clock.now_ms())

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
                len(await self._graph.followees(user_id)) // 8,
            )
            for user_id in user_ids
        ]
