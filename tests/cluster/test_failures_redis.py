"""Redis fails under load: killed, hung, slow; one of three masters. No read and no publish fails,
no page is wrong: what Redis knew is read from the tables.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.failing import LONG, Engines, Keyspaces, Site, site_on, through
from tests.support.proxy import Proxy
from tests.support.redisserver import RedisCluster, RedisServer
from tests.support.services import Services

DURING_S = 15.0 if LONG else 6.0
PAUSED_S = 30.0
SLOW_S = 0.5  # beyond the deadline of 100 ms
BUSY = ("DEADLINE_EXCEEDED",)  # what a machine that does other things, too, does to a call


async def test_killed_and_back(
    tmp_path: Path,
    services: Services,
    own_redis: RedisServer,
    keyspaces: Keyspaces,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engines = on(services, f"127.0.0.1:{own_redis.port}")
    async with site_on(tmp_path, engines, keyspaces) as site:
        figures = await through(
            site, "Redis: kill -9, back empty", own_redis.kill, own_redis.start,
            during_s=DURING_S, capsys=capsys,
        )  # fmt: skip
        assert not figures.failures("during", but=BUSY), site.logs()


def on(services: Services, *redis: str, cluster: bool = False) -> Engines:
    """The session's Cassandra and Kafka, and a Redis of the test's own."""
    cassandra, kafka = services.address("cassandra"), services.address("kafka")
    return Engines((cassandra,), redis, (kafka,), cluster)
