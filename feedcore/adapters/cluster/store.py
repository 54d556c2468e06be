"""ClusterStore: all ports of one process over CQL, Redis and Kafka.

What is needed when:

    to start          the tables (CQL), at this code's schema; until they answer, `open` says what
                      it waits for and tries again. Redis and Kafka may be away
    to serve a page   the tables, or what this process and Redis keep
    to acknowledge    the tables at quorum
    to fan out        the tables and Kafka; what Kafka lacks stays a row, and is swept there later

Invariants: what is started here is ended by `close`, in the opposite order; nothing that is
acknowledged is only in Redis, Kafka or memory. One event loop's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from feedcore import native
from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.metrics import SharedCounters
from feedcore.adapters.cluster.options import ClusterOptions
from feedcore.adapters.cluster.page_cache import ClusterPageCache
from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.cluster.row_cache import ViewerRowCache
from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.counting.signals import CqlSignalStore
from feedcore.adapters.cql.counting.system_of_record import CqlSystemOfRecord
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.session import Session
from feedcore.adapters.cql.schema.meta import read_meta
from feedcore.adapters.cql.schema.migrate import CURSOR_SECRET, check
from feedcore.adapters.cql.stores.contents import CqlContentSource
from feedcore.adapters.cql.stores.feeds import CqlFeedStore
from feedcore.adapters.cql.stores.graph import CqlGraphSource
from feedcore.adapters.cql.stores.node_ids import node_of
from feedcore.adapters.cql.stores.posts import CqlPostStore
from feedcore.adapters.cql.stores.preferences import CqlPreferenceStore
from feedcore.adapters.cql.stores.resident import CqlResidentSource
from feedcore.adapters.cql.stores.settings import CqlSettingsStore
from feedcore.adapters.kafka.counters import KafkaCounters
from feedcore.adapters.kafka.dead_letters import DeadLetters
from feedcore.adapters.kafka.events import KafkaEventSink
from feedcore.adapters.kafka.outbox import KafkaOutbox
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.adapters.kafka.queue import KafkaQueue
from feedcore.adapters.kafka.sweeper import Sweeper
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.adapters.redis.nodes import Nodes
from feedcore.clock import Clock, SystemClock
from feedcore.codecs.epochs import EPOCHS_BYTES
from feedcore.errors import Unavailable
from feedcore.limits import SECOND_MS
from feedcore.ports import GraphSource
from feedcore.resilience import tasks

RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0  # between attempts to reach the tables
EXPORT_EVERY_S = 1.0  # between looks at counters: scrapes come every few seconds
REPAIR_IDLE_S = 60.0  # there is nothing to repair
INACTIVE_PER_CALL = 10_000  # users moved to the inactive ones in one turn of upkeep
Waiting = Callable[[str], None]
T = TypeVar("T")

log = logging.getLogger(__name__)


class ClusterStore:
    """Make one with `open`."""

    merger = None  # feeds are stored as they are delivered

    def __init__(
        self,
        session: Session,
        secret: bytes,
        options: ClusterOptions,
        clock: Clock,
        *,
        fanout: bool,
    ) -> None:
        self.session = session
        self.secret = secret
        self.clock = clock
        self.epochs = native.Epochs(memoryview(bytearray(EPOCHS_BYTES)))
        redis, kafka = options.redis, options.kafka
        keys = Keys(redis.prefix)
        nodes = Nodes(redis.urls, cluster=redis.cluster)
        engines_clock = SystemClock()  # what engines compare with their own time is never moved
        detector = FailureDetector(engines_clock.monotonic)
        self.batcher = Batcher(
            nodes, detector, engines_clock.monotonic, deadline_s=redis.deadline_s
        )
        self.producer = KafkaProducer(kafka)
        job_ids = JobIds(options.region, options.node, engines_clock)
        self.outbox = outbox = KafkaOutbox(session, self.producer, kafka, job_ids)
        state = ReplicaState(self.epochs, clock)
        self.replica = replica = NodeReplica(
            self.batcher, keys, state, CqlSystemOfRecord(session), self.epochs, clock
        )
        self.validation = ClusterCacheValidation(self.batcher, keys, replica)
        self.page_cache = ClusterPageCache(self.batcher, keys, replica, self.validation, clock)
        rows = ViewerRowCache(self.batcher, keys, replica, clock)
        self.signals = CqlSignalStore(session, outbox, replica, clock, state.engagement)
        node = node_of(options.region, options.node)
        self.posts = CqlPostStore(session, outbox, replica, clock, node)
        self.contents = CqlContentSource(session, replica)
        self.graph = CqlGraphSource(session, outbox, replica)
        self.preferences = CqlPreferenceStore(session, outbox, replica, clock)
        self.feeds = CqlFeedStore(session, outbox, replica, clock)
        self.settings = CqlSettingsStore(session, replica, clock)
        self.resident = CqlResidentSource(session, self.posts, self.contents, state, rows)
        dead = DeadLetters(session)
        self.queue = KafkaQueue(session, self.producer, outbox, dead, replica, kafka)
        sweeper = Sweeper(session, outbox, self.producer, dead, engines_clock)
        self.sweeper = sweeper if fanout else None
        self.events = KafkaEventSink(self.producer, kafka, job_ids)
        self.limiter = RateLimiter(self.batcher, keys, engines_clock)
        self._counters = (
            SharedCounters(
                self.batcher, replica, self.validation, self.page_cache, rows, self.limiter
            ),
            KafkaCounters(self.producer, outbox, self.queue, self.sweeper, self.events),
        )
        self._exporter: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, options: ClusterOptions, clock: Clock, *, fanout: bool, waiting: Waiting
    ) -> ClusterStore:
        """Waits until the tables answer. `fanout`: this process takes jobs and sweeps. Raises
        StoreError for tables that are not at this code's schema.
        """
        session = await _when_there(lambda: open_session(options.cql), waiting)
        try:
            await _when_there(lambda: check(session), waiting)
            secret = await _when_there(lambda: read_meta(session, CURSOR_SECRET), waiting)
            store = cls(session, secret, options, clock, fanout=fanout)
            await store.start(waiting)
        except BaseException:
            await session.close()
            raise
        return store

    async def start(self, waiting: Waiting) -> None:
        """Connects; Redis and Kafka behind. `open` does it."""
        self.producer.start()
        self.outbox.start()
        await _when_there(self.replica.start, waiting)
        if self.sweeper is not None:
            self.sweeper.start()
        self.events.start()
        self._exporter = tasks.start(self._export(), "metrics")

    async def close(self) -> None:
        """Writes what is buffered, relays what waits, lets everything go."""
        if self._exporter is not None:
            self._exporter.cancel()
            await asyncio.wait([self._exporter])
        for step in (
            self.events.close,
            self.sweeper.close if self.sweeper is not None else _nothing,
            self.queue.close,
            self.preferences.close,
            self.signals.close,
            self.outbox.close,
            self.producer.close,
            self.replica.close,
            self.batcher.close,
            self.session.close,
        ):
            try:
                await step()
            except Exception:  # the others are still to be closed; nothing durable is at stake
                log.exception("closing %r failed", step)

    async def _export(self) -> None:
        """What the engines' clients count of themselves, until `close`."""
        while True:
            for counters in self._counters:
                counters.publish()
            await asyncio.sleep(EXPORT_EVERY_S)

    async def upkeep(self, now_ms: int) -> None:
        """Inactive users; rows that are too old go by their TTL."""
        await self.graph.mark_inactive(now_ms, INACTIVE_PER_CALL)

    async def repair(self, graph: GraphSource, now_ms: int) -> float:
        """Nothing: CQL's own repair does it."""
        return REPAIR_IDLE_S

    def fault(self) -> str:
        """None that is this machine's: calls say what an engine answers."""
        return ""

    def note_failure(self, error: BaseException) -> None:
        """Nothing: engines are asked, not remembered."""

    async def merge_all(self) -> int:
        """Nothing: feeds are stored as they are delivered."""
        return 0

    async def counts(self) -> dict[str, int]:
        """Figures for status, of this process: a cluster's tables are too large to count."""
        return {
            "announcements_pending": self.replica.announcements.pending,
            "node_log_age_ms": int(self.replica.log_age_s * SECOND_MS),
            "loads_without_redis": self.validation.bypassed,
            "jobs_left_in_outbox": self.outbox.stats.left,
            "outbox_oldest_ms": self.sweeper.stats.oldest_ms if self.sweeper else 0,
            "impressions_dropped": self.signals.impressions_dropped,
        }


async def _nothing() -> None:
    """Has nothing to close."""


async def _when_there(attempt: Callable[[], Awaitable[T]], waiting: Waiting) -> T:
    """The result of the first attempt that is answered. `waiting` is told at once, and then every
    RETRY_MAX_S.
    """
    wait_s = RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if wait_s in (RETRY_FIRST_S, RETRY_MAX_S):
                waiting(str(error))
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, RETRY_MAX_S)
