"""feedcore.v1.PublishService."""

from __future__ import annotations

from feedcore.codecs.content import Media
from feedcore.domain.ids import time_ms
from feedcore.ports.events import EventSink
from feedcore.services.publish import Item, PublishService
from feedcore_pb.v1 import publish_pb2 as pb
from feedcore_pb.v1 import types_pb2
from feedcore_server.context import CallContext
from feedcore_server.registry import Handlers

# Fields of PostStats that the reply has under the same name.
STATS = frozenset(pb.GetPostStatsResponse.DESCRIPTOR.fields_by_name)


class PublishHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["PublishService"]

    def __init__(self, publish: PublishService, events: EventSink | None = None) -> None:
        self._publish = publish
        self._events = events

    async def publish(self, request: pb.PublishRequest, call: CallContext) -> pb.PublishResponse:
        """Durable when it returns."""
        call.user_id = request.author_id
        receipt = await self._publish.publish(
            request.author_id,
            request.body,
            [Media(m.uri, m.mime_type, m.width, m.height) for m in request.media],
            request.visibility,
            request.idempotency_key,
        )
        call.note(content_id=receipt.content_id, media=len(request.media))
        if self._events is not None:
            self._events.published(
                receipt.content_id,
                request.author_id,
                request.visibility,
                receipt.published_at_ms,
            )
        return pb.PublishResponse(
            content_id=receipt.content_id,
            expected_visible_ms=receipt.expected_visible_ms,
            published_at_ms=receipt.published_at_ms,
        )

    async def delete(self, request: pb.DeleteRequest, call: CallContext) -> pb.DeleteResponse:
        """No page contains the post when it returns."""
        call.user_id = request.author_id
        call.note(content_id=request.content_id)
        deleted_ms = await self._publish.delete(request.author_id, request.content_id)
        if self._events is not None:
            self._events.deleted(request.content_id, request.author_id, deleted_ms)
        return pb.DeleteResponse()

    async def get_post(self, request: pb.GetPostRequest, call: CallContext) -> pb.GetPostResponse:
        """One post by id."""
        call.user_id = request.viewer_id
        call.note(content_id=request.content_id)
        item = await self._publish.get_post(request.content_id, request.viewer_id)
        return pb.GetPostResponse(item=feed_item(item))

    async def get_post_stats(
        self, request: pb.GetPostStatsRequest, call: CallContext
    ) -> pb.GetPostStatsResponse:
        """Counters of one post."""
        call.note(content_id=request.content_id)
        stats = await self._publish.get_stats(request.content_id)
        return pb.GetPostStatsResponse(
            **{name: value for name, value in stats._asdict().items() if name in STATS},
            fanout_mode=stats.mode,
        )


def feed_item(item: Item) -> types_pb2.FeedItem:
    """A post as it stands in a feed, without score and reason."""
    return types_pb2.FeedItem(
        content_id=item.content_id,
        author_id=item.author_id,
        published_at_ms=time_ms(item.content_id),
        content=types_pb2.Content.FromString(item.content),
        counts=counts(item),
    )


def counts(item: Item) -> types_pb2.Counts:
    """The counters shown with a post."""
    return types_pb2.Counts(likes=item.likes, comments=item.comments, shares=item.shares)
