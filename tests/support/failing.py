"""A cluster of real servers that people use while a test breaks something: `Site`, and `through`,
which goes from before the failure to the reckoning.

What is promised whatever fails: nothing acknowledged is lost or shown twice, no page has what was
deleted or muted before it was asked for, and in the end every post was fanned out to each follower,
once. `through` asserts that; the tests add what their failure may not do to calls.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore_pb.v1 import admin_pb2, publish_pb2
from tests.support.figures import Figures
from tests.support.load import Load, Stubs, surely
from tests.support.server import ServerProcess, feedcore

LONG = os.environ.get("FEEDCORE_LONG") == "1"
RATE = 30.0  # calls a second: far from what the machine gives, so that failures show and not queues
WARM_UP_S, BEFORE_S, AFTER_S = (3.0, 10.0, 15.0) if LONG else (2.0, 4.0, 6.0)
API_WORKERS = 2
FANOUT_NODES = 100  # their node numbers, from there on
PARTITIONS = 4
MIGRATE_S = 120
DELIVERED_WITHIN_S = 120.0
AUDITED = 20
API = "feedcore_server.processes.worker"
# each population has ids of its own: tests share a keyspace
POPULATION = 1_000
_populations = itertools.count(1)
_STORED = Statement("SELECT content_id FROM feed WHERE user_id = ?")

Step = Callable[[], Awaitable[object] | object]


@dataclass(frozen=True, slots=True)
class Engines:
    """Where they are, HOST:PORT each."""

    cassandra: tuple[str, ...]
    redis: tuple[str, ...]
    kafka: tuple[str, ...]
    redis_cluster: bool = False
    behind: tuple[str, ...] = ()  # Cassandra itself, where `cassandra` is a proxy
    replicas: int = 1  # of Cassandra's rows and of Kafka's topics, where they have so many nodes
    cql_ms: int = 10_000  # one CQL request may take, where CQL is not what fails
    redis_ms: int = 3_000  # a machine that does other things, too, is late by more than the default


class Keyspaces:
    """One for each Cassandra, made once a session: that takes seconds."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._made: dict[tuple[str, ...], str] = {}

    def of(self, engines: Engines) -> str:
        nodes = engines.behind or engines.cassandra
        if nodes not in self._made:
            name = f"failures{os.getpid()}x{len(self._made)}"
            points = ",".join(nodes)
            replicas = min(engines.replicas, len(nodes))
            feedcore(
                *("migrate", "--wait", str(MIGRATE_S), "--set", f"cql.contact_points={points}"),
                *("--set", f"cql.keyspace={name}", "--set", f"cql.replication={replicas}"),
                *("--set", "cql.timeout_ms=20000", "--data-dir", str(self._home)),
            )
            self._made[nodes] = name
        return self._made[nodes]

    async def close(self) -> None:
        for points, name in self._made.items():
            session = await open_session(CqlSettings(points, request_timeout_s=60.0))
            await session.define(f"DROP KEYSPACE IF EXISTS {name}")
            await session.close()


