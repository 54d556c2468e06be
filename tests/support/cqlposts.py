"""The world of tests/support/cqlusers.py, where processes can be made to die in a batch, and
fan-out says of posts what it has done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from feedcore.adapters.cql.counting.system_of_record import CqlSystemOfRecord
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.clock import ManualClock
from feedcore.ports import FanoutJob, JobKind
from tests.support.cqlusers import (
    NodeLog,
    Opening,
    Queue,
    RecordingSession,
    UsersEngine,
    point_of,
)

_ROWS = Statement("SELECT job FROM fanout_events")
_FINISHED = Statement(
    "INSERT INTO post_fanout (content_id, lane, reach, finished_ms) VALUES (?, ?, ?, ?)"
)


class DyingSession(RecordingSession):
    """The next `fail_batches` batches are not sent."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.fail_batches = 0

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        if self.fail_batches:
            self.fail_batches -= 1
            raise ConnectionAbortedError("the process died here")
        await super().batch(writes, logged=logged)


class PostsQueue(Queue):
    """As the real one writes it when a post's job is done."""

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        for job, after, delivered in progress:
            if job.kind is JobKind.POST and after < 0:
                reach = job.delivered + delivered
                row = (job.content_id, int(job.lane), reach, now_ms)
                await self._session.write(_FINISHED, row)
        await super().advance(progress, now_ms)

    async def rows(self) -> list[tuple]:
        """What a sweeper would find."""
        return await self._session.read(_ROWS)


class PostsEngine(UsersEngine):
    """See `tests.contract.engine.Engine`."""

    def __init__(self, session: Any, clock: ManualClock) -> None:
        self.clock = clock
        self.session: DyingSession = DyingSession(session)
        self.source = CqlSystemOfRecord(self.session)
        self.log = NodeLog()
        self.queue: PostsQueue = PostsQueue(self.session)
        self.store = Opening(self.session, self.queue, self.log, clock)
        self.other = Opening(self.session, self.queue, self.log, clock)


@asynccontextmanager
async def opened(keyspace: str, clock: ManualClock) -> AsyncIterator[PostsEngine]:
    """Empty before and after."""
    settings = CqlSettings((point_of(keyspace),), keyspace, request_timeout_s=10.0)
    session = await open_session(settings)
    engine = PostsEngine(session, clock)
    try:
        yield engine
        await engine.store.close()
        await engine.other.close()
    finally:
        tables = sorted(engine.session.tables)
        await asyncio.gather(*(session.define(f"TRUNCATE {table}") for table in tables))
        await session.close()
