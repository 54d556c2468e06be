"""DirectReplica: node-wide state read from the system of record each time it is asked for.

Cache validation without Redis and without a node log, for tools and tests: `observe_node` reads
what changed at quorum before it returns, so nothing has to be announced. Invariant: what was
durable before a call of `observe_node` is seen after it. Not for serving pages: each costs several
queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.cluster.record_reader import RecordReader
from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.replica import SystemOfRecord
from feedcore.clock import Clock
from feedcore.codecs.epochs import EPOCHS_BYTES


class DirectReplica:
    """Implements `ports.cache_validation.CacheValidation` and `contracts.replica.Replica`."""

    def __init__(self, source: SystemOfRecord, clock: Clock) -> None:
        self.state = ReplicaState(native.Epochs(memoryview(bytearray(EPOCHS_BYTES))), clock)
        self._record = RecordReader(source, self.state, clock)

    async def load(self) -> None:
        """Engagement, and what is replicated."""
        await self._record.read_all(0)

    async def observe_node(self) -> None:
        """Reads all that changes what is seen."""
        async with self._record.turn(self._record.begun) as is_due:
            if is_due:
                await self._record.read()

    async def observe_viewer(self, user_id: int) -> None:
        """Nothing is kept of users."""
        await self.observe_node()

    def is_bypassed(self, user_id: int) -> bool:
        """Nothing is shared that could be away."""
        return False

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """Everybody reads the system of record; this process does so at once."""
        await self.observe_node()
