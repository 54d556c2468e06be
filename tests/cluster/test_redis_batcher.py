"""The batcher on real servers: what is merged, what is bounded, and what a failure costs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest

from feedcore.adapters.redis import batcher as module
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.nodes import Nodes
from feedcore.errors import Unavailable
from tests.cluster.redisworld import DEADLINE_S, fresh_prefix
from tests.support.redisserver import RedisCluster, RedisServer

SHORT_S = 0.2


def _batcher(urls: list[str], *, cluster: bool = False, deadline_s: float = DEADLINE_S) -> Batcher:
    detector = FailureDetector(time.monotonic)
    return Batcher(Nodes(urls, cluster=cluster), detector, time.monotonic, deadline_s=deadline_s)


@pytest.fixture
async def own(own_redis: RedisServer) -> AsyncIterator[Batcher]:
    """With a connection on both lanes."""
    batcher = _batcher([own_redis.url], deadline_s=SHORT_S)
    await batcher.start()
    await _warm(batcher)
    yield batcher
    await batcher.close()


async def _warm(batcher: Batcher) -> None:
    for _ in range(20):
        try:
            await batcher.tell(b"k0", "SET", b"k0", b"v0").reply()
            await batcher.get_all([b"k0"])
            return
        except Unavailable:
            await asyncio.sleep(0.1)
    pytest.fail("redis does not answer")


def _calls(server: RedisServer, name: str) -> int:
    found = re.search(rf"cmdstat_{name}:calls=(\d+)".encode(), server.command("INFO", "all"))
    return int(found[1]) if found else 0


async def test_a_turn_is_one_mget(own: Batcher, own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "RESETSTAT")
    trips = own.round_trips
    keys = [b"k%d" % number for number in range(60)]
    found = await asyncio.gather(*(own.get_all([key, b"k0"]) for key in keys * 3))
    assert found[0] == [b"v0", b"v0"] and found[1] == [None, b"v0"]
    assert own.round_trips - trips == 1
    assert _calls(own_redis, "mget") == 1 and _calls(own_redis, "get") == 0


async def test_a_key_is_asked_once(own: Batcher) -> None:
    batch = own.get(b"k0")
    assert own.get(b"k0") is batch and len(batch.keys) == 1
    first, second = own.ask(b"k0", "STRLEN", b"k0"), own.ask(b"k0", "STRLEN", b"k0")
    assert await first.reply() == await second.reply() == 2
    assert len(batch.commands) == 1


async def test_writes_of_a_turn_are_one_round_trip(own: Batcher, own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "RESETSTAT")
    trips = own.round_trips
    calls = [own.tell(b"n", "INCR", b"n") for _ in range(50)]
    calls += [own.tell(b"s", "XADD", b"s", "*", b"e", b"%d" % number) for number in range(50)]
    replies = [await call.reply() for call in calls]
    assert replies[:50] == list(range(1, 51)), "in the order of telling"
    assert own.round_trips - trips == 1
    assert _calls(own_redis, "incr") == _calls(own_redis, "xadd") == 50


async def test_more_than_a_batch_holds_goes_in_several(own: Batcher) -> None:
    trips = own.round_trips
    found = await own.get_all([b"k%d" % number for number in range(module.BATCH_KEYS_MAX + 1)])
    assert len(found) == module.BATCH_KEYS_MAX + 1
    assert own.round_trips - trips == 2


async def test_one_who_is_cancelled_is_nobody_elses_business(own: Batcher) -> None:
    first = asyncio.create_task(own.get_all([b"k0"]))
    second = asyncio.create_task(own.get_all([b"k0", b"k1"]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [b"v0", None]


async def test_a_refused_command_fails_alone(own: Batcher) -> None:
    wrong = own.ask(b"k0", "LLEN", b"k0")
    good = own.ask(b"k0", "STRLEN", b"k0")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await wrong.reply()
    assert await good.reply() == 2
    assert own.failures == 0


async def test_an_idle_connection_that_was_closed_costs_nothing(
    own: Batcher, own_redis: RedisServer
) -> None:
    own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.05)
    assert await own.get_all([b"k0"]) == [b"v0"]
    assert own.failures == 0


async def test_a_paused_server_fails_within_the_deadline(
    own: Batcher, own_redis: RedisServer
) -> None:
    own_redis.pause()
    for _ in range(5):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await own.get_all([b"k0"])
        assert time.monotonic() - began < SHORT_S + 1
    assert own.open_breakers == 1 and own.failures >= 5
    began = time.monotonic()
    with pytest.raises(Unavailable, match="breaker"):
        await own.get_all([b"k0"])
    assert time.monotonic() - began < SHORT_S / 2, "nobody waits for a node that is away"
    own_redis.resume()
    await _warm(own)
    assert own.open_breakers == 0


async def test_who_waits_behind_a_batch_has_the_same_deadline(
    own: Batcher, own_redis: RedisServer
) -> None:
    own_redis.pause()
    began = time.monotonic()
    first = asyncio.create_task(own.get_all([b"k0"]))
    await asyncio.sleep(SHORT_S / 2)
    second = asyncio.create_task(own.get_all([b"k1"]))
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in results)
    assert time.monotonic() - began < 1.5 * SHORT_S + 1


async def test_what_waits_is_bounded(
    own: Batcher, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEYS_WAITING_MAX", 100)
    monkeypatch.setattr(module, "BYTES_WAITING_MAX", 100_000)
    own_redis.pause()
    calls = [asyncio.create_task(own.get_all([b"k%d" % number])) for number in range(300)]
    await asyncio.sleep(0)
    assert own.refused == 200
    dropped = [own.tell(b"w", "SET", b"w", bytes(10_000)) for _ in range(20)]
    assert own.refused == 200 + 11
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in results)
    for call in dropped:
        with pytest.raises(Unavailable):
            await call.reply()
    lane = own.lane(own.nodes.node_of(b"w"), "writes")
    assert (lane.keys_waiting, lane.bytes_waiting) == (0, 0)


async def test_killed_and_started_again(own: Batcher, own_redis: RedisServer) -> None:
    node = own.nodes.node_of(b"k0")
    incarnation = own.detector.incarnation(node)
    own_redis.kill()
    with pytest.raises(Unavailable):
        await own.get_all([b"k0"])
    own_redis.start()
    await _warm(own)
    assert own.detector.incarnation(node) != incarnation
    assert not own.detector.is_trusted(node), "what it knew is gone"


async def test_close_fails_what_waits(own_redis: RedisServer) -> None:
    batcher = _batcher([own_redis.url])
    await batcher.start()
    await _warm(batcher)
    own_redis.pause()
    waiting = asyncio.create_task(batcher.get_all([b"k0"]))
    await asyncio.sleep(0.02)
    await batcher.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await batcher.get_all([b"k0"])


# --- a cluster -----------------------------------------------------------------------------------


async def test_a_turn_is_one_round_trip_a_node(redis_cluster: RedisCluster) -> None:
    batcher, prefix = _batcher(redis_cluster.urls[:1], cluster=True), fresh_prefix().encode()
    await batcher.start()
    try:
        keys = [b"%b%d" % (prefix, number) for number in range(90)]
        assert len({batcher.nodes.node_of(key) for key in keys}) == 3
        told = [batcher.tell(key, "SET", key, key, "PX", 60_000) for key in keys]
        for call in told:
            await call.reply()
        trips = batcher.round_trips
        found = await asyncio.gather(*(batcher.get_all([key]) for key in keys))
        assert [one[0] for one in found] == keys
        assert batcher.round_trips - trips == 3
    finally:
        await batcher.close()


async def test_a_slot_that_moved_is_followed(redis_cluster: RedisCluster) -> None:
    batcher = _batcher(redis_cluster.urls, cluster=True)
    await batcher.start()
    servers = {f"127.0.0.1:{server.port}": server for server in redis_cluster.servers}
    names = {name: _id_of(server) for name, server in servers.items()}
    key = f"{fresh_prefix()}moved".encode()
    was = batcher.nodes.node_of(key)
    now = next(name for name in names if name != was)
    slot = re.search(rb":(\d+)", servers[was].command("CLUSTER", "KEYSLOT", key.decode()))
    assert slot is not None
    number = slot[1].decode()
    try:
        await batcher.tell(key, "SET", key, b"1", "PX", 60_000).reply()
        # under way: the old owner sends who asks for what it has no more to the new one
        servers[now].command("CLUSTER", "SETSLOT", number, "IMPORTING", names[was])
        servers[was].command("CLUSTER", "SETSLOT", number, "MIGRATING", names[now])
        port = now.rpartition(":")[2]
        moved = servers[was].command("MIGRATE", "127.0.0.1", port, key.decode(), "0", "5000")
        assert moved.startswith(b"+OK"), moved
        assert await batcher.get_all([key]) == [b"1"]
        for name in (now, was):
            servers[name].command("CLUSTER", "SETSLOT", number, "NODE", names[now])
        assert await batcher.get_all([key]) == [b"1"]
        await batcher.tell(key, "SET", key, b"2", "PX", 60_000).reply()
        for _ in range(100):
            if batcher.nodes.node_of(key) == now:
                break
            await asyncio.sleep(0.02)
        assert batcher.nodes.node_of(key) == now
        assert not batcher.detector.is_trusted(now), "a new master may lack the last writes"
        assert await batcher.get_all([key]) == [b"2"]
        await batcher.tell(key, "DEL", key).reply()
    finally:
        await batcher.close()


def _id_of(server: RedisServer) -> str:
    found = re.search(rb"[0-9a-f]{40}", server.command("CLUSTER", "MYID"))
    assert found is not None
    return found[0].decode()
