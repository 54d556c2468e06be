"""The engines of the cluster profile for the benchmark: found by environment, or started here.

    FEEDCORE_TEST_REDIS, _KAFKA, _CASSANDRA    HOST:PORT of engines that run already; all three
    otherwise                                  scripts/services starts one of each below
                                               build/bench/services, on the generator's core

Whatever is used, names are the benchmark's own: a keyspace and topics a world, and Redis keys a
server, so that each server begins with an empty cache. Engines that were started here go on
running for the next run; `scripts/services stop --dir build/bench/services` ends them. Raises
RuntimeError where an engine cannot be had.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass

import psutil

from feedcore_bench.server import pin_process
from feedcore_bench.world import CACHE, ROOT, Echo, Spec

KINDS = ("redis", "kafka", "cassandra")
FOLDER = CACHE / "services"
PARTITIONS = 4  # of each lane: one process fans out here
START_TIMEOUT_S = 300.0  # jars are fetched once, and two cores start three engines


@dataclass(frozen=True)
class Engines:
    """Addresses. `ours`: started for the benchmark, and on the generator's core."""

    redis: str
    kafka: str
    cassandra: str
    ours: bool

    def settings(self, keyspace: str, redis_prefix: str) -> dict[str, object]:
        """By key, as `feedcore serve --set` takes them."""
        return {
            "store.profile": "cluster",
            "cql.contact_points": self.cassandra,
            "cql.keyspace": keyspace,
            "cql.replication": 1,
            "kafka.brokers": self.kafka,
            "kafka.prefix": f"{keyspace}.".replace("_", "-"),
            "kafka.partitions": PARTITIONS,
            "kafka.replication": 1,
            "redis.nodes": self.redis,
            "redis.prefix": redis_prefix,
        }

    def processes(self) -> dict[str, psutil.Process]:
        """Those that listen at these addresses, as far as they can be seen."""
        found: dict[str, psutil.Process] = {}
        wanted = {self.redis: "redis", self.kafka: "kafka", self.cassandra: "cassandra"}
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status != psutil.CONN_LISTEN
                or connection.pid is None
                or not connection.laddr
            ):
                continue
            name = wanted.get(f"{connection.laddr.ip.rpartition(':')[2]}:{connection.laddr.port}")
            if name is not None:
                found[name] = psutil.Process(connection.pid)
        return found


def keyspace_of(spec: Spec) -> str:
    """The world's."""
    return f"bench_{spec.digest}"


def redis_prefix() -> str:
    """A server's: nobody has used it before."""
    return f"bench{secrets.token_hex(6)}:"


def obtain(echo: Echo, load_core: int) -> Engines:
    """Given, found running, or started."""
    given = {kind: os.environ.get(f"FEEDCORE_TEST_{kind.upper()}", "") for kind in KINDS}
    if all(given.values()):
        return Engines(**given, ours=False)
    if any(given.values()):
        missing = [f"FEEDCORE_TEST_{kind.upper()}" for kind in KINDS if not given[kind]]
        raise RuntimeError(f"some engines are given, and not {', '.join(missing)}")
    echo("starting the engines")
    _services("start", "--base-port", "auto")
    values = dict(
        line.split("=", 1) for line in _services("env").splitlines() if line.startswith("FEEDCORE")
    )
    engines = Engines(
        **{kind: values[f"FEEDCORE_TEST_{kind.upper()}"] for kind in KINDS}, ours=True
    )
    for process in engines.processes().values():
        pin_process(process.pid, load_core)
    return engines


def _services(command: str, *arguments: str) -> str:
    words = [sys.executable, str(ROOT / "scripts" / "services"), command, *arguments]
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*words, "--dir", str(FOLDER)],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT_S,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"engines: {''.join(last) or done.returncode}")
    return done.stdout
