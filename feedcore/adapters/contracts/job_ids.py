"""Job ids: 63 bits, unique over all nodes, ascending in time, with a real time in microseconds.

Layout as content ids (`domain.ids`): milliseconds, region, node, sequence. The sequence is below
1,000, so that milliseconds and sequence together are microseconds: `timestamp_us` is what rows of
one user and author are written and deleted with (CQL `USING TIMESTAMP`), and an older job never
takes away what a newer one is about.

Invariants of a generator: each id, and its timestamp, is larger than the one before, also when the
clock goes back (ids then run ahead of it); ids a few milliseconds apart fall into all shards. The
clock is the real one in tests, too: the servers compare these times with their own.
"""

from __future__ import annotations

from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.limits import MINUTE_MS

US_PER_MS = 1_000
SHARDS = 8  # partitions a minute of the outbox: at 5,000 posts a second 40,000 rows in each
_SLOTS = US_PER_MS // SHARDS * SHARDS

assert US_PER_MS <= ids.SEQUENCE_MAX + 1


class JobIds:
    """Gives out ids of one (region, node)."""

    def __init__(self, region: int, node: int, clock: Clock) -> None:
        ids.make(ids.EPOCH_MS, region, node, 0)  # refuses what does not fit
        self._region = region
        self._node = node
        self._clock = clock
        self._last_ms = 0
        self._sequence = 0

    def new_id(self) -> int:
        """A new id, larger than all before."""
        ms = max(self._clock.now_ms(), self._last_ms)
        sequence = self._sequence + 1
        if ms > self._last_ms:
            # on to the next shard: posts that come one a millisecond must not share one
            sequence %= SHARDS
        elif sequence >= _SLOTS:
            ms, sequence = ms + 1, 0
        self._last_ms, self._sequence = ms, sequence
        return ids.make(ms, self._region, self._node, sequence)


def timestamp_us(job_id: int) -> int:
    """When the job was made, in microseconds since 1970."""
    return ids.time_ms(job_id) * US_PER_MS + min(ids.sequence(job_id), US_PER_MS - 1)


def shard_of(job_id: int) -> int:
    """Which outbox partition of its minute the row is in."""
    return job_id % SHARDS


def minute_of(job_id: int) -> int:
    """The unix minute that the row is filed under."""
    return ids.time_ms(job_id) // MINUTE_MS
