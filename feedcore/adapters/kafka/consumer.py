"""The consumer of the lanes: polls, commits, and gives up what it loses.

One member of the group a process, for all lanes; a lane that is not asked for is paused, so that
its messages stay with the brokers. States: idle -> (first poll) starting -> running -> closed; a
client that ends with an error is made anew. Invariants: nothing is committed beyond what `Claims`
calls safe; when partitions are taken away, what is done is committed and the rest is forgotten
before anybody else gets them; a process that hangs loses its partitions (session, or MAX_POLL_S
without a poll), and the brokers refuse what it commits after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from feedcore.adapters.kafka.claims import Claims, Partition
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.ports import Lane
from feedcore.resilience import tasks

COMMIT_EVERY_S = 0.1  # a kill repeats so much work; a commit is one request
COMMIT_S = 5.0
REVOKED_COMMIT_S = 2.0  # the whole group waits for it
RESTART_S = 1.0
CLOSE_S = 5.0
MAX_POLL_S = 120.0  # a turn delivers to 640,000 feeds at most; then the process counts as hung
SESSION_MS = 6_000  # the shortest that brokers take by default: so long a killed worker's jobs wait
HEARTBEAT_MS = 1_500
FETCH_WAIT_MS = 100  # a lane that is resumed waits at most so long for its first message
FETCH_BYTES = 256 * 1024  # of one partition held here: 2,000 jobs
# a poll that finds the group rebalancing comes back after so long with nothing
POLL_GRACE_S = 0.05
COORDINATOR_LOG = "aiokafka.consumer.group_coordinator"

log = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that the coordinator of a new group is not there yet: the client asks again."""
    asked = record.msg == "Group Coordinator Request failed: %s"
    causes = record.args if isinstance(record.args, tuple) else ()
    return not (asked and any(getattr(cause, "retriable", False) for cause in causes))


logging.getLogger(COORDINATOR_LOG).addFilter(_is_news)


