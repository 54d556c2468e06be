"""Which Redis node holds a key, and new connections to it: one server, or a Redis Cluster.

A cluster's slots are read from CLUSTER SLOTS at the start, and again when a node says that a slot
is elsewhere. Reads go to masters only: a replica may be behind. Not for batching (batcher), nor for
deciding whether a node is to be believed (failure_detector).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from feedcore.errors import Unavailable

SLOTS = 16_384
NODES_MAX = 1_000  # the Redis Cluster specification's own bound
FAILURES = (RedisError, OSError, EOFError)  # what a connection raises that does not work


class Nodes:
    """`urls`: one server, or any nodes of a cluster. Names are "host:port"."""

    def __init__(self, urls: Sequence[str], *, cluster: bool = False) -> None:
        if not urls:
            raise ValueError("redis: no address; at least one")
        parts: dict[str, Any] = dict(parse_url(urls[0]))
        self.cluster = cluster
        self._class = parts.pop("connection_class", Connection)
        first = _take_name(parts)
        self._arguments = parts
        self._seeds = [first, *(_take_name(dict(parse_url(url))) for url in urls[1:])]
        self._slots = [first] * SLOTS

    def node_of(self, key: bytes) -> str:
        """The name of the master that holds the key, as far as is known."""
        return self._slots[key_slot(key)] if self.cluster else self._seeds[0]

    def group(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """Keys of one node by what one MGET may ask for: those of one slot."""
        if not self.cluster:
            return [list(keys)]
        slots: dict[int, list[bytes]] = {}
        for key in keys:
            slots.setdefault(key_slot(key), []).append(key)
        return list(slots.values())

    def connection(self, node: str) -> Connection:
        """A new one, not connected yet. The caller owns it, and its timeouts."""
        host, _, port = node.rpartition(":")
        arguments = {
            **self._arguments,
            "host": host.strip("[]"),
            "port": int(port),
            # whoever sends has a deadline, and a way to do without: nothing is tried again here
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "health_check_interval": 0,
            # ours are asyncio.timeout: redis-py's sends by wait_for, a task a write, which before
            # Python 3.12 may swallow a cancellation that comes as it ends
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }
        return self._class(**arguments)

    async def refresh(self) -> bool:
        """Reads the slots anew; whether one that was known has moved. Raises Unavailable if no node
        can say.
        """
        if not self.cluster:
            return False
        error: Exception | None = None
        for node in list(dict.fromkeys([*self._slots, *self._seeds]))[:NODES_MAX]:
            connection = self.connection(node)
            try:
                await connection.connect()
                await connection.send_command("CLUSTER", "SLOTS")
                ranges = await connection.read_response(disable_decoding=True)
                return self._learn(ranges, node)
            except FAILURES as failed:
                error = failed
            finally:
                await connection.disconnect(nowait=True)
        raise Unavailable(f"redis cluster: no node tells the slots ({error})")

    def _learn(self, ranges: list[Any], asked: str) -> bool:
        slots = list(self._slots)
        for first, last, (host, port, *_), *_replicas in ranges:
            # a node that does not know its own address leaves it empty: where it was asked
            name = f"{host.decode()}:{port}" if host else f"{asked.rpartition(':')[0]}:{port}"
            slots[first : last + 1] = [name] * (last + 1 - first)
        moved = slots != self._slots
        self._slots = slots
        return moved


def _take_name(parts: dict[str, Any]) -> str:
    if "path" in parts:
        raise ValueError("redis: a unix socket; an address of the form redis://host:port/db")
    return f"{parts.pop('host', 'localhost')}:{parts.pop('port', 6379)}"
