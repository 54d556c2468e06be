"""Which ports a folder's engines listen on: one span from a base port, loopback only.

Two folders do not clash when their bases are SPAN apart. Not for finding out who listens.
"""

from __future__ import annotations

import random
import socket

from .state import Trouble

# The default; nothing well known lives there on a developer's machine.
BASE_PORT = 9100
SPAN = 50
NODES_MAX = 3
# Offsets from the base, for the first node; the others follow.
REDIS, REDIS_BUS, KAFKA, KAFKA_CONTROLLER = 0, 10, 20, 30
# A second listener of each broker, and the port that it tells clients instead of its own: there a
# test's proxy listens, else nobody.
KAFKA_PROXIED, KAFKA_PROXY = 25, 35
# One port for all three nodes, each on an address of its own, as drivers expect.
CQL, CASSANDRA_STORAGE = 40, 41
# Where a free span is looked for: below the ports that the kernel gives to outgoing connections.
FREE_FROM, FREE_TO = 10_000, 30_000
FREE_TRIES = 50


def cassandra_host(index: int) -> str:
    return f"127.0.0.{index}"


def all_of(base: int) -> list[tuple[str, int]]:
    """Every address that three nodes of everything would bind."""
    offsets = (REDIS, REDIS_BUS, KAFKA, KAFKA_CONTROLLER, KAFKA_PROXIED, KAFKA_PROXY)
    plain = [base + offset for offset in offsets]
    found = [("127.0.0.1", port + more) for port in plain for more in range(NODES_MAX)]
    for index in range(1, NODES_MAX + 1):
        host = cassandra_host(index)
        found += [(host, base + CQL), (host, base + CASSANDRA_STORAGE)]
    return found


def bindable(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_base() -> int:
    """A base whose whole span is free now; by chance, so that two who look differ."""
    draw = random.Random()
    for _ in range(FREE_TRIES):
        base = draw.randrange(FREE_FROM, FREE_TO, SPAN)
        if all(bindable(host, port) for host, port in all_of(base)):
            return base
    raise Trouble(f"no {SPAN} free ports between {FREE_FROM} and {FREE_TO}")
