"""What was copied beside what it was copied from: rows of each table, and whole feeds of a sample.

A table is counted in parts of the token ring, each small enough for one request. A feed is scrolled
to its end on both sides at one time, and the first window is compared with its scores. Not for
proving that nothing was written to the cluster besides: more rows than were copied are no
difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feedcore.adapters.cluster.direct_replica import DirectReplica
from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.counting.signals import CqlSignalStore
from feedcore.adapters.cql.counting.system_of_record import CqlSystemOfRecord
from feedcore.adapters.cql.driver.ids import TOKEN_MAX, TOKEN_MIN
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.stores.contents import CqlContentSource
from feedcore.adapters.cql.stores.feeds import CqlFeedStore
from feedcore.adapters.cql.stores.graph import CqlGraphSource
from feedcore.adapters.cql.stores.posts import CqlPostStore
from feedcore.adapters.cql.stores.preferences import CqlPreferenceStore
from feedcore.adapters.cql.stores.settings import CqlSettingsStore
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka.outbox import KafkaOutbox, Row
from feedcore.clock import Clock, ManualClock
from feedcore.errors import Unavailable
from feedcore.limits import PAGE_SIZE_MAX
from feedcore.migrating.copy import Tally
from feedcore.ports import FanoutJob
from feedcore.resilience.gather import gather_bounded
from feedcore.services.feed import FeedService

PARTS = 64  # of the token ring at first; one that takes too long is halved
PARTS_AT_ONCE = 4
HALVINGS_MAX = 20
FINDINGS_MAX = 20
SCORE_TOLERANCE = 1e-6  # counted in 32 bits on both sides

_KEYS = {
    "posts": "content_id",
    "outbox": "author_id, day",
    "tombstones": "hour",
    "idempotency": "author_id, key",
    "post_counts": "content_id",
    "impressions": "content_id",
    "engagement": "day, bucket",
    "interactions": "content_id",
    "user_interactions": "user_id",
    "interaction_keys": "user_id, key",
    "viewer": "user_id",
    "followers": "author_id",
    "activity": "bucket",
    "feed": "user_id",
    "author_modes": "bucket",
    "author_sizes": "author_id",
    "settings": "name",
}


class TableCount(NamedTuple):
    """`copied`: rows that must be there; `kept`: of those, rows that were another's before."""

    table: str
    copied: int
    kept: int
    found: int

    @property
    def equal(self) -> bool:
        """Nothing is missing."""
        return self.found >= self.copied


