"""GraphSource over feedcore.collaborators.v1.GraphService.

    the service   followees                              others
    answers       current; cached, if there is room      current
    does not      cached ones, at most KEPT_MS old       Unavailable or Overloaded: fan-out jobs
                  (with their age); else the            wait and are tried again
                  same error

Invariants: cached listings are whole (one that broke off is not cached) and bounded in bytes; a
listing goes on after a given id whatever tokens the service gives, since ids ascend: a token that
is not known any more, here or there, costs a walk from the start.

Writes pass through. Not for the activity of users, which the contract does not have: all followers
are pushed to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from feedcore import native
from feedcore.adapters.collaborators.service import Service
from feedcore.clock import Clock
from feedcore.errors import BadAnswer, FailedPrecondition, InvalidField, Overloaded, Unavailable
from feedcore.limits import FOLLOWEES_MAX, HOUR_MS, LIST_PAGE_MAX, USER_ID_MAX
from feedcore.ports import Followees, GraphPage, Lane
from feedcore.resilience import deadline
from feedcore_pb.collaborators.v1 import graph_pb2 as pb

KEPT_MS = 1 * HOUR_MS  # who unfollowed an hour ago expects not to see the author any more
KEPT_BYTES = 64 * 1024 * 1024  # 35,000 users who follow 200
KEPT_OVERHEAD_BYTES = 250  # of an entry, beside its ids
TOKENS_MAX = 10_000  # listings under way; a lost token costs time only
FOLLOWEES_S = 1.0  # 100 pages of 1,000 for the largest account, one after the other


class _Kept(NamedTuple):
    ids: bytes
    read_at_s: float


class _Page(NamedTuple):
    ids: list[int]
    token: str


class CollaboratorGraphSource:
    """See `ports.graph.GraphSource`."""

    def __init__(self, service: Service, clock: Clock, kept_bytes: int = KEPT_BYTES) -> None:
        self._service = service
        self._clock = clock
        self._kept_bytes_max = kept_bytes
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._tokens: OrderedDict[tuple[str, int, int], str] = OrderedDict()

    async def followees(self, user_id: int) -> Followees:
        """Reads page after page; if that fails, answers from the cache."""
        begun_s = self._clock.monotonic()
        try:
            with deadline.within(FOLLOWEES_S):
                ids = await self._all_followees(user_id)
        except (Unavailable, Overloaded):
            kept = self._kept.get(user_id)
            if kept is None or (age_ms := self._age_ms(kept)) > KEPT_MS:
                raise
            self._service.fell_back()
            return Followees(kept.ids, max(1, age_ms))
        self._keep(user_id, ids, begun_s)
        return Followees(ids)

    async def follower_count(self, user_id: int) -> int:
        """One id of GetFollowerCounts."""

        def read(reply: pb.GetFollowerCountsResponse) -> int:
            if [one.user_id for one in reply.counts] != [user_id]:
                raise BadAnswer(f"{self._service.name}: {len(reply.counts)} counts; one was asked")
            return reply.counts[0].followers

        request = pb.GetFollowerCountsRequest(user_ids=[user_id])
        return await self._service.ask("GetFollowerCounts", request, read)

    async def audience(self, author_id: int) -> int:
        """The service's count."""
        return await self.follower_count(author_id)

    async def followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """As many calls as it takes."""
        return await self._listed("ListFollowers", user_id, after, limit)

    async def followee_page(self, user_id: int, after: int, limit: int) -> GraphPage:
        """As many calls as it takes."""
        return await self._listed("ListFollowees", user_id, after, limit)

    async def push_recipients(
        self,
        author_id: int,
        after: int,
        limit: int,
        lane: int,
        recent_since_ms: int,
        recent_until_ms: int = USER_ID_MAX,
    ) -> GraphPage:
        """All followers in the first pass, whatever their activity; none are left for later."""
        if lane == Lane.REST:
            return GraphPage(b"", 0)
        return await self.followers(author_id, after, limit)

    async def follow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """Passed through."""
        return await self._change(
            "Follow", pb.FollowRequest(follower_id=follower_id, followee_id=followee_id)
        )

    async def unfollow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """Passed through."""
        return await self._change(
            "Unfollow", pb.UnfollowRequest(follower_id=follower_id, followee_id=followee_id)
        )

    async def block(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Passed through."""
        return await self._change(
            "Block", pb.BlockRequest(blocker_id=blocker_id, blocked_id=blocked_id)
        )

    async def unblock(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Passed through."""
        return await self._change(
            "Unblock", pb.UnblockRequest(blocker_id=blocker_id, blocked_id=blocked_id)
        )

    async def import_follows(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """Raises FailedPrecondition: the contract has no bulk writes."""
        raise FailedPrecondition(f"{self._service.name}: load follows into the service itself")

    async def sample_users(self, count: int, seed: int) -> list[int]:
        """Raises FailedPrecondition: the contract does not list users."""
        raise FailedPrecondition(f"{self._service.name}: it does not list users; name them")

    async def _change(self, method: str, request: Any) -> bool:
        return await self._service.ask(method, request, lambda reply: bool(reply.changed))

    async def _all_followees(self, user_id: int) -> bytes:
        ids: list[int] = []
        token = ""
        while True:
            after = ids[-1] if ids else 0
            page = await self._page("ListFollowees", user_id, after, LIST_PAGE_MAX, token)
            ids += page.ids
            if not page.token or len(ids) >= FOLLOWEES_MAX:
                return native.pack_ids(ids[:FOLLOWEES_MAX])
            token = page.token

    async def _listed(self, method: str, user_id: int, after: int, limit: int) -> GraphPage:
        place = (method, user_id, after)
        token = self._tokens.get(place, "")
        try:
            return await self._walk(method, user_id, after, limit, token)
        except InvalidField:
            if not token:
                raise
            self._tokens.pop(place, None)
            return await self._walk(method, user_id, after, limit, "")

    async def _walk(
        self, method: str, user_id: int, after: int, limit: int, token: str
    ) -> GraphPage:
        """From where the token leads, or from the start; what is not above `after` is passed by."""
        found: list[int] = []
        last = after if token else 0
        while True:
            size = min(limit - len(found), LIST_PAGE_MAX)
            page = await self._page(method, user_id, last, size, token)
            found += [one for one in page.ids if one > after]
            last, token = page.ids[-1] if page.ids else last, page.token
            if not token:
                return GraphPage(native.pack_ids(found), 0)
            if len(found) >= limit:
                self._remember((method, user_id, last), token)
                return GraphPage(native.pack_ids(found), last)

    async def _page(self, method: str, user_id: int, after: int, size: int, token: str) -> _Page:
        """One call. The reply's ids must ascend from `after`."""

        def read(reply: Any) -> _Page:
            ids = list(reply.user_ids)
            steps = zip([after, *ids], ids, strict=False)
            if len(ids) > size or any(one >= another for one, another in steps):
                raise BadAnswer(
                    f"{self._service.name}: {len(ids)} ids; at most {size}, ascending from"
                    " where the page before ended"
                )
            if (ids and ids[-1] > USER_ID_MAX) or (reply.next_page_token and not ids):
                raise BadAnswer(
                    f"{self._service.name}: ids are 1 to {USER_ID_MAX}, and a page that is not"
                    " the last has some"
                )
            return _Page(ids, reply.next_page_token)

        followees = method == "ListFollowees"
        request_class = pb.ListFolloweesRequest if followees else pb.ListFollowersRequest
        request = request_class(user_id=user_id, page_size=size, page_token=token)
        return await self._service.ask(method, request, read)

    def _remember(self, place: tuple[str, int, int], token: str) -> None:
        self._tokens[place] = token
        if len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)

    def _age_ms(self, kept: _Kept) -> int:
        return int((self._clock.monotonic() - kept.read_at_s) * 1_000)

    def _keep(self, user_id: int, ids: bytes, read_at_s: float) -> None:
        """The longest unread goes first."""
        before = self._kept.pop(user_id, None)
        if before is not None:
            self._kept_bytes -= len(before.ids) + KEPT_OVERHEAD_BYTES
        self._kept[user_id] = _Kept(ids, read_at_s)
        self._kept_bytes += len(ids) + KEPT_OVERHEAD_BYTES
        while self._kept_bytes > self._kept_bytes_max:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone.ids) + KEPT_OVERHEAD_BYTES
