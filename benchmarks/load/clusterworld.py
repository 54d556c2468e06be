"""Worlds of the cluster profile: graphs and posts as the embedded ones have them, written through
the adapters of the tables, and fanned out over Kafka.

One node with a durable commit log takes some thousand rows a second here, so these worlds are
small, and stay in their keyspace for the next run, which finds what this one has written since.
Invariant: `world.json` is written last. Not for loading data that people care about: `feedcore
load` does that.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from feedcore import config
from feedcore.adapters.cluster.store import ClusterStore
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.session import Statement
from feedcore.clock import SystemClock
from feedcore.codecs.content import Media, digest, encode_content
from feedcore.compose import compose_over
from feedcore.compose.stores import cluster_options, cql_settings, migrate_cluster
from feedcore.domain import ids
from feedcore.domain.policy import Mode
from feedcore.errors import Unavailable
from feedcore.limits import IMPORT_BATCH_ROWS_MAX
from feedcore.ports import ImportedCounts, NewPost
from feedcore.ports.settings import AuthorMode
from feedcore.services.hot import HotSettings
from feedcore.workers.fanout import FanoutWorker
from feedcore_bench import engines as engines_of
from feedcore_bench import graph as graphs
from feedcore_bench.building import (
    FOLLOWERS_KEPT,
    IMPORT_NODE,
    ORDINARY_FOLLOWERS,
    THRESHOLD_SHARE,
    PostRow,
    Windows,
    remember,
)
from feedcore_bench.engines import Engines
from feedcore_bench.world import AGE_MAX_MS, CACHE, WINDOWS, Echo, Spec, World, now_ms

POSTS_A_CALL = 500
MIGRATE_WAIT_S = 60.0
BUILD_TIMEOUT_MS = 20_000  # a new table takes one small node seconds while others use it
IDLE_TURNS = 3  # of the fan-out, each of which waits for messages: nothing is under way any more
FAN_OUT_S_MAX = 600.0
AGAIN_MAX, AGAIN_S = 10, 1.0
# Authors whose posts are waited for, beside those that the graph has: worlds are too small for many
# authors with 500 followers. Their ids are above all others'.
ORDINARY_AUTHORS = 8
ORDINARY_FIRST = 50_000_000
# The accounts followed who posted nothing: fewer, of fewer, than in the embedded world.

NOISE, NOISE_OF = 80, 1_000
FULL_USERS, TINY_POSTS_SHARE = 200, 0.1  # worlds of fewer users check answers, not times
T = TypeVar("T")
_KEYSPACE = Statement("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?")


def obtain(spec: Spec, engines: Engines, echo: Echo, cache: Path = CACHE) -> World:
    """The world that these engines have, made if it is not there, too old, or of other
    parameters.
    """
    folder = cache / f"{spec.digest}-cluster"
    world = World.load(folder)
    if world is not None and now_ms() - world.made_ms < AGE_MAX_MS:
        there = json.loads((folder / "engines.json").read_text(encoding="utf-8"))
        if there == [engines.cassandra, engines.kafka] and asyncio.run(_is_there(spec, engines)):
            return world
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "engines.json").write_text(
        json.dumps([engines.cassandra, engines.kafka]), encoding="utf-8"
    )
    echo(f"making the world ({spec}) in the tables of {engines.cassandra}")
    return asyncio.run(_build(spec, folder, engines, echo))


def forget(spec: Spec, cache: Path = CACHE) -> None:
    """The next `obtain` makes it anew."""
    shutil.rmtree(cache / f"{spec.digest}-cluster", ignore_errors=True)


def settings_of(spec: Spec, engines: Engines) -> config.Settings:
    """For a process of the benchmark's own, with Redis keys of its own."""
    given = engines.settings(engines_of.keyspace_of(spec), engines_of.redis_prefix())
    return config.load({**given, "cql.timeout_ms": BUILD_TIMEOUT_MS}).settings


async def open_store(spec: Spec, engines: Engines, echo: Echo) -> ClusterStore:
    """One that fans out."""
    options = cluster_options(settings_of(spec, engines), IMPORT_NODE)
    return await ClusterStore.open(options, SystemClock(), fanout=True, waiting=echo)


async def _is_there(spec: Spec, engines: Engines) -> bool:
    """Another user of the engines may have dropped it."""
    session = await open_session(cql_settings(settings_of(spec, engines), keyspace=""))
    try:
        return bool(await session.read(_KEYSPACE, (engines_of.keyspace_of(spec),)))
    finally:
        await session.close()


async def drop(spec: Spec, engines: Engines) -> None:
    """Deletes the world's tables."""
    session = await open_session(cql_settings(settings_of(spec, engines), keyspace=""))
    try:
        await session.define(f"DROP KEYSPACE IF EXISTS {engines_of.keyspace_of(spec)}")
    finally:
        await session.close()


