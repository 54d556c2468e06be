"""Bulk loading, for migrations and tests: follows, mutes, posts with their own times, interactions.

Invariant: loading the same rows again changes nothing. A bad row is refused by itself, with its
place and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from feedcore.clock import Clock
from feedcore.codecs.content import digest, encode_content
from feedcore.domain import ids
from feedcore.errors import FeedcoreError, InvalidField
from feedcore.limits import CLOCK_AHEAD_MAX_MS, IMPORT_BATCH_ROWS_MAX, RETENTION_MS
from feedcore.ports import (
    GraphSource,
    ImportedCounts,
    Interaction,
    InteractionKind,
    NewPost,
    PostStore,
    Preference,
    PreferenceKind,
    PreferenceStore,
    SignalStore,
)
from feedcore.resilience.gather import gather_bounded
from feedcore.services.admission import check_id, check_idempotency_key, check_two_users
from feedcore.services.policy import PolicyReview
from feedcore.services.publish import QUALITY_TEXT, audience_of

IMPORT_NODE = (
    127  # the last of 128 nodes is kept for imports, so that no live worker can give the same id
)
KEY_PREFIX = "import:"  # imported posts share the idempotency table, never a caller's key


class PostRow(NamedTuple):
    """A post of another system; `at_ms` is when it was published, counts are those it had."""

    post_key: str
    author_id: int
    at_ms: int
    body: str
    likes: int = 0
    comments: int = 0
    shares: int = 0


class InteractionRow(NamedTuple):
    """Names the post by (author_id, post_key), or by `content_id` if post_key is empty."""

    user_id: int
    post_key: str
    author_id: int
    content_id: int
    kind: str
    at_ms: int


@dataclass(slots=True)
class ImportBatch:
    """At most IMPORT_BATCH_ROWS_MAX rows in all; edges are (from, to)."""

    follows: list[tuple[int, int]] = field(default_factory=list)
    mutes: list[tuple[int, int]] = field(default_factory=list)
    posts: list[PostRow] = field(default_factory=list)
    interactions: list[InteractionRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.follows) + len(self.mutes) + len(self.posts) + len(self.interactions)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was refused: the name of its list, its index in it, the reason."""

    list_name: str
    index: int
    reason: str


@dataclass(slots=True)
class ImportOutcome:
    """What became of the rows of a batch."""

    applied: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list)

    def count(self, total: int, applied: int) -> None:
        """Adds `total` accepted rows, of which `applied` changed something."""
        self.applied += applied
        self.unchanged += total - applied


