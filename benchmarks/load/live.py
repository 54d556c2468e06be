"""Scenarios with writes and bursts: mixed, visible, stampede, overload, soak, fanout.

Each starts its own server. The fan-out process runs on the server's core with everything else.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence

from feedcore_bench import methods
from feedcore_bench.drive import Bench, grown
from feedcore_bench.people import Crowd
from feedcore_bench.scenarios import (
    OFF,
    SHARE,
    WARM_SHAPE,
    pages,
    people_spec,
    settings,
    touch,
    window_spec,
)
from feedcore_bench.server import Server, pinned, publish
from feedcore_bench.workloads import Burst, FirstPages, People, Prober
from feedcore_bench.world import ROOT, World

GAP = 1_000  # sessions that rest between two calls of one: 50 ms at 20,000 calls/s
PROBERS = 4
VISIBLE_S_MIN = 2.0  # some posts are probed on the busiest machine, too
# What a closed loop has published is fanned out before a rate is offered: the longest that this may
# take, and for how long nothing must wait, as the server looks once a second.
CAUGHT_UP_S_MAX, QUIET_S = 60.0, 2.0
STAMPEDE_USERS = 10_000
BURST_STREAMS = 100  # of each connection: what servers allow by default
BURST_ROUNDS_MAX = 5  # of a phase's length each: refused callers come back after the hint
STAMPEDE_RATE = 100_000  # a second, that they come at: 10,000 within 0.1 s
DAY_STEPS = 12  # of two hours each, in the soak's compressed day
# Loads of two hours, UTC, relative to the busiest: quiet at night, busy in the evening.
DAY = (0.25, 0.15, 0.15, 0.35, 0.6, 0.65, 0.65, 0.65, 0.7, 0.9, 1.0, 0.65)
EVENT_AT, EVENT_TIMES = 8, 1.5  # a match is decided: everybody looks
RATE = re.compile(r"\| (burst|sustained)[^|]*\| ([\d,]+) deliveries/s")


def people(
    bench: Bench, world: World, scenario: str, probers: int = 0
) -> tuple[People, Prober | None]:
    """The crowd of a world, with probers if wanted."""
    checker = bench.checker(scenario)
    gap = min(GAP, max(1, len(world.activity) // 4))
    prober = None
    if probers:
        prober = Prober(world.ordinary, checker, bench.options.seed)
    crowd = Crowd(world.activity, bench.options.seed, checker)
    return People(crowd, checker, gap=gap, probers=probers, prober=prober), prober


def settle_in(bench: Bench, server: Server, scenario: str, world: World) -> None:
    """Everybody has loaded once before: a server that has been up for a day, not a minute."""
    users = world.activity
    workload = FirstPages(users, bench.checker(scenario), must_have_items=False)
    touch(bench, server, scenario, workload, len(users))


def mixed(bench: Bench) -> None:
    """People: the ceiling, then 80 % of it."""
    world = bench.world(people_spec(bench))
    values = bench.results.values
    with bench.serve(world) as server:
        settle_in(bench, server, "mixed", world)
        workload, _ = people(bench, world, "mixed")
        before = dict(server.counted)
        ceiling = bench.closed(server, "mixed", "ceiling", workload, **WARM_SHAPE)
        values["mixed.rate"] = ceiling.rate
        catch_up(bench, server, "mixed")
        phase = bench.open(server, "mixed", "80 %", workload, max(1.0, SHARE * ceiling.rate))
        bench.latency("mixed.p99_ms", phase, 99)
        _hit_rates(bench, before, server.counted)
        calls = {methods.NAMES[number]: count for number, count in sorted(workload.calls.items())}
        told = ", ".join(f"{name} {count:,}" for name, count in calls.items())
        bench.results.note("mixed", f"{workload.sessions:,} sessions: {told}")
        _fan_out_note(bench, "mixed", server)


def _hit_rates(bench: Bench, before: dict[str, float], after: dict[str, float]) -> None:
    """Shares of page loads, as the server counts them."""
    answers = "feedcore_feed_answers_total"
    pages = 'operation="GetFeed"'
    loads = grown(before, after, answers, pages)
    if not loads:
        bench.results.note("mixed", "this server does not count where its pages come from")
        return
    values = bench.results.values
    values["mixed.page_hits"] = (
        100 * grown(before, after, answers, pages, 'source="cached"') / loads
    )
    fast = grown(before, after, "feedcore_fast_calls_total", pages)
    values["mixed.fast"] = 100 * fast / loads


def _jobs(found: dict[str, float]) -> float:
    return sum(value for name, value in found.items() if name.startswith("feedcore_fanout_jobs"))


def catch_up(bench: Bench, server: Server, scenario: str) -> None:
    """Waits until nothing waits for fan-out."""
    began = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_S:
        if time.monotonic() - began > CAUGHT_UP_S_MAX:
            bench.results.note(scenario, f"fan-out was not done after {CAUGHT_UP_S_MAX:g} s")
            return
        time.sleep(0.25)
        if _jobs(server.metrics()):
            quiet_since = time.monotonic()
    took_s = time.monotonic() - began - QUIET_S
    bench.results.note(scenario, f"fan-out was done {max(took_s, 0.0):.1f} s after the ceiling")


def _fan_out_note(bench: Bench, scenario: str, server: Server) -> None:
    found = server.metrics()
    jobs = _jobs(found)
    backlog = found.get("feedcore_merge_backlog_deliveries", 0.0)
    delivered = found.get("feedcore_fanout_deliveries_total", 0.0)
    bench.results.note(
        scenario,
        f"fan-out, on the server's core too: {delivered:,.0f} deliveries; at the end {jobs:,.0f}"
        f" jobs and {backlog:,.0f} unmerged deliveries waited",
    )


def visible(bench: Bench) -> None:
    """From Publish to a follower's page, while the crowd loads at half of the ceiling."""
    world = bench.world(people_spec(bench))
    values = bench.results.values
    if not world.ordinary:
        raise RuntimeError("this world has no author with about 500 followers")
    with bench.serve(world) as server:
        settle_in(bench, server, "visible", world)
        rate = values.get("mixed.rate")
        if rate is None:
            workload, _ = people(bench, world, "visible")
            rate = bench.closed(server, "visible", "ceiling", workload, **WARM_SHAPE).rate
        catch_up(bench, server, "visible")
        workload, prober = people(bench, world, "visible", PROBERS)
        assert prober is not None
        seconds = max(VISIBLE_S_MIN, bench.options.seconds)
        half = max(1.0, rate / 2)
        bench.open(
            server, "visible", "mixed at half", workload, half, seconds=seconds, repeat=False
        )
        took = sorted(prober.took_ms)
        if not took:
            raise RuntimeError("no post was seen")
        p50, p99 = (took[min(len(took) - 1, int(len(took) * part))] for part in (0.5, 0.99))
        values["visible.p99_ms"] = p99
        fans = sorted(count for _, count, _ in world.ordinary)
        bench.results.note(
            "visible",
            f"{len(took):,} posts of authors with {fans[0]:,} to {fans[-1]:,} followers, each"
            f" looked for in a follower's page: p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
            f" most {took[-1]:.1f} ms, from the moment Publish was due",
        )
        _fan_out_note(bench, "visible", server)


