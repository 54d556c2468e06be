"""ClusterCacheValidation between nodes, on a real Redis: what one announces the others see."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import REGISTRY

from feedcore.adapters.cluster.metrics import SharedCounters
from feedcore.codecs.epochs import AUTHOR, CONTENT
from tests.cluster.redisworld import Node, Record, Writer, fresh_prefix
from tests.support.redisserver import RedisCluster

WRITES = 10_000
USERS = 300


class Model:
    """What a reader must see after an acknowledgement, by brute force."""

    def __init__(self) -> None:
        self.durable = dict.fromkeys(range(1, USERS + 1), 0)  # the version that a load finds
        self.changed = dict(self.durable)  # the version that was acknowledged
        self.posts: list[tuple[int, int]] = []
        self.deleted: list[int] = []


class Reader:
    """A node's keepings of users: loaded when the epoch says so, with the version of the model."""

    def __init__(self, node: Node, model: Model) -> None:
        self.node = node
        self.model = model
        self.kept: dict[int, tuple[tuple[int, int], int]] = {}
        self.loads = 0

    async def look(self, user_id: int) -> None:
        expected = self.model.changed[user_id]
        deleted, posts = self.model.deleted[-20:], self.model.posts[-20:]
        await self.node.validation.observe_viewer(user_id)
        counters = self.node.kept(user_id)
        kept = self.kept.get(user_id)
        if kept is None or kept[0] != counters:
            kept = self.kept[user_id] = counters, self.model.durable[user_id]
            self.loads += 1
        assert kept[1] >= expected, f"user {user_id}: kept {kept[1]}, acknowledged {expected}"
        assert all(one in self.node.state.tombstones for one in deleted)
        for content_id, author_id in posts:
            entries = self.node.state.posts_of([author_id])
            assert (content_id ^ ((1 << 64) - 1)).to_bytes(8, "big") in entries


async def _write(writer: Writer, node: Node, model: Model, rng: random.Random, number: int) -> None:
    kind = rng.random()
    if kind < 0.6:
        users = rng.sample(range(1, USERS + 1), rng.randint(1, 3))
        for user_id in users:
            model.durable[user_id] = max(model.durable[user_id], number)
        await node.replica.announce(users)
        for user_id in users:
            model.changed[user_id] = max(model.changed[user_id], number)
    elif kind < 0.9 or not model.posts:
        author_id = rng.randint(1_000, 1_100)
        content_id = await writer.post(node, author_id)
        model.posts.append((content_id, author_id))
    else:
        content_id = rng.choice(model.posts)[0]
        await writer.delete(node, content_id)
        model.deleted.append(content_id)


async def _writes_are_seen(nodes: list[Node], record: Record, writes: int) -> None:
    """Writers and readers at the same time, on all nodes."""
    rng = random.Random(20261126)
    model, writer = Model(), Writer(record)
    readers = [Reader(node, model) for node in nodes]
    numbers = iter(range(1, writes + 1))

    async def write(node: Node) -> None:
        for number in numbers:
            await _write(writer, node, model, rng, number)

    writing = [asyncio.create_task(write(nodes[n % len(nodes)])) for n in range(16)]

    async def read(reader: Reader) -> None:
        while not all(task.done() for task in writing):
            await reader.look(rng.randint(1, USERS))

    try:
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                for _ in range(8):
                    group.create_task(read(reader))
        for task in writing:
            await task
        for reader in readers:
            for user_id in model.changed:
                await reader.look(user_id)
    finally:
        for task in writing:
            task.cancel()
    assert sum(node.validation.bypassed for node in nodes) == 0, "redis was away meanwhile"
    assert all(reader.loads for reader in readers)


