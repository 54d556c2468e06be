"""Redis fails under load: killed, hung, slow; one of three masters. No read and no publish fails,
no page is wrong: what Redis knew is read from the tables.

Without the node log, a post that another process took is on a page once it is fanned out: then
`FANOUT_S` bounds how long it may be missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.failing import LONG, Engines, Keyspaces, Site, Step, site_on, through
from tests.support.figures import Figures
from tests.support.proxy import Proxy
from tests.support.redisserver import RedisCluster, RedisServer
from tests.support.services import Services

# With `make test` one process has all clusters, and starts each once.
pytestmark = pytest.mark.alone

DURING_S = 15.0 if LONG else 6.0
PAUSED_S = 30.0
SLOW_S = 0.5  # beyond the deadline of 100 ms
PULSE_S = 2.0
DEADLINE_MS = 100  # the default
FANOUT_S = 20.0  # far above any fan-out, but for a machine that does other things, too
BUSY = ("DEADLINE_EXCEEDED",)  # what such a machine does to a call


class Broken:
    """What every test here has."""

    def __init__(
        self,
        tmp_path: Path,
        services: Services,
        keyspaces: Keyspaces,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._home = tmp_path
        self._services = services
        self._keyspaces = keyspaces
        self._capsys = capsys

    @asynccontextmanager
    async def site(self, *redis: str, cluster: bool = False) -> AsyncIterator[Site]:
        """On the session's Cassandra and Kafka, and a Redis of the test's own."""
        cassandra = self._services.address("cassandra")
        kafka = self._services.address("kafka")
        engines = Engines((cassandra,), redis, (kafka,), cluster, redis_ms=DEADLINE_MS)
        async with site_on(self._home, engines, self._keyspaces) as site:
            yield site

    async def through(
        self, site: Site, name: str, fail: Step, heal: Step, during_s: float = DURING_S
    ) -> Figures:
        """Nothing fails while Redis does, nor after."""
        figures = await through(
            site,
            f"Redis: {name}",
            fail,
            heal,
            during_s=during_s,
            capsys=self._capsys,
            late_max_s=FANOUT_S,
        )
        for phase in ("during", "after"):
            assert not figures.failures(phase, but=BUSY), site.logs()
        return figures


@pytest.fixture
def broken(
    tmp_path: Path,
    services: Services,
    keyspaces: Keyspaces,
    capsys: pytest.CaptureFixture[str],
) -> Broken:
    """Sites whose Redis fails."""
    return Broken(tmp_path, services, keyspaces, capsys)


async def test_killed_and_back_empty(broken: Broken, own_redis: RedisServer) -> None:
    async with broken.site(f"127.0.0.1:{own_redis.port}") as site:
        await broken.through(site, "kill -9, back empty", own_redis.kill, own_redis.start)


@pytest.mark.long
async def test_hung(broken: Broken, own_redis: RedisServer) -> None:
    async with broken.site(f"127.0.0.1:{own_redis.port}") as site:
        await broken.through(site, "SIGSTOP for 30 s", own_redis.pause, own_redis.resume, PAUSED_S)


@pytest.mark.long
async def test_slower_than_its_deadline(broken: Broken, own_redis: RedisServer) -> None:
    async with Proxy("127.0.0.1", own_redis.port) as proxy, broken.site(proxy.address) as site:

        async def fail() -> None:
            proxy.slow(SLOW_S)

        async def heal() -> None:
            proxy.slow(0)

        await broken.through(site, "500 ms slower", fail, heal)


@pytest.mark.long
async def test_one_master_of_three_killed(broken: Broken, redis_cluster: RedisCluster) -> None:
    victim = redis_cluster.servers[1]
    async with broken.site(*addresses(redis_cluster), cluster=True) as site:
        await broken.through(site, "1 of 3 masters, kill -9", victim.kill, victim.start)


@pytest.mark.long
async def test_one_master_of_three_hung(broken: Broken, redis_cluster: RedisCluster) -> None:
    victim = redis_cluster.servers[2]
    async with broken.site(*addresses(redis_cluster), cluster=True) as site:
        await broken.through(
            site, "1 of 3 masters, SIGSTOP for 30 s", victim.pause, victim.resume, PAUSED_S
        )


@pytest.mark.long
async def test_one_master_of_three_in_pulses(broken: Broken, redis_cluster: RedisCluster) -> None:
    victim = redis_cluster.servers[0]
    pulses: list[asyncio.Task[None]] = []

    async def pulse() -> None:
        while True:
            victim.pause()
            await asyncio.sleep(SLOW_S)
            victim.resume()
            await asyncio.sleep(PULSE_S - SLOW_S)

    async def fail() -> None:
        pulses.append(asyncio.create_task(pulse()))

    async def heal() -> None:
        pulses[0].cancel()
        await asyncio.wait(pulses)
        victim.resume()

    async with broken.site(*addresses(redis_cluster), cluster=True) as site:
        await broken.through(
            site, "a third of it hangs 0.5 s of every 2 s", fail, heal, 2 * DURING_S
        )


def addresses(cluster: RedisCluster) -> list[str]:
    return [f"127.0.0.1:{server.port}" for server in cluster.servers]
