"""What a contract suite needs of an engine: the ports of two openings, a way to settle what happens
behind, a way to wait for jobs, and the two things that run behind without a port.

A suite class takes the fixture `engine`. An adapter's test file defines that fixture and subclasses
the suites.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from feedcore import native
from feedcore.clock import ManualClock
from feedcore.domain import entry, ids
from feedcore.ports import (
    CacheValidation,
    ContentSource,
    Delivery,
    FanoutJob,
    FanoutQueue,
    FeedStore,
    GraphSource,
    JobKind,
    Lane,
    NewPost,
    PageCache,
    PostStore,
    PreferenceStore,
    SettingsStore,
    SignalStore,
)
from feedcore.ports.resident import ResidentSource

START_MS = 1_750_000_000_000
ALL = ids.ID_MAX
CLAIMED_S = 20.0  # a queue over a network may give out jobs of one moment one by one


class Capability(Enum):
    """What an adapter may deliberately lack. Its engine says what it has; where one is missing, a
    suite holds the adapter to what it does instead.
    """

    FOLLOW_IMPORTS = "edges in bulk; else they are refused"
    USER_SAMPLES = "a list of its users; else it is refused"
    ACTIVITY = "who was here lately; else everybody is in the first pass of a fan-out"
    SHARED_PAGES = "pages that openings leave each other; else there are none"


EVERYTHING = frozenset(Capability)


class Ports(Protocol):
    """All ports of one opened store."""

    @property
    def feeds(self) -> FeedStore: ...
    @property
    def posts(self) -> PostStore: ...
    @property
    def contents(self) -> ContentSource: ...
    @property
    def graph(self) -> GraphSource: ...
    @property
    def preferences(self) -> PreferenceStore: ...
    @property
    def signals(self) -> SignalStore: ...
    @property
    def queue(self) -> FanoutQueue: ...
    @property
    def settings(self) -> SettingsStore: ...
    @property
    def validation(self) -> CacheValidation: ...


class WholePorts(Ports, Protocol):
    """And what only a process that serves pages needs."""

    @property
    def resident(self) -> ResidentSource: ...
    @property
    def page_cache(self) -> PageCache: ...
    @property
    def epochs(self) -> native.Epochs: ...


class Engine(Protocol):
    """One engine under test."""

    @property
    def store(self) -> Ports: ...

    @property
    def other(self) -> Ports:
        """The same data, opened once more: what another process of the node sees."""

    @property
    def clock(self) -> ManualClock: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    async def settle(self) -> None:
        """Finishes what happens behind: merges, relays of jobs to the queue."""

    async def jobs(self, lanes: Sequence[Lane], limit: int, at_least: int = 1) -> list[FanoutJob]:
        """Claims with `store`, waiting, bounded, until there are so many. With `at_least` 0 nothing
        is expected: waits as long as what is there would take, if that is known only so.

        What was claimed and not advanced may be claimed again, or not: nothing may rely on either.
        """

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """Up to `limit` users not seen for INACTIVE_AFTER_MS are inactive from now on; how many."""

    async def load_follows(self, edges: Sequence[tuple[int, int]]) -> None:
        """Many (follower, followee) edges, into whatever system has the graph."""

    async def write_seen(self) -> None:
        """Writes what `store.preferences.seen` has noted."""


class WholeEngine(Engine, Protocol):
    """An engine that is a whole store."""

    @property
    def store(self) -> WholePorts: ...
    @property
    def other(self) -> WholePorts: ...


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
    followers: int = 0,
) -> NewPost:
    """A post made `age_ms` before now."""
    content_id = ids.make(clock.now_ms() - age_ms, 0, 1, seq)
    content = b"\x0a" + bytes([len(body)]) + body
    return NewPost(
        content_id, author_id, content, digest, visibility, 1.0, key, followers=followers
    )


def entry_of(content_id: int, author_id: int) -> bytes:
    """As PostStore makes it of `post`."""
    return entry.pack(content_id, author_id)


async def timeline_of(ports: Ports, author_id: int) -> bytes:
    """All entries of an author's timeline, newest first."""
    (entries,) = (await ports.posts.timelines([author_id], ALL, 0, 500)).entries
    return entries


async def fan_out(ports: Ports, clock: ManualClock) -> int:
    """Finishes the jobs of a local store; how many."""
    done = 0
    while jobs := await ports.queue.claim(tuple(Lane), 64):
        for job in jobs:
            await finish(ports, job, clock)
        done += len(jobs)
    return done


async def jobs_of(
    engine: Engine, kind: JobKind, count: int, lanes: Sequence[Lane] = tuple(Lane)
) -> list[FanoutJob]:
    """The next `count` jobs of that kind, in the order they were claimed. Others are finished on
    the way: an engine may queue the backfill of an author who has no posts.
    """
    found: dict[tuple[int, int], FanoutJob] = {}
    deadline = time.monotonic() + CLAIMED_S
    while time.monotonic() < deadline:
        for job in await engine.jobs(lanes, 64):
            if job.kind is kind:
                found[job.job_id, job.after] = job
            else:
                await finish(engine.store, job, engine.clock)
        if len(found) >= count:
            assert len(found) == count, found
            return list(found.values())
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(found)} {kind} jobs, {count} are due")


async def no_more(engine: Engine, kind: JobKind) -> bool:
    """Whether no job of that kind is to be done."""
    jobs = await engine.jobs(tuple(Lane), 64, at_least=0)
    return all(job.kind is not kind for job in jobs)


async def finish(ports: Ports, job: FanoutJob, clock: ManualClock) -> None:
    """A POST, BACKFILL or REMOVE job, the plain way."""
    recipient = job.user_id.to_bytes(8, "little")
    if job.kind is JobKind.POST:
        page = await ports.graph.push_recipients(job.author_id, 0, 10_000, job.lane, 0)
        await ports.feeds.deliver([Delivery(job.entry, page.ids)])
    elif job.kind is JobKind.REMOVE:
        await ports.feeds.deliver([Delivery(b"", recipient, job.author_id)])
    elif job.kind is JobKind.BACKFILL:
        entries = await timeline_of(ports, job.author_id)
        await ports.feeds.deliver([Delivery(entries, recipient)])
    await ports.queue.advance([(job, -1, 1)], clock.now_ms())
