"""doctor on real engines: all well, and each of them in turn not."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.topics import ensure_topics
from feedcore.clock import SystemClock
from tests.support.cqlusers import drop_keyspace, make_keyspace
from tests.support.redisserver import RedisCluster, RedisServer, free_port
from tests.support.server import ServerProcess, feedcore

CLOSED = "127.0.0.1:1"  # nobody listens on it
GROUPS_WITHIN_S = 60.0  # a broker that has just started knows no coordinator of groups yet
TIMEOUT_S = "20"  # a busy machine; what is closed answers at once


@pytest.fixture(scope="module")
def names(cassandra: str, kafka: str) -> Iterator[dict[str, str]]:
    """Settings of engines that are all well, but for Redis."""
    name = f"doctor{uuid.uuid4().hex[:8]}"
    asyncio.run(make_keyspace(name, cassandra))
    asyncio.run(ensure_topics(KafkaOptions((kafka,), f"{name}.", partitions=2)))
    yield {
        "store.profile": "cluster",
        "cql.contact_points": cassandra,
        "cql.keyspace": name,
        "cql.user": "anybody",
        "cql.password": "hush",
        "kafka.brokers": kafka,
        "kafka.prefix": f"{name}.",
        "kafka.partitions": "2",
        "redis.prefix": f"{name}:",
    }
    asyncio.run(drop_keyspace(name))
    asyncio.run(drop_topics(kafka, f"{name}."))


async def drop_topics(broker: str, prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.delete_topics([one for one in await admin.list_topics() if one.startswith(prefix)])
    await admin.close()


class Told:
    """What a run said."""

    def __init__(self, values: dict[str, str], *more: str) -> None:
        flags = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        words = ["doctor", "--json", "--timeout", TIMEOUT_S, *more, *flags]
        done = feedcore(*words, check=False)
        assert done.stdout, done.stderr
        assert not done.stderr and "hush" not in done.stdout
        self.code = done.returncode
        self.document = json.loads(done.stdout)
        self.findings = self.document["findings"]
        assert self.document["ok"] == (self.code == 0)

    def of(self, state: str) -> list[tuple[str, str]]:
        return [(one["engine"], one["what"]) for one in self.findings if one["state"] == state]

    def one(self, what: str) -> dict:
        (found,) = [one for one in self.findings if one["what"] == what]
        return found


def redis_of(server: RedisServer) -> dict[str, str]:
    return {"redis.nodes": f"127.0.0.1:{server.port}"}


def test_all_well_then_redis_is_killed(names: dict[str, str], own_redis: RedisServer) -> None:
    own_redis.command("CONFIG", "SET", "maxmemory", "100mb")
    own_redis.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    values = names | redis_of(own_redis)
    deadline_s = time.monotonic() + GROUPS_WITHIN_S
    while (told := Told(values)).of("down") == [("kafka", "fan-out lag")]:
        assert time.monotonic() < deadline_s, told.one("fan-out lag")
    assert told.code == 0 and not told.of("down"), told.of("down")
    assert told.one("tables")["state"] == "ok"
    assert told.one("write at quorum")["ms"] > 0 and told.one("read at quorum")["ms"] > 0
    assert "2 partitions, 1 copies" in told.one(f"topic {names['kafka.prefix']}events")["detail"]
    own_redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    warned = Told(values)
    assert warned.code == 0
    assert "noeviction" in warned.one(f"memory of {values['redis.nodes']}")["detail"]
    assert ("redis", f"memory of {values['redis.nodes']}") in warned.of("warn")
    own_redis.kill()
    told = Told(values)
    assert told.code == 1
    assert told.of("down") == [("redis", f"node {values['redis.nodes']}")]
    assert "pages are right and slower" in told.one(f"node {values['redis.nodes']}")["mend"]


def test_a_redis_cluster(names: dict[str, str], redis_cluster: RedisCluster) -> None:
    nodes = ",".join(f"127.0.0.1:{one.port}" for one in redis_cluster.servers)
    told = Told(names | {"redis.nodes": nodes, "redis.cluster": "true"})
    assert told.code == 0, told.of("down")
    seen = [one for one in told.findings if one["what"].startswith("cluster seen by")]
    assert len(seen) == 3 and all("16,384 of 16,384" in one["detail"] for one in seen)
    told = Told(names | {"redis.nodes": nodes})
    assert told.code == 1
    first = told.of("down")[0][1]
    assert any(one["mend"] == "set redis.cluster = true" for one in told.findings), first


def test_a_wrong_port_of_cassandra(names: dict[str, str], own_redis: RedisServer) -> None:
    told = Told(names | redis_of(own_redis) | {"cql.contact_points": CLOSED})
    assert told.code == 1
    assert told.of("down") == [("cql", f"node {CLOSED}"), ("cql", "session")]
    assert "cql.contact_points" in told.one("session")["mend"]


def test_tables_that_are_missing(names: dict[str, str], own_redis: RedisServer) -> None:
    values = names | redis_of(own_redis)
    told = Told(values | {"cql.keyspace": "nobody_has_this"})
    assert told.of("down") == [("cql", "keyspace nobody_has_this")]
    assert told.one("keyspace nobody_has_this")["mend"] == "run `feedcore migrate`"

    async def forget() -> None:
        settings = CqlSettings((names["cql.contact_points"],), names["cql.keyspace"])
        session = await open_session(settings)
        await session.define("DELETE FROM schema_migrations WHERE version = 4")
        await session.close()

    asyncio.run(forget())
    told = Told(values)
    assert told.code == 1 and told.of("down") == [("cql", "tables")]
    assert "0004_queue not applied" in told.one("tables")["detail"]
    assert told.one("tables")["mend"] == "run `feedcore migrate`"


def test_kafka_is_away(names: dict[str, str], own_redis: RedisServer) -> None:
    away = f"127.0.0.1:{free_port()}"
    told = Told(names | redis_of(own_redis) | {"kafka.brokers": away}, "--timeout", "5")
    assert told.code == 1
    assert {engine for engine, _ in told.of("down")} >= {"kafka"}
    assert "posts are acknowledged and kept" in told.one(f"broker {away}")["mend"]


def test_a_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def told() -> Told:
        return Told({"store.data_dir": str(data)})

    missing = told()
    assert missing.code == 1 and missing.of("down") == [
        ("store", "directory"),
        ("store", "store.db"),
    ]
    assert not data.exists()
    with ServerProcess(data):
        used = told()
        assert used.code == 0 and used.one("in use")["detail"] == "a server fans out here"
        assert not used.of("warn")
    idle = told()
    assert idle.code == 0 and idle.of("warn") == [("store", "in use")]
    assert idle.one("maps")["state"] == "ok" and idle.one("feeds")["state"] == "ok"

    async def hold() -> None:
        store = EmbeddedStore.open(data, SystemClock(), exclusive=True)
        alone = await asyncio.to_thread(told)
        assert alone.code == 0 and alone.one("in use")["detail"] == "by one process alone"
        await store.close()

    asyncio.run(hold())
    (data / "feeds" / "FEEDS").write_bytes(b"another")
    foreign = told()
    assert foreign.code == 1 and "feedcore rebuild" in foreign.one("feeds")["mend"]


def test_collaborators(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", command="serve-collaborators") as server:
        values = {
            "store.data_dir": str(tmp_path / "data"),
            "collaborators.content": server.address,
            "collaborators.graph": f"{server.address},{CLOSED}",
            "collaborators.ranking": server.address,
            "collaborators.deadline_ms": "5000",
        }
        told = Told(values)
        assert told.code == 1 and told.of("down") == [("collaborators", f"graph {CLOSED}")]
        for name in ("content", "graph", "ranking"):
            assert told.one(f"{name} {server.address}")["state"] == "ok"
