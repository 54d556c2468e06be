"""Sends messages and knows when the brokers have them.

States of a producer:

    connecting   no broker has answered yet       -> up when topics are there and a broker answers
    up           sends go out
    away         a message was not acknowledged   -> up when anything is acknowledged, or a broker
                 within DELIVERY_S                   answers and nothing waits
    broken       the client gave up for good, or
                 was away for RENEW_S: its brokers
                 may have moved                   -> connecting, with a new client
    closed

Invariants: acks=all with idempotence, so that an acknowledged message is on all copies in sync and
its client never writes it twice; at most IN_FLIGHT_MAX messages are not acknowledged, abandoned
ones included (the client goes on trying those: what failed here may arrive later, so that what is
sent must be idempotent); while connecting or away, sending fails at once; one task, owned here,
brings the producer back. Not for keeping what could not be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.topics import ensure_topics
from feedcore.errors import FeedcoreError, Unavailable
from feedcore.resilience import tasks

IN_FLIGHT_MAX = 16_384  # 100 bytes each: what 5,000 posts a second leave behind in 3 s
DELIVERY_S = 5.0  # a broker's election takes about 2 s; the outbox row is there in any case
LINGER_MS = 0  # while a request is under way the next gathers anyway; 1 ms cost more than it saved
BATCH_BYTES = 32 * 1024  # 300 jobs: one request takes what a turn of relays makes
RECONNECT_S = 0.5  # between looks for a broker that is away: a look is one small request
RENEW_S = 30.0  # then the brokers are looked up anew: a rolling restart takes less
CLOSE_S = 5.0  # for what is under way when the process ends

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One message to send."""

    topic: str
    key: bytes
    value: bytes


@dataclass(slots=True)
class ProducerStats:
    """Since the process started."""

    sent: int = 0
    failed: int = 0


