"""feedcore.collaborators.v1.GraphService, as the embedded profile implements it."""

from __future__ import annotations

from feedcore import native
from feedcore.errors import InvalidField
from feedcore.limits import USER_ID_MAX
from feedcore.services.graph import GraphService
from feedcore_pb.collaborators.v1 import graph_pb2 as pb
from feedcore_server.context import CallContext
from feedcore_server.registry import Handlers

_TOKEN_CHARS_MAX = 16  # 64 bits in hexadecimal


class GraphHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["GraphService"]

    def __init__(self, graph: GraphService) -> None:
        self._graph = graph

    async def follow(self, request: pb.FollowRequest, call: CallContext) -> pb.FollowResponse:
        """One user follows another."""
        call.user_id = request.follower_id
        changed = await self._graph.follow(request.follower_id, request.followee_id)
        call.note(changed=changed)
        return pb.FollowResponse(changed=changed)

    async def unfollow(self, request: pb.UnfollowRequest, call: CallContext) -> pb.UnfollowResponse:
        """Ends a follow."""
        call.user_id = request.follower_id
        changed = await self._graph.unfollow(request.follower_id, request.followee_id)
        call.note(changed=changed)
        return pb.UnfollowResponse(changed=changed)

    async def block(self, request: pb.BlockRequest, call: CallContext) -> pb.BlockResponse:
        """Hides two users from each other."""
        call.user_id = request.blocker_id
        changed = await self._graph.block(request.blocker_id, request.blocked_id)
        call.note(changed=changed)
        return pb.BlockResponse(changed=changed)

    async def unblock(self, request: pb.UnblockRequest, call: CallContext) -> pb.UnblockResponse:
        """Ends a block."""
        call.user_id = request.blocker_id
        changed = await self._graph.unblock(request.blocker_id, request.blocked_id)
        call.note(changed=changed)
        return pb.UnblockResponse(changed=changed)

    async def list_followers(
        self, request: pb.ListFollowersRequest, call: CallContext
    ) -> pb.ListFollowersResponse:
        """One page of followers."""
        call.user_id = request.user_id
        after = parse_token(request.page_token)
        page = await self._graph.list_followers(request.user_id, after, request.page_size)
        ids = native.unpack_ids(page.ids)
        call.note(items=len(ids))
        return pb.ListFollowersResponse(user_ids=ids, next_page_token=make_token(page.next_after))

    async def list_followees(
        self, request: pb.ListFolloweesRequest, call: CallContext
    ) -> pb.ListFolloweesResponse:
        """One page of followees."""
        call.user_id = request.user_id
        after = parse_token(request.page_token)
        page = await self._graph.list_followees(request.user_id, after, request.page_size)
        ids = native.unpack_ids(page.ids)
        call.note(items=len(ids))
        return pb.ListFolloweesResponse(user_ids=ids, next_page_token=make_token(page.next_after))

    async def get_follower_counts(
        self, request: pb.GetFollowerCountsRequest, call: CallContext
    ) -> pb.GetFollowerCountsResponse:
        """Counts of up to 1,000 users."""
        call.note(items=len(request.user_ids))
        reply = pb.GetFollowerCountsResponse()
        for user_id, followers, followees in await self._graph.follower_counts(request.user_ids):
            reply.counts.add(user_id=user_id, followers=followers, followees=followees)
        return reply


def make_token(after: int) -> str:
    """Opaque to callers; empty at the end of a listing."""
    return f"{after:x}" if after else ""


def parse_token(token: str) -> int:
    """The id after which the listing goes on. Raises InvalidField."""
    if not token:
        return 0
    after = 0
    if len(token) <= _TOKEN_CHARS_MAX and all(char in "0123456789abcdef" for char in token):
        after = int(token, 16)
    if not 1 <= after <= USER_ID_MAX:
        raise InvalidField(
            "page_token", f"{len(token)} characters", "must be next_page_token of the page before"
        )
    return after
