"""Our own processes are killed under load: fan-out workers again and again, API workers. Jobs are
done once, calls are tried again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from tests.support.failing import API, API_WORKERS, LONG, Engines, Keyspaces, Site, site_on, through
from tests.support.server import ServerProcess
from tests.support.services import Services

KILLS = 100 if LONG else 10
SEED = int(os.environ.get("FEEDCORE_CHAOS_SEED", "7"))
# Fan-out nodes that live and die independently; of three, one is mostly at work.
NODES = 3
LIVES_S = (0.0, 6.0)  # after it is ready: taking over takes a killed one's session, 6 s
# One of two is left: a start takes 2 s, and many on a busy machine.
API_AWAY_S = 20.0
API_FAILED_SHARE_MAX = 0.2


@pytest.fixture
def engines(services: Services) -> Engines:
    """The session's."""
    cassandra, redis = services.address("cassandra"), services.address("redis")
    return Engines((cassandra,), (redis,), (services.address("kafka"),))


class Deaths:
    """Fan-out nodes, each killed a random time after it is ready, until there were `KILLS`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._draw = random.Random(SEED)
        self._left = KILLS
        self.done = 0

    async def run(self) -> None:
        """At the end there is one node, which lives."""
        async with asyncio.TaskGroup() as group:
            for place in range(NODES):
                group.create_task(self._live_and_die(place))
        self._site.fanout = await asyncio.to_thread(self._start, 0)

    async def _live_and_die(self, place: int) -> None:
        first = place == 0
        while self._left > 0:
            self._left -= 1
            node = self._site.fanout if first else await asyncio.to_thread(self._start, place)
            first = False
            await asyncio.sleep(self._draw.uniform(*LIVES_S))
            await asyncio.to_thread(node.kill)
            self.done += 1

    def _start(self, place: int) -> ServerProcess:
        return self._site.serve_fanout(place)


async def test_fanout_killed_again_and_again(
    tmp_path: Path,
    engines: Engines,
    keyspaces: Keyspaces,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with site_on(tmp_path, engines, keyspaces) as site:
        deaths = Deaths(site)

        async def heal() -> None:
            """The last one lives already."""

        figures = await through(
            site,
            f"fan-out worker, kill -9 {KILLS} times (seed {SEED})",
            deaths.run,
            heal,
            during_s=0.0,
            capsys=capsys,
        )
        assert deaths.done == KILLS
        assert not figures.failures("during", but=("DEADLINE_EXCEEDED",)), site.logs()


@pytest.mark.long
async def test_api_worker_killed(
    tmp_path: Path,
    engines: Engines,
    keyspaces: Keyspaces,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with site_on(tmp_path, engines, keyspaces) as site:
        victim = site.pids(site.api, API)[0]

        async def heal() -> None:
            """The supervisor does it."""

        figures = await through(
            site,
            "1 of 2 API workers, kill -9",
            lambda: os.kill(victim, signal.SIGKILL),
            heal,
            during_s=API_AWAY_S,
            capsys=capsys,
        )
        assert victim not in site.pids(site.api, API)
        assert len(site.pids(site.api, API)) == API_WORKERS
        # a call that was cut may be tried again: that is what UNAVAILABLE says
        failed = figures.failures("during", but=("DEADLINE_EXCEEDED", "UNAVAILABLE"))
        assert not failed, failed
        share = figures.failures("during").total() / len(figures.of("during"))
        assert share <= API_FAILED_SHARE_MAX, figures.failures("during")
