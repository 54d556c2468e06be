"""SignalStore: interactions are rows by key, so that what is repeated is there once; what is made
from them (counts, engagement, affinity) is counted anew for what is marked, and written absolutely.

Not for how: see interactions.py, counters.py, affinity.py, trending.py, impressions.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.common.engagement_table import PAIR, EngagementTable
from feedcore.adapters.contracts.announcements import Announcer, Engagement, Event, SettingsChanged
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.counting.affinity import Affinity
from feedcore.adapters.cql.counting.counters import Counters
from feedcore.adapters.cql.counting.impressions import Impressions
from feedcore.adapters.cql.counting.interactions import Interactions
from feedcore.adapters.cql.counting.trending import Trending
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.dirty import DirtyMarks, DirtyReader, Kind
from feedcore.clock import Clock
from feedcore.ports import ImportedCounts, Interaction, InteractionKind
from feedcore.resilience.gather import gather_all, gather_bounded

RECOUNTS_MAX = 512  # contents, and users, of one call: about a second of one worker


class CqlSignalStore:
    """See `ports.signals.SignalStore`."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        announcer: Announcer,
        clock: Clock,
        table: EngagementTable,
    ) -> None:
        self._announcer = announcer
        self._clock = clock
        # rows of a viewer have one source of timestamps in a process: its job ids
        stamps = Stamps(lambda: timestamp_us(outbox.next_job_id()))
        marking = Stamps()
        self._marks = DirtyMarks(session, marking)
        self._contents = DirtyReader(session, marking, Kind.CONTENT)
        self._users = DirtyReader(session, marking, Kind.AFFINITY)
        self._interactions = Interactions(session, self._marks, stamps)
        self._counters = Counters(session, stamps)
        self._affinity = Affinity(session, stamps)
        self.table = table
        self._trending = Trending(session, self.table)
        self._impressions = Impressions(session, clock)

    @property
    def impressions_dropped(self) -> int:
        """Since the start."""
        return self._impressions.dropped

    async def record(self, interaction: Interaction) -> bool:
        """Two round trips; three for a hide."""
        changed = await self._interactions.record(interaction)
        if interaction.kind == InteractionKind.HIDE:
            await self._announcer.announce(viewers=[interaction.user_id])
        return changed

    async def import_counts(self, rows: Sequence[ImportedCounts]) -> None:
        """What a post had elsewhere is kept apart from what is counted here."""
        now_ms = self._clock.now_ms()

        async def set_base(row: ImportedCounts) -> tuple[int, float] | None:
            return await self._counters.set_base(row[0], row[1:], now_ms)

        by_id = {row[0]: row for row in rows}  # the last of each, as one after the other would
        pairs = await gather_bounded(list(by_id.values()), set_base)
        await self._announce([pair for pair in pairs if pair is not None], [])

    async def import_interactions(self, rows: Sequence[Interaction]) -> int:
        """Side by side; those of one (user, content, kind) in order."""
        new = await self._interactions.import_all(rows)
        viewers = {one.user_id for one in rows if one.kind == InteractionKind.HIDE}
        if viewers:
            await self._announcer.announce(viewers=sorted(viewers))
        return new

    def impressions(self, content_ids: Sequence[int], times: int = 1) -> None:
        """Added up in memory."""
        self._impressions.add(content_ids, times)

    async def write_impressions(self) -> int:
        """Writes what is buffered; how many items."""
        return await self._impressions.write()

    async def apply_counters(self, limit: int, now_ms: int) -> int:
        """Contents that were counted, or users where no content was marked; RECOUNTS_MAX at most.
        Several workers may do it at once.
        """
        most = min(limit, RECOUNTS_MAX)
        contents, users = await gather_all(
            self._contents.take(most, self._counters.held(now_ms)), self._users.take(most)
        )
        if not contents and not users:
            return 0
        (done, pairs), viewers = await gather_all(
            self._counters.recount(list(contents), now_ms), self._affinity.recount(list(users))
        )
        await self._announce(pairs, viewers)
        # last: until here, who follows a worker that died does all of it again
        await gather_all(
            self._contents.clear(mark for one in done for mark in contents[one]),
            self._users.clear(mark for marks in users.values() for mark in marks),
        )
        return len(contents) or len(users)

    def engagement(self, entries: bytes) -> bytes:
        """From this process's table."""
        return self.table.lookup(entries)

    async def refresh_trending(self, now_ms: int) -> None:
        """Weight halves every TRENDING_HALF_LIFE_MS; without any, new public posts."""
        if await self._trending.refresh(now_ms):
            await self._announcer.announce(events=[SettingsChanged("trending")])

    async def close(self) -> None:
        """Writes what is buffered."""
        await self._impressions.close()

    async def _announce(self, pairs: Sequence[tuple[int, float]], viewers: Sequence[int]) -> None:
        packed = b"".join(PAIR.pack(*pair) for pair in pairs)
        self.table.apply(packed)
        self._trending.note(pairs)
        events: list[Event] = [Engagement(packed)] if packed else []
        if events or viewers:
            await self._announcer.announce(viewers=viewers, events=events)