async def _build(spec: Spec, folder: Path, engines: Engines, echo: Echo) -> World:
    began = time.perf_counter()
    clock = SystemClock()
    made_ms = clock.now_ms()
    await drop(spec, engines)
    await migrate_cluster(settings_of(spec, engines), MIGRATE_WAIT_S, echo)
    source: graphs.Graph | Windows
    if spec.kind == WINDOWS:
        share = 1.0 if spec.users >= FULL_USERS else TINY_POSTS_SHARE
        source = Windows(spec.users, spec.seed, NOISE, NOISE_OF, share)
    else:
        source = graphs.Graph(spec.users, spec.seed, spec.scale)
    users = list(source.ids)
    share = 0.15 if isinstance(source, Windows) else THRESHOLD_SHARE
    threshold = max(2, int(len(users) * share))
    store = await open_store(spec, engines, echo)
    try:
        engine = compose_over(store, HotSettings(), clock, node=IMPORT_NODE)
        world = World(spec, folder, made_ms, 0.0, users, source.activity, threshold, 0, 0, 0, 0, 0)
        await engine.admin.set_settings(push_threshold=threshold)
        await _follows(store, source, world, echo)
        if isinstance(source, Windows):
            rows = source.posts(made_ms, spec.seed)
        else:
            count = round(spec.posts_per_user * len(users))
            rows = graphs.posts(source.activity, count, made_ms, spec.seed)
        await _posts(store, rows, world, echo)
        world.deliveries = await fan_out(store, engine.fanout, world.posts)
        echo(f"{world.deliveries:,} deliveries")
        while await engine.policy.review(clock.now_ms()):
            pass
        await store.signals.refresh_trending(clock.now_ms())
    finally:
        await store.close()
    world.seconds = time.perf_counter() - began
    world.save()
    echo(f"made it in {world.seconds:.0f} s: {world.edges:,} follows, {world.posts:,} posts")
    return world


def _lists(source: graphs.Graph | Windows, world: World) -> Iterator[tuple[int, list[int]]]:
    """The graph's, and authors with just as many followers as a probe wants."""
    yield from source.follower_lists()
    draw = random.Random(f"{world.spec.seed} ordinary")
    if len(world.users) <= ORDINARY_FOLLOWERS or isinstance(source, Windows):
        return
    for author in range(ORDINARY_FIRST, ORDINARY_FIRST + ORDINARY_AUTHORS):
        yield author, sorted(draw.sample(world.users, ORDINARY_FOLLOWERS))


async def _follows(
    store: ClusterStore, source: graphs.Graph | Windows, world: World, echo: Echo
) -> None:
    counts: list[int] = []
    pulled: list[AuthorMode] = []
    followees: dict[int, list[int]] = {}
    for author, followers in _lists(source, world):
        counts.append(len(followers))
        if len(followers) >= world.push_threshold:
            pulled.append(AuthorMode(author, Mode.PULL, len(followers), 0))
        for follower in followers:
            followees.setdefault(follower, []).append(author)
        remember(world, author, followers, min(ORDINARY_FOLLOWERS, max(counts)))
    waiting: list[tuple[int, int]] = []
    for at, (user, authors) in enumerate(followees.items(), 1):
        waiting += [(user, author) for author in authors]
        if len(waiting) >= IMPORT_BATCH_ROWS_MAX or at == len(followees):
            await _again(partial(store.graph.import_follows, waiting, world.made_ms))
            world.edges += len(waiting)
            waiting = []
            if at % 10 == 0:
                echo(f"{world.edges:,} follows")
    await store.settings.set_author_modes(pulled)
    world.median_followers = int(statistics.median(counts))
    world.mean_followers = sum(counts) / len(counts)
    most = max(count for _, count, _ in world.ordinary)
    world.ordinary = [one for one in world.ordinary if one[1] * 1.25 >= most][-FOLLOWERS_KEPT:]


async def _posts(store: ClusterStore, rows: Iterator[PostRow], world: World, echo: Echo) -> None:
    last_id = 0
    made: list[NewPost] = []
    likes_of: list[int] = []

    async def write() -> None:
        published = await _again(lambda: store.posts.import_posts(made))
        world.posts += len(made)
        counts = [
            ImportedCounts(post.content_id, likes, likes // 8, likes // 20)
            for post, likes in zip(published, likes_of, strict=True)
            if post is not None and likes
        ]
        await _again(lambda: store.signals.import_counts(counts))
        made.clear()
        likes_of.clear()
        echo(f"{world.posts:,} posts")

    for at_ms, author, body, media, likes in rows:
        content = encode_content(body, [Media(uri, "image/jpeg", 1200, 900) for uri in media], 0)
        last_id = max(last_id + 1, ids.make(at_ms, 0, IMPORT_NODE, 0))
        made.append(NewPost(last_id, author, content, digest(content), 0, 1.0, ""))
        likes_of.append(likes)
        if len(made) == POSTS_A_CALL:
            await write()
    await write()


async def _again(work: Callable[[], Awaitable[T]]) -> T:
    """Until the tables answer: a small node has its own, shorter, deadlines for transactions. What
    is imported twice for that is there twice, which a benchmark may have.
    """
    for _ in range(AGAIN_MAX):
        try:
            return await work()
        except Unavailable:
            await asyncio.sleep(AGAIN_S)
    return await work()


async def fan_out(store: ClusterStore, worker: FanoutWorker, jobs: int) -> int:
    """Takes so many jobs, or until nothing comes any more; how many deliveries the worker has
    made.
    """
    until_s = time.monotonic() + FAN_OUT_S_MAX
    done = worker.stats.jobs_finished + jobs
    idle = 0
    while worker.stats.jobs_finished < done and time.monotonic() < until_s:
        if await worker.turn():
            idle = 0
            continue
        idle += 1
        lag = await store.queue.lag(now_ms())
        if idle >= IDLE_TURNS and not any(one.jobs for one in lag.values()):
            break
    return worker.stats.deliveries
