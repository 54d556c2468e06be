"""How far the workers are behind: messages after the committed offsets, and the oldest job in them.

Asks the brokers, so that any process may ask, also one that is no member of the group. An answer is
kept for KEEP_S: status pages and metrics ask more often than it changes. Not for deciding anything:
continuations count as jobs, and what is done but not committed yet counts, too.
"""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.job_wire import Unreadable
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.errors import Unavailable
from feedcore.ports import Lane, QueueLag

KEEP_S = 1.0
ANSWER_S = 5.0
OLDEST_WAIT_S = 0.5  # for the first messages of partitions that are behind
FETCH_BYTES = 48 * 1024  # one batch of a partition, which brokers never cut


class LagReader:
    """One a process; connects with the first question."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._reader: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._lock = asyncio.Lock()
        self._kept: dict[Lane, tuple[int, int]] = {}
        self._kept_until = 0.0

    def expire(self) -> None:
        """This process has committed something: the next answer is a new one."""
        self._kept_until = 0.0

    async def lag(self, now_ms: int) -> dict[Lane, QueueLag]:
        """Per lane. Raises Unavailable if the brokers do not answer."""
        async with self._lock:
            if asyncio.get_running_loop().time() >= self._kept_until:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        self._kept = await self._read()
                except (KafkaError, OSError, TimeoutError) as error:
                    await self._drop()
                    raise Unavailable(f"kafka: lag not read: {error!r}") from error
                self._kept_until = asyncio.get_running_loop().time() + KEEP_S
            return {
                lane: QueueLag(count, max(now_ms - oldest_ms, 0) if count and oldest_ms else 0)
                for lane, (count, oldest_ms) in self._kept.items()
            }

    async def close(self) -> None:
        """Ends its connections."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        reader, self._reader = self._reader, None
        admin, self._admin = self._admin, None
        if reader is not None:
            await reader.stop()
        if admin is not None:
            await admin.close()

    async def _connect(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        common = self._options.connecting() | {"request_timeout_ms": int(ANSWER_S * 1_000)}
        if self._reader is None:
            self._reader = AIOKafkaConsumer(
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                max_partition_fetch_bytes=FETCH_BYTES,
                **common,
            )
            await self._reader.start()
        if self._admin is None:
            self._admin = AIOKafkaAdminClient(**common)
            await self._admin.start()
        return self._reader, self._admin

    async def _read(self) -> dict[Lane, tuple[int, int]]:
        """(messages not committed, time of the oldest job among them) of each lane."""
        reader, admin = await self._connect()
        lane_of = {self._options.topic(lane): lane for lane in Lane}
        described = await admin.describe_topics(list(lane_of))
        partitions = [
            TopicPartition(topic["topic"], part["partition"])
            for topic in described
            for part in topic["partitions"]
        ]
        if not partitions:
            return dict.fromkeys(Lane, (0, 0))
        ends = await reader.end_offsets(partitions)
        begins = await reader.beginning_offsets(partitions)
        known = await admin.list_consumer_group_offsets(self._options.group, partitions=partitions)
        starts = {
            one: max(known[one].offset if one in known else -1, begins[one]) for one in partitions
        }
        behind = [one for one in partitions if ends[one] > starts[one]]
        oldest = await self._oldest(reader, {one: starts[one] for one in behind})
        found = {}
        for lane in Lane:
            mine = [one for one in behind if lane_of[one.topic] is lane]
            times = [oldest[one] for one in mine if one in oldest]
            count = sum(ends[one] - starts[one] for one in mine)
            found[lane] = (count, min(times, default=0))
        return found

    async def _oldest(
        self, reader: AIOKafkaConsumer, starts: dict[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """When the first job of each partition was made, of those that answer soon enough."""
        if not starts:
            return {}
        reader.assign(list(starts))
        for partition, offset in starts.items():
            reader.seek(partition, offset)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OLDEST_WAIT_S
        found: dict[TopicPartition, int] = {}
        while len(found) < len(starts) and (left_s := deadline - loop.time()) > 0:
            wanted = [one for one in starts if one not in found]
            got = await reader.getmany(*wanted, timeout_ms=int(left_s * 1_000) + 1)
            for partition, records in got.items():
                found[partition] = _made_ms(records[0])
                reader.pause(partition)
        reader.pause(*starts)
        return found


def _made_ms(record) -> int:
    try:
        return jobwire.decode(record.value or b"").created_ms
    except Unreadable:
        return record.timestamp
