"""One copy of an embedded store into a cluster, kind by kind.

Invariants: all writes are idempotent, so that a copy that was killed is simply run again; the store
is read only, and in memory there is one part of one kind at a time. Stored feeds are derived again,
from the outboxes of whoever each active user follows: that is what jobs, merges and rebuilds that
wait would have made of them. Posts that wait for fan-out become jobs of the cluster, for their
figures and for who follows meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from feedcore import native
from feedcore.adapters.contracts.job_ids import US_PER_MS, JobIds
from feedcore.adapters.cql.driver.session import Session
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.activity import in_parts
from feedcore.adapters.cql.stores.dirty import DirtyMarks
from feedcore.adapters.cql.stores.dirty import Kind as Dirty
from feedcore.adapters.cql.stores.viewer_partition import Kind
from feedcore.adapters.embedded.graph import BLOCK, BLOCKED_BY
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.dead_letters import DeadLetters
from feedcore.adapters.kafka.outbox import KafkaOutbox, Row
from feedcore.clock import Clock
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.limits import BACKFILL_ENTRIES_MAX, RETENTION_MS
from feedcore.migrating.cql_rows import Copier
from feedcore.migrating.embedded_rows import Contents
from feedcore.ports import PreferenceKind
from feedcore.resilience.gather import gather_bounded

FEEDS_AT_ONCE = 16  # users whose feeds are written side by side
TELL_EVERY_S = 2.0

KINDS = {int(kind): Kind(int(kind)) for kind in PreferenceKind} | {
    BLOCK: Kind.BLOCKS,
    BLOCKED_BY: Kind.BLOCKED_BY,
}
Echo = Callable[[str], Any]
Step = Callable[[], AsyncIterator[int]]


class Copy:
    """One run; `tally` of `copier` says what was written."""

    def __init__(
        self,
        store: EmbeddedStore,
        contents: Contents,
        session: Session,
        copier: Copier,
        clock: Clock,
        echo: Echo,
    ) -> None:
        self._store = store
        self._contents = contents
        self._session = session
        self._copier = copier
        self._clock = clock
        self._echo = echo

    async def run(self, job_ids: JobIds | None) -> None:
        """`job_ids` None: jobs were copied before, and may be done by now."""
        steps: list[tuple[str, Step]] = [
            ("settings", self._simple(self._contents.settings, self._copier.documents)),
            ("authors", self._simple(self._contents.authors, self._copier.authors)),
            ("deleted posts", self._timed(self._contents.tombstones, self._copier.tombstones)),
            ("posts", self._timed(self._contents.posts, self._copier.posts)),
            ("publish keys", self._timed(self._contents.idempotency, self._copier.idempotency)),
            ("counts", self._timed(self._contents.counts, self._copier.counts)),
            ("interactions", self._simple(self._contents.interactions, self._copier.interactions)),
            (
                "interaction keys",
                self._timed(self._contents.interaction_keys, self._copier.interaction_keys),
            ),
            ("follows", self._followees),
            ("followers", self._simple(self._contents.followers, self._copier.followers)),
            ("preferences and blocks", self._relations),
            ("affinity", self._simple(self._contents.affinity, self._copier.affinity)),
            ("users seen", self._simple(self._contents.seen, self._copier.seen)),
            ("inactive users", self._simple(self._contents.inactive, self._copier.inactive)),
            ("feeds", self._feeds),
            ("uncounted interactions", self._uncounted),
        ]
        for name, step in steps:
            await self._tell(name, step)
        await self._copier.newest_ids(self._contents.newest_ids())
        if trending := self._store.posts.trending():
            await self._copier.trending(trending)
        if job_ids is not None:
            await self._tell("posts to fan out", lambda: self._jobs(job_ids))

    async def _tell(self, name: str, step: Step) -> None:
        done, told_s = 0, self._clock.monotonic()
        async for rows in step():
            done += rows
            if self._clock.monotonic() - told_s >= TELL_EVERY_S:
                told_s = self._clock.monotonic()
                self._echo(f"{name}: {done:,} ...")
        self._echo(f"{name}: {done:,}")

    def _simple(self, read: Callable[[], Iterator[list]], write: Any) -> Step:
        async def step() -> AsyncIterator[int]:
            for rows in read():
                await write(rows)
                yield len(rows)

        return step

    def _timed(self, read: Callable[[], Iterator[list]], write: Any) -> Step:
        async def step() -> AsyncIterator[int]:
            for rows in read():
                await write(rows, self._clock.now_ms())
                yield len(rows)

        return step

    async def _relations(self) -> AsyncIterator[int]:
        for rows in self._contents.relations():
            await self._copier.relations(rows, KINDS, self._clock.now_ms())
            yield len(rows)

    async def _followees(self) -> AsyncIterator[int]:
        for rows in self._contents.followees():
            for part in _parts(rows):
                found = [(user_id, native.unpack_ids(packed)) for user_id, packed in part]
                await gather_bounded(found, lambda one: self._copier.followees(*one), FEEDS_AT_ONCE)
                yield sum(len(authors) for _, authors in found)

    async def _feeds(self) -> AsyncIterator[int]:
        """Entries."""
        pulled = native.U64Set(
            [
                row.author_id
                for rows in self._contents.authors()
                for row in rows
                if row.mode == Mode.PULL
            ]
        )
        deleted = self._store.posts.tombstones()

        async def one(row: tuple[int, bytes]) -> int:
            now_ms = self._clock.now_ms()
            entries = await self._feed_of(row[1], pulled, deleted, now_ms)
            await self._copier.feed(row[0], entries, now_ms)
            return len(entries) // entries_of.ENTRY_BYTES

        for rows in self._contents.active_followees():
            for part in _parts(rows):
                yield sum(await gather_bounded(part, one, FEEDS_AT_ONCE))

    async def _feed_of(self, packed: bytes, pulled: Any, deleted: Any, now_ms: int) -> bytes:
        authors = [one for one in native.unpack_ids(packed) if one not in pulled]
        if not authors:
            return b""
        oldest = ids.first_id_at(now_ms - RETENTION_MS)
        timelines = await self._store.posts.timelines(authors, ids.ID_MAX, oldest, 0)
        merged = native.merge_newest(
            timelines.entries, ids.ID_MAX, oldest, BACKFILL_ENTRIES_MAX * len(authors)
        )
        return b"".join(
            entries_of.ENTRY.pack(content_id ^ entries_of.U64_MAX, author_id, quality, flags)
            for content_id, author_id, quality, flags in entries_of.rows(merged)
            if flags & entries_of.VISIBILITY_MASK < entries_of.Visibility.PRIVATE
            and content_id not in deleted
        )

    async def _uncounted(self) -> AsyncIterator[int]:
        """Marks: the cluster's workers count anew what these are about."""
        marks = DirtyMarks(self._session, Stamps())
        for rows in self._contents.uncounted():
            wanted = [(Dirty.CONTENT, content_id) for content_id, _ in rows]
            await marks.mark([*wanted, *((Dirty.AFFINITY, user_id) for _, user_id in rows)])
            yield len(rows)

    async def _jobs(self, job_ids: JobIds) -> AsyncIterator[int]:
        """Rows of the outbox: whoever sweeps relays them."""
        dead = DeadLetters(self._session)
        for rows in self._contents.jobs():
            waiting = [replace(row.job, job_id=job_ids.next()) for row in rows if not row.dead]
            writes = [KafkaOutbox.row_of(Row(job.job_id, job)) for job in waiting]
            await in_parts(self._session, writes)
            for row in rows:
                if row.dead:
                    job = replace(row.job, job_id=_own_id(row.job.created_ms, row.job.job_id))
                    await dead.bury(job.job_id, jobwire.encode(job), row.error, row.failed_ms)
            yield len(rows)


def _parts(rows: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    for first in range(0, len(rows), FEEDS_AT_ONCE):
        yield rows[first : first + FEEDS_AT_ONCE]


def _own_id(created_ms: int, number: int) -> int:
    """A dead letter's: the same in each run, of the time that its job was made."""
    return ids.make(max(created_ms, ids.EPOCH_MS), 0, 0, number % US_PER_MS)