async def test_ten_thousand_writes_are_seen_by_the_other_node(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        await _writes_are_seen([a, b], record, WRITES)


async def test_writes_are_seen_over_a_redis_cluster(redis_cluster: RedisCluster) -> None:
    record, prefix = Record(), fresh_prefix()
    urls = redis_cluster.urls
    async with (
        Node(urls[:1], record, prefix, cluster=True) as a,
        Node(urls[1:], record, prefix, cluster=True) as b,
    ):
        for node in (a, b):  # a node that was never asked is not trusted yet
            for user_id in range(1, 50):
                await node.validation.observe_viewer(user_id)
            node.validation.bypassed = 0
        await _writes_are_seen([a, b], record, WRITES // 5)


async def test_unchanged_data_stays_cached(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        await a.validation.observe_viewer(7)
        kept = a.kept(7)
        await b.validation.observe_viewer(7)
        await b.replica.announce([8])
        await a.validation.observe_viewer(7)
        assert a.kept(7) == kept
        await b.replica.announce([7])
        await a.validation.observe_viewer(7)
        assert a.kept(7) != kept


async def test_events_move_the_counters_and_the_replica(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    writer = Writer(record)
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        author = b.epochs.read(AUTHOR, 5)
        content_id = await writer.post(a, 5)
        await b.validation.observe_node()
        assert b.epochs.read(AUTHOR, 5) != author
        assert b.state.overlay.posted.authors[-1] == 5
        counts = b.epochs.read(CONTENT, content_id)
        await writer.delete(a, content_id)
        await b.validation.observe_node()
        assert b.epochs.read(CONTENT, content_id) != counts
        assert content_id in b.state.tombstones
        await writer.set_mode(a, 5, 1)
        await b.validation.observe_node()
        assert 5 in b.state.pulled and b.state.mode_of(5).mode == 1
        await writer.post(a, 5, pulled=True)
        await b.validation.observe_node()
        assert b.state.take_published() == [5]
        await writer.settings(a, "hot", {"push_threshold": 3})
        await b.validation.observe_node()
        assert b.state.documents["hot"][0].document == {"push_threshold": 3}


async def test_a_node_that_starts_later_has_the_tail(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    writer = Writer(record)
    async with Node([redis_url], record, prefix) as a:
        content_id = await writer.post(a, 5)
        await writer.delete(a, await writer.post(a, 6))
        async with Node([redis_url], record, prefix) as b:
            assert len(b.state.posts_of([5])) == 20
            assert content_id not in b.state.tombstones
            assert len(b.state.tombstones) == 1


async def test_an_evicted_epoch_costs_a_load(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a:
        await a.validation.observe_viewer(7)
        kept = a.kept(7)
        key = a.keys.epoch(7)
        before = await a.batcher.ask(key, "GET", key).reply()
        await a.batcher.tell(key, "DEL", key).reply()
        await a.validation.observe_viewer(7)
        assert a.kept(7) != kept
        assert await a.batcher.ask(key, "GET", key).reply() != before


async def test_a_lost_log_is_read_from_the_system_of_record(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    writer = Writer(record)
    async with Node([redis_url], record, prefix) as a:
        log = a.keys.log
        post = await writer.post(a, 5)
        await a.validation.observe_node()
        era = a.epochs.era
        # another node's deletion, whose event is lost with the log
        record.deleted[post] = a.clock.now_ms()
        await a.batcher.tell(log, "DEL", log).reply()
        await a.validation.observe_node()
        assert post in a.state.tombstones
        assert a.replica.gaps == 1
        await _until(lambda: a.epochs.era != era)
        reads = record.reads
        for _ in range(20):
            await a.validation.observe_node()
        assert record.reads == reads, "the log is not relied on again"


async def test_a_trimmed_log_is_a_gap(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    writer = Writer(record)
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        for author_id in range(10, 20):
            await writer.post(b, author_id)
        await b.batcher.tell(a.keys.log, "XTRIM", a.keys.log, "MAXLEN", 1).reply()
        await writer.post(b, 5)
        a.replica.log.position = 1 << 64  # a node that was not heard of for long
        await a.validation.observe_node()
        assert a.replica.gaps == 1


async def test_what_is_counted_becomes_metrics(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a:
        counters = SharedCounters(a.batcher, a.replica, a.validation, a.pages, a.rows)

        def misses() -> float:
            name, labels = "feedcore_shared_cache_reads_total", {"kind": "page", "result": "miss"}
            return REGISTRY.get_sample_value(name, labels) or 0.0

        counters.publish()
        before = misses()
        assert await a.pages.page(7, b"20f") is None
        counters.publish()
        assert misses() == before + 1
        assert REGISTRY.get_sample_value("feedcore_redis_suspect_nodes") == 0
        assert (REGISTRY.get_sample_value("feedcore_node_log_age_seconds") or 0) < 5


async def _until(condition, within_s: float = 10.0) -> None:
    for _ in range(int(within_s / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("did not come true")
