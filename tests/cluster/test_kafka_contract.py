"""The queue on Kafka, with the stores on Cassandra, keeps the contracts of feeds and queue."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.clock import ManualClock
from feedcore.ports import FanoutJob, Lane
from tests.contract.engine import START_MS
from tests.contract.suite_feeds import FeedContract, QueueContract
from tests.support.cqlusers import (
    NodeLog,
    Opening,
    RecordingSession,
    UsersEngine,
    drop_keyspace,
    make_keyspace,
    open_session,
)
from tests.support.kafkaworld import PARTITIONS, CqlSettings, World, addresses, drop_topics

WAIT_S = 20.0
QUIET_S = 0.5  # nothing comes any more


class KafkaEngine(UsersEngine):
    """See `tests.contract.engine.Engine`."""

    def __init__(self, world: World, session: RecordingSession, clock: ManualClock) -> None:
        self.clock = clock
        self.session = session
        self.world = world
        self.log = NodeLog()
        self.seen: set[FanoutJob] = set()
        self.store = Opening(session, world.outbox, self.log, clock)
        self.other = Opening(session, world.outbox, self.log, clock)
        self.store.queue = world.queue
        self.other.queue = world.new_queue()

    async def settle(self) -> None:
        """Until all jobs are relayed."""
        deadline = time.monotonic() + WAIT_S
        while await self.world.rows():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def jobs(self, lanes: Sequence[Lane], limit: int, at_least: int = 1) -> list[FanoutJob]:
        """New ones if any come within QUIET_S; else what was claimed already."""
        found: dict[FanoutJob, None] = {}
        started = time.monotonic()
        while (waited_s := time.monotonic() - started) < (WAIT_S if at_least else QUIET_S):
            found.update(dict.fromkeys(await self.store.queue.claim(tuple(lanes), limit)))
            enough = found if waited_s > QUIET_S else found.keys() - self.seen
            if at_least and len(enough) >= at_least:
                break
            await asyncio.sleep(0.005)
        assert len(found) >= at_least
        self.seen |= found.keys()
        return list(found)


@pytest.fixture(scope="module")
def keyspace(request: pytest.FixtureRequest) -> Iterator[str]:
    """One for the tests of this file."""
    addresses(request)
    name = f"kafka_contract_{os.getpid()}"
    asyncio.run(make_keyspace(name))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str, request: pytest.FixtureRequest) -> AsyncIterator[KafkaEngine]:
    """An empty store and an empty queue."""
    at = addresses(request)
    session = await open_session(CqlSettings((at.cassandra,), keyspace, request_timeout_s=10.0))
    prefix = f"kafka-{uuid.uuid4().hex[:8]}."
    options = KafkaOptions((at.kafka,), prefix=prefix, partitions=PARTITIONS)
    recording = RecordingSession(session)
    world = World(recording, options)
    made = KafkaEngine(world, recording, ManualClock(START_MS))
    try:
        await world.start()
        yield made
        await made.store.close()
        await made.other.close()
    finally:
        await world.close()
        for table in sorted(recording.tables):
            await session.define(f"TRUNCATE {table}")
        await session.close()
        await drop_topics(at.kafka, options)


class TestKafkaQueue(QueueContract):
    """See the suite."""


class TestKafkaFeeds(FeedContract):
    """See the suite."""
