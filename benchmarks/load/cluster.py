"""Scenarios of the cluster profile: the same questions, where pages come over a network.

    hot      pages come from the shared page cache: the worker keeps none. Then with its own cache
    warm     pages are made from what the worker keeps, after Redis has said that it is current
    cold     nothing is kept in the worker nor in Redis: every load reads the tables
    fanout   posts to deliveries in the tables, by one fan-out process; no load beside it

Mixed and visible are those of `live`. The API worker has a core for itself; fan-out, the engines
(if they are ours) and the generator share the other: CPU a call of the worker is the figure that
this hardly disturbs. Not for how worlds are made (clusterworld).
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from feedcore.adapters.redis.keys import Keys
from feedcore.clock import SystemClock
from feedcore.codecs.content import digest, encode_content
from feedcore.compose import compose_over
from feedcore.domain import ids
from feedcore.ports import NewPost
from feedcore.services.hot import HotSettings
from feedcore_bench import clusterworld, layers, live
from feedcore_bench import engines as engines_of
from feedcore_bench.building import IMPORT_NODE
from feedcore_bench.drive import Bench, Options, Shape
from feedcore_bench.results import Phase, Results
from feedcore_bench.scenarios import (
    COLD_SHAPE,
    HOT_CONNECTIONS,
    HOT_STREAMS,
    OFF,
    SHARE,
    WARM_SHAPE,
    pages,
    people_spec,
    touch,
    window_spec,
)
from feedcore_bench.server import Series, Server, pinned, serving
from feedcore_bench.workloads import FirstPages
from feedcore_bench.world import CACHE, Echo, Spec, World

HOT_SHAPE: Shape = {"connections": HOT_CONNECTIONS, "streams": HOT_STREAMS}
# An etag that no page has: a caller whose etag is not current gets a page made for it alone,
# never one of the shared cache. So `warm` measures the making.
OUTDATED = "outdated"
# Where engines, generator and others share two cores, answers come late that are not away: a page
# that gave Redis up for that would measure the neighbours.
LATE: dict[str, object] = {"redis.deadline_ms": 2_000, "cql.timeout_ms": 10_000}
COLD_OFF = {"cache.pages_mb": 0, "cache.resident_mb": 0}
HOT_USERS = 300  # repeated: each page is made anew every 10 s by one load of it
ROUNDS = 3  # of a closed loop: the median counts
LAYERS_TIMES = 1.5  # the load lasts longer than the sampling, which begins late
ROUNDS_MAX = 20  # of cold: everybody once each, after Redis has forgotten them
FANOUT_POSTS = 8  # of each ordinary author a second of the phase: more than can be delivered
FANOUT_POSTS_MAX = 400


class ClusterBench(Bench):
    """Worlds are in the tables; each server has Redis keys of its own."""

    def __init__(
        self, options: Options, results: Results, echo: Echo, tell: Callable[[str, Series], None]
    ) -> None:
        super().__init__(options, results, echo, tell)
        self.engines = engines_of.obtain(echo, options.load_core)
        self.prefix = ""  # of the server that was started last
        where = "started for it, on the generator's core" if self.engines.ours else "shared"
        results.machine["engines"] = (
            f"Redis {self.engines.redis}, Kafka {self.engines.kafka}, Cassandra"
            f" {self.engines.cassandra}; {where}"
        )

    def world(self, spec: Spec, cache: Path = CACHE) -> World:
        """Made or found; noted in the results."""
        world = clusterworld.obtain(spec, self.engines, self.echo, cache)
        self.results.worlds.setdefault(str(spec), world.describe())
        return world

    @contextlib.contextmanager
    def serve(
        self,
        world: World,
        *,
        settings: dict[str, object] | None = None,
        workers: int = 1,
        cores: Sequence[int] | None = None,
    ) -> Iterator[Server]:
        """A server over the world's tables: its worker on the server's core, its fan-out on the
        generator's.
        """
        self.prefix = engines_of.redis_prefix()
        keyspace = engines_of.keyspace_of(world.spec)
        whole = self.engines.settings(keyspace, self.prefix) | LATE | (settings or {})
        whole.setdefault("fanout.push_threshold", world.push_threshold)
        with (
            tempfile.TemporaryDirectory(prefix="feedcore-bench-") as folder,
            serving(
                Path(folder) / "data",
                cores=cores or (self.options.server_core,),
                settings=whole,
                workers=workers,
                fanout_core=self.options.load_core,
            ) as server,
        ):
            server.beside = self.engines.processes()
            try:
                yield server
            finally:
                self.forget_pages()

    def forget_pages(self) -> None:
        """Deletes what this server has left in Redis to be served: pages, and viewer rows."""
        host, _, port = self.engines.redis.rpartition(":")
        with contextlib.closing(redis.Redis(host, int(port))) as client:
            match = Keys(self.prefix).page(0, b"").split(b"u0")[0] + b"*"
            found = list(client.scan_iter(match=match, count=5_000))
            for first in range(0, len(found), 1_000):
                client.unlink(*found[first : first + 1_000])


class OncePages(FirstPages):
    """Everybody's first page once; `over` when all are answered. `seconds`: from the first call to
    the last answer.
    """

    def __init__(self, users: Sequence[int], checker: Any) -> None:
        super().__init__(users, checker)
        self._asked = 0
        self._began_s = 0.0
        self.seconds = 0.0

    def next(self) -> tuple[int, bytes, Any] | None:
        """For the engine."""
        if self._asked == len(self._users):
            return None
        if not self._asked:
            self._began_s = time.monotonic()
        self._asked += 1
        return super().next()

    def done(self, *answer: Any) -> None:
        """For the engine."""
        super().done(*answer)
        self.seconds = time.monotonic() - self._began_s


def hot(bench: ClusterBench) -> None:
    """The most active users again and again: from the shared cache, then from the worker's."""
    world = bench.world(people_spec(bench))
    users = world.activity[:HOT_USERS]
    values = bench.results.values
    with bench.serve(world, settings={"cache.pages_mb": 0, "server.role": "api"}) as server:
        workload = pages(bench, "hot", users)
        touch(bench, server, "hot", workload, len(users))
        ceiling = _middle(bench, server, "hot", "Redis hits", workload, HOT_SHAPE)
        values["hot.rate"] = ceiling.rate
        values["hot.core"] = _a_core(ceiling)
        _shared(bench, "hot", ceiling)
        rate = max(1.0, SHARE * ceiling.rate)
        phase = bench.open(server, "hot", "Redis hits, 80 %", workload, rate)
        bench.latency("hot.p99_ms", phase, 99)
        _layers(bench, server, "hot", lambda s: _closed(bench, server, workload, s, HOT_SHAPE))
    with bench.serve(world, settings={"server.role": "api"}) as server:
        workload = pages(bench, "hot", users)
        touch(bench, server, "hot", workload, len(users))
        ceiling = _middle(bench, server, "hot", "cached pages", workload, HOT_SHAPE)
        values["hot.kept_rate"] = ceiling.rate
        values["hot.kept_core"] = _a_core(ceiling)


