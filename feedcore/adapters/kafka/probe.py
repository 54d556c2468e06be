"""Probes of Kafka: brokers, the topics, their copies, and how far fan-out is behind.

Metadata and offsets only: nothing is produced, as whoever reads the events would have to know of
it. What a producer would meet shows in the copies that are in sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from feedcore.adapters.common.probing import Probe, reach
from feedcore.adapters.kafka.lag import LagReader
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.adapters.kafka.topics import IN_SYNC_MIN
from feedcore.clock import Clock
from feedcore.limits import MINUTE_MS
from feedcore.ports import Lane, QueueLag
from feedcore.ports.finding import Finding, State

ENGINE = "kafka"
LAG_WARN_MS = MINUTE_MS  # a push takes seconds
ROUND_TRIP_WARN_MS = 500
_AWAY = "start it; until then posts are acknowledged and kept, and fanned out when it is back"


def probes(options: KafkaOptions, clock: Clock) -> list[Probe]:
    """One of each broker named, one of the topics."""

    def broker(address: str) -> Probe:
        async def run() -> list[Finding]:
            # the client says only that it cannot connect, not why
            ms = await reach(address, clock, options.connecting().get("ssl_context"))
            return [Finding(ENGINE, f"broker {address}", State.OK, "takes connections", ms=ms)]

        return Probe(ENGINE, f"broker {address}", run, f"{_AWAY}; or correct kafka.brokers")

    async def topics() -> list[Finding]:
        admin = AIOKafkaAdminClient(**options.connecting())
        try:
            await admin.start()
            return await _look(admin, options, clock)
        finally:
            await admin.close()

    async def lag() -> list[Finding]:
        reader = LagReader(options)
        try:
            return judge_lag(await reader.lag(clock.now_ms()))
        finally:
            await reader.close()

    mend = "see the topics and brokers above; then the log of the fan-out processes"
    return [
        *map(broker, options.brokers),
        Probe(ENGINE, "metadata", topics, f"{_AWAY}; check kafka.user and kafka.tls_ca"),
        Probe(ENGINE, "fan-out lag", lag, mend),
    ]


async def _look(admin: AIOKafkaAdminClient, options: KafkaOptions, clock: Clock) -> list[Finding]:
    begun_s = clock.monotonic()
    cluster = await admin.describe_cluster()
    ms = (clock.monotonic() - begun_s) * 1e3
    brokers = {one["node_id"]: f"{one['host']}:{one['port']}" for one in cluster["brokers"]}
    state = State.OK if ms <= ROUND_TRIP_WARN_MS else State.WARN
    mend = "" if state is State.OK else "slow: load and disks of the brokers"
    detail = f"{len(brokers)} brokers live"
    found = [Finding(ENGINE, "metadata", state, detail, mend, ms)]
    names = [*(options.topic(lane) for lane in Lane), options.events]
    there = set(await admin.list_topics())
    described = await admin.describe_topics([name for name in names if name in there])
    topics = {one["topic"]: one["partitions"] for one in described}
    return [*found, *(judge_topic(name, topics.get(name), options, brokers) for name in names)]


def judge_topic(
    name: str,
    partitions: Sequence[Mapping[str, Any]] | None,
    options: KafkaOptions,
    brokers: Mapping[int, str],
) -> Finding:
    """Leaders and copies of one topic."""
    what = f"topic {name}"
    if not partitions:
        mend = "servers make it when they start: start one, or look why those that run did not"
        return Finding(ENGINE, what, State.WARN, "is not there", mend)
    leaderless = [one["partition"] for one in partitions if one["leader"] not in brokers]
    copies = min(len(one["replicas"]) for one in partitions)
    lacking = [one["partition"] for one in partitions if len(one["isr"]) < len(one["replicas"])]
    wanted = IN_SYNC_MIN if copies > IN_SYNC_MIN else 1
    refused = [one["partition"] for one in partitions if len(one["isr"]) < wanted]
    behind = {
        brokers.get(node, f"broker {node}")
        for one in partitions
        for node in set(one["replicas"]) - set(one["isr"])
    }
    text = f"{len(partitions)} partitions, {copies} copies"
    start = f"start or look at {', '.join(sorted(behind))}"
    if leaderless:
        detail = f"{text}; {len(leaderless)} partitions have no leader"
        return Finding(ENGINE, what, State.DOWN, detail, f"{start}; {_AWAY}")
    if refused:
        detail = f"{text}; {len(refused)} partitions have too few in sync to take messages"
        return Finding(ENGINE, what, State.DOWN, detail, f"{start}; {_AWAY}")
    if lacking:
        detail = f"{text}; {len(lacking)} partitions have copies that are behind"
        return Finding(ENGINE, what, State.WARN, detail, start)
    if len(partitions) != options.partitions:
        detail = f"{text}; kafka.partitions is {options.partitions}"
        mend = "existing topics stay as they are: correct the setting"
        return Finding(ENGINE, what, State.WARN, detail, mend)
    if copies < min(options.replication, len(brokers)):
        mend = f"kafka-reassign-partitions to {options.replication} copies"
        return Finding(ENGINE, what, State.WARN, text, mend)
    return Finding(ENGINE, what, State.OK, f"{text}, all in sync")


def judge_lag(lags: Mapping[Lane, QueueLag]) -> list[Finding]:
    """Of each lane that has jobs."""
    jobs = sum(one.jobs for one in lags.values())
    oldest_ms = max((one.oldest_ms for one in lags.values() if one.jobs), default=0)
    text = f"{jobs:,} jobs wait" + (f", the oldest {oldest_ms / 1e3:,.0f} s" if jobs else "")
    if oldest_ms <= LAG_WARN_MS:
        return [Finding(ENGINE, "fan-out lag", State.OK, text)]
    mend = (
        "more fan-out processes (at most kafka.partitions), or `feedcore admin settings` to pause"
        " the rest lane; readers see new posts of the last minutes all the same"
    )
    return [Finding(ENGINE, "fan-out lag", State.WARN, text, mend)]