class Site:
    """An API node of two processes and a fan-out node, each a process group of its own."""

    def __init__(self, home: Path, engines: Engines, keyspace: str) -> None:
        self._home = home
        self.engines = engines
        self.keyspace = keyspace
        self.first_user = next(_populations) * POPULATION
        self.api: ServerProcess
        self.fanout: ServerProcess
        self.load: Load
        self.session: Session

    @property
    def flags(self) -> list[str]:
        # one test's unfinished jobs are the next one's: the audit looks at everybody's feeds
        engines, name = self.engines, self.keyspace
        values = {
            "store.profile": "cluster",
            "cql.contact_points": ",".join(engines.cassandra),
            "cql.keyspace": self.keyspace,
            "cql.timeout_ms": engines.cql_ms,
            "redis.nodes": ",".join(engines.redis),
            "redis.cluster": str(engines.redis_cluster).lower(),
            "redis.deadline_ms": engines.redis_ms,
            "redis.prefix": f"{name}:",
            "kafka.brokers": ",".join(engines.kafka),
            "kafka.prefix": f"{name}.",
            "kafka.partitions": PARTITIONS,
            "kafka.replication": min(engines.replicas, len(engines.kafka)),
            "logging.level": "warning",
        }
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]

    def _serve(self, role: str, number: int, node_base: int, workers: int) -> ServerProcess:
        flags = [*self.flags, "--role", role, "--set", f"ids.node_base={node_base}"]
        return ServerProcess(self._home / f"{role}{number}", *flags, workers=workers)

    def serve_fanout(self, place: int) -> ServerProcess:
        """A fan-out node; each place has a node number."""
        return self._serve("fanout", place, FANOUT_NODES + place, 1)

    async def start(self) -> None:
        """Servers, then people who follow each other."""
        self.api, self.fanout = await asyncio.gather(
            asyncio.to_thread(self._serve, "api", 0, 0, API_WORKERS),
            asyncio.to_thread(self.serve_fanout, 0),
        )
        settings = CqlSettings(self.engines.cassandra, self.keyspace, request_timeout_s=20.0)
        self.session = await open_session(settings)
        # more than there are processes, so that each has some
        stubs = [Stubs.of(self.api.address) for _ in range(2 * API_WORKERS)]
        self.load = Load(stubs, self.first_user, RATE)
        await self.load.populate()

    async def close(self) -> None:
        for name in ("load", "session"):
            if hasattr(self, name):
                await getattr(self, name).close()
        for name in ("api", "fanout"):
            if hasattr(self, name):
                await asyncio.to_thread(getattr(self, name).__exit__)

    def pids(self, server: ServerProcess, module: str) -> list[int]:
        """Of a server's processes of one kind."""
        children = psutil.Process(server.process.pid).children(recursive=True)
        return [one.pid for one in children if module in " ".join(_command(one))]

    # --- the end --------------------------------------------------------------------------------

    async def _undelivered(self) -> int:
        missing = 0
        for user in self.load.followers:
            stored = {row[0] for row in await self.session.read(_STORED, (user,))}
            missing += len(self.load.expected(user) - stored)
        return missing

    async def delivered(self) -> None:
        """Returns when every post is in the stored feed of each follower."""
        until_s = time.monotonic() + DELIVERED_WITHIN_S
        while missing := await self._undelivered():
            assert time.monotonic() < until_s, f"{missing} were not fanned out; " + self.logs()
            await asyncio.sleep(0.2)

    async def reached(self) -> list[str]:
        """Posts whose count of deliveries is not that of their followers."""
        wrong = []
        for post in self.load.posts.values():
            if post.delete_sent_s:
                continue
            request = publish_pb2.GetPostStatsRequest(content_id=post.content_id)
            want, found = len(self.load.followers_of(post.author)), -1
            for _ in range(50):  # written behind the deliveries
                answer = await surely(self.load.nodes[0].publish.GetPostStats, request)
                found = answer.reach
                if found == want:
                    break
                await asyncio.sleep(0.2)
            else:
                wrong.append(f"{post.content_id}: {found} for {want} followers")
        return wrong

    async def audit(self) -> admin_pb2.AuditResponse:
        request = admin_pb2.AuditRequest(sample=AUDITED)
        return await asyncio.to_thread(self.api.admin.Audit, request, timeout=300)

    def logs(self) -> str:
        """The last lines that the servers wrote."""
        return "".join(["\n", *self.api.lines[-12:], *self.fanout.lines[-12:]])


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@asynccontextmanager
async def site_on(home: Path, engines: Engines, keyspaces: Keyspaces) -> AsyncIterator[Site]:
    """Servers and people, ended afterwards."""
    keyspace = await asyncio.to_thread(keyspaces.of, engines)
    site = Site(home, engines, keyspace)
    try:
        await site.start()
        yield site
    finally:
        await site.close()


async def _do(step: Step) -> None:
    """A step may be a coroutine function, or one that blocks."""
    if asyncio.iscoroutinefunction(step):
        await step()
    else:
        await asyncio.to_thread(step)


async def through(
    site: Site,
    name: str,
    fail: Step,
    heal: Step,
    *,
    during_s: float,
    capsys: pytest.CaptureFixture[str],
    late_max_s: float = 0.0,
) -> Figures:
    """Before, `fail`, during, `heal`, after, the reckoning; figures for further assertions."""
    load = site.load
    load.phase, load.late_max_s = "warm-up", late_max_s
    async with load.running():
        await asyncio.sleep(WARM_UP_S)
        load.phase = "before"
        await asyncio.sleep(BEFORE_S)
        load.phase, began_s = "during", time.monotonic()
        await _do(fail)
        await asyncio.sleep(max(during_s - (time.monotonic() - began_s), 0))
        await _do(heal)
        load.phase, healed_s = "after", time.monotonic()
        await asyncio.sleep(AFTER_S)
    await load.settle()
    settled_s = time.monotonic()
    waiting = await site._undelivered()
    await site.delivered()
    caught_up_s = time.monotonic() - (settled_s if waiting else healed_s)
    lost, twice, more = await load.reckon()
    figures = Figures(name, load.calls, began_s, healed_s, len(load.posts), lost, twice)
    figures.wrong, figures.late_s = len(load.wrong) + more, load.late_s
    if waiting:
        figures.note = f"fan-out caught up {caught_up_s:.0f} s after the end"
    line = figures.report()
    with capsys.disabled():
        print(f"\n{line}")
        for phase in ("before", "during", "after"):
            if failures := figures.failures(phase):
                print(f"  {phase}: {dict(failures)}: {figures.example(phase)}")
    assert not load.wrong, "\n".join(load.wrong[:10]) + site.logs()
    assert (lost, twice, more) == (0, 0, 0), site.logs()
    report = await site.audit()
    assert (report.missing, report.duplicate, report.unexpected) == (0, 0, 0), report
    wrong = await site.reached()
    assert not wrong, wrong[:5]
    return figures
