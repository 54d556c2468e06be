"""EventSink on Kafka: feedcore.collaborators.v1.Event, one a message, on the topic of events.

A call appends a tuple; the rest happens behind: a few dozen events at a time are encoded and put
into a batch of their partition, which the producer of the process sends. Events of one user (or,
for posts, of one post) are in one partition. Invariants: at most WAITING_MAX events wait and
BATCHES_MAX batches are under way, those beyond are dropped and counted; so is everything while
Kafka is away, since an event is worth less than the memory of a process that serves. The task is
owned here.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.domain.receipt import Origin
from feedcore.ports import Interaction, InteractionKind
from feedcore.resilience import tasks
from feedcore_pb.collaborators.v1 import events_pb2
from feedcore_pb.v1 import feed_pb2

WAITING_MAX = 20_000  # one node's page loads in half a second; 5 MB
BATCHES_MAX = 64
ENCODE_MAX = 64  # at once: half a millisecond of the loop that serves calls
GATHER_S = 0.02  # events that share a request; no caller waits for it
TIMEOUT_S = 5.0

_KEY = struct.Struct(">Q")
_PUBLISHED, _DELETED, _SERVED, _INTERACTED = range(4)
_KINDS = {
    (InteractionKind.LIKE, True): feed_pb2.INTERACTION_KIND_LIKE,
    (InteractionKind.LIKE, False): feed_pb2.INTERACTION_KIND_UNLIKE,
    (InteractionKind.COMMENT, True): feed_pb2.INTERACTION_KIND_COMMENT,
    (InteractionKind.SHARE, True): feed_pb2.INTERACTION_KIND_SHARE,
    (InteractionKind.CLICK, True): feed_pb2.INTERACTION_KIND_CLICK,
    (InteractionKind.HIDE, True): feed_pb2.INTERACTION_KIND_HIDE,
    (InteractionKind.HIDE, False): feed_pb2.INTERACTION_KIND_UNHIDE,
}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EventStats:
    """Since the process started."""

    sent: int = 0
    dropped: int = 0


class KafkaEventSink:
    """See `ports.events.EventSink`."""

    def __init__(self, producer: KafkaProducer, options: KafkaOptions, event_ids: JobIds) -> None:
        self._producer = producer
        self._options = options
        self._ids = event_ids
        self._waiting: deque[tuple] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Future] = set()
        self.stats = EventStats()

    def start(self) -> None:
        """Begins to send."""
        if self._task is None:
            self._task = tasks.start(self._run(), "events")

    async def close(self) -> None:
        """Sends what waits, if Kafka is there; drops it otherwise."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._send_waiting()
                if self._under_way:
                    await asyncio.wait(self._under_way)
        except TimeoutError:
            log.warning("events not acknowledged: %d batches", len(self._under_way))
        self._drop_waiting()

    def published(self, content_id: int, author_id: int, visibility: int, at_ms: int) -> None:
        """See the port."""
        self._add((_PUBLISHED, content_id, at_ms, author_id, visibility))

    def deleted(self, content_id: int, author_id: int, at_ms: int) -> None:
        """See the port."""
        self._add((_DELETED, content_id, at_ms, author_id))

    def page_served(
        self,
        user_id: int,
        content_ids: Sequence[int],
        origin: Origin,
        ranking_version: int,
        scrolled: bool,
        at_ms: int,
    ) -> None:
        """See the port."""
        self._add((_SERVED, user_id, at_ms, content_ids, origin, ranking_version, scrolled))

    def interacted(self, interaction: Interaction) -> None:
        """See the port. What has no name on the wire (an uncommented comment) is no event."""
        kind = _KINDS.get((interaction.kind, interaction.on))
        if kind is not None:
            row = (interaction.user_id, interaction.at_ms, interaction.content_id, kind)
            self._add((_INTERACTED, *row))

    def _add(self, event: tuple) -> None:
        if len(self._waiting) >= WAITING_MAX or self._task is None:
            self.stats.dropped += 1
            return
        self._waiting.append(event)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(GATHER_S)
            await self._producer.ready(TIMEOUT_S)
            await self._send_waiting()

    async def _send_waiting(self) -> None:
        while self._waiting and self._producer.up:
            try:
                await self._send_some()
            except Exception:  # events are not worth the process
                log.exception("events are dropped")
            await asyncio.sleep(0)
        self._drop_waiting()

    async def _send_some(self) -> None:
        count = min(ENCODE_MAX, len(self._waiting))
        events = [self._waiting.popleft() for _ in range(count)]
        if len(self._under_way) >= BATCHES_MAX:
            self.stats.dropped += count
            return
        partitions = await self._producer.partitions_of(self._options.events)
        shares: dict[int, list[tuple]] = {}
        for event in events:
            shares.setdefault(event[1] % partitions, []).append(event)
        for partition, share in shares.items():
            records = [(_KEY.pack(event[1]), self._encode(event), event[2]) for event in share]
            topic = self._options.events
            future = await self._producer.send_batch(topic, partition, records)
            self._under_way.add(future)
            future.add_done_callback(partial(self._landed, len(share)))

    def _landed(self, size: int, future: asyncio.Future) -> None:
        self._under_way.discard(future)
        if future.cancelled() or future.exception() is not None:
            self.stats.dropped += size
        else:
            self.stats.sent += size

    def _encode(self, event: tuple[Any, ...]) -> bytes:
        what, who, at_ms, *rest = event
        made = events_pb2.Event(event_id=self._ids.new_id(), at_ms=at_ms)
        if what == _SERVED:
            content_ids, origin, ranking_version, scrolled = rest
            served = made.page_served
            served.user_id = who
            served.content_ids.extend(content_ids)
            served.origin = origin
            served.ranking_version = ranking_version
            served.scrolled = scrolled
        elif what == _INTERACTED:
            made.interacted.user_id = who
            made.interacted.content_id, made.interacted.kind = rest
        elif what == _PUBLISHED:
            made.published.content_id = who
            made.published.author_id, made.published.visibility = rest
        else:
            made.deleted.content_id = who
            (made.deleted.author_id,) = rest
        return made.SerializeToString()

    def _drop_waiting(self) -> None:
        self.stats.dropped += len(self._waiting)
        self._waiting.clear()
