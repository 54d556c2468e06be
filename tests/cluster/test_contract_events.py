"""KafkaEventSink keeps the contract of events, on a real broker, and on none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.kafka.events import WAITING_MAX, KafkaEventSink
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.clock import SystemClock
from feedcore_pb.collaborators.v1 import events_pb2
from tests.contract.suite_events import EventContract
from tests.support.kafkaworld import addresses, new_world

READ_WITHIN_S = 20.0


class KafkaEvents:
    """See `tests.contract.suite_events.EventEngine`."""

    waiting_max = WAITING_MAX

    def __init__(self, producer: KafkaProducer, options: KafkaOptions) -> None:
        self._options = options
        self.sink = KafkaEventSink(producer, options, JobIds(0, 1, SystemClock()))
        self.sink.start()

    async def received(self) -> list[events_pb2.Event]:
        """From the beginning of the topic."""
        await self.sink.close()
        return await read(self._options, self.sent()) if self.sent() else []

    def sent(self) -> int:
        """Acknowledged by the broker."""
        return self.sink.stats.sent

    def dropped(self) -> int:
        """For want of room, or of Kafka."""
        return self.sink.stats.dropped


async def read(options: KafkaOptions, count: int) -> list[events_pb2.Event]:
    """The first events of the topic."""
    consumer = AIOKafkaConsumer(
        options.events, **options.connecting(), auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[events_pb2.Event] = []
    deadline = time.monotonic() + READ_WITHIN_S
    try:
        while len(found) < count and time.monotonic() < deadline:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [events_pb2.Event.FromString(record.value) for record in records]
    finally:
        await consumer.stop()
    return found


@pytest.fixture
async def events(request: pytest.FixtureRequest) -> AsyncIterator[KafkaEvents]:
    """On a topic of its own."""
    async with new_world(addresses(request)) as world:
        engine = KafkaEvents(world.producer, world.options)
        yield engine
        await engine.sink.close()


@pytest.fixture
async def deaf() -> AsyncIterator[KafkaEvents]:
    """Nobody listens at that address."""
    options = KafkaOptions(("127.0.0.1:1",), prefix="kafka-none.")
    producer = KafkaProducer(options)
    producer.start()
    engine = KafkaEvents(producer, options)
    yield engine
    await engine.sink.close()
    await producer.close()


class TestKafkaEvents(EventContract):
    """See the suite."""