class LaneConsumer:
    """One a fan-out process; `take` is called with each message, at once."""

    def __init__(
        self, options: KafkaOptions, claims: Claims, take: Callable[[ConsumerRecord], None]
    ) -> None:
        self._options = options
        self._claims = claims
        self._take = take
        self._client: AIOKafkaConsumer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._dirty = asyncio.Event()
        self._committing = asyncio.Lock()
        self._lane_of = {options.topic(lane): lane for lane in Lane}
        self._paused_for: tuple | None = None
        self.rebalances = 0

    @property
    def running(self) -> bool:
        """Whether it is a member of the group."""
        return self._client is not None

    async def poll(self, rooms: dict[Lane, int], limit: int, wait_s: float) -> None:
        """Takes at most `limit` messages, of a lane at most its room; waits only for the first."""
        if self._keeper is None:
            self._keeper = tasks.start(self._keep(), "kafka consumer")
        client = self._client
        if client is None:
            await asyncio.sleep(wait_s)
            return
        try:
            async with asyncio.timeout(wait_s + POLL_GRACE_S):
                await self._poll(client, rooms, limit, wait_s)
        except TimeoutError:
            return  # the group is rebalancing
        except KafkaError as error:
            log.warning("kafka consumer: %r; it is made anew", error)
            self._broken.set()

    async def _poll(
        self, client: AIOKafkaConsumer, rooms: dict[Lane, int], limit: int, wait_s: float
    ) -> None:
        self._pause(client, tuple(rooms))
        of_lane: dict[Lane, list[TopicPartition]] = {lane: [] for lane in Lane}
        for partition in client.assignment():
            of_lane[self._lane_of[partition.topic]].append(partition)
        lanes = [lane for lane in sorted(rooms) if rooms[lane] > 0 and of_lane[lane]]
        if not lanes:
            await asyncio.sleep(wait_s)
        elif not await self._take_ready(client, of_lane, rooms, lanes, limit) and wait_s > 0:
            wanted = [partition for lane in lanes for partition in of_lane[lane]]
            wait_ms = int(wait_s * 1_000)
            # whatever comes first, then the lanes in their order again
            first = await client.getmany(*wanted, timeout_ms=wait_ms, max_records=1)
            if self._got(first) and limit > 1:
                await self._take_ready(client, of_lane, rooms, lanes, limit - 1)

    async def _take_ready(
        self,
        client: AIOKafkaConsumer,
        of_lane: dict[Lane, list[TopicPartition]],
        rooms: dict[Lane, int],
        lanes: list[Lane],
        limit: int,
    ) -> int:
        """What has been fetched already; how many. REST, the last, gets what the others leave."""
        left = limit
        for lane in lanes:
            most = min(left, rooms[lane])
            if most > 0:
                left -= self._got(await client.getmany(*of_lane[lane], max_records=most))
        return limit - left

    def _got(self, found: dict[TopicPartition, list[ConsumerRecord]]) -> int:
        for records in found.values():
            for record in records:
                self._take(record)
        return sum(map(len, found.values()))

    def _pause(self, client: AIOKafkaConsumer, lanes: tuple[Lane, ...]) -> None:
        assigned = client.assignment()
        state = (lanes, assigned, self.rebalances)
        if state == self._paused_for:
            return
        asked = {self._options.topic(lane) for lane in lanes}
        resumed = [one for one in assigned if one.topic in asked]
        paused = [one for one in assigned if one.topic not in asked]
        client.resume(*resumed)
        client.pause(*paused)
        self._paused_for = state

    def touch(self) -> None:
        """Something is done: it is committed within COMMIT_EVERY_S."""
        self._dirty.set()

    async def commit(self, within_s: float = COMMIT_S) -> None:
        """Commits what is safe now. A failure is logged: the work would be repeated, not lost."""
        client = self._client
        try:
            async with asyncio.timeout(within_s), self._committing:
                offsets = self._claims.to_commit()
                if client is None or not offsets:
                    return
                await client.commit({TopicPartition(*one): at for one, at in offsets.items()})
                self._claims.committed(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            log.info("not committed, the group has changed: %s", error)
        except (KafkaError, TimeoutError) as error:
            self._dirty.set()
            log.warning("not committed: %r", error)

    async def close(self) -> None:
        """Commits and leaves the group."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self.commit()
        await self._drop_client()

    async def _keep(self) -> None:
        """Starts the client, commits in its name, makes it anew when it breaks."""
        while True:
            try:
                await self._start_client()
                async with asyncio.TaskGroup() as group:
                    committer = group.create_task(self._commit_on())
                    await self._broken.wait()
                    committer.cancel()
            except (KafkaError, OSError) as error:
                log.warning("kafka consumer: %r; next try in %.1f s", error, RESTART_S)
            except Exception:  # a client in a state of its own: another one is made
                log.exception("kafka consumer failed; next try in %.1f s", RESTART_S)
            await self._drop_client()
            await asyncio.sleep(RESTART_S)

    async def _commit_on(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(COMMIT_EVERY_S)
            await self.commit()

    async def _start_client(self) -> None:
        self._broken.clear()
        client = AIOKafkaConsumer(
            **self._options.connecting(),
            group_id=self._options.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=int(MAX_POLL_S * 1_000),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            metadata_max_age_ms=60_000,
        )
        client.subscribe([self._options.topic(lane) for lane in Lane], listener=_Listener(self))
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise
        self._client = client

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        self._claims.forget_all()
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await client.stop()
        except (KafkaError, TimeoutError) as error:
            log.warning("kafka consumer ended with %r", error)

    async def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """Called by the client before it gives partitions back."""
        await self.commit(REVOKED_COMMIT_S)
        self._claims.forget([Partition(*one) for one in partitions])
        self.rebalances += 1


class _Listener(ConsumerRebalanceListener):
    def __init__(self, consumer: LaneConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._consumer.lost(revoked)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._consumer.rebalances += 1
        log.info("lanes: %d partitions are ours", len(assigned))
