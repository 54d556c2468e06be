"""Probes of the tables: nodes, schema, replicas against the nodes that live, a quorum's round trip.

The one row that is written is `doctor` in meta, with a TTL. Not for watching: a call costs some
connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from feedcore.adapters.common.probing import Probe, reach, skew
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings, tls_context
from feedcore.adapters.cql.driver.session import Consistency, SchemaSession, Statement
from feedcore.adapters.cql.schema.migrate import COMMAND, check
from feedcore.clock import Clock
from feedcore.errors import StoreError
from feedcore.ports.finding import Finding, State
from feedcore.resilience.gather import gather_bounded

ENGINE = "cql"
MARK_S = 60  # seconds that the written row stays
CLOCK_WARN_MS = 500  # timestamps of two nodes order their writes: NTP keeps them within some ms
SWEPT_WARN_S = 60  # the outbox is swept each second
LETTERS_MAX = 100
ROUND_TRIP_WARN_MS = 100  # a page waits for one or two of these

_LOCAL = Statement(
    "SELECT cluster_name, release_version, data_center, toUnixTimestamp(now()) FROM system.local",
    Consistency.ONE,
)
_PEERS = Statement(
    "SELECT native_address, native_port, data_center FROM system.peers_v2", Consistency.ONE
)
_PEERS_OLD = Statement("SELECT rpc_address, data_center FROM system.peers", Consistency.ONE)
_KEYSPACE = Statement(
    "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?", Consistency.ONE
)
_NOBODY = (
    "start the node, or mend the network between here and there; pages come from what nodes keep,"
    " and nothing is acknowledged, until a quorum answers"
)


class Peer(NamedTuple):
    """One node, and whether it took a connection."""

    address: str
    data_center: str
    lives: bool


def probes(settings: CqlSettings, clock: Clock, timeout_s: float) -> list[Probe]:
    """One of each contact point, one of the cluster behind them."""

    def point(address: str) -> Probe:
        async def run() -> list[Finding]:
            ms = await reach(address, clock, tls_context(settings))
            return [Finding(ENGINE, f"node {address}", State.OK, "takes connections", ms=ms)]

        return Probe(ENGINE, f"node {address}", run, f"{_NOBODY}; or correct cql.contact_points")

    bounded = replace(
        settings, keyspace="", connect_timeout_s=timeout_s, request_timeout_s=timeout_s
    )

    async def cluster() -> list[Finding]:
        session = await open_session(bounded)
        try:
            return await _look(session, settings, clock, timeout_s)
        finally:
            await session.close()

    one = Probe(
        ENGINE,
        "session",
        cluster,
        "check cql.contact_points, cql.local_dc, cql.user and cql.tls_ca; then the nodes:"
        " `nodetool status`",
    )
    return [*map(point, settings.contact_points), one]


async def _look(
    session: SchemaSession, settings: CqlSettings, clock: Clock, timeout_s: float
) -> list[Finding]:
    ((name, version, dc, at_ms),) = await session.read(_LOCAL)
    now_ms = clock.now_ms()
    found = [
        Finding(ENGINE, "session", State.OK, f"cluster {name}, version {version}, {dc}"),
        skew(ENGINE, "clock", at_ms - now_ms, CLOCK_WARN_MS),
    ]
    peers = [Peer("", dc, True)]  # who answered
    peers += await _peers(session, settings.contact_points[0], clock, timeout_s / 4)
    rows = await session.read(_KEYSPACE, (settings.keyspace,))
    if not rows:
        what = f"keyspace {settings.keyspace}"
        return [*found, Finding(ENGINE, what, State.DOWN, "is not there", f"run `{COMMAND}`")]
    found += judge_replicas(settings.keyspace, dict(rows[0][0]), settings.local_dc or dc, peers)
    try:
        await check(session, keyspace=settings.keyspace)
    except StoreError as error:
        return [*found, Finding(ENGINE, "tables", State.DOWN, str(error), f"run `{COMMAND}`")]
    found.append(Finding(ENGINE, "tables", State.OK, "at this version's schema"))
    found += await _round_trip(session, settings.keyspace, clock)
    return [*found, *await _fanout(session, settings.keyspace, now_ms)]


async def _peers(session: SchemaSession, asked: str, clock: Clock, timeout_s: float) -> list[Peer]:
    """All nodes but the one that answers."""
    port = asked.rpartition(":")[2]
    try:
        rows = [(f"{host}:{at}", where) for host, at, where in await session.read(_PEERS)]
    except StoreError:  # a server that has the older table alone
        rows = [(f"{host}:{port}", where) for host, where in await session.read(_PEERS_OLD)]

    async def look(row: tuple[str, str]) -> Peer:
        try:
            async with asyncio.timeout(timeout_s):
                await reach(row[0], clock)
        except OSError:  # TimeoutError is one
            return Peer(*row, False)
        return Peer(*row, True)

    return await gather_bounded(rows, look)


def judge_replicas(
    keyspace: str, replication: Mapping[str, str], dc: str, peers: Sequence[Peer]
) -> list[Finding]:
    """What the keyspace wants of this data centre, and what of it is there."""
    simple = "Simple" in replication.get("class", "")
    copies = int(replication.get("replication_factor" if simple else dc, 0))
    here = [one for one in peers if simple or one.data_center == dc]
    live, dead = sum(one.lives for one in here), [one.address for one in here if not one.lives]
    quorum = copies // 2 + 1
    what, text = f"keyspace {keyspace}", f"{copies} copies, {live} of {len(here)} nodes live"
    if not copies:
        return [
            Finding(
                ENGINE,
                what,
                State.DOWN,
                f"no copies in data centre {dc}",
                f"cql.local_dc must be a data centre of the keyspace: "
                f"{', '.join(key for key in replication if key != 'class')}",
            )
        ]
    if live < quorum:
        return [Finding(ENGINE, what, State.DOWN, f"{text}; a quorum is {quorum}", _NOBODY)]
    if dead:
        mend = f"start {', '.join(dead)}; one more that goes may stop writes"
        return [Finding(ENGINE, what, State.WARN, text, mend)]
    if len(here) < copies:
        mend = "more copies than nodes: add nodes, or ALTER KEYSPACE to fewer copies"
        return [Finding(ENGINE, what, State.WARN, text, mend)]
    if copies < 3:
        detail = f"{text}; no node may be missing"
        return [Finding(ENGINE, what, State.OK, detail)]
    return [Finding(ENGINE, what, State.OK, text)]


async def _fanout(session: SchemaSession, keyspace: str, now_ms: int) -> list[Finding]:
    """Who sweeps, and what was given up."""
    marks = Statement(f"SELECT swept_ms FROM {keyspace}.sweep_marks", Consistency.ONE)
    swept_ms = max((row[0] or 0 for row in await session.read(marks)), default=0)
    letters = Statement(
        f"SELECT job_id FROM {keyspace}.dead_letters LIMIT {LETTERS_MAX}", Consistency.ONE
    )
    found = [judge_sweep(swept_ms, now_ms)]
    if dead := len(await session.read(letters)):
        count = f"{dead}{'+' if dead == LETTERS_MAX else ''}"
        mend = "`feedcore admin dead-letters` says why; mend that, then `feedcore admin replay`"
        found.append(Finding(ENGINE, "dead letters", State.WARN, f"{count} jobs given up", mend))
    return found


def judge_sweep(swept_ms: int, now_ms: int) -> Finding:
    """By when a fan-out process said last that it is at work."""
    mend = "start one: `feedcore serve --role all` or `--role fanout`; posts are kept until then"
    if not swept_ms:
        return Finding(ENGINE, "fan-out", State.WARN, "no process has ever fanned out", mend)
    age_s = max(now_ms - swept_ms, 0) / 1e3
    if age_s > SWEPT_WARN_S:
        detail = f"no process at work since {age_s:,.0f} s"
        return Finding(ENGINE, "fan-out", State.WARN, detail, mend)
    return Finding(ENGINE, "fan-out", State.OK, "a process is at work")


async def _round_trip(session: SchemaSession, keyspace: str, clock: Clock) -> list[Finding]:
    put = Statement(
        f"INSERT INTO {keyspace}.meta (key, value) VALUES ('doctor', ?) USING TTL {MARK_S}"
    )
    get = Statement(f"SELECT value FROM {keyspace}.meta WHERE key = 'doctor'")
    value = clock.now_ms().to_bytes(8, "big")
    found = []
    for what, call in (
        ("write at quorum", lambda: session.write(put, (value,))),
        ("read at quorum", lambda: session.read(get)),
    ):
        begun_s = clock.monotonic()
        await call()
        ms = (clock.monotonic() - begun_s) * 1e3
        state = State.OK if ms <= ROUND_TRIP_WARN_MS else State.WARN
        mend = "" if state is State.OK else "slow: load, disks and garbage collection of the nodes"
        found.append(Finding(ENGINE, what, state, "", mend, ms))
    return found
