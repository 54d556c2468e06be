"""One of three Cassandra nodes fails under load, or all are slow: a quorum serves and acknowledges,
and what a call meets in the first moments it may try again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.failing import Engines, Keyspaces, Step, site_on, through
from tests.support.figures import Figures
from tests.support.proxy import Proxy
from tests.support.services import Clusters, Services

# With `make test` one process has all clusters, and starts each once.
pytestmark = pytest.mark.alone

DOWN_S = 20.0
PAUSED_S = 30.0
SLOW_S = 0.5
# Calls that were under way at the node that fails, and those that need it until that is noticed: by
# the drivers at once (killed) or after 8 s (hung); by the other two nodes only when their failure
# detector says so, after 10 to 20 s, until when a logged batch, which wants two nodes beside its
# coordinator, has none to spare among three. Measured alone on this machine: 8.5 % and 10.1 %.
KILLED_SHARE_MAX, HUNG_SHARE_MAX = 0.15, 0.2
BUSY = ("DEADLINE_EXCEEDED",)  # what a machine that does other things, too, does to a call
# Where all is on two cores, a healthy node takes longer than in production.
PATIENT_MS = 5_000


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

    async def through(
        self,
        name: str,
        points: list[str],
        fail: Step,
        heal: Step,
        during_s: float,
        behind: tuple[str, ...] = (),
    ) -> Figures:
        """On the session's Redis and Kafka."""
        redis, kafka = self._services.address("redis"), self._services.address("kafka")
        engines = Engines(
            tuple(points), (redis,), (kafka,), behind=behind, replicas=3, cql_ms=PATIENT_MS
        )
        async with site_on(self._home, engines, self._keyspaces) as site:
            return await through(
                site, f"Cassandra: {name}", fail, heal, during_s=during_s, capsys=self._capsys
            )


@pytest.fixture
def broken(
    tmp_path: Path,
    services: Services,
    keyspaces: Keyspaces,
    capsys: pytest.CaptureFixture[str],
) -> Broken:
    """Sites whose Cassandra fails."""
    return Broken(tmp_path, services, keyspaces, capsys)


def check_share(figures: Figures, most: float) -> None:
    """A bounded share of calls failed, and said that they may be repeated."""
    during = figures.of("during")
    failed = [one for one in during if one.failed]
    assert len(failed) <= most * len(during), figures.failures("during")
    assert not figures.failures("during", but=(*BUSY, "UNAVAILABLE"))


@pytest.mark.long
async def test_one_node_of_three_killed(broken: Broken, cluster_of: Clusters) -> None:
    cassandra = cluster_of("cassandra", 3)
    figures = await broken.through(
        "1 of 3 nodes, kill -9",
        cassandra.addresses,
        lambda: cassandra.kill(2),
        lambda: cassandra.restart(2),
        DOWN_S,
    )
    check_share(figures, KILLED_SHARE_MAX)


@pytest.mark.long
async def test_one_node_of_three_hung(broken: Broken, cluster_of: Clusters) -> None:
    cassandra = cluster_of("cassandra", 3)
    figures = await broken.through(
        "1 of 3 nodes, SIGSTOP for 30 s",
        cassandra.addresses,
        lambda: cassandra.pause(3),
        lambda: cassandra.resume(3),
        PAUSED_S,
    )
    check_share(figures, HUNG_SHARE_MAX)


@pytest.mark.long
async def test_slow(broken: Broken, services: Services) -> None:
    host, _, port = services.address("cassandra").rpartition(":")
    async with Proxy(host, int(port)) as proxy:

        async def fail() -> None:
            proxy.slow(SLOW_S)

        async def heal() -> None:
            proxy.slow(0)

        figures = await broken.through(
            "500 ms slower each way",
            [proxy.address],
            fail,
            heal,
            DOWN_S,
            behind=(services.address("cassandra"),),
        )
    assert not figures.failures("during", but=BUSY)
