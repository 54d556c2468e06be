"""GraphSource: who follows and blocks whom. In production another team's service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from feedcore.limits import USER_ID_MAX


class GraphPage(NamedTuple):
    """`ids` is an id array; `next_after` continues the listing, 0 at its end."""

    ids: bytes
    next_after: int


class Followees(NamedTuple):
    """`ids` is an id array. `stale_ms`: 0 if it is current, else how old it is: a graph may answer
    with what it has kept when its service does not answer.
    """

    ids: bytes
    stale_ms: int = 0


class GraphSource(Protocol):
    """Directed follows, and blocks that hide both sides from each other."""

    async def followees(self, user_id: int) -> Followees:
        """Whom the user follows, at most FOLLOWEES_MAX. Raises Unavailable or Overloaded if that is
        not known, and nothing is kept.
        """

    async def follower_count(self, user_id: int) -> int:
        """How many follow the user."""

    async def audience(self, author_id: int) -> int:
        """About how many follow the author, for a publish: as counted last, or exact up to
        LANE_SPLIT_FOLLOWERS + 1. Never counts millions.
        """

    async def followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """Followers with id > after, ascending."""

    async def followee_page(self, user_id: int, after: int, limit: int) -> GraphPage:
        """Followees with id > after, ascending."""

    async def push_recipients(
        self,
        author_id: int,
        after: int,
        limit: int,
        lane: int,
        recent_since_ms: int,
        recent_until_ms: int = USER_ID_MAX,
    ) -> GraphPage:
        """One chunk of the followers a post is pushed to: like `followers`, less the inactive ones.

        `lane` ALL takes everybody, ACTIVE those seen since `recent_since_ms`, REST those not seen
        from then until `recent_until_ms`: somebody who is seen for the first time between the two
        passes, after that, is in one of them at least.
        `next_after` is the last follower *considered*, so that a continuation never looks at one
        twice.
        """

    async def follow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """False if it was there already. Queues the backfill of the followee's posts in the same
        commit.

        Raises NotPermitted if either blocks the other, InvalidField above FOLLOWEES_MAX.
        """

    async def unfollow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """False if there was nothing to end. Queues the removal from the stored feed in the same
        commit.
        """

    async def block(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Also ends follows in both directions. False if it was there already."""

    async def unblock(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """False if there was nothing to end. Follows do not come back by themselves."""

    async def import_follows(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """Many (follower, followee) edges in one commit; the number that were new. Existing ones
        are kept.
        """

    async def sample_users(self, count: int, seed: int) -> list[int]:
        """Up to `count` users who follow somebody, the same ones for the same seed and graph;
        ascending.
        """
