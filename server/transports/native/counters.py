"""What the native transport counts of itself, and how that becomes metrics.

Sessions and rows count in plain integers; `publish` adds what is new to the metrics of the process,
about once a second, so that no call pays for it. Calls that a fast handler answered, and those that
found the worker full, never reach the interceptors: they are counted here, without a duration.
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
        self._published: Counter[str] = Counter()

    def cut_off(self, why: str) -> None:
        """A connection was ended by us, against its will."""
        self.cut[why] += 1

    def publish(self) -> None:
        """Brings the metrics up to date."""
        worker = self._worker
        metrics.CONNECTIONS.labels(NATIVE).set(len(worker.connections))
        metrics.CONNECTIONS_ACCEPTED.inc(self._new("accepted", self.accepted))
        metrics.RECEIVED_BYTES_HELD.set(worker.received.held)
        metrics.SENT_BYTES_HELD.set(worker.sent.held)
        for why, count in self.cut.items():
            metrics.CONNECTIONS_CUT.labels(why).inc(self._new(f"cut {why}", count))
        for operation, count in worker.calls.refused.items():
            new = self._new(f"refused {operation}", count)
            metrics.CALLS.labels(operation, "resource_exhausted").inc(new)
        for operation, count in worker.calls.batched.items():
            metrics.CALLS.labels(operation, "ok").inc(self._new(f"batched {operation}", count))
        for row in worker.methods.values():
            if row.shed_calls:
                new = self._new(f"shed {row.method.path}", row.shed_calls)
                metrics.CALLS.labels(row.method.operation, "resource_exhausted").inc(new)
                metrics.CALLS_SHED.labels(row.method.operation).inc(new)
            if row.fast_calls:
                new = self._new(row.method.path, row.fast_calls)
                metrics.CALLS.labels(row.method.operation, "ok").inc(new)

    def _new(self, name: str, total: int) -> int:
        new = total - self._published[name]
        self._published[name] = total
        return new
