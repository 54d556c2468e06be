"""All CQL stores on a real cluster, two openings of one keyspace, as two nodes would have them.

What other parts of the profile do is done here the plain way: jobs are rows, relayed in memory; the
node log is a call to the other opening's `shared`. Empty before and after each test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from feedcore.adapters.cluster.direct_replica import DirectReplica
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.job_ids import JobIds, minute_of, shard_of, timestamp_us
from feedcore.adapters.cql.counting.signals import CqlSignalStore
from feedcore.adapters.cql.counting.system_of_record import CqlSystemOfRecord
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import DRIVER_DEFAULT, CqlSettings
from feedcore.adapters.cql.driver.session import SchemaSession, Session, Statement, Write
from feedcore.adapters.cql.schema.migrate import migrate
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.contents import CqlContentSource
from feedcore.adapters.cql.stores.feeds import CqlFeedStore
from feedcore.adapters.cql.stores.graph import CqlGraphSource
from feedcore.adapters.cql.stores.posts import CqlPostStore
from feedcore.adapters.cql.stores.preferences import CqlPreferenceStore
from feedcore.adapters.cql.stores.settings import CqlSettingsStore
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.clock import ManualClock, SystemClock
from feedcore.ports import FanoutJob, JobKind, Lane
from tests.contract.engine import EVERYTHING, Capability

# of the sessions under test: the other one is run now and then
DRIVER = os.environ.get("FEEDCORE_TEST_CQL_DRIVER", DRIVER_DEFAULT)
TABLES = (
    "activity author_modes author_sizes dead_letters dirty dirty_since engagement fanout_events"
    " feed followers idempotency impressions interaction_keys interactions node_ids outbox"
    " post_counts post_fanout posts recent setting_names settings sweep_marks tombstones trending"
    " user_interactions viewer"
).split()


_POINT_OF: dict[str, str] = {}  # keyspace -> HOST:PORT of a node that has it


def point_of(keyspace: str) -> str:
    """HOST:PORT of a node that others may use at the same time."""
    return _POINT_OF[keyspace]


def remember_point(keyspace: str, point: str) -> None:
    """The keyspace was made elsewhere."""
    _POINT_OF[keyspace] = point


async def make_keyspace(name: str, point: str) -> None:
    """Empty, with all tables, on the cluster of that node."""
    remember_point(name, point)
    session = await open_session(CqlSettings((point_of(name),), request_timeout_s=120.0))
    try:
        await session.define(f"DROP KEYSPACE IF EXISTS {name}")
        await migrate(session, name, {"class": "SimpleStrategy", "replication_factor": 1})
    finally:
        await session.close()


async def drop_keyspace(name: str) -> None:
    """With everything in it."""
    session = await open_session(CqlSettings((point_of(name),), request_timeout_s=120.0))
    await session.define(f"DROP KEYSPACE IF EXISTS {name}")
    await session.close()


class RecordingSession:
    """Passes everything on, and remembers which tables were written: only those are emptied."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.tables: set[str] = set()

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        self._note(statement)
        await self._session.write(statement, parameters)

    async def write_many(self, writes: Sequence[Write]) -> None:
        for write in writes:
            self._note(write.statement)
        await self._session.write_many(writes)

    async def write_packed(
        self, statement: Statement, ids: bytes, parameters: Sequence[Any]
    ) -> None:
        self._note(statement)
        await self._session.write_packed(statement, ids, parameters)

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        for write in writes:
            self._note(write.statement)
        await self._session.batch(writes, logged=logged)

    async def insert_if_absent(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> dict[str, Any] | None:
        self._note(statement)
        return await self._session.insert_if_absent(statement, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def _note(self, statement: Statement) -> None:
        words = statement.cql.replace("(", " ").split()
        self.tables.update(word for word in words if word in TABLES)


class Queue:
    """Rows as the outbox has them, relayed in memory; the ends of jobs as the queue writes them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._job_ids = JobIds(0, 1, SystemClock())
        self.waiting: list[FanoutJob] = []

    def next_job_id(self) -> int:
        return self._job_ids.new_id()

    def write_of(self, job: FanoutJob) -> Write:
        insert = Statement(
            "INSERT INTO fanout_events (shard, minute, job_id, job) VALUES (?, ?, ?, ?)"
        )
        key = (shard_of(job.job_id), minute_of(job.job_id), job.job_id)
        return Write(insert, (*key, jobwire.encode(job)))

    def relay(self, jobs: Sequence[FanoutJob]) -> None:
        self.waiting += jobs

    async def claim(self, lanes: Sequence[Lane], limit: int) -> list[FanoutJob]:
        return [job for job in self.waiting if job.lane in lanes][:limit]

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        for job, after, delivered in progress:
            self.waiting.remove(job)
            if after >= 0:
                self.waiting.append(replace(job, after=after, delivered=job.delivered + delivered))
            elif job.kind in (JobKind.BACKFILL, JobKind.REBUILD):
                rebuilt = job.kind is JobKind.REBUILD
                kind = viewer.Kind.REBUILDING if rebuilt else viewer.Kind.BACKFILL
                at_us = timestamp_us(job.job_id)
                await self._session.write(*viewer.drop(job.user_id, kind, job.author_id, at_us))


class NodeLog:
    """All openings hear at once."""

    def __init__(self) -> None:
        self.stores: list[Opening] = []
        self.viewers: list[int] = []
        self.events: list[Event] = []

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        self.viewers += viewers
        self.events += events
        for event in events:
            for store in self.stores:
                store.validation.state.apply(event)


class LoggedReplica(DirectReplica):
    """With the node log, which it announces to."""

    def __init__(self, source: CqlSystemOfRecord, log: NodeLog, clock: ManualClock) -> None:
        super().__init__(source, clock)
        self._log = log

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        await self._log.announce(viewers, events)


class Opening:
    """One process's objects."""

    def __init__(self, session: Any, queue: Queue, log: NodeLog, clock: ManualClock) -> None:
        self.session = session
        self.validation = replica = LoggedReplica(CqlSystemOfRecord(session), log, clock)
        self.posts = CqlPostStore(session, queue, replica, clock)
        self.contents = CqlContentSource(session, replica)
        self.signals = CqlSignalStore(session, queue, replica, clock, replica.state.engagement)
        self.graph = CqlGraphSource(session, queue, replica)
        self.preferences = CqlPreferenceStore(session, queue, replica, clock)
        self.feeds = CqlFeedStore(session, queue, replica, clock)
        self.settings = CqlSettingsStore(session, replica, clock)
        self.queue = queue
        log.stores.append(self)

    async def close(self) -> None:
        await self.preferences.close()
        await self.signals.close()


class UsersEngine:
    """See `tests.contract.engine.Engine`."""

    capabilities = EVERYTHING - {Capability.SHARED_PAGES}

    def __init__(self, session: SchemaSession, clock: ManualClock) -> None:
        self.clock = clock
        self.session = RecordingSession(session)
        self.log = NodeLog()
        self.queue = Queue(self.session)
        self.store = Opening(self.session, self.queue, self.log, clock)
        self.other = Opening(self.session, self.queue, self.log, clock)

    async def settle(self) -> None:
        """Nothing happens behind."""

    async def jobs(self, lanes: Sequence[Lane], limit: int, at_least: int = 1) -> list[FanoutJob]:
        return await self.queue.claim(lanes, limit)

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        return await self.store.graph.mark_inactive(now_ms, limit)

    async def load_follows(self, edges: Sequence[tuple[int, int]]) -> None:
        """See the protocol."""
        await self.store.graph.import_follows(edges, self.clock.now_ms())

    async def write_seen(self) -> None:
        await self.store.preferences.write_seen()


@asynccontextmanager
async def opened(keyspace: str, clock: ManualClock) -> AsyncIterator[UsersEngine]:
    """Empty before and after."""
    settings = CqlSettings((point_of(keyspace),), keyspace, driver=DRIVER, request_timeout_s=10.0)
    session = await open_session(settings)
    engine = UsersEngine(session, clock)
    try:
        yield engine
        await engine.store.close()
        await engine.other.close()
    finally:
        tables = sorted(engine.session.tables)
        await asyncio.gather(*(session.define(f"TRUNCATE {table}") for table in tables))
        await session.close()
