"""A fan-out queue under test: real Kafka and Cassandra, names of its own, gone afterwards.

Addresses are those of the fixture `services`.
Without either, tests are skipped and say so; with FEEDCORE_REQUIRE_SERVICES=1 they fail.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka.admin import AIOKafkaAdminClient

import feedcore.adapters.cql.schema
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import SchemaSession, Statement
from feedcore.adapters.kafka.dead_letters import DeadLetters
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.outbox import KafkaOutbox
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.adapters.kafka.queue import KafkaQueue
from feedcore.adapters.kafka.sweeper import Sweeper
from feedcore.clock import SystemClock
from feedcore.domain import entry, ids
from feedcore.ports import FanoutJob, JobKind, Lane

MIGRATIONS = Path(feedcore.adapters.cql.schema.__file__).parent / "migrations"
PARTITIONS = 4
# of other parts' migrations: what the queue writes
OTHERS = (
    "CREATE TABLE IF NOT EXISTS {keyspace}.post_fanout (content_id bigint, lane tinyint,"
    " reach bigint, finished_ms bigint, PRIMARY KEY (content_id, lane))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.viewer (user_id bigint, kind tinyint, target_id bigint,"
    " extra bigint, value blob, PRIMARY KEY ((user_id), kind, target_id))",
)


class Addresses(NamedTuple):
    """Where the engines are."""

    kafka: str
    cassandra: str


def addresses(request: pytest.FixtureRequest) -> Addresses:
    """Skips, or fails, where there are none."""
    services = request.getfixturevalue("services")
    return Addresses(services.address("kafka"), services.address("cassandra"))


class Heard:
    """What was announced."""

    def __init__(self) -> None:
        self.viewers: list[int] = []

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """Keeps it."""
        self.viewers += viewers


class World:
    """One node's part of the queue; `node` makes others beside it."""

    def __init__(self, session: SchemaSession, options: KafkaOptions, node: int = 0) -> None:
        self.session = session
        self.options = options
        self.clock = SystemClock()
        self.heard = Heard()
        self.producer = KafkaProducer(options)
        self.outbox = KafkaOutbox(session, self.producer, options, JobIds(0, node, self.clock))
        self.dead = DeadLetters(session)
        self.sweeper = Sweeper(session, self.outbox, self.producer, self.dead, self.clock)
        self.queue = self.new_queue()
        self._queues = [self.queue]

    def new_queue(self) -> KafkaQueue:
        """Another member of the group."""
        made = KafkaQueue(
            self.session, self.producer, self.outbox, self.dead, self.heard, self.options
        )
        self._queues = [*getattr(self, "_queues", []), made]
        return made

    async def start(self) -> None:
        """Up, or the test fails."""
        self.producer.start()
        self.outbox.start()
        assert await self.producer.ready(20.0)

    async def close(self) -> None:
        """Ends what was started."""
        await self.sweeper.close()
        for queue in self._queues:
            await queue.close()
        await self.outbox.close()
        await self.producer.close()

    def post(self, author_id: int = 9, lane: Lane = Lane.ALL, job_id: int = 0) -> FanoutJob:
        """A POST job."""
        job_id = job_id or self.outbox.next_job_id()
        now_ms = self.clock.now_ms()
        packed = entry.pack(job_id, author_id)
        return FanoutJob(job_id, JobKind.POST, lane, job_id, author_id, 0, packed, 0, 0, 0, now_ms)

    def of_pair(self, kind: JobKind, user_id: int, author_id: int) -> FanoutJob:
        """A BACKFILL, REMOVE or REBUILD job."""
        now_ms = self.clock.now_ms()
        job_id = self.outbox.next_job_id()
        return FanoutJob(job_id, kind, Lane.ALL, 0, author_id, user_id, b"", 0, 0, 0, now_ms)

    async def put(self, jobs: Sequence[FanoutJob], *, relay: bool = True) -> None:
        """As a store does: rows first, then relayed."""
        await self.session.write_many([self.outbox.write_of(job) for job in jobs])
        if relay:
            self.outbox.relay(jobs)

    async def rows(self) -> list[int]:
        """Ids of the outbox."""
        found = await self.session.read(Statement("SELECT job_id FROM fanout_events"))
        return sorted(row[0] for row in found)

    async def claim(
        self, at_least: int, limit: int = 64, lanes: tuple[Lane, ...] = tuple(Lane)
    ) -> list[FanoutJob]:
        """Claims until so many are there, and gives them in the order they came in."""
        found: dict[FanoutJob, None] = {}

        async def enough() -> bool:
            found.update(dict.fromkeys(await self.queue.claim(lanes, limit)))
            return len(found) >= at_least

        await until(enough)
        return list(found)

    async def finish_all(self, queue: KafkaQueue, wanted: set[int], within_s: float) -> None:
        """Finishes jobs until all the wanted ones are."""
        deadline = time.monotonic() + within_s
        while wanted and time.monotonic() < deadline:
            jobs = await queue.claim(tuple(Lane), 64)
            await queue.advance([(job, -1, 1) for job in jobs], self.clock.now_ms())
            wanted -= {job.job_id for job in jobs}


async def until(
    done: Callable[[], Awaitable[bool]], within_s: float = 20.0, every_s: float = 0.02
) -> None:
    """Waits for what happens behind; fails when it does not."""
    deadline = time.monotonic() + within_s
    while not await done():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(every_s)


def statements(text: str) -> list[str]:
    """Of one migration file."""
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [part.strip() for part in "\n".join(lines).split(";\n") if part.strip(" ;\n")]


async def make_keyspace(cassandra: str, keyspace: str) -> None:
    """With the tables that the queue uses."""
    bare = await open_session(CqlSettings((cassandra,)))
    try:
        await bare.define(
            f"CREATE KEYSPACE {keyspace} WITH replication ="
            " {'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        text = (MIGRATIONS / "0004_queue.cql").read_text(encoding="utf-8")
        for statement in (*statements(text), *OTHERS):
            await bare.define(statement.replace("{keyspace}", keyspace).rstrip(" ;"))
    finally:
        await bare.close()


@asynccontextmanager
async def new_world(at: Addresses, *, kafka: str = "", start: bool = True) -> AsyncIterator[World]:
    """A keyspace and topics of its own, dropped at the end. `kafka`: another way to the brokers."""
    name = uuid.uuid4().hex[:8]
    keyspace = f"kafka_{name}"
    await make_keyspace(at.cassandra, keyspace)
    session = await open_session(CqlSettings((at.cassandra,), keyspace=keyspace))
    options = KafkaOptions((kafka or at.kafka,), prefix=f"kafka-{name}.", partitions=PARTITIONS)
    made = World(session, options)
    try:
        if start:
            await made.start()
        yield made
    finally:
        await made.close()
        await session.define(f"DROP KEYSPACE {keyspace}")
        await session.close()
        await drop_topics(kafka or at.kafka, options)


async def drop_topics(kafka: str, options: KafkaOptions) -> None:
    """What a world has left with the brokers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_topics([*(options.topic(lane) for lane in Lane), options.events])
    finally:
        await admin.close()


__all__ = ["Addresses", "World", "addresses", "ids", "make_keyspace", "new_world", "until"]