def stampede(bench: Bench) -> None:
    """A celebrity posts; its followers load at once with cold caches, and once more warm."""
    world = bench.world(people_spec(bench))
    if world.celebrity is None:
        raise RuntimeError("this world has no celebrity")
    author, count, followers = world.celebrity
    followers = followers[:STAMPEDE_USERS]
    within_s = len(followers) / STAMPEDE_RATE
    values = bench.results.values
    # warm is generated from the resident set here, too: a cached page would be no measure
    with bench.serve(world, settings=settings(bench, "stampede", dict(OFF))) as server:
        content_id = publish(server, author, "It is decided: we play again in spring.")
        p99 = []
        shown: set[int] = set()
        for name in ("cold", "warm"):
            workload = Burst(followers, within_s, bench.checker("stampede"), shown)
            before = dict(server.counted)
            _burst(bench, server, name, workload)
            took = sorted(workload.took_ms)
            p99.append(took[min(len(took) - 1, int(len(took) * 0.99))])
            bench.results.note(
                "stampede",
                f"{name}: p50 {took[len(took) // 2]:,.0f} ms, p99 {p99[-1]:,.0f} ms, most"
                f" {took[-1]:,.0f} ms; {workload.shed:,} times somebody was told to come back"
                " later, and did",
            )
            if name == "cold":
                _fetches(bench, before, server.counted, len(shown))
    values["stampede.p99_ms"] = p99[0]
    values["stampede.times_warm"] = p99[0] / max(p99[1], 0.001)
    bench.results.note(
        "stampede",
        f"author {author} with {count:,} followers published {content_id}; {len(followers):,} of"
        f" them loaded within {within_s:g} s; the server had just started",
    )


def _burst(bench: Bench, server: Server, name: str, workload: Burst) -> None:
    """Runs until everybody has the page."""
    for _ in range(BURST_ROUNDS_MAX):
        bench.closed(
            server,
            "stampede",
            name,
            workload,
            seconds=max(2.0, bench.options.seconds),
            streams=BURST_STREAMS,
            warm_up_s=0.0,
            repeat=False,
        )
        if workload.over:
            return
    raise RuntimeError(f"{name}: not everybody had a page")


