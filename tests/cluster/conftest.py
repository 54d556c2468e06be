"""Engines for the cluster's tests: those that the session shares, and Redis servers of a test's
own.

`services` (tests/support/services.py) starts what runs nowhere yet; where an engine cannot be had,
its tests skip, or fail with FEEDCORE_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.failing import Keyspaces
from tests.support.redisserver import RedisCluster, RedisServer
from tests.support.services import Clusters, Services


@pytest.fixture(scope="session")
def cassandra(services: Services) -> str:
    """HOST:PORT of a node that others may use at the same time, with other keyspaces."""
    return services.address("cassandra")


@pytest.fixture(scope="session")
def kafka(services: Services) -> str:
    """HOST:PORT of a broker that others may use at the same time, with other topics."""
    return services.address("kafka")


@pytest.fixture(scope="session")
def redis_url(services: Services) -> str:
    """A Redis that others may use at the same time, with other keys."""
    return f"redis://{services.address('redis')}"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be paused and killed."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters."""
    cluster = RedisCluster(tmp_path_factory.mktemp("rediscluster"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def keyspaces(
    services: Services, cluster_of: Clusters, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keyspaces]:
    """Tables for tests of failures, which share them; gone before the engines that have them."""
    made = Keyspaces(tmp_path_factory.mktemp("keyspaces"))
    yield made
    asyncio.run(made.close())