@dataclass(slots=True)
class Comparison:
    """`findings` are lines for people, at most FINDINGS_MAX."""

    tables: list[TableCount] = field(default_factory=list)
    users: int = 0
    items: int = 0
    users_differ: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Nothing visible has changed, as far as was looked."""
        return not self.users_differ and all(one.equal for one in self.tables)


async def count_tables(session: Session, tally: Tally, clock: Clock) -> list[TableCount]:
    """Of every table that rows were written to."""
    counts = []
    for table, key in _KEYS.items():
        found = await _count(session, table, key) if tally.written[table] else 0
        copied = tally.lasting(table, clock.now_ms())
        counts.append(TableCount(table, copied, tally.kept[table], found))
    return counts


async def _count(session: Session, table: str, key: str) -> int:
    statement = Statement(
        f"SELECT count(*) FROM {table} WHERE token({key}) > ? AND token({key}) <= ?"
    )
    step = (1 << 64) // PARTS
    bounds = [TOKEN_MIN + number * step for number in range(PARTS)] + [TOKEN_MAX]

    async def part(low: int, high: int, halvings: int = 0) -> int:
        try:
            return int((await session.read(statement, (low, high)))[0][0])
        except Unavailable:
            if halvings == HALVINGS_MAX:
                raise
        middle = (low + high) // 2
        first = await part(low, middle, halvings + 1)
        return first + await part(middle, high, halvings + 1)

    pairs = list(itertools.pairwise(bounds))
    return sum(await gather_bounded(pairs, lambda pair: part(*pair), PARTS_AT_ONCE))


class _Outbox:
    """A JobOutbox whose jobs stay rows, for the sweeper."""

    def __init__(self, job_ids: JobIds) -> None:
        self._job_ids = job_ids

    def next_job_id(self) -> int:
        return self._job_ids.new_id()

    def write_of(self, job: FanoutJob) -> Write:
        return KafkaOutbox.row_of(Row(job.job_id, job))

    def relay(self, jobs: Sequence[FanoutJob]) -> None:
        """Swept."""


class ClusterView:
    """Ports as a node has them that reads everything from the tables. `load` comes first."""

    def __init__(self, session: Session, secret: bytes, clock: Clock, job_ids: JobIds) -> None:
        outbox = _Outbox(job_ids)
        self.secret = secret
        self.validation = replica = DirectReplica(CqlSystemOfRecord(session), clock)
        self.feeds = CqlFeedStore(session, outbox, replica, clock)
        self.posts = CqlPostStore(session, outbox, replica, clock)
        self.contents = CqlContentSource(session, replica)
        self.graph = CqlGraphSource(session, outbox, replica)
        self.preferences = CqlPreferenceStore(session, outbox, replica, clock)
        self.signals = CqlSignalStore(session, outbox, replica, clock, replica.state.engagement)
        self.settings = CqlSettingsStore(session, replica, clock)

    async def load(self) -> None:
        """Engagement, and what is replicated."""
        await self.validation.load()


def feed_over(store: EmbeddedStore | ClusterView, clock: Clock) -> FeedService:
    """Feeds as this side serves them."""
    return FeedService(
        store.feeds,
        store.posts,
        store.contents,
        store.graph,
        store.preferences,
        store.signals,
        store.settings,
        store.validation,
        store.secret,
        clock,
    )


async def compare_feeds(
    store: EmbeddedStore,
    session: Session,
    user_ids: Sequence[int],
    clock: Clock,
    job_ids: JobIds,
    result: Comparison,
) -> None:
    """Each user's whole feed, at one moment for both sides."""
    held = ManualClock(clock.now_ms())
    view = ClusterView(session, store.secret, held, job_ids)
    await view.load()
    here, there = feed_over(store, held), feed_over(view, held)
    for user_id in user_ids:
        # an item may have left one side by its age between the two readings: look once more
        for _ in range(2):
            held.move_to(clock.now_ms())
            expected, difference = await _differ(here, there, user_id)
            if not difference:
                break
        result.users += 1
        result.items += expected
        if difference:
            result.users_differ += 1
            if len(result.findings) < FINDINGS_MAX:
                result.findings.append(difference)


async def _differ(here: FeedService, there: FeedService, user_id: int) -> tuple[int, str]:
    expected = await here.scroll_ids(user_id, PAGE_SIZE_MAX)
    found = await there.scroll_ids(user_id, PAGE_SIZE_MAX)
    if expected != found:
        missing, more = set(expected) - set(found), set(found) - set(expected)
        what = f"{len(missing)} items missing, {len(more)} too many"
        if not missing and not more:
            what = "the same items in another order"
        return len(expected), f"user {user_id}: {what}"
    scores, others = await _scores(here, user_id), await _scores(there, user_id)
    if scores.keys() != others.keys():
        return len(expected), f"user {user_id}: other candidates of the first page"
    for content_id, score in scores.items():
        if abs(score - others[content_id]) > SCORE_TOLERANCE * max(score, 1.0):
            return len(expected), f"user {user_id}: item {content_id} has another score"
    return len(expected), ""


async def _scores(feed: FeedService, user_id: int) -> dict[int, float]:
    """Of what filters let pass: deleted posts, for one, are candidates on one side only."""
    window = await feed.score_first_window(user_id)
    return {content_id: score for score, content_id in window if score > 0.0}
