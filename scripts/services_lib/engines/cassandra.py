"""Apache Cassandra 5: one node, or three on 127.0.0.1, .2 and .3 with one token each.

Acknowledged writes survive kill -9: the commit log is in batch mode. Its periodic mode answers
when a write is in the mapped segment, but what follows the last marker (100 ms apart) is not
replayed. Not for virtual nodes: fixed tokens let three nodes start without streaming.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from .. import jars, ports
from ..state import Node
from ..wire.cql import ALL, QUORUM, Session
from ..wire.sockets import Connection
from .parts import in_words, jvm, layout

HEAP_ONE_MB, HEAP_THREE_MB = 512, 384
# Flushed often, so that a small heap suffices and reads of tests meet sstables, too.
MEMTABLE_MIB = 64
RING = 1 << 64
KEYSPACE = "services_check"
TABLE = f"{KEYSPACE}.rows"

EXPORTS = [
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.unsupported/sun.misc",
]
OPENS = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac",
    "jdk.management/com.sun.management.internal",
]
LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"""


class Cassandra:
    """One or three of Cassandra's own daemon class, from its published jars."""

    kind = "cassandra"
    ready_s = 300.0

    def plan(self, folder: Path, base: int, count: int, cache: Path) -> list[Node]:
        java, classpath = jars.java(), jars.classpath(self.kind, cache)
        agent = next(Path(classpath).parent.glob("jamm-*.jar"))
        heap = HEAP_ONE_MB if count == 1 else HEAP_THREE_MB
        nodes = []
        for index in range(1, count + 1):
            name, home, log = layout(folder, self.kind, index)
            numbers = {"client": base + ports.CQL, "storage": base + ports.CASSANDRA_STORAGE}
            command = [java, *jvm(heap, count), f"-javaagent:{agent}"]
            command += [f"--add-exports={package}=ALL-UNNAMED" for package in EXPORTS]
            command += [f"--add-opens={package}=ALL-UNNAMED" for package in OPENS]
            command += [f"-D{key}={value}" for key, value in properties(home, count).items()]
            command += ["-cp", classpath, "org.apache.cassandra.service.CassandraDaemon"]
            host, data = ports.cassandra_host(index), str(home / "data")
            nodes.append(Node(name, self.kind, index, host, numbers, data, log, command))
        return nodes

    def prepare(self, node: Node, nodes: list[Node]) -> None:
        Path(node.data_dir).mkdir(parents=True, exist_ok=True)
        (node.folder / "tmp").mkdir(exist_ok=True)
        # JSON is YAML; the file is for the daemon, not for editing.
        text = json.dumps(settings(node, nodes), indent=2)
        (node.folder / "cassandra.yaml").write_text(text + "\n", encoding="utf-8")
        (node.folder / "logback.xml").write_text(LOGBACK, encoding="utf-8")

    def waves(self, nodes: list[Node]) -> list[list[Node]]:
        return [nodes]

    def settle(self, nodes: list[Node]) -> None:
        return None

    @in_words
    def node_problem(self, node: Node) -> str | None:
        with connect(node) as connection:
            Session(connection).query("SELECT release_version FROM system.local")
        return None

    @in_words
    def set_problem(self, nodes: list[Node]) -> str | None:
        versions: set[bytes | None] = set()
        for node in nodes:
            with connect(node) as connection:
                session = Session(connection)
                peers = session.query("SELECT schema_version FROM system.peers_v2")
                peers += session.query("SELECT schema_version FROM system.local")
            if len(peers) != len(nodes):
                return f"{node.name} knows {len(peers)} nodes"
            versions.update(row[0] for row in peers)
        if len(versions) != 1:
            return f"{len(versions)} versions of the schema"
        return rows_problem(nodes)


def rows_problem(nodes: list[Node]) -> str | None:
    """Writes a row to every replica through every node, and reads it through the next."""
    with connect(nodes[0]) as connection:
        session = Session(connection)
        session.query(
            f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', 'datacenter1': {len(nodes)}}}"
        )
        session.query(f"CREATE TABLE IF NOT EXISTS {TABLE} (node int PRIMARY KEY, written text)")
    for number, node in enumerate(nodes):
        token = secrets.token_hex(8)
        with connect(node) as connection:
            text = f"INSERT INTO {TABLE} (node, written) VALUES ({node.index}, '{token}')"
            Session(connection).query(text, ALL)
        with connect(nodes[(number + 1) % len(nodes)]) as connection:
            text = f"SELECT written FROM {TABLE} WHERE node = {node.index}"
            if Session(connection).query(text, QUORUM) != [[token.encode()]]:
                return f"what was written through {node.name} is not read"
    return None


def connect(node: Node) -> Connection:
    return Connection(node.host, node.ports["client"])


def properties(home: Path, count: int) -> dict[str, str | int]:
    """System properties of a node."""
    found: dict[str, str | int] = {
        "cassandra.config": f"file://{home}/cassandra.yaml",
        "cassandra.storagedir": str(home),
        "cassandra.logdir": str(home),
        "logback.configurationFile": str(home / "logback.xml"),
        "java.io.tmpdir": str(home / "tmp"),
        "java.net.preferIPv4Stack": "true",
        "jdk.attach.allowAttachSelf": "true",
        "io.netty.tryReflectionSetAccessible": "true",
    }
    if count == 1:
        # Nobody to hear from.
        return found | {"cassandra.skip_wait_for_gossip_to_settle": 0}
    # Defaults are for hundreds of nodes across continents: 30 s, 5 s, 1 s.
    return found | {
        "cassandra.ring_delay_ms": 2_000,
        "cassandra.gossip_settle_min_wait_ms": 500,
        "cassandra.gossip_settle_interval_ms": 500,
        "cassandra.consistent.rangemovement": "false",
    }


def settings(node: Node, nodes: list[Node]) -> dict[str, object]:
    """A node's cassandra.yaml."""
    seeds = ",".join(f"{one.host}:{one.ports['storage']}" for one in nodes)
    seed_provider = {
        "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
        "parameters": [{"seeds": seeds}],
    }
    found: dict[str, object] = {
        "cluster_name": "feedcore",
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "num_tokens": 1,
        "initial_token": str(RING * (node.index - 1) // len(nodes) - RING // 2),
        "auto_bootstrap": False,
        "seed_provider": [seed_provider],
        "endpoint_snitch": "SimpleSnitch",
        "listen_address": node.host,
        "rpc_address": node.host,
        "storage_port": node.ports["storage"],
        "native_transport_port": node.ports["client"],
        "native_transport_max_threads": 16,
        "data_file_directories": [node.data_dir],
        "commitlog_sync": "batch",
        "commitlog_segment_size": "8MiB",
        "commitlog_total_space": "256MiB",
        "memtable_heap_space": f"{MEMTABLE_MIB}MiB",
        "memtable_offheap_space": f"{MEMTABLE_MIB}MiB",
        "concurrent_reads": 8,
        "concurrent_writes": 8,
        "concurrent_counter_writes": 4,
        "concurrent_compactors": 1,
        "key_cache_size": "8MiB",
        "file_cache_size": "32MiB",
        "hinted_handoff_enabled": True,
        "hints_flush_period": "1s",
        "authenticator": "AllowAllAuthenticator",
        "authorizer": "AllowAllAuthorizer",
        "materialized_views_enabled": False,
        "user_defined_functions_enabled": False,
        # A dropped keyspace of a test must not stay on disk.
        "auto_snapshot": False,
    }
    for key in ("commitlog", "hints", "saved_caches", "cdc_raw"):
        found[f"{key}_directory"] = str(node.folder / key)
    return found
