"""Why one item is, or is not, in one user's feed: the commonest complaint, answered from the same
data and code that serve the page.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from feedcore import native
from feedcore.clock import Clock
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.domain.ranking import explain_terms
from feedcore.domain.visibility import Audience, Verdict
from feedcore.limits import RETENTION_MS
from feedcore.ports import CacheValidation, FeedStore, Post, PostStats, PostStore, SignalStore
from feedcore.services.admission import check_id
from feedcore.services.feed import FeedService
from feedcore.services.viewer import Viewer, is_followed

# What to leave out of an audience, so that a reason is not found again.
_WITHOUT: dict[Verdict, dict[str, Any]] = {
    Verdict.BLOCKED: {"blocked": b""},
    Verdict.UNFOLLOWED: {"require_follow": False},
    Verdict.MUTED: {"muted": b""},
    Verdict.SNOOZED: {"snoozed": b""},
    Verdict.HIDDEN: {"hidden": b""},
}


@dataclass(slots=True)
class Explanation:
    """`filters`: (name, dropped) in order; `terms`: (name, factor) in order; `rank` from 1, 0 = not
    a candidate.
    """

    in_feed: bool = False
    verdict: str = ""
    delivered_by: str = "none"
    delivered_at_ms: int = 0
    filters: list[tuple[str, bool]] = field(default_factory=list)
    terms: list[tuple[str, float]] = field(default_factory=list)
    score: float = 0.0
    rank: int = 0
    ranking_version: int = 0
    experiment_arm: str = ""


class ExplainService:
    """Reads only."""

    def __init__(
        self,
        feed: FeedService,
        feeds: FeedStore,
        posts: PostStore,
        signals: SignalStore,
        validation: CacheValidation,
        clock: Clock,
    ) -> None:
        self._feed = feed
        self._feeds = feeds
        self._posts = posts
        self._signals = signals
        self._validation = validation
        self._clock = clock

    async def explain(self, user_id: int, content_id: int) -> Explanation:
        """The whole story of one item for one user."""
        check_id("user_id", user_id)
        check_id("content_id", content_id)
        await self._validation.observe_viewer(user_id)
        now_ms = self._clock.now_ms()
        viewer = await self._feed.viewers.read(user_id, now_ms)
        told = Explanation(
            ranking_version=viewer.ranking_version, experiment_arm=viewer.experiment_arm
        )
        post = await self._posts.get(content_id)
        stats = await self._posts.stats(content_id)
        if post is None or stats is None:
            deleted = content_id in self._posts.tombstones()
            told.filters = [("deleted", deleted)]
            told.verdict = "the post was deleted" if deleted else "there is no such post"
            return told
        told.filters = self._filters(viewer, post, now_ms)
        await self._delivery(told, viewer, post, stats)
        await self._score(told, viewer, post, now_ms)
        dropped = [name for name, is_dropped in told.filters if is_dropped]
        told.in_feed = not dropped and told.delivered_by != "none"
        told.verdict = _sentence(told, dropped)
        return told

    def _filters(self, viewer: Viewer, post: Post, now_ms: int) -> list[tuple[str, bool]]:
        """Every filter's own verdict: an item can be kept out by several."""
        entry = entries_of.pack(post.content_id, post.author_id, flags=post.visibility)
        audience = viewer.audience(require_follow=True)
        reasons = all_reasons(entry, audience, self._posts.tombstones())
        told = [(one.name.lower(), one in reasons) for one in Verdict if one is not Verdict.KEEP]
        expired = ids.time_ms(post.content_id) < now_ms - RETENTION_MS
        return [told[0], ("expired", expired), *told[1:]]

    async def _delivery(
        self, told: Explanation, viewer: Viewer, post: Post, stats: PostStats
    ) -> None:
        """By which way the item reaches the feed, and since when."""
        published_ms = ids.time_ms(post.content_id)
        if post.author_id == viewer.user_id:
            told.delivered_by, told.delivered_at_ms = "own", published_ms
        elif await self._feeds.delivered(viewer.user_id, post.content_id):
            told.delivered_by, told.delivered_at_ms = "push", stats.fanned_out_ms or published_ms
        else:
            window = await self._feeds.window(
                viewer.user_id, viewer.followees, post.content_id, post.content_id, 1
            )
            pulled = {*self._feeds.pulled_authors(viewer.user_id, viewer.followees)}
            follows = is_followed(viewer, post.author_id)
            if follows and (
                not window.built
                or post.author_id in pulled
                or post.author_id in window.pending_authors
            ):
                told.delivered_by, told.delivered_at_ms = "pull", published_ms
            elif any(
                entry.content_id == post.content_id
                for source in window.sources
                for entry in entries_of.unpack(source)
            ):
                told.delivered_by, told.delivered_at_ms = "overlay", published_ms

    async def _score(self, told: Explanation, viewer: Viewer, post: Post, now_ms: int) -> None:
        """The item's score terms, and its place among the candidates of the first page."""
        scored = await self._feed.score_first_window(viewer.user_id)
        for place, (score, content_id) in enumerate(sorted(scored, reverse=True), start=1):
            if content_id == post.content_id and score > 0:
                told.rank = place
        at = post.content_id
        timelines = await self._posts.timelines([post.author_id], at, at, 1)
        packed = native.merge_newest(timelines.entries, at, at, 1)
        if not packed:
            return
        (engagement,) = struct.unpack("<f", self._signals.engagement(packed[:ENTRY_BYTES]))
        terms = explain_terms(
            entries_of.unpack(packed)[0],
            engagement,
            viewer.affinity_to(post.author_id),
            native.ids_contain(viewer.filters.see_less, post.author_id),
            viewer.parameters,
            now_ms,
        )
        told.terms = list(terms._asdict().items())
        told.score = terms.score


def all_reasons(entry: bytes, audience: Audience, tombstones: native.U64Set) -> set[Verdict]:
    """Of one entry: what the page's verdict says, and would say without the reasons before."""
    found: set[Verdict] = set()
    while (verdict := Verdict(native.judge(entry, audience, tombstones)[0])) is not Verdict.KEEP:
        found.add(verdict)
        if verdict is Verdict.AUDIENCE:  # the last that is looked at
            break
        if verdict is Verdict.DELETED:
            tombstones = native.U64Set()
        else:
            audience = audience._replace(**_WITHOUT[verdict])
    return found


def _sentence(told: Explanation, dropped: list[str]) -> str:
    if dropped:
        return f"not in the feed: {', '.join(dropped)}"
    if told.delivered_by == "none":
        return "not in the feed: it never reached it"
    place = f"number {told.rank} of the first window" if told.rank else "further down"
    return f"in the feed by {told.delivered_by}, {place}"
