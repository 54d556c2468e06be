"""Posts and signals on a real cluster, with as little as they need of the other parts: follows,
filters, modes and jobs are rows of the real tables, written here the plain way.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from feedcore.adapters.cluster.announce import Engagement, Event
from feedcore.adapters.cluster.direct import DirectShared
from feedcore.adapters.cluster.jobids import JobIds, minute_of, shard_of
from feedcore.adapters.cluster.shared import Document
from feedcore.adapters.cql import viewer
from feedcore.adapters.cql.connect import open_session
from feedcore.adapters.cql.contents import CqlContentSource
from feedcore.adapters.cql.migrate import migrate
from feedcore.adapters.cql.posts import CqlPostStore
from feedcore.adapters.cql.session import SchemaSession, Session, Statement, Write
from feedcore.adapters.cql.settings import CqlSettings
from feedcore.adapters.cql.sharedposts import CqlSharedPosts
from feedcore.adapters.cql.signals import CqlSignalStore
from feedcore.adapters.cql.signed import from_cql, to_cql
from feedcore.adapters.kafka import jobwire
from feedcore.clock import ManualClock, SystemClock
from feedcore.domain.policy import Mode
from feedcore.ports import FanoutJob, Lane, ViewerFilters
from feedcore.ports.settings import AuthorMode

TABLES = (
    "author_modes author_sizes dirty dirty_since engagement fanout_events followers idempotency"
    " impressions interaction_keys interactions node_ids outbox post_counts post_fanout posts recent"
    " tombstones trending user_interactions viewer"
).split()


def address() -> str:
    """Of a node that others may use at the same time."""
    found = os.environ.get("FEEDCORE_TEST_CASSANDRA")
    if not found:
        reason = "FEEDCORE_TEST_CASSANDRA is not set"
        if os.environ.get("FEEDCORE_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


async def make_keyspace(name: str) -> None:
    """Empty, with all tables."""
    session = await open_session(CqlSettings((address(),), request_timeout_s=30.0))
    try:
        await session.define(f"DROP KEYSPACE IF EXISTS {name}")
        await migrate(session, name, {"class": "SimpleStrategy", "replication_factor": 1})
    finally:
        await session.close()


async def drop_keyspace(name: str) -> None:
    """With everything in it."""
    session = await open_session(CqlSettings((address(),), request_timeout_s=30.0))
    await session.define(f"DROP KEYSPACE IF EXISTS {name}")
    await session.close()


class RecordingSession:
    """Passes everything on, and remembers which tables were written, so that only those have to be
    emptied. A batch can be made to fail before it is sent.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.tables: set[str] = set()
        self.fail_batches = 0

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        self._note(statement)
        await self._session.write(statement, parameters)

    async def write_many(self, writes: Sequence[Write]) -> None:
        for write in writes:
            self._note(write.statement)
        await self._session.write_many(writes)

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        if self.fail_batches:
            self.fail_batches -= 1
            raise ConnectionAbortedError("the process died here")
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
    """Relayed jobs, in memory, and what fan-out says of a post when it is done."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._job_ids = JobIds(0, 1, SystemClock())
        self._jobs: list[FanoutJob] = []

    def next_job_id(self) -> int:
        return self._job_ids.next()

    def write_of(self, job: FanoutJob) -> Write:
        insert = Statement(
            "INSERT INTO fanout_events (shard, minute, job_id, job) VALUES (?, ?, ?, ?)"
        )
        key = (shard_of(job.job_id), minute_of(job.job_id), job.job_id)
        return Write(insert, (*key, jobwire.encode(job)))

    def relay(self, jobs: Sequence[FanoutJob]) -> None:
        self._jobs += jobs

    async def claim(self, lanes: Sequence[Lane], limit: int) -> list[FanoutJob]:
        return [job for job in self._jobs if job.lane in lanes][:limit]

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        done = Statement(
            "INSERT INTO post_fanout (content_id, lane, reach, finished_ms) VALUES (?, ?, ?, ?)"
        )
        for job, _, delivered in progress:
            await self._session.write(done, (job.content_id, int(job.lane), delivered, now_ms))
            self._jobs.remove(job)

    async def rows(self) -> list[tuple]:
        """What a sweeper would find."""
        return await self._session.read(Statement("SELECT job FROM fanout_events"))


class Graph:
    """Edges as fan-out sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def follow(self, follower_id: int, author_id: int, now_ms: int) -> bool:
        row = (to_cql(author_id), to_cql(follower_id), now_ms)
        insert = "INSERT INTO followers (author_id, follower_id, since_ms) VALUES (?, ?, ?)"
        await self._session.write(Statement(insert), row)
        return True


