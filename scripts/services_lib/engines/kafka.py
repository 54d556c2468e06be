"""Apache Kafka in KRaft mode: one node, or three, each broker and controller.

A record is in the page cache of every replica in sync before acks=all answers, so that it survives
kill -9; of three nodes two must have it. Topics are made on purpose, never by asking. Not for
ZooKeeper, which Kafka 4 does not know.
"""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

from .. import jars, ports
from ..state import Node, Trouble
from ..wire.kafka import Broker
from ..wire.sockets import Connection
from .parts import JVM, in_words, jvm, layout

# One for all folders: nodes of two folders never meet, since their controllers' ports differ.
CLUSTER_ID = "ZmVlZGNvcmUtc2VydmljZQ"
HEAP_MB = 256
# Internal topics' partitions: 50 by default, each of them files to open at every start.
INTERNAL_PARTITIONS = 6
# The default gives half of this heap to the log cleaner.
CLEANER_BYTES = 16 << 20
SEGMENT_BYTES = 64 << 20
FORMAT_S = 60
TOPIC = "services-check"


class Kafka:
    """One or three of Kafka's own server class, from its published jars."""

    kind = "kafka"
    ready_s = 150.0

    def plan(self, folder: Path, base: int, count: int, cache: Path) -> list[Node]:
        java, classpath = jars.java(), jars.classpath(self.kind, cache)
        nodes = []
        for index in range(1, count + 1):
            name, home, log = layout(folder, self.kind, index)
            numbers = {
                "client": base + ports.KAFKA + index - 1,
                "controller": base + ports.KAFKA_CONTROLLER + index - 1,
                "proxied": base + ports.KAFKA_PROXIED + index - 1,
            }
            command = [java, *jvm(HEAP_MB, count)]
            command += [f"-Djava.io.tmpdir={home / 'tmp'}", "-Djava.net.preferIPv4Stack=true"]
            command += ["-Dorg.slf4j.simpleLogger.showDateTime=true"]
            command += ["-cp", classpath, "kafka.Kafka", str(home / "server.properties")]
            data = str(home / "data")
            nodes.append(Node(name, self.kind, index, "127.0.0.1", numbers, data, log, command))
        return nodes

    def prepare(self, node: Node, nodes: list[Node]) -> None:
        properties = node.folder / "server.properties"
        (node.folder / "tmp").mkdir(parents=True, exist_ok=True)
        text = "".join(f"{key}={value}\n" for key, value in settings(node, nodes).items())
        properties.write_text(text, encoding="utf-8")
        if (Path(node.data_dir) / "meta.properties").exists():
            return
        java, classpath = node.command[0], node.command[node.command.index("-cp") + 1]
        command = [java, *JVM, "-cp", classpath, "kafka.tools.StorageTool", "format"]
        command += ["-t", CLUSTER_ID, "-c", str(properties)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FORMAT_S, check=False
        )
        if done.returncode != 0:
            raise Trouble(f"{node.name}: format failed:\n{done.stdout}{done.stderr}")

    def waves(self, nodes: list[Node]) -> list[list[Node]]:
        # Of three controllers two must meet before any broker serves.
        return [nodes]

    def settle(self, nodes: list[Node]) -> None:
        return None

    @in_words
    def node_problem(self, node: Node) -> str | None:
        with connect(node) as connection:
            brokers = Broker(connection).metadata().brokers
        return None if node.index in brokers else f"{node.name} has not joined: {sorted(brokers)}"

    @in_words
    def set_problem(self, nodes: list[Node]) -> str | None:
        for node in nodes:
            with connect(node) as connection:
                brokers = Broker(connection).metadata().brokers
            if len(brokers) != len(nodes):
                return f"{node.name} sees brokers {sorted(brokers)}"
        with connect(nodes[0]) as connection:
            broker = Broker(connection)
            broker.create_topic(TOPIC, 1, len(nodes))
            partition = broker.metadata(TOPIC).partitions.get(0)
        if partition is None or partition.error or len(partition.in_sync) != len(nodes):
            return f"{TOPIC}: {partition}"
        leader = next(node for node in nodes if node.index == partition.leader)
        token = secrets.token_bytes(8)
        with connect(leader) as connection:
            broker = Broker(connection)
            offset = broker.produce(TOPIC, 0, token)
            if token not in broker.fetch(TOPIC, 0, offset):
                return f"{leader.name}: the record at {offset} of {TOPIC} is not what was written"
        return None


def connect(node: Node) -> Connection:
    return Connection(node.host, node.ports["client"])


def settings(node: Node, nodes: list[Node]) -> dict[str, str | int]:
    """A node's server.properties."""
    count = len(nodes)
    voters = ",".join(f"{one.index}@{one.host}:{one.ports['controller']}" for one in nodes)
    broker = f"PLAINTEXT://{node.host}:{node.ports['client']}"
    proxied = node.ports["proxied"]
    proxy = proxied - ports.KAFKA_PROXIED + ports.KAFKA_PROXY
    listeners = f"{broker},PROXIED://{node.host}:{proxied}"
    in_sync = 2 if count > 1 else 1
    return {
        "process.roles": "broker,controller",
        "node.id": node.index,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{listeners},CONTROLLER://{node.host}:{node.ports['controller']}",
        "advertised.listeners": f"{broker},PROXIED://{node.host}:{proxy}",
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "PROXIED", "CONTROLLER")
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": node.data_dir,
        "auto.create.topics.enable": "false",
        "default.replication.factor": count,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": count,
        "offsets.topic.num.partitions": INTERNAL_PARTITIONS,
        "transaction.state.log.replication.factor": count,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": INTERNAL_PARTITIONS,
        "share.coordinator.state.topic.replication.factor": count,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": INTERNAL_PARTITIONS,
        # A test's only consumer need not wait for others that might join.
        "group.initial.rebalance.delay.ms": 0,
        "log.segment.bytes": SEGMENT_BYTES,
        "log.cleaner.dedupe.buffer.size": CLEANER_BYTES,
    }