class KafkaProducer:
    """One a process."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._client: AIOKafkaProducer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._in_flight = 0
        self._away_since = 0.0
        self._up = asyncio.Event()
        self.stats = ProducerStats()

    @property
    def up(self) -> bool:
        """Whether a message sent now is likely to arrive."""
        return self._up.is_set()

    def start(self) -> None:
        """Begins to connect, behind: a process starts without its brokers."""
        if self._keeper is None:
            self._keeper = tasks.start(self._keep(), "kafka producer")

    async def ready(self, wait_s: float) -> bool:
        """Waits until it is up; False if it was not in that time."""
        try:
            async with asyncio.timeout(wait_s):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Gives what is under way CLOSE_S, then ends."""
        self._up.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        await self._drop_client()

    async def send(self, message: Message) -> None:
        """Returns when the brokers have it. Raises Unavailable if they did not acknowledge it in
        time.
        """
        (error,) = await self.send_all([message])
        if error is not None:
            raise error

    async def send_all(self, messages: Sequence[Message]) -> list[FeedcoreError | None]:
        """Sends all concurrently; one answer a message: None when the brokers have it."""
        futures: list[asyncio.Future | None] = [None] * len(messages)
        why = "no broker has answered yet"
        try:
            async with asyncio.timeout(DELIVERY_S):
                for place, message in enumerate(messages):
                    if self._client is None or not self.up:
                        break
                    if self._in_flight >= IN_FLIGHT_MAX:
                        why = f"{IN_FLIGHT_MAX} messages are not acknowledged"
                        break
                    future = await self._client.send(message.topic, message.value, message.key)
                    self._in_flight += 1
                    future.add_done_callback(self._landed)
                    futures[place] = future
                waiting = [future for future in futures if future is not None]
                if waiting:
                    await asyncio.wait(waiting)
        except TimeoutError:
            why = f"not acknowledged within {DELIVERY_S:g} s"
            self._away(why)
        except KafkaError as error:
            why = repr(error)
            self._away(why)
        answers = [_answer(future, why) for future in futures]
        failed = sum(answer is not None for answer in answers)
        self.stats.failed += failed
        self.stats.sent += len(answers) - failed
        return answers

    async def partitions_of(self, topic: str) -> int:
        """How many partitions the topic has. Raises Unavailable."""
        return len(await self._asked(lambda client: client.partitions_for(topic)))

    async def send_batch(
        self, topic: str, partition: int, records: Sequence[tuple[bytes, bytes, int]]
    ) -> asyncio.Future:
        """(key, value, time in milliseconds) of each message, as one batch of one partition. The
        future is done when the brokers have it. Raises Unavailable.
        """

        async def send(client: AIOKafkaProducer) -> asyncio.Future:
            batch = client.create_batch()
            for key, value, at_ms in records:
                if batch.append(key=key, value=value, timestamp=at_ms) is None:
                    raise Unavailable(f"kafka: {len(records)} messages are more than a batch takes")
            return asyncio.ensure_future(await client.send_batch(batch, topic, partition=partition))

        future = await self._asked(send)
        self._in_flight += 1
        future.add_done_callback(self._landed)
        return future

    async def _asked(self, ask: Callable[[AIOKafkaProducer], Awaitable[Any]]) -> Any:
        if self._client is None or not self.up or self._in_flight >= IN_FLIGHT_MAX:
            raise Unavailable("kafka: no broker has answered yet, or too much is under way")
        try:
            async with asyncio.timeout(DELIVERY_S):
                return await ask(self._client)
        except (KafkaError, TimeoutError) as error:
            self._away(repr(error))
            raise Unavailable(f"kafka: {error!r}") from error

    def _landed(self, future: asyncio.Future) -> None:
        self._in_flight -= 1
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._away(repr(error))
        elif not self.up and self._client is not None and self._keeper is not None:
            log.info("kafka is back")
            self._up.set()

    def _away(self, why: str) -> None:
        if self.up:
            log.warning("kafka is away: %s", why)
            self._away_since = asyncio.get_running_loop().time()
        self._up.clear()
        self._look.set()

    async def _keep(self) -> None:
        """Connects, and connects again whenever it has to."""
        while True:
            try:
                if self._client is None or self._is_broken(self._client):
                    await self._connect()
                elif not self.up and not self._in_flight:
                    await self._probe(self._client)
            except Unavailable as error:
                log.warning("kafka is away: %s", error)
            except Exception:  # a client in a state of its own: another one is made
                log.exception("kafka producer failed; next try in %.1f s", RECONNECT_S)
                await self._drop_client()
            if self.up:
                self._look.clear()
                await self._look.wait()
            else:
                await asyncio.sleep(RECONNECT_S)

    async def _connect(self) -> None:
        await self._drop_client()
        await ensure_topics(self._options)
        client = AIOKafkaProducer(
            **self._options.connecting(),
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(DELIVERY_S * 1_000),
            metadata_max_age_ms=60_000,
        )
        self._client = client
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await self._drop_client()
            raise Unavailable(f"{self._options.where}: {error!r}") from error
        self._up.set()
        log.info("kafka producer is up")

    async def _probe(self, client: AIOKafkaProducer) -> None:
        if await client.client.force_metadata_update():
            self._up.set()
            log.info("kafka is back")

    def _is_broken(self, client: AIOKafkaProducer) -> bool:
        task = client._sender.sender_task  # the client has no public word for it
        if task is None or task.done():
            return True
        return not self.up and asyncio.get_running_loop().time() - self._away_since > RENEW_S

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        self._up.clear()
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await client.stop()
        except TimeoutError:
            log.warning("messages of %s were not acknowledged", self._options.client_id)
            await _abandon(client)
        except KafkaError as error:
            log.warning("kafka producer ended with %r", error)


def _answer(future: asyncio.Future | None, why: str) -> FeedcoreError | None:
    if future is None or not future.done():
        return Unavailable(f"kafka: {why}")
    if future.cancelled():
        return Unavailable("kafka: cancelled")
    error = future.exception()
    return None if error is None else Unavailable(f"kafka: {error!r}")


async def _abandon(client: AIOKafkaProducer) -> None:
    """Ends a client that still waits for brokers: its messages are in their outbox rows."""
    client._message_accumulator.fail_all(KafkaError("abandoned"))
    sender = client._sender.sender_task
    if sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait([sender], timeout=1.0)
    await client.client.close()