def _fetches(bench: Bench, before: dict[str, float], after: dict[str, float], shown: int) -> None:
    """How often contents were loaded, against how many different ones were shown."""
    loads = "feedcore_loads_total"
    loaded = grown(before, after, loads, 'kind="contents"', 'what="loaded"')
    joined = grown(before, after, loads, 'kind="contents"', 'what="joined"')
    if loaded >= shown > 0:  # else some were loaded in ways that the server does not count
        bench.results.values["stampede.fetches"] = loaded / shown
    bench.results.note(
        "stampede",
        f"cold: {shown:,} different items shown, {loaded:,.0f} contents loaded, as far as the"
        f" server counts them; {joined:,.0f} times one was asked for while it was being loaded",
    )


def overload(bench: Bench) -> None:
    """Twice the ceiling, for as long as a phase lasts."""
    world = bench.world(window_spec(bench))
    values = bench.results.values
    with bench.serve(world, settings=settings(bench, "overload", dict(OFF))) as server:
        workload = pages(bench, "overload", world.users)
        touch(bench, server, "overload", workload, len(world.users))
        ceiling = bench.closed(server, "overload", "ceiling", workload, **WARM_SHAPE)
        flood = FirstPages(world.users, bench.checker("overload"))
        flood.over_offered = True
        rate = 2 * max(1.0, ceiling.rate)
        phase = bench.open(server, "overload", "2x", flood, rate)
        values["overload.goodput"] = phase.in_time / max(ceiling.rate, 1.0)
        values["overload.p99_ms"] = phase.ms(99)
        bench.results.note(
            "overload",
            f"{flood.shed:,} calls were refused with RESOURCE_EXHAUSTED and a retry hint; one"
            " without a hint would be a wrong answer",
        )


def soak(bench: Bench) -> None:
    """People through compressed days with an event, at half of the ceiling at the busiest hour."""
    world = bench.world(people_spec(bench))
    options = bench.options
    with bench.serve(world) as server:
        settle_in(bench, server, "soak", world)
        workload, _ = people(bench, world, "soak")
        rate = bench.results.values.get("mixed.rate")
        if rate is None:
            rate = bench.closed(server, "soak", "ceiling", workload, **WARM_SHAPE).rate
        steps = day(rate / 2, options.soak_s)
        phase = bench.open(server, "soak", "a day", workload, rate / 2, steps=steps, repeat=False)
        rss = phase.series.rss.get("worker 0", [])
        if len(rss) >= 4:
            half = rss[len(rss) // 2]
            bench.results.values["soak.growth"] = 100 * (rss[-1] - half) / half
            bench.results.note(
                "soak",
                f"{options.soak_s:.0f} s: RSS of the worker {rss[0] / 1e6:,.0f} MB at first,"
                f" {half / 1e6:,.0f} MB at half time, {rss[-1] / 1e6:,.0f} MB at the end (mapped"
                " files count)",
            )
        _fan_out_note(bench, "soak", server)


def day(busiest: float, seconds: float) -> list[tuple[float, float]]:
    """(seconds, rate) of a day in `seconds`, with an event."""
    each = seconds / DAY_STEPS
    rates = [busiest * share for share in DAY]
    rates[EVENT_AT] *= EVENT_TIMES
    return [(each, max(1.0, rate)) for rate in rates]


def fanout(bench: Bench) -> None:
    """Writes only, inside the engine: benchmarks/micro/bench_fanout.py on the server's core."""
    command = [sys.executable, "-m", "benchmarks.micro.bench_fanout"]
    command += _fanout_size(bench)
    with pinned(bench.options.server_core):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"bench_fanout: {done.stderr.strip().splitlines()[-1]}")
    found = dict(RATE.findall(done.stdout))
    if set(found) != {"burst", "sustained"}:
        raise RuntimeError(f"no rates in: {done.stdout[-500:]}")
    for name, rate in found.items():
        bench.results.values[f"fanout.{name}"] = float(rate.replace(",", ""))
    for line in done.stdout.splitlines():
        if line.startswith("| ") and "---" not in line and "what | measured" not in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            bench.results.note("fanout", f"{cells[0]}: {cells[1]}")


def _fanout_size(bench: Bench) -> Sequence[str]:
    if bench.options.full:
        return ()
    bench.results.note("fanout", "small: 50 followers a post, a burst of 200 posts")
    return "--small", "--seconds", f"{min(2.0, bench.options.seconds):g}"
