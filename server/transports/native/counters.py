"""What the native transport counts of itself: connections that were cut off, by reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedcore_server.transports.native.transport import Worker


class Counters:
    """Of one worker; read by the metrics of the worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.cut: Counter[str] = Counter()

    def cut_off(self, why: str) -> None:
        """A connection was ended by us, against its will."""
        self.cut[why] += 1