class ImportService:
    """Applies batches in the order: follows, mutes, posts, interactions."""

    def __init__(
        self,
        posts: PostStore,
        graph: GraphSource,
        preferences: PreferenceStore,
        signals: SignalStore,
        policy: PolicyReview,
        clock: Clock,
        region: int = 0,
    ) -> None:
        self._posts = posts
        self._graph = graph
        self._preferences = preferences
        self._signals = signals
        self._policy = policy
        self._clock = clock
        self._region = region

    async def apply(self, batch: ImportBatch) -> ImportOutcome:
        """Durable on return. Raises InvalidField for a batch that is too large, StoreFull."""
        if len(batch) > IMPORT_BATCH_ROWS_MAX:
            raise InvalidField("batch", f"{len(batch)} rows", f"at most {IMPORT_BATCH_ROWS_MAX}")
        outcome = ImportOutcome()
        await self._follows(batch.follows, outcome)
        await self._mutes(batch.mutes, outcome)
        await self._import_posts(batch.posts, outcome)
        await self._interactions(batch.interactions, outcome)
        return outcome

    async def _follows(self, edges: Sequence[tuple[int, int]], outcome: ImportOutcome) -> None:
        if not edges:
            return
        good = _good_edges("follows", "follower_id", "followee_id", edges, outcome)
        outcome.count(len(good), await self._graph.import_follows(good, self._clock.now_ms()))
        # Posts that follow in the load must find their authors in the right mode.
        await self._policy.review(self._clock.now_ms())

    async def _mutes(self, edges: Sequence[tuple[int, int]], outcome: ImportOutcome) -> None:
        if not edges:
            return
        good = _good_edges("mutes", "user_id", "target_user_id", edges, outcome)
        now_ms = self._clock.now_ms()
        rows = [(user, Preference(PreferenceKind.MUTE, target, 0, now_ms)) for user, target in good]
        outcome.count(len(rows), await self._preferences.import_preferences(rows))

    async def _import_posts(self, rows: Sequence[PostRow], outcome: ImportOutcome) -> None:
        if not rows:
            return
        now_ms = self._clock.now_ms()
        posts: list[tuple[int, PostRow, NewPost]] = []
        for index, row in enumerate(rows):
            try:
                posts.append((index, row, self._new_post(row, now_ms)))
            except FeedcoreError as error:
                outcome.refused.append(Refusal("posts", index, str(error)))
        authors = list({post.author_id for _, _, post in posts})
        sizes = await gather_bounded(authors, partial(audience_of, self._graph))
        followers = dict(zip(authors, sizes, strict=True))
        published = await self._posts.import_posts(
            [replace(post, followers=followers[post.author_id]) for _, _, post in posts]
        )
        counts = []
        for (index, row, _), result in zip(posts, published, strict=True):
            if result is None:
                reason = f"post_key: {row.post_key!r} was imported with another body"
                outcome.refused.append(Refusal("posts", index, reason))
                continue
            outcome.count(1, not result.replayed)
            if not result.replayed and (row.likes or row.comments or row.shares):
                counts.append(
                    ImportedCounts(result.content_id, row.likes, row.comments, row.shares)
                )
        if counts:
            await self._signals.import_counts(counts)

    def _new_post(self, row: PostRow, now_ms: int) -> NewPost:
        check_id("author_id", row.author_id)
        if not row.post_key:
            raise InvalidField("post_key", "empty", "must be given")
        if row.at_ms < now_ms - RETENTION_MS:
            raise InvalidField(
                "published_at_ms",
                str(row.at_ms),
                f"older than {RETENTION_MS} ms is not kept",
            )
        if row.at_ms > now_ms + CLOCK_AHEAD_MAX_MS:
            raise InvalidField("published_at_ms", str(row.at_ms), "must not be in the future")
        if min(row.likes, row.comments, row.shares) < 0:
            raise InvalidField("likes, comments, shares", "negative", "must be 0 or more")
        content = encode_content(row.body, (), 0)
        # Posts of the same millisecond: the store moves on to the next free sequence number.
        content_id = ids.make(row.at_ms, self._region, IMPORT_NODE, 0)
        return NewPost(
            content_id=content_id,
            author_id=row.author_id,
            content=content,
            digest=digest(content),
            visibility=0,
            quality=QUALITY_TEXT,
            idempotency_key=check_idempotency_key(KEY_PREFIX + row.post_key),
        )

    async def _interactions(self, rows: Sequence[InteractionRow], outcome: ImportOutcome) -> None:
        if not rows:
            return
        good = []
        for index, row in enumerate(rows):
            try:
                good.append(await self._interaction(row))
            except FeedcoreError as error:
                outcome.refused.append(Refusal("interactions", index, str(error)))
        outcome.count(len(good), await self._signals.import_interactions(good))

    async def _interaction(self, row: InteractionRow) -> Interaction:
        check_id("user_id", row.user_id)
        content_id = row.content_id
        if row.post_key:
            check_id("author_id", row.author_id)
            key = KEY_PREFIX + row.post_key
            content_id = await self._posts.content_id_of(row.author_id, key)
            if not content_id:
                raise InvalidField("post_key", repr(row.post_key), "must be an imported post")
        check_id("content_id", content_id)
        try:
            kind = InteractionKind[row.kind.upper()]
        except KeyError:
            known = ", ".join(kind.name.lower() for kind in InteractionKind)
            raise InvalidField("kind", repr(row.kind), f"must be one of {known}") from None
        return Interaction(row.user_id, content_id, kind, True, row.at_ms)


def _good_edges(
    name: str, left: str, right: str, edges: Sequence[tuple[int, int]], outcome: ImportOutcome
) -> list[tuple[int, int]]:
    good = []
    for index, (source, target) in enumerate(edges):
        try:
            check_two_users(left, source, right, target)
            good.append((source, target))
        except FeedcoreError as error:
            outcome.refused.append(Refusal(name, index, str(error)))
    return good
