"""Scenarios on pages: hot, warm, cold, size, workers, memory; and the generator's own ceiling.

Each starts its own server, finds the ceiling in a closed loop, then offers a rate in an open one.
(People and bursts: live.)

Not for how a phase is driven (drive) or what is wanted of it (goals).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping

from feedcore_bench import ceiling as ceilings
from feedcore_bench.drive import Bench, Shape
from feedcore_bench.results import Phase
from feedcore_bench.server import Server, publish
from feedcore_bench.workloads import FirstPages
from feedcore_bench.world import PEOPLE, SIZES, WINDOWS, Spec, World

SHARE = 0.8  # of the ceiling: where latency is taken
HOT_USERS = 1_000  # repeated: their pages fit any cache
HOT_RATE = 50_000
HOT_CONNECTIONS, HOT_STREAMS = 8, 32
MERGING_POSTS = 400  # of authors with about 500 followers: 200,000 deliveries
MERGING_S = 60.0  # twice the time without deliveries after which days are compacted
AIO_CONNECTIONS, AIO_STREAMS = 8, 8  # grpc.aio gains nothing from more
AIO_SECONDS_MAX = 5.0
# Calls in flight of a closed loop: enough to keep a worker busy, less work than it would refuse.
WARM_SHAPE: Shape = {"connections": 8, "streams": 8}
COLD_SHAPE: Shape = {"connections": 8, "streams": 4}
OFF = {"cache__pages_mb": 0}
ALL_OFF = {"cache__pages_mb": 0, "cache__resident_mb": 0}
NO_SETTING = "this server has no setting {}: what it caches by default stays on"
SIZE_SCALE = 0.04  # followers of the worlds of different sizes: the mean is 20, in all of them
SIZE_USERS = 20_000  # at most so many of them load


def people_spec(bench: Bench) -> Spec:
    """The world of people of this run."""
    options = bench.options
    return Spec(
        PEOPLE, options.users, options.seed, options.scale, options.posts_per_user, options.graph
    )


def window_spec(bench: Bench) -> Spec:
    """The world of windows of this run."""
    return Spec(WINDOWS, bench.options.window_users, bench.options.seed)


def settings(bench: Bench, scenario: str, wanted: Mapping[str, object]) -> dict[str, object]:
    """Those that the server has; says which it has not."""
    for key in wanted:
        if not bench.has(key.replace("__", ".")):
            bench.results.note(scenario, NO_SETTING.format(key.replace("__", ".")))
    return bench.known(**wanted)


def pages(bench: Bench, scenario: str, users: list[int]) -> FirstPages:
    """First pages of these users in turn, in an order of the seed."""
    order = list(users)
    random.Random(f"{bench.options.seed} {scenario}").shuffle(order)
    return FirstPages(order, bench.checker(scenario))


def touch(bench: Bench, server: Server, scenario: str, workload: FirstPages, users: int) -> Phase:
    """Loads every user once, uncounted: what can be resident is."""

    def load_for(seconds: float) -> Phase:
        return bench.closed(
            server,
            scenario,
            "first loads",
            workload,
            seconds=seconds,
            connections=4,
            streams=4,
            warm_up_s=0.0,
            keep=False,
        )

    phase = load_for(0.5)
    while workload.rounds < 1.0:
        left = (1.0 - workload.rounds) * users
        phase = load_for(min(20.0, max(0.5, left / max(phase.rate, 100.0) * 1.1)))
    bench.settle(server)
    return phase


def ceiling_and_share(
    bench: Bench, server: Server, scenario: str, workload: FirstPages, shape: Shape
) -> None:
    """The closed loop, then the open one at 80 % of it; both into the values."""
    ceiling = bench.closed(server, scenario, "ceiling", workload, **shape)
    bench.results.values[f"{scenario}.rate"] = ceiling.rate
    phase = bench.open(server, scenario, "80 %", workload, max(1.0, SHARE * ceiling.rate))
    bench.latency(f"{scenario}.p99_ms", phase, 99)


def hot(bench: Bench) -> None:
    """Pages cached: the most active users again and again; and the same on grpc.aio."""
    world = bench.world(people_spec(bench))
    users = world.activity[: min(HOT_USERS, len(world.activity))]
    values = bench.results.values
    with bench.serve(world) as server:
        workload = pages(bench, "hot", users)
        touch(bench, server, "hot", workload, len(users))
        shape: Shape = {"connections": HOT_CONNECTIONS, "streams": HOT_STREAMS}
        ceiling = bench.closed(server, "hot", "ceiling", workload, **shape)
        values["hot.rate"] = ceiling.rate
        rate = min(HOT_RATE, ceiling.rate / 4) if bench.options.tiny else HOT_RATE
        workload.over_offered = ceiling.rate < rate
        phase = bench.open(server, "hot", f"{rate:,.0f}/s", workload, rate)
        if workload.over_offered:
            bench.results.note("hot", f"{rate:,.0f}/s is more than this server's ceiling")
        merging = _merging(bench, server, world, workload, rate)
        if rate == HOT_RATE:
            bench.latency("hot.p50_ms", phase, 50)
            bench.latency("hot.p99_ms", phase, 99)
            bench.latency("hot.merging_p99_ms", merging, 99)
            worst_us = max((p99_us for *_, p99_us, _ in merging.each_second), default=0.0)
            values["hot.merging_worst_ms"] = worst_us / 1_000
    with bench.serve(world, settings={"server.transport": "grpcio"}) as server:
        aio = bench.closed(
            server,
            "hot",
            "grpc.aio",
            pages(bench, "hot", users),
            connections=AIO_CONNECTIONS,
            streams=AIO_STREAMS,
            seconds=min(AIO_SECONDS_MAX, bench.options.seconds),
        )
    values["hot.times_aio"] = ceiling.rate / max(aio.rate, 1.0)


def _merging(
    bench: Bench, server: Server, world: World, workload: FirstPages, rate: float
) -> Phase:
    """The hot rate once more, for long enough that what was just published is fanned out, merged,
    and compacted when no more comes.
    """
    tiny, deliveries = bench.options.tiny, 0
    for number in range(MERGING_POSTS // 20 if tiny else MERGING_POSTS):
        author, followers, _ = world.ordinary[number % len(world.ordinary)]
        publish(server, author, f"number {number}")
        deliveries += followers
    name = f"{rate:,.0f}/s, merging"
    bench.results.note("hot", f"{name}: {deliveries:,} deliveries were published before it")
    seconds = bench.options.seconds if tiny else MERGING_S
    return bench.open(server, "hot", name, workload, rate, seconds=seconds, repeat=False)


def warm(bench: Bench) -> None:
    """No page is cached; every one is generated from what is resident."""
    world = bench.world(window_spec(bench))
    with bench.serve(world, settings=settings(bench, "warm", dict(OFF))) as server:
        workload = pages(bench, "warm", world.users)
        touch(bench, server, "warm", workload, len(world.users))
        ceiling_and_share(bench, server, "warm", workload, WARM_SHAPE)


def cold(bench: Bench) -> None:
    """Nothing is resident: every load reads the store (the system's page cache has the files)."""
    world = bench.world(window_spec(bench))
    with bench.serve(world, settings=settings(bench, "cold", dict(ALL_OFF))) as server:
        workload = pages(bench, "cold", world.users)
        ceiling_and_share(bench, server, "cold", workload, COLD_SHAPE)


def memory(bench: Bench) -> None:
    """What an active user costs in the worker, then what a cached page adds."""
    world = bench.world(window_spec(bench))
    values = bench.results.values
    first, rest = world.users[: len(world.users) // 4], world.users[len(world.users) // 4 :]
    each: dict[str, float] = {}
    for name, wanted in (("windows", dict(OFF)), ("pages", {})):
        with bench.serve(world, settings=settings(bench, "memory", wanted)) as server:
            # the first quarter brings in what all share: contents, timelines, code
            touch(bench, server, "memory", pages(bench, "memory", first), len(first))
            before = server.resident()
            touch(bench, server, "memory", pages(bench, "memory", rest), len(rest))
            after = server.resident()
            held = server.counted
        each[name] = (after[1] - before[1]) / len(rest)
        _held(bench, name, held)
        mapped = (after[0] - after[1] - before[0] + before[1]) / len(rest)
        bench.results.note(
            "memory",
            f"with {name} cached: {each[name]:,.0f} bytes of anonymous memory a user over"
            f" {len(rest):,} users, and {mapped:,.0f} bytes of mapped run files, which the system"
            " may take back",
        )
    if bench.has("cache.resident_mb"):
        values["memory.user_kb"] = each["windows"] / 1_024
    bench.results.note(
        "memory",
        f"a page, by what the worker grew: {each['pages'] - each['windows']:,.0f} bytes",
    )


def _held(bench: Bench, name: str, held: dict[str, float]) -> None:
    """What the server says it keeps, by kind."""
    parts = []
    for kind in ("viewers", "timelines", "contents", "pages"):
        bytes_kept = held.get(f'feedcore_cache_bytes{{kind="{kind}"}}', 0.0)
        count = held.get(f'feedcore_cache_entries{{kind="{kind}"}}', 0.0)
        if count:
            parts.append(f"{count:,.0f} {kind} of {bytes_kept / count:,.0f} bytes")
            if kind == "pages":
                bench.results.values["memory.page_bytes"] = bytes_kept / count
    if parts:
        bench.results.note("memory", f"with {name} cached the worker counts {', '.join(parts)}")


def workers(bench: Bench) -> None:
    """The same load on one worker and on two."""
    world = bench.world(window_spec(bench))
    options = bench.options
    rates = []
    for count in (1, 2):
        wanted = settings(bench, "workers", dict(OFF))
        cores = (options.server_core, options.load_core)[:count]
        with bench.serve(world, settings=wanted, workers=count, cores=cores) as server:
            workload = pages(bench, "workers", world.users)
            touch(bench, server, "workers", workload, len(world.users))
            name = f"{count} worker{'s' * (count > 1)}"
            rates.append(bench.closed(server, "workers", name, workload, **WARM_SHAPE).rate)
    bench.results.values["workers.times"] = rates[1] / max(rates[0], 1.0)
    bench.results.note("workers", "the second worker shares its core with the load generator")


def size_spec(users: int, seed: int) -> Spec:
    """A world of that many users, of one shape for all sizes."""
    return Spec(SIZES, users, seed, SIZE_SCALE)


def size(bench: Bench) -> None:
    """Loads a second and memory against the number of users."""
    for users in bench.options.sizes:
        world = bench.world(size_spec(users, bench.options.seed))
        _one_size(bench, world, users)


def _one_size(bench: Bench, world: World, users: int) -> None:
    active = world.activity[:SIZE_USERS]
    with bench.serve(world, settings=settings(bench, "size", dict(OFF))) as server:
        workload = FirstPages(active, bench.checker("size"), must_have_items=False)
        touch(bench, server, "size", workload, len(active))
        phase = bench.closed(server, "size", f"{users:,} users", workload, **WARM_SHAPE)
        total, anonymous = server.resident()
    bench.results.values[f"size.{users}.rate"] = phase.rate
    bench.results.values[f"size.{users}.rss_mb"] = total / 1e6
    bench.results.note(
        "size",
        f"{users:,} users ({world.edges:,} follows, {world.posts:,} posts, made in"
        f" {world.seconds:.0f} s): {phase.rate:,.0f} loads/s by {len(active):,} of them; resident"
        f" {total / 1e6:,.0f} MB, of which {anonymous / 1e6:,.0f} MB anonymous",
    )


def ceiling(bench: Bench) -> None:
    """What the generator can offer, beside h2load, on nghttpd with pages of 2.5 KB."""
    options = bench.options
    if missing := ceilings.lacking():
        bench.echo(f"ceiling: SKIPPED, {missing}")
        bench.results.note("ceiling", f"skipped: {missing}")
        return
    rounds, seconds = (5, 2.0) if options.full else (1, min(1.0, options.seconds))
    size_bytes = ceilings.SIZES[0]
    samples = ceilings.measure(
        rounds, seconds, options.server_core, options.load_core, [size_bytes]
    )
    values = bench.results.values
    mine = [one for one in samples if one.driver == ceilings.PYTHON]
    peers = {one.round: one.calls_s for one in samples if one.driver == ceilings.H2LOAD}
    values["ceiling.rate"] = statistics.median(one.calls_s for one in mine)
    values["ceiling.times_h2load"] = statistics.median(
        one.calls_s / peers[one.round] for one in mine
    )
    costs = [one.cpu_us for one in mine if one.cpu_us]
    if costs:
        values["ceiling.core"] = 1e6 / statistics.median(costs)
    for line in ceilings.table(samples).splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        bench.results.note(
            "ceiling",
            f"{cells[1]}, {cells[0]}: {cells[2]} calls/s, {cells[4] or '-'} of CPU a call",
        )
