"""ReplicaState: what a node keeps of what is the same for all users, fed by the node log.

    posts            the overlay: announced in the last OVERLAY_MS (overlay)
    deletions, engagement
                     as the log says, at once
    settings, modes, trending
                     the log only says that they have changed: `stale` until `renew` has read them
                     from the system of record

Invariants: applying an event again changes nothing that is seen; everything is bounded; the log
from `floor` on has been applied, so that `unchanged_since` can answer for any position above it.
One loop's. Not for reading the log (replication), nor for what belongs to one user.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.cluster.overlay import Overlay
from feedcore.adapters.common.engagement_table import PAIR, EngagementTable
from feedcore.adapters.common.posted_authors import PublishedAuthors
from feedcore.adapters.contracts.announcements import (
    Deleted,
    Engagement,
    Event,
    ModesChanged,
    Posted,
    SettingsChanged,
)
from feedcore.adapters.contracts.replica import Document, SystemOfRecord
from feedcore.clock import Clock
from feedcore.codecs.epochs import AUTHOR, CONTENT, FEED
from feedcore.domain import ids
from feedcore.limits import (
    HOUR_MS,
    RETENTION_MS,
    TOMBSTONE_AGE_MAX_MS,
)
from feedcore.ports.resident import ReplicaView
from feedcore.ports.settings import AuthorMode

TRENDING = "trending"  # the name of SettingsChanged that stands for the trending posts
MODES, DOCUMENTS = "modes", "documents"
_PUSH = 0


class ReplicaState:
    """`epochs`: this worker's; what an event changes for its keepings is bumped there."""

    def __init__(self, epochs: native.Epochs, clock: Clock) -> None:
        self._epochs = epochs
        self._clock = clock
        self.version = 0  # changes with everything that is replicated
        self.overlay = Overlay()
        self._resynced_at = 0  # position from which on the log is applied
        self._changed_at = 0  # position of the last change of settings or modes
        self._changed_ms = 0  # when this node itself changed them, unless the log has told it
        self._unlogged_changes = 0
        self._trending_at = 0
        self._position = 0
        self.pulled = native.U64Set()
        self.pulled_version = 0
        self._modes: dict[int, AuthorMode] = {}
        self.tombstones = native.U64Set()
        self._pruned_ms = 0
        self.documents: dict[str, list[Document]] = {}
        self.trending = b""
        self.stale: set[str] = set()
        self._reading: set[str] = set()
        self._published = PublishedAuthors()  # for who loads ahead
        self.engagement = EngagementTable()
        self._index = native.RunIndex([])

    # --- for readers ----------------------------------------------------------------------------

    def view(self) -> ReplicaView:
        """As of the last event. Its sets change in place: take them again when `version` does."""
        return ReplicaView(
            self.overlay.posted,
            self.overlay.authors,
            self.posts_of,
            {},
            self.pulled,
            self.pulled_version,
            self.tombstones,
            self._index,
        )

    def engagement_table(self) -> memoryview:
        """See `ports.resident`."""
        return self.engagement.slots

    def posts_of(self, authors: Sequence[int]) -> bytes:
        """Entries of the pushed posts in the overlay by these authors, newest first."""
        return self.overlay.posts_of(authors)

    @property
    def overlay_authors(self) -> native.U64Set:
        """Authors of `posts_of`."""
        return self.overlay.authors

    @property
    def floor(self) -> int:
        """Position in the log from which on everything is known."""
        return max(self.overlay.floor, self._resynced_at)

    def take_published(self) -> list[int]:
        """Pulled authors who published since this was last asked."""
        return self._published.take()

    @property
    def modes(self) -> dict[int, AuthorMode]:
        """Authors that are not PUSH."""
        return self._modes

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing is known."""
        return self._modes.get(author_id) or AuthorMode(author_id, _PUSH, 0, 0)

    def shows_no_deleted(self, shown: bytes) -> bool:
        """Of an array of content ids."""
        return not native.ids_intersect(shown, self.tombstones)

    @property
    def is_behind(self) -> bool:
        """Whether something has changed that is not read yet."""
        return bool(self.stale or self._reading)

    def unchanged_since(self, position: int, made_ms: int, user_id: int, followees: bytes) -> bool:
        """Whether a page that was made then, from the log up to `position`, would be made again,
        but for what was deleted: nobody of the followed (nor the user) has posted since, no
        setting and no author's mode has changed.
        """
        if position < self.floor or position < self._changed_at or made_ms <= self._changed_ms:
            return False
        if not followees and position < self._trending_at:
            return False
        return not self.overlay.has_newer(followees, user_id, position)

    # --- events ---------------------------------------------------------------------------------

    def apply(self, event: Event, position: int | None = None, *, own: bool = False) -> None:
        """`position`: of the log's entry, None for what this node announces itself and applies at
        once. `own`: the log tells this node what it applied already.
        """
        self.version += 1
        if position is not None:
            self._position = max(self._position, position)
        if isinstance(event, Posted):
            self._apply_posted(event, position, own=own)
        elif isinstance(event, Deleted):
            self.tombstones.add(event.content_id)
            self._epochs.bump(CONTENT, event.content_id)
        elif isinstance(event, Engagement):
            self._apply_engagement(event.pairs)
        elif isinstance(event, SettingsChanged) and event.name == TRENDING:
            self._note_change(TRENDING, position, own=own)
        elif isinstance(event, SettingsChanged):
            self._note_change(DOCUMENTS, position, own=own)
        elif isinstance(event, ModesChanged):
            self._note_change(MODES, position, own=own)
        self._epochs.advance()

    def _apply_engagement(self, pairs: bytes) -> None:
        self.engagement.apply(pairs)
        for content_id, _ in PAIR.iter_unpack(pairs):
            self._epochs.bump(CONTENT, content_id)  # its counts have changed, too

    def _note_change(self, what: str, position: int | None, *, own: bool) -> None:
        if not own:
            self.stale.add(what)
        if position is None:
            self._changed_ms = self._clock.now_ms()
            self._unlogged_changes += 1
            return
        if own and self._unlogged_changes:
            self._unlogged_changes -= 1
            if not self._unlogged_changes:
                self._changed_ms = 0
        if what == TRENDING:
            self._trending_at = max(self._trending_at, position)
        else:
            self._changed_at = max(self._changed_at, position)

    def _apply_posted(self, event: Posted, position: int | None, *, own: bool) -> None:
        author_id, now_ms = event.author_id, self._clock.now_ms()
        self.overlay.add(event, position, self._position, now_ms)
        if not own:
            # the author's own page shows it whoever serves it; a pulled one's timeline has it
            self._epochs.bump(AUTHOR, author_id)
            self._epochs.bump(FEED, author_id)
        if event.pulled:
            self._note_pulled(author_id)
        self.overlay.expire(now_ms)

    def _note_pulled(self, author: int) -> None:
        if author not in self.pulled:
            # the news of the mode is under way, maybe behind this post
            self.pulled.add(author)
            self.pulled_version += 1
            self.stale.add(MODES)
        self._published.add(author)

    def prune(self) -> None:
        """Lets go what is over. Once a second is enough."""
        now_ms = self._clock.now_ms()
        if self.overlay.expire(now_ms):
            self.version += 1
        if now_ms - self._pruned_ms < HOUR_MS:
            return
        self._pruned_ms = now_ms
        oldest = ids.first_id_at(now_ms - TOMBSTONE_AGE_MAX_MS)
        for content_id in list(self.tombstones):
            if content_id < oldest:
                self.tombstones.discard(content_id)
        self.version += 1

    # --- the system of record -------------------------------------------------------------------

    async def renew(self, source: SystemOfRecord) -> None:
        """Reads what is stale. What fails stays stale, and raises."""
        reading, self.stale = self.stale, set()
        self._reading = reading
        try:
            if MODES in reading:
                self._take_modes(await source.author_modes())
            if DOCUMENTS in reading:
                self.documents = await source.documents()
            if TRENDING in reading:
                self.trending = await source.trending()
        except BaseException:
            self.stale |= reading
            raise
        finally:
            self._reading = set()
        self.version += 1
        self._epochs.advance()

    async def refresh(self, source: SystemOfRecord, since_ms: int) -> None:
        """All that changes what is seen; of deletions those since then."""
        now_ms = self._clock.now_ms()
        deleted = await source.tombstones_since(since_ms, now_ms)
        for content_id in deleted:
            if content_id not in self.tombstones:
                self.tombstones.add(content_id)
                self._epochs.bump(CONTENT, content_id)
        self.stale |= {MODES, DOCUMENTS, TRENDING}
        await self.renew(source)

    async def resync(self, source: SystemOfRecord, position: int) -> None:
        """Everything, after the log was lost or before it is first read; it is read from
        `position` on, which must have been found before this began.
        """
        now_ms = self._clock.now_ms()
        await self.refresh(source, now_ms - TOMBSTONE_AGE_MAX_MS)
        self._apply_engagement(await source.engagement_since(now_ms - RETENTION_MS, now_ms))
        self._resynced_at = max(self._resynced_at, position)
        self._position = position
        self.version += 1
        self._epochs.advance()

    def _take_modes(self, modes: Sequence[AuthorMode]) -> None:
        self._modes = {one.author_id: one for one in modes}
        pulled = native.pack_ids(one.author_id for one in modes if one.mode != _PUSH)
        if pulled != native.pack_ids(self.pulled):
            self.pulled = native.U64Set(pulled)
            self.pulled_version += 1