class Preferences:
    """The reader's side of what signals write there."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def filters(self, user_id: int, now_ms: int) -> ViewerFilters:
        rows = await self._session.read(viewer.RELATIONS, (to_cql(user_id),))
        return viewer.decode(rows, now_ms).filters


class Settings(CqlSharedPosts):
    """Modes; with the posts' part all that is mirrored here."""

    async def set_author_modes(self, modes: Sequence[AuthorMode]) -> None:
        insert = Statement(
            "INSERT INTO author_modes (bucket, author_id, mode, followers, until_ms)"
            " VALUES (0, ?, ?, ?, ?)"
        )
        delete = Statement("DELETE FROM author_modes WHERE bucket = 0 AND author_id = ?")
        for one in modes:
            if one.mode == Mode.PUSH:
                await self._session.write(delete, (to_cql(one.author_id),))
            else:
                row = (to_cql(one.author_id), one.mode, one.followers, one.until_ms)
                await self._session.write(insert, row)

    async def author_modes(self) -> list[AuthorMode]:
        query = "SELECT author_id, mode, followers, until_ms FROM author_modes WHERE bucket = 0"
        rows = await self._session.read(Statement(query))
        return [AuthorMode(from_cql(row[0]), *row[1:]) for row in rows]

    async def documents(self) -> dict[str, list[Document]]:
        return {}


class NodeLog:
    """Engagement goes to all openings at once; the rest is read by who wants it."""

    def __init__(self) -> None:
        self.stores: list[Opening] = []
        self.events: list[Event] = []
        self.viewers: list[int] = []

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        self.events += events
        self.viewers += viewers
        for event in events:
            if isinstance(event, Engagement):
                for store in self.stores:
                    store.signals.apply(event.pairs)
        for store in self.stores:
            await store.freshness.shared()


class Opening:
    """One process's objects."""

    def __init__(
        self, session: RecordingSession, queue: Queue, log: NodeLog, clock: ManualClock
    ) -> None:
        self.session = session
        self.settings = Settings(session)
        self.freshness = DirectShared(self.settings, clock)
        self.posts = CqlPostStore(session, queue, log, self.freshness, clock)
        self.contents = CqlContentSource(session, self.freshness)
        self.signals = CqlSignalStore(session, queue, log, clock)
        self.graph = Graph(session)
        self.preferences = Preferences(session)
        self.queue = queue
        log.stores.append(self)


class PostsEngine:
    """Two openings of one keyspace."""

    def __init__(self, session: SchemaSession, clock: ManualClock) -> None:
        self.clock = clock
        self.session = RecordingSession(session)
        self.log = NodeLog()
        self.queue = Queue(self.session)
        self.store = Opening(self.session, self.queue, self.log, clock)
        self.other = Opening(self.session, self.queue, self.log, clock)

    async def settle(self) -> None:
        """Nothing happens behind."""

    async def jobs(
        self, lanes: Sequence[Lane], limit: int, at_least: int = 1
    ) -> list[FanoutJob]:
        return await self.queue.claim(lanes, limit)


@asynccontextmanager
async def opened(keyspace: str, clock: ManualClock) -> AsyncIterator[PostsEngine]:
    """Empty before and after."""
    session = await open_session(CqlSettings((address(),), keyspace, request_timeout_s=10.0))
    engine = PostsEngine(session, clock)
    try:
        yield engine
        for store in (engine.store, engine.other):
            await store.signals.close()
    finally:
        for table in sorted(engine.session.tables):
            await session.define(f"TRUNCATE {table}")
        await session.close()
