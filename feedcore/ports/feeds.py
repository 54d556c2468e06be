"""FeedStore: each user's stored feed. Derived data: it can be rebuilt from posts and graph."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Window(NamedTuple):
    """One user's stored candidates.

    `sources`: entries arrays to be merged (a stored part, and posts whose delivery is acknowledged
    but not yet merged into it). `built`: False while nothing can be promised of the stored part
    (the user was inactive, or the feed is being rebuilt): the caller then pulls from every
    followee. `pending_authors`: authors followed so lately that their older posts are still on
    their way: pull those too. `damaged`: why the stored part lacks what it should have, "" if it
    does not: the caller pulls then as well, but has nothing to ask for, since that is mended by
    itself.
    """

    sources: list[bytes]
    built: bool
    pending_authors: tuple[int, ...]
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One post to many users (`entries` of one entry), or many posts to one user, or a removal.

    `recipients` is an id array. A removal (`remove_author` > 0) takes that author's entries out of
    the feeds of `recipients`; `entries` is then empty. `job_id` is that of a removal's job: a store
    that does jobs of one pair in any order takes away only what was delivered before it was made.
    """

    entries: bytes
    recipients: bytes
    remove_author: int = 0
    job_id: int = 0


class FeedStore(Protocol):
    """Partitioned by the feed's owner; a read touches one partition."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Reads inside see one moment, not earlier than its beginning, where the store is local;
        cheaper than one by one.

        To be held across awaits of this store's reads only: those of a local store never suspend.
        """

    async def window(
        self, user_id: int, followees: bytes, at_or_below: int, not_below: int, limit: int
    ) -> Window:
        """The stored entries of `user_id` with not_below <= content_id <= at_or_below, newest
        first.

        Each source holds the newest `limit` in bounds, at least; it may hold more, also out of
        bounds (the merge cuts). `followees` is the id array of whom the user follows: it lets a
        store show posts of theirs that are published but not delivered yet.
        """

    def pulled_authors(self, user_id: int, followees: bytes) -> list[int]:
        """Those of `followees` whose posts are not (all) pushed: their timelines belong into the
        merge.
        """

    async def request_rebuild(self, user_id: int, now_ms: int) -> None:
        """Makes the user active again and queues a REBUILD job; at most one is waiting, so it costs
        a read then.

        `window` answers built=True again once that job is finished and all that it delivered is
        stored. Posts published after this returns are pushed to the user again.
        """

    async def request_backfill(self, user_id: int, author_id: int, now_ms: int) -> None:
        """Queues a BACKFILL job, durable on return; until it is done and stored, `window` names the
        author as pending. For follows that another service keeps: the store's own graph queues the
        jobs of its follows itself.
        """

    async def request_removal(self, user_id: int, author_id: int, now_ms: int) -> None:
        """Queues a REMOVE job, durable on return; for the ends of such follows."""

    async def deliver(self, deliveries: list[Delivery]) -> None:
        """Makes the deliveries durable and visible, all or none. Delivering again changes
        nothing.
        """

    async def delivered(self, user_id: int, content_id: int) -> bool:
        """Whether the stored part holds the item for the user (for Explain)."""

    def backlog(self) -> int:
        """Deliveries that are durable but not yet merged into the stored feeds."""
