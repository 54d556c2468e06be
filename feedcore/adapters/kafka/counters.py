"""What the Kafka adapters count of themselves, as metrics: called about once a second by the
process that exports a process's metrics. The lag of lanes is exported by the fan-out process, from
`queue.lag`.
"""

from __future__ import annotations

from feedcore.adapters.kafka.events import KafkaEventSink
from feedcore.adapters.kafka.outbox import KafkaOutbox
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.adapters.kafka.queue import KafkaQueue
from feedcore.adapters.kafka.sweeper import Sweeper
from feedcore.observe import metrics


class KafkaCounters:
    """Of one process; a part that it does not have is None."""

    def __init__(
        self,
        producer: KafkaProducer,
        outbox: KafkaOutbox,
        queue: KafkaQueue,
        sweeper: Sweeper | None = None,
        events: KafkaEventSink | None = None,
    ) -> None:
        self._producer = producer
        self._outbox = outbox
        self._queue = queue
        self._sweeper = sweeper
        self._events = events
        self._totals = metrics.Totals()

    def publish(self) -> None:
        """Adds what is new."""
        add, outbox, queue = self._totals.add, self._outbox.stats, self._queue.stats
        metrics.QUEUE_UP.set(self._producer.up)
        add(metrics.OUTBOX_JOBS.labels("relayed"), outbox.relayed)
        add(metrics.OUTBOX_JOBS.labels("left"), outbox.left)
        unreadable = queue.unreadable
        if self._sweeper is not None:
            swept = self._sweeper.stats
            add(metrics.OUTBOX_JOBS.labels("swept"), swept.swept)
            metrics.OUTBOX_OLDEST.set(swept.oldest_ms / 1_000)
            unreadable += swept.unreadable
        add(metrics.FANOUT_UNREADABLE, unreadable)
        if self._events is not None:
            add(metrics.EVENTS.labels("sent"), self._events.stats.sent)
            add(metrics.EVENTS.labels("dropped"), self._events.stats.dropped)
