"""What publishing a post makes: its entry, the fan-out jobs, and what is remembered of it.

    mode             visibility          lanes                     reach      readers merge it
    PUSH             public, followers   ALL, or ACTIVE and REST   counted    no
    DRAINING         public, followers   ALL, or ACTIVE and REST   counted    yes
    PULL             public, followers   none                      followers  yes
    any              private             none                      0          as the mode says
    PUSH, DRAINING   older than          none                      counted    no: in no timeline
                     RETENTION_MS

A push is queued even if nobody is known to follow: a follow may be under way, and looks for posts
only after its edge is stored. So either that follow finds the post and asks for a backfill, or the
post's job finds the follower. The count of followers decides only how many passes the job makes;
where the graph gives no count (0), one pass serves everybody.

Stores read the mode as of their commit and carry out the plan. Not for delivering, nor for who is
in which lane: that is the fan-out worker's and the graph's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.entry import Visibility
from feedcore.domain.jobs import Lane
from feedcore.domain.policy import Mode
from feedcore.errors import FeedcoreError, IdempotencyConflict, NotFound, NotPermitted
from feedcore.limits import LANE_SPLIT_FOLLOWERS, RETENTION_MS


@dataclass(frozen=True, slots=True)
class NewPost:
    """A validated post. `content` is a wire-encoded feedcore.v1.Content; `digest` tells two
    requests apart.

    The time of publishing is read from `content_id`. `visibility` is `domain.entry.Visibility`.
    `idempotency_key` may be empty: then nothing is deduplicated. `followers` is what the graph
    counts about now, 0 where it does not say.
    """

    content_id: int
    author_id: int
    content: bytes
    digest: bytes
    visibility: int
    quality: float
    idempotency_key: str
    has_media: bool = False
    followers: int = 0


class PublishPlan(NamedTuple):
    """What a store writes of one post."""

    entry: bytes
    kept: bool  # feeds and timelines may hold it: it is not older than RETENTION_MS
    mode: Mode  # the author's
    lanes: tuple[Lane, ...]  # one POST job each
    reach: int  # whose feeds pull it; what is pushed is counted as it is delivered
    finished_ms: int  # when there was nothing left to deliver; 0: jobs say so, or it is pulled
    discoverable: bool  # users who do not follow the author may be shown it

    @property
    def queued(self) -> bool:
        """Whether a job waits."""
        return bool(self.lanes)

    @property
    def pulled(self) -> bool:
        """Readers find it in the author's timeline only."""
        return not self.mode.pushed


def plan_publish(post: NewPost, content_id: int, mode: int, now_ms: int) -> PublishPlan:
    """`content_id`: the post's own, or the next free one. `mode`: the author's."""
    author_mode = Mode(mode)
    private = post.visibility == Visibility.PRIVATE
    kept = ids.time_ms(content_id) >= now_ms - RETENTION_MS
    lanes: tuple[Lane, ...] = ()
    if author_mode.pushed and kept and not private:
        split = post.followers > LANE_SPLIT_FOLLOWERS
        lanes = (Lane.ACTIVE, Lane.REST) if split else (Lane.ALL,)
    flags = post.visibility | (entries_of.FLAG_MEDIA if post.has_media else 0)
    return PublishPlan(
        entry=entries_of.pack(content_id, post.author_id, post.quality, flags),
        kept=kept,
        mode=author_mode,
        lanes=lanes,
        reach=0 if author_mode.pushed or private else post.followers,
        finished_ms=0 if lanes or not author_mode.pushed else ids.time_ms(content_id),
        discoverable=kept and post.visibility == Visibility.PUBLIC,
    )


def check_replay(post: NewPost, digest: bytes) -> None:
    """`digest` is of the request that used the key first. Raises IdempotencyConflict."""
    if digest != post.digest:
        raise IdempotencyConflict(
            "idempotency_key: used for another request of this author; use a new key"
        )


def deletion_refused(*, author_known: bool) -> FeedcoreError:
    """The error for who asks to delete the post of another author."""
    if author_known:
        return NotPermitted("author_id: the post belongs to another author")
    return NotFound("author_id: no such author")


NO_SUCH_POST = "content_id: no such post"
