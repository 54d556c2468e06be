"""Feed events on a real broker: all kinds arrive, in their partition's order; none costs a call."""

from __future__ import annotations

import time

import pytest
from aiokafka import AIOKafkaConsumer

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.kafka.events import WAITING_MAX, KafkaEventSink
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.clock import SystemClock
from feedcore.domain.receipt import Origin
from feedcore.ports import Interaction, InteractionKind
from feedcore_pb.collaborators.v1 import events_pb2
from feedcore_pb.v1 import feed_pb2, types_pb2
from tests.support.kafkaworld import addresses, new_world

USER = 2**63 - 1


async def read(options: KafkaOptions, count: int) -> list[events_pb2.Event]:
    """The first events of the topic."""
    consumer = AIOKafkaConsumer(
        options.events, **options.connecting(), auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[events_pb2.Event] = []
    deadline = time.monotonic() + 20.0
    try:
        while len(found) < count and time.monotonic() < deadline:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [events_pb2.Event.FromString(record.value) for record in records]
    finally:
        await consumer.stop()
    return found


async def test_events_of_all_kinds_arrive(request: pytest.FixtureRequest) -> None:
    async with new_world(addresses(request)) as world:
        sink = KafkaEventSink(world.options, JobIds(0, 1, SystemClock()))
        sink.start()
        start = SystemClock().now_ms() - 1_000
        sink.published(5, 9, 1, start)
        sink.deleted(5, 9, start + 1)
        sink.page_served(USER, [7, 6, 8], Origin.REBUILT, 3, True, start + 2)
        for kind, on in ((InteractionKind.LIKE, True), (InteractionKind.LIKE, False)):
            sink.interacted(Interaction(USER, 6, kind, on, start + 3))
        sink.interacted(Interaction(USER, 6, InteractionKind.CLICK, False, start + 4))
        for number in range(3_000):
            sink.page_served(number + 1, [1, 2], Origin.STORED, 0, False, start + 5)
        await sink.close()
        assert (sink.stats.sent, sink.stats.dropped) == (3_005, 0)
        found = await read(world.options, 3_005)
    assert len({event.event_id for event in found}) == 3_005
    first = {event.at_ms - start: event for event in found if event.at_ms < start + 5}
    assert first[0].published.author_id == 9
    assert first[0].published.visibility == types_pb2.VISIBILITY_FOLLOWERS
    assert first[1].deleted.content_id == 5
    served = first[2].page_served
    assert (served.user_id, list(served.content_ids), served.scrolled) == (USER, [7, 6, 8], True)
    assert served.origin == types_pb2.FEED_ORIGIN_REBUILT
    mine = [event.interacted.kind for event in found if event.at_ms == start + 3]
    assert mine == [feed_pb2.INTERACTION_KIND_LIKE, feed_pb2.INTERACTION_KIND_UNLIKE]
    assert sum(event.at_ms == start + 5 for event in found) == 3_000


async def test_without_kafka_events_are_dropped_and_counted_and_calls_go_on() -> None:
    options = KafkaOptions(("127.0.0.1:1",), prefix="kafka-none.")
    sink = KafkaEventSink(options, JobIds(0, 1, SystemClock()))
    sink.start()
    started = time.perf_counter()
    for _ in range(2 * WAITING_MAX):
        sink.deleted(1, 2, 3)
    assert time.perf_counter() - started < 1.0
    await sink.close()
    assert (sink.stats.sent, sink.stats.dropped) == (0, 2 * WAITING_MAX)