def warm(bench: ClusterBench) -> None:
    """Made from what is resident."""
    world = bench.world(window_spec(bench))
    settings = {**bench.known(**OFF), "server.role": "api"}
    with bench.serve(world, settings=settings) as server:
        touch(bench, server, "warm", pages(bench, "warm", world.users), len(world.users))
        workload = FirstPages(world.users, bench.checker("warm"), etag=OUTDATED)
        ceiling = bench.closed(server, "warm", "ceiling", workload, **WARM_SHAPE)
        bench.results.values["warm.rate"] = ceiling.rate
        bench.results.values["warm.core"] = _a_core(ceiling)
        phase = bench.open(server, "warm", "80 %", workload, max(1.0, SHARE * ceiling.rate))
        bench.latency("warm.p99_ms", phase, 99)


def cold(bench: ClusterBench) -> None:
    """Everybody once a round, after Redis has forgotten all pages and rows."""
    world = bench.world(window_spec(bench))
    rates: list[float] = []
    costs: list[float] = []
    slow: list[float] = []
    with bench.serve(world, settings={**COLD_OFF, "server.role": "api"}) as server:
        until_s = time.monotonic() + 2 * bench.options.seconds
        while len(rates) < ROUNDS_MAX and (len(rates) < 2 or time.monotonic() < until_s):
            bench.forget_pages()
            workload = OncePages(world.users, bench.checker("cold"))
            seconds = 1.0 if not rates else max(0.5, 1.5 * len(world.users) / rates[-1])
            before = server.workers[0].cpu_times()
            phase = bench.closed(
                server, "cold", f"round {len(rates) + 1}", workload, seconds=seconds,
                warm_up_s=0.0, repeat=False, **COLD_SHAPE,
            )  # fmt: skip
            after = server.workers[0].cpu_times()
            if workload.answered < len(world.users):
                bench.results.note("cold", f"{phase.name}: not everybody was answered")
            spent_s = after.user + after.system - before.user - before.system
            rates.append(workload.answered / workload.seconds)
            costs.append(1e6 * spent_s / workload.answered)
            slow.append(phase.ms(99))

        def again(seconds: float) -> None:
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                bench.forget_pages()
                workload = OncePages(world.users, bench.checker("cold"))
                _closed(bench, server, workload, len(world.users) / rates[-1], COLD_SHAPE)

        _layers(bench, server, "cold", again)
    values = bench.results.values
    values["cold.rate"] = statistics.median(rates)
    values["cold.core"] = 1e6 / statistics.median(costs)
    values["cold.p99_ms"] = statistics.median(slow)
    told = ", ".join(f"{rate:,.0f}" for rate in rates)
    bench.results.note(
        "cold",
        f"{len(rates)} rounds of {len(world.users):,} users: {told} loads/s;"
        f" {', '.join(f'{cost:.0f}' for cost in costs)} us of the worker's CPU a load",
    )


