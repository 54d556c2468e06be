"""JobOutbox: a job is a row in the batch that makes it true, and goes to Kafka right after.

A row's life: written with what it is about -> relayed (the brokers have the job) -> deleted. Killed
anywhere, the row is still there and the sweeper relays it: at least once, and a job done twice
changes nothing. Invariants: `relay` never waits and never raises; at most RELAY_WAITING_MAX jobs
wait, those beyond stay rows; while Kafka is away nothing waits at all, so publishing costs what it
always costs; the tasks are owned here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from feedcore.adapters.contracts.job_ids import JobIds, minute_of, shard_of
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.producer import KafkaProducer, Message
from feedcore.errors import FeedcoreError
from feedcore.ports import FanoutJob
from feedcore.resilience import tasks

RELAY_WAITING_MAX = 8_192  # two seconds of one node's posts at the cluster's peak
RELAY_BATCH = 256  # sent concurrently, then their rows are deleted concurrently
RELAYERS = 2  # one sends while the other deletes
CLOSE_S = 5.0  # what waits when the process ends gets so long; then it stays rows

_INSERT = Statement("INSERT INTO fanout_events (shard, minute, job_id, job) VALUES (?, ?, ?, ?)")
_DELETE = Statement("DELETE FROM fanout_events WHERE shard = ? AND minute = ? AND job_id = ?")

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """An outbox row. Its id is the job's, but for a job that was put back: that has a new one."""

    row_id: int
    job: FanoutJob


@dataclass(slots=True)
class OutboxStats:
    """Since the process started."""

    relayed: int = 0  # right after their batch
    left: int = 0  # stayed rows: too many waited, or Kafka was away


class KafkaOutbox:
    """See `adapters.contracts.job_outbox`."""

    def __init__(
        self, session: Session, producer: KafkaProducer, options: KafkaOptions, job_ids: JobIds
    ) -> None:
        self._session = session
        self._producer = producer
        self._options = options
        self._job_ids = job_ids
        self._waiting: deque[Row] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._relayers: list[asyncio.Task[None]] = []
        self.stats = OutboxStats()

    def start(self) -> None:
        """Begins to relay."""
        if not self._relayers:
            self._relayers = [tasks.start(self._relay_on(), "relay") for _ in range(RELAYERS)]

    async def close(self) -> None:
        """Relays what waits, for at most CLOSE_S."""
        self._closing = True
        self._wake.set()
        if self._relayers:
            _, late = await asyncio.wait(self._relayers, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._relayers = []
        self.stats.left += len(self._waiting)
        self._waiting.clear()

    def next_job_id(self) -> int:
        """See the port."""
        return self._job_ids.new_id()

    def write_of(self, job: FanoutJob) -> Write:
        """See the port."""
        return self.row_of(Row(job.job_id, job))

    @staticmethod
    def row_of(row: Row) -> Write:
        """The row under an id of its own."""
        key = (shard_of(row.row_id), minute_of(row.row_id), row.row_id)
        return Write(_INSERT, (*key, jobwire.encode(row.job)))

    def relay(self, jobs: Sequence[FanoutJob]) -> None:
        """See the port."""
        self.relay_rows([Row(job.job_id, job) for job in jobs])

    def relay_rows(self, rows: Sequence[Row]) -> None:
        """As `relay`, for rows with ids of their own."""
        room = RELAY_WAITING_MAX - len(self._waiting)
        if self._closing or not self._relayers or not self._producer.up or room < len(rows):
            self.stats.left += len(rows)
            return
        self._waiting.extend(rows)
        self._wake.set()

    async def deliver(self, rows: Sequence[Row]) -> list[bool]:
        """Sends jobs and deletes the rows of those that the brokers have; which those are.

        Raises what the deletes raise: the jobs are sent then, and will be once more.
        """
        messages = [
            Message(
                self._options.topic(row.job.lane),
                jobwire.key_of(row.job),
                jobwire.encode(row.job),
            )
            for row in rows
        ]
        sent = [error is None for error in await self._producer.send_all(messages)]
        deletes = [delete_of(row.row_id) for row, done in zip(rows, sent, strict=True) if done]
        if deletes:
            await self._session.write_many(deletes)
        return sent

    async def _relay_on(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            count = min(len(self._waiting), RELAY_BATCH)
            rows = [self._waiting.popleft() for _ in range(count)]
            try:
                sent = await self.deliver(rows)
                self.stats.relayed += sum(sent)
                self.stats.left += len(sent) - sum(sent)
            except FeedcoreError as error:
                log.warning("outbox rows not deleted, the sweeper repeats them: %s", error)
            if not self._producer.up:
                self.stats.left += len(self._waiting)
                self._waiting.clear()


def delete_of(row_id: int) -> Write:
    """Takes an outbox row away."""
    return Write(_DELETE, (shard_of(row_id), minute_of(row_id), row_id))
