"""Warnings before a server starts: settings that are valid and yet seldom meant, with how to mend
them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from feedcore.config.node import available_cores
from feedcore.config.settings import Settings
from feedcore.config.types import split_address

# Resident memory beside what the cache settings name: interpreter, code, connections (measured
# with 1,000 open connections).
WORKER_BASE_MB = 150


class Advice(NamedTuple):
    """`key`: the setting it is about; `text`: what follows from its value, and how to mend it."""

    key: str
    text: str


def advice(settings: Settings) -> list[Advice]:
    """In the order of the sections. Empty: nothing to say."""
    found = [*_serving(settings), *_memory(settings)]
    if settings.store.profile == "cluster":
        return [*found, *_cluster(settings)]
    return found


def _serving(settings: Settings) -> Iterator[Advice]:
    server = settings.server
    host, _ = split_address(server.listen)
    open_to_all = not _is_loopback(host)
    if open_to_all and server.tls_certificate is None:
        yield Advice(
            "server.listen",
            f"{server.listen} takes calls of other machines without TLS; give"
            " server.tls_certificate and server.tls_key, or keep it behind something that does",
        )
    if not open_to_all and settings.store.profile == "cluster":
        yield Advice(
            "server.listen",
            f"{server.listen} is reached from this machine only; other nodes' callers need an"
            " address of the network, such as 0.0.0.0:50051",
        )
    cores = available_cores()
    if server.role != "fanout" and server.workers > cores:
        yield Advice(
            "server.workers",
            f"{server.workers} workers on {cores} cores: each is a busy loop; at most one a core",
        )


def _memory(settings: Settings) -> Iterator[Advice]:
    cache, workers = settings.cache, settings.server.workers
    wanted_mb = workers * (cache.pages_mb + cache.resident_mb + WORKER_BASE_MB)
    there_mb = _memory_mb()
    if there_mb and wanted_mb > there_mb:
        yield Advice(
            "cache.resident_mb",
            f"{workers} workers may take {wanted_mb} MB together, this machine has {there_mb} MB;"
            " lower cache.resident_mb, cache.pages_mb or server.workers",
        )


def _cluster(settings: Settings) -> Iterator[Advice]:
    if settings.ids.node_base == 0:
        yield Advice(
            "ids.node_base",
            "0: right for one node of a region only; nodes that share numbers give an id twice."
            f" Give the next node {settings.server.workers + 2}, and so on",
        )
    if settings.cql.replication < 3:
        yield Advice(
            "cql.replication",
            f"{settings.cql.replication}: the loss of one node stops writes, or loses posts; 3"
            " survives it",
        )
    if settings.kafka.replication < 3:
        yield Advice(
            "kafka.replication",
            f"{settings.kafka.replication}: the loss of one broker stops fan-out (posts are kept);"
            " 3 survives it",
        )
    for key, user, tls_ca in (
        ("cql.user", settings.cql.user, settings.cql.tls_ca),
        ("kafka.user", settings.kafka.user, settings.kafka.tls_ca),
        ("redis.password", settings.redis.password.get_secret_value(), settings.redis.tls_ca),
    ):
        section = key.partition(".")[0]
        if user and tls_ca is None:
            yield Advice(
                f"{section}.tls_ca",
                f"not given: the password of {section} crosses the network in the clear",
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _memory_mb() -> int:
    """Of the machine; 0 where it cannot be told."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            return int(lines.readline().split()[1]) // 1_024
    except (OSError, ValueError, IndexError):
        return 0
