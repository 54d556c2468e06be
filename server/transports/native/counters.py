"""What the native transport counts of itself, and how that becomes metrics.

Sessions and rows count in plain integers; `publish` adds what is new to the metrics of the process,
about once a second, so that no call pays for it. Calls that a fast or batched handler answered,
standing ones when they end, and those that found the worker full never reach the interceptors: they
are counted here. The handlers of the first time themselves (server/handlers/feed_counters.py);
standing and refused calls have no duration.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from feedcore.observe import metrics
from feedcore_server.transports import NATIVE

if TYPE_CHECKING:
    from feedcore_server.transports.native.transport import Worker


class Counters:
    """Of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.accepted = 0
        self.cut: Counter[str] = Counter()
        self._totals = metrics.Totals()

    def cut_off(self, why: str) -> None:
        """A connection was ended by us, against its will."""
        self.cut[why] += 1

    def publish(self) -> None:
        """Brings the metrics up to date."""
        worker, totals = self._worker, self._totals
        metrics.CONNECTIONS.labels(NATIVE).set(len(worker.connections))
        totals.add(metrics.CONNECTIONS_ACCEPTED, self.accepted)
        metrics.RECEIVED_BYTES_HELD.set(worker.received.held)
        metrics.SENT_BYTES_HELD.set(worker.sent.held)
        for why, count in self.cut.items():
            totals.add(metrics.CONNECTIONS_CUT.labels(why), count)
        metrics.STREAMS_WAITING.set(worker.calls.waiting.open)
        for (operation, status), count in worker.calls.refused.items():
            totals.add(metrics.CALLS.labels(operation, status), count, "refused")
        for (operation, status), count in worker.calls.stood.items():
            totals.add(metrics.CALLS.labels(operation, status), count, "stood")
        for operation, took in worker.calls.batched.items():
            totals.add(metrics.CALLS.labels(operation, "ok"), sum(took.counts), "batched")
            durations = metrics.CALL_DURATION.labels(operation)
            totals.add_durations(durations, took.counts, took.seconds, "batched")
        for row in worker.methods.values():
            operation, path = row.method.operation, row.method.path
            if row.shed_calls:
                exhausted = metrics.CALLS.labels(operation, "resource_exhausted")
                totals.add(exhausted, row.shed_calls, path)
                totals.add(metrics.CALLS_SHED.labels(operation), row.shed_calls, path)
            if row.fast_calls:
                totals.add(metrics.CALLS.labels(operation, "ok"), row.fast_calls, path)
