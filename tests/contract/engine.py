"""What a contract suite needs of an engine: the ports, a way to settle what happens behind,
reopening.

A suite class takes the fixture `engine`. An adapter's test file defines that fixture and subclasses
the suites.
"""

from __future__ import annotations

from typing import Protocol

from feedcore.clock import ManualClock
from feedcore.domain import entry, ids
from feedcore.ports import (
    ContentSource,
    Delivery,
    FanoutQueue,
    FeedStore,
    GraphSource,
    JobKind,
    Lane,
    NewPost,
    PostStore,
    PreferenceStore,
    SettingsStore,
    SignalStore,
)

START_MS = 1_750_000_000_000
ALL = ids.ID_MAX


class Ports(Protocol):
    """All ports of one opened store."""

    feeds: FeedStore
    posts: PostStore
    contents: ContentSource
    graph: GraphSource
    preferences: PreferenceStore
    signals: SignalStore
    queue: FanoutQueue
    settings: SettingsStore


class Engine(Protocol):
    """One engine under test."""

    store: Ports
    other: Ports  # the same data, opened once more: what another process of the node sees
    clock: ManualClock

    async def settle(self) -> None:
        """Stores what was delivered so far."""


def post(
    clock: ManualClock,
    author_id: int,
    *,
    seq: int = 0,
    key: str = "",
    digest: bytes = b"d",
    visibility: int = 0,
    body: bytes = b"hi",
    age_ms: int = 0,
) -> NewPost:
    """A post made `age_ms` before now."""
    content_id = ids.make(clock.now_ms() - age_ms, 0, 1, seq)
    content = b"\x0a" + bytes([len(body)]) + body
    return NewPost(content_id, author_id, content, digest, visibility, 1.0, key)


def entry_of(content_id: int, author_id: int) -> bytes:
    """As PostStore makes it of `post`."""
    return entry.pack(content_id, author_id)


async def fan_out(ports: Ports, clock: ManualClock) -> int:
    """Finishes POST, BACKFILL and REMOVE jobs the plain way; how many."""
    done = 0
    while jobs := ports.queue.claim(tuple(Lane), 64):
        for job in jobs:
            if job.kind is JobKind.POST:
                page = ports.graph.push_recipients(job.author_id, 0, 10_000, job.lane, 0)
                await ports.feeds.deliver([Delivery(job.entry, page.ids)])
            elif job.kind is JobKind.REMOVE:
                recipient = job.user_id.to_bytes(8, "little")
                await ports.feeds.deliver([Delivery(b"", recipient, job.author_id)])
            elif job.kind is JobKind.BACKFILL:
                entries = ports.posts.outboxes([job.author_id], ALL, 0, 500)[0]
                await ports.feeds.deliver([Delivery(entries, job.user_id.to_bytes(8, "little"))])
            await ports.queue.advance([(job, -1, 1)], clock.now_ms())
            done += 1
    return done
