"""How doctor judges what engines say, and shows it."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from feedcore.adapters.common.probing import Probe, run_probes, skew
from feedcore.adapters.cql.schema.probe import Peer, judge_replicas, judge_sweep
from feedcore.adapters.embedded.probe import judge_disk
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.probe import judge_lag, judge_topic
from feedcore.adapters.redis.probe import judge_memory, judge_node, judge_slots
from feedcore.cli.doctor import document, table, verdict
from feedcore.clock import ManualClock
from feedcore.compose.probes import probes_of
from feedcore.config import load
from feedcore.ports import Lane, QueueLag
from feedcore.ports.finding import Finding, State

OPTIONS = KafkaOptions(("a:1",), "x.", partitions=2, replication=3)
BROKERS = {1: "a:1", 2: "b:1", 3: "c:1"}


def text_of(findings: list[Finding]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table(findings))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_says_what_is_down_and_how_to_mend_it() -> None:
    findings = [
        Finding("cql", "node a:1", State.OK, "takes connections", ms=1.25),
        Finding("redis", "node b:1", State.DOWN, "[Errno 111] refused", "start it [now]"),
        Finding("kafka", "topic t", State.WARN, "", "look"),
    ]
    shown = text_of(findings)
    assert "1.2" in shown and "DOWN" in shown
    assert "[Errno 111] refused" in shown and "-> start it [now]" in shown
    assert verdict(findings) == "DOWN: redis; 1 to look at by day"
    assert verdict(findings[:1]) == "all well"
    made = document("cluster", findings)
    assert made["ok"] is False and json.loads(json.dumps(made))["findings"][1]["state"] == "down"


def test_a_probe_is_bounded_and_what_it_raises_is_a_finding() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def breaks() -> list[Finding]:
        raise OSError(111, "Connection refused")

    async def works() -> list[Finding]:
        return [Finding("c", "w", State.OK, "well")]

    probes = [Probe("a", "h", hangs, "m"), Probe("b", "x", breaks, "n"), Probe("c", "w", works, "")]
    found = asyncio.run(run_probes(probes, 0.05))
    assert [one.state for one in found] == [State.DOWN, State.DOWN, State.OK]
    assert found[0].detail == "no answer within 0.05 s" and found[0].mend == "m"
    assert found[1].detail == "connection refused: nothing listens there"


@pytest.mark.parametrize(
    ("copies", "peers", "state", "said"),
    [
        ("3", "lll", State.OK, "3 of 3 nodes live"),
        ("3", "lld", State.WARN, "2 of 3 nodes live"),
        ("3", "ldd", State.DOWN, "a quorum is 2"),
        ("3", "ll", State.WARN, "2 of 2 nodes live"),
        ("1", "l", State.OK, "no node may be missing"),
    ],
)
def test_copies_against_the_nodes_that_live(
    copies: str, peers: str, state: State, said: str
) -> None:
    nodes = [Peer(f"n{at}:9042", "dc1", one == "l") for at, one in enumerate(peers)]
    nodes.append(Peer("far:9042", "dc2", True))
    replication = {"class": "org.x.NetworkTopologyStrategy", "dc1": copies}
    (found,) = judge_replicas("k", replication, "dc1", nodes)
    assert found.state is state and said in found.detail
    assert (state is State.OK) != bool(found.mend)
    (elsewhere,) = judge_replicas("k", replication, "dc9", nodes)
    assert elsewhere.state is State.DOWN and "dc1" in elsewhere.mend
    simple = {"class": "org.x.SimpleStrategy", "replication_factor": "1"}
    assert judge_replicas("k", simple, "dc1", nodes)[0].state is not State.DOWN


def test_redis_memory() -> None:
    def state(limit: int, policy: str, used: int = 1) -> State:
        info = {"maxmemory": str(limit), "maxmemory_policy": policy, "used_memory": str(used)}
        (found,) = judge_memory("a:1", info)
        return found.state

    assert state(10**9, "volatile-ttl") is State.OK
    assert state(0, "volatile-ttl") is State.WARN
    assert state(10**9, "noeviction") is State.WARN
    assert state(10**9, "noeviction", 10**9) is State.DOWN


def test_redis_nodes() -> None:
    assert judge_node("a:1", {"role": "master"}, 1.0).state is State.OK
    assert judge_node("a:1", {"role": "master"}, 500.0).state is State.WARN
    assert judge_node("a:1", {"role": "slave"}, 1.0).state is State.DOWN
    assert judge_node("a:1", {"role": "master", "loading": "1"}, 1.0).state is State.DOWN
    whole = {"cluster_state": "ok", "cluster_slots_ok": "16384"}
    assert judge_slots("a:1", whole).state is State.OK
    assert judge_slots("a:1", whole | {"cluster_slots_ok": "10922"}).state is State.DOWN


def partition(number: int, leader: int = 1, isr: str = "123") -> dict:
    in_sync = [int(one) for one in isr]
    return {"partition": number, "leader": leader, "replicas": [1, 2, 3], "isr": in_sync}


@pytest.mark.parametrize(
    ("partitions", "state", "said"),
    [
        ([partition(0), partition(1)], State.OK, "all in sync"),
        ([partition(0), partition(1, isr="13")], State.WARN, "start or look at b:1"),
        ([partition(0), partition(1, isr="1")], State.DOWN, "b:1, c:1"),
        ([partition(0), partition(1, leader=-1)], State.DOWN, "have no leader"),
        ([partition(0)], State.WARN, "kafka.partitions is 2"),
        (None, State.WARN, "servers make it"),
    ],
)
def test_topics(partitions: list[dict] | None, state: State, said: str) -> None:
    found = judge_topic("x.events", partitions, OPTIONS, BROKERS)
    assert found.state is state and said in f"{found.detail} {found.mend}"


def test_lag_sweeps_disks_and_clocks() -> None:
    late = {Lane.ALL: QueueLag(5, 90_000), Lane.REST: QueueLag(0, 0)}
    assert judge_lag(late)[0].state is State.WARN
    assert judge_lag({Lane.ALL: QueueLag(5, 900)})[0].state is State.OK
    assert judge_sweep(0, 10**12).state is State.WARN
    assert judge_sweep(10**12 - 1_000, 10**12).state is State.OK
    assert judge_sweep(10**12 - 120_000, 10**12).state is State.WARN
    assert judge_disk(10**6).state is State.DOWN
    assert judge_disk(10**9).state is State.WARN
    assert judge_disk(10**12).state is State.OK
    assert skew("cql", "clock", -7_000, 500).detail == "clock 7.0 s behind ours"
    assert skew("cql", "clock", 400, 500).state is State.OK


def test_no_secret_is_shown(tmp_path: Path) -> None:
    closed = "127.0.0.1:1"
    values = {
        "store.profile": "cluster",
        "cql.contact_points": closed,
        "cql.user": "u",
        "cql.password": "hush-cql",
        "redis.nodes": closed,
        "redis.password": "hush-redis",
        "kafka.brokers": closed,
        "kafka.user": "u",
        "kafka.password": "hush-kafka",
    }
    probes = probes_of(load(values).settings, ManualClock(1), 0.5)
    found = asyncio.run(run_probes(probes, 0.5))
    assert {one.engine for one in found} == {"cql", "redis", "kafka"}
    assert all(one.state is State.DOWN and one.mend for one in found)
    assert "hush" not in text_of(found) + json.dumps(document("cluster", found))
