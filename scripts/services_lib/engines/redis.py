"""Redis: one server, or a cluster of three masters without replicas.

Every write is in the append-only file before its answer, so that it survives kill -9. Slots of a
lost master answer with an error, the others go on: a cache loses a third, not all. Not for
replicas: the page cache has none to fail over to.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from pathlib import Path

from .. import ports
from ..state import Node, Unavailable
from ..wire import resp
from ..wire.sockets import Connection
from .parts import in_words, layout

SLOTS = 16_384
HINT = "on Debian and Ubuntu: apt-get install redis-server"
# cluster-port came with it.
CLUSTER_MAJOR = 7
# Far more than tests keep. Keys with a TTL go first; others, like epochs, never.
MEMORY = "256mb"
# Peers that are silent this long are lost: short enough for a test, long for a busy machine.
NODE_TIMEOUT_MS = 5_000
CHECK_TTL_MS = 60_000


class Redis:
    """One or three of Debian's redis-server."""

    kind = "redis"
    ready_s = 30.0

    def plan(self, folder: Path, base: int, count: int, cache: Path) -> list[Node]:
        server = shutil.which("redis-server")
        if server is None:
            raise Unavailable(f"needs redis-server; {HINT}")
        if count > 1 and version(server) < CLUSTER_MAJOR:
            raise Unavailable(f"a cluster needs Redis {CLUSTER_MAJOR}; this is {version(server)}")
        nodes = []
        for index in range(1, count + 1):
            name, home, log = layout(folder, self.kind, index)
            numbers = {"client": base + ports.REDIS + index - 1}
            if count > 1:
                numbers["bus"] = base + ports.REDIS_BUS + index - 1
            command = [server, str(home / "redis.conf")]
            data = str(home / "data")
            nodes.append(Node(name, self.kind, index, "127.0.0.1", numbers, data, log, command))
        return nodes

    def prepare(self, node: Node, nodes: list[Node]) -> None:
        Path(node.data_dir).mkdir(parents=True, exist_ok=True)
        lines = [
            f"bind {node.host}",
            f"port {node.ports['client']}",
            "protected-mode yes",
            "daemonize no",
            f'dir "{node.data_dir}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            f"maxmemory {MEMORY}",
            "maxmemory-policy volatile-lru",
        ]
        if "bus" in node.ports:
            lines += [
                "cluster-enabled yes",
                f"cluster-port {node.ports['bus']}",
                "cluster-config-file nodes.conf",
                f"cluster-node-timeout {NODE_TIMEOUT_MS}",
                "cluster-require-full-coverage no",
            ]
        (node.folder / "redis.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def waves(self, nodes: list[Node]) -> list[list[Node]]:
        return [nodes]

    def settle(self, nodes: list[Node]) -> None:
        if len(nodes) == 1:
            return
        known = [cluster_info(node) for node in nodes]
        if any(int(info["cluster_slots_assigned"]) for info in known):
            return
        for node in nodes:
            first, last = slots_of(node.index, len(nodes))
            with connect(node) as connection:
                resp.command(connection, "CLUSTER", "ADDSLOTSRANGE", first, last)
                resp.command(connection, "CLUSTER", "SET-CONFIG-EPOCH", node.index)
        with connect(nodes[0]) as connection:
            for node in nodes[1:]:
                port, bus = node.ports["client"], node.ports["bus"]
                resp.command(connection, "CLUSTER", "MEET", node.host, port, bus)

    @in_words
    def node_problem(self, node: Node) -> str | None:
        with connect(node) as connection:
            said = resp.command(connection, "PING")
        return None if said == b"PONG" else f"PING: {said!r}"

    @in_words
    def set_problem(self, nodes: list[Node]) -> str | None:
        for node in nodes:
            if len(nodes) > 1:
                info = cluster_info(node)
                if info["cluster_slots_ok"] != str(SLOTS):
                    return f"{node.name}: {info['cluster_slots_ok']} of {SLOTS} slots served"
                if info["cluster_known_nodes"] != str(len(nodes)):
                    return f"{node.name} knows {info['cluster_known_nodes']} nodes"
            with connect(node) as connection:
                key, value = own_key(connection, node, len(nodes)), secrets.token_hex(8)
                resp.command(connection, "SET", key, value, "PX", CHECK_TTL_MS)
                if resp.command(connection, "GET", key) != value.encode():
                    return f"{node.name}: what SET wrote, GET does not read"
        return None


def version(server: str) -> int:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"v=(\d+)", said.stdout)
    return int(match[1]) if match else 0


def connect(node: Node) -> Connection:
    return Connection(node.host, node.ports["client"])


def cluster_info(node: Node) -> dict[str, str]:
    with connect(node) as connection:
        said = resp.command(connection, "CLUSTER", "INFO")
    assert isinstance(said, bytes)
    return dict(line.split(":", 1) for line in said.decode().split())


def slots_of(index: int, count: int) -> tuple[int, int]:
    """First and last slot of a node."""
    return SLOTS * (index - 1) // count, SLOTS * index // count - 1


def own_key(connection: Connection, node: Node, count: int) -> str:
    """A key that this node holds."""
    if count == 1:
        return "services:check"
    first, last = slots_of(node.index, count)
    number = 0
    while True:
        key = f"services:check:{number}"
        slot = resp.command(connection, "CLUSTER", "KEYSLOT", key)
        assert isinstance(slot, int)
        if first <= slot <= last:
            return key
        number += 1
