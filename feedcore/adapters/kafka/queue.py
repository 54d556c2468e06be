"""FanoutQueue on Kafka: a topic a lane, one group of workers, continuations as new messages.

A turn of a worker: claim (poll, give) -> deliveries -> advance:

    chunk done, more to come    the continuation is produced to the same lane
    job done                    post_fanout, or the viewer's BACKFILL or REBUILDING row; announced
    then                        the message is done; offsets follow within 100 ms

Killed anywhere before the commit, the chunk comes again: deliveries, rows and absolute counts are
the same a second time. What was claimed and neither advanced nor failed (a dependency is away) is
claimed again. A claim whose partition was taken away counts no more: its new owner does it again,
and `advance` leaves it alone, so that a chain of chunks is not doubled by a rebalance.

Invariants: at most CLAIMED_MAX jobs of a lane are held; bytes that are no job become a dead letter
as they came and never stop the lane. Not for API workers' threads of control: they use `lag`,
`dead_letters` and `replay`, and never join the group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiokafka import ConsumerRecord

from feedcore.adapters.contracts.announcements import Announcer
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.claims import Claims, Partition
from feedcore.adapters.kafka.consumer import LaneConsumer
from feedcore.adapters.kafka.dead_letters import DeadLetters, id_of_unreadable
from feedcore.adapters.kafka.job_wire import Unreadable
from feedcore.adapters.kafka.lag import LagReader
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.outbox import KafkaOutbox, Row
from feedcore.adapters.kafka.producer import KafkaProducer, Message
from feedcore.errors import FeedcoreError
from feedcore.limits import FANOUT_ATTEMPTS_MAX, FANOUT_JOBS_PER_TURN
from feedcore.ports import DeadLetter, FanoutJob, JobKind, Lane, QueueLag

CLAIMED_MAX = 4 * FANOUT_JOBS_PER_TURN  # of a lane: jobs set back leave room for others
POLL_S = 0.05  # the worker idles after an empty claim anyway
REPLAY_BATCH = 64  # dead letters put back concurrently

# kinds of rows in a viewer's partition that jobs end
BACKFILL_ROW = 13
REBUILDING_ROW = 16

_REACHED = Statement(
    "INSERT INTO post_fanout (content_id, lane, reach, finished_ms) VALUES (?, ?, ?, ?)"
)
# as of the job's time: a row that a later job is about stays
_ENDED = Statement(
    "DELETE FROM viewer USING TIMESTAMP ? WHERE user_id = ? AND kind = ? AND target_id = ?"
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class QueueStats:
    """Since the process started."""

    claimed: int = 0
    continued: int = 0
    finished: int = 0
    dead: int = 0
    unreadable: int = 0


class KafkaQueue:
    """See `ports.queue.FanoutQueue`."""

    def __init__(
        self,
        session: Session,
        producer: KafkaProducer,
        outbox: KafkaOutbox,
        dead: DeadLetters,
        announcer: Announcer,
        options: KafkaOptions,
    ) -> None:
        self._session = session
        self._producer = producer
        self._outbox = outbox
        self._dead = dead
        self._announcer = announcer
        self._options = options
        self._claims = Claims()
        self._unread: list[tuple[ConsumerRecord, str]] = []  # no jobs, and why; not put away yet
        self._consumer = LaneConsumer(options, self._claims, self._take)
        self._lag = LagReader(options)
        self.stats = QueueStats()

    async def claim(self, lanes: tuple[Lane, ...], limit: int) -> list[FanoutJob]:
        """Empty when nothing comes within POLL_S, or while the brokers are away."""
        rooms = {lane: CLAIMED_MAX - self._claims.held(lane) for lane in lanes}
        wait_s = 0.0 if self._claims.can_give(lanes) or self._unread else POLL_S
        await self._consumer.poll(rooms, limit, wait_s)
        if self._unread:
            await self._bury_unread()
        jobs = self._claims.give(lanes, limit)
        self.stats.claimed += len(jobs)
        return jobs

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        """Raises what a store or the brokers say; the jobs concerned are claimed again."""
        held = {job: (after, new) for job, after, new in progress if self._claims.holds(job)}
        going = {job: at for job, at in held.items() if at[0] >= 0}
        finished = [(job, new) for job, (after, new) in held.items() if after < 0]
        outcomes = await asyncio.gather(
            self._continue(going), self._finish(finished, now_ms), return_exceptions=True
        )
        self._consumer.touch()
        self._lag.expire()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def fail(self, job: FanoutJob, error: str, now_ms: int) -> None:
        """See the port. The job goes to the end of its partition."""
        if not self._claims.holds(job):
            return
        again = replace(job, attempts=job.attempts + 1)
        if again.attempts >= FANOUT_ATTEMPTS_MAX:
            await self._dead.bury(job.job_id, jobwire.encode(again), error, now_ms)
            self.stats.dead += 1
        else:
            await self._producer.send(self._message(again))
        self._claims.done(job)
        self._consumer.touch()
        self._lag.expire()

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """By job number, which is the order they were made in."""
        return await self._dead.oldest(limit)

    async def replay(self, job_ids: list[int], now_ms: int) -> int:
        """Attempts begin again; the continuation stays. What cannot be read stays a letter."""
        count = 0
        rows: list[Row] = []
        async for letter in self._dead.each(job_ids):
            try:
                job = replace(letter.job(), attempts=0)
            except Unreadable as error:
                log.warning("dead letter %d stays: %s", letter.job_id, error)
                continue
            row = Row(self._outbox.next_job_id(), job)  # where the sweeper has yet to look
            writes = [self._outbox.row_of(row), self._dead.delete_of(letter)]
            await self._session.batch(writes, logged=True)
            rows.append(row)
            count += 1
            if len(rows) >= REPLAY_BATCH:
                self._outbox.relay_rows(rows)
                rows = []
        self._outbox.relay_rows(rows)
        self._lag.expire()
        return count

    async def lag(self, now_ms: int) -> dict[Lane, QueueLag]:
        """Messages not committed yet: what this process has done is committed before."""
        if self._consumer.running:
            await self._consumer.commit()
        return await self._lag.lag(now_ms)

    async def close(self) -> None:
        """Commits what is done and leaves the group."""
        await self._consumer.close()
        await self._lag.close()

    def _take(self, record: ConsumerRecord) -> None:
        partition = Partition(record.topic, record.partition)
        try:
            job = jobwire.decode(record.value or b"")
        except Unreadable as error:
            self._claims.hold(partition, record.offset)
            self._unread.append((record, str(error)))
            return
        self._claims.take(partition, record.offset, job, record.timestamp)

    async def _bury_unread(self) -> None:
        while self._unread:
            record, why = self._unread[0]
            where = f"{record.topic} {record.partition} {record.offset}"
            letter = id_of_unreadable(where, record.timestamp)
            why = f"message {where}: {why}"
            try:
                await self._dead.bury(letter, record.value or b"", why, record.timestamp)
            except FeedcoreError as error:
                log.warning("unreadable message %s not put away: %s", where, error)
                return
            del self._unread[0]
            log.error("%s; it is a dead letter", why)
            self.stats.unreadable += 1
            self._claims.release(Partition(record.topic, record.partition), record.offset)
            self._consumer.touch()

    async def _continue(self, going: dict[FanoutJob, tuple[int, int]]) -> None:
        if not going:
            return
        messages = [
            self._message(replace(job, after=after, delivered=job.delivered + new, attempts=0))
            for job, (after, new) in going.items()
        ]
        answers = await self._producer.send_all(messages)
        for job, error in zip(going, answers, strict=True):
            if error is None:
                self._claims.done(job)
        self.stats.continued += sum(error is None for error in answers)
        for error in answers:
            if error is not None:
                raise error

    async def _finish(self, finished: Sequence[tuple[FanoutJob, int]], now_ms: int) -> None:
        if not finished:
            return
        writes = [write for job, new in finished for write in _ended(job, new, now_ms)]
        if writes:
            await self._session.write_many(writes)
        kinds = (JobKind.BACKFILL, JobKind.REBUILD)
        viewers = sorted({job.user_id for job, _ in finished if job.kind in kinds})
        if viewers:
            await self._announcer.announce(viewers=viewers)
        for job, _ in finished:
            self._claims.done(job)
        self.stats.finished += len(finished)

    def _message(self, job: FanoutJob) -> Message:
        return Message(self._options.topic(job.lane), jobwire.key_of(job), jobwire.encode(job))


def _ended(job: FanoutJob, new: int, now_ms: int) -> list[Write]:
    """The rows that say that a job is done: the same whenever they are written again."""
    if job.kind is JobKind.POST:
        reach = job.delivered + new
        return [Write(_REACHED, (job.content_id, int(job.lane), reach, now_ms))]
    if job.kind is JobKind.BACKFILL:
        key = (job.user_id, BACKFILL_ROW, job.author_id)
    elif job.kind is JobKind.REBUILD:
        key = (job.user_id, REBUILDING_ROW, 0)
    else:
        return []
    return [Write(_ENDED, (timestamp_us(job.job_id), *key))]
