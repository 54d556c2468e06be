"""ResidentSource: bulk reads of what a worker keeps in memory, and the replica that all its pages
share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from feedcore.ports.content import Content
from feedcore.ports.preferences import ViewerFilters


class ViewerRow(NamedTuple):
    """One user as a reader.

    `entries`: the newest stored ones, merged, as many as were asked for (fewer: that is all there
    is). `built` False: nothing can be promised of them. `seen_run`: the stored runs up to this one
    are in them. `snoozed_until_ms`: when the first of the active snoozes ends, 0 if there is none.
    """

    followees: bytes
    filters: ViewerFilters
    snoozed_until_ms: int
    built: bool
    entries: bytes
    seen_run: int


class ReplicaView(NamedTuple):
    """What is the same for all users, as of one moment of the store.

    `overlay_authors`: authors with posts that are acknowledged and not yet in the stored feeds;
    `posts_of(authors)` gives those posts' entries; `posted` numbers the authors of pushed posts in
    the order they were seen, the newest some thousand. `backfills`: users who wait for older posts
    of somebody they followed lately. `pulled`: authors whose timelines are merged by readers; it
    changes with `pulled_version`. `index`: lookups in the stored runs.
    """

    posted: Any  # with `authors`, a list, and `first`, the number of its first one
    overlay_authors: Any
    posts_of: Any
    backfills: dict[int, Any]
    pulled: Any
    pulled_version: int
    tombstones: Any
    index: Any


class ResidentSource(Protocol):
    """Reads see everything that was acknowledged before they began. Batches have at most
    LOAD_BATCH_MAX keys; answers are in the order of the keys.
    """

    @property
    def local(self) -> bool:
        """True: its coroutines never suspend, so that a load may be finished at once."""

    @property
    def replica_version(self) -> int:
        """Changes when `replica` would give something else than before."""

    def replica(self) -> ReplicaView:
        """As of now, or later than the last acknowledgement."""

    def engagement_table(self) -> memoryview:
        """The shared map that `native.engagement_lookup` reads."""

    def take_published(self) -> list[int]:
        """Pulled authors who published since this was last asked, as far as `replica` has seen it;
        bounded, the newest.
        """

    async def viewers(self, user_ids: Sequence[int], depth: int, now_ms: int) -> list[ViewerRow]:
        """With the newest `depth` stored entries each."""

    async def timelines(self, author_ids: Sequence[int], now_ms: int) -> list[bytes]:
        """Entries within retention, newest first."""

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """None where there is no such post (any more)."""
