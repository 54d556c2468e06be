"""Probes of Redis: each node by itself, and whether a cluster of them is whole.

Reads only. Not for what is kept there: losing it makes pages slower, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feedcore.adapters.common.probing import Probe, skew
from feedcore.adapters.redis.nodes import SLOTS, Nodes
from feedcore.clock import Clock
from feedcore.ports.finding import Finding, State

ENGINE = "redis"
PING_WARN_MS = 20  # a page waits for one
CLOCK_WARN_MS = 5_000  # only lifetimes depend on it
FULL_PERCENT = 95
_AWAY = "start it; until then pages are right and slower, and nodes hear of changes from the tables"


def probes(urls: Sequence[str], cluster: bool, names: Sequence[str], clock: Clock) -> list[Probe]:
    """`names`: HOST:PORT of the urls, in their order."""
    nodes = Nodes(urls, cluster=cluster)

    def node(name: str) -> Probe:
        async def run() -> list[Finding]:
            connection = nodes.connection(name)
            try:
                await connection.connect()
                return await _look(connection, name, cluster, clock)
            finally:
                await connection.disconnect(nowait=True)

        mend = f"{_AWAY}; or correct redis.nodes or redis.tls_ca"
        return Probe(ENGINE, f"node {name}", run, mend)

    return [node(name) for name in names]


async def _look(connection: Any, name: str, cluster: bool, clock: Clock) -> list[Finding]:
    begun_s = clock.monotonic()
    await _ask(connection, "PING")
    ms = (clock.monotonic() - begun_s) * 1e3
    seconds, micros = map(int, await _ask(connection, "TIME"))
    ahead_ms = seconds * 1_000 + micros // 1_000 - clock.now_ms()
    info = _pairs(await _ask(connection, "INFO"))
    found = [judge_node(name, info, ms), *judge_memory(name, info)]
    late = skew(ENGINE, f"clock of {name}", ahead_ms, CLOCK_WARN_MS)
    if late.state is not State.OK:
        found.append(late)
    is_cluster = info.get("cluster_enabled") == "1"
    if is_cluster and cluster:
        found.append(judge_slots(name, _pairs(await _ask(connection, "CLUSTER", "INFO"))))
    elif is_cluster != cluster:
        detail = "is of a Redis Cluster" if is_cluster else "is not of a Redis Cluster"
        mend = f"set redis.cluster = {str(is_cluster).lower()}"
        found.append(Finding(ENGINE, f"node {name}", State.DOWN, detail, mend))
    return found


async def _ask(connection: Any, *words: str) -> Any:
    await connection.send_command(*words)
    return await connection.read_response(disable_decoding=True)


def _pairs(text: bytes) -> dict[str, str]:
    lines = [line for line in text.decode(errors="replace").splitlines() if ":" in line]
    return dict(line.split(":", 1) for line in lines)


def judge_node(name: str, info: Mapping[str, str], ms: float) -> Finding:
    """Whether it can be written to, and answers soon."""
    what = f"node {name}"
    detail = f"version {info.get('redis_version', '?')}, {info.get('role', '?')}"
    if info.get("loading") == "1":
        return Finding(ENGINE, what, State.DOWN, "loads its data", "wait until it has", ms)
    if info.get("role") == "slave":
        mend = "redis.nodes must name masters: nothing can be announced through a replica"
        return Finding(ENGINE, what, State.DOWN, f"{detail}: read only", mend, ms)
    if ms > PING_WARN_MS:
        mend = "slow: its CPU (SLOWLOG GET), swapping, or the network"
        return Finding(ENGINE, what, State.WARN, detail, mend, ms)
    return Finding(ENGINE, what, State.OK, detail, "", ms)


def judge_memory(name: str, info: Mapping[str, str]) -> list[Finding]:
    """A server that refuses writes when it is full, or that takes all the memory there is."""
    what = f"memory of {name}"
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = info.get("maxmemory_policy", "?")
    text = f"{used / 1e6:,.0f} of {limit / 1e6:,.0f} MB, {policy}"
    evicts = "CONFIG SET maxmemory-policy volatile-ttl (or allkeys-lru): all keys may be evicted"
    if not limit:
        text = f"{used / 1e6:,.0f} MB, no limit, {policy}"
        mend = "CONFIG SET maxmemory, or it takes all memory of its host"
        return [Finding(ENGINE, what, State.WARN, text, mend)]
    if policy == "noeviction":
        full = used * 100 >= limit * FULL_PERCENT
        state = State.DOWN if full else State.WARN
        return [Finding(ENGINE, what, state, f"{text}: full means no more writes", evicts)]
    return [Finding(ENGINE, what, State.OK, text)]


def judge_slots(name: str, info: Mapping[str, str]) -> Finding:
    """As this node sees its cluster."""
    what = f"cluster seen by {name}"
    covered, state = int(info.get("cluster_slots_ok", 0)), info.get("cluster_state", "?")
    text = f"state {state}, {covered:,} of {SLOTS:,} slots"
    if state == "ok" and covered == SLOTS:
        return Finding(ENGINE, what, State.OK, text)
    mend = f"a master is missing: `redis-cli --cluster check {name}`; {_AWAY}"
    return Finding(ENGINE, what, State.DOWN, text, mend)
