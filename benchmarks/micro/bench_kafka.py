"""Kafka clients beside each other: `python -m benchmarks.micro.bench_kafka [--small]`.

aiokafka and confluent-kafka (extra `bench`; left out where it is missing) against one real broker,
address from FEEDCORE_TEST_KAFKA, in one run, the rounds of each part interleaved. Messages have the
size of a fan-out job.

    one        a send that is awaited before the next: p50
    64         64 callers, each awaits its send before its next: messages a second, p50
    bulk       many sends, then all acknowledgements: messages a second, CPU a message
    consume    what was written, 500 at a time: CPU a message

Producers ask for acks=all with idempotence, no linger. CPU is that of this process, with the
client's own threads. --small checks that every message comes back, not times.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.micro.report import print_table

try:
    import aiokafka
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
except ModuleNotFoundError:
    aiokafka = None  # extra `cluster`
try:
    import confluent_kafka
    from confluent_kafka.aio import AIOProducer
except ModuleNotFoundError:
    confluent_kafka = None  # extra `bench`

VALUE = bytes(88)
PARTITIONS = 4
CALLERS = 64
BATCH = 500
LINGER_MS = 0  # as the adapters have it


@dataclass(frozen=True, slots=True)
class Size:
    """What to run."""

    rounds: int
    singles: int
    each_caller: int
    bulk: int


FULL = Size(3, 200, 40, 10_000)
SMALL = Size(1, 5, 2, 500)


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one client."""

    one_ms: float
    callers_a_s: float
    callers_ms: float
    bulk_a_s: float
    bulk_us: float
    consume_us: float


def cpu_s() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def key(number: int) -> bytes:
    """Spread over the partitions."""
    return number.to_bytes(16, "big")


async def sends(send: Callable[[int], Awaitable[object]], size: Size) -> tuple[float, float, float]:
    """(p50 of one, messages a second of 64 callers, their p50); times in ms."""
    singles = []
    for number in range(size.singles):
        started = time.perf_counter()
        await send(number)
        singles.append(time.perf_counter() - started)
    shared: list[float] = []

    async def caller(first: int) -> None:
        for number in range(size.each_caller):
            started = time.perf_counter()
            await send(first + number)
            shared.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(number * size.each_caller))
    rate = len(shared) / (time.perf_counter() - started)
    return statistics.median(singles) * 1e3, rate, statistics.median(shared) * 1e3


async def with_aiokafka(broker: str, topic: str, size: Size) -> Figures:
    """The client of the adapters."""
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=broker,
        acks="all",
        enable_idempotence=True,
        linger_ms=LINGER_MS,
        max_batch_size=32 * 1024,
    )
    await producer.start()
    one_ms, rate, shared_ms = await sends(
        lambda number: producer.send_and_wait(topic, VALUE, key(number)), size
    )
    started, used = time.perf_counter(), cpu_s()
    futures = [await producer.send(topic, VALUE, key(number)) for number in range(size.bulk)]
    await asyncio.wait(futures)
    bulk_a_s = size.bulk / (time.perf_counter() - started)
    bulk_us = (cpu_s() - used) / size.bulk * 1e6
    await producer.stop()

    total = size.singles + CALLERS * size.each_caller + size.bulk
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker,
        group_id=f"{topic}.aiokafka",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    found, used = 0, cpu_s()
    while found < total:
        batches = await consumer.getmany(timeout_ms=1_000, max_records=BATCH)
        found += sum(len(records) for records in batches.values())
        if not all(one.value == VALUE for records in batches.values() for one in records):
            raise AssertionError("a message came back changed")
    consume_us = (cpu_s() - used) / total * 1e6
    await consumer.stop()
    if found != total:
        raise AssertionError(f"{found} messages of {total}")
    return Figures(one_ms, rate, shared_ms, bulk_a_s, bulk_us, consume_us)


async def with_confluent_aio(broker: str, topic: str, size: Size) -> Figures:
    """librdkafka under its own asyncio producer."""
    producer = AIOProducer(confluent_options(broker), batch_size=CALLERS, buffer_timeout=0.001)

    async def produce(number: int) -> asyncio.Future:
        return await producer.produce(topic, value=VALUE, key=key(number))

    return await confluent(broker, topic, size, produce, producer.flush, producer.close)


