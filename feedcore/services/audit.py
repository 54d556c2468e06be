"""Recomputes sampled feeds by brute force and compares: the invariants of visibility and
monotonicity, checked on live data. Expected = every post of every followed author within retention
that passes the filters. Timelines are compared with posts, too: what one has and the other lacks is
damage, and is named, since pages that both sides make from the same damaged source would agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from feedcore import native
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.entry import unpack
from feedcore.domain.visibility import Verdict
from feedcore.errors import InvalidField
from feedcore.limits import (
    AUDIT_FINDINGS_MAX,
    AUDIT_USERS_MAX,
    BACKFILL_ENTRIES_MAX,
    CLOCK_AHEAD_MAX_MS,
    PAGE_SIZE_MAX,
    RETENTION_MS,
    USER_ID_MAX,
)
from feedcore.ports import CacheValidation, ContentSource, GraphSource, PostStore
from feedcore.resilience.pacing import Pace
from feedcore.services.feed import FeedService

SAMPLE_DEFAULT = 100
AUTHORS_PER_SLICE = 32  # their timelines and verdicts take about a millisecond
CONTENTS_PER_READ = 100  # about a millisecond


@dataclass(slots=True)
class AuditReport:
    """Counts over all sampled users; `findings` are lines for people, at most
    AUDIT_FINDINGS_MAX.
    """

    users: int = 0
    expected: int = 0
    missing: int = 0
    duplicate: int = 0
    unexpected: int = 0
    findings: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Adds a finding while there is room."""
        if len(self.findings) < AUDIT_FINDINGS_MAX:
            self.findings.append(line)


class AuditService:
    """Reads only; costs a full scroll a user."""

    def __init__(
        self,
        feed: FeedService,
        posts: PostStore,
        contents: ContentSource,
        graph: GraphSource,
        validation: CacheValidation,
        clock: Clock,
    ) -> None:
        self._feed = feed
        self._posts = posts
        self._contents = contents
        self._graph = graph
        self._validation = validation
        self._clock = clock

    async def sample(self, count: int, seed: int) -> list[int]:
        """The users an audit of this seed looks at."""
        if not 0 <= count <= AUDIT_USERS_MAX:
            raise InvalidField(
                "sample", str(count), f"must be 1 to {AUDIT_USERS_MAX}, or 0 for 100"
            )
        return await self._graph.sample_users(count or SAMPLE_DEFAULT, seed)

    async def audit_user(self, user_id: int, report: AuditReport, share: float = 1.0) -> None:
        """Compares one user's feed and adds what it finds to `report`; see `audit`."""
        pace = Pace(share)
        now_ms = self._clock.now_ms()
        expected = await self._by_brute_force(user_id, now_ms, pace)
        served = await self._feed.scroll_ids(user_id, PAGE_SIZE_MAX, pace.rest)
        report.users += 1
        report.expected += len(expected)
        if len(served) != len(set(served)):
            report.duplicate += len(served) - len(set(served))
            report.note(f"user {user_id}: an item was served twice")
        # What was published or expired while this ran belongs to neither side.
        oldest = ids.first_id_at(now_ms - RETENTION_MS + CLOCK_AHEAD_MAX_MS)
        newest = ids.last_id_at(now_ms - 1)
        still_there = await self._by_brute_force(user_id, self._clock.now_ms(), pace)
        for content_id in sorted((expected & still_there) - set(served)):
            if oldest <= content_id <= newest:
                report.missing += 1
                report.note(f"user {user_id}: {content_id} is missing")
        await self._compare_posts(user_id, sorted(expected & still_there), report, pace)
        for content_id in sorted(set(served) - expected - still_there):
            if oldest <= content_id <= newest:
                report.unexpected += 1
                report.note(f"user {user_id}: {content_id} should not be there")

    async def _compare_posts(
        self, user_id: int, content_ids: list[int], report: AuditReport, pace: Pace
    ) -> None:
        """What is in timelines must be among the posts, unless it was deleted meanwhile."""
        for at in range(0, len(content_ids), CONTENTS_PER_READ):
            some = content_ids[at : at + CONTENTS_PER_READ]
            found = await self._contents.contents(some)
            for content_id, content in zip(some, found, strict=True):
                if content is None and content_id not in self._posts.tombstones():
                    report.missing += 1
                    report.note(
                        f"user {user_id}: {content_id} is in its author's timeline, but its post is"
                        " gone: the table of posts is damaged"
                    )
            await pace.rest()

    async def audit(self, count: int, seed: int, share: float = 1.0) -> AuditReport:
        """Audits a sample, in `share` of the event loop's time. Raises InvalidField."""
        report = AuditReport()
        for user_id in await self.sample(count, seed):
            await self.audit_user(user_id, report, share)
        return report

    async def _by_brute_force(self, user_id: int, now_ms: int, pace: Pace) -> set[int]:
        await self._validation.observe_viewer(user_id)
        viewer = await self._feed.viewers.read(user_id, now_ms)
        if not viewer.followees:
            return set()
        authors = [*native.unpack_ids(viewer.followees), user_id]
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        found: set[int] = set()
        audience = viewer.audience(require_follow=True)
        # Author by author through the timelines: none of the feed's own machinery is used.
        for at in range(0, len(authors), AUTHORS_PER_SLICE):
            some = authors[at : at + AUTHORS_PER_SLICE]
            bounds = USER_ID_MAX, oldest, BACKFILL_ENTRIES_MAX
            for timeline in (await self._posts.timelines(some, *bounds)).entries:
                entries = native.merge_newest([timeline], *bounds)
                verdicts = native.judge(entries, audience, self._posts.tombstones())
                found.update(
                    entry.content_id
                    for entry, verdict in zip(unpack(entries), verdicts, strict=True)
                    if verdict == Verdict.KEEP
                )
            await pace.rest()
        return found
