"""Announcements while a way to Redis, or one of its masters, is away: told before they are
acknowledged, wherever somebody trusts what Redis says.
"""

from __future__ import annotations

import asyncio

from tests.cluster.redisworld import Node, Record, fresh_prefix
from tests.support.proxy import Proxy
from tests.support.redisserver import RedisCluster, RedisServer

SHORT_S = 0.15  # of a batch, where Redis is away on purpose
LATE_S = 2 * SHORT_S
PENDING = 2 * 500  # users, more than go in one flush


async def test_one_who_is_late_has_told_when_it_is_acknowledged(own_redis: RedisServer) -> None:
    record = Record()
    async with Proxy("127.0.0.1", own_redis.port) as proxy:
        a = Node([f"redis://{proxy.address}"], record, "", deadline_s=SHORT_S)
        async with a, Node([own_redis.url], record, "") as b:
            for user_id in range(1, 6):
                await a.replica.announce([user_id])
                await b.validation.observe_viewer(user_id)
                kept = b.kept(user_id)
                proxy.pause()
                announced = asyncio.create_task(a.replica.announce([user_id]))
                await asyncio.sleep(LATE_S)
                proxy.resume()
                await announced
                await b.validation.observe_viewer(user_id)
                assert b.kept(user_id) != kept
                assert b.validation.bypassed == 0


async def test_a_master_that_is_away_holds_nobody_else_up(redis_cluster: RedisCluster) -> None:
    record, prefix = Record(), fresh_prefix()
    urls = redis_cluster.urls

    def node() -> Node:
        return Node(urls, record, prefix, cluster=True, deadline_s=SHORT_S)

    async with node() as a, node() as b:
        log_server = a.replica.log.server
        victim = next(
            one for one in redis_cluster.servers if not log_server.endswith(f":{one.port}")
        )

        def on_victim(user_id: int) -> bool:
            server = a.batcher.nodes.node_of(a.keys.epoch(user_id))
            return server.endswith(f":{victim.port}")

        gone = [user_id for user_id in range(1, 10 * PENDING) if on_victim(user_id)][:PENDING]
        there = [user_id for user_id in range(1, 100) if not on_victim(user_id)]
        victim.kill()
        try:
            await a.replica.announce(gone)
            assert a.replica.announcements.pending >= PENDING
            for user_id in there:
                await b.validation.observe_viewer(user_id)
                kept = b.kept(user_id)
                await a.replica.announce([user_id])
                await b.validation.observe_viewer(user_id)
                assert b.kept(user_id) != kept, f"user {user_id} was not told of"
        finally:
            victim.start()
