"""RecordReader: reads the system of record into the replica's state.

Invariants: one read at a time, so that an older answer never overwrites a newer one; a caller is
never answered by a read that began before they asked. Not for deciding when to read: that is the
replica's (replication).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.contracts.replica import SystemOfRecord
from feedcore.clock import Clock
from feedcore.errors import FeedcoreError
from feedcore.limits import MINUTE_MS, TOMBSTONE_AGE_MAX_MS

log = logging.getLogger(__name__)

SYNC_MARGIN_MS = MINUTE_MS  # a tombstone written then may have an earlier time: clocks, slow writes
RENEW_S = 1.0  # three small reads; posts do not depend on them


class RecordReader:
    """One a process."""

    def __init__(self, source: SystemOfRecord, state: ReplicaState, clock: Clock) -> None:
        self._source = source
        self._state = state
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ended = 0
        self._synced_ms = 0
        self.begun = 0  # turns so far
        self.is_behind = False  # what is stale could not be read: nobody waits for it again

    @asynccontextmanager
    async def turn(self, begun_before: int) -> AsyncIterator[bool]:
        """Nobody else reads meanwhile. False if a turn after that many has ended while the caller
        waited: its result is theirs, too.
        """
        async with self._lock:
            if self._ended > begun_before:
                yield False
                return
            self.begun += 1
            number = self.begun
            yield True
            self._ended = number

    def note_synced(self, now_ms: int) -> None:
        """The state had every deletion that was announced by then."""
        self._synced_ms = max(self._synced_ms, now_ms)

    async def read(self) -> None:
        """All that changes what is seen; of deletions, those since the state was in sync."""
        now_ms = self._clock.now_ms()
        since_ms = self._synced_ms or now_ms - TOMBSTONE_AGE_MAX_MS
        await self._state.refresh(self._source, since_ms - SYNC_MARGIN_MS)
        self.note_synced(now_ms)

    async def read_all(self, position: int) -> None:
        """Everything, for a state that follows the node log from `position` on."""
        now_ms = self._clock.now_ms()
        await self._state.resync(self._source, position)
        self.note_synced(now_ms)

    async def renew(self) -> None:
        """Reads what the log only says to have changed. Callers wait RENEW_S at most, and not again
        before the system of record has answered.
        """
        if not self.is_behind and (self._state.stale or self._lock.locked()):
            async with self._lock:
                if not self.is_behind:
                    await self.renew_now()

    async def retry(self) -> None:
        """Tries again to read what is behind."""
        async with self._lock:
            await self.renew_now()

    async def renew_now(self) -> None:
        """As `renew`, for a caller that has the turn. Sets `is_behind`, and raises nothing."""
        try:
            async with asyncio.timeout(RENEW_S):
                if self._state.stale:
                    await self._state.renew(self._source)
        except (FeedcoreError, TimeoutError) as error:
            if not self.is_behind:
                why = str(error) or f"no answer within {RENEW_S:g} s"
                log.warning("settings are behind: %s", why)
            self.is_behind = True
        else:
            self.is_behind = False