async def with_confluent_bridge(broker: str, topic: str, size: Size) -> Figures:
    """librdkafka under a thread that polls, and callbacks carried over to the loop."""
    producer = confluent_kafka.Producer(confluent_options(broker))
    loop, stop = asyncio.get_running_loop(), False

    def poll_on() -> None:
        while not stop:
            producer.poll(0.1)

    async def produce(number: int) -> asyncio.Future:
        future = loop.create_future()

        def landed(error, message) -> None:
            loop.call_soon_threadsafe(future.set_result, error)

        producer.produce(topic, VALUE, key(number), on_delivery=landed)
        return future

    async def flush() -> None:
        await asyncio.to_thread(producer.flush)

    async def close() -> None:
        nonlocal stop
        stop = True
        await polling

    polling = asyncio.ensure_future(asyncio.to_thread(poll_on))
    return await confluent(broker, topic, size, produce, flush, close)


def confluent_options(broker: str) -> dict[str, object]:
    """The same promises as asked of the other."""
    return {
        "bootstrap.servers": broker,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": LINGER_MS,
    }


async def confluent(
    broker: str,
    topic: str,
    size: Size,
    produce: Callable[[int], Awaitable[asyncio.Future]],
    flush: Callable[[], Awaitable[object]],
    close: Callable[[], Awaitable[object]],
) -> Figures:
    """All parts with one of them; the consumer in a thread."""

    async def send(number: int) -> object:
        return await (await produce(number))

    one_ms, rate, shared_ms = await sends(send, size)
    started, used = time.perf_counter(), cpu_s()
    futures = [await produce(number) for number in range(size.bulk)]
    await flush()
    await asyncio.wait(futures)
    bulk_a_s = size.bulk / (time.perf_counter() - started)
    bulk_us = (cpu_s() - used) / size.bulk * 1e6
    await close()

    total = size.singles + CALLERS * size.each_caller + size.bulk
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": f"{topic}.confluent",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    found, used = 0, cpu_s()
    while found < total:
        records = await asyncio.to_thread(consumer.consume, BATCH, 1.0)
        found += len(records)
        if not all(one.value() == VALUE for one in records):
            raise AssertionError("a message came back changed")
    consume_us = (cpu_s() - used) / total * 1e6
    consumer.close()
    if found != total:
        raise AssertionError(f"{found} messages of {total}")
    return Figures(one_ms, rate, shared_ms, bulk_a_s, bulk_us, consume_us)


async def measure(broker: str, size: Size) -> None:
    """Interleaves the rounds, each in a topic of its own, and prints medians."""
    clients = {f"aiokafka {aiokafka.__version__}": with_aiokafka}
    if confluent_kafka is not None:
        version = confluent_kafka.__version__
        clients[f"confluent-kafka {version}, AIOProducer"] = with_confluent_aio
        clients[f"confluent-kafka {version}, own bridge"] = with_confluent_bridge
    else:
        print("confluent-kafka is not installed: left out")
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    rounds: dict[str, list[Figures]] = {name: [] for name in clients}
    try:
        for _ in range(size.rounds):
            for name, run in clients.items():
                topic = f"bench-kafka-{uuid.uuid4().hex[:8]}"
                await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
                try:
                    rounds[name].append(await run(broker, topic, size))
                finally:
                    await admin.delete_topics([topic])
    finally:
        await admin.close()
    rows = [(name, *_row(found)) for name, found in rounds.items()]
    head = (
        "client",
        "one, p50",
        f"{CALLERS} callers",
        "their p50",
        "bulk",
        "bulk, CPU",
        f"consume({BATCH}), CPU",
    )
    print_table(f"Kafka clients, {len(VALUE)}-byte messages, medians of {size.rounds}", head, rows)


def _row(rounds: list[Figures]) -> list[str]:
    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in rounds)

    return [
        f"{median('one_ms'):.2f} ms",
        f"{median('callers_a_s'):,.0f}/s",
        f"{median('callers_ms'):.2f} ms",
        f"{median('bulk_a_s'):,.0f}/s",
        f"{median('bulk_us'):.1f} us",
        f"{median('consume_us'):.1f} us",
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small numbers; checks results only")
    options = parser.parse_args()
    broker = os.environ.get("FEEDCORE_TEST_KAFKA", "")
    if aiokafka is None or not broker:
        print("SKIPPED: needs feedcore[cluster] and a broker in FEEDCORE_TEST_KAFKA (HOST:PORT)")
        return
    asyncio.run(measure(broker, SMALL if options.small else FULL))


if __name__ == "__main__":
    main()
