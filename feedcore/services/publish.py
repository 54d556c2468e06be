"""Publish, delete and read single posts.

Invariant: an acknowledged publish is durable with its fan-out event; a refused one changed nothing.
Not for delivering: the fan-out worker does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feedcore import native
from feedcore.clock import Clock
from feedcore.codecs.content import Media, digest, encode_content
from feedcore.domain import ids
from feedcore.domain.entry import Visibility
from feedcore.domain.ids import IdGenerator
from feedcore.errors import NotFound, NotPermitted, Overloaded, Unavailable
from feedcore.ports import ContentSource, GraphSource, NewPost, PostStats, PostStore
from feedcore.services.admission import check_id, check_idempotency_key

QUALITY_TEXT = 1.0
QUALITY_MEDIA = 1.1  # posts with a picture get more attention; small, so that recency still leads


class PublishReceipt(NamedTuple):
    """Times in milliseconds since 1970."""

    content_id: int
    expected_visible_ms: int
    published_at_ms: int


class Item(NamedTuple):
    """One post with its counts; `content` is wire bytes of feedcore.v1.Content."""

    content_id: int
    author_id: int
    content: bytes
    likes: int
    comments: int
    shares: int


async def audience_of(graph: GraphSource, author_id: int) -> int:
    """About how many follow the author; 0 while the graph does not answer: it decides how a post
    is fanned out, not whether, so that nobody waits with publishing for a graph that is away.
    """
    try:
        return await graph.audience(author_id)
    except (Unavailable, Overloaded):
        return 0


class PublishService:
    """Writes posts. One a worker."""

    def __init__(
        self,
        posts: PostStore,
        graph: GraphSource,
        contents: ContentSource,
        ids: IdGenerator,
        clock: Clock,
    ) -> None:
        self._posts = posts
        self._graph = graph
        self._contents = contents
        self._ids = ids
        self._clock = clock

    async def publish(
        self,
        author_id: int,
        body: str,
        media: Sequence[Media] = (),
        visibility: int = Visibility.PUBLIC,
        idempotency_key: str = "",
    ) -> PublishReceipt:
        """Durable on return. Raises InvalidField, IdempotencyConflict, StoreFull, Overloaded,
        ClockWentBack.
        """
        check_id("author_id", author_id)
        check_idempotency_key(idempotency_key)
        content = encode_content(body, media, visibility)
        private = visibility == Visibility.PRIVATE
        followers = 0 if private else await audience_of(self._graph, author_id)
        post = NewPost(
            content_id=self._ids.new_id(self._clock.now_ms()),
            author_id=author_id,
            content=content,
            digest=digest(content),
            visibility=visibility,
            quality=QUALITY_MEDIA if media else QUALITY_TEXT,
            idempotency_key=idempotency_key,
            has_media=bool(media),
            followers=followers,
        )
        published = await self._posts.publish(post)
        # Readers overlay posts that are not delivered yet, so followers see it from this moment on.
        return PublishReceipt(
            published.content_id, self._clock.now_ms(), ids.time_ms(published.content_id)
        )

    async def delete(self, author_id: int, content_id: int) -> int:
        """No page contains the post after this returns: the time of that. Raises NotFound,
        NotPermitted.
        """
        check_id("author_id", author_id)
        check_id("content_id", content_id)
        now_ms = self._clock.now_ms()
        await self._posts.delete(author_id, content_id, now_ms)
        return now_ms

    async def get_post(self, content_id: int, viewer_id: int) -> Item:
        """One post; `viewer_id` 0 sees everything. Raises NotFound, NotPermitted."""
        check_id("content_id", content_id)
        if viewer_id:
            check_id("viewer_id", viewer_id)
        post = await self._posts.get(content_id)
        found = (await self._contents.contents([content_id]))[0] if post else None
        if post is None or found is None:
            raise NotFound(f"content_id: {content_id} is not a post, or was deleted")
        if viewer_id and not await self.may_see(viewer_id, post.author_id, post.visibility):
            raise NotPermitted(f"content_id: {content_id} is not visible to user {viewer_id}")
        return Item(content_id, post.author_id, *found)

    async def may_see(self, viewer_id: int, author_id: int, visibility: int) -> bool:
        """Whether the audience the author chose has the viewer in it."""
        if viewer_id == author_id or visibility == Visibility.PUBLIC:
            return True
        if visibility == Visibility.FOLLOWERS:
            return native.ids_contain((await self._graph.followees(viewer_id)).ids, author_id)
        return False

    async def get_stats(self, content_id: int) -> PostStats:
        """Counters of one post. Raises NotFound."""
        check_id("content_id", content_id)
        stats = await self._posts.stats(content_id)
        if stats is None:
            raise NotFound(f"content_id: {content_id} is not a post, or was deleted")
        return stats
