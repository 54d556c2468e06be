"""Redis paused, killed and started again under ClusterCacheValidation: slower, never wrong."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from feedcore.adapters.redis import announcing
from feedcore.clock import SystemClock
from feedcore.codecs.epochs import AUTHOR, FEED
from feedcore.domain import ids
from tests.cluster.redisworld import Node, Record, Writer
from tests.cluster.test_redis_validation import _until
from tests.support.redisserver import RedisServer

SHORT_S = 0.15  # of a batch, where Redis is away on purpose
PROBATION_S = 0.5
RECENT = ids.first_id_at(SystemClock().now_ms())  # tombstones of older posts are let go


def _node(own_redis: RedisServer, record: Record, prefix: str = "") -> Node:
    return Node([own_redis.url], record, prefix, deadline_s=SHORT_S, probation_s=PROBATION_S)


async def _trusted(node: Node) -> None:
    """Until the node relies on Redis again."""
    await _until(lambda: node.batcher.detector.suspects == 0 and node.replica.log.position != 0)


async def test_a_paused_redis_costs_loads_and_bounded_time(own_redis: RedisServer) -> None:
    record = Record()
    async with _node(own_redis, record) as a:
        await a.validation.observe_viewer(7)
        own_redis.pause()
        for _ in range(12):
            kept, feed = a.kept(7), a.epochs.read(FEED, 7)
            began = time.monotonic()
            await a.validation.observe_viewer(7)
            assert time.monotonic() - began < SHORT_S + 2
            assert a.kept(7) != kept and a.epochs.read(FEED, 7) != feed
        assert a.batcher.open_breakers == 1
        assert a.validation.bypassed == 12
        # deletions, modes and settings come from the system of record, asked after the question
        record.deleted[RECENT] = a.clock.now_ms()
        await a.validation.observe_node()
        assert RECENT in a.state.tombstones
        own_redis.resume()
        era = a.epochs.era
        await _trusted(a)
        assert a.epochs.era == era + 1, "everything is invalidated once"
        await a.validation.observe_viewer(7)
        kept = a.kept(7)
        await a.validation.observe_viewer(7)
        assert a.kept(7) == kept


async def test_timelines_are_at_most_a_second_old_without_redis(own_redis: RedisServer) -> None:
    record = Record()
    writer = Writer(record)
    async with _node(own_redis, record) as a:
        await writer.set_mode(a, 5, 1)
        await a.validation.observe_node()
        own_redis.kill()
        await a.validation.observe_node()
        for _ in range(2):
            counter, began = a.epochs.read(AUTHOR, 5), time.monotonic()
            while a.epochs.read(AUTHOR, 5) == counter:
                await a.validation.observe_node()
                await asyncio.sleep(0.02)
            assert time.monotonic() - began < 1.5


async def test_the_system_of_record_is_read_after_the_asking(own_redis: RedisServer) -> None:
    record = Record()
    async with _node(own_redis, record) as a:
        own_redis.kill()
        await a.validation.observe_node()
        for number in range(1, 40):
            record.deleted[RECENT + number] = a.clock.now_ms()
            callers = [asyncio.create_task(a.validation.observe_node()) for _ in range(20)]
            reads = record.reads
            await asyncio.gather(*callers)
            assert RECENT + number in a.state.tombstones
            assert record.reads - reads <= 4, "callers share a read"


async def test_a_restarted_redis_is_another_one(own_redis: RedisServer) -> None:
    record = Record()
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        await a.validation.observe_viewer(7)
        era = a.epochs.era
        own_redis.kill()
        record.deleted[RECENT] = a.clock.now_ms()  # acknowledged by b, whose event died with Redis
        own_redis.start()
        kept = a.kept(7)
        await a.validation.observe_viewer(7)
        assert a.kept(7) != kept and RECENT in a.state.tombstones
        await _trusted(a)
        await _trusted(b)
        assert a.epochs.era > era
        await b.replica.announce([7])
        kept = a.kept(7)
        await a.validation.observe_viewer(7)
        assert a.kept(7) != kept


async def test_a_redis_that_came_back_with_old_epochs_is_not_believed(
    own_redis: RedisServer,
) -> None:
    """A snapshot from before the last writes: every epoch is as this node saw it last."""
    record = Record()
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        await b.validation.observe_viewer(7)
        kept = b.kept(7)
        assert own_redis.command("SAVE").startswith(b"+OK")
        await a.replica.announce([7])  # lost by the snapshot, which b has not seen
        own_redis.kill()
        own_redis.start()
        await b.validation.observe_viewer(8)
        await _trusted(b)
        await b.validation.observe_viewer(7)
        assert b.kept(7) != kept


async def test_what_is_pending_is_flushed(own_redis: RedisServer) -> None:
    record = Record()
    writer = Writer(record)
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        for user_id in range(1, 51):
            await b.validation.observe_viewer(user_id)
        own_redis.pause()
        began = time.monotonic()
        for user_id in range(1, 51):
            await a.replica.announce([user_id])
        post = await writer.post(a, 5)
        gone = writer.ids.new_id(SystemClock().now_ms())
        await writer.delete(a, gone)
        assert time.monotonic() - began < 5, "writers wait little, however much is pending"
        assert a.replica.announcements.pending == 52
        # this node goes by it at once
        assert len(a.state.posts_of([5])) == 20 and gone in a.state.tombstones
        own_redis.resume()
        await _until(lambda: a.replica.announcements.pending == 0)
        await _trusted(b)
        kept = {user_id: b.kept(user_id) for user_id in range(1, 51)}
        # b may still find Redis away: then it reads the system of record, and the log later
        while not b.state.posts_of([5]):
            await b.validation.observe_node()
        assert len(b.state.posts_of([5])) == 20 and gone in b.state.tombstones and post
        for user_id, before in kept.items():
            await b.validation.observe_viewer(user_id)
            assert b.kept(user_id) != before


async def test_a_node_flushes_before_others_trust_redis_again(own_redis: RedisServer) -> None:
    """Only the announcer is cut off: what it has pending is seen once it is acknowledged."""
    record = Record()
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        await b.validation.observe_viewer(7)
        await b.validation.observe_viewer(7)
        kept = b.kept(7)
        own_redis.pause()
        await a.replica.announce([7])
        own_redis.resume()
        await _until(lambda: a.replica.announcements.pending == 0)
        await b.validation.observe_viewer(7)
        assert b.kept(7) != kept


async def test_more_is_pending_than_can_be_kept(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "PENDING_VIEWERS_MAX", 10)
    record = Record()
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        await b.validation.observe_viewer(7)
        era = b.epochs.era
        own_redis.pause()
        for user_id in range(1, 30):
            await a.replica.announce([user_id])
        assert a.replica.announcements.overflows > 0
        assert a.replica.announcements.pending <= 12
        own_redis.resume()
        await _until(lambda: a.replica.announcements.pending == 0)
        await _until(lambda: b.epochs.era > era)
        await _trusted(b)
        await _trusted(a)


async def test_a_forget_event_alone_forgets(own_redis: RedisServer) -> None:
    record = Record()
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        era = b.epochs.era
        a.replica.announcements._pending.invalidate_all = True
        await a.replica.announce([3])
        record.deleted[RECENT] = a.clock.now_ms()
        await b.validation.observe_node()
        assert RECENT in b.state.tombstones, "not trusted from the event on"
        await _until(lambda: b.epochs.era > era)


async def test_a_node_starts_without_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    record = Record()
    record.deleted[RECENT] = 1 << 50
    own_redis.kill()
    async with _node(own_redis, record) as a:
        await a.validation.observe_viewer(7)
        assert RECENT in a.state.tombstones
        own_redis.start()
        await _trusted(a)
        await a.validation.observe_viewer(7)
        kept = a.kept(7)
        await a.validation.observe_viewer(7)
        assert a.kept(7) == kept


async def test_chaos_between_nodes(own_redis: RedisServer) -> None:
    """Pauses, kills and restarts while two nodes write and read: nothing acknowledged is missed
    once the announcement is through.
    """
    record = Record()
    seed = secrets.randbits(32)
    versions = dict.fromkeys(range(1, 40), 0)
    seen: dict[int, tuple[tuple[int, int], int]] = {}
    async with _node(own_redis, record) as a, _node(own_redis, record) as b:
        for turn in range(6):
            for user_id in versions:
                versions[user_id] += 1
                await a.replica.announce([user_id])
            if turn % 3 == 0:
                own_redis.pause()
                await asyncio.sleep(0.3)
                own_redis.resume()
            elif turn % 3 == 1:
                own_redis.kill()
                await asyncio.sleep(0.2)
                own_redis.start()
            await _until(lambda: a.replica.announcements.pending == 0)
            for user_id, version in versions.items():
                await b.validation.observe_viewer(user_id)
                kept = seen.get(user_id)
                if kept is None or kept[0] != b.kept(user_id):
                    kept = seen[user_id] = b.kept(user_id), version
                assert kept[1] == version, f"seed {seed}, turn {turn}, user {user_id}"
