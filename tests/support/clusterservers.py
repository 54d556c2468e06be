"""Server processes of the cluster profile: a config file with names of its own, tables made by
`feedcore migrate`, nodes as process groups; all of it gone at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import redis
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.clusterengine import Addresses, fresh_name
from tests.support.cqlusers import drop_keyspace, remember_point
from tests.support.server import ServerProcess, feedcore

CONFIG = """
[store]
profile = "cluster"
[cql]
contact_points = ["{cassandra}"]
keyspace = "{name}"
replication = 1
timeout_ms = 20000
[kafka]
brokers = ["{kafka}"]
prefix = "{name}."
replication = 1
partitions = 4
[redis]
nodes = ["{redis}"]
prefix = "{name}:"
deadline_ms = 1000
[logging]
level = "warning"
"""
TOPICS = ("fanout.all", "fanout.active", "fanout.rest", "events")


class ClusterConfig:
    """One cluster's settings."""

    def __init__(self, at: Addresses, folder: Path) -> None:
        self.at = at
        self.folder = folder
        self.name = fresh_name()
        self.file = folder / f"{self.name}.toml"
        text = CONFIG.format(cassandra=at.cassandra, kafka=at.kafka, redis=at.redis, name=self.name)
        self.file.write_text(text)

    def migrate(self) -> str:
        """What the command said."""
        return feedcore("migrate", "--config", str(self.file), "--wait", "30").stdout

    def node(
        self, number: int, role: str = "all", *flags: str, workers: int = 1, wait: bool = True
    ) -> ServerProcess:
        """`number`: the first of its processes' numbers; those of two nodes lie apart."""
        settings = ["--config", str(self.file), "--role", role, "--set", f"ids.node_base={number}"]
        return ServerProcess(
            self.folder / f"node-{number}", *settings, *flags, workers=workers, wait=wait
        )

    def drop(self) -> None:
        """Keyspace, topics and keys."""
        remember_point(self.name, self.at.cassandra)
        asyncio.run(self._drop())
        host, _, port = self.at.redis.rpartition(":")
        with redis.Redis(host, int(port)) as client:
            for key in client.scan_iter(f"{self.name}:*", 1_000):
                client.delete(key)

    async def _drop(self) -> None:
        await drop_keyspace(self.name)
        admin = AIOKafkaAdminClient(bootstrap_servers=self.at.kafka)
        await admin.start()
        try:
            await admin.delete_topics([f"{self.name}.{topic}" for topic in TOPICS])
        finally:
            await admin.close()


@contextmanager
def cluster_config(at: Addresses, folder: Path) -> Iterator[ClusterConfig]:
    """With tables."""
    made = ClusterConfig(at, folder)
    try:
        made.migrate()
        yield made
    finally:
        made.drop()


@asynccontextmanager
async def config_beside(at: Addresses, folder: Path) -> AsyncIterator[ClusterConfig]:
    """As `cluster_config`, for a test whose loop does something meanwhile."""
    made = ClusterConfig(at, folder)
    try:
        await asyncio.to_thread(made.migrate)
        yield made
    finally:
        await asyncio.to_thread(made.drop)
