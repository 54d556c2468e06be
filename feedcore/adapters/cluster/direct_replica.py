"""DirectReplica: node-wide state read from the system of record each time it is asked for.

Cache validation without Redis and without a node log, for tools and tests: `observe_node` reads
what changed at quorum before it returns, so nothing has to be announced. Invariant: what was
durable before a call of `observe_node` is seen after it. Tombstones stay in memory, and are asked
for from TOMBSTONE_MARGIN_MS before the last time, by the clocks of those who deleted; the rest is
small and read whole. Not for serving pages: each costs several queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.replica import Document, ReplicaState, SystemOfRecord
from feedcore.clock import Clock
from feedcore.domain.policy import Mode
from feedcore.limits import MINUTE_MS, TOMBSTONE_AGE_MAX_MS
from feedcore.ports.settings import AuthorMode

TOMBSTONE_MARGIN_MS = MINUTE_MS  # clocks of nodes differ by less, and a write takes less


class DirectReplica:
    """Implements `ports.cache_validation.CacheValidation` and `contracts.replica.Replica`."""

    def __init__(self, source: SystemOfRecord, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._read_ms = clock.now_ms() - TOMBSTONE_AGE_MAX_MS
        self.tombstones = native.U64Set()
        self.trending = b""
        self.modes: dict[int, AuthorMode] = {}
        self.documents: dict[str, list[Document]] = {}
        self.pulled = native.U64Set()
        self.overlay_authors = native.U64Set()  # none: stored feeds are all that is shown

    @property
    def state(self) -> ReplicaState:
        """What was read last."""
        return self

    async def observe_node(self) -> None:
        """Reads everything."""
        now_ms = self._clock.now_ms()
        since_ms = self._read_ms - TOMBSTONE_MARGIN_MS
        for content_id in await self._source.tombstones_since(since_ms, now_ms):
            self.tombstones.add(content_id)
        self._read_ms = max(self._read_ms, now_ms)
        self.modes = {one.author_id: one for one in await self._source.author_modes()}
        self.pulled = native.U64Set(list(self.modes))
        self.documents = await self._source.documents()
        self.trending = await self._source.trending()

    async def observe_viewer(self, user_id: int) -> None:
        """Nothing is kept of users."""
        await self.observe_node()

    def is_bypassed(self, user_id: int) -> bool:
        """Nothing is shared that could be away."""
        return False

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """Everybody reads the system of record; this process does so at once."""
        await self.observe_node()

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing is known."""
        return self.modes.get(author_id) or AuthorMode(author_id, int(Mode.PUSH), 0, 0)

    def posts_of(self, authors: list[int]) -> bytes:
        """None: see `overlay_authors`."""
        return b""