def fanout(bench: ClusterBench) -> None:
    """Posts of authors with 500 followers, already in Kafka, until all are in the tables."""
    world = bench.world(people_spec(bench))
    with pinned(bench.options.server_core):
        posts, deliveries, wall_s, cpu_s = asyncio.run(_deliver(bench, world))
    values = bench.results.values
    values["fanout.rate"] = deliveries / wall_s
    values["fanout.core"] = deliveries / cpu_s
    bench.results.note(
        "fanout",
        f"{posts:,} posts of authors with {world.ordinary[0][1]:,} followers: {deliveries:,} rows,"
        f" each at quorum, in {wall_s:.1f} s with {cpu_s:.1f} s of this process's CPU; on the"
        " server's core",
    )


async def _deliver(bench: ClusterBench, world: World) -> tuple[int, int, float, float]:
    """(posts, deliveries, seconds, seconds of CPU)."""
    store = await clusterworld.open_store(world.spec, bench.engines, bench.echo)
    try:
        clock = SystemClock()
        engine = compose_over(store, HotSettings(), clock, node=IMPORT_NODE)
        worker = engine.fanout
        while await worker.turn():  # joins the group, and does what others have left
            pass
        authors = [author for author, _, _ in world.ordinary]
        wanted = round(FANOUT_POSTS * bench.options.seconds * len(authors))
        posts = []
        for at in range(min(FANOUT_POSTS_MAX, max(len(authors), wanted))):
            content = encode_content(f"Post {at} of many.", (), 0)
            content_id = ids.make(clock.now_ms(), 0, IMPORT_NODE, at)
            author = authors[at % len(authors)]
            posts.append(NewPost(content_id, author, content, digest(content), 0, 1.0, ""))
        await store.posts.import_posts(posts)
        began_s, cpu_s = time.monotonic(), time.process_time()
        before = worker.stats.deliveries
        deliveries = await clusterworld.fan_out(store, worker, len(posts)) - before
        return len(posts), deliveries, time.monotonic() - began_s, time.process_time() - cpu_s
    finally:
        await store.close()


def _middle(
    bench: ClusterBench,
    server: Server,
    scenario: str,
    name: str,
    workload: FirstPages,
    shape: Shape,
) -> Phase:
    """The phase of the median rate, of several closed loops."""
    count = 1 if bench.options.tiny else ROUNDS
    phases = [bench.closed(server, scenario, name, workload, **shape) for _ in range(count)]
    return sorted(phases, key=lambda one: one.rate)[count // 2]


def _closed(
    bench: ClusterBench,
    server: Server,
    workload: FirstPages,
    seconds: float,
    shape: Shape,
) -> None:
    """Load that is not measured."""
    bench.closed(
        server, "layers", "", workload, seconds=seconds, warm_up_s=0.0, keep=False, repeat=False,
        **shape,
    )  # fmt: skip


def _layers(
    bench: ClusterBench, server: Server, scenario: str, load: Callable[[float], None]
) -> None:
    """Notes where the worker's time goes under that load."""
    if bench.options.tiny:
        return
    seconds = bench.options.seconds
    found = layers.sampled(server.workers[0].pid, seconds, lambda: load(LAYERS_TIMES * seconds))
    what = layers.told(found) or "unknown: py-spy is not installed, or may not look"
    bench.results.note(scenario, f"where the worker's time goes: {what}")


def _a_core(phase: Phase) -> float:
    """Calls that a core of the worker has time for, by its CPU a call."""
    cost_us = phase.series.cpu_us_a_call("worker 0")
    return 1e6 / cost_us if cost_us else 0.0


def _shared(bench: ClusterBench, scenario: str, phase: Phase) -> None:
    """How many of a phase's pages came from the shared cache."""
    answers = {
        name.partition("source=")[2].rstrip("}"): count
        for name, count in phase.tiers.items()
        if name.startswith("feed_answers{operation=GetFeed")
    }
    total = sum(answers.values()) or 1.0
    told = ", ".join(f"{name} {count / total:.1%}" for name, count in answers.items())
    bench.results.note(scenario, f"{phase.name}: pages were {told}")


def visible(bench: ClusterBench) -> None:
    """As in the embedded profile, with more posts: half the values are a p50 and a p99. In a new
    world: what earlier runs have posted ranks beside the posts that are looked for.
    """
    clusterworld.forget(people_spec(bench))
    longer = replace(bench.options, seconds=2 * bench.options.seconds)
    options, bench.options = bench.options, longer
    try:
        live.visible(bench)
    finally:
        bench.options = options


SCENARIOS: dict[str, Callable[[ClusterBench], None]] = {
    "hot": hot,
    "mixed": live.mixed,
    "warm": warm,
    "cold": cold,
    "visible": visible,
    "fanout": fanout,
}
