"""ClusterStore on real engines: names of its own for every test, gone or emptied afterwards.

A keyspace is made once a test file, since that takes seconds; of its tables those are emptied that
a test has written. Redis keys, topics and the consumer group are new for every test. What engines
compare with their own time is the machine's clock; everything else goes by the test's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient

from feedcore.adapters.cluster.options import ClusterOptions, RedisOptions
from feedcore.adapters.cluster.store import ClusterStore
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Statement
from feedcore.adapters.cql.schema.meta import read_meta
from feedcore.adapters.cql.schema.migrate import CURSOR_SECRET
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.clock import ManualClock
from feedcore.errors import Unavailable
from feedcore.ports import FanoutJob, Lane
from tests.contract.engine import EVERYTHING
from tests.support.cqlusers import RecordingSession
from tests.support.services import Services

PARTITIONS = 4
DEADLINE_S = 3.0  # a machine that does other things, too, is late by more than in production
REQUEST_S = 20.0
BEHIND_S = 30.0  # what happens behind has happened by then
_ROWS = Statement("SELECT job_id FROM fanout_events LIMIT 1")


@dataclass(frozen=True, slots=True)
class Addresses:
    """HOST:PORT of one node of each engine."""

    cassandra: str
    redis: str
    kafka: str


def addresses(services: Services) -> Addresses:
    """Skips, or fails, where one cannot be had."""
    return Addresses(*map(services.address, ("cassandra", "redis", "kafka")))


def fresh_name() -> str:
    """For keyspaces, prefixes and the like: nobody else's."""
    return f"t{uuid.uuid4().hex[:10]}"


class Nodes:
    """Processes of one cluster that share a keyspace, keys and topics; each is a ClusterStore."""

    def __init__(self, at: Addresses, keyspace: str) -> None:
        self.at = at
        self.keyspace = keyspace
        self.name = fresh_name()
        self.kafka = KafkaOptions((at.kafka,), f"{self.name}.", PARTITIONS, 1)
        self.written: set[str] = set()
        self._open: list[ClusterStore] = []
        self._numbers = itertools.count(1)

    async def open(self, clock: ManualClock, *, fanout: bool) -> ClusterStore:
        """One more; `fanout` as in ClusterStore."""
        cql = CqlSettings((self.at.cassandra,), self.keyspace, request_timeout_s=REQUEST_S)
        redis = RedisOptions((f"redis://{self.at.redis}",), False, f"{self.name}:", DEADLINE_S)
        options = ClusterOptions(cql, redis, self.kafka, 0, next(self._numbers))
        session = RecordingSession(await open_session(cql))
        session.tables = self.written
        secret = await read_meta(session, CURSOR_SECRET)
        store = ClusterStore(session, secret, options, clock, fanout=fanout)
        self._open.append(store)
        await store.start(lambda what: None)
        assert await store.producer.ready(BEHIND_S), "kafka did not answer"
        return store

    async def close_store(self, store: ClusterStore) -> None:
        """Ends one."""
        self._open.remove(store)
        await store.close()

    async def close(self) -> None:
        """Ends all, empties what was written, takes topics away."""
        for store in list(self._open):
            await self.close_store(store)
        session = await open_session(
            CqlSettings((self.at.cassandra,), self.keyspace, request_timeout_s=REQUEST_S)
        )
        await asyncio.gather(*(session.define(f"TRUNCATE {one}") for one in sorted(self.written)))
        await session.close()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.at.kafka)
        await admin.start()
        try:
            topics = [self.kafka.events, *map(self.kafka.topic, Lane)]
            await admin.delete_topics(topics)
        finally:
            await admin.close()


async def relayed(store: ClusterStore) -> None:
    """Returns when Kafka has every job that was made: no row of the outbox is left."""
    deadline = time.monotonic() + BEHIND_S
    while await store.session.read(_ROWS):
        assert time.monotonic() < deadline, "jobs are still rows of the outbox"
        await asyncio.sleep(0.01)


async def claimed(
    store: ClusterStore, lanes: Sequence[Lane], limit: int, at_least: int
) -> list[FanoutJob]:
    """Claims until so many are there; with `at_least` 0 until all that waits has come."""
    await relayed(store)
    found: dict[FanoutJob, None] = {}
    deadline = time.monotonic() + BEHIND_S
    while len(found) < at_least or not at_least:
        found.update(dict.fromkeys(await store.queue.claim(tuple(lanes), limit)))
        if not at_least and await jobs_waiting(store, lanes) <= len(found):
            break
        assert time.monotonic() < deadline, f"{len(found)} jobs came, {at_least} are due"
    return list(found)


async def jobs_waiting(store: ClusterStore, lanes: Sequence[Lane] = tuple(Lane)) -> int:
    """Jobs that are not done, wherever they are; `store` fans out."""
    await relayed(store)
    deadline = time.monotonic() + BEHIND_S
    while True:
        store.queue._lag.expire()
        try:
            lag = await store.queue.lag(store.clock.now_ms())
            return sum(lag[lane].jobs for lane in lanes)
        except Unavailable:  # a new group has no coordinator for a moment
            assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


class ClusterEngine:
    """See `tests.contract.engine.Engine`. `store` fans out; `other` is an API node."""

    capabilities = EVERYTHING

    def __init__(self, store: ClusterStore, other: ClusterStore, clock: ManualClock) -> None:
        self.store = store
        self.other = other
        self.clock = clock

    async def settle(self) -> None:
        """Jobs are with Kafka; nothing is merged."""
        await relayed(self.store)

    async def jobs(self, lanes: Sequence[Lane], limit: int, at_least: int = 1) -> list[FanoutJob]:
        """See the protocol."""
        return await claimed(self.store, lanes, limit, at_least)

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """As the fan-out process does."""
        return await self.store.graph.mark_inactive(now_ms, limit)

    async def load_follows(self, edges: Sequence[tuple[int, int]]) -> None:
        """See the protocol."""
        await self.store.graph.import_follows(edges, self.clock.now_ms())

    async def write_seen(self) -> None:
        """At once, not behind."""
        await self.store.preferences.write_seen()


@asynccontextmanager
async def opened(at: Addresses, keyspace: str, clock: ManualClock) -> AsyncIterator[ClusterEngine]:
    """Empty before and after."""
    nodes = Nodes(at, keyspace)
    try:
        store = await nodes.open(clock, fanout=True)
        other = await nodes.open(clock, fanout=False)
        for opening in (store, other):
            opening.posts.node = None  # the suites' ids are of a node of their own
        yield ClusterEngine(store, other, clock)
    finally:
        await nodes.close()
