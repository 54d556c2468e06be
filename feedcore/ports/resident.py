"""ResidentSource: bulk reads of what a worker keeps in memory, and the replica that all its pages
share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from feedcore.domain.idset import U64Set
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


class PostedAuthors(Protocol):
    """Authors of pushed posts in the order they were seen, the newest some thousand."""

    @property
    def authors(self) -> list[int]:
        """One a post."""

    @property
    def first(self) -> int:
        """The number of the first of `authors` that is kept: numbers only grow."""


class RunLookup(Protocol):
    """The stored runs of the embedded store; one without runs answers that there are none."""

    @property
    def newest_run(self) -> int:
        """0 if there is none."""

    def since(self, user_id: int, seen_run: int) -> list[bytes]:
        """The user's slices of runs that are newer than `seen_run`."""


class ReplicaView(NamedTuple):
    """What is the same for all users, as of one moment of the store.

    `overlay_authors`: authors with posts that are acknowledged and not yet in the stored feeds;
    `posts_of(authors)` gives those posts' entries. `backfills`: users who wait for older posts
    of somebody they followed lately. `pulled`: authors whose timelines are merged by readers; it
    changes with `pulled_version`.
    """

    posted: PostedAuthors
    overlay_authors: U64Set
    posts_of: Callable[[list[int]], bytes]
    backfills: dict[int, dict[int, int]]  # user -> job -> author
    pulled: U64Set
    pulled_version: int
    tombstones: U64Set
    runs: RunLookup


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
