"""Kafka fails under load: one broker of three, all of it, slow. Posts are acknowledged and seen at
once all the same; fan-out waits and catches up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.failing import LONG, Engines, Keyspaces, Step, site_on, through
from tests.support.figures import Figures, quantile
from tests.support.proxy import Proxy
from tests.support.services import Clusters, Services

# With `make test` one process has all clusters, and starts each once.
pytestmark = pytest.mark.alone

BROKER_DOWN_S = 15.0
PAUSED_S = 30.0
AWAY_S = 60.0 if LONG else 15.0
SLOW_S = 0.5
PROXY_PORTS = 10  # from a broker's listener for proxies to the address that it tells clients
BUSY = ("DEADLINE_EXCEEDED",)  # what a machine that does other things, too, does to a call


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
        self, name: str, brokers: list[str], fail: Step, heal: Step, during_s: float
    ) -> Figures:
        """On the session's Cassandra and Redis. No call fails while Kafka does, nor after."""
        cassandra = self._services.address("cassandra")
        redis = self._services.address("redis")
        engines = Engines((cassandra,), (redis,), tuple(brokers), replicas=3)
        async with site_on(self._home, engines, self._keyspaces) as site:
            figures = await through(
                site, f"Kafka: {name}", fail, heal, during_s=during_s, capsys=self._capsys
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
    """Sites whose Kafka fails."""
    return Broken(tmp_path, services, keyspaces, capsys)


async def test_all_of_it_away(broken: Broken, cluster_of: Clusters) -> None:
    kafka = cluster_of("kafka", 1)
    await broken.through(
        f"all of it killed, {AWAY_S:.0f} s",
        kafka.addresses,
        lambda: kafka.kill(1),
        lambda: kafka.restart(1),
        AWAY_S,
    )


@pytest.mark.long
async def test_one_broker_of_three_killed(broken: Broken, cluster_of: Clusters) -> None:
    kafka = cluster_of("kafka", 3)
    await broken.through(
        "1 of 3 brokers, kill -9",
        kafka.addresses,
        lambda: kafka.kill(2),
        lambda: kafka.restart(2),
        BROKER_DOWN_S,
    )


@pytest.mark.long
async def test_one_broker_of_three_hung(broken: Broken, cluster_of: Clusters) -> None:
    kafka = cluster_of("kafka", 3)
    await broken.through(
        "1 of 3 brokers, SIGSTOP for 30 s",
        kafka.addresses,
        lambda: kafka.pause(3),
        lambda: kafka.resume(3),
        PAUSED_S,
    )


@pytest.mark.long
async def test_slow(broken: Broken, cluster_of: Clusters) -> None:
    (node,) = cluster_of("kafka", 1).nodes
    proxied = node.ports["proxied"]
    async with Proxy(node.host, proxied, listen_port=proxied + PROXY_PORTS) as proxy:

        async def fail() -> None:
            proxy.slow(SLOW_S)

        async def heal() -> None:
            proxy.slow(0)

        figures = await broken.through(
            "500 ms slower each way", [proxy.address], fail, heal, BROKER_DOWN_S
        )
    before, during = (
        quantile([one for one in figures.of(phase) if one.kind == "publish"], 0.5)
        for phase in ("before", "during")
    )
    assert during < before + SLOW_S, "a publish does not wait for Kafka"
